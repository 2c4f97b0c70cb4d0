"""The tasks of histories: the next item after some items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.examples import Example, Source, next_item
from grlm_hf.tasks.task import Inputs, Task


def sequences(
    catalog: Catalog, histories: Iterable[History], max_history: int, history: str = "term_ids", evidence: Evidence | None = None
) -> Iterator[Source]:
    """Behaviour sequence prediction (GRLM's BSP): one example a user, every item after the first supervised.

    The last ``max_history + 1`` items are used: those that a prompt shows, and the answer. Users with one item give no example. In a
    history of titles only the last item has an identifier to supervise; and under `evidence`, which the items before it are a part of.
    """

    for h in histories:

        def make(items: tuple[str, ...], _variant: int, h: History = h) -> Example | str:
            if len(items) < 2:
                return "one item only"
            lines = evidence.lines(catalog, h.items[:-1], h.user_id) if evidence else ()
            return next_item(catalog, "sequence", h.user_id, items, history, evidence is not None, lines)

        yield Source(h.user_id, make, h.items[-(max_history + 1) :], 2)


def sliding(
    catalog: Catalog, histories: Iterable[History], window: int, stride: int, per_user: int, history: str = "term_ids",
    evidence: Evidence | None = None,
) -> Iterator[Source]:  # fmt: skip
    """History → next item: the last item of a history, the one `stride` before it, and so on, each after at most `window` items.

    Args:
        per_user: windows of a user at most; the newest are kept.
    """
    for h in histories:
        answers = range(len(h.items) - 1, 0, -stride)[:per_user]
        for at in reversed(answers):

            def make(items: tuple[str, ...], _variant: int, h: History = h, at: int = at) -> Example:
                lines = evidence.lines(catalog, h.items[:at], h.user_id) if evidence else ()
                return next_item(catalog, "sliding", h.user_id, items, history, last_only=True, evidence=lines)

            yield Source(h.user_id, make, h.items[max(0, at - window) : at + 1], 2)


def _windows(given: Inputs) -> Iterator[Source]:
    s, shown = given.settings, given.prompts
    window = min(s.window, shown.max_history)
    return sliding(given.catalog, given.histories, window, s.stride, s.windows_per_user, shown.history, given.evidence)


SEQUENCE = Task(
    "sequence",
    'a user\'s history → all items after the first, in one example. With history "titles", or evidence: the last item alone.',
    lambda given: sequences(given.catalog, given.histories, given.prompts.max_history, given.prompts.history, given.evidence),
    weight=1.0,
    continues=True,
)
SLIDING = Task(
    "sliding",
    "the last items up to some point of a history → the next one; see `window`, `stride`, `windows_per_user`.",
    _windows,
    continues=True,
)
