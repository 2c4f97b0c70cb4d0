"""How scorers are put together, apart from their weights: what is weighted (log-probabilities or probabilities), and by what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

Form = Literal["product", "mixture", "gate"]
"""Σ weight · log p (a product of experts; Hinton 2002), Σ weight · p (a mixture), or a product with weights that depend on the item's
training events and on the length of the history."""
Choice = Literal[Form, "best"]
"""A form; or the better one of product and gate on validation cases."""
Fit = Literal["ndcg", "macro", "likelihood"]
"""What weights are chosen by: mean NDCG@10, its macro average over slices of the targets' frequency, or the targets' likelihood."""
BORDERS = (3, 6, 14)
"""Training events at which an item's bias and gate change."""
LENGTHS = (3, 6)
"""Items of a history at which a gate changes."""
MODEL = "grlm"
"""Name of a language model's own part, where it is fused with others."""
_LEAST = 1e-300  # probability; its log is finite
_WORDS = {
    "mixture": "as a mixture of their probabilities",
    "gate": "a gate of the weights by how often an item sold",
}


def buckets(counts: np.ndarray) -> np.ndarray:
    """int64 `[n_items]`, the bucket of `BORDERS` of items with these numbers of training events."""
    return np.searchsorted(BORDERS, counts, side="right")


def length_buckets(histories: Sequence[Sequence[str]]) -> np.ndarray:
    """int64 `[n]`, the bucket of `LENGTHS` of these histories."""
    return np.searchsorted(LENGTHS, [len(history) for history in histories], side="right")


def sharpened(part: np.ndarray, temperature: float) -> np.ndarray:
    """Float32 `[n, n_items]`: the probabilities of ``softmax(part / temperature)``."""
    scores = part / np.float32(temperature)
    scores -= scores.max(1, keepdims=True)
    p: np.ndarray = np.exp(scores, out=scores)
    p /= p.sum(1, dtype=np.float64)[:, None]
    return p


@dataclass(frozen=True)
class How:
    """Attributes:
        bias: added to the score of an item by its bucket of `BORDERS`; by default none. Not with a mixture.
        temperatures: of a mixture's components, by name: each is ``softmax(log p / temperature)``. A component without one stays as it is.
        gate: factors on the weights of a gate's components, by name: a row for each bucket of `BORDERS`, a column for each of `LENGTHS`.
            A component without factors has its weight everywhere.
        fit: what chose the weights; for people only.

    Raises `ValueError` for another form or fit, values of another length or out of range, or values that the form does not have.
    """

    form: Form = "product"
    fit: Fit = "ndcg"
    bias: Sequence[float] = ()
    temperatures: Mapping[str, float] = field(default_factory=dict)
    gate: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given, allowed in (("form", self.form, get_args(Form)), ("fit", self.fit, get_args(Fit))):
            if given not in allowed:
                raise ValueError(f"The {name} of a fused prior is {given!r}; expected one of {', '.join(allowed)}.")
        object.__setattr__(self, "bias", tuple(map(float, self.bias)))
        object.__setattr__(self, "temperatures", {str(name): float(t) for name, t in dict(self.temperatures).items()})
        tables = {str(name): tuple(tuple(map(float, row)) for row in table) for name, table in dict(self.gate).items()}
        object.__setattr__(self, "gate", tables)
        right = len(self.bias) == len(BORDERS) + 1 and all(map(math.isfinite, self.bias)) and self.form != "mixture"
        if self.bias and not right:
            raise ValueError(
                f"A {self.form} has the bias {list(self.bias)}; expected {len(BORDERS) + 1} finite numbers, for a mixture none."
            )
        if any(not 0 < t < math.inf for t in self.temperatures.values()) or (self.temperatures and self.form != "mixture"):
            raise ValueError(f"The temperatures of a {self.form} are {self.temperatures}; expected numbers above 0, and only of a mixture.")
        if bool(tables) != (self.form == "gate"):
            raise ValueError(f"A {self.form} has factors for {len(tables)} components; expected some for a gate, and none for others.")
        for name, table in tables.items():
            right = len(table) == len(BORDERS) + 1 and all(len(row) == len(LENGTHS) + 1 for row in table)
            if not right or not all(0 <= f < math.inf for row in table for f in row):
                raise ValueError(
                    f"The gate of {name!r} is {table}; expected {len(BORDERS) + 1} rows of {len(LENGTHS) + 1} finite numbers, 0 or more."
                )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> How:
        """From a block of a file that has `facts` among its keys."""
        return cls(**{f.name: facts[f.name] for f in fields(cls) if f.name in facts})

    @property
    def facts(self) -> dict[str, Any]:
        """What differs from the defaults, for a file. A bias belongs to the fit by likelihood, which then goes without saying."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        left = {f.name for f in fields(self) if not found[f.name] or found[f.name] == f.default}
        left |= {"fit"} if self.form == "product" and self.fit == "likelihood" else set()
        return {name: list(value) if name == "bias" else value for name, value in found.items() if name not in left}

    @property
    def words(self) -> list[str]:
        """For people: what differs from the defaults."""
        said = [_WORDS[self.form]] if self.form in _WORDS else []
        if any(len(set(row)) > 1 for table in self.gate.values() for row in table):
            said[0] += " and how long the history is"
        said += ["a bias by how often an item sold"] if self.bias else []
        return said + (["chosen by the macro average over slices of target popularity"] if self.fit == "macro" else [])

    @property
    def counting(self) -> bool:
        """Whether items' training events are needed."""
        return bool(self.bias or self.gate)

    def among(self, names: Iterable[str]) -> How:
        """The same for these components alone."""
        kept = set(names)
        gate = {name: table for name, table in self.gate.items() if name in kept}
        temperatures = {name: t for name, t in self.temperatures.items() if name in kept}
        return How("product" if self.gate and not gate else self.form, self.fit, self.bias, temperatures, gate)

    def total(
        self, parts: Iterable[tuple[str, float, np.ndarray]], bucket: np.ndarray | None, lengths: np.ndarray, n_items: int
    ) -> np.ndarray:
        """Float32 `[n, n_items]`: the score of each item, natural log, not normalised.

        Args:
            parts: name, weight, and float32 `[n, n_items]`, log-probabilities; those of weight 0 may be missing.
            bucket: int64 `[n_items]`, of `buckets`; needed if `counting`.
            lengths: int64 `[n]`, of `length_buckets`.
        """
        total = np.zeros((len(lengths), n_items), np.float32 if self.form != "mixture" else np.float64)
        for name, weight, part in parts:
            if self.form == "mixture":
                total += weight * (sharpened(part, self.temperatures[name]) if name in self.temperatures else np.exp(part))
            elif weight and (table := self.gate.get(name)) is not None:
                total += np.array(table, np.float32)[bucket][:, lengths].T * np.float32(weight) * part
            elif weight:
                total += np.float32(weight) * part
        if self.form == "mixture":
            return np.log(np.maximum(total, _LEAST)).astype(np.float32)
        if self.bias:
            total += np.array(self.bias, np.float32)[bucket]
        return total
