"""From scores of identifiers or items to `Recommendations`."""

from __future__ import annotations

import numpy as np

from grlm_hf.decoding.index import RankedItem, ScoreAdjustment, SearchIndex
from grlm_hf.decoding.search import Found
from grlm_hf.modeling.results import Recommendation, Recommendations


def ranked(index: SearchIndex, found: Found, k: int, adjustment: ScoreAdjustment, length_penalty: float) -> Recommendations:
    """The best items of what a search found."""
    score = found.log_prob
    if length_penalty:
        score = score / index.walker.length(index.trie.rank[found.leaf]).astype(np.float64) ** length_penalty
    best = index.items(found.leaf, score, adjustment)[:k]
    items = (recommendation(index, r, float(found.log_prob[r.row])) for r in best)
    return Recommendations(items, found.certified, found.gap, found.forwards, index.version)


def by_adjustment(
    index: SearchIndex,
    score: np.ndarray,
    k: int,
    adjustment: ScoreAdjustment,
    by: str,
    masks_only: bool = False,
    ties: np.ndarray | None = None,
    alone: bool = False,
) -> Recommendations:
    """The best items by `score`, float64 [n_items], and the adjustment, or of it only what is forbidden. In a tie, the larger value of
    `ties`, float64 [n_items], is first; then the order of the catalog decides. Their log-probability is that sum; with `alone` it is
    `score`."""
    log_prob = score
    if masks_only and adjustment.by_item is not None:
        score = np.where(adjustment.by_item == -np.inf, -np.inf, score)
    elif not masks_only:
        score = adjustment.joined(score)
    among = np.flatnonzero(score >= np.partition(score, -k)[-k])  # those that can be among the first
    best_first = among[np.lexsort((np.zeros(len(among)) if ties is None else -ties[among], -score[among]))]  # stable
    order = [int(p) for p in best_first[:k] if score[p] > -np.inf]
    log_prob = log_prob if alone else score
    items = (recommendation(index, RankedItem(p, float(score[p]), 0), float(log_prob[p])) for p in order)
    return Recommendations(items, version=index.version, answered_by=by)


def recommendation(index: SearchIndex, ranked: RankedItem, log_prob: float) -> Recommendation:
    """One item of a ranking as an answer."""
    item, identifier = index.catalog.items[ranked.position], index.catalog.item_identifiers[ranked.position]
    return Recommendation(item.item_id, ranked.score, identifier, item.title, log_prob)
