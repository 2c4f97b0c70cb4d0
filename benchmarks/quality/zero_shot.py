"""A chat model that was never trained on a shop, and a checkpoint that reorders what another method found, on the first users of a part.

    python benchmarks/quality/zero_shot.py runs/industrial/datasets --priors runs/industrial/priors --chat models/smollm2 --shots 0 3
    python benchmarks/quality/zero_shot.py runs/beauty/datasets --priors runs/beauty/priors --rerank runs/beauty/checkpoint --users 500

Validation users by default. Beside them, on the same users: each prior, popularity, chance. Prints the table; --output writes the report.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.data.repository import load_cases, train_histories
from grlm_hf.evaluation.config import EvaluateConfig, ZeroShotConfig
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained, reranked
from grlm_hf.evaluation.processes import to_device
from grlm_hf.evaluation.rankings import Method
from grlm_hf.evaluation.report import save_report
from grlm_hf.evaluation.scored import scored
from grlm_hf.evaluation.zero_shot import chat_model, zero_shot
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.popularity import Popularity


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets")
    parser.add_argument("--priors", required=True)
    parser.add_argument("--part", default="validation")
    parser.add_argument("--users", type=int, default=200, help="the first ones")
    parser.add_argument("--chat", default="", help="a chat model")
    parser.add_argument("--shots", type=int, nargs="*", default=[3])
    parser.add_argument("--rerank", default="", help="a checkpoint")
    parser.add_argument("--retriever", default="item_knn")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--output", default="")
    args = parser.parse_args()
    catalog, histories = Catalog.from_pretrained(args.datasets), train_histories(args.datasets)
    cases, ids = load_cases(args.datasets, args.part)[: args.users], tuple(item.item_id for item in catalog)
    fused = Fused.load(args.priors).following(catalog)
    methods: dict[str, Method] = {name: scored(scorer, catalog, True) for name, (scorer, _) in fused.components.items()}
    methods |= {"popularity": scored(Popularity.fit(ids, histories), catalog, True), "random": scored(Chance(ids, 0), catalog, True)}
    if args.rerank:
        grlm = GRLMForRecommendation.from_pretrained(args.rerank)
        methods |= {"grlm": constrained(grlm, True), f"rerank({args.retriever})": reranked(grlm, methods[args.retriever], args.candidates)}
    for shots in args.shots if args.chat else ():
        config = EvaluateConfig(zero_shot=ZeroShotConfig(args.chat, shots))
        chat = to_device(chat_model(config.zero_shot, catalog, histories))
        methods[f"zero-shot, {shots} shots"] = zero_shot(chat, config)["zero-shot"]
    seconds: dict[str, float] = {}
    report = evaluate(
        {name: _timed(name, method, seconds) for name, method in methods.items()},
        cases,
        catalog,
        Setup(Path(args.datasets).resolve().parent.name, args.part, "left out"),
    )
    for name, found in report.methods.items():
        print(f"{name:24} recall@10 {found['recall@10'].value:.4f} [{found['recall@10'].low:.4f}, {found['recall@10'].high:.4f}]  "
              f"ndcg@10 {found['ndcg@10'].value:.4f}  recall@1 {found['recall@1'].value:.4f}  coverage {found['coverage'].value:.3f}  "
              f"{seconds[name] / len(cases):.2f} s a user")  # fmt: skip
    for c in report.comparisons:
        if c.metric == "ndcg@10" and {c.a, c.b} & {name for name in methods if name.startswith(("zero", "rerank"))}:
            print(f"{c.a} - {c.b}: {c.metric} {c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}], p = {c.p:.4f}")
    if args.output:
        save_report(report, args.output)


def _timed(name: str, method: Method, seconds: dict[str, float]) -> Method:
    def run(histories, **more):  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        found = method(histories, **more)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return found

    return run


if __name__ == "__main__":
    main()
