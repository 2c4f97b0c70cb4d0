"""How the validation loss of a model falls with its size: L(N) = a · N^-alpha + b, in nats, N the number of parameters.

The form is that of Kaplan et al. 2020 (arXiv 2001.08361) with the constant of Hoffmann et al. 2022 (arXiv 2203.15556). Least squares with
a, b ≥ 0: for each of many exponents a and b have a closed form, and the exponent with the smallest error is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grlm_hf.evaluation.metrics import Estimate, bootstrap, resampled, user_sums
from grlm_hf.evaluation.report.table import Cell, Table
from grlm_hf.evaluation.schema import plain

SCALING_SCHEMA = "grlm.scaling/1"
LEAST = 4
"""Sizes: three for the three unknowns, and one to predict."""
_ALPHAS = np.geomspace(0.01, 3, 1500)  # 0.4 % apart


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model that was trained."""

    name: str  # as it was asked for, such as "2M"
    parameters: int  # that it has
    without_embeddings: int
    hidden_size: int
    layers: int
    loss: Estimate  # mean negative log-probability of a validation user's next item, within the trie; nats


@dataclass(frozen=True, kw_only=True)
class Law:
    """a · N^-alpha + b. Intervals are 95 % bootstrap intervals over validation users."""

    a: Estimate
    alpha: Estimate
    b: Estimate


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Sizes in ascending order; the law is fitted on all but the largest one, which it predicts."""

    name: str
    users: int
    sizes: tuple[Size, ...]
    law: Law
    predicted: Estimate  # the loss of the largest size
    note: str  # on how far this can be trusted

    def to_json(self) -> dict[str, Any]:
        """The content of ``scaling.json``."""
        return {"schema": SCALING_SCHEMA, **plain(self)}

    def table(self) -> Table:
        """A row a size, and below it the law and its prediction."""
        law, last = self.law, self.sizes[-1]
        rows = tuple(
            (
                Cell(s.name), Cell(f"{s.parameters:,}", "", s.parameters), Cell(f"{s.hidden_size} × {s.layers}"),
                Cell(f"{s.loss.value:.4f}", f"[{s.loss.low:.4f}, {s.loss.high:.4f}]", s.loss.value),
            )
            for s in self.sizes
        )  # fmt: skip
        notes = (
            f"Loss: mean negative log-probability of the next item within the trie, nats, {self.users:,} validation users.",
            f"L(N) = {law.a.value:.4g} · N^-{law.alpha.value:.3f} + {law.b.value:.3f}; alpha {_within(law.alpha)}, b {_within(law.b)}.",
            f"{last.name} was held out of the fit: predicted {self.predicted.value:.4f} {_within(self.predicted, 4)}, measured "
            f"{last.loss.value:.4f}.",
            self.note,
        )
        return Table("", ("size", "parameters", "hidden × layers", "loss"), rows, notes=notes)


def scaling(name: str, sizes: Sequence[Mapping[str, Any]], losses: np.ndarray, users: Sequence[str], seed: int = 0) -> Scaling:
    """The law of several sizes.

    Args:
        sizes: the other fields of `Size`, by ascending parameters; at least `LEAST`.
        losses: float64 [sizes, cases], of the same cases for each size.
        users: the user of each case.
    """
    names = [s["name"] for s in sizes]
    parameters = np.array([s["parameters"] for s in sizes], np.float64)
    found = bootstrap(dict(zip(names, losses, strict=True)), users, seed=seed)
    drawn = resampled(user_sums(np.column_stack([losses.T, np.ones(losses.shape[1])]), users), 1000, seed)
    means = np.concatenate([losses.mean(1)[None], drawn])  # the data themselves first
    a, alpha, b = fit(parameters[:-1], means[:, :-1])
    law = Law(a=_estimate(a), alpha=_estimate(alpha), b=_estimate(b))
    note = "Intervals are a bootstrap over validation users: another seed of the training moves the losses, too, and is not in them. "
    note += "Steps, data and learning rate were the same for all sizes."
    if a[0] == 0 or not _ALPHAS[0] < alpha[0] < _ALPHAS[-1]:
        note = "The loss does not fall with the size as a power law here, so alpha means nothing. " + note
    return Scaling(
        name=name,
        users=len(set(users)),
        sizes=tuple(Size(**s, loss=found[s["name"]]) for s in sizes),
        law=law,
        predicted=_estimate(a * parameters[-1] ** -alpha + b),
        note=note,
    )


def fit(parameters: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of several curves at once.

    Args:
        parameters: float64 [sizes], above 0, at least three.
        losses: float64 [curves, sizes].

    Returns:
        a, alpha and b, float64 [curves] each; a and b are 0 or more.
    """
    x = (parameters[:, None] / parameters[0]) ** -_ALPHAS  # [sizes, alphas]; the smallest size is the unit, else powers run out of digits
    mean = losses.mean(1, keepdims=True)
    a = (losses - mean) @ (x - x.mean(0)) / ((x - x.mean(0)) ** 2).sum(0)  # [curves, alphas]
    b = mean - a * x.mean(0)
    a, b = np.where(b < 0, losses @ x / (x**2).sum(0), a), np.maximum(b, 0)
    a, b = np.maximum(a, 0), np.where(a < 0, mean, b)
    error = sum((a * x[n] + b - losses[:, n : n + 1]) ** 2 for n in range(len(x)))
    best = np.asarray(error).argmin(1)
    row = np.arange(len(losses))
    alpha = _ALPHAS[best]
    return a[row, best] * parameters[0] ** alpha, alpha, b[row, best]


def _estimate(values: np.ndarray) -> Estimate:
    """Of the data themselves, which are first, and of the resamples behind them."""
    low, high = np.quantile(values[1:], [0.025, 0.975]).tolist()
    return Estimate(float(values[0]), low, high)


def _within(value: Estimate, digits: int = 3) -> str:
    return f"[{value.low:.{digits}f}, {value.high:.{digits}f}]"
