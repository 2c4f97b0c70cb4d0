"""Do explanations point at what matters? Items of a history are deleted, most important first, and at random for comparison.

    python benchmarks/quality/deletion.py grlm-quickstart/checkpoint grlm-quickstart/datasets

The deletion test of perturbation curves (Samek et al., 2017; Petsiuk et al., 2018), on log-probabilities: the better the attribution
(`grlm_hf.modeling.explain`), the sooner the explained item loses its probability. Writes results/quality-deletion.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
from harness import Results

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import load_cases
from grlm_hf.evaluation.metrics import Estimate, bootstrap
from grlm_hf.modeling.explain import log_probs


@dataclass(frozen=True)
class DeletionTest:
    """Mean fall of an explained item's log-probability (nats) while its history is deleted, item by item, down to one.

    Attributes:
        cases, users: their number.
        attributed: items deleted in descending order of `HistoryScore.drop`.
        random: in random order.
        difference: attributed minus random, paired by case; above 0 where the explanation is better than chance.
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

    The area of a case is the mean of ``log p(item | history) - log p(item | rest)`` over 1, 2, … deleted items; one item always stays,
    since a prompt needs one. Only the last ``config.max_history`` items count, which the model reads.

    Args:
        cases: those with a single item to read, or without a recommendation, are skipped; targets are not used.
        exclude_seen: of the recommendation that is explained.
        orders: random orders a case, whose areas are averaged.

    Raises:
        ValueError: no case with two items or more.
    """
    from tqdm.auto import tqdm

    read = [(c.user_id, c.history[-grlm.config.max_history :]) for c in cases]
    read = [(user, history) for user, history in read if len(history) > 1]
    if not read or orders < 1:
        raise ValueError(f"Found {len(read)} cases with two items or more and orders={orders}; expected at least one of each.")
    best = grlm.recommend([history for _, history in read], 1, exclude_seen=exclude_seen, prior="none")
    rng = np.random.default_rng(seed)
    users, areas = [], []
    for (user, history), found in zip(tqdm(read, desc="deletion", unit="case", disable=len(read) < 200), best, strict=True):
        if not found:
            continue
        explanation = grlm.explain(history, found[0].item_id)
        attributed = np.argsort([-(h.drop or 0.0) for h in explanation.history], kind="stable")
        ways = [attributed, *(rng.permutation(len(history)) for _ in range(orders))]
        rests = [[item for i, item in enumerate(history) if i not in set(way[:n])] for way in ways for n in range(1, len(history))]
        after = log_probs(grlm.prompter, grlm.shelf.index, rests, [explanation.item_id] * len(rests)).reshape(len(ways), -1)
        area = (explanation.log_prob - after).mean(1)
        users.append(user)
        areas.append((area[0], area[1:].mean()))
    if not areas:
        raise ValueError("No case has a recommendation to explain: all items are seen. Pass exclude_seen=False.")
    attributed, random = np.array(areas).T
    measured = bootstrap({"attributed": attributed, "random": random, "difference": attributed - random}, users, resamples, seed)
    return DeletionTest(len(areas), len(set(users)), measured["attributed"], measured["random"], measured["difference"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("datasets")
    parser.add_argument("--cases", type=int, default=500, help="the first so many test cases")
    args = parser.parse_args()
    found = deletion_test(GRLMForRecommendation.from_pretrained(args.checkpoint), load_cases(args.datasets, "test")[: args.cases])
    results = Results("quality-deletion", f"python benchmarks/quality/deletion.py {args.checkpoint} {args.datasets}")
    for what, m in (("in the order of the explanation", found.attributed), ("at random", found.random), ("difference", found.difference)):
        for end, value in (("mean", m.value), ("low end of the 95 % interval", m.low), ("high end of the 95 % interval", m.high)):
            results.add(f"{found.users} users, history deleted {what}: {end}", "nats", value)
    results.save("Fall of the recommended item's log-probability", "nats")


if __name__ == "__main__":
    main()
