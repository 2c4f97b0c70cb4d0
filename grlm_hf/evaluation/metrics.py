"""Ranking metrics of cases with one target each: pure functions of ranks.

Written out here, since ranx takes seconds to import and compiles with numba; the tests compare every figure with that of ranx.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

RECALL_AT = (1, 5, 10, 20)
NDCG_AT = (5, 10, 20)
DEPTH = 20
"""Length of a ranking that is evaluated, by default; MRR counts a target below it as 0."""
MAIN_AT = 10
"""The cut-off that comparisons, slices and verdicts are of."""
_TAKEN = ("mrr", "valid_rate", "direct_hit_rate", "coverage")  # names of the report that a function may have


@dataclass(frozen=True)
class Estimate:
    """A mean over cases and its 95 % interval, from `low` to `high`. Both equal `value` where a figure has no interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measures:
    """What is measured of a ranking, from the rank of its target."""

    recall_at: Sequence[int] = RECALL_AT  # cut-offs; `MAIN_AT` is always one of them
    ndcg_at: Sequence[int] = NDCG_AT
    depth: int = DEPTH  # at least; the rankings are as long as the largest cut-off
    own: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    """Name of a metric → a function of the user: ranks as in `ranks`, int64 [cases] → a number for each case, float [cases]."""

    def __post_init__(self) -> None:
        if taken := [name for name in self.own if name in _TAKEN]:
            raise ValueError(f"A metric of your own is called {taken[0]!r}, as one of the report is. Give its function another name.")

    @property
    def length(self) -> int:
        """The length of the rankings that are evaluated."""
        return max([self.depth, *self.recall_at, *self.ndcg_at])

    def per_case(self, rank: np.ndarray, own: bool = True) -> dict[str, np.ndarray]:
        """Metric name → value for each case, float64 [cases], from `ranks`; without those of the user if `own` is False.

        Raises:
            ValueError: a metric of the user that returns something else than a number for each case.
        """
        values = per_case(rank, self.recall_at, self.ndcg_at)
        for name, function in self.own.items() if own else ():
            values[name] = _numbers(name, function(rank.copy()), len(rank))
        return values


def ranks(rankings: Sequence[Sequence[str | None]], targets: Sequence[str], depth: int = DEPTH) -> np.ndarray:
    """The rank of each target, from 1; 0 where it is not among the first `depth`. int64 [cases]."""
    found = np.zeros(len(targets), np.int64)
    for i, (ranking, target) in enumerate(zip(rankings, targets, strict=True)):
        for place, item in enumerate(ranking[:depth], 1):
            if item == target:
                found[i] = place
                break
    return found


def per_case(rank: np.ndarray, recall_at: Sequence[int] = RECALL_AT, ndcg_at: Sequence[int] = NDCG_AT) -> dict[str, np.ndarray]:
    """Metric name → value for each case, float64 [cases], from `ranks`.

    With one target: recall@k is 1 within the first k, ndcg@k is 1 / log2(rank + 1) there (Järvelin and Kekäläinen 2002; the ideal DCG
    is 1), mrr is 1 / rank.
    """
    hit = rank > 0
    safe = np.maximum(rank, 1)
    values = {f"recall@{k}": (hit & (rank <= k)).astype(float) for k in _with_main(recall_at)}
    values |= {f"ndcg@{k}": np.where(hit & (rank <= k), 1 / np.log2(safe + 1), 0.0) for k in _with_main(ndcg_at)}
    values["mrr"] = np.where(hit, 1 / safe, 0.0)
    return values


def _with_main(cutoffs: Sequence[int]) -> list[int]:
    return sorted({*cutoffs, MAIN_AT})


def _numbers(name: str, found: object, cases: int) -> np.ndarray:
    """What a metric of the user returned, float64 [cases]."""
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None or values.shape != (cases,):
        shape = type(found).__name__ if values is None else f"an array of shape {list(values.shape)}"
        raise ValueError(f"The metric {name!r} returned {shape}; expected a number for each of the {cases} cases: float [{cases}].")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"The metric {name!r} returned {values[at]} for case {at}; expected finite numbers.")
    return values


def user_sums(table: np.ndarray, users: Sequence[str]) -> np.ndarray:
    """Sums of the rows of `table`, float64 [cases, columns], by user: float64 [users, columns], users in ascending order."""
    _, user = np.unique(np.asarray(users), return_inverse=True)
    sums = np.zeros((int(user.max()) + 1, table.shape[1]))
    np.add.at(sums, user, table)
    return sums


def bootstrap(values: Mapping[Name, np.ndarray], users: Sequence[str], resamples: int = 1000, seed: int = 0) -> dict[Name, Estimate]:
    """Mean over cases of each metric with its 95 % percentile bootstrap interval.

    Users are drawn, each with all its cases, since the cases of a user are not independent. All metrics share the resamples.

    Args:
        values: metric name → float64 [cases].
        users: the user of each case.
    """
    table = np.stack([*values.values(), np.ones(len(users))], 1)
    low, high = interval(user_sums(table, users), resamples, seed)
    return {name: Estimate(float(v), float(a), float(b)) for name, v, a, b in zip(values, table[:, :-1].mean(0), low, high, strict=True)}


def resampled(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The means of bootstrap resamples of users, float64 [resamples, columns - 1]; `sums` as `interval` takes them."""
    rng = np.random.default_rng(seed)
    n = len(sums)
    drawn = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ sums for _ in range(resamples)])
    return drawn[:, :-1] / drawn[:, -1:]


def interval(sums: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of each column's sum divided by that of the last column: two float64 [columns - 1].

    Args:
        sums: from `user_sums`; the last column counts the cases.
    """
    low, high = np.quantile(resampled(sums, resamples, seed), [0.025, 0.975], axis=0)
    return low, high
