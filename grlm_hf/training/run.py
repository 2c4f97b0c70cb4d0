"""What every training with TRL shares: its settings, one progress bar, its log, a model left as it was found, and what to do when memory
runs out."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grlm_hf.files import write_json
from grlm_hf.precision import bound_caches, say_float32_is_faster
from grlm_hf.training.preflight import check_model, check_room
from grlm_hf.training.resume import last_whole_checkpoint

LOG_FILE = "log.json"
_PATCHED = ("forward", "_original_forward")
"""Attributes that TRL, accelerate and `grlm_hf.training.policy` set on a model that they train."""
_MEANINGLESS = ("clipped_ratio", "terminated_length", "mean_token_accuracy", "logits/")
"""Parts of the names of logged values that mean nothing for completions of a constrained search."""


def require_trl() -> Any:
    """The module `trl`. Raises ``ImportError`` with what to install."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, prints that it found no GPU
    try:
        import trl
    except ImportError as error:
        raise ImportError('Training needs TRL: pip install "grlm-hf[train]"') from error
    return trl


def trl_settings(kind: type, section: str, config: Any, work: Path, seed: int, **own: Any) -> Any:
    """TRL's settings of one training: those that all of them share, and its own, which win.

    Args:
        kind: TRL's class of settings, such as ``trl.GRPOConfig``.
        section: of a recipe, which `config` is: "train", "grpo" or "dpo".
        config: our settings: `TrainConfig`, `GRPOConfig` or `DPOConfig`.
    """
    import torch

    on_cpu = not torch.cuda.is_available()
    if config.bf16 and on_cpu:
        bound_caches()
        say_float32_is_faster(f"{section}.bf16")
    shared = {
        "output_dir": str(work),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup,  # below 1, a share of all steps
        "weight_decay": 0.0 if getattr(config, "soft_tokens", 0) else config.weight_decay,  # AdamW decays whole matrices
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "bf16": config.bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "use_cpu": on_cpu,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "seed": seed,
        "data_seed": seed,
        "disable_tqdm": False,
        "report_to": "none",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames gradient_checkpointing; TRL does not yet
        return kind(**shared | own)


def one_bar(trainer: Any) -> None:
    """Replaces the trainer's printed dictionaries and its many bars."""
    from transformers import ProgressCallback

    from grlm_hf.training.callbacks import OneBar

    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(OneBar())


def fit(trainer: Any, work: Path) -> None:
    """Trains from the last whole checkpoint in `work`, if there is one, and writes the log there."""
    one_bar(trainer)
    check_model(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class)
    check_room(work, trainer.model)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))
    if trainer.is_world_process_zero():
        write_json(work / LOG_FILE, clean_log(whole_run(trainer.state.log_history)))


def whole_run(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A log whose last entry states the mean loss of all logged steps as ``train_loss``; transformers' own is that of the steps since the
    training was resumed, divided by all."""
    seen, total, before = 0, 0.0, 0
    for entry in history:
        if "loss" in entry and "step" in entry:
            total += entry["loss"] * (entry["step"] - before)
            seen += entry["step"] - before
            before = entry["step"]
    return [entry | {"train_loss": total / seen} if "train_loss" in entry and seen else dict(entry) for entry in history]


def clean_log(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A trainer's log without values that do not exist under the objective "trie", or that mean nothing here."""
    return [
        {
            name: value
            for name, value in entry.items()
            if not (value is None or (isinstance(value, float) and math.isnan(value)) or any(part in name for part in _MEANINGLESS))
        }
        for entry in history
    ]


@contextmanager
def patches_removed(model: Any) -> Iterator[None]:
    """Leaves the model as it was found, in evaluation mode, whether its training ends or fails."""
    before = {name: model.__dict__[name] for name in _PATCHED if name in model.__dict__}
    try:
        yield
    finally:
        for name in _PATCHED:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)
        model.eval()


@contextmanager
def memory_advice(advice: Sequence[str]) -> Iterator[None]:
    """Turns an error of memory that ran out into a ``MemoryError`` with the settings that need less, in the order to try them."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error)
        if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in message):
            raise
        found = message.splitlines()[0] if message else "MemoryError"
        raise MemoryError(f"Memory ran out in training ({found}). Try {'; '.join(advice)}.") from error


def thinned(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """About 200 of the entries that hold a training loss, evenly spaced; and all others."""
    losses = [n for n, entry in enumerate(log) if "loss" in entry]
    kept = set(losses[:: max(1, len(losses) // 200)])
    return [entry for n, entry in enumerate(log) if n in kept or "loss" not in entry]
