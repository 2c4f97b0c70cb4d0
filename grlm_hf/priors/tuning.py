"""Selection of a prior's settings on validation cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.priors.scores import Scorer

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
