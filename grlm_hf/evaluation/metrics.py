"""Ranking metrics of cases with one target each: pure functions of ranks.

Written out here, since ranx takes seconds to import and compiles with numba; the tests compare every figure with that of ranx.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

RECALL_AT = (1, 5, 10, 20)
NDCG_AT = (5, 10, 20)
DEPTH = 20
"""Length of a ranking that is evaluated; MRR counts a target below it as 0."""


@dataclass(frozen=True)
class Estimate:
    """A mean over cases and its 95 % interval, from `low` to `high`. Both equal `value` where a figure has no interval."""

    value: float
    low: float
    high: float


def ranks(rankings: Sequence[Sequence[str | None]], targets: Sequence[str]) -> np.ndarray:
    """The rank of each target, from 1; 0 where it is not among the first `DEPTH`. int64 [cases]."""
    found = np.zeros(len(targets), np.int64)
    for i, (ranking, target) in enumerate(zip(rankings, targets, strict=True)):
        for place, item in enumerate(ranking[:DEPTH], 1):
            if item == target:
                found[i] = place
                break
    return found


def per_case(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Metric name → value for each case, float64 [cases], from `ranks`.

    With one target: recall@k is 1 within the first k, ndcg@k is 1 / log2(rank + 1) there (Järvelin and Kekäläinen 2002; the ideal DCG
    is 1), mrr is 1 / rank.
    """
    hit = rank > 0
    safe = np.maximum(rank, 1)
    values = {f"recall@{k}": (hit & (rank <= k)).astype(float) for k in RECALL_AT}
    values |= {f"ndcg@{k}": np.where(hit & (rank <= k), 1 / np.log2(safe + 1), 0.0) for k in NDCG_AT}
    values["mrr"] = np.where(hit, 1 / safe, 0.0)
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


def interval(sums: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of each column's sum divided by that of the last column: two float64 [columns - 1].

    Args:
        sums: from `user_sums`; the last column counts the cases.
    """
    rng = np.random.default_rng(seed)
    n = len(sums)
    drawn = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ sums for _ in range(resamples)])
    low, high = np.quantile(drawn[:, :-1] / drawn[:, -1:], [0.025, 0.975], axis=0)
    return low, high
