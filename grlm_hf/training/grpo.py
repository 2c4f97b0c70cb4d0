"""Group-relative policy optimisation (GRPO: Shao et al., 2024) with TRL's `GRPOTrainer`, on rollouts from the constrained search.

A prompt is a history cut at some place of the training data, its rollouts are distinct identifiers of the catalog, and rewards compare
them with the item that came next. The log-probabilities in the loss are normalised as the checkpoint's scores are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.files import write_json
from grlm_hf.settings import Count, NotNegative, Positive, Range, Share, check_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.scores import Scorer


@dataclass(frozen=True)
class RewardWeights:
    """What a rollout is worth: the weighted sum of these rewards (`grlm_hf.training.rewards`)."""

    exact_hit: Annotated[float, Range()] = 1.0
    """1 for the item that came next."""
    prefix: Annotated[float, Range()] = 0.0
    """The share of its terms that are right from the front."""
    rank_aware: Annotated[float, Range()] = 0.0
    """1 for the item that came next, and a share of -1 for each other, the more the further in front it stands."""
    collaborative: Annotated[float, Range()] = 0.0
    """How likely item-kNN, counted on the training histories, finds the item."""

    def __post_init__(self) -> None:
        check_settings(self, "grpo.rewards.")


@dataclass(frozen=True)
class GRPOConfig:
    """How a checkpoint is trained further on rewards."""

    steps: Count = 200
    prompts: Count = 32
    """Prompts a step and device."""
    rollouts: Annotated[int, Range(2)] = 16
    """Identifiers a prompt: the group that rewards are compared in."""
    gradient_accumulation: Count = 1
    """Parts that a step's rollouts are learnt from in, one after the other: less memory, the same step."""
    sampling: Literal["beams", "sampled"] = "beams"
    """"beams": the best ones of a beam search; "sampled": drawn from the model without replacement."""
    exclude_seen: bool = True
    """No rollout is an item of its history, as in the evaluation."""
    rewards: RewardWeights = field(default_factory=RewardWeights)
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Advantages are divided by the standard deviation of rewards in the "group" or the "batch", or by nothing: "none"."""
    learning_rate: Positive = 1e-4
    warmup: Share = 0.05
    """Share of all steps in which the learning rate rises; it then falls as a cosine."""
    weight_decay: NotNegative = 0.0
    beta: NotNegative = 0.0
    """Weight of the KL divergence from the checkpoint that was started from; 0: it is not computed."""
    iterations: Count = 1
    """Updates on the same rollouts; with more than 1, importance ratios are clipped at `epsilon`."""
    epsilon: Positive = 0.2
    bf16: bool = False
    """Compute in bfloat16 over float32 weights."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time; for large models."""
    save_steps: Count = 50
    """A checkpoint to resume from is written every so many steps."""

    def __post_init__(self) -> None:
        check_settings(self, "grpo.")
        if not any(asdict(self.rewards).values()):
            raise ValueError("All weights of grpo.rewards are 0: there is nothing to train on.")
        if self.prompts * self.rollouts % self.gradient_accumulation:
            raise ValueError(
                f"grpo.gradient_accumulation is {self.gradient_accumulation}; expected a divisor of prompts · rollouts, "
                f"{self.prompts * self.rollouts}."
            )
        if self.save_steps % self.iterations:
            raise ValueError(f"grpo.save_steps is {self.save_steps}; expected a multiple of grpo.iterations, {self.iterations}.")


def train_grpo(
    grlm: GRLMForRecommendation,
    histories: Sequence[History],
    work: str | Path,
    config: GRPOConfig | None = None,
    *,
    scorer: Scorer | None = None,
    seed: int = 0,
) -> GRLMForRecommendation:
    """Trains a checkpoint further on rewards, in place, and returns it; resumes from the last checkpoint in `work` if there is one.

    Args:
        histories: of training only.
        work: folder for the trainer's checkpoints, and its log: `log.json`.
        scorer: whose opinion `rewards.collaborative` is.

    Raises:
        ImportError: trl is not installed.
        ValueError: an item that the catalog lacks, more rollouts than identifiers, or a loss that became NaN.
    """
    try:
        from trl import GRPOConfig as TRLConfig
        from trl import GRPOTrainer
    except ImportError as error:
        raise ImportError('Training needs TRL: pip install "grlm-hf[train]"') from error
    import torch
    from transformers import ProgressCallback

    from grlm_hf.training.callbacks import OneBar, StopAtNaN
    from grlm_hf.training.policy import clean_log, follow_objective
    from grlm_hf.training.resume import last_whole_checkpoint
    from grlm_hf.training.rollouts import positions

    config = config or GRPOConfig()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    n = -(-config.steps // config.iterations) * config.prompts * processes
    asked = positions(histories, n, seed, config.exclude_seen)
    rewards = _rewards(grlm, config, scorer)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func may change; our tests will tell
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        args = TRLConfig(
            output_dir=str(work),
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            per_device_train_batch_size=config.prompts * config.rollouts // config.gradient_accumulation,
            gradient_accumulation_steps=config.gradient_accumulation,
            num_generations=config.rollouts,
            steps_per_generation=config.gradient_accumulation,
            num_iterations=config.iterations,
            epsilon=config.epsilon,
            beta=config.beta,
            loss_type="dapo",
            scale_rewards=config.scale_rewards,
            reward_weights=list(rewards.values()),
            shuffle_dataset=False,
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
    trainer = GRPOTrainer(
        grlm.model,
        list(rewards),  # type: ignore[arg-type]
        args=args,
        train_dataset=_dataset(grlm, asked),
        processing_class=grlm.tokenizer,
        rollout_func=_rollouts(grlm, config, seed),  # type: ignore[arg-type]  # prompts are histories here
        callbacks=[StopAtNaN()],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(OneBar())
    trie = grlm.trie if grlm.config.objective == "trie" else None
    for model in (grlm.model, trainer.ref_model):
        if model is not None:
            follow_objective(trainer.accelerator.unwrap_model(model), trie)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(work)))
    if trainer.is_world_process_zero():
        write_json(Path(work) / "log.json", clean_log(trainer.state.log_history))
    grlm.model.__dict__.pop("forward", None)  # what TRL and we put in its place
    grlm.model.eval()
    return grlm


def _dataset(grlm: GRLMForRecommendation, asked: Sequence[tuple[tuple[str, ...], str]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [list(h) for h, _ in asked], "target": [list(grlm.catalog.term_id(t)) for _, t in asked]})


def _rewards(grlm: GRLMForRecommendation, config: GRPOConfig, scorer: Scorer | None) -> dict[Callable[..., list[float]], float]:
    """TRL's reward functions and their weights; the hits and the valid ones are counted in any case."""
    from grlm_hf.training.rewards import collaborative, exact_hit, for_trl, prefix, rank_aware, validity

    w = config.rewards
    found = {for_trl(exact_hit, "exact_hit"): w.exact_hit, for_trl(validity(grlm.catalog), "validity"): 0.0}
    if w.prefix:
        found[for_trl(prefix, "prefix")] = w.prefix
    if w.rank_aware:
        found[for_trl(rank_aware, "rank_aware")] = w.rank_aware
    if w.collaborative:
        if scorer is None:
            raise ValueError("grpo.rewards.collaborative needs a scorer, whose opinion it is.")
        found[for_trl(collaborative(grlm.catalog, scorer), "collaborative")] = w.collaborative
    return found


def _rollouts(grlm: GRLMForRecommendation, config: GRPOConfig, seed: int) -> Callable[[list[list[str]], Any], dict[str, Any]]:
    """TRL's `rollout_func`: the rows' histories → tokens of prompts and completions. Rows come `rollouts` times each, together."""
    from grlm_hf.training.rollouts import roll_out

    paths = grlm.shelf.index.paths

    def rollout(rows: list[list[str]], trainer: Any) -> dict[str, Any]:
        n = config.rollouts
        rng = np.random.default_rng([seed, trainer.state.global_step, trainer.accelerator.process_index])
        grlm.model.eval()
        found = roll_out(grlm, rows[::n], n, sampling=config.sampling, exclude_seen=config.exclude_seen, rng=rng)
        grlm.model.train()
        return {
            "prompt_ids": [r.prompt.tolist() for r in found for _ in range(n)],
            "completion_ids": [paths[leaf].tolist() for r in found for leaf in r.leaf],
            "logprobs": None,
            "place": [place for _ in found for place in range(n)],
        }

    return rollout
