"""The language model together with recommenders that know no language: how much each of them is to count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.fusing import fuse, temperatures_of
from grlm_hf.priors.how import MODEL, Choice, Fit, How
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
    form: Choice = "product",
    fit: Fit = "ndcg",
    case_weights: np.ndarray | None = None,
) -> Hybrid:
    """The prior under the weights with the best NDCG@10 on validation cases beside the language model, whose own weight is 1.

    The items that `searched` finds are ranked again under every weight tried (`grlm_hf.priors.fusing.fuse`). No further search is made, so
    an item that only other weights would bring up is missed. In a mixture, an item that neither search found has its prior's part alone:
    the language model gives it hardly any probability.

    Args:
        prior: its weights are those of the second search, except for a mixture.
        cases: of validation users, never test; some thousands are enough.
        form, fit, case_weights: as of `fuse`. After a fit by likelihood the NDCG@10 of each case is under weights of the other half of the
            cases. The language model has its own probabilities (temperature 1, no gate).

    Returns the prior on the catalog of `grlm`, without what got weight 0 (with all of it, if everything did: such a prior changes no
    ranking); its NDCG@10 is of the ranked pool. Raises `ValueError` for no cases.
    """
    prior = prior.following(grlm.catalog)
    parts, temperatures = searched(grlm, prior, cases, form, exclude_seen, batch_size)
    fitted = fuse(
        parts, cases, prior.item_ids, prior.counts, form=form, fit=fit, exclude_seen=exclude_seen, case_weights=case_weights,
        temperatures=temperatures,
    )  # fmt: skip
    weights = {name: weight for name, weight in fitted.weights.items() if name != MODEL}
    kept = {name: weight for name, weight in weights.items() if weight or fitted.how.counting} or weights
    alone = Targets(prior.item_ids, cases, exclude_seen).ndcg(parts[MODEL])
    return Hybrid(prior.weighted(kept, fitted.how), weights, float(fitted.by_case.mean()), fitted.by_case, alone)


def searched(
    grlm: GRLMForRecommendation, prior: Fused, cases: Sequence[Case], form: Choice, exclude_seen: bool = True, batch_size: int = 64
) -> tuple[dict[str, np.ndarray], dict[str, float] | None]:
    """What `fuse` needs: log-probabilities of the language model ("grlm") and of each part of the prior, float32 `[cases, n_items]`; and
    the temperatures of a mixture's parts.

    The model is searched twice, alone and with the prior: as it was given, or for a mixture with as much weight as the language model.
    Items that neither search finds have hardly any probability.
    """
    column = {item: n for n, item in enumerate(prior.item_ids)}
    histories, k = [c.history for c in cases], min(POOL, len(grlm.catalog))
    model, own = np.full((len(cases), len(column)), _NOT_FOUND, np.float32), prior.parts(histories)
    temperatures = None
    if form == "mixture":
        temperatures = temperatures_of(own, cases, prior.item_ids)
        prior = prior.weighted(dict.fromkeys(own, 1 / len(own)), How("mixture", temperatures=temperatures))
    rows = 512
    for start in range(0, len(cases), rows):
        some = histories[start : start + rows]
        for rules in ({"prior": "none"}, prior.beside(some)):
            answers = grlm.recommend(some, k, exclude_seen=exclude_seen, batch_size=batch_size, **rules)
            for row, answer in enumerate(answers, start):
                model[row, [column[r.item_id] for r in answer]] = [r.log_prob for r in answer]
    return {MODEL: model} | own, temperatures
