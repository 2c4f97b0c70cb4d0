"""How likely given items are after given histories: the pointwise question of TALLRec (Bao et al., 2023), and what a second stage reorders
candidates by. It is a search among the given items alone, wide enough to keep all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grlm_hf.decoding.rules import Rules, SearchOptions
from grlm_hf.modeling.results import as_histories


def score(grlm: Any, histories: Any, items: Any, batch_size: int) -> np.ndarray:
    """See `GRLMForRecommendation.score`; `grlm` is one. A history that is given several times is computed once."""
    shown, single = as_histories(histories)
    if isinstance(items, str):
        raise ValueError(f"items is the string {items!r}; expected a list of item ids, such as [{items!r}].")
    items = list(items)
    each = not single and all(isinstance(one, str) for one in items)
    rows = [items] if single else [[one] for one in items] if each else [list(one) for one in items]
    if len(rows) != len(shown):
        raise ValueError(f"Found {len(shown)} histories and items for {len(rows)}; expected one item, or one list of items, a history.")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"The lists of items have {sorted({len(row) for row in rows})} ids; expected lists of one length.")
    grlm = grlm.branch()  # one version of the catalog for all batches
    wanted: dict[tuple[str, ...], dict[str, float]] = {}
    for history, row in zip(shown, rows, strict=True):
        wanted.setdefault(tuple(history), {}).update(dict.fromkeys(row, -np.inf))
    asked = [history for history, found in wanted.items() if found]
    for start in range(0, len(asked), batch_size):
        _fill(grlm, {history: wanted[history] for history in asked[start : start + batch_size]})
    found = np.array([[wanted[tuple(history)][item] for item in row] for history, row in zip(shown, rows, strict=True)], np.float64)
    return found[0] if single else found[:, 0] if each and rows else found


def _fill(grlm: Any, wanted: Mapping[Sequence[str], dict[str, float]]) -> None:
    """Sets the log-probabilities of the items of each history; an item that the search does not find has probability 0."""
    catalog = grlm.catalog
    if grlm.config.language_model:
        among = np.zeros((len(wanted), len(catalog)))
        for row, items in zip(among, wanted.values(), strict=True):
            row[[catalog.position(item) for item in items]] = 1.0  # log 1 adds nothing, log 0 forbids
        k, rules = max(map(len, wanted.values())), Rules(prior=among, exclude_seen=False)
    else:
        union = list(dict.fromkeys(item for items in wanted.values() for item in items))
        k, rules = len(union), Rules(allow=union, exclude_seen=False)
    found = grlm.recommend([list(h) for h in wanted], k, rules=rules, search=SearchOptions(edge_wise=True), batch_size=len(wanted))
    for items, answer in zip(wanted.values(), found, strict=True):
        items.update({r.item_id: r.log_prob for r in answer if r.item_id in items})
