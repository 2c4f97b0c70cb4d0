"""Which engine runs a model."""

from __future__ import annotations

from typing import Any

import torch

from grlm_hf.engines.causal import CausalEngine
from grlm_hf.engines.protocol import Engine


def engine_of(model: Any) -> Engine:
    """The engine that runs `model`: a causal LM of transformers, or an engine already. Raises ``ValueError`` for anything else."""
    if isinstance(model, Engine):
        return model
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"Found a model of type {type(model).__name__}; expected a causal LM of transformers, or an Engine.")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{type(model).__name__} is an encoder-decoder model; expected a causal (decoder-only) language model.")
    return CausalEngine(model)
