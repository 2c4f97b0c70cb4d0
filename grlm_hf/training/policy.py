"""TRL's preference trainers made to train a recommender. This is the one file that knows TRL's internals, of versions 1.16.x.

TRL's trainers call ``model(input_ids, attention_mask, labels=…, fused_lm_head=True).log_probs``. `follow_objective` answers that call
with log-probabilities normalised as the checkpoint's scores are, each prompt computed once for all of its completions. So GRPO, DPO and
the reference model follow the same convention, and no method of a trainer is rewritten for it.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from trl import DPOTrainer

from grlm_hf.training.head import check_linear_head, vocabulary_log_probs
from grlm_hf.training.objective import IGNORED, free_text_labels, label_nodes, trie_nll
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.walker import TrieWalker


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows with the same prompt as one sequence: the prompt without its last token, then one branch a row, from the prompt's last token to
    the row's last token but one.

    Attributes:
        ids: int64 [groups, length].
        labels: int64 [groups, length]; what each position predicts, `IGNORED` where it is no label.
        position: int64 [groups, length]; places in the row, for the model's position embedding.
        branch: int64 [groups, length]; 0 for the prompt, 1… for the branches, -1 after the last.
        source: two int64 [n]; group and place of each label.
        to: two int64 [n]; its row and column in the shifted rows [batch, length - 1].
    """

    ids: torch.Tensor
    labels: torch.Tensor
    position: torch.Tensor
    branch: torch.Tensor
    source: tuple[torch.Tensor, torch.Tensor]
    to: tuple[torch.Tensor, torch.Tensor]

    def mask(self) -> torch.Tensor:
        """Bool [groups, 1, length, length]: each position sees the prompt and its own branch up to itself."""
        key, query = self.branch[:, None, None, :], self.branch[:, None, :, None]
        n = self.branch.shape[1]
        return ((key == 0) | (key == query)) & torch.ones(n, n, dtype=torch.bool, device=self.branch.device).tril()


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Packed:
    """Packs rows by prompt, padded on whichever side. All three int64 [batch, length]; labels are `IGNORED` before the completion.

    Raises:
        ValueError: a row without a prompt or without a completion.
    """
    ids, real, labelled = (x.cpu().numpy() for x in (input_ids, attention_mask != 0, labels != IGNORED))
    groups: dict[bytes, list[tuple[int, np.ndarray, int]]] = {}
    for row in range(len(ids)):
        at = np.flatnonzero(real[row])
        begin = int(labelled[row, at].argmax()) if len(at) else 0
        if begin == 0:
            raise ValueError(f"Row {row} of the batch has no prompt or no completion; expected both.")
        groups.setdefault(ids[row, at[:begin]].tobytes(), []).append((row, at, begin))
    length = max(members[0][2] - 1 + sum(len(at) - begin for _, at, begin in members) for members in groups.values())
    packed = np.zeros((4, len(groups), length), np.int64)
    packed[1], packed[3] = IGNORED, -1
    source: list[tuple[int, int]] = []
    to: list[tuple[int, int]] = []
    for g, members in enumerate(groups.values()):
        row, at, begin = members[0]
        end = begin - 1
        packed[0, g, :end], packed[2, g, :end], packed[3, g, :end] = ids[row, at[:end]], np.arange(end), 0
        for number, (row, at, begin) in enumerate(members, 1):
            first, end = end, end + len(at) - begin
            keep = labelled[row, at[begin:]]
            packed[0, g, first:end] = ids[row, at[begin - 1 : -1]]
            packed[1, g, first:end] = np.where(keep, ids[row, at[begin:]], IGNORED)
            packed[2, g, first:end] = np.arange(begin - 1, len(at) - 1)
            packed[3, g, first:end] = number
            source += [(g, first + int(i)) for i in np.flatnonzero(keep)]
            to += [(row, int(column) - 1) for column in at[begin:][keep]]
    tensors = torch.from_numpy(packed).to(input_ids.device)
    indices = [tuple(torch.tensor(pairs, device=input_ids.device).T) for pairs in (source, to)]
    return Packed(tensors[0], tensors[1], tensors[2], tensors[3], *indices)  # type: ignore[arg-type]


def follow_objective(model: Any, trie: Trie | None) -> None:
    """Has ``model(…, labels=…, fused_lm_head=True)`` return log-probabilities as the checkpoint's scores are normalised, natural log.

    Args:
        model: a causal LM that a TRL trainer has given its fused head (`trl.trainer.utils.add_fused_lm_head`), with eager or SDPA
            attention: the policy or the reference.
        trie: of the objective "trie": the identifiers that end a completion are normalised over the legal children of the current trie
            node, free text before them over all tokens. TRL's other values (entropy, mean logit) are then NaN. ``None``: everything is
            normalised over all tokens.

    Other calls of the model are as before. Under the trie that call raises ``ValueError`` for a completion that does not end in an
    identifier, and for free text without a linear output layer.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    fused = model.forward
    within = _TrieObjective(trie, model.get_input_embeddings().weight.device) if trie else None

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return fused(*args, **kwargs)
        input_ids, labels = kwargs.pop("input_ids"), kwargs.pop("labels")
        packed = pack(input_ids, kwargs.pop("attention_mask"), labels)
        kwargs |= {"input_ids": packed.ids, "position_ids": packed.position, "attention_mask": _attention(self, packed.mask())}
        shape = (len(input_ids), input_ids.shape[1] - 1)

        def unpacked(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(shape).index_put(packed.to, values)

        if within is None:
            out = fused(fused_lm_head=True, shift_labels=packed.labels, **kwargs)
            names = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
            return FusedCausalLMOutput(**{n: unpacked(v[packed.source]) for n in names if (v := getattr(out, n)) is not None})
        hidden = self.base_model(**kwargs | {"use_cache": False}).last_hidden_state
        log_p = within.log_probs(self, hidden, packed, labels)
        unknown = torch.full(shape, torch.nan, device=log_p.device)
        return FusedCausalLMOutput(
            log_probs=unpacked(log_p[packed.source]), entropy=unknown, mean_logits=unknown, is_top1=unknown > 0, log_sum_sq_probs=unknown
        )

    model.forward = types.MethodType(forward, model)


class _TrieObjective:
    """Log-probabilities of completions under the objective "trie"."""

    def __init__(self, trie: Trie, device: torch.device):
        self.eos: Any = trie.eos_token_id
        self.numpy, self.walker = TrieWalker(trie), TrieWalker(trie, device)

    def log_probs(self, model: Any, hidden: torch.Tensor, packed: Packed, labels: torch.Tensor) -> torch.Tensor:
        """Natural log, float32 [groups, length]; 0 where there is no label.

        Args:
            hidden: float [groups, length, hidden], the model's last hidden states.
            labels: int64 [batch, length], of the rows that were packed.
        """
        head = model.get_output_embeddings()
        rows_text = free_text_labels(labels, self.numpy, self.eos)[:, 1:]
        text = torch.zeros_like(packed.labels, dtype=torch.bool).index_put(packed.source, rows_text[packed.to])
        node = label_nodes(packed.labels, self.numpy if hidden.device.type == "cpu" else self.walker, self.eos, text)
        used = node[1] > node[0]
        node = tuple(x[used] for x in node)  # type: ignore[assignment]
        nll = trie_nll(hidden[used], head.weight, node, packed.labels[used], self.walker)
        log_p = torch.zeros_like(packed.labels, dtype=nll.dtype).index_put(used.nonzero(as_tuple=True), -nll)
        if text.any():
            check_linear_head(model)
            log_p = log_p.index_put(text.nonzero(as_tuple=True), vocabulary_log_probs(hidden[text], head, packed.labels[text]))
        return log_p


def _attention(model: Any, mask: torch.Tensor) -> torch.Tensor:
    """The mask as the model's attention takes it."""
    if getattr(model.config, "_attn_implementation", "eager") == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(model.dtype).min)


class PairTrainer(DPOTrainer):
    """`DPOTrainer` on pairs that are token ids already (`grlm_hf.training.dpo.beam_negatives`)."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def rollout_function(roll_out: Callable[[list[Any], int, int], list[tuple[list[int], list[list[int]]]]], n: int) -> Callable[..., Any]:
    """TRL's `rollout_func`, an experimental part of its interface.

    Args:
        roll_out: (prompts, step, process) → the tokens of each prompt, and of its `n` completions.
        n: completions a prompt; TRL passes each prompt this many times, in a row.

    Returns:
        A function that also fills a column `place`: the number of a completion among those of its prompt.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        found = roll_out(prompts[::n], trainer.state.global_step, trainer.accelerator.process_index)
        return {
            "prompt_ids": [prompt for prompt, _ in found for _ in range(n)],
            "completion_ids": [completion for _, completions in found for completion in completions],
            "logprobs": None,
            "place": [place for _ in found for place in range(n)],
        }

    return rollout
