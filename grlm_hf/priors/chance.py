"""Random items, seeded by the history: the scores of a ranking without knowledge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chance:
    """Random probabilities that depend only on history, seed and items."""

    item_ids: tuple[str, ...]
    seed: int = 0

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: all."""
        return np.ones(len(self.item_ids), bool)

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`; see `Scorer`."""
        found = np.empty((len(histories), len(self.item_ids)), np.float32)
        for row, history in zip(found, histories, strict=True):
            digest = hashlib.sha256(f"{self.seed}:{'|'.join(history)}".encode()).digest()
            weight = 1 - np.random.default_rng(int.from_bytes(digest[:8])).random(len(row))  # above 0, so that its log is finite
            row[:] = np.log(weight / weight.sum())
        return found
