"""Next item with a wish: "more rose, no citrus", in the words of Term IDs.

A wish is true by construction: the answer has the first term and lacks the second.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.tasks.examples import Example, Source, Span, shown_item
from grlm_hf.tasks.prompts import steered_request
from grlm_hf.tasks.task import Task

_LAST = 3  # newest items whose terms a wish may exclude


def steered(catalog: Catalog, histories: Iterable[History], max_history: int, history: str = "term_ids", seed: int = 0) -> Iterator[Source]:
    """History and a wish → the user's last item. Each variant draws another wish, by `seed`.

    The user turn holds the whole history, and the wish below it.
    """
    for h in histories:

        def make(items: tuple[str, ...], variant: int, user: str = h.user_id) -> Example | str:
            if len(items) < 2:
                return "one item only"
            *before, target = map(catalog.term_id, items)
            more, no = wish(before, target, random.Random(f"{seed} {user} {variant}"))
            shown = [shown_item(catalog, i, history) for i in items[:-1]]
            return Example("steered", user, steered_request(shown, more, no), (Span(catalog.scheme.line(target), "identifiers"),))

        yield Source(h.user_id, make, h.items[-(max_history + 1) :], 2)


def wish(before: Sequence[Identifier], target: Identifier, rng: random.Random) -> tuple[list[str], list[str]]:
    """Terms to have more of, and terms to exclude: at most one each.

    More: a term of the target, preferably one that the last item lacks. No: a term of the last three items that the target lacks, if
    there is one.
    """
    new = [t for t in dict.fromkeys(target) if t not in before[-1]]
    old = [t for t in dict.fromkeys(t for tid in before[-_LAST:] for t in tid) if t not in target]
    return [rng.choice(new or target)], [rng.choice(old)] if old else []


STEERED = Task(
    "steered",
    'a history and a wish ("more rose, no citrus") → the user\'s last item.',
    lambda given: steered(given.catalog, given.histories, given.prompts.max_history, given.prompts.history, given.seed),
)
