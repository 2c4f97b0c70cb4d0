"""Phases before a training: each is a training of its own in a folder of its own, and the next one begins with the model that it leaves.

    rows (Grounded Token Initialization, arXiv 2604.02324; stage 1 of OpenOneRec)   items' texts ↔ identifiers, new rows only
    continued training (PLUM, arXiv 2510.07784)                                     behaviour and metadata, all weights
    the training that `TrainConfig` describes                                       the whole mixture

A killed run goes on in the phase that was killed: phases before it are found whole in their folders, whose names depend on all that their
results depend on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.files import did_you_mean
from grlm_hf.tasks.config import TASKS
from grlm_hf.training.config import (
    ROWS_TASKS,
    ContrastiveConfig,
    DistillConfig,
    EarlyStoppingConfig,
    HubConfig,
    LoraConfig,
    NewRowsConfig,
    PhaseConfig,
    TrainConfig,
)
from grlm_hf.training.resume import run_settings

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase, ready to be trained.

    Attributes:
        mixture: the examples of its tasks.
        config: of a training of its own.
        rows_only: only the rows of identifiers' tokens are trained.
        work: folder of its training.
        result: folder of the model and the tokenizer that it leaves.
    """

    mixture: Dataset
    config: TrainConfig
    rows_only: bool
    work: Path
    result: Path

    @property
    def is_done(self) -> bool:
        return self.result.is_dir()

    def save(self, grlm: Any) -> None:
        """Writes the result, whole or not at all, and removes the states of the training."""
        new = self.result.with_name(f"{self.result.name}-new")
        shutil.rmtree(new, ignore_errors=True)
        grlm.model.save_pretrained(new)
        grlm.tokenizer.save_pretrained(new)
        new.rename(self.result)
        shutil.rmtree(self.work, ignore_errors=True)


def phases(config: TrainConfig, mixture: Dataset, catalog: Catalog, work: Path, seed: int) -> Iterator[Phase]:
    """The phases before the training of `config`, each from the model of the one before it.

    Raises:
        ValueError: a phase of rows for identifiers without tokens of their own; tasks that are unknown, or that the mixture has no example
            of.
    """
    start = config
    for number, phase in enumerate(config.phases_before):
        if phase.trains == "rows" and not catalog.added_tokens():
            raise ValueError(
                f"train.new_rows.steps and phases with trains=rows train the rows of identifiers' tokens, and a {catalog.scheme.noun} is "
                "written in tokens that the model has. Leave them out."
            )
        some = _examples(phase, mixture)
        digest = hashlib.sha256(json.dumps([run_settings(config), seed, number, catalog.identifiers_hash]).encode())
        for name in ("prompt", "completion"):
            digest.update(json.dumps(some[name][:]).encode())
        folder = work / f"phase-{number + 1}-{digest.hexdigest()[:8]}"
        one = Phase(some, _config(start, phase), phase.trains == "rows", folder / "training", folder / "model")
        yield one
        start = replace(config, model=str(one.result))


def _config(config: TrainConfig, phase: PhaseConfig) -> TrainConfig:
    """The settings of a phase's own training: plain, with its own number of steps; nothing is measured, pushed or taught beside it."""
    plain: dict[str, Any] = {"distill": DistillConfig(), "contrastive": ContrastiveConfig(), "early_stopping": EarlyStoppingConfig()}
    if phase.trains == "rows":
        plain |= {"lora": LoraConfig(), "weight_decay": 0.0}  # AdamW decays whole matrices
    plain |= {"new_rows": NewRowsConfig(config.new_rows.start), "phases": [], "soft_tokens": 0, "hub": HubConfig()}
    return replace(config, **plain, max_steps=phase.steps, learning_rate=phase.learning_rate)


def _examples(phase: PhaseConfig, mixture: Dataset) -> Dataset:
    if strange := next((task for task in phase.tasks if task not in TASKS), None):
        known = f"Known tasks: {', '.join(TASKS)}."
        raise ValueError(f"train.phases names the unknown task {strange!r}. {did_you_mean(strange, TASKS, known)}")
    tasks = mixture["task"][:]
    places = [n for n, task in enumerate(tasks) if not phase.tasks or task in phase.tasks]
    if not places:
        what = "train.new_rows.steps" if phase.tasks == list(ROWS_TASKS) else "A phase of train.phases"
        wanted = ", ".join(f"mixture.{task}=1" for task in phase.tasks)
        raise ValueError(
            f"{what} trains on the tasks {', '.join(phase.tasks)}, and the mixture has examples of {', '.join(sorted(set(tasks)))} only. "
            f"Make the dataset again with one or more of {wanted}."
        )
    return mixture.select(places)
