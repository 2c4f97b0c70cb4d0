"""Weights of a combination by NDCG@10 and by likelihood, without a language model: both fitted to validation users, both on all test users.

grlm run recipes/beauty-taught.yaml --data ../shared/data/amazon-sports --output runs/sports-taught --set until=priors
python benchmarks/quality/fits.py runs/sports-taught/datasets runs/sports-taught/priors --combination sasrec+item_knn+text_knn
"""

from __future__ import annotations

import argparse

import numpy as np

from grlm_hf.data.repository import load_cases, sample_cases
from grlm_hf.evaluation.significance import compare
from grlm_hf.priors.fused import Fused, tune_weights
from grlm_hf.priors.likelihood import fit_weights
from grlm_hf.priors.tuning import Targets

SLICES = (("0-2", 0, 3), ("3-10", 3, 11), ("11-25", 11, 26), ("26+", 26, 2**31))
"""Training events of a target."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", help="dataset repository of a run")
    parser.add_argument("priors", help="folder of the run's priors")
    parser.add_argument("--combination", default="sasrec+item_knn+text_knn")
    parser.add_argument("--users", type=int, default=3000, help="validation users (default: 3000)")
    args = parser.parse_args()
    prior = Fused.load(args.priors)
    prior = prior.weighted(dict.fromkeys(args.combination.split("+"), 1.0))
    if prior.counts is None:
        parser.error(f"no part of {args.combination} counts events")
    known = set(prior.item_ids)
    cases = [c for c in sample_cases(load_cases(args.datasets, "validation"), args.users, 0) if c.target in known]
    parts = prior.parts([c.history for c in cases])
    weights, _ = tune_weights(parts, cases, prior.item_ids)
    fitted = fit_weights(parts, cases, prior.item_ids, prior.counts)
    ways = {"ndcg": prior.weighted(weights), "likelihood": prior.weighted(fitted.weights, fitted.bias)}
    test = load_cases(args.datasets, "test")
    events = dict(zip(prior.item_ids, prior.counts.tolist(), strict=True))
    of_target = np.array([events.get(c.target, 0) for c in test])
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, way in ways.items():
        place = np.concatenate([_places(way, test[i : i + 256]) for i in range(0, len(test), 256)])
        found[name] = {"recall@10": (place < 10) * 1.0, "ndcg@10": np.where(place < 10, 1 / np.log2(place + 2), 0)}
        by_slice = {label: round(float((place[(of_target >= lo) & (of_target < hi)] < 10).mean()), 4) for label, lo, hi in SLICES}
        means = {metric: round(float(values.mean()), 4) for metric, values in found[name].items()}
        print(f"{name}: weights {way.weights}, bias {list(way.bias)}; {means}, recall@10 by events of the target {by_slice}", flush=True)
    for one in compare(found, [c.user_id for c in test], [("likelihood", "ndcg")], seed=0):
        print(one)


def _places(way: Fused, cases: list) -> np.ndarray:
    """Int64 [cases], how many items rank above the target, ties counted against it; seen items are left out."""
    targets = Targets(way.item_ids, cases, True)
    scores = way.scores([c.history for c in cases])
    scores[targets.seen] = -np.inf
    own = scores[np.arange(len(cases)), targets.target][:, None]
    return np.where(targets.target < 0, 2**40, (scores >= own).sum(1) - 1)


if __name__ == "__main__":
    main()
