"""vLLM's engine for the searches, in place of a model of transformers."""

from __future__ import annotations

from typing import Any

from grlm_hf.engines.protocol import Batch, Engine
from grlm_hf.llms.start import start
from grlm_hf.vllm.prefixes import VLLMPrefixes

FORCED = "grlm_hf.vllm.forced:ForcedTokens"


def start_for_searches(model: str, **options: Any) -> Any:
    """`grlm_hf.llms.start.start`, with defaults that make the searches fast on a CPU: small blocks, so that little of a prompt is computed
    again for each prefix, and `grlm_hf.vllm.forced`."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        options = {"block_size": 32, "logits_processors": [FORCED]} | options
    return start(model, **options)


class VLLMEngine(Engine):
    """A running ``vllm.LLM``, best from `start_for_searches`, as an engine for every search, with every rule and prior."""

    name = "vLLM's engine"

    def __init__(self, llm: Any):
        config = llm.llm_engine.model_config
        self.llm = llm
        self._logprobs_mode: str = config.logprobs_mode
        self._forcing = FORCED in (config.logits_processors or ()) and config.logprobs_mode == "raw_logprobs"
        self._vocabulary, self._max_length = config.get_vocab_size(), config.max_model_len

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    @property
    def max_length(self) -> int:
        return self._max_length

    def prefixes(self, batch: Batch) -> VLLMPrefixes:
        if self._logprobs_mode not in ("raw_logprobs", "processed_logprobs"):
            raise ValueError(
                f"The engine runs with logprobs_mode={self._logprobs_mode!r}; the searches need log-probabilities. Leave the option out."
            )
        return VLLMPrefixes(self.llm, batch, self._forcing)
