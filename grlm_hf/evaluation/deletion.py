"""Do explanations point at what matters? Items of a history are deleted, most important first, and at random for comparison.

The deletion test of perturbation curves (Samek et al., 2017; Petsiuk et al., 2018), on log-probabilities: the better the attribution,
the sooner the explained item loses its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.metrics import Estimate, bootstrap

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation


@dataclass(frozen=True)
class DeletionTest:
    """Mean fall of an explained item's log-probability (nats) while its history is deleted, item by item, down to one.

    Attributes:
        cases, users: how many were measured.
        attributed: deleted in descending order of `HistoryScore.drop`: with a 95 % bootstrap interval over users.
        random: deleted in random order.
        difference: attributed minus random, paired by case; above 0 where the explanation knows more than chance.
    """

    cases: int
    users: int
    attributed: Estimate
    random: Estimate
    difference: Estimate


def deletion_test(
    grlm: GRLMForRecommendation, cases: Sequence[Case], *, exclude_seen: bool = True, orders: int = 5, resamples: int = 1000, seed: int = 0
) -> DeletionTest:
    """Explains the best recommendation of each case and deletes its history accordingly.

    The area of a case is the mean of ``log p(item | history) - log p(item | what is left)`` over 1, 2, … deleted items; the last one
    stays, since nothing can be asked without a history. Only what the model reads counts: the last ``config.max_history`` items.

    Args:
        cases: those with a single item to read, or with no recommendation left, are passed over; targets are not looked at.
        exclude_seen: of the recommendation that is explained.
        orders: random orders a case, whose areas are averaged.

    Raises:
        ValueError: no case with two items or more.
    """
    from tqdm.auto import tqdm

    from grlm_hf.modeling.explain import explain, log_probs

    read = [(c.user_id, c.history[-grlm.config.max_history :]) for c in cases]
    read = [(user, history) for user, history in read if len(history) > 1]
    if not read or orders < 1:
        raise ValueError(f"Found {len(read)} cases with two items or more and orders={orders}; expected at least one of each.")
    best = grlm.recommend([history for _, history in read], 1, exclude_seen=exclude_seen)
    rng, index = np.random.default_rng(seed), grlm.shelf.index
    users, areas = [], []
    for (user, history), found in zip(tqdm(read, desc="deletion", unit="case", disable=len(read) < 200), best, strict=True):
        if not found:
            continue
        said = explain(grlm.prompter, index, history, found[0].item_id)
        attributed = np.argsort([-(h.drop or 0.0) for h in said.history], kind="stable")
        ways = [attributed, *(rng.permutation(len(history)) for _ in range(orders))]
        left = [[item for i, item in enumerate(history) if i not in set(way[:n])] for way in ways for n in range(1, len(history))]
        after = log_probs(grlm.prompter, index, left, [said.item_id] * len(left)).reshape(len(ways), -1)
        area = (said.log_prob - after).mean(1)
        users.append(user)
        areas.append((area[0], area[1:].mean()))
    if not areas:
        raise ValueError("No case has a recommendation to explain: all items are seen. Pass exclude_seen=False.")
    attributed, random = np.array(areas).T
    measured = bootstrap({"attributed": attributed, "random": random, "difference": attributed - random}, users, resamples, seed)
    return DeletionTest(len(areas), len(set(users)), measured["attributed"], measured["random"], measured["difference"])
