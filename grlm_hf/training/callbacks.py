"""Callbacks of the trainers: one bar, logs that a resumed run repeats exactly, early stopping, pushes to the Hub."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from grlm_hf.data.interactions import Case
from grlm_hf.progress import progress
from grlm_hf.training.config import STOPPING_METRICS, EarlyStoppingConfig

CUTOFF = 10
log = logging.getLogger("grlm_hf")


class OneBar(ProgressCallback):
    """One bar for the whole training, with the losses at its end, instead of printed dictionaries and a bar for every evaluation; before it
    a line of what is known of the work."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            loader = kwargs.get("train_dataloader")
            log.info(_planned(state, args, getattr(loader, "dataset", None), kwargs.get("model")))
            self.training_bar = progress(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step", dynamic_ncols=True, delay=1e-3
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            names = ("loss", "eval_loss", *(f"eval_{name}" for name in STOPPING_METRICS))
            self.shown = getattr(self, "shown", {}) | {n: f"{v:.3f}" for n, v in (logs or {}).items() if n in names}
            self.training_bar.set_postfix(self.shown)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        pass


def _planned(state: Any, args: Any, examples: Any, model: Any) -> str:
    """What is known of a training before its first step."""
    parts = []
    if model is not None:
        parts.append(f"{sum(p.numel() for p in model.parameters()):,} parameters on {args.device.type}")
    if examples is not None:
        tokens = sum(map(len, examples["input_ids"])) if "input_ids" in (getattr(examples, "column_names", None) or ()) else 0
        parts.append(f"{len(examples):,} examples" + (f" of {tokens:,} tokens" if tokens else ""))
    at_once = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = f"{state.max_steps:,} steps of {at_once:,} examples"
    done = f", {state.global_step:,} of them done before" if state.global_step else ""
    return f"training: {', '.join([*parts, steps])}{done}"


class StopAtNaN(TrainerCallback):
    """Ends a training when a logged loss is not finite, for trainers that do not check each step themselves.

    Args:
        setting: the learning rate's name in a recipe, for the error.
    """

    def __init__(self, setting: str):
        self.setting = setting

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            if not math.isfinite(float((logs or {}).get(name, 0.0))):
                raise ValueError(f"{name} became {logs[name]} by step {state.global_step}; lower {self.setting}.")  # type: ignore[index]


class SameWhenResumed(TrainerCallback):
    """Makes a resumed run order, log and evaluate like one that was never interrupted.

    Args:
        set_epoch: sets the epoch of the examples' sampler; accelerate loses it when several processes skip batches.
        evaluates: evaluate at the last step of each epoch, before a checkpoint of that step is saved.
    """

    def __init__(self, set_epoch: Callable[[int], None], evaluates: bool):
        self.set_epoch, self.evaluates = set_epoch, evaluates

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:  # no checkpoint holds the running mean of the loss, so it restarts with each
            control.should_log = True
        if self.evaluates and (ends_epoch(state) or state.global_step >= state.max_steps):
            control.should_evaluate = True


def ends_epoch(state: Any) -> bool:
    return state.epoch == int(state.epoch)


def stopping_state(log: Sequence[dict[str, Any]], config: EarlyStoppingConfig) -> tuple[int | None, bool]:
    """Step of the best evaluation so far (``None`` before the first), and whether `patience` evaluations passed without improvement.

    Both follow from the log, which is in every checkpoint.
    """
    best: tuple[float, int] | None = None
    waited = 0
    for entry in log:
        if (value := entry.get(f"eval_{config.metric}")) is None:
            continue
        if best is None or value > best[0] + config.min_gain:
            best, waited = (value, entry["step"]), 0
        else:
            waited += 1
    return best and best[1], waited >= config.patience


class EarlyStopping(TrainerCallback):
    """Evaluates at intervals, keeps the best weights as ``best-STEP`` in `work`, and ends the training when they no longer improve.

    Args:
        measure: returns the metrics, the same in every process.
        log: the trainer's method.
        save: saves the weights in a folder; called in every process at once.
    """

    def __init__(
        self,
        config: EarlyStoppingConfig,
        work: Path,
        measure: Callable[[], dict[str, float]],
        log: Callable[[dict[str, float]], None],
        save: Callable[[Path], Any],
    ):
        self.config, self.work, self.measure, self.log, self.save = config, work, measure, log, save

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.config.every
        if state.global_step % every if every else not ends_epoch(state):
            return
        self.log({f"eval_{name}": value for name, value in self.measure().items()})
        best, over = stopping_state(state.log_history, self.config)
        if best == state.global_step:
            self.save(best_folder(self.work, state.global_step))
        if over:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best, _ = stopping_state(state.log_history, self.config)
        if state.is_world_process_zero and best is not None:  # once a checkpoint has these in its log, earlier weights are not needed
            for folder in set(self.work.glob("best-*")) - {best_folder(self.work, best)}:
                shutil.rmtree(folder)


def best_folder(work: Path, step: int) -> Path:
    return work / f"best-{step}"


def ranks_metrics(ranks: Sequence[int | None]) -> dict[str, float]:
    """Recall@10 and NDCG@10 of targets at these ranks (from 0; ``None``: not found)."""
    hits = [rank for rank in ranks if rank is not None and rank < CUTOFF]
    return {"recall@10": len(hits) / len(ranks), "ndcg@10": math.fsum(1 / math.log2(rank + 2) for rank in hits) / len(ranks)}


def target_ranks(grlm: Any, cases: Sequence[Case], exclude_seen: bool = True) -> list[int | None]:
    """Rank (from 0) of each target among the first ten of the constrained search; ``None`` if it is not among them."""
    if not cases:
        return []
    found = grlm.recommend([list(c.history) for c in cases], min(CUTOFF, len(grlm.catalog)), exclude_seen=exclude_seen, prior="none")
    return [next((n for n, r in enumerate(listed) if r.item_id == c.target), None) for c, listed in zip(cases, found, strict=True)]


class Pushes(TrainerCallback):
    """Calls `push` after every `every` steps. A push that fails is a warning, and the training goes on."""

    def __init__(self, every: int, push: Callable[[], None]):
        self.every, self.push = every, push

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every or state.global_step >= state.max_steps:  # the caller pushes the finished checkpoint
            return
        try:
            self.push()
        except (ConnectionError, ValueError, OSError) as error:
            warnings.warn(f"Step {state.global_step} was not pushed, training goes on: {error}", stacklevel=2)
