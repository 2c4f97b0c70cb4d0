"""Settings of the quantisers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from grlm_hf.identifiers.symbols import LEVELS
from grlm_hf.settings import Limit, Range, Seed, check_settings

QuantizerName = Literal["residual-kmeans", "opq", "pq", "rqvae", "random"]


@dataclass(frozen=True)
class QuantizerConfig:
    """Settings of a quantiser."""

    quantizer: QuantizerName = "residual-kmeans"
    """"residual-kmeans" (k-means of what the levels before leave; seconds), "opq" (rotated product quantisation: each code describes
    another part of the vector; seconds), "pq" (the same without the rotation), "rqvae" (a residual-quantised autoencoder as in TIGER;
    minutes), or "random" (knows nothing of an item: the control)."""
    levels: Annotated[int, Range(1, len(LEVELS))] = 3
    """Codes of an identifier."""
    codes: list[Annotated[int, Range(2, 65536)]] = field(default_factory=lambda: [256])
    """Number of different codes, of all levels or one for each level, such as [1024,256,64]."""
    dims: Limit = 128
    """The vectors are projected to this many principal components first; 0: they are not. RQ-VAE has a network in its place."""
    seed: Seed = 0
    """Seed of everything random in the quantiser."""

    def __post_init__(self) -> None:
        check_settings(self, "identifier.codes.")
        if len(self.codes) not in (1, self.levels):
            raise ValueError(
                f"identifier.codes.codes has {len(self.codes)} sizes for {self.levels} levels; expected one size, or one for each level."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes at each level."""
        return tuple(self.codes) * (self.levels if len(self.codes) == 1 else 1)
