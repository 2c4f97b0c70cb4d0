"""The whole path as data: what is read, how terms are made, what is trained on and how, how it is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from grlm_hf.files import did_you_mean
from grlm_hf.indexing.collisions import Resolver
from grlm_hf.indexing.generate import LLMConfig
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.layout import Candidates, MissingTitle, ShortUsers, SplitName, UnknownItems
from grlm_hf.priors.sequence import SequenceConfig
from grlm_hf.settings import Count, Limit, Range, Seed, check_settings
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.training.dpo import DPOConfig
from grlm_hf.training.grpo import GRPOConfig
from grlm_hf.training.sft import TrainConfig

Stage = Literal["neighbors", "terms", "quality", "dataset", "priors", "train", "hybrid", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PRIORS = ("item_knn", "sasrec", "text_knn")


@dataclass(frozen=True)
class DataConfig:
    """What is read, and what is forgiven."""

    missing_title: MissingTitle = "error"
    """An item without a title: "error", or "fill" with its brand and category."""
    unknown_items: UnknownItems = "error"
    """Events on items that the catalog lacks: "error" or "drop"."""
    short_users: ShortUsers = "error"
    """Users with fewer than three items: "error", "drop", or "keep" (to learn from only)."""
    split: SplitName = "leave-one-out"
    """leave-one-out, leave-one-out-per-domain, time, unseen-items, or given (columns n_valid and n_test of the file)."""
    limit: Limit = 0
    """Read only the first so many items, to try things; their events alone are kept. 0: all."""

    def __post_init__(self) -> None:
        check_settings(self, "read.")


@dataclass(frozen=True)
class TermsConfig:
    """Where Term IDs come from."""

    generator: Literal["extract", "transformers", "vllm", "file"] = "extract"
    """"extract" takes words from item texts, without a language model; "transformers" and "vllm" let `terms.llm.model` write them; "file"
    reads them."""
    file: str = ""
    """Of Term IDs, for "file": item_id and terms; empty: term_ids.* or term_ids_official.* of the data folder."""
    n_terms: Annotated[int, Range(3, 8)] = 5
    """Terms an identifier, 3 to 8; with "file", as many as the file has."""
    vocabulary: Limit = 0
    """Keep only the so many terms that most items have, and write the nearest of them for any other; 0: keep all. The resolver
    then takes kept terms only, so more items share an identifier."""
    resolver: Resolver = "term"
    """What becomes of items that share an identifier: "term" (a distinguishing word in the last place), "append" (one more term),
    "attribute" (brand, size or colour in the last place), or "rank" (they keep it, and are ranked in the order of their ids)."""
    llm: LLMConfig = field(default_factory=LLMConfig)

    def __post_init__(self) -> None:
        check_settings(self, "terms.")


@dataclass(frozen=True)
class QualityConfig:
    """What the quality report of the identifiers holds beside them."""

    compare: str = ""
    """Another file of Term IDs for the same items, to stand beside ours."""
    compare_name: str = "other"
    """What the report calls them."""
    neighbors: str = ""
    """File of `grlm neighbors` to measure agreement on, such as another embedder's; empty: those that the terms were chosen in view of."""
    tokenizer: str = ""
    """A tokenizer's name or folder, to count tokens and the branching of their trie."""


@dataclass(frozen=True)
class PriorsConfig:
    """Recommenders without a language model: baselines of the report, and priors of the search (`grlm_hf.priors`)."""

    methods: list[str] = field(default_factory=lambda: ["item_knn", "text_knn"])
    """item_knn (counts pairs of items; seconds), sasrec (a sequence decoder, as `sequence_model` says; minutes), text_knn (texts alone)."""
    combine: list[str] = field(default_factory=list)
    """Of those, what is fused without the language model, such as sasrec+item_knn."""
    hybrids: list[str] = field(default_factory=lambda: ["item_knn"])
    """What is fused with the language model, such as item_knn and sasrec+item_knn; the best of them on validation users ships in the
    checkpoint."""
    validation_users: Count = 12_000
    """On which the settings of item_knn are chosen, drawn by the seed; of fewer it takes settings that suit them alone."""
    hybrid_users: Count = 2000
    """On which the weights beside the language model are chosen. Test users never choose anything."""

    def __post_init__(self) -> None:
        check_settings(self, "priors.")
        for name, given in (("methods", self.methods), ("combine", self.combine), ("hybrids", self.hybrids)):
            for entry in given:
                parts, known = entry.split("+"), PRIORS if name == "methods" else self.methods
                if strange := [part for part in parts if part not in known]:
                    allowed = "+".join(known) or "nothing, as priors.methods is empty"
                    raise ValueError(f"priors.{name} has {strange[0]!r}; expected {allowed}.")
                if len(set(parts)) < len(parts) or (name == "methods" and len(parts) > 1) or (name == "combine" and len(parts) < 2):
                    form = "one method" if name == "methods" else "methods joined by +"
                    raise ValueError(f"priors.{name} has {entry!r}; expected {form}.")
            if len(set(given)) < len(given):
                raise ValueError(f"priors.{name} is {given}; expected each once.")


@dataclass(frozen=True)
class EvaluateConfig:
    """How the recommender is measured."""

    num_beams: Limit = 0
    """Width of the search; 0: as `recommend` chooses."""
    batch_size: Count = 64
    exclude_seen: bool = True
    """Leave out items of the user's own history, in every method."""
    candidates: Candidates = "all"
    """What is ranked: "all" items, or those of the target's "domain" alone, with a trie of that domain."""
    resamples: Count = 1000
    """Of the bootstrap."""
    unmasked: bool = False
    """Measure every method once more with seen items kept."""
    pairs: list[str] = field(default_factory=list)
    """Methods to compare besides the best one with each of the others, such as "grlm+sasrec+item_knn > sasrec+item_knn"."""
    free_users: Limit = 0
    """Let the model also write without the trie, for so many users, grounded afterwards; needs objective "vocabulary"."""

    def __post_init__(self) -> None:
        check_settings(self, "evaluate.")
        for pair in self.pairs:
            if len([name for name in pair.split(">") if name.strip()]) != 2:
                raise ValueError(f"evaluate.pairs has {pair!r}; expected two methods, such as 'grlm > item_knn'.")


@dataclass(frozen=True)
class Recipe:
    """From a data folder to an evaluated checkpoint."""

    name: str = "grlm"
    data: str = ""
    """A folder with items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz)."""
    output: str = ""
    """Where neighbors.parquet, catalog/, quality/, datasets/, checkpoint/ and the report go."""
    until: Stage = "evaluate"
    """The last stage that runs: neighbors, terms, quality, dataset, priors, train, hybrid or evaluate."""
    seed: Seed = 0
    notice: str = ""
    """Said in cards: what these data are."""
    read: DataConfig = field(default_factory=DataConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    sequence_model: SequenceConfig = field(default_factory=SequenceConfig)
    priors: PriorsConfig = field(default_factory=PriorsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.train.distill.weight and not self.train.distill.model and "sasrec" not in self.priors.methods:
            raise ValueError("train.distill.weight needs a teacher: add sasrec to priors.methods, or name one as train.distill.model.")
        if self.evaluate.free_users and self.train.objective != "vocabulary":
            raise ValueError(
                "evaluate.free_users needs train.objective=vocabulary; a model trained within the trie never learns to write freely."
            )


def load_recipe(path: str | Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file and ``key=value`` settings (``train.epochs=3``), over the defaults. ``${oc.env:NAME,default}`` works.

    Raises:
        ValueError: no such file, broken YAML, an unknown key (with the nearest known one) or a value of the wrong type.
    """
    from omegaconf import OmegaConf

    if path is None:
        return override(Recipe(), settings)
    if not Path(path).is_file():
        raise ValueError(f"No recipe at {path}. Recipes are YAML files such as recipes/beauty-cpu.yaml.")
    return override(Recipe(), settings, (str(path), lambda: OmegaConf.load(path)))


def override(recipe: Recipe, settings: Sequence[str], *more: tuple[str, Callable[[], Any]]) -> Recipe:
    """The recipe with ``key=value`` settings applied. Raises ``ValueError`` as `load_recipe` does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    parts = list(more)
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"Setting {setting!r} is not of the form key=value, such as train.epochs=3.")
        key, _, value = setting.partition("=")
        plain = f"{key.strip()}={value.strip() or repr('')}"  # nothing is the empty text, as in --set neighbors.embedder=
        parts.append((f"setting {setting!r}", partial(OmegaConf.from_dotlist, [plain])))
    merged = OmegaConf.structured(recipe)
    for where, load in parts:
        try:
            loaded = load()
            if not OmegaConf.is_dict(loaded):
                raise ValueError("expected keys and values, such as `name: my-shop`.")
            merged = OmegaConf.merge(merged, loaded)
            OmegaConf.to_object(merged)
        except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{where}: {_reason(error)}") from error
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    from dataclasses import fields, is_dataclass

    key = getattr(error, "full_key", None)
    if type(error).__name__ == "ConfigKeyError" and key:
        owner: Any = Recipe()
        *path, last = str(key).split(".")
        for name in path:
            owner = getattr(owner, name, owner)
        known = [f.name for f in fields(owner)] if is_dataclass(owner) else []
        return f"unknown key {key!r}. " + did_you_mean(last, known, f"Expected one of {', '.join(known)}.", "".join(f"{p}." for p in path))
    if mark := getattr(error, "problem_mark", None):  # broken YAML
        return f"line {mark.line + 1}: {error.problem}."  # type: ignore[attr-defined]
    text = str(error).splitlines()[0]
    if choice := re.fullmatch(r"Invalid value (.*), expected one of \[(.*)\]", text):  # as `check_settings` words it
        return f"{key} is {choice[1]}; expected one of {choice[2]}."
    return text + (f" (at {key})" if key else "")
