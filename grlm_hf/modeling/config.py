"""The GRLM config of a checkpoint: what it states beside the language model's own config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from grlm_hf.layout import CONFIG_SCHEMA


@dataclass(frozen=True)
class GRLMConfig:
    """What a checkpoint states beside the language model's own config."""

    max_history: int = 20
    """Items of a history that a prompt shows."""
    prompt_hash: str = ""
    """`grlm_hf.tasks.prompts.prompt_hash` at training time."""
    tokenizer_hash: str = ""
    """`grlm_hf.tokens.tokenizer_hash` of the tokenizer trained with."""
    objective: str = "vocabulary"
    """What the training loss, and so every score, is normalised over (`grlm_hf.layout.OBJECTIVES`)."""
    history: str = "term_ids"
    """What a prompt shows of each item of a history (`grlm_hf.layout.HISTORIES`)."""
    max_tokens: int = 0
    """Tokens of a prompt and its answer that the training kept to; 0: only the model's own limit counts."""
    schema: int = CONFIG_SCHEMA
