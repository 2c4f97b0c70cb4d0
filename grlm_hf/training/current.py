"""A training under way, and the recommender of its weights: measured, pushed, and written at the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.models import load_trained

if TYPE_CHECKING:
    from grlm_hf.modeling.config import GRLMConfig
    from grlm_hf.modeling.recommender import GRLMForRecommendation


@dataclass(frozen=True, eq=False)
class CurrentRun:
    """A running training, and the recommender of its weights.

    Attributes:
        facts: what the checkpoint states.
        work: folder for all that is written before the end.
        exclude_seen: early stopping leaves out items of the history.
        evidence: of the prompts of recommendations.
        is_phase: another training follows.
    """

    trainer: Any
    catalog: Catalog
    tokenizer: Any
    facts: GRLMConfig
    config: TrainConfig
    work: Path
    exclude_seen: bool
    evidence: Evidence | None
    is_phase: bool = False

    def add_callbacks(self, cases: Sequence[Case]) -> None:
        """Early stopping on these validation users, and pushes, as the settings say."""
        from grlm_hf.training.callbacks import EarlyStopping, Pushes

        stopping, hub = self.config.early_stopping, self.config.hub
        if stopping.metric:
            self.trainer.add_callback(EarlyStopping(stopping, self.work, lambda: self.measure(cases), self.trainer.log, self.save))
        if hub.every:
            self.trainer.add_callback(Pushes(hub.every, self.push))

    def has_stopped(self, log: Sequence[dict[str, Any]]) -> bool:
        """Whether early stopping has ended the training that wrote the log."""
        from grlm_hf.training.callbacks import stopping_state

        return bool(self.config.early_stopping.metric) and stopping_state(log, self.config.early_stopping)[1]

    @property
    def autocast(self) -> bool:
        """The weights are float32 while training, and bfloat16 in the checkpoint."""
        return self.config.bf16 and self.config.model != "scratch"

    @property
    def halves(self) -> bool:
        """The recommender's weights are bfloat16; those that a training goes on with are not rounded."""
        return self.autocast and not self.is_phase

    def save(self, folder: Path) -> Path:
        """Writes the weights as they are now, by all processes together; they take `folder`'s place when they are whole."""
        accelerator, new = self.trainer.accelerator, folder.with_name(f"{folder.name}-new")
        self.trainer.save_model(str(new))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        accelerator.wait_for_everyone()
        return folder

    def from_folder(self, folder: Path) -> GRLMForRecommendation:
        """The recommender of weights that `save` wrote, on the CPU."""
        return self._recommender(load_trained(folder, self.config), self.halves)

    def in_memory(self, final: bool = False) -> GRLMForRecommendation:
        """The recommender of the weights as they are now; `final`: in the type that the checkpoint has."""
        return self._recommender(self.trainer.accelerator.unwrap_model(self.trainer.model), final and self.halves)

    def _recommender(self, model: Any, half: bool) -> GRLMForRecommendation:
        import torch

        from grlm_hf.modeling.dense import ItemVectors
        from grlm_hf.modeling.recommender import GRLMForRecommendation

        model, contrastive = model.to(torch.bfloat16) if half else model, self.config.contrastive
        vectors = ItemVectors(temperature=contrastive.temperature) if contrastive.weight else None  # made when they are saved
        return GRLMForRecommendation(model, self.tokenizer, self.catalog, self.facts, vectors=vectors, evidence=self.evidence)

    def measure(self, cases: Sequence[Case]) -> dict[str, float]:
        """Metrics of the constrained search on validation users, each process for its share; the same in every process."""
        import torch
        from accelerate.utils import gather_object

        from grlm_hf.training.callbacks import ranks_metrics, target_ranks

        trainer, accelerator = self.trainer, self.trainer.accelerator
        grlm = self.from_folder(self.save(self.work / "measured")).to(trainer.args.device) if trainer.sharded else self.in_memory()
        trainer.model.eval()  # what is logged next belongs to an evaluation
        mine = range(accelerator.process_index, len(cases), accelerator.num_processes)
        with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=self.autocast):
            found = gather_object(list(zip(mine, target_ranks(grlm, [cases[i] for i in mine], self.exclude_seen), strict=True)))
        return ranks_metrics([rank for _, rank in sorted(found, key=lambda pair: pair[0])])

    def push(self) -> None:
        """Pushes the checkpoint as it is now."""
        folder = self.save(self.work / "pushed")
        try:
            if self.trainer.accelerator.is_main_process:
                self.from_folder(folder).push_to_hub(self.config.hub.repo)
        finally:  # after a failed push, too: the other processes wait
            self.trainer.accelerator.wait_for_everyone()

    def finished(self, log: Sequence[dict[str, Any]]) -> GRLMForRecommendation | None:
        """The recommender of the best weights, or of the last ones without early stopping; ``None`` in all processes but the main one."""
        from grlm_hf.training.callbacks import best_folder, stopping_state
        from grlm_hf.training.distill import drop_readout

        stopping, is_main = self.config.early_stopping, self.trainer.accelerator.is_main_process
        best = stopping_state(log, stopping)[0] if stopping.metric else None
        if best is None and not (self.trainer.sharded or self.config.lora.rank):
            drop_readout(self.trainer.accelerator.unwrap_model(self.trainer.model))
            return self.in_memory(final=True) if is_main else None
        folder = self.save(self.work / "final") if best is None else best_folder(self.work, best)
        return self.from_folder(folder) if is_main else None
