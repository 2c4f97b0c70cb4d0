"""Tables of search nodes: frozen dataclasses of equally long NumPy arrays, selected and joined by row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Nodes:
    """Trie nodes that a search has scored and not computed.

    Attributes (n nodes):
        user: int64 [n]; the row of the prompt.
        slot, have: int64 [n]; the computed prefix that a node continues, and its number of tokens (`grlm_hf.engines.protocol`).
        lo, hi: int64 [n]; the node's interval of ranks.
        logp: float64 [n]; natural-log probability of the node's prefix.
        key: float64 [n]; what nodes are compared by.
    """

    user: np.ndarray
    slot: np.ndarray
    have: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    logp: np.ndarray
    key: np.ndarray

    @classmethod
    def empty(cls) -> Self:
        return cls(*(np.zeros(0, np.int64) for _ in range(5)), *(np.zeros(0) for _ in fields(cls)[5:]))

    def __getitem__(self, rows: np.ndarray) -> Self:
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def join(cls, one: Self, other: Self) -> Self:
        return cls(*(np.concatenate((getattr(one, f.name), getattr(other, f.name))) for f in fields(cls)))
