"""How a model is trained: the settings of `grlm train`, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from grlm_hf.layout import Objective
from grlm_hf.settings import Count, Limit, NotNegative, Positive, Range, Share, check_settings
from grlm_hf.training.scratch import ScratchConfig

StoppingMetric = Literal["recall@10", "ndcg@10"]
STOPPING_METRICS: tuple[StoppingMetric, ...] = get_args(StoppingMetric)


@dataclass(frozen=True)
class LoraConfig:
    """Small trainable matrices beside the frozen weights of a given model (LoRA); merged into them at the end."""

    rank: Limit = 0
    """Rank of the matrices, such as 16; 0: no LoRA, all weights are trained."""
    alpha: Count = 32
    """The matrices' product counts alpha / rank."""
    dropout: Share = 0.05
    """Dropout on what the matrices read."""
    targets: str = "all-linear"
    """Layers with such matrices: all-linear (all but the output), or names separated by commas, such as q_proj,v_proj."""
    bits: Literal[4, 16] = 16
    """Bits of the frozen weights: 16, or 4 (QLoRA, NF4), which needs bitsandbytes. The merge is into the unquantised weights."""

    def __post_init__(self) -> None:
        check_settings(self, "train.lora.")
        if not self.targets.strip(", "):
            raise ValueError("train.lora.targets is empty; expected all-linear, or names of layers separated by commas.")


@dataclass(frozen=True)
class DistillConfig:
    """Learning also from a sequence model, which knows items as wholes (`grlm_hf.training.distill`); for the objective "trie"."""

    weight: Annotated[float, Range(0, 1)] = 0.0
    """The teacher's share of the loss; the true next items have the rest. 0: no teacher."""
    temperature: Positive = 1.0
    """The teacher's scores are divided by it; values above 1 flatten its probabilities."""
    model: str = ""
    """File of a sequence model; empty: the one that the recipe trains (`priors/sasrec.prior` of its output)."""

    def __post_init__(self) -> None:
        check_settings(self, "train.distill.")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Ends a training when the constrained search no longer finds the next items of validation users better than before."""

    metric: Literal["", StoppingMetric] = ""
    """recall@10 or ndcg@10, over the full catalog without the user's own items; empty: never stop early. The best weights are kept."""
    users: Count = 500
    """Validation users, drawn by the seed; all if there are fewer. Never test users."""
    every: Limit = 0
    """Steps from one evaluation to the next; 0: one after each epoch."""
    patience: Count = 3
    """Stop after this many evaluations in a row without improvement."""
    min_gain: NotNegative = 0.0
    """An improvement is a value above the best so far by more than this."""

    def __post_init__(self) -> None:
        check_settings(self, "train.early_stopping.")


@dataclass(frozen=True)
class HubConfig:
    """Pushes of the checkpoint to a private repository while it is trained, each one commit, ready for `from_pretrained`."""

    repo: str = ""
    """ORG/NAME; created if need be. Empty: nothing is pushed. `grlm push` makes a public one, with a licence."""
    every: Limit = 0
    """Steps from one push to the next; 0: only the finished checkpoint is pushed."""

    def __post_init__(self) -> None:
        check_settings(self, "train.hub.")


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained."""

    model: str = "scratch"
    """A causal LM on the Hub or in a folder, such as Qwen/Qwen3-4B-Instruct-2507; "scratch" makes a tiny Qwen3 from nothing."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    """Shape of the model from scratch."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """LoRA and QLoRA, for a given model."""
    objective: Objective = "vocabulary"
    """"vocabulary": the usual loss, and probabilities over all tokens. "trie": both over the legal children of the trie node only.
    Free text, such as chat, is learnt over all tokens under both."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """A sequence model as a further teacher."""
    epochs: NotNegative = 10.0
    """3 for a pretrained model, as in the paper."""
    max_steps: Annotated[int, Range(-1)] = -1
    """Number of steps; -1: as many as `epochs` takes."""
    learning_rate: Positive = 2e-3
    """1e-4 for a pretrained model of 4 B parameters, 2e-4 for .6 or 1.7 B, 7e-5 for 8 B, 5e-5 for 14 B."""
    warmup: Share = 0.1
    """Share of all steps with a rising learning rate; it then falls as a cosine."""
    batch_size: Count = 64
    """Examples a step and process (one process a device)."""
    gradient_accumulation: Count = 1
    """Batches whose gradients are added up to one step; a step takes batch_size · gradient_accumulation · processes examples."""
    beta1: Share = 0.9
    """AdamW's decay of the running mean of gradients."""
    beta2: Share = 0.95
    """AdamW's decay of the running mean of squared gradients."""
    epsilon: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: NotNegative = 0.05
    clip: NotNegative = 1.0
    """Gradients with a norm above this are scaled down to it."""
    dropout: Share = 0.1
    """Dropout on the embeddings and on every block's output, in training only; for models from scratch, which have none of their own."""
    bf16: bool = False
    """Compute in bfloat16 over float32 weights; a given model is saved in bfloat16."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass: far less memory, a third more time. For a given model only."""
    attention: str = ""
    """Attention kernels of a given model: sdpa, eager, or flash_attention_2, which needs a GPU and flash-attn; empty: transformers'
    choice."""
    liger: bool = False
    """Liger's fused kernels for a given model; needs a GPU and liger-kernel."""
    save_steps: Count = 200
    """Steps from one checkpoint to resume from to the next."""
    validation_examples: Limit = 1000
    """Validation users whose loss on the held-out item is logged after each epoch; 0: none."""
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    """Stop at the best recall of validation users."""
    hub: HubConfig = field(default_factory=HubConfig)
    """Push to the Hub during training."""

    def __post_init__(self) -> None:
        check_settings(self, "train.")
        if self.distill.weight and self.objective != "trie":
            raise ValueError("train.distill.weight needs train.objective=trie: the teacher answers node by node.")
        if self.epochs <= 0 and self.max_steps <= 0:
            raise ValueError(f"train.epochs is {self.epochs}; expected more than 0.")

    def check(self) -> None:
        """Raises ``ValueError`` for settings that do not go together; `grlm_hf.training.sft.train` calls it first.

        Not at construction, since settings of the command line are applied one by one.
        """
        given = {"lora.rank": self.lora.rank, "attention": self.attention, "liger": self.liger}
        if self.model == "scratch" and (name := next((name for name, value in given.items() if value), None)):
            raise ValueError(f"train.{name} is for a given model; train.model is 'scratch'. Set train.model, or leave train.{name} out.")
        if self.lora.bits == 4 and not self.lora.rank:
            raise ValueError("train.lora.bits=4 needs LoRA, since quantised weights cannot be trained: set train.lora.rank, such as 16.")
        if self.hub.every and not self.hub.repo:
            raise ValueError(f"train.hub.every is {self.hub.every}, but no repository is named; set train.hub.repo=ORG/NAME.")
