"""Group-relative policy optimisation (GRPO: Shao et al., 2024) with TRL's `GRPOTrainer`, on rollouts from the constrained search.

A prompt is the beginning of a training history. Its rollouts are distinct identifiers of the catalog, and rewards compare them with the
item that came next. The log-probabilities in the loss are normalised as the checkpoint's scores are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.settings import Count, NotNegative, Positive, Range, Share, Size, check_settings
from grlm_hf.training.run import fit, memory_advice, patches_removed, require_trl, trl_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.scores import Scorer


@dataclass(frozen=True)
class RewardWeights:
    """Weights of a rollout's rewards, which are summed (`grlm_hf.training.rewards`)."""

    exact_hit: Annotated[float, Range()] = 1.0
    """1 for the true next item."""
    prefix: Annotated[float, Range()] = 0.0
    """Share of its terms before the first wrong one."""
    rank_aware: Annotated[float, Range()] = 0.0
    """1 for the true next item; for each other item a share of -1 that grows towards the top of the list."""
    collaborative: Annotated[float, Range()] = 0.0
    """Probability of the item under item-kNN, counted on the training histories."""

    def __post_init__(self) -> None:
        check_settings(self, "grpo.rewards.")


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of GRPO."""

    steps: Count = 200
    """Number of optimiser steps."""
    prompts: Count = 32
    """Prompts per step and device."""
    rollouts: Annotated[int, Range(2)] = 16
    """Identifiers per prompt: the group in which rewards are compared."""
    gradient_accumulation: Size = 1
    """Number of parts of a step's rollouts, computed one after the other: less memory, the same step."""
    sampling: Literal["beams", "sampled"] = "beams"
    """Rollouts: "beams", the best of a beam search; or "sampled" from the model without replacement."""
    exclude_seen: bool = True
    """Exclude items of the history from rollouts, as in the evaluation."""
    rewards: RewardWeights = field(default_factory=RewardWeights)
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the rewards in the "group" or the "batch", or not: "none"."""
    learning_rate: Positive = 1e-4
    warmup: Share = 0.05
    """Share of all steps with a rising learning rate; it then falls as a cosine."""
    weight_decay: NotNegative = 0.0
    beta: NotNegative = 0.0
    """Weight of the KL divergence from the starting checkpoint; 0: it is not computed."""
    iterations: Count = 1
    """Number of updates with the same rollouts; with more than 1, importance ratios are clipped at `epsilon`."""
    epsilon: Positive = 0.2
    bf16: bool = False
    """Compute in bfloat16 with float32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations: less memory, about a third more time; for large models."""
    save_steps: Count = 50
    """Steps between two checkpoints to resume from."""

    def __post_init__(self) -> None:
        check_settings(self, "grpo.")
        if not any(asdict(self.rewards).values()):
            raise ValueError(
                "All weights of grpo.rewards are 0, so there is nothing to train on; set one, such as grpo.rewards.exact_hit=1."
            )
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
        scorer: the recommender whose probabilities define `rewards.collaborative`.

    Raises:
        ImportError: trl is not installed.
        ValueError: an item that the catalog lacks, more rollouts than identifiers, or a loss that became NaN.
    """
    trl = require_trl()

    from grlm_hf.training.callbacks import StopAtNaN
    from grlm_hf.training.policy import follow_objective, rollout_function
    from grlm_hf.training.rollouts import positions

    config, work, policy = config or GRPOConfig(), Path(work), grlm.language_model("GRPO")
    grlm.config.refuse_evidence("GRPO")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    n = -(-config.steps // config.iterations) * config.prompts * processes
    questions = positions(histories, n, seed, config.exclude_seen)
    rewards = _rewards(grlm, config, scorer)
    args = trl_settings(
        trl.GRPOConfig,
        "grpo",
        config,
        work,
        seed,
        max_steps=config.steps,
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
    )
    with patches_removed(policy), memory_advice(_less_memory(config)):
        trainer = trl.GRPOTrainer(
            policy,
            list(rewards),
            args=args,
            train_dataset=_dataset(grlm, questions),
            processing_class=grlm.tokenizer,
            rollout_func=rollout_function(lambda *rows: _rollouts(grlm, config, seed, *rows), config.rollouts),
            callbacks=[StopAtNaN("grpo.learning_rate")],
        )
        for model in (policy, trainer.ref_model):
            if model is not None:
                follow_objective(trainer.accelerator.unwrap_model(model), grlm.trie if grlm.config.objective == "trie" else None)
        from grlm_hf.engines.protocol import BrokenModel

        try:
            fit(trainer, work)
        except BrokenModel as error:
            raise ValueError("The policy's scores became NaN; lower grpo.learning_rate.") from error
    return grlm


def _less_memory(config: GRPOConfig) -> list[str]:
    advice = [f"grpo.gradient_accumulation={config.gradient_accumulation * 2}"]
    advice += ["grpo.gradient_checkpointing=true"] if not config.gradient_checkpointing else []
    advice += ["grpo.bf16=true"] if not config.bf16 else []
    return [*advice, "a lower grpo.prompts or grpo.rollouts"]


def _dataset(grlm: GRLMForRecommendation, questions: Sequence[tuple[tuple[str, ...], str]]) -> Dataset:
    from datasets import Dataset

    targets = [list(grlm.catalog.identifier(target)) for _, target in questions]
    return Dataset.from_dict({"prompt": [list(history) for history, _ in questions], "target": targets})


def _rewards(grlm: GRLMForRecommendation, config: GRPOConfig, scorer: Scorer | None) -> dict[Callable[..., list[float]], float]:
    """TRL's reward functions and their weights. Hits and valid rollouts are always counted."""
    from grlm_hf.training.rewards import collaborative, exact_hit, for_trl, prefix, rank_aware, validity

    w = config.rewards
    functions = {for_trl(exact_hit, "exact_hit"): w.exact_hit, for_trl(validity(grlm.catalog), "validity"): 0.0}
    if w.prefix:
        functions[for_trl(prefix, "prefix")] = w.prefix
    if w.rank_aware:
        functions[for_trl(rank_aware, "rank_aware")] = w.rank_aware
    if w.collaborative:
        if scorer is None:
            raise ValueError("grpo.rewards.collaborative needs a scorer, whose probabilities define it.")
        functions[for_trl(collaborative(grlm.catalog, scorer), "collaborative")] = w.collaborative
    return functions


def _rollouts(
    grlm: GRLMForRecommendation, config: GRPOConfig, seed: int, histories: list[list[str]], step: int, process: int
) -> list[tuple[list[int], list[list[int]]]]:
    """The tokens of each history's prompt, and those of its completions."""
    from grlm_hf.training.rollouts import roll_out

    paths, rng = grlm.shelf.index.paths, np.random.default_rng([seed, step, process])
    grlm.model.eval()
    found = roll_out(grlm, histories, config.rollouts, sampling=config.sampling, exclude_seen=config.exclude_seen, rng=rng)
    grlm.model.train()
    return [(r.prompt.tolist(), [paths[leaf].tolist() for leaf in r.leaf]) for r in found]
