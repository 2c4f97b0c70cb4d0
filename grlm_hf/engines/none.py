"""No language model at all: for recommenders that only count and compare texts."""

from __future__ import annotations

from typing import Any

from grlm_hf.engines.protocol import Batch, Engine, Prefixes


class NoModel(Engine):
    """Stands where a recommender has no language model. Whatever needs one is refused."""

    name = "a recommender without a language model"
    vocabulary = 2**31
    max_length = None

    def prefixes(self, batch: Batch) -> Prefixes:
        return self.language_model("A search")

    def language_model(self, purpose: str) -> Any:
        """Raises ``ValueError``."""
        raise ValueError(f"{purpose} needs a language model, and this is {self.name}. Use the checkpoint that has one.")
