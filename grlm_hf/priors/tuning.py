"""Selection of a prior's settings on validation cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.priors.scores import Scorer

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Candidate weights of `tune_weights`."""
TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
"""Candidate temperatures of `likeliest_temperature`."""
AT = 10
_CELLS = 2**26  # scores in memory at once: 256 MB
_Settings = TypeVar("_Settings")


class Targets:
    """Cases of validation users, prepared for repeated measurements on scores with the columns `item_ids`. A target outside the items
    counts as missed; `exclude_seen` leaves out the items of the history."""

    def __init__(self, item_ids: Sequence[str], cases: Sequence[Case], exclude_seen: bool = True):
        if not cases:
            raise ValueError("There are no validation cases for tuning; pass at least one.")
        row = {item: n for n, item in enumerate(item_ids)}
        self.histories = [c.history for c in cases]
        self.target = np.array([row.get(c.target, -1) for c in cases])
        seen = [sorted({row[i] for i in h if i in row}) if exclude_seen else [] for h in self.histories]
        self.seen = (np.repeat(np.arange(len(cases)), [len(s) for s in seen]), np.array([r for s in seen for r in s], np.int64))
        self.findable = (self.target >= 0) & np.array([t not in s for t, s in zip(self.target, seen, strict=True)])

    def ndcg(self, scores: np.ndarray, start: int = 0) -> np.ndarray:
        """NDCG@10 of each case, float64 `[n]`, from `scores`, `[n, n_items]`, of the cases from `start` on. Ties count against the target.
        Changes `scores`."""
        target, findable = self.target[start : start + len(scores)], self.findable[start : start + len(scores)]
        here = (self.seen[0] >= start) & (self.seen[0] < start + len(scores))
        scores[self.seen[0][here] - start, self.seen[1][here]] = -np.inf
        rank = (scores >= scores[np.arange(len(scores)), target][:, None]).sum(1)
        return np.where(findable & (rank <= AT), 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)

    def by_case(self, scorer: Scorer) -> np.ndarray:
        """NDCG@10 of each case, float64 `[n]`."""
        rows = max(1, _CELLS // max(1, len(scorer.item_ids)))
        starts = range(0, len(self.histories), rows)
        return np.concatenate([self.ndcg(scorer.scores(self.histories[s : s + rows]), s) for s in starts])

    def measure(self, scorer: Scorer) -> float:
        """Mean NDCG@10."""
        return float(self.by_case(scorer).mean())


def coordinate_search(
    start: _Settings, grid: Mapping[str, Sequence[float]], measure: Callable[[_Settings], float]
) -> tuple[_Settings, float]:
    """The best settings and their measure. One field after the other takes the best value of its grid, in two rounds or until nothing
    changes. Of equally good settings the first is kept, so the result is deterministic.

    `start` is a frozen dataclass, `grid` maps a field to its values, `measure` settings to the number to maximise.
    """
    tried: dict[Any, float] = {}

    def value(settings: _Settings) -> float:
        if settings not in tried:
            tried[settings] = measure(settings)
        return tried[settings]

    best = start
    for _ in range(2):
        before = best
        for name, values in grid.items():
            for other in (replace(best, **{name: v}) for v in values):  # type: ignore[type-var]
                if value(other) > value(best):
                    best = other
        if best == before:
            break
    return best, value(best)


def tune_weights(
    parts: Mapping[str, np.ndarray],
    cases: Sequence[Case],
    item_ids: Sequence[str],
    *,
    exclude_seen: bool = True,
    rounds: int = 4,
    grid: Sequence[float] = WEIGHTS,
    case_weights: np.ndarray | None = None,
) -> tuple[dict[str, float], float]:
    """The weights with the best NDCG@10 on validation cases, and that NDCG@10. Optimises one weight after the other until none changes.

    The first part keeps weight 1, since only ratios of weights matter to a ranking; with a language model, its scores are the first part.
    All weights start at 1. Of equally good weights the lowest is chosen.

    Args:
        parts: name → float32 `[cases, n_items]`, log-probabilities, as from `Fused.parts`; for a mixture probabilities.
        cases: of validation users, never test users; some thousands are enough.
        case_weights: float64 `[cases]`, how much the NDCG@10 of each case counts; by default all count 1.

    Raises `ValueError` for no cases or parts, or a part of another shape.
    """
    if not parts:
        raise ValueError("There are no scorers to weigh; pass at least one.")
    for name, part in parts.items():
        if part.shape != (len(cases), len(item_ids)):
            raise ValueError(f"The scores of {name!r} are {list(part.shape)}; expected [{len(cases)} cases, {len(item_ids)} items].")
    targets = Targets(item_ids, cases, exclude_seen)
    others = list(parts)[1:]
    weights = dict.fromkeys(parts, 1.0)

    def measure(total: np.ndarray) -> float:
        by_case = targets.ndcg(total)
        return float((by_case if case_weights is None else by_case * case_weights).mean())

    best = measure(weighted_sum(parts, weights))
    for _ in range(rounds if others else 0):
        before = dict(weights)
        for name in others:
            rest = weighted_sum(parts, weights | {name: 0.0})
            found = {w: measure(rest + np.float32(w) * parts[name]) for w in grid}
            weights[name] = max(found, key=lambda w: (found[w], -w))
            best = found[weights[name]]
        if weights == before:
            break
    return weights, best


def weighted_sum(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Σ weight · part, of the parts' shape and type."""
    total = np.zeros_like(next(iter(parts.values())))
    for name, part in parts.items():
        if weights[name]:
            total += np.float32(weights[name]) * part
    return total


def likeliest_temperature(chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """The temperature under which targets are likeliest, and their mean negative log-likelihood (nats) before and after.

    Args:
        chunks: float32 `[n, n_items]`, scores, with int64 `[n]`, the columns of the targets.

    Raises `ValueError` where there is no target.
    """
    losses, cases = np.zeros(len(TEMPERATURES)), 0
    for sharp, target in chunks:
        cases += len(target)
        for n, temperature in enumerate(TEMPERATURES):
            scores = sharp.astype(np.float64) / temperature
            top = scores.max(1)
            mass = np.log(np.exp(scores - top[:, None]).sum(1)) + top
            losses[n] += (mass - scores[np.arange(len(target)), target]).sum()
    if not cases:
        raise ValueError("No target of the validation cases is among the prior's items.")
    losses /= cases
    best = int(losses.argmin())
    return TEMPERATURES[best], float(losses[TEMPERATURES.index(1.0)]), float(losses[best])
