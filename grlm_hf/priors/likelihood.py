"""Weights of a fused prior by maximum likelihood, a bias by how often training saw an item, and a gate.

Among the items that the scorers rank highest, the next item is modelled as ``softmax(Σ weight · log p + bias(events of the item))``, a
conditional logit (McFadden 1974). The bias lets items that seldom sold compete: scorers that count are too sure that they will not sell.
A gate has factors on the weights, by the item's events and the history's length; a penalty on their logs draws them towards 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding, softplus

from grlm_hf.data.interactions import Case
from grlm_hf.priors.how import BORDERS, LENGTHS, Fit, How, buckets, length_buckets
from grlm_hf.priors.tuning import Targets

PENALTIES = (1.0, 0.1, 0.01, 0.001)
"""Candidates for the penalty of a gate: its squared log factors times this are added to the mean negative log-likelihood."""
_POOL = 100  # items of a case among which the next one is modelled
_LEAST = -30.0  # log-probabilities below it say no more
_PENALTY = 1e-3  # of the squared biases, against those of buckets with few targets


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights by part, those of the first one 1; how the parts are put together (of a bias, the last value is 0); and the NDCG@10 of each
    case, float64 `[cases]`. After a fit by likelihood each case is under weights that were fitted to the other half of the cases."""

    weights: dict[str, float]
    by_case: np.ndarray
    how: How = field(default_factory=How)

    def total(self, parts: Mapping[str, np.ndarray], bucket: np.ndarray | None, lengths: np.ndarray) -> np.ndarray:
        """The scores under these weights: float32 of the parts' shape; see `How.total`."""
        weighted = ((name, self.weights[name], part) for name, part in parts.items() if self.weights[name])
        return self.how.total(weighted, bucket, lengths, next(iter(parts.values())).shape[1])


def fit_weights(
    parts: Mapping[str, np.ndarray],
    cases: Sequence[Case],
    item_ids: Sequence[str],
    counts: np.ndarray | None,
    *,
    exclude_seen: bool = True,
    gated: bool = False,
    fit: Fit = "likelihood",
    case_weights: np.ndarray | None = None,
) -> Fitted:
    """Fits weights and biases to validation cases.

    Args:
        parts: name → float32 `[cases, n_items]`, log-probabilities, as from `Fused.parts`; a language model's first.
        cases: of validation users, never test users; some thousands.
        counts: int64 `[n_items]`, training events of each item.
        gated: fit a gate, too. Its penalty is the one of `PENALTIES` with the best `fit` on the halves that it was not fitted to.
        fit: "likelihood", or "ndcg" and "macro", both the mean of NDCG@10 times `case_weights`.
        case_weights: float64 `[cases]` with mean 1, how much each case counts; by default all count 1.

    Raises `ValueError` where no part counts events, where hardly any target is among the highest ranked items, where the first part turns
    out to have no weight, or for a gate of a single part.
    """
    if counts is None:
        raise ValueError(f"None of {', '.join(parts)} counts events, which a bias or gate needs. Add item_knn.")
    if gated and len(parts) < 2:
        raise ValueError("A gate needs two parts or more.")
    targets, bucket, lengths = Targets(item_ids, cases, exclude_seen), buckets(counts), length_buckets([c.history for c in cases])
    total = How().total(((name, 1.0, part) for name, part in parts.items()), bucket, lengths, len(item_ids))
    total[targets.seen] = -np.inf
    size = min(_POOL, total.shape[1])
    pool = np.argpartition(-total, size - 1, axis=1)[:, :size]
    ranked = np.take_along_axis(total, pool, 1) > -1e3  # what a language model's search did not find has no log-probability
    hit = (pool == targets.target[:, None]) & ranked
    features = np.stack([np.maximum(np.take_along_axis(part, pool, 1), _LEAST) for part in parts.values()], 2)
    usable = hit.any(1)
    halves = [np.arange(len(cases)) % 2 == half for half in (0, 1)]
    if any((usable & half).sum() < 5 * len(BORDERS) for half in halves):
        raise ValueError(f"Only {usable.sum()} of {len(cases)} validation targets are ranked high; too few to fit weights.")
    counted = np.ones(len(cases)) if case_weights is None else case_weights
    question = _Question(features, hit.argmax(1), ranked, bucket[pool], lengths, counted)
    rows = [question.rows(usable & half) for half in halves]
    starts = [_ungated(half, list(parts)) for half in rows]

    def held_out(penalty: float | None) -> tuple[np.ndarray, float]:
        """The NDCG@10 of each case under weights of the other half, and what is to be maximal."""
        by_case, loss = np.zeros(len(cases)), 0.0
        for n, other in enumerate(halves[::-1]):
            found = starts[n] if penalty is None else _gated(rows[n], starts[n], penalty)
            by_case[other] = targets.ndcg(found.fitted(list(parts), by_case, fit, gated).total(parts, bucket, lengths))[other]
            loss += float(_loss(rows[1 - n], *found))
        return by_case, -loss if fit == "likelihood" else float((by_case * counted).mean())

    found = _ungated(question.rows(usable), list(parts))
    if not gated:
        return found.fitted(list(parts), held_out(None)[0], fit, gated)
    tried = {penalty: held_out(penalty) for penalty in PENALTIES}
    best = max(tried, key=lambda penalty: tried[penalty][1])
    return _gated(question.rows(usable), found, best).fitted(list(parts), tried[best][0], fit, gated)


@dataclass(frozen=True, eq=False)
class _Question:
    """Which item of a pool comes next: float32 [n, pool, parts]; int64 [n], a place in the pool; bool and int64 [n, pool]; int64 [n];
    float64 [n]."""

    features: np.ndarray
    target: np.ndarray
    ranked: np.ndarray
    bucket: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray

    def rows(self, at: np.ndarray) -> _Question:
        return _Question(*(getattr(self, f.name)[at] for f in fields(self)))


class _Values(NamedTuple):
    """Tensors: weights [parts] and biases [buckets], both of one scale; logs of the factors [buckets · lengths, parts - 1] on the weights
    of all parts but the first; and of the scale [lengths], which changes no ranking."""

    weights: torch.Tensor
    bias: torch.Tensor
    factors: torch.Tensor
    scale: torch.Tensor

    def fitted(self, names: Sequence[str], by_case: np.ndarray, fit: Fit, gated: bool) -> Fitted:
        first = float(self.weights[0])
        weights = {name: round(float(w) / first, 4) for name, w in zip(names, self.weights, strict=True)}
        bias = [round(float(b - self.bias[-1]) / first, 4) for b in self.bias]
        tables = self.factors.exp().T.reshape(-1, len(BORDERS) + 1, len(LENGTHS) + 1).double().numpy().round(4).tolist()
        gate = dict(zip(names[1:], tables, strict=True)) if gated else {}
        return Fitted(weights, by_case, How("gate" if gate else "product", fit, bias, gate=gate))


def _loss(question: _Question, weights: torch.Tensor, bias: torch.Tensor, factors: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The mean negative log-likelihood of the targets."""
    x, bucket, lengths = (torch.from_numpy(a) for a in (question.features, question.bucket, question.lengths))
    cell = bucket * (len(LENGTHS) + 1) + lengths[:, None]
    weighted = x[..., 1:] * weights[1:] * embedding(cell, factors.exp()) if len(weights) > 1 else x[..., :0]
    scores = (x[..., 0] * weights[0] + weighted.sum(-1) + bias[bucket]) * scale.exp()[lengths][:, None]
    scores = scores.masked_fill(torch.from_numpy(~question.ranked), -1e9)
    each = cross_entropy(scores, torch.from_numpy(question.target), reduction="none")
    return (each * torch.from_numpy(question.counted)).mean()


def _ungated(question: _Question, names: Sequence[str]) -> _Values:
    spread = question.features.reshape(-1, len(names)).std(0) + 1e-6
    scaled = replace(question, features=(question.features / spread).astype(np.float32))
    raw, bias = torch.zeros(len(names), requires_grad=True), torch.zeros(len(BORDERS) + 1, requires_grad=True)
    none = torch.zeros(len(bias) * (len(LENGTHS) + 1), len(names) - 1), torch.zeros(len(LENGTHS) + 1)
    # softplus: no weight is negative
    _minimise([raw, bias], lambda: _loss(scaled, softplus(raw), bias, *none) + _PENALTY * (bias**2).sum(), 200)
    weights = softplus(raw).detach() / torch.from_numpy(spread)
    if not weights[0] > 1e-3:
        raise ValueError(f"{names[0]!r} got no weight beside the others, so their weights cannot be stated beside its own.")
    return _Values(weights, bias.detach(), *none)


def _gated(question: _Question, start: _Values, penalty: float) -> _Values:
    free = [torch.zeros_like(value, requires_grad=True) for value in start[1:]]

    def loss() -> torch.Tensor:
        likely = _loss(question, start.weights, start.bias + free[0], *free[1:])
        return likely + penalty * torch.stack([(value**2).sum() for value in free]).sum()

    _minimise(free, loss, 50)
    shift, factors, scale = (value.detach() for value in free)
    return _Values(start.weights, start.bias + shift, factors, scale)


def _minimise(values: list[torch.Tensor], loss: Callable[[], torch.Tensor], rounds: int) -> None:
    optimizer = torch.optim.LBFGS(values, max_iter=rounds, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[arg-type]
