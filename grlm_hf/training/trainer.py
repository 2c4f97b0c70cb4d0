"""TRL's `SFTTrainer`, with the trie-normalised objective as an option, an order of examples that resumes exactly, and an end at NaN."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from grlm_hf.decoding.trie import Trie
from grlm_hf.decoding.walker import TrieWalker
from grlm_hf.training.objective import IGNORED, label_nodes, trie_nll


class TermIDTrainer(SFTTrainer):
    """`SFTTrainer` on tokenized examples.

    Args:
        trie: train on the trie-normalised loss (the sum over the labels divided by their number); ``None``: on TRL's own loss.
    """

    def __init__(self, model: Any, *, trie: Trie | None, **kwargs: Any):
        super().__init__(model, **kwargs)
        self.add_callback(_StopAtNaN())
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(_OneBar())
        self._walker = TrieWalker(trie, self.args.device) if trie else None
        self._labels = TrieWalker(trie) if trie and self.args.device.type == "cpu" else self._walker
        self._eos = trie.eos_token_id if trie else None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return _SeededLengthSampler(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.seed)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        if self._walker is None:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        # Through the wrapped model, so that data-parallel wrappers see the forward; one position of logits is all that is made.
        out = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        node = label_nodes(labels, self._labels, self._eos)  # type: ignore[arg-type]
        used = node[1] > node[0]
        node = tuple(x[used] for x in node)
        embedding = self.accelerator.unwrap_model(model).get_output_embeddings().weight
        with self.compute_loss_context_manager():
            nll = trie_nll(out.hidden_states[-1][:, :-1][used], embedding, node, labels[used], self._walker)
        count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = nll.sum() / count
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, {"loss": loss.detach()}) if return_outputs else loss


class _SeededLengthSampler(LengthGroupedSampler):
    """Batches of like lengths, in an order that depends on seed and epoch alone: the stock one draws from the global generator, so that a
    resumed run would see other batches."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed * 100_003 + epoch)


class _OneBar(ProgressCallback):
    """Losses at the end of the one training bar, instead of a printed dictionary each time and a bar for every evaluation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.shown = getattr(self, "shown", {}) | {n: f"{v:.3f}" for n, v in (logs or {}).items() if n in ("loss", "eval_loss")}
            self.training_bar.set_postfix(self.shown)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        pass


class _StopAtNaN(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(float((logs or {}).get(name, 0.0))):
                raise ValueError(f"{name} became {logs[name]} by step {state.global_step}; lower train.learning_rate.")  # type: ignore[index]
