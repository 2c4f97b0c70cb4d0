"""Settings of the quantisers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from grlm_hf.identifiers.symbols import LEVELS
from grlm_hf.settings import Count, Limit, NotNegative, Positive, Range, Seed, Size, check_settings

QuantizerName = Literal["residual-kmeans", "opq", "pq", "rqvae", "random"]


@dataclass(frozen=True)
class RQVAEConfig:
    """Settings of the residual-quantised autoencoder."""

    hidden: list[Size] = field(default_factory=lambda: [512, 256, 128])
    """Widths of the encoder's layers between vector and latent; the decoder has the same in reverse."""
    latent: Size = 32
    """Dimensions of the latent, which the codes quantise."""
    beta: NotNegative = 0.25
    """Weight of the commitment loss, which draws a latent to its codes."""
    epochs: Count = 100
    """Passes over all items."""
    batch_size: Size = 1024
    """Items of a training step."""
    learning_rate: Positive = 1e-3
    """AdamW's, constant."""
    weight_decay: NotNegative = 1e-4
    """AdamW's, for the matrices of encoder and decoder."""
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    """How the gradient passes the codes: "straight-through" (unchanged), or "rotation" (turned and scaled as the latent is on its way to
    its codes; Fifty et al., 2024)."""
    restart: Limit = 3
    """A code that no item has had for this many epochs becomes what a random item has left at its level; 0: it stays unused."""
    alpha: NotNegative = 0.0
    """Weight of a contrastive loss between codes and behaviour (LETTER, Wang et al., 2024): items bought together get similar codes."""
    sinkhorn: bool = False
    """Train the last level with a balanced assignment, in which all codes have equally many items (LC-Rec, Zheng et al., 2024)."""

    def __post_init__(self) -> None:
        check_settings(self, "identifier.codes.rqvae.")


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
    rqvae: RQVAEConfig = field(default_factory=RQVAEConfig)

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
