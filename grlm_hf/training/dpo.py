"""Direct preference optimisation (DPO: Rafailov et al., 2023) with TRL's `DPOTrainer`, on beam negatives.

Chosen is the identifier of the item that came next; rejected are beams of the constrained search that are not it: what the recommender
would have shown instead. The log-probabilities in the loss are normalised as the checkpoint's scores are.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grlm_hf.data.interactions import History
from grlm_hf.files import write_json, write_parquet
from grlm_hf.settings import Count, NotNegative, Positive, Share, check_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation

PAIRS_FILE = "pairs.parquet"
_AT_ONCE = 64  # histories


@dataclass(frozen=True)
class DPOConfig:
    """How a checkpoint is trained further on preferences."""

    prompts: Count = 4000
    """Questions from training histories, a seeded choice."""
    negatives: Count = 4
    """Pairs a question: the best so many beams that are not the target."""
    exclude_seen: bool = True
    """No beam is an item of its history, as in the evaluation."""
    epochs: Positive = 1.0
    batch_size: Count = 64
    """Pairs a step and device."""
    learning_rate: Positive = 1e-4
    warmup: Share = 0.1
    """Share of all steps in which the learning rate rises; it then falls as a cosine."""
    weight_decay: NotNegative = 0.0
    beta: Positive = 0.1
    """How much a step away from the checkpoint that was started from must pay."""
    loss: Literal["sigmoid", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down"] = "sigmoid"
    """"sigmoid" is DPO itself; "hinge", "ipo", "sigmoid_norm", "apo_zero" and "apo_down" are TRL's variants."""
    bf16: bool = False
    """Compute in bfloat16 over float32 weights."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time; for large models."""
    save_steps: Count = 50
    """A checkpoint to resume from is written every so many steps."""

    def __post_init__(self) -> None:
        check_settings(self, "dpo.")


def beam_negatives(grlm: GRLMForRecommendation, asked: Sequence[tuple[tuple[str, ...], str]], n: int, exclude_seen: bool = True) -> Dataset:
    """Pairs for `DPOTrainer`: `n` a question, of the columns `prompt_ids`, `chosen_ids` (the target's identifier) and `rejected_ids` (one
    of the best `n` beams that are not the target), lists of token ids.

    Args:
        asked: (history, target) as item ids; see `grlm_hf.training.rollouts.positions`.

    Raises:
        ValueError: too few identifiers for `n` negatives.
    """
    from datasets import Dataset, Features, List, Value
    from tqdm.auto import tqdm

    from grlm_hf.training.rollouts import roll_out

    index = grlm.shelf.index
    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    with tqdm(total=len(asked), desc="beam negatives", unit="prompt", disable=len(asked) < 200) as bar:
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            found = roll_out(grlm, [h for h, _ in some], n + 1, exclude_seen=exclude_seen)
            for (_, target), beams in zip(some, found, strict=True):
                wanted = index.path(index.catalog.position(target)).tolist()
                others = [path for leaf in beams.leaf if (path := index.paths[leaf].tolist()) != wanted][:n]
                rows["prompt_ids"] += [beams.prompt.tolist()] * n
                rows["chosen_ids"] += [wanted] * n
                rows["rejected_ids"] += others
            bar.update(len(some))
    return Dataset.from_dict(rows, Features(dict.fromkeys(rows, List(Value("int64")))))


def train_dpo(
    grlm: GRLMForRecommendation, histories: Sequence[History], work: str | Path, config: DPOConfig | None = None, *, seed: int = 0
) -> GRLMForRecommendation:
    """Trains a checkpoint further on preferences, in place, and returns it; resumes from what an earlier try left in `work`.

    Args:
        histories: of training only.
        work: folder for the pairs, the trainer's checkpoints and its log, `log.json`.

    Raises:
        ImportError: trl is not installed.
        ValueError: an item that the catalog lacks, more negatives than identifiers, or a loss that became NaN.
    """
    try:
        from trl import DPOConfig as TRLConfig
    except ImportError as error:
        raise ImportError('Training needs TRL: pip install "grlm-hf[train]"') from error
    import torch
    from datasets import Dataset
    from transformers import ProgressCallback

    from grlm_hf.training.callbacks import OneBar, StopAtNaN
    from grlm_hf.training.policy import PairTrainer, clean_log, follow_objective
    from grlm_hf.training.resume import last_whole_checkpoint
    from grlm_hf.training.rollouts import positions

    config, work = config or DPOConfig(), Path(work)
    work.mkdir(parents=True, exist_ok=True)
    # 1. the pairs, of the model as it starts; every process finds the same
    if (work / PAIRS_FILE).is_file():
        pairs = Dataset.from_parquet(str(work / PAIRS_FILE))
    else:
        asked = positions(histories, config.prompts, seed, config.exclude_seen)
        pairs = beam_negatives(grlm, asked, config.negatives, config.exclude_seen)
        if int(os.environ.get("RANK", "0")) == 0:
            write_parquet(pairs, work / PAIRS_FILE)
    # 2. TRL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        args = TRLConfig(
            output_dir=str(work),
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            per_device_train_batch_size=config.batch_size,
            beta=config.beta,
            loss_type=[config.loss],
            max_length=None,
            bf16=config.bf16,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=config.gradient_checkpointing,
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            seed=seed,
            data_seed=seed,
            disable_tqdm=False,
            report_to="none",
        )
    reference = copy.deepcopy(grlm.model)
    trainer = PairTrainer(grlm.model, reference, args=args, train_dataset=pairs, processing_class=grlm.tokenizer, callbacks=[StopAtNaN()])
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(OneBar())
    trie = grlm.trie if grlm.config.objective == "trie" else None
    for model in (grlm.model, reference):
        follow_objective(model, trie)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))
    if trainer.is_world_process_zero():
        write_json(work / "log.json", clean_log(trainer.state.log_history))
    grlm.model.__dict__.pop("forward", None)  # what TRL and we put in its place
    grlm.model.eval()
    return grlm
