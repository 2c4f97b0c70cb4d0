"""The language model together with recommenders that know no language: how much each of them is to count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.fused import Fused, tune_weights
from grlm_hf.priors.likelihood import try_fit
from grlm_hf.priors.tuning import Targets

POOL = 40
"""Items of each of the two searches; weights are tuned on their union."""
_NOT_FOUND = -1e4  # log-probability of an item that no search found


@dataclass(frozen=True)
class Hybrid:
    """A prior with its weights beside the language model, and how good both are on the cases that chose the weights."""

    prior: Fused
    weights: dict[str, float]  # of every component, those that got 0 too
    ndcg: float  # mean NDCG@10 of the hybrid
    by_case: np.ndarray  # float64 [cases], NDCG@10 of the hybrid
    alone: np.ndarray  # float64 [cases], NDCG@10 of the language model alone


def tune_hybrid(
    grlm: GRLMForRecommendation,
    prior: Fused,
    cases: Sequence[Case],
    *,
    exclude_seen: bool = True,
    batch_size: int = 64,
    likelihood: bool = False,
) -> Hybrid:
    """The prior under the weights with the best NDCG@10 on validation cases beside the language model, whose own weight is 1.

    The model is searched twice, alone and with the prior as it was given; the items found are ranked again under every weight tried
    (`grlm_hf.priors.fused.tune_weights`). No further search is made, so an item that only other weights would bring up is missed.

    Args:
        prior: its weights are those of the second search.
        cases: of validation users, never test; some thousands are enough.
        likelihood: fit the weights, and a bias by an item's training events, by maximum likelihood (`grlm_hf.priors.likelihood`). The
            NDCG@10 of each case is then under weights of the other half of the cases. Where a fit is impossible, as without it, with a
            warning.

    Returns the prior on the catalog of `grlm`, without what got weight 0 (with all of it, if everything did: such a prior changes no
    ranking); its NDCG@10 is of the ranked pool. Raises `ValueError` for no cases.
    """
    prior = prior.following(grlm.catalog)
    column = {item: n for n, item in enumerate(prior.item_ids)}
    histories = [c.history for c in cases]
    k = min(POOL, len(grlm.catalog))
    model = np.full((len(cases), len(column)), _NOT_FOUND, np.float32)
    rows = 512
    for start in range(0, len(cases), rows):
        some = histories[start : start + rows]
        common = {"exclude_seen": exclude_seen, "batch_size": batch_size}
        for answers in (
            grlm.recommend(some, k, prior="none", **common),
            grlm.recommend(some, k, prior=prior.probabilities(some), **common),
        ):
            for row, answer in enumerate(answers, start):
                model[row, [column[r.item_id] for r in answer]] = [r.log_prob for r in answer]
    parts = {"grlm": model} | prior.parts(histories)
    if likelihood and (fitted := try_fit(parts, cases, prior.item_ids, prior.counts, exclude_seen=exclude_seen)):
        own = {name: weight for name, weight in fitted.weights.items() if name != "grlm"}
        alone = Targets(prior.item_ids, cases, exclude_seen).ndcg(model.copy())
        return Hybrid(prior.weighted(own, fitted.bias), own, float(fitted.by_case.mean()), fitted.by_case, alone)
    weights, reached = tune_weights(parts, cases, prior.item_ids, exclude_seen=exclude_seen)
    targets = Targets(prior.item_ids, cases, exclude_seen)
    by_case = targets.ndcg(sum((np.float32(weights[name]) * part for name, part in parts.items()), np.zeros_like(model)))
    weights = {name: weight for name, weight in weights.items() if name != "grlm"}
    kept = {name: weight for name, weight in weights.items() if weight} or weights
    return Hybrid(prior.weighted(kept), weights, reached, by_case, targets.ndcg(model.copy()))
