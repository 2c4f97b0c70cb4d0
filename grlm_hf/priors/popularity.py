"""Popularity: an item's share of the training events, the same for every history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.priors.scores import log_shares
from grlm_hf.tensors import read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class Popularity:
    """Made by `fit`."""

    kind: ClassVar[str] = "popularity"
    item_ids: tuple[str, ...]
    counts: np.ndarray  # int64 [n_items], events of each item in the training histories

    @classmethod
    def fit(cls, item_ids: Iterable[str], train: Iterable[History]) -> Popularity:
        """Counts the items of `train`; ids that are not in `item_ids` are ignored."""
        count = Counter(item for history in train for item in history.items)
        ids = tuple(item_ids)
        return cls(ids, np.array([count[item] for item in ids], np.int64))

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items of the training histories."""
        return self.counts > 0

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: the log of an item's share of the events, plus one event per item; see `Scorer`."""
        row = log_shares(self.counts).astype(np.float32)
        return np.tile(row, (len(histories), 1))

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        write_tensors(path, self.kind, {"items": {"counts": self.counts}}, {"item_ids": list(self.item_ids)})

    @classmethod
    def load(cls, path: str | Path) -> Popularity:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        return cls(tuple(facts["item_ids"]), groups["items"]["counts"].numpy())
