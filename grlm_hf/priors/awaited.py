"""A part of a prior that needs the language model of its checkpoint: a file can name it, a recommender puts the real one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from grlm_hf.tensors import read_tensors, write_tensors

DENSE = "dense"
"""Name, and kind, of the language model's own answer without decoding (`grlm_hf.modeling.dense`)."""


@dataclass(frozen=True)
class Awaited:
    """Holds the place of the dense scorer in a `Fused` outside of a recommender, where nothing can be scored with it."""

    kind: ClassVar[str] = DENSE
    item_ids: tuple[str, ...]

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`, all ``False``."""
        return np.zeros(len(self.item_ids), bool)

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """Raises ``ValueError``."""
        raise ValueError(
            f"This prior has the part {DENSE!r}, which is a language model's answer. Load its checkpoint with "
            "GRLMForRecommendation.from_pretrained, and use prior='own'."
        )

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically: item ids, and no tensors that matter."""
        write_tensors(path, self.kind, {"none": {"none": np.zeros(1, np.float32)}}, {"item_ids": list(self.item_ids)})

    @classmethod
    def load(cls, path: str | Path) -> Awaited:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        return cls(tuple(read_tensors(path, cls.kind)[1]["item_ids"]))
