"""Methods of the user's own in a report: a function that learns from the training histories and returns what ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.evaluation.rankings import Method, Rankings
from grlm_hf.evaluation.scored import scored
from grlm_hf.plugins import Plugin


def learnt(plugin: Plugin, histories: Sequence[History], catalog: Catalog, seed: int) -> Any:
    """Calls ``FUNCTION(histories, catalog)``, with ``seed=`` where it has this parameter.

    Args:
        histories: the training events, a `History` (`user_id`, `items`) a user.
        catalog: the items to rank; ``catalog[item_id]`` is an `Item` with its texts.

    Returns:
        A function, or a `grlm_hf.priors.scores.Scorer`, for `own_method`.
    """
    found = plugin(list(histories), catalog, seed=seed)
    if not callable(found) and not (hasattr(found, "scores") and hasattr(found, "item_ids")):
        raise plugin.wrong(type(found).__name__, "a function of a list of histories, or a Scorer")
    return found


def own_method(plugin: Plugin, found: Any, catalog: Catalog, exclude_seen: bool, depth: int = DEPTH) -> Method:
    """What `learnt` returned, as a method.

    A function is called with a list of histories (tuples of item ids, oldest first), and returns for each the ids of items, best first.
    Items of the history and of other domains are left out here, and rankings are cut; so it ranks all items, or some more than `depth`.
    """
    if hasattr(found, "scores"):
        return plugin.guarded(scored(found, catalog, exclude_seen, depth))
    rank = plugin.guarded(lambda histories: [one if isinstance(one, str) else list(map(str, one)) for one in found(histories)])

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        answers = rank([tuple(history) for history in histories])
        items = []
        if len(answers) != len(histories):
            raise plugin.wrong(f"{len(answers)} rankings for {len(histories)} histories", "one for each history")
        if any(isinstance(answer, str) for answer in answers):
            raise plugin.wrong("item ids", "a list of item ids for each history")
        for history, answer in zip(histories, answers, strict=True):
            if unknown := next((item for item in answer if item not in catalog), None):
                raise plugin.wrong(f"the item {unknown!r}, which the catalog lacks", "item ids of the catalog")
            left_out = set(history) if exclude_seen else set()
            legal = (item for item in answer if item not in left_out and domain in (None, catalog[item].domain))
            items.append([item for item, _ in zip(legal, range(depth), strict=False)])
        return Rankings(items)

    return method
