"""How far the probabilities of recommenders can be believed: negative log-likelihood and expected calibration error.

python benchmarks/quality/calibration.py runs/beauty-taught/datasets runs/beauty-taught/priors --checkpoint runs/beauty-taught/checkpoint

On validation users by default, over the whole catalog with seen items kept. NLL: mean of -log p(next item), nats; a log p below -30 counts
as -30. ECE: mean distance between the probability of the first item and how often it is the next one, over 15 equal bins of that
probability (Guo et al. 2017, arXiv 1706.04599). The combinations are those of the priors' tuning.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import load_cases
from grlm_hf.files import read_json
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.scores import Scorer

BINS = 15
LEAST = -30.0
Answer = Callable[[Sequence[Case]], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Cases → log p of the target, p of the first item, whether that is the target; each [cases]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets")
    parser.add_argument("priors")
    parser.add_argument("--checkpoint", help="a language model beside them")
    parser.add_argument("--part", default="validation")
    parser.add_argument("--users", type=int, default=2000, help="the first ones (default: 2000)")
    args = parser.parse_args()
    cases = load_cases(args.datasets, args.part)[: args.users]
    fused = Fused.load(args.priors)
    ways: dict[str, Answer] = {name: _of_scorer(scorer) for name, (scorer, _) in fused.components.items()}
    for name, one in read_json(Path(args.priors) / "tuning.json")["combinations"].items():
        ways[name] = _of_scorer(fused.stated(one))
    if args.checkpoint:
        ways["grlm"] = _of_model(GRLMForRecommendation.from_pretrained(args.checkpoint))
    print(f"{'':28} {'NLL':>7} {'ECE':>7} {'first':>7} {'right':>7}   ({len(cases)} {args.part} users)")
    for name, way in ways.items():
        parts = [way(cases[i : i + 256]) for i in range(0, len(cases), 256)]
        log_p, first, right = (np.concatenate(column) for column in zip(*parts, strict=True))
        nll = -np.maximum(log_p, LEAST).mean()
        print(f"{name:28} {nll:7.3f} {ece(first, right):7.4f} {first.mean():7.4f} {right.mean():7.4f}", flush=True)


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Σ over bins of the share of cases · |mean confidence - share that is right|."""
    of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(sum((of == b).mean() * abs(confidence[of == b].mean() - right[of == b].mean()) for b in np.unique(of)))


def _of_scorer(scorer: Scorer) -> Answer:
    column = {item: n for n, item in enumerate(scorer.item_ids)}

    def answer(cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = scorer.scores([c.history for c in cases])
        scores -= np.log(np.exp(scores, dtype=np.float64).sum(1))[:, None].astype(np.float32)
        target = np.array([column.get(c.target, -1) for c in cases])
        rows = np.arange(len(cases))
        log_p = np.where(target >= 0, scores[rows, target], -np.inf)
        return log_p, np.exp(scores.max(1)), scores.argmax(1) == target

    return answer


def _of_model(grlm: GRLMForRecommendation) -> Answer:
    def answer(cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        histories = [list(c.history) for c in cases]
        best = grlm.recommend(histories, 1, num_beams=10, exclude_seen=False, prior="none")
        known = {item.item_id for item in grlm.catalog}
        if strange := [c.target for c in cases if c.target not in known]:
            raise ValueError(f"The checkpoint does not have the item {strange[0]!r}; expected the catalog of the dataset.")
        log_p = grlm.score(histories, [c.target for c in cases])
        return log_p, np.exp([r[0].log_prob for r in best]), np.array([r[0].item_id == c.target for r, c in zip(best, cases, strict=True)])

    return answer


if __name__ == "__main__":
    main()
