"""What happens between the steps of a training: one bar, logs that a resumed run repeats exactly, early stopping, pushes to the Hub."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from grlm_hf.data.interactions import Case
from grlm_hf.training.config import STOPPING_METRICS, EarlyStoppingConfig

CUTOFF = 10


class OneBar(ProgressCallback):
    """Losses at the end of the one training bar, instead of a printed dictionary each time and a bar for every evaluation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            names = ("loss", "eval_loss", *(f"eval_{name}" for name in STOPPING_METRICS))
            self.shown = getattr(self, "shown", {}) | {n: f"{v:.3f}" for n, v in (logs or {}).items() if n in names}
            self.training_bar.set_postfix(self.shown)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        pass


class StopAtNaN(TrainerCallback):
    """Ends a training whose logged loss is not finite, for trainers that do not look at each step themselves.

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
    """Makes a resumed run order, log and evaluate as one that was never broken off.

    Args:
        set_epoch: tells the sampler of the examples which epoch it orders; accelerate loses it where several processes skip batches.
        evaluates: evaluate the loss of validation examples at the end of each epoch; with its last step, which a checkpoint may follow.
    """

    def __init__(self, set_epoch: Callable[[int], None], evaluates: bool):
        self.set_epoch, self.evaluates = set_epoch, evaluates

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:  # the running mean of the loss is in no checkpoint: let it begin anew with each
            control.should_log = True
        if self.evaluates and (ends_epoch(state) or state.global_step >= state.max_steps):
            control.should_evaluate = True


def ends_epoch(state: Any) -> bool:
    return state.epoch == int(state.epoch)


def stopping_state(log: Sequence[dict[str, Any]], config: EarlyStoppingConfig) -> tuple[int | None, bool]:
    """The step of the best asking so far (``None`` before the first), and whether `patience` askings have passed without a better one.

    It follows from the log alone, which every checkpoint holds.
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
    """Asks for the metrics every so often, keeps the best weights as ``best-STEP`` in `work`, and ends the training when they no longer
    rise.

    Args:
        ask: gives the metrics, the same ones in every process.
        log: the trainer's.
        save: saves the weights in a folder; called in every process at once.
    """

    def __init__(
        self,
        config: EarlyStoppingConfig,
        work: Path,
        ask: Callable[[], dict[str, float]],
        log: Callable[[dict[str, float]], None],
        save: Callable[[Path], Any],
    ):
        self.config, self.work, self.ask, self.log, self.save = config, work, ask, log, save

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.config.every
        if state.global_step % every if every else not ends_epoch(state):
            return
        self.log({f"eval_{name}": value for name, value in self.ask().items()})
        best, over = stopping_state(state.log_history, self.config)
        if best == state.global_step:
            self.save(best_folder(self.work, state.global_step))
        if over:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best, _ = stopping_state(state.log_history, self.config)
        if state.is_world_process_zero and best is not None:  # no earlier weights are needed once a checkpoint knows of these
            for folder in set(self.work.glob("best-*")) - {best_folder(self.work, best)}:
                shutil.rmtree(folder)


def best_folder(work: Path, step: int) -> Path:
    return work / f"best-{step}"


def ranks_metrics(ranks: Sequence[int | None]) -> dict[str, float]:
    """Recall@10 and NDCG@10 of the places (from 0) at which targets were found, ``None`` where they were not."""
    hits = [rank for rank in ranks if rank is not None and rank < CUTOFF]
    return {"recall@10": len(hits) / len(ranks), "ndcg@10": math.fsum(1 / math.log2(rank + 2) for rank in hits) / len(ranks)}


def places(grlm: Any, cases: Sequence[Case]) -> list[int | None]:
    """At which place (from 0) the constrained search finds each target among the first ten, ``None`` where it does not."""
    if not cases:
        return []
    found = grlm.recommend([list(c.history) for c in cases], min(CUTOFF, len(grlm.catalog)), exclude_seen=True)
    return [next((n for n, r in enumerate(some) if r.item_id == c.target), None) for c, some in zip(cases, found, strict=True)]


class Pushes(TrainerCallback):
    """Calls `push` every so many steps; a push that fails is a warning, and the training goes on."""

    def __init__(self, every: int, push: Callable[[], None]):
        self.every, self.push = every, push

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every or state.global_step >= state.max_steps:  # the finished one is pushed by itself
            return
        try:
            self.push()
        except (ConnectionError, ValueError, OSError) as error:
            warnings.warn(f"Step {state.global_step} was not pushed, training goes on: {error}", stacklevel=2)
