"""Forced tokens, for our searches on vLLM's V1 model runner: a request writes given tokens, and what each costs is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from grlm_hf.vllm.prefixes import KEY


class ForcedTokens(LogitsProcessor):
    """Makes the first tokens of an answer those of ``SamplingParams.extra_args["forced_tokens"]``, a list of ids.

    So a run of tokens that a trie leaves no choice in is computed by decoding, a row of logits a token. Asked for as log-probabilities of
    a prompt, it takes a row for each token since the last full block of the prefix cache, which a large vocabulary makes slow on a CPU.
    """

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):
        self._requests: dict[int, tuple[Sequence[int], list[int]]] = {}  # by row: what is forced, and the output so far

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._requests.pop(row, None)
        for row, params, _, output in batch_update.added:
            self._requests.pop(row, None)
            if forced := (params.extra_args or {}).get(KEY):
                self._requests[row] = (forced, output)
        for a, b, direction in batch_update.moved:
            first, second = self._requests.pop(a, None), self._requests.pop(b, None)
            if first is not None:
                self._requests[b] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self._requests[a] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Only how many tokens have been written counts, so tokens that the host does not know yet do no harm."""
        now = [(row, f[len(out)]) for row, (f, out) in self._requests.items() if len(out) < len(f) and row < len(logits)]
        if now:
            rows, tokens = torch.tensor(now, device=logits.device).T
            logits.index_fill_(0, rows, -torch.inf)
            logits[rows, tokens] = 0.0
        return logits
