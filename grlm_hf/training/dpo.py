"""Direct preference optimisation (DPO: Rafailov et al., 2023) with TRL's `DPOTrainer`, on beam negatives.

Chosen is the identifier of the item that came next. Rejected are other beams of the constrained search: what the recommender would have
shown instead. The log-probabilities in the loss are normalised as the checkpoint's scores are.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grlm_hf.data.interactions import History
from grlm_hf.files import write_parquet
from grlm_hf.progress import progress
from grlm_hf.settings import Count, NotNegative, Positive, Share, Size, check_settings
from grlm_hf.training.run import fit, memory_advice, patches_removed, require_trl, trl_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation

PAIRS_FILE = "pairs.parquet"
_AT_ONCE = 64  # histories


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO."""

    prompts: Count = 4000
    """Number of random prompts from training histories."""
    negatives: Size = 4
    """Pairs per prompt: the target against this many best beams that are not the target."""
    exclude_seen: bool = True
    """Exclude items of the history from beams, as in the evaluation."""
    epochs: Positive = 1.0
    batch_size: Size = 64
    """Pairs per step and device."""
    learning_rate: Positive = 1e-4
    warmup: Share = 0.1
    """Share of all steps with a rising learning rate; it then falls as a cosine."""
    weight_decay: NotNegative = 0.0
    beta: Positive = 0.1
    """KL strength: higher values keep the policy closer to the starting checkpoint."""
    loss: Literal["sigmoid", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down"] = "sigmoid"
    """The loss: "sigmoid" is DPO itself; "hinge", "ipo", "sigmoid_norm", "apo_zero" and "apo_down" are TRL's variants."""
    bf16: bool = False
    """Compute in bfloat16 with float32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations: less memory, about a third more time; for large models."""
    save_steps: Count = 50
    """Steps between two checkpoints to resume from."""

    def __post_init__(self) -> None:
        check_settings(self, "dpo.")


def beam_negatives(
    grlm: GRLMForRecommendation, questions: Sequence[tuple[tuple[str, ...], str]], n: int, exclude_seen: bool = True
) -> Dataset:
    """Pairs for `DPOTrainer`: `n` a question, of the columns `prompt_ids`, `chosen_ids` (the target's identifier) and `rejected_ids` (one
    of the best `n` beams that are not the target), lists of token ids.

    Args:
        questions: (history, target) as item ids; see `grlm_hf.training.rollouts.positions`.

    Raises:
        ValueError: too few identifiers for `n` negatives.
    """
    from datasets import Dataset, Features, List, Value

    from grlm_hf.training.rollouts import roll_out

    index = grlm.shelf.index
    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    with progress(total=len(questions), desc="beam negatives", unit="prompt", disable=len(questions) < 200) as bar:
        for start in range(0, len(questions), _AT_ONCE):
            chunk = questions[start : start + _AT_ONCE]
            found = roll_out(grlm, [history for history, _ in chunk], n + 1, exclude_seen=exclude_seen)
            for (_, target), beams in zip(chunk, found, strict=True):
                chosen = index.path(index.catalog.position(target)).tolist()
                rejected = [path for leaf in beams.leaf if (path := index.paths[leaf].tolist()) != chosen][:n]
                rows["prompt_ids"] += [beams.prompt.tolist()] * n
                rows["chosen_ids"] += [chosen] * n
                rows["rejected_ids"] += rejected
            bar.update(len(chunk))
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
    trl = require_trl()
    from datasets import Dataset

    from grlm_hf.training.callbacks import StopAtNaN
    from grlm_hf.training.policy import PairTrainer, follow_objective
    from grlm_hf.training.rollouts import positions

    config, work, policy = config or DPOConfig(), Path(work), grlm.language_model("DPO")
    grlm.config.refuse_evidence("DPO")
    work.mkdir(parents=True, exist_ok=True)
    # 1. the pairs, of the model as it starts; every process finds the same
    if (work / PAIRS_FILE).is_file():
        pairs = Dataset.from_parquet(str(work / PAIRS_FILE))
    else:
        questions = positions(histories, config.prompts, seed, config.exclude_seen)
        pairs = beam_negatives(grlm, questions, config.negatives, config.exclude_seen)
        if int(os.environ.get("RANK", "0")) == 0:
            write_parquet(pairs, work / PAIRS_FILE)
    # 2. TRL
    args = trl_settings(
        trl.DPOConfig,
        "dpo",
        config,
        work,
        seed,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        beta=config.beta,
        loss_type=[config.loss],
        max_length=None,
    )
    with patches_removed(policy), memory_advice(_less_memory(config)):
        reference = copy.deepcopy(policy)
        stop = StopAtNaN("dpo.learning_rate")
        trainer = PairTrainer(policy, reference, args=args, train_dataset=pairs, processing_class=grlm.tokenizer, callbacks=[stop])
        for model in (policy, reference):
            follow_objective(model, grlm.trie if grlm.config.objective == "trie" else None)
        fit(trainer, work)
    return grlm


def _less_memory(config: DPOConfig) -> list[str]:
    advice = [f"dpo.batch_size={max(1, config.batch_size // 2)}"]
    advice += ["dpo.gradient_checkpointing=true"] if not config.gradient_checkpointing else []
    return advice + (["dpo.bf16=true"] if not config.bf16 else [])
