"""The forms and goals of fusing recommenders, side by side: each fitted to validation users, each on all test users.

grlm run recipes/beauty-taught.yaml --data ../shared/data/amazon-sports --output runs/sports-taught --set until=priors
python benchmarks/quality/fits.py runs/sports-taught/datasets runs/sports-taught/priors --combination sasrec+item_knn+text_knn

Without a language model; with `--checkpoint runs/sports-taught/checkpoint` beside one.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import load_cases, sample_cases, train_histories
from grlm_hf.evaluation.significance import compare_pairs
from grlm_hf.evaluation.slices import macro_weights
from grlm_hf.modeling.hybrid import searched
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.fusing import fuse
from grlm_hf.priors.how import MODEL, Fit, Form, buckets, length_buckets
from grlm_hf.progress import progress

SLICES = (("0-2", 0, 3), ("3-10", 3, 11), ("11-25", 11, 26), ("26+", 26, 2**31))
"""Training events of a target."""
ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", help="dataset repository of a run")
    parser.add_argument("priors", help="folder of the run's priors")
    parser.add_argument("--combination", default="sasrec+item_knn+text_knn")
    parser.add_argument("--users", type=int, default=3000, help="validation users (default: 3000)")
    parser.add_argument("--forms", nargs="+", choices=get_args(Form), default=get_args(Form), help="(default: all)")
    parser.add_argument("--test-users", type=int, default=0, help="random test users (default: all)")
    parser.add_argument("--checkpoint", help="fuse with its language model, too")
    parser.add_argument("--output", help="JSON file that receives the figures")
    args = parser.parse_args()
    prior = Fused.load(args.priors)
    prior = prior.weighted(dict.fromkeys(args.combination.split("+"), 1.0))
    if prior.counts is None:
        parser.error(f"no part of {args.combination} counts events")
    grlm = GRLMForRecommendation.from_pretrained(args.checkpoint) if args.checkpoint else None
    known = set(prior.item_ids)
    cases = [c for c in sample_cases(load_cases(args.datasets, "validation"), args.users, 0) if c.target in known]
    test = load_cases(args.datasets, "test")
    test = sample_cases(test, args.test_users, 0) if args.test_users else test
    events, catalog = Counter(i for h in train_histories(args.datasets) for i in h.items), Catalog.from_pretrained(args.datasets)
    macro, macro_of_test = (macro_weights(some, catalog, events) for some in (cases, test))
    if grlm:
        prior = prior.following(grlm.catalog)
        pools = {form: searched(grlm, prior, cases, form) for form in ("product", "mixture")}
    else:
        pools = dict.fromkeys(("product", "mixture"), (prior.parts([c.history for c in cases]), None))
    of_target = np.array([events[c.target] for c in test])
    ways: dict[str, Fused] = {}
    of_validation: dict[str, np.ndarray] = {}
    for form, fit in product(args.forms, get_args(Fit)):
        some, temperatures = pools["mixture" if form == "mixture" else "product"]
        fitted = fuse(some, cases, prior.item_ids, prior.counts, form=form, fit=fit, case_weights=macro, temperatures=temperatures)
        name = f"{form}, {fit}"
        ways[name] = prior.weighted({part: weight for part, weight in fitted.weights.items() if part != MODEL}, fitted.how)
        of_validation[name] = fitted.by_case
        print(f"fitted: {name}", flush=True)
    del pools, some
    found: dict[str, dict[str, np.ndarray]] = {}
    shown = []
    for name, place in _places(grlm, prior, ways, test).items():
        way, on_validation = ways[name], of_validation[name]
        found[name] = {"recall@10": (place < 10) * 1.0, "ndcg@10": np.where(place < 10, 1 / np.log2(place + 2), 0)}
        row = {
            "way": name,
            "weights": way.weights,
            **way.how.facts,
            "validation": {"ndcg@10": on_validation.mean(), "macro ndcg@10": (on_validation * macro).mean()},
            "test": {metric: values.mean() for metric, values in found[name].items()},
            "test, macro": {metric: (values * macro_of_test).mean() for metric, values in found[name].items()},
            "recall@10 by events of the target": {
                label: (place[of] < 10).mean()
                for label, lo, hi in (("0", 0, 1), *SLICES)
                if (of := (of_target >= lo) & (of_target < hi)).any()
            },
        }
        shown.append(json.loads(json.dumps(row, default=float), parse_float=lambda text: round(float(text), 4)))
        print(json.dumps(shown[-1]), flush=True)
    best = {goal: max(shown, key=lambda row: row["validation"][goal])["way"] for goal in ("ndcg@10", "macro ndcg@10")}
    print("best on validation:", best)
    wanted = [(name, "product, ndcg", metric) for name in found if name != "product, ndcg" for metric in ("recall@10", "ndcg@10")]
    compared = [str(one) for one in compare_pairs(found, [c.user_id for c in test], wanted, seed=0)]
    print("\n".join(compared))
    if args.output:
        content = {"validation cases": len(cases), "test cases": len(test), "best on validation": best, "ways": shown, "compared": compared}
        Path(args.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _places(grlm: GRLMForRecommendation | None, prior: Fused, ways: Mapping[str, Fused], cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Int64 [cases] of each way, how many items rank above the target; seen items are left out. Without a language model ties count against
    the target; with one, places from 10 on are one."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for start in progress(range(0, len(cases), ROWS), desc="test", unit="batch"):
        some = cases[start : start + ROWS]
        parts = prior.parts([c.history for c in some]) if grlm is None else {}
        for name, way in ways.items():
            found[name].append(_searched(grlm, way, some) if grlm else _scored(way, parts, some))
    return {name: np.concatenate(places) for name, places in found.items()}


def _scored(way: Fused, parts: Mapping[str, np.ndarray], cases: Sequence[Case]) -> np.ndarray:
    column = {item: n for n, item in enumerate(way.item_ids)}
    bucket = None if way.counts is None else buckets(way.counts)
    given = ((name, weight, parts[name]) for name, weight in way.weights.items() if weight)
    scores = way.how.total(given, bucket, length_buckets([c.history for c in cases]), len(column))
    for row, case in enumerate(cases):
        scores[row, [column[i] for i in case.history if i in column]] = -np.inf
    target = np.array([column.get(c.target, -1) for c in cases])
    own = scores[np.arange(len(cases)), target][:, None]
    return np.where(target < 0, 2**40, (scores >= own).sum(1) - 1)


def _searched(grlm: GRLMForRecommendation, way: Fused, cases: Sequence[Case]) -> np.ndarray:
    histories = [c.history for c in cases]
    found = grlm.recommend(histories, 10, exclude_seen=True, batch_size=64, **way.beside(histories))
    ids = [[r.item_id for r in one] for one in found]
    return np.array([one.index(c.target) if c.target in one else 2**40 for one, c in zip(ids, cases, strict=True)])


if __name__ == "__main__":
    main()
