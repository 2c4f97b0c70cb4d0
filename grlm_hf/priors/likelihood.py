"""Weights of a fused prior by maximum likelihood, and a bias by how often training saw an item.

Among the items that the scorers rank highest, the next item is modelled as ``softmax(Σ weight · log p + bias(events of the item))``, a
conditional logit (McFadden 1974). The bias lets items that seldom sold compete: scorers that count are too sure that they will not sell.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.priors.tuning import Targets

BORDERS = (3, 6, 14)
"""Training events at which an item's bias changes."""
_POOL = 100  # items of a case among which the next one is modelled
_LEAST = -30.0  # log-probabilities below it say no more
_PENALTY = 1e-3  # of the squared biases, against those of buckets with few targets


def buckets(counts: np.ndarray) -> np.ndarray:
    """int64 `[n_items]`, the bucket of `BORDERS` of items with these numbers of training events."""
    return np.searchsorted(BORDERS, counts, side="right")


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights by part, those of the first one 1; biases by bucket, the last one 0; and the NDCG@10 of each case, float64 `[cases]`, under
    weights that were fitted to the other half of the cases."""

    weights: dict[str, float]
    bias: tuple[float, ...]
    by_case: np.ndarray

    def total(self, parts: Mapping[str, np.ndarray], bucket: np.ndarray) -> np.ndarray:
        """Σ weight · part + bias, float32 of the parts' shape."""
        return _total(parts, self.weights, self.bias, bucket)


def fit_weights(
    parts: Mapping[str, np.ndarray], cases: Sequence[Case], item_ids: Sequence[str], counts: np.ndarray, *, exclude_seen: bool = True
) -> Fitted:
    """Fits weights and biases to validation cases.

    Args:
        parts: name → float32 `[cases, n_items]`, log-probabilities, as from `Fused.parts`; a language model's first.
        cases: of validation users, never test users; some thousands.
        counts: int64 `[n_items]`, training events of each item.

    Raises `ValueError` where hardly any target is among the highest ranked items, or where the first part turns out to have no weight.
    """
    targets, bucket = Targets(item_ids, cases, exclude_seen), buckets(counts)
    total = _total(parts, dict.fromkeys(parts, 1.0), (0.0,) * (len(BORDERS) + 1), bucket)
    total[targets.seen] = -np.inf
    size = min(_POOL, total.shape[1])
    pool = np.argpartition(-total, size - 1, axis=1)[:, :size]
    ranked = np.take_along_axis(total, pool, 1) > -1e3  # what a language model's search did not find has no log-probability
    hit = (pool == targets.target[:, None]) & ranked
    features = np.stack([np.maximum(np.take_along_axis(part, pool, 1), _LEAST) for part in parts.values()], 2)
    usable = hit.any(1)
    halves = [np.arange(len(cases)) % 2 == half for half in (0, 1)]
    if any((usable & half).sum() < 5 * len(BORDERS) for half in halves):
        raise ValueError(
            f"Only {usable.sum()} of {len(cases)} validation targets are ranked high; too few to fit weights. Use priors.fit=ndcg."
        )

    def fit(rows: np.ndarray) -> tuple[dict[str, float], tuple[float, ...]]:
        return _fitted(list(parts), features[rows], hit[rows].argmax(1), ranked[rows], bucket[pool[rows]])

    by_case = np.zeros(len(cases))
    for half, other in (halves, halves[::-1]):
        weights, bias = fit(usable & half)
        by_case[other] = targets.ndcg(_total(parts, weights, bias, bucket))[other]
    return Fitted(*fit(usable), by_case)


def try_fit(
    parts: Mapping[str, np.ndarray],
    cases: Sequence[Case],
    item_ids: Sequence[str],
    counts: np.ndarray | None,
    *,
    exclude_seen: bool = True,
) -> Fitted | None:
    """`fit_weights`, or ``None`` and a warning where that is impossible: few cases, a first part without weight, no counts."""
    try:
        if counts is None:
            raise ValueError(f"None of {', '.join(parts)} counts events, which the bias needs. Use priors.fit=ndcg, or add item_knn.")
        return fit_weights(parts, cases, item_ids, counts, exclude_seen=exclude_seen)
    except ValueError as error:
        warnings.warn(f"{'+'.join(parts)}: {error} Its weights are those with the best NDCG@10.", stacklevel=2)
        return None


def _total(parts: Mapping[str, np.ndarray], weights: Mapping[str, float], bias: Sequence[float], bucket: np.ndarray) -> np.ndarray:
    total = np.zeros_like(next(iter(parts.values()))) + np.array(bias, np.float32)[bucket]
    for name, part in parts.items():
        if weights[name]:
            total += np.float32(weights[name]) * part
    return total


def _fitted(
    names: Sequence[str], features: np.ndarray, target: np.ndarray, ranked: np.ndarray, bucket: np.ndarray
) -> tuple[dict[str, float], tuple[float, ...]]:
    """Args: float32 [n, pool, parts]; int64 [n], a place in the pool; bool and int64 [n, pool]."""
    import torch
    from torch.nn.functional import cross_entropy, softplus

    scale = features.reshape(-1, len(names)).std(0) + 1e-6
    x, y = torch.from_numpy(features / scale).float(), torch.from_numpy(target)
    of, illegal = torch.from_numpy(bucket), torch.from_numpy(~ranked)
    raw = torch.zeros(len(names), requires_grad=True)  # softplus of it: no weight is negative
    bias = torch.zeros(len(BORDERS) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (x @ softplus(raw) + bias[of]).masked_fill(illegal, -1e9)
        value = cross_entropy(scores, y) + _PENALTY * (bias**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    weights = softplus(raw).detach().numpy() / scale
    if not weights[0] > 1e-3:
        raise ValueError(
            f"{names[0]!r} got no weight beside the others, so their weights cannot be stated beside its own. Use priors.fit=ndcg."
        )
    shift = bias.detach().numpy()
    of_one = weights / weights[0]
    return (
        {name: round(float(w), 4) for name, w in zip(names, of_one, strict=True)},
        tuple(round(float(b), 4) for b in (shift - shift[-1]) / weights[0]),
    )
