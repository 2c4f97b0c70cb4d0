"""TRL's `SFTTrainer` with the loss of both objectives, an order of examples that resumes exactly, and an error at NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from datasets import concatenate_datasets
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from grlm_hf.training.callbacks import SameWhenResumed
from grlm_hf.training.contrastive import Contrastive, last_hidden
from grlm_hf.training.distill import AUXILIARY, SoftLabels, Teacher
from grlm_hf.training.head import check_linear_head, plain_head, vocabulary_nll
from grlm_hf.training.objective import IGNORED, label_nodes, trie_losses
from grlm_hf.training.run import one_bar
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.walker import TrieWalker

_OWN_COLUMNS = ("identifiers", "free_text", "answers")
"""Columns of `tokenize_mixture` that TRL does not know."""


class TermIDTrainer(SFTTrainer):
    """`SFTTrainer` on tokenized examples.

    Several processes take the same steps as one process with the same examples a step. If the last batch of an epoch has too few examples
    for all processes, examples without labels fill it up; they weigh nothing.

    Args:
        trie: train on the trie-normalised loss of identifiers and the cross-entropy over the vocabulary of `free_text`: the sum over the
            labels divided by their number. ``None``: train on TRL's own loss, on a CPU computed at the labels only
            (`grlm_hf.training.head`).
        contrastive: a further loss in training, for examples with `answers`; its negatives are those of one process.
        teacher: its probabilities are targets with the share `teacher_weight` of the loss in training, for examples with `identifiers`.

    Raises:
        ValueError: the trie-normalised loss under ZeRO-3 or FSDP, which split the output embeddings; free text with it and without a
            linear output layer; or a loss or gradient that is not finite, before it changes the weights.
    """

    def __init__(
        self, model: Any, *, trie: Trie | None, teacher: Teacher | None = None, teacher_weight: float = 0.0,
        contrastive: Contrastive | None = None, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(model, **kwargs)
        self.contrastive = contrastive
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.add_callback(SameWhenResumed(lambda epoch: self._order.set_epoch(epoch), self.eval_dataset is not None))
        if not self.args.disable_tqdm:
            one_bar(self)
        self._fillers = self._missing(self.train_dataset, self.args.train_batch_size)
        if self._fillers:  # otherwise accelerate would repeat the epoch's first examples
            self.train_dataset = concatenate_datasets([self.train_dataset, _without_labels(self.train_dataset, 1)])
        if self.eval_dataset is not None and (fillers := self._missing(self.eval_dataset, self.args.eval_batch_size)):
            self.eval_dataset = concatenate_datasets([self.eval_dataset, _without_labels(self.eval_dataset, fillers)])
        self._held_out = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        plugin = self.accelerator.state.deepspeed_plugin
        self.sharded = bool(self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))
        """No process has the weights of the whole model."""
        if trie and self.sharded:
            raise ValueError("train.objective=trie needs whole output embeddings in every process: use ZeRO-2 instead of ZeRO-3 or FSDP.")
        examples: list[Any] = [self.train_dataset, self.eval_dataset]
        if trie and any("free_text" in rows.column_names for rows in examples if rows is not None):
            check_linear_head(self.accelerator.unwrap_model(self.model))
        self._walker = TrieWalker(trie, self.args.device) if trie else None
        self.data_collator = _Collator(self.data_collator, trie, teacher)

    def _missing(self, examples: Any, batch_size: int) -> int:
        """Number of examples that the last batch lacks for all processes to have their share."""
        return -len(examples) % (batch_size * self.args.world_size) if self.args.world_size > 1 else 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self._fillers:
            lengths.pop()
        self._order = _SeededLengthSampler(step, lengths, self.args.seed, self._fillers)
        return self._order

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(f"The loss became {loss.item()} {self._error_context(inputs)}")
        self._last = inputs
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(norm):
            raise ValueError(f"The gradient's length became {float(norm)} {self._error_context(self._last)}")
        return norm

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self._held_out.zero_()
        return super().evaluate(*args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        count = (inputs["labels"][:, 1:] != IGNORED).sum()
        self._held_out += torch.stack([loss.double() * count, count.double()]).to(self._held_out.device)
        return loss, logits, labels

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "eval_loss" in logs:  # the mean over all labels; a mean over batches would depend on their number
            total, count = self.accelerator.reduce(self._held_out.clone()).tolist()
            logs["eval_loss"] = total / max(count, 1)
        super().log(logs, start_time)

    def _error_context(self, inputs: dict[str, Any]) -> str:
        keys = self._keys(inputs)
        some = ", ".join(map(repr, keys[:8])) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        return (
            f"at step {self.state.global_step + 1}, in a batch of the examples {some or 'unknown'}. Earlier checkpoints are good. "
            "Lower train.learning_rate or train.clip, or look at these examples."
        )

    def _keys(self, inputs: dict[str, Any]) -> list[str]:
        """The keys of a batch's examples, found by their tokens."""
        examples: Any = self.train_dataset
        if "key" not in examples.column_names:
            return []
        wanted = set()
        for row, ids in enumerate(inputs["input_ids"]):
            if "attention_mask" in inputs:
                wanted.add(tuple(ids[inputs["attention_mask"][row].bool()].tolist()))
            elif "position_ids" in inputs:  # several examples in one row
                starts = (inputs["position_ids"][row] == 0).nonzero()[1:, 0].tolist()
                wanted |= {tuple(part.tolist()) for part in ids.tensor_split(starts)}
        rows = zip(examples["key"], examples["input_ids"], strict=True)
        return [key for key, ids in rows if key and tuple(ids) in wanted]

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the main process then writes the file that marks the checkpoint as whole

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        answers = inputs.pop("answers", None)
        if self.contrastive is None or answers is None or not model.training:
            return self._generative_loss(model, inputs, return_outputs, num_items_in_batch)
        with last_hidden(model) as states:
            loss = self._generative_loss(model, inputs, False, num_items_in_batch)
        with self.compute_loss_context_manager():
            more = self.contrastive(model, states[0], answers)
        # where the labels of a whole step are counted, losses of its batches are summed
        return loss + self.contrastive.weight * more / (1 if num_items_in_batch is None else self.current_gradient_accumulation_steps)

    def _generative_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        free_text, nodes, question, asked = (inputs.pop(name, None) for name in ("free_text", "nodes", "question", "asked"))
        whole = self.accelerator.unwrap_model(model)
        if self._walker is None and (return_outputs or not plain_head(whole)):
            return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        # Through the wrapped model, so that data-parallel wrappers see the forward. Logits are computed for one position only.
        out = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        hidden, head = out.hidden_states[-1][:, :-1], whole.get_output_embeddings()
        text = labels != IGNORED
        total = torch.zeros((), device=hidden.device)
        if self._walker is not None:
            text = text & free_text[:, 1:] if free_text is not None else None
            answers = self.teacher.answers(asked, hidden.device) if self.teacher and model.training and asked is not None else None
            total = total + self._identifier_loss(hidden, head.weight, labels, nodes, answers, question, getattr(whole, AUXILIARY, None))
        if text is not None:
            with self.compute_loss_context_manager():
                total = total + vocabulary_nll(hidden[text], head, labels[text])
        loss = self._mean_over_labels(total, labels, num_items_in_batch)
        if (balance := getattr(out, "aux_loss", None)) is not None:  # of the routers of a mixture of experts; a mean, as TRL adds it
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * balance / steps
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _identifier_loss(
        self, hidden: torch.Tensor, embedding: torch.Tensor, labels: torch.Tensor, nodes: torch.Tensor, answers: SoftLabels | None,
        question: torch.Tensor | None, readout: Any,
    ) -> torch.Tensor:  # fmt: skip
        """Sum of the trie-normalised losses of the labels that are identifiers.

        Args:
            hidden: float [batch, length, hidden], where the labels are predicted.
            embedding: float [vocab, hidden].
            labels: int64 [batch, length].
            nodes, question: as `_Collator` gives them; the places in the latter belong to `answers`, the teacher's.
            readout: a layer of the soft labels' own.
        """
        used = nodes[1] > nodes[0]
        node, asked = (nodes[0][used], nodes[1][used], nodes[2][used]), None
        if answers is not None and question is not None:
            asked = question[used]
        with self.compute_loss_context_manager():
            nll, soft = trie_losses(hidden[used], embedding, node, labels[used], self._walker, answers, asked, readout)  # type: ignore[arg-type]
        if asked is not None:
            # with a read-out of their own the soft labels come on top of the true items, which then keep their whole weight
            own = 1.0 if readout is not None else 1 - self.teacher_weight
            nll = torch.where(asked >= 0, own * nll + self.teacher_weight * soft, nll)
        return nll.sum()

    def _mean_over_labels(self, total: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """Mean loss over the labels of this batch; or of the whole step in all processes, as their gradients are averaged afterwards."""
        if num_items_in_batch is None:
            return total / (labels != IGNORED).sum().clamp(min=1)
        return total / num_items_in_batch * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in _OWN_COLUMNS if name not in self._signature_columns]  # type: ignore[operator]


class _Collator:
    """TRL's collator, and what the loss needs to know of a batch, found on the CPU: on a GPU's machine by other processes, while it works.

    Further entries of a batch: `free_text`, bool like `input_ids`; `answers`, lists. With a trie: `nodes`, int64 [3, batch, length - 1],
    the node before each label but the first column (`label_nodes`). With a teacher: `asked`, the rows of its label store with this batch's
    answers, and `question`, int64 [batch, length - 1], of each label the place of its answer among these, -1 for none.
    """

    def __init__(self, inner: Any, trie: Trie | None, teacher: Teacher | None):
        self.inner, self.teacher = inner, teacher
        self.walker = TrieWalker(trie) if trie else None  # of NumPy arrays: hundreds of small steps
        self.eos: Any = trie.eos_token_id if trie else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        own: dict[str, Any] = {name: [row[name] for row in rows] for name in _OWN_COLUMNS if name in rows[0]}
        batch = self.inner([{name: value for name, value in row.items() if name not in own} for row in rows])
        if "free_text" in own:
            mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
            for row, values in zip(mask, own["free_text"], strict=True):
                row[: len(values)] = torch.tensor(values, dtype=torch.bool)
            own["free_text"] = mask
        sequences = own.pop("identifiers", None)
        if self.walker is not None:
            text = own["free_text"][:, 1:] if "free_text" in own else None
            lo, hi, depth = label_nodes(batch["labels"][:, 1:], self.walker, self.eos, text)
            own["nodes"] = torch.stack([lo, hi, depth])
            if self.teacher is not None and sequences is not None:
                taught = torch.tensor([bool(s) for s in sequences])[:, None]
                begins = (hi > lo) & (depth == 0) & taught
                if begins.any():
                    own["asked"] = self.teacher.rows(sequences, begins.sum(1).tolist())
                    own["question"] = torch.where(taught, begins.flatten().cumsum(0).reshape(begins.shape) - 1, -1)
        return batch | own


def _without_labels(examples: Any, n: int) -> Any:
    """The shortest example, `n` times, without labels."""

    def blank(row: dict[str, Any]) -> dict[str, Any]:
        empty = {"labels": [IGNORED] * len(row["labels"]), "key": "", "identifiers": [], "answers": []}
        return {name: value for name, value in empty.items() if name in row}

    shortest = min(range(len(examples)), key=list(map(len, examples["input_ids"])).__getitem__)
    return examples.select([shortest] * n).map(blank, features=examples.features, load_from_cache_file=False)


class _SeededLengthSampler(LengthGroupedSampler):
    """Batches of similar lengths, in an order that depends only on seed and epoch. (The stock sampler draws from the global generator, so
    a resumed run would see other batches.) The example after the last one follows `fillers` times."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int, fillers: int = 0):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.fillers = seed, fillers
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.lengths) + self.fillers

    def __iter__(self) -> Iterator[int]:
        yield from super().__iter__()
        yield from [len(self.lengths)] * self.fillers

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed * 100_003 + epoch)
