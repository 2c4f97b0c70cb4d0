"""Neighbours that several recommenders found, as one list an item."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grlm_hf.indexing.neighbors import Neighbors

_RANK = 60  # of the paper: with it, what two find in the middle stands above what one finds first


def fuse_neighbors(found: Mapping[str, Neighbors], k: int = 5) -> Neighbors:
    """Each item's `k` best neighbours by reciprocal rank fusion, Σ 1 / (60 + rank) (Cormack, Clarke and Büttcher 2009), whose scores need
    no common scale; equal ones in the order of the items. Let each recommender find more than `k`. Raises `ValueError` for none, neighbours
    of different items or in another order, or `k` < 1."""
    if not found or k < 1:
        raise ValueError(f"Found {len(found)} lists of neighbours and k={k}; expected at least one of each.")
    lists = list(found.values())
    ids = lists[0].item_ids
    if any(other.item_ids != ids for other in lists):
        raise ValueError(f"The neighbours of {list(found)} are of different items, or in another order. Find them for the same catalog.")
    indices = np.full((len(ids), k), -1, np.int32)
    scores = np.full((len(ids), k), -np.inf, np.float32)
    for row in range(len(ids)):
        total: dict[int, float] = {}
        for neighbors in lists:
            for rank, other in enumerate(neighbors.of(row), 1):
                total[other] = total.get(other, 0.0) + 1 / (_RANK + rank)
        best = sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
        indices[row, : len(best)] = [other for other, _ in best]
        scores[row, : len(best)] = [score for _, score in best]
    facts = {"n_items": len(ids), "k": k, "embedder": " + ".join(found), "of": {name: dict(n.facts) for name, n in found.items()}}
    return Neighbors(item_ids=ids, indices=indices, scores=scores, facts=facts)
