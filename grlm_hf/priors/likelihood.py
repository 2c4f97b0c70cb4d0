"""Weights of a fused prior by maximum likelihood, a bias by how often training saw an item, and a gate.

Among the items that scorers rank highest, the next item is modelled as ``softmax(Σ weight · log p + bias(events of the item))``, a
conditional logit (McFadden 1974). The bias lets items that seldom sold compete: scorers that count are too sure that they will not sell.
A gate has weights of its own by the item's events, and perhaps by the history's length; a penalty draws them towards one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding, softplus

from grlm_hf.data.interactions import Case
from grlm_hf.priors.how import BORDERS, LENGTHS, MODEL, Fit, How, buckets, length_buckets
from grlm_hf.priors.tuning import Targets

_POOL = 100  # items of each part, and of their sum, among which the next one is modelled
_LEAST = -30.0  # log-probabilities below it say no more
_PENALTY = 1e-3  # of the squared biases, against those of buckets with few targets
_PULL = 1e-2  # of the squared logs of a gate's factors
_CELLS = {False: ((1, 1),), True: ((len(BORDERS) + 1, 1), (len(BORDERS) + 1, len(LENGTHS) + 1))}
"""Buckets of items and of histories that have weights of their own, without a gate and with one: the latter tries both."""


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
        gated: fit a gate, too: by the item's events, or also by the history's length, among the first items of each part or of their sum,
            whichever has the better `fit` on the halves that it was not fitted to. A language model's part has one weight: a search has
            its probabilities before it knows the item.
        fit: "likelihood", or "ndcg" and "macro", both the mean of NDCG@10 times `case_weights`. It chooses the gate.
        case_weights: float64 `[cases]` with mean 1, how much the NDCG@10 of each case counts; by default all count 1.

    Raises `ValueError` where no part counts events, where hardly any target is among the highest ranked items, where the first part turns
    out to have no weight, or for a gate of a single part.
    """
    if counts is None:
        raise ValueError(f"None of {', '.join(parts)} counts events, which a bias or gate needs. Add item_knn.")
    if gated and len(parts) < 2:
        raise ValueError("A gate needs two parts or more.")
    targets, bucket, lengths = Targets(item_ids, cases, exclude_seen), buckets(counts), length_buckets([c.history for c in cases])
    every, halves = _pools(parts, targets), [np.arange(len(cases)) % 2 == half for half in (0, 1)]
    pools = [pool for pool in every if all((pool.usable & half).sum() >= 5 * len(BORDERS) for half in halves)]
    if not pools:
        raise ValueError(f"Only {every[0].usable.sum()} of {len(cases)} validation targets are ranked high; too few to fit weights.")
    questions = [pool.question(parts, bucket, lengths) for pool in (pools if gated and fit != "likelihood" else pools[:1])]
    counted = 1.0 if case_weights is None else case_weights

    def held_out(question: _Question, usable: np.ndarray, cells: tuple[int, int]) -> tuple[np.ndarray, float]:
        """The NDCG@10 of each case under weights of the other half, and what is to be maximal."""
        by_case, likely = np.zeros(len(cases)), 0.0
        for half, other in (halves, halves[::-1]):
            found = _fit(question.rows(usable & half), list(parts), cells)
            by_case[other] = targets.ndcg(found.fitted(list(parts), by_case, fit).total(parts, bucket, lengths))[other]
            likely -= float(_loss(question.rows(usable & other), found.weights, found.bias))
        return by_case, likely if fit == "likelihood" else float((by_case * counted).mean())

    ways = [(question, pool.usable, cells) for question, pool in zip(questions, pools, strict=False) for cells in _CELLS[gated]]
    tried = [held_out(*way) for way in ways]
    best = max(range(len(ways)), key=lambda n: tried[n][1])
    question, usable, cells = ways[best]
    return _fit(question.rows(usable), list(parts), cells).fitted(list(parts), tried[best][0], fit)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Items of each case, int64 [cases, pool]; which places count, and which is the target, bool [cases, pool]."""

    items: np.ndarray
    ranked: np.ndarray
    hit: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """Bool [cases]: the target is among the items."""
        return np.asarray(self.hit.any(1))

    def question(self, parts: Mapping[str, np.ndarray], bucket: np.ndarray, lengths: np.ndarray) -> _Question:
        features = np.stack([np.maximum(np.take_along_axis(part, self.items, 1), _LEAST) for part in parts.values()], 2)
        return _Question(features, self.hit.argmax(1), self.ranked, bucket[self.items], lengths)


def _pools(parts: Mapping[str, np.ndarray], targets: Targets) -> tuple[_Pool, _Pool]:
    """The items that some part or their sum ranks highest; and those of the sum alone.

    Among the latter, what only one part finds is rare and gets little weight. That is right where that part finds many others, too
    (docs/lab-notes.md: of two shops each needs the other pool), so a gate tries both.
    """
    total = sum(parts.values(), np.zeros_like(next(iter(parts.values()))))
    total[targets.seen] = -np.inf
    size = min(_POOL, total.shape[1])
    tops = []
    for scores in (total, *parts.values()):
        hidden = -scores
        hidden[targets.seen] = np.inf
        tops.append(np.argpartition(hidden, size - 1, axis=1)[:, :size])
    made = []
    for items in (np.sort(np.concatenate(tops, 1), 1), tops[0]):
        first = np.concatenate([np.ones((len(items), 1), bool), items[:, 1:] != items[:, :-1]], 1)
        # what a language model's search did not find has no log-probability
        ranked = first & (np.take_along_axis(total, items, 1) > -1e3)
        made.append(_Pool(items, ranked, ranked & (items == targets.target[:, None])))
    return made[0], made[1]


@dataclass(frozen=True, eq=False)
class _Question:
    """Which item of a pool comes next: float32 [n, pool, parts]; int64 [n], a place in the pool; bool and int64 [n, pool]; int64 [n]."""

    features: np.ndarray
    target: np.ndarray
    ranked: np.ndarray
    bucket: np.ndarray
    lengths: np.ndarray

    def rows(self, at: np.ndarray) -> _Question:
        return _Question(*(getattr(self, f.name)[at] for f in fields(self)))


class _Values(NamedTuple):
    """Tensors: weights [buckets of items, buckets of histories, parts], either 1 where all have the same; and biases [buckets of items]."""

    weights: torch.Tensor
    bias: torch.Tensor

    def fitted(self, names: Sequence[str], by_case: np.ndarray, fit: Fit) -> Fitted:
        table = self.weights.double().expand(len(BORDERS) + 1, len(LENGTHS) + 1, -1)
        mean = table.mean((0, 1))
        first = float(mean[0])
        bias = [round(float(b - self.bias[-1]) / first, 4) for b in self.bias]
        weights = {name: round(float(w) / first, 4) for name, w in zip(names, mean, strict=True)}
        factors = (table / mean).permute(2, 0, 1).numpy().round(4)
        gate = {name: rows.tolist() for name, rows in zip(names, factors, strict=True) if (rows != 1).any()}
        return Fitted(weights, by_case, How("gate" if gate else "product", fit, bias, gate=gate))


def _loss(question: _Question, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The mean negative log-likelihood of the targets."""
    x, bucket, lengths = (torch.from_numpy(a) for a in (question.features, question.bucket, question.lengths))
    of_item, of_history, parts = weights.shape
    cell = bucket * (of_item > 1) * of_history + (lengths * (of_history > 1))[:, None]
    scores = (x * embedding(cell, weights.reshape(-1, parts))).sum(-1) + bias[bucket]
    return cross_entropy(scores.masked_fill(torch.from_numpy(~question.ranked), -1e9), torch.from_numpy(question.target))


def _fit(question: _Question, names: Sequence[str], cells: tuple[int, int]) -> _Values:
    spread = question.features.reshape(-1, len(names)).std(0) + 1e-6
    scaled = replace(question, features=(question.features / spread).astype(np.float32))
    alone = int(names[0] == MODEL)  # a search has a language model's probabilities before it knows the item
    raw, bias = torch.zeros(len(names), requires_grad=True), torch.zeros(len(BORDERS) + 1, requires_grad=True)
    factors = torch.zeros(*cells, len(names) - alone, requires_grad=True)

    def weights() -> torch.Tensor:
        # softplus: no weight is negative
        return softplus(raw) * torch.cat([torch.zeros(*cells, alone), factors - factors.mean((0, 1))], -1).exp()

    def loss() -> torch.Tensor:
        return _loss(scaled, weights(), bias) + _PENALTY * (bias**2).sum() + _PULL * (factors**2).sum()

    _minimise([raw, bias, factors], loss, 200)
    found = weights().detach() / torch.from_numpy(spread)
    if not found[..., 0].mean() > 1e-3:
        raise ValueError(f"{names[0]!r} got no weight beside the others, so their weights cannot be stated beside its own.")
    return _Values(found, bias.detach())


def _minimise(values: list[torch.Tensor], loss: Callable[[], torch.Tensor], rounds: int) -> None:
    optimizer = torch.optim.LBFGS(values, max_iter=rounds, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[arg-type]
