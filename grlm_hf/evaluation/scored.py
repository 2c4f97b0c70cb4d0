"""A recommender without a language model as a method: the catalog ranked by its scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.evaluation.rankings import Method, Rankings
from grlm_hf.priors.scores import Scorer

_CELLS = 2**26  # scores held at once: 256 MB


def scored(scorer: Scorer, catalog: Catalog, exclude_seen: bool, depth: int = DEPTH) -> Method:
    """Ranks the catalog by a scorer, up to `depth` items, ties in ascending order of item_id. Items unknown to the scorer come last."""
    ids = sorted(i.item_id for i in catalog)
    position = {item: p for p, item in enumerate(ids)}
    row_of = {item: r for r, item in enumerate(scorer.item_ids)}
    columns = np.array([row_of.get(item, -1) for item in ids])
    rows = max(1, _CELLS // max(1, len(scorer.item_ids)))

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        candidate = np.array([domain in (None, catalog[item].domain) for item in ids])
        items = []
        for start in range(0, len(histories), rows):
            some = histories[start : start + rows]
            for row, history in zip(scorer.scores(some), some, strict=True):
                score = np.where(columns >= 0, row[columns], -np.inf)
                legal = candidate.copy()
                if exclude_seen:
                    legal[[position[i] for i in history if i in position]] = False
                among = np.flatnonzero(legal)
                if len(among) > depth:
                    among = among[score[among] >= np.partition(score[among], -depth)[-depth]]
                items.append([ids[p] for p in among[np.argsort(-score[among], kind="stable")][:depth]])
        return Rankings(items)

    return method
