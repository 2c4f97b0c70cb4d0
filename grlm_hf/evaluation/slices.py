"""Where a method is good: cases by the length of their history, by the popularity of their target, and by whether it occurs in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.metrics import bootstrap
from grlm_hf.evaluation.schema import Part

METRICS = ("recall@10", "ndcg@10")
LENGTHS = (1, 4, 6, 10, 20)
"""A slice of history lengths begins at each of these."""
DECILES = 10


def sliced(
    hits: Mapping[str, Mapping[str, np.ndarray]],
    cases: Sequence[Case],
    catalog: Catalog,
    counts: Mapping[str, int] | None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Part]]:
    """Grouping → slice → the figures of its cases, for `METRICS`. Slices without a case are left out.

    Groupings: ``history length``; with `counts` also ``target popularity``, the training events of the target, cut at the deciles of the
    catalog's items (`popularity_cuts`), and ``target``, "warm" with at least one training event or "cold".

    Args:
        hits: method → metric → float64 [cases].
        counts: item_id → number of its training events, by default 0.
    """
    lengths = np.array([len(c.history) for c in cases])
    groupings = {"history length": _by_cuts(lengths, np.array(LENGTHS))}
    if counts is not None:
        target = np.array([counts.get(c.target, 0) for c in cases])
        cuts = popularity_cuts(np.array([counts.get(i.item_id, 0) for i in catalog]))
        groupings["target popularity"] = _by_cuts(target, cuts, int(max(counts.values(), default=0)))
        groupings["target"] = {"warm": np.flatnonzero(target > 0), "cold": np.flatnonzero(target == 0)}
    found: dict[str, dict[str, Part]] = {}
    for grouping, parts in groupings.items():
        found[grouping] = {}
        for label, at in parts.items():
            if not len(at):
                continue
            values = {(method, metric): hits[method][metric][at] for method in hits for metric in METRICS}
            measured = bootstrap(values, [cases[i].user_id for i in at], resamples, seed)
            methods = {method: {metric: measured[method, metric] for metric in METRICS} for method in hits}
            found[grouping][label] = Part(cases=len(at), methods=methods)
    return found


def macro_weights(cases: Sequence[Case], catalog: Catalog, counts: Mapping[str, int]) -> np.ndarray:
    """Float64 [cases] with mean 1: the mean of a figure times these weights is its macro average, in which each slice of the target's
    popularity counts the same (`sliced`), however many cases it has. A slice without a case does not count."""
    cuts = popularity_cuts(np.array([counts.get(item.item_id, 0) for item in catalog]))
    slices = [at for at in _by_cuts(np.array([counts.get(c.target, 0) for c in cases]), cuts).values() if len(at)]
    weights = np.zeros(len(cases))
    for at in slices:
        weights[at] = len(cases) / len(slices) / len(at)
    return weights


def popularity_cuts(counts: np.ndarray) -> np.ndarray:
    """Number of training events at which each decile of the items begins: rising int64, at most ten.

    Items with equal counts are in one group; where many are equal, there are fewer groups, of unequal size.
    """
    ordered = np.sort(counts)
    return np.unique(ordered[np.arange(DECILES) * len(ordered) // DECILES])


def _by_cuts(values: np.ndarray, cuts: np.ndarray, highest: int | None = None) -> dict[str, np.ndarray]:
    """Label, such as "4–5", → positions of the values from one cut up to the next. Values below the first cut join the first group."""
    group = np.maximum(np.searchsorted(cuts, values, side="right") - 1, 0)
    ends = [*(cuts[1:] - 1), highest]
    parts = {}
    for n, (low, high) in enumerate(zip(cuts, ends, strict=True)):
        label = f"{low}+" if high is None else f"{low}" if high <= low else f"{low}–{high}"
        parts[label] = np.flatnonzero(group == n)
    return parts
