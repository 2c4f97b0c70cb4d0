"""Ways to fuse recommenders, with a language model or without: product, product with a bias, gate and mixture, each tuned on validation.

    python benchmarks/quality/fusion.py runs/beauty-taught/datasets runs/beauty-taught/priors --checkpoint runs/beauty-taught/checkpoint

product   Σ weight · log p, the weights with the best NDCG@10 (as priors.fit=ndcg) or the best macro average of it
bias      the same by likelihood, and a bias by the item's training events (as priors.fit=likelihood)
gate      as bias, with weights of their own for each bucket of the item's events and of the history's length
mixture   log Σ share · p: each p with the temperature under which the next items are likeliest, shares by expectation maximisation
blend     product + weight · mixture, to have what either finds; the weight by NDCG@10 or its macro average

All rank the same pool: the first items of each part and of the parts' plain sum, and what the language model's two searches find, alone and
with the others; beside it only the latter are candidates. With a language model each way is also tried without it, on the same users. The
macro average is over four slices of the target's training events. Validation figures are of cases whose weights were fitted to the other
half. Then all test users, once.

With `--labels FILE` the gate by items, without the language model, is also asked what a training asks its teacher:

    grlm run recipes/beauty-taught.yaml --set train.distill.teacher=FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fits import SLICES
from torch.nn.functional import cross_entropy, softplus

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import load_cases, load_table, sample_cases
from grlm_hf.evaluation.significance import compare_pairs
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.how import BORDERS, buckets
from grlm_hf.priors.tuning import TEMPERATURES, WEIGHTS
from grlm_hf.progress import progress
from grlm_hf.training.distill import questions_of
from grlm_hf.training.label_store import asked, make_labels
from grlm_hf.training.labels import taught_items

TOP = 40  # items of an answer
FIRST = 100  # items of each part
FOUND = 40  # items of each search of the language model
ROWS = 128
LEAST = -30.0
LENGTHS = (3, 6)  # borders of a history's length


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of each case. `item` int32 [cases, pool]; `log_p` float16 [cases, pool, parts], natural log; `mass` float32 [cases, parts,
    temperatures], the log of Σ p^(1/T) over the catalog; `legal`, `hit` (the target), `found` (by the language model's searches) bool
    [cases, pool]; `bucket` int8 [cases, pool] and `long` int64 [cases], what the gate reads; `slice_of` int64 [cases], of the target."""

    item: np.ndarray
    log_p: np.ndarray
    mass: np.ndarray
    legal: np.ndarray
    hit: np.ndarray
    found: np.ndarray
    bucket: np.ndarray
    long: np.ndarray
    slice_of: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Pool:
        return Pool(*(value[rows] for value in vars(self).values()))

    def without_model(self) -> Pool:
        """Without the first part."""
        return replace(self, log_p=self.log_p[:, :, 1:], mass=self.mass[:, 1:])

    def with_model(self) -> Pool:
        """What its searches found."""
        return replace(self, legal=self.legal & self.found, hit=self.hit & self.found)

    def tempered(self, temperatures: Sequence[int]) -> np.ndarray:
        """log p of each part at its temperature, places in `TEMPERATURES`; float64 [cases, pool, parts]."""
        t = np.array([TEMPERATURES[n] for n in temperatures])
        return self.log_p / t - self.mass[:, np.arange(len(t)), list(temperatures)][:, None]


Scores = Callable[[Pool], np.ndarray]
"""Pool → float [cases, pool]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets")
    parser.add_argument("priors")
    parser.add_argument("--checkpoint", help="a language model, the first part")
    parser.add_argument("--combination", default="sasrec+item_knn+text_knn")
    parser.add_argument("--users", type=int, default=6000, help="validation users (default: 6000)")
    parser.add_argument("--output", help="write all figures to this JSON file")
    parser.add_argument("--labels", help="file for what the gate by items answers to the training's questions, as a teacher")
    parser.add_argument("--temperature", type=float, default=0.4, help="of these answers (default: 0.4)")
    parser.add_argument("--no-test", action="store_true", help="validation users only")
    args = parser.parse_args()
    prior = Fused.load(args.priors).weighted(dict.fromkeys(args.combination.split("+"), 1.0))
    grlm = GRLMForRecommendation.from_pretrained(args.checkpoint) if args.checkpoint else None
    known = set(prior.item_ids)
    cases = [c for c in sample_cases(load_cases(args.datasets, "validation"), args.users, 0) if c.target in known]
    pool = make_pool(prior, grlm, cases)
    print(f"{len(cases)} validation users; {pool.hit.any(1).mean():.1%} of targets in the pool")
    half = np.arange(len(cases)) % 2 == 0
    head(" (validation, fitted to the other half)")
    sides: dict[str, Callable[[Pool], Pool]] = {"": Pool.without_model, "grlm + ": Pool.with_model} if grlm else {"": lambda pool: pool}
    ways: dict[str, tuple[Callable[[Pool], Pool], Scores]] = {}
    kept: dict[str, Any] = {"validation": {}, "test": {}, "comparisons": []}
    for prefix, side in sides.items():
        mine = side(pool)
        for name, fit in {**({"alone": only_first} if prefix else {}), **WAYS}.items():
            crossed = np.zeros(len(cases), np.int64)
            for one, other in ((half, ~half), (~half, half)):
                crossed[other] = places(mine[other], fit(mine[one])[0])
            way, said = fit(mine)
            ways[prefix + name] = (side, way)
            kept["validation"][prefix + name] = show(prefix + name, crossed, pool, said)
    if args.labels:
        way = gated(1, len(BORDERS) + 1)(Pool.without_model(pool) if grlm else pool)[0]
        parts = f"{args.labels}-parts-{args.users}-{args.temperature:g}"  # of an interrupted call; another gate has others
        answers = make_labels(asked(_Gate(prior, way), TOP, args.temperature), prior.item_ids, questions(args.datasets), parts)
        answers.save(args.labels)
    if not args.no_test:
        test = load_cases(args.datasets, "test")
        pool = make_pool(prior, grlm, test)
        head(f" ({len(test)} test users)")
        found = {}
        for name, (side, way) in ways.items():
            place = places(side(pool), way)
            covered = coverage(side(pool), way) / len(prior.item_ids)
            found[name] = {"recall@10": (place < 10) * 1.0, "ndcg@10": gain(place)}
            kept["test"][name] = show(name, place, pool, f"coverage {covered:.3f}") | {"coverage": covered}
        pairs = [(name, "product") for name in WAYS if name != "product"]
        pairs += [(f"grlm + {name}", other) for name in WAYS for other in dict.fromkeys((name, "gate, items"))] if grlm else []
        wanted = [(a, b, metric) for a, b in pairs for metric in ("recall@10", "ndcg@10")]
        for one in compare_pairs(found, [c.user_id for c in test], wanted):
            print(f"{one.a} - {one.b}: {one.metric} {one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p = {one.p:.4f}")
            kept["comparisons"].append(asdict(one))
    if args.output:
        Path(args.output).write_text(json.dumps(kept, indent=1), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class _Gate:
    """A fitted gate by items as a scorer of all items; its scores are not normalised."""

    prior: Fused
    way: Scores

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        log_p = np.stack(list(self.prior.parts(histories).values()), 2)
        bucket = np.broadcast_to(buckets(self.prior.counts), log_p.shape[:2])  # type: ignore[arg-type]
        nothing = np.zeros((len(histories), 0))
        return self.way(Pool(nothing, log_p, nothing, nothing, nothing, nothing, bucket, np.zeros(len(histories), np.int64), nothing))


def questions(datasets: str) -> list[list[str]]:
    """What a training on these datasets asks its teacher, as histories of item ids."""
    catalog = Catalog.from_pretrained(datasets)
    return questions_of(taught_items(load_table(datasets, "sft", "train"), catalog), catalog)


def head(text: str) -> None:
    slices = ", ".join(s[0] for s in SLICES)
    print(f"\n{'':22} recall@10 ndcg@10  macro     recall@10 by events of the target {slices}{text}")


def show(name: str, place: np.ndarray, pool: Pool, said: str = "") -> dict[str, Any]:
    of = pool.slice_of
    by = [float((place[of == s] < 10).mean()) if (of == s).any() else None for s in range(len(SLICES))]
    values = {"recall@10": float((place < 10).mean()), "ndcg@10": float(gain(place).mean()), "macro ndcg@10": macro(place, of)}
    slices = "  ".join("   –  " if one is None else f"{one:.4f}" for one in by)
    print(f"{name:22} " + "   ".join(f"{v:.4f}" for v in values.values()) + f"    {slices}   {said}", flush=True)
    return values | {"recall@10 by events of the target": dict(zip((s[0] for s in SLICES), by, strict=True)), "weights": said}


def make_pool(prior: Fused, grlm: GRLMForRecommendation | None, cases: Sequence[Case]) -> Pool:
    if prior.counts is None:
        raise SystemExit(f"none of {sorted(prior.components)} counts events")
    column = {item: n for n, item in enumerate(prior.item_ids)}
    events, bucket = prior.counts, buckets(prior.counts)
    made: list[tuple[np.ndarray, ...]] = []
    for start in progress(range(0, len(cases), ROWS), desc="pool", unit="batch"):
        some = cases[start : start + ROWS]
        histories, rows = [c.history for c in some], np.arange(len(some))[:, None]
        parts = list(prior.parts(histories).values())
        mass = np.stack([np.stack([_log_sum(part / np.float32(t)) for t in TEMPERATURES], 1) for part in parts], 1)
        total = np.sum(parts, 0)
        for n, case in enumerate(some):
            total[n, [column[i] for i in case.history if i in column]] = -np.inf
        seen = total == -np.inf
        tops = [np.argpartition(np.where(seen, np.inf, -part), FIRST, 1)[:, :FIRST] for part in (*parts, total)]
        if grlm is not None:
            model = np.full(total.shape, LEAST, np.float32)
            for how in ("none", prior.probabilities(histories)):
                for n, answer in enumerate(grlm.recommend(histories, FOUND, num_beams=FOUND, prior=how, exclude_seen=True)):
                    model[n, [column[r.item_id] for r in answer]] = [r.log_prob for r in answer]
            tops.append(np.argpartition(-model, 2 * FOUND, 1)[:, : 2 * FOUND])
            parts.insert(0, model)
            # what the searches did not find has hardly any of the model's probability, so its own sum is over what they found
            mine = np.stack([_log_sum(np.where(model > LEAST, model, -np.inf) / np.float32(t)) for t in TEMPERATURES], 1)
            mine[:, TEMPERATURES.index(1.0)] = 0.0
            mass = np.concatenate([mine[:, None], mass], 1)
        wanted = np.sort(np.concatenate(tops, 1), 1)
        fresh = np.concatenate([np.ones((len(some), 1), bool), wanted[:, 1:] != wanted[:, :-1]], 1)
        legal = fresh & ~seen[rows, wanted]
        log_p = np.maximum(np.stack([part[rows, wanted] for part in parts], 2), LEAST)
        found = log_p[:, :, 0] > LEAST if grlm is not None else legal
        target = np.array([column.get(c.target, -1) for c in some])
        sold = np.where(target >= 0, events[target], 0)
        slice_of = np.select([(sold >= lo) & (sold < hi) for _, lo, hi in SLICES], list(range(len(SLICES))))
        long = np.searchsorted(LENGTHS, [len(h) for h in histories], side="right")
        made.append(
            (
                wanted.astype(np.int32),
                log_p.astype(np.float16),
                mass,
                legal,
                legal & (wanted == target[:, None]),
                found,
                bucket[wanted].astype(np.int8),
                long,
                slice_of,
            )
        )
    return Pool(*(np.concatenate(column_) for column_ in zip(*made, strict=True)))


def _log_sum(x: np.ndarray) -> np.ndarray:
    top = np.maximum(x.max(1), -1e4)
    return (np.log(np.exp(x - top[:, None]).sum(1)) + top).astype(np.float32)


def places(pool: Pool, way: Scores) -> np.ndarray:
    """Int64 [cases], how many items rank above the target, ties counted against it."""
    found = []
    for start in range(0, len(pool.hit), 4096):
        some = pool[np.s_[start : start + 4096]]
        scores = np.where(some.legal, way(some), -np.inf)
        at = some.hit.argmax(1)
        above = (scores >= scores[np.arange(len(at)), at][:, None]).sum(1) - 1
        found.append(np.where(some.hit.any(1), above, 2**40))
    return np.concatenate(found)


def coverage(pool: Pool, way: Scores) -> int:
    """How many items are among the first ten of some case."""
    shown: set[int] = set()
    for start in range(0, len(pool.hit), 4096):
        some = pool[np.s_[start : start + 4096]]
        scores = np.where(some.legal, way(some), -np.inf)
        first = np.argpartition(-scores, 10, 1)[:, :10]
        shown.update(np.take_along_axis(some.item, first, 1)[np.take_along_axis(scores, first, 1) > -np.inf].tolist())
    return len(shown)


def gain(place: np.ndarray) -> np.ndarray:
    return np.where(place < 10, 1 / np.log2(np.minimum(place, 10) + 2), 0.0)


def macro(place: np.ndarray, slice_of: np.ndarray) -> float:
    return float(np.mean([gain(place[slice_of == s]).mean() for s in np.unique(slice_of)]))


def by_goal(goal: str, place: np.ndarray, pool: Pool) -> float:
    return macro(place, pool.slice_of) if goal == "macro" else float(gain(place).mean())


def product(goal: str) -> Callable[[Pool], tuple[Scores, str]]:
    def fit(pool: Pool) -> tuple[Scores, str]:
        parts = pool.log_p.shape[2]
        weights = np.ones(parts, np.float32)
        for _ in range(4):
            before = weights.copy()
            for n in range(1, parts):
                tried = {}
                for w in WEIGHTS:
                    weights[n] = w
                    tried[w] = by_goal(goal, places(pool, _weighted(weights)), pool)
                weights[n] = max(tried, key=lambda w: (tried[w], -w))
            if (before == weights).all():
                break
        return _weighted(weights), " ".join(f"{w:g}" for w in weights)

    return fit


def _weighted(weights: np.ndarray) -> Scores:
    fixed = weights.copy()
    return lambda pool: pool.log_p.astype(np.float32) @ fixed


def gated(lengths: int, items: int, penalty: float = 1e-3) -> Callable[[Pool], tuple[Scores, str]]:
    """softmax(Σ weight[bucket of the item, of the history] · log p + bias[bucket]); weights pulled towards one another by `penalty`."""

    def fit(pool: Pool) -> tuple[Scores, str]:
        some = pool[pool.hit.any(1)]
        x = torch.from_numpy(some.log_p.astype(np.float32))
        scale = x.reshape(-1, x.shape[2]).std(0) + 1e-6
        of, long = torch.from_numpy(some.bucket.astype(np.int64)), torch.from_numpy(some.long)
        illegal, y = torch.from_numpy(~some.legal), torch.from_numpy(some.hit.argmax(1))
        raw = torch.zeros(lengths, items, x.shape[2], requires_grad=True)
        bias = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.LBFGS([raw, bias], max_iter=100, line_search_fn="strong_wolfe")

        def total(x: torch.Tensor, of: torch.Tensor, long: torch.Tensor) -> torch.Tensor:
            weight = softplus(raw)[(long if lengths > 1 else long * 0)[:, None], of if items > 1 else of * 0] / scale
            return (x * weight).sum(2) + bias[of]

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = cross_entropy(total(x, of, long).masked_fill(illegal, -1e9), y) + penalty * (bias**2).sum()
            value = value + 10 * penalty * ((raw - raw.mean((0, 1))) ** 2).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[arg-type]

        def way(pool: Pool) -> np.ndarray:
            with torch.inference_mode():
                given = (torch.from_numpy(v) for v in (pool.log_p.astype(np.float32), pool.bucket.astype(np.int64), pool.long))
                return total(*given).numpy()

        weights = (softplus(raw).detach() / scale).mean((0, 1))
        return way, " ".join(f"{w:.3f}" for w in weights) + " bias " + " ".join(f"{b:.2f}" for b in (bias - bias[-1]).tolist())

    return fit


def mixed(pool: Pool) -> tuple[Scores, str]:
    some = pool[pool.hit.any(1)]
    rows, at = np.arange(len(some.hit)), some.hit.argmax(1)
    own = some.log_p[rows, at].astype(np.float64)  # [cases, parts]
    likely = np.stack([own / t - some.mass[:, :, n] for n, t in enumerate(TEMPERATURES)], 2).mean(0)  # [parts, temperatures]
    temperature = likely.argmax(1)
    p = np.exp(some.tempered(temperature)[rows, at])
    share = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(200):
        share = (share * p / (p @ share)[:, None]).mean(0)
    said = " ".join(f"{s:.2f} (T {TEMPERATURES[t]:g})" for s, t in zip(share, temperature, strict=True))
    return lambda pool: np.log(np.exp(pool.tempered(temperature)) @ share), said


def blended(goal: str) -> Callable[[Pool], tuple[Scores, str]]:
    def fit(pool: Pool) -> tuple[Scores, str]:
        one, two = product("ndcg")(pool)[0], mixed(pool)[0]
        tried = {}
        for w in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
            tried[w] = by_goal(goal, places(pool, lambda p, w=w: one(p) + w * two(p)), pool)
        best = max(tried, key=lambda w: (tried[w], -w))
        return lambda p: one(p) + best * two(p), f"{best:g}"

    return fit


def only_first(pool: Pool) -> tuple[Scores, str]:
    return (lambda pool: pool.log_p[:, :, 0].astype(np.float32)), ""


WAYS: dict[str, Callable[[Pool], tuple[Scores, str]]] = {
    "product": product("ndcg"),
    "product, macro": product("macro"),
    "bias": gated(1, 1),
    "gate, items": gated(1, 4),
    "gate, both": gated(3, 4),
    "mixture": mixed,
    "blend": blended("ndcg"),
    "blend, macro": blended("macro"),
}


if __name__ == "__main__":
    main()
