"""Settings of `grlm train`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from grlm_hf.layout import Objective
from grlm_hf.settings import Count, Limit, NotNegative, Positive, Range, Share, Size, check_settings
from grlm_hf.training.scratch import ScratchConfig

StoppingMetric = Literal["recall@10", "ndcg@10"]
STOPPING_METRICS: tuple[StoppingMetric, ...] = get_args(StoppingMetric)


@dataclass(frozen=True)
class LoraConfig:
    """LoRA: small trainable matrices beside the frozen weights of a pretrained model, merged into them at the end."""

    rank: Limit = 0
    """Rank of the matrices, such as 16; 0: no LoRA, all weights are trained."""
    alpha: Count = 32
    """The product of the matrices is multiplied by alpha / rank."""
    dropout: Share = 0.05
    """Dropout on the input of the matrices."""
    targets: str = "all-linear"
    """Layers with LoRA: all-linear (all except the output), or names separated by commas, such as q_proj,v_proj."""
    bits: Literal[4, 16] = 16
    """Bits of the frozen weights in training: 16, or 4 (QLoRA, NF4), which needs bitsandbytes. The unquantised weights are merged."""

    def __post_init__(self) -> None:
        check_settings(self, "train.lora.")
        if not self.targets.strip(", "):
            raise ValueError("train.lora.targets is empty; expected all-linear, or names of layers separated by commas.")


@dataclass(frozen=True)
class NewRowsConfig:
    """The rows that identifiers with tokens of their own, such as Semantic IDs, add to the vocabulary of a given model
    (`grlm_hf.training.vocabulary`)."""

    start: Literal["gaussian", "codebook", "titles"] = "gaussian"
    """What a new row starts as: gaussian: noise at the mean and the standard deviation of the old rows; codebook: a random projection of
    its code's row of the codebook, so that near codes start near; titles: the mean of the rows of its items' title tokens."""
    steps: Limit = 0
    """Steps before all others that train only these rows, on the tasks of `ROWS_TASKS` that the mixture has, such as 2000; 0: none."""
    learning_rate: Positive = 1e-3
    """Highest learning rate of these steps."""

    def __post_init__(self) -> None:
        check_settings(self, "train.new_rows.")


ROWS_TASKS = ("internalise", "title_to_term_id", "description_to_term_id", "term_id_to_title")
"""The tasks from an item's text to its identifier and back."""


@dataclass(frozen=True)
class PhaseConfig:
    """A phase before the training that the other settings of `train` describe (`grlm_hf.training.phases`)."""

    tasks: list[str] = field(default_factory=list)
    """Tasks of the mixture whose examples it trains on; empty: all."""
    steps: Count = 1000
    """Number of steps."""
    trains: Literal["all", "rows"] = "all"
    """all: what the whole training does, thus LoRA's matrices with train.lora.rank; rows: only the rows of identifiers' tokens."""
    learning_rate: Positive = 1e-4
    """Highest learning rate; it rises and falls within the phase, as that of the whole training does."""

    def __post_init__(self) -> None:
        check_settings(self, "train.phases.")


@dataclass(frozen=True)
class DistillConfig:
    """Distillation from a recommender that gives all items a probability (`grlm_hf.training.distill`); for the objective "trie"."""

    weight: Annotated[float, Range(0, 1)] = 0.0
    """Share of the loss towards the teacher's probabilities; the rest is towards the true next items. 0: no teacher."""
    temperature: Positive = 1.0
    """Divisor of the teacher's scores: above 1 its probabilities are more even."""
    teacher: str = "sasrec"
    """One of priors.methods, or several joined by + with the weights that were chosen for them; or a GRLM checkpoint (folder), a prior of
    a checkpoint (folder), or one file of the folder priors; or the answers that one gave, the file labels.teacher of another run."""
    model: str = ""
    """File of a recommender, as `teacher`; the older name of that setting."""
    top: Size = 128
    """Number of the teacher's most probable items that are kept per question; all others share the rest."""
    sampled: Annotated[float, Range(0, 100)] = 0.0
    """Further examples per history, whose next item is drawn from the teacher's probabilities: it may be one that never sold."""
    auxiliary: bool = False
    """The teacher's probabilities are learnt by a linear layer of their own, which is dropped at the end; the true next items then keep
    their whole weight in the loss."""

    def __post_init__(self) -> None:
        check_settings(self, "train.distill.")
        if self.model:
            object.__setattr__(self, "teacher", self.model)
            object.__setattr__(self, "model", "")

    @property
    def of_recipe(self) -> list[str]:
        """The names of the recipe's own recommenders that teach; [] for a teacher in a file or folder."""
        names = self.teacher.split("+")
        return names if all(re.fullmatch(r"\w+", name) for name in names) and not Path(self.teacher).exists() else []


@dataclass(frozen=True)
class ContrastiveConfig:
    """The contrastive loss beside the generative one, for ``recommend(decode=False)`` (`grlm_hf.training.contrastive`)."""

    weight: NotNegative = 0.0
    """Weight of the loss, such as 0.1, against the 1 of the generative one; 0: none. It costs a further forward over an item's text for
    each example."""
    temperature: Positive = 0.05
    """Divisor of the cosines between histories and items; the checkpoint keeps it."""

    def __post_init__(self) -> None:
        check_settings(self, "train.contrastive.")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Early stopping by constrained searches for the next items of validation users."""

    metric: Literal["", StoppingMetric] = ""
    """recall@10 or ndcg@10, over the full catalog, without the user's own items unless evaluate.exclude_seen is false; empty: never stop
    early. The best weights are kept."""
    users: Count = 500
    """Number of random validation users per evaluation. Test users are never used."""
    every: Limit = 0
    """Steps between evaluations; 0: evaluate after each epoch."""
    patience: Count = 3
    """Stop after this many evaluations in a row without improvement."""
    min_gain: NotNegative = 0.0
    """Smallest increase over the best value that counts as improvement."""

    def __post_init__(self) -> None:
        check_settings(self, "train.early_stopping.")


@dataclass(frozen=True)
class HubConfig:
    """Pushes of checkpoints to a private repository during training; each is one commit, ready for `from_pretrained`."""

    repo: str = ""
    """ORG/NAME, created if it does not exist; empty: no pushes. Use `grlm push` for a public repository with a licence."""
    every: Limit = 0
    """Steps between pushes; 0: push the finished checkpoint only."""

    def __post_init__(self) -> None:
        check_settings(self, "train.hub.")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training."""

    model: str = "scratch"
    """A causal LM on the Hub or in a folder, such as Qwen/Qwen3-4B-Instruct-2507; "scratch" creates a tiny Qwen3 with random weights."""
    chat_template: str = ""
    """Chat template of a given model: "plain", or a file of Jinja; empty: its own, or "plain" for a base model, which has none."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    """Shape of the model from scratch."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """LoRA and QLoRA, for a pretrained model."""
    soft_tokens: Annotated[int, Range(0, 1000)] = 0
    """Number of vocabulary rows that are added to the prompt of a given model and trained alone: all its own weights stay frozen. They need
    a high learning rate, such as 0.03; 0: all weights are trained."""
    new_rows: NewRowsConfig = field(default_factory=NewRowsConfig)
    """Rows that identifiers with tokens of their own add to a given model."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Phases before this training, in their order, each with tasks, steps, trains and learning_rate; for a given model. Such as
    [{tasks: [sequence, internalise], steps: 5000}]: continued training on behaviour and metadata before all tasks (PLUM)."""
    objective: Objective = "vocabulary"
    """"vocabulary": loss and probabilities over all tokens, as usual. "trie": both over the legal children of the trie node only; free
    text, such as chat, is still learnt over all tokens."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Distillation from a recommender without a language model, or from another checkpoint."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """The contrastive loss between histories and items' texts."""
    epochs: NotNegative = 10.0
    """Number of epochs; 3 for a pretrained model, as in the paper."""
    max_steps: Annotated[int, Range(-1)] = -1
    """Number of steps, instead of `epochs`; -1: as many as `epochs` needs."""
    learning_rate: Positive = 2e-3
    """Highest learning rate; 1e-4 for a pretrained model of 4 B parameters, 2e-4 for .6 or 1.7 B, 7e-5 for 8 B, 5e-5 for 14 B."""
    warmup: Share = 0.1
    """Share of all steps with a rising learning rate; it then falls as a cosine."""
    batch_size: Size = 64
    """Examples per step and device."""
    gradient_accumulation: Size = 1
    """Batches per step, whose gradients are summed; a step has batch_size · gradient_accumulation · devices examples."""
    beta1: Share = 0.9
    """AdamW's decay rate of the gradients' mean."""
    beta2: Share = 0.95
    """AdamW's decay rate of the gradients' mean square."""
    epsilon: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: NotNegative = 0.05
    clip: NotNegative = 1.0
    """Largest norm of the gradient; longer ones are scaled down."""
    dropout: Share = 0.1
    """Dropout on the embeddings and on every block's output in training; for models from scratch only."""
    bf16: bool = False
    """Compute in bfloat16 with float32 weights; a pretrained model is then saved in bfloat16. On a CPU without AMX, float32 is faster."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: far less memory, a third more time; for a pretrained model only."""
    attention: str = ""
    """Attention kernels of a pretrained model: sdpa, eager, or flash_attention_2, which needs a GPU and flash-attn; empty: the default of
    transformers."""
    liger: bool = False
    """Liger's fused kernels for a pretrained model; needs a GPU and liger-kernel."""
    save_steps: Count = 200
    """Steps between two checkpoints to resume from."""
    validation_examples: Limit = 1000
    """Number of validation users whose loss is logged after each epoch; 0: none."""
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    """Early stopping by the recall of validation users."""
    hub: HubConfig = field(default_factory=HubConfig)
    """Pushes to the Hub during training."""

    def __post_init__(self) -> None:
        check_settings(self, "train.")
        if self.distill.weight and self.objective != "trie":
            raise ValueError("train.distill.weight needs train.objective=trie: the teacher's probabilities are per trie node.")
        if self.epochs <= 0 and self.max_steps <= 0:
            raise ValueError(f"train.epochs is {self.epochs}; expected more than 0.")

    @property
    def phases_before(self) -> list[PhaseConfig]:
        """All phases before this training, that of the new rows first."""
        rows = self.new_rows
        first = [PhaseConfig(list(ROWS_TASKS), rows.steps, "rows", rows.learning_rate)] if rows.steps else []
        return [*first, *self.phases]

    def check(self) -> None:
        """Raises ``ValueError`` for settings that do not go together; `grlm_hf.training.sft.train` calls it first.

        Not at construction, since settings of the command line are applied one by one.
        """
        given = {"lora.rank": self.lora.rank, "attention": self.attention, "liger": self.liger, "chat_template": self.chat_template}
        given |= {"soft_tokens": self.soft_tokens, "phases": self.phases, "new_rows.steps": self.new_rows.steps}
        given |= {"new_rows.start": self.new_rows.start != "gaussian"}
        if self.model == "scratch" and (name := next((name for name, value in given.items() if value), None)):
            raise ValueError(f"train.{name} is for a given model; train.model is 'scratch'. Set train.model, or leave train.{name} out.")
        if self.distill.auxiliary and self.lora.rank:
            raise ValueError("train.distill.auxiliary adds a layer to train, which LoRA would freeze; leave one of the two out.")
        if self.soft_tokens and (self.lora.rank or self.distill.auxiliary):
            raise ValueError("train.soft_tokens are the only weights to train; leave out train.lora.rank and train.distill.auxiliary.")
        if self.lora.bits == 4 and not self.lora.rank:
            raise ValueError("train.lora.bits=4 needs LoRA, since quantised weights cannot be trained: set train.lora.rank, such as 16.")
        if self.hub.every and not self.hub.repo:
            raise ValueError(f"train.hub.every is {self.hub.every}, but no repository is named; set train.hub.repo=ORG/NAME.")
