"""Forced tokens, for the searches on vLLM's V1 model runner: a request writes given tokens, and their log-probabilities are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from grlm_hf.vllm.prefixes import KEY


class ForcedTokens(LogitsProcessor):
    """Makes the first tokens of an answer those of ``SamplingParams.extra_args["forced_tokens"]``, a list of ids.

    So a run of forced tokens in the trie is computed by decoding, with one row of logits for each token. As log-probabilities of a prompt,
    it would take a row for each token since the last full block of the prefix cache, which is slow on a CPU with a large vocabulary.
    """

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):
        self._requests: dict[int, tuple[Sequence[int], list[int]]] = {}  # by row: the forced tokens, and the output so far

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        def forced(params: Any, prompt: Any, output: list[int]) -> tuple[Sequence[int], list[int]] | None:
            tokens = (params.extra_args or {}).get(KEY)
            return (tokens, output) if tokens else None

        process_dict_updates(self._requests, batch_update, forced)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Reads only the number of tokens written, so placeholders of tokens that the host does not know yet do no harm."""
        now = [(row, f[len(out)]) for row, (f, out) in self._requests.items() if len(out) < len(f) and row < len(logits)]
        if now:
            rows, tokens = torch.tensor(now, device=logits.device).T
            logits.index_fill_(0, rows, -torch.inf)
            logits[rows, tokens] = 0.0
        return logits
