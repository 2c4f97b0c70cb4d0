"""The constraint's scores for one step, for both of vLLM's model runners. Loads no vLLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

NO_BEAM = -1e9
"""The score of EOS where a prompt ends in the beginning of no identifier: a beam with this score is invalid."""


def put(values: Any, device: torch.device) -> torch.Tensor:
    """A list or an array as a tensor on the device. Does not wait for the device."""
    found = torch.from_numpy(np.asarray(values))
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


def next_scores(
    logits: torch.Tensor,
    token: torch.Tensor,
    valid: torch.Tensor,
    legal: torch.Tensor,
    closes: torch.Tensor,
    tail: torch.Tensor,
    eos: int,
    objective: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The entries of the next scores that may be finite, as (token, value), each [rows, width + 1]; duplicates of a token agree.

    Args:
        logits: float32 [rows, vocabulary].
        token: int64 [rows, width], the children of each row's node; where not `valid`, any token.
        valid: bool [rows, width]; false for padding.
        legal: bool [rows, width]; the rules allow an item behind the child.
        closes: bool [rows, width]; the child is an identifier's last token, and EOS replaces it.
        tail: bool [rows]; as `grlm_hf.vllm.catalogs.Constraint.tail`.
        objective: what log-probabilities are normalised over (`grlm_hf.layout.OBJECTIVES`).
    """
    # Normalised over all children, not over the legal ones alone, so that a rule changes no item's score.
    values = logits.gather(1, torch.where(valid, token, 0)).masked_fill(~valid, -torch.inf)
    values = values.log_softmax(1) if objective == "trie" else values - logits.logsumexp(1, keepdim=True)
    legal = legal & valid & (~closes | (closes.sum(1, keepdim=True) < 2))  # one EOS cannot replace two last tokens: it replaces neither
    values = torch.where(legal & ~values.isnan(), values, -torch.inf)
    # EOS is legal where nothing else is (the end, a rule, or another processor left nothing), and in place of a last token.
    nothing = torch.where(tail, NO_BEAM, 0.0).to(values.dtype)
    end = torch.where(values.amax(1) == -torch.inf, nothing, torch.where(closes, values, -torch.inf).amax(1))[:, None]
    written = valid & ~closes
    token, values = torch.where(written, token, eos), torch.where(written, values, end)
    return torch.cat((token, torch.full_like(token[:, :1], eos)), 1), torch.cat((values, end), 1)
