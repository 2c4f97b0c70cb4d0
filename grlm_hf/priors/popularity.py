"""The same for everyone: an item's share of the training events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.priors.tensors import read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class Popularity:
    """Make one with `fit`.

    Attributes:
        item_ids: the order of columns.
        counts: int64 `[n_items]`, events of each item in the training histories.
    """

    kind: ClassVar[str] = "popularity"

    item_ids: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def fit(cls, item_ids: Iterable[str], train: Iterable[History]) -> Popularity:
        """Counts the items of `train`; those that are not among `item_ids` are passed over."""
        count = Counter(item for history in train for item in history.items)
        ids = tuple(item_ids)
        return cls(ids, np.array([count[item] for item in ids], np.int64))

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items of the training histories."""
        return self.counts > 0

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: the log of an item's share of the events, each item counted once more; see `Scorer`."""
        row = np.log((self.counts + 1) / (self.counts + 1).sum()).astype(np.float32)
        return np.tile(row, (len(histories), 1))

    def save(self, path: str | Path) -> None:
        """Writes it as one file, in the safetensors format, atomically."""
        write_tensors(path, self.kind, {"items": {"counts": self.counts}}, {"item_ids": list(self.item_ids)})

    @classmethod
    def load(cls, path: str | Path) -> Popularity:
        """What `save` wrote. Raises ``ValueError`` when the file is missing, broken or something else."""
        groups, facts = read_tensors(path, cls.kind)
        return cls(tuple(facts["item_ids"]), groups["items"]["counts"].numpy())
