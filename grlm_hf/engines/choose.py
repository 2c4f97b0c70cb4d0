"""Which engine runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grlm_hf.engines.causal import Prefixes
from grlm_hf.trie.walker import TrieWalker


def prefixes_of(
    model: Any,
    walker: TrieWalker,
    prompts: Sequence[np.ndarray],
    objective: str = "vocabulary",
    pad_token_id: int = 0,
    lookahead: int | None = None,
) -> Any:
    """`Prefixes`, or what the model has in its place: a method ``prefixes`` of the same arguments (`grlm_hf.vllm.engine.VLLMModel`), whose
    result has the same ``root``, ``expand``, ``walker``, ``objective`` and ``forwards``."""
    own = getattr(model, "prefixes", None)
    if own is not None:
        return own(walker, prompts, objective, pad_token_id, lookahead)
    return Prefixes(model, walker, prompts, objective, pad_token_id, lookahead)
