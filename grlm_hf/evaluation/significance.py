"""Is one method better than another? Differences are paired by user, since a user who is hard for one method is hard for the other.

Not ``scipy.stats.permutation_test``: scipy is no dependency of an evaluation, and its function tests one comparison at a time, where all
comparisons of a report share the draws here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grlm_hf.evaluation.metrics import interval, user_sums

METRICS = ("recall@10", "ndcg@10")
DRAWS = 9_999
"""Of the permutation test: the smallest p is 1 / 10,000."""
_SIGNS = 2**23  # held at once


@dataclass(frozen=True)
class Comparison:
    """The mean of `a` minus that of `b` over all cases.

    `low` and `high` are a 95 % percentile interval of a bootstrap that draws users, both methods' cases of a user together. `p` is of a
    two-sided sign-flip test by user (Fisher's randomisation test; Smucker, Allan and Carterette 2007): if the methods are exchangeable for
    every user, the difference of each user may as well have the other sign; p = (1 + draws with a difference as large) / (1 + draws).
    `p_holm` is corrected for all comparisons of the list (Holm 1979).
    """

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None
    test: str  # in words


def compare(
    hits: Mapping[str, Mapping[str, np.ndarray]],
    users: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
    metrics: Sequence[str] = METRICS,
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """By metric: the best method against each other one, then `pairs`.

    The best method is chosen on the same data, so `p` flatters it; a claim that was made beforehand belongs into `pairs`.

    Args:
        hits: method → metric → float64 [cases].
        users: the user of each case.
        pairs: more methods to compare, as (a, b); a comparison of two methods is not repeated.

    Raises:
        ValueError: a pair names a method or a metric that was not measured, or one method twice.
    """
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(hits):
            raise ValueError(f"Cannot compare {tuple(pair)}; expected two of the methods {tuple(hits)}.")
    wanted: list[tuple[str, str, str]] = []
    for metric in metrics:
        if unmeasured := [name for name in hits if metric not in hits[name]]:
            raise ValueError(f"Metric {metric!r} was not measured of {unmeasured[0]!r}; expected one of {tuple(hits[unmeasured[0]])}.")
        means = {name: float(values[metric].mean()) for name, values in hits.items()}
        wanted += [(a, b, metric) for a, b in best_and(means, pairs)]
    return compare_pairs(hits, users, wanted, resamples, draws, seed)


def best_and(means: Mapping[str, float], pairs: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The method with the highest mean against each other one, then `pairs`; each two methods once, in the order of the last mention."""
    best = max(means, key=means.__getitem__, default="")
    return list({frozenset(pair): pair for pair in [*((best, name) for name in means if name != best), *pairs]}.values())


def compare_pairs(
    hits: Mapping[str, Mapping[str, np.ndarray]],
    users: Sequence[str],
    wanted: Sequence[tuple[str, str, str]],
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """The comparisons (a, b, metric) that are wanted; Holm's correction is over these.

    Args:
        hits, users: as in `compare`.
    """
    if not wanted:
        return ()
    columns = [hits[a][metric] - hits[b][metric] for a, b, metric in wanted]
    sums = user_sums(np.stack([*columns, np.ones(len(users))], 1), users)
    low, high = interval(sums, resamples, seed)
    differences, cases = sums[:, :-1], sums[:, -1]
    p = sign_flip(differences, draws, seed)
    holm = corrected(p)
    test = f"sign-flip permutation by user, two-sided, {draws:,} draws; p_holm over {len(wanted)}; interval: paired bootstrap by user"
    return tuple(
        Comparison(
            a, b, metric, float(differences[:, n].sum() / cases.sum()), float(low[n]), float(high[n]), float(p[n]), float(holm[n]), test
        )
        for n, (a, b, metric) in enumerate(wanted)
    )


def sign_flip(differences: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Two-sided p of each column, float64 [columns], from differences by user, float64 [users, columns]. All columns share the draws."""
    differences = differences[differences.any(axis=1)]  # a user without a difference adds nothing under any sign
    seen = np.abs(differences.sum(0))
    least = seen - 1e-9 * np.maximum(np.abs(differences).sum(0), 1)  # equal sums may differ in their last bits
    rng = np.random.default_rng(seed)
    as_large = np.zeros(differences.shape[1], np.int64)
    step = max(1, _SIGNS // max(1, len(differences)))
    for start in range(0, draws, step):
        n = min(step, draws - start)
        signs = np.unpackbits(rng.integers(0, 256, (n, -(-len(differences) // 8)), np.uint8), axis=1, count=len(differences))
        as_large += (np.abs(2.0 * (signs @ differences) - differences.sum(0)) >= least).sum(0)
    return (1 + as_large) / (1 + draws)


def corrected(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the k-th smallest of n times n - k + 1, never falling, at most 1. float64 [n]."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(stepped, 1.0)
    return found
