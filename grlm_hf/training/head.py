"""The cross-entropy over the full vocabulary. Logits are computed only for labels, and never for all labels at once.

TRL's own loss does the same on a GPU. On a CPU it computes the logits of every position twice, prompts and padding too, and their
entropies. PyTorch's `linear_cross_entropy` rounds its value to the type of the products: in bfloat16 to two or three digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_SHAPED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_CHUNK = 2**25  # logits at once, 128 MB


def linear_head(model: Any) -> bool:
    """Whether the model's logits are its last hidden states through an ordinary linear layer that is not sharded: nothing caps, scales or
    adds to them (as Gemma, Cohere and Granite do)."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if type(head).__name__ == "TrainableTokensWrapper":  # peft's, around a linear layer of which it trains some rows (`token_indices`)
        head = head.original_module
    return (
        type(head) is torch.nn.Linear
        and head.weight.numel() == head.in_features * head.out_features
        and not any(getattr(config, name, None) for name in _SHAPED)
    )


def plain_head(model: Any) -> bool:
    """Whether `vocabulary_nll` replaces TRL's own loss: on a CPU, with a `linear_head`."""
    return linear_head(model) and model.get_output_embeddings().weight.device.type == "cpu"


def check_linear_head(model: Any) -> None:
    """Raises ``ValueError`` where free text cannot be learnt beside identifiers under the objective "trie"."""
    if not linear_head(model):
        raise ValueError(
            f"{type(model).__name__} has no plain linear output layer (its logits are capped, scaled, sharded or adapted), so "
            "train.objective=trie cannot learn free text with it. Use train.objective=vocabulary, or leave out the tasks with free text: "
            "mixture.chat=0, mixture.term_id_to_title=0."
        )


def vocabulary_nll(hidden: torch.Tensor, head: torch.nn.Linear, label: torch.Tensor) -> torch.Tensor:
    """Sum of the negative natural-log probabilities of the labels over the full vocabulary; products in autocast's type, where it is on.

    Args:
        hidden: float [n, hidden], the model's last hidden states where the labels are predicted.
        head: the output layer, [vocab, hidden].
        label: int64 [n].

    Returns:
        float32 scalar; 0 without labels.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _ChunkedNLL.apply(hidden, head.weight, getattr(head, "bias", None), label, dtype, torch.is_grad_enabled())


def vocabulary_log_probs(hidden: torch.Tensor, head: torch.nn.Linear, label: torch.Tensor) -> torch.Tensor:
    """Natural-log probability of each label over the full vocabulary, float32 [n]; arguments as of `vocabulary_nll`. The backward pass
    computes the logits again, a chunk at a time."""

    def log_probs(hidden: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return head(hidden).float().log_softmax(1).gather(1, label[:, None])[:, 0]

    rows = max(1, _CHUNK // len(head.weight))
    chunks = zip(hidden.split(rows), label.split(rows), strict=True)
    return torch.cat([checkpoint(log_probs, h, y, use_reentrant=False) for h, y in chunks])


class _ChunkedNLL(torch.autograd.Function):
    """Computes the gradients in the forward pass, as long as a chunk's logits exist."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, label: Any, dtype: torch.dtype, learns: bool) -> torch.Tensor:
        wanted = [learns and needed for needed in ctx.needs_input_grad[:3]]
        grads: list[Any] = [torch.zeros_like(x) if want else None for x, want in zip((hidden, weight, bias), wanted, strict=True)]
        w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
        total, rows = torch.zeros((), device=hidden.device), max(1, _CHUNK // len(weight))
        for begin in range(0, len(label), rows):
            h, y = hidden[begin : begin + rows].to(dtype), label[begin : begin + rows, None]
            log_p = F.linear(h, w, b).float()
            log_p -= log_p.logsumexp(1, keepdim=True)
            total -= log_p.gather(1, y).sum()
            if not any(wanted):
                continue
            slope = log_p.exp_().scatter_add_(1, y, torch.full_like(y, -1.0, dtype=log_p.dtype)).to(dtype)
            if wanted[0]:
                grads[0][begin : begin + rows] = slope @ w
            if wanted[1]:
                grads[1] += slope.T @ h
            if wanted[2]:
                grads[2] += slope.sum(0)
        ctx.grads = grads
        return total

    @staticmethod
    def backward(ctx: Any, *factor: torch.Tensor) -> Any:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("The gradient of this loss can be computed only once.")
        return *(None if grad is None else grad.mul_(factor[0]) for grad in grads), None, None, None
