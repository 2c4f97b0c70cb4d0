"""All settings of the path from data to evaluation, as one dataclass that YAML recipes and flags fill."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from grlm_hf.evaluation.config import EvaluateConfig
from grlm_hf.files import did_you_mean
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.collisions import Resolver
from grlm_hf.indexing.generate import LLMConfig
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.layout import RECIPE_FILE, MissingTitle, ShortUsers, SplitName, UnknownItems
from grlm_hf.plugins import beside, check_plugin, downloaded
from grlm_hf.priors.awaited import DENSE
from grlm_hf.priors.how import Choice, Fit
from grlm_hf.priors.sequence import SequenceConfig
from grlm_hf.settings import Count, Limit, Range, Seed, Size, check_settings
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.training.dpo import DPOConfig
from grlm_hf.training.grpo import GRPOConfig
from grlm_hf.training.sft import TrainConfig

Stage = Literal["neighbors", "terms", "quality", "dataset", "priors", "teacher", "train", "hybrid", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PRIORS = ("item_knn", "sasrec", "text_knn", "ease", "vae")
_PLUGINS = (("terms", "function"), ("evaluate", "metrics"), ("evaluate", "methods"))


@dataclass(frozen=True)
class DataConfig:
    """Settings of reading and splitting the data."""

    missing_title: MissingTitle = "error"
    """What to do with an item without a title: "error", or "fill" it with brand and category."""
    unknown_items: UnknownItems = "error"
    """What to do with events on items missing from the catalog: "error" or "drop"."""
    short_users: ShortUsers = "error"
    """What to do with users with fewer than three items: "error", "drop", or "keep" (for training only)."""
    split: SplitName = "leave-one-out"
    """Held-out events: leave-one-out, leave-one-out-per-domain, time, unseen-items, or given (columns n_valid and n_test of the file)."""
    limit: Limit = 0
    """For trials: read only this many items from the beginning, and only their events; 0: all."""
    train_users: Annotated[float, Range(above=0, most=1, text="a share of the users, above 0 and at most 1")] = 1.0
    """For learning curves: the share of users, drawn by the seed, whose events are for training; 0.05 is a part of 0.25. Catalog,
    validation and test stay whole."""

    def __post_init__(self) -> None:
        check_settings(self, "read.")
        if self.train_users < 1 and self.split == "unseen-items":
            raise ValueError(
                f"read.train_users is {self.train_users} and read.split unseen-items: an item that only other users bought would count as "
                "new. Choose another split, or leave read.train_users out."
            )


@dataclass(frozen=True)
class TermsConfig:
    """Settings of the Term IDs."""

    generator: Literal["extract", "transformers", "vllm", "file"] = "extract"
    """"extract" takes words from item texts, without a language model; with "transformers" and "vllm" `terms.llm.model` writes them; "file"
    reads them."""
    file: str = ""
    """File of Term IDs for "file", with item_id and terms; empty: term_ids.* or term_ids_official.* in the data folder."""
    function: str = ""
    """Function of your own that makes the identifiers, in place of the generator, as FILE.py:FUNCTION or module:FUNCTION: a list of items →
    a dict of item_id → list of terms."""
    n_terms: Annotated[int, Range(3, 8)] = 5
    """Number of terms in an identifier, 3 to 8; "file" uses those of the file."""
    vocabulary: Limit = 0
    """Number of terms to keep: the most frequent ones, which replace all others by similarity; 0: keep all. The resolver then uses kept
    terms only, so more items share an identifier."""
    resolver: Resolver = "term"
    """What happens to items that share an identifier: "term" (their last term becomes a distinguishing word), "append" (one more term),
    "attribute" (their last term becomes a colour, size or brand), or "rank" (they keep it and are ranked by item id)."""
    llm: LLMConfig = field(default_factory=LLMConfig)

    def __post_init__(self) -> None:
        check_settings(self, "terms.")
        if self.function:
            check_plugin("terms.function", self.function)
            if self.generator != "extract":
                raise ValueError(f"terms.function is {self.function!r} and terms.generator {self.generator!r}; expected one of the two.")

    @property
    def origin(self) -> str:
        """Where the terms come from: "function", or the generator."""
        return "function" if self.function else self.generator


@dataclass(frozen=True)
class IdentifierConfig:
    """What the items are named by."""

    kind: Literal["terms", "codes", "atomic", "titles", "pieces"] = "terms"
    """"terms" (Term IDs: words, settings under terms), "codes" (Semantic IDs: one code a level, settings under identifier.codes), "atomic"
    (one token an item; new items have none until the next training), "titles", or "pieces" (Semantic IDs whose frequent runs of codes are
    one token)."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    pieces: Size = 4096
    """Number of different pieces of the kind "pieces"; the codes themselves are among them."""

    def __post_init__(self) -> None:
        check_settings(self, "identifier.")
        if self.codes.file and self.kind != "codes":
            raise ValueError(f"identifier.codes.file is {self.codes.file!r} and identifier.kind {self.kind!r}; expected the kind codes.")


@dataclass(frozen=True)
class QualityConfig:
    """Settings of the quality report of the identifiers."""

    compare: str = ""
    """Identifiers of the same items to compare with: a catalog, a file of Term IDs, or an index file of codes."""
    compare_name: str = "other"
    """The other set's name in the report."""
    neighbors: str = ""
    """File of `grlm neighbors` for the measure of agreement, such as another embedder's; empty: the neighbours used for the terms."""
    tokenizer: str = ""
    """Name or folder of a tokenizer, to measure lengths in tokens and the branching of their trie."""
    behaviour: str = ""
    """Data folder whose training histories say which items go together, to measure the agreement of codes with them; empty: not
    measured."""


@dataclass(frozen=True)
class PriorsConfig:
    """Recommenders without a language model: baselines of the report, and priors of the search (`grlm_hf.priors`)."""

    methods: list[str] = field(default_factory=lambda: ["item_knn", "text_knn"])
    """item_knn (counts pairs of items; seconds), sasrec (a sequence decoder, see `sequence_model`; minutes), text_knn (texts only), ease
    (a linear model in closed form, for up to 40,000 items; minutes for 12,000), vae (a variational autoencoder, Mult-VAE; minutes)."""
    combine: list[str] | None = None
    """Combinations of methods without the language model, such as sasrec+item_knn; null: item_knn+text_knn and all methods together."""
    hybrids: list[str] | None = None
    """Methods or combinations to fuse with the language model, such as item_knn and sasrec+item_knn; null: as for combine. Here dense is a
    method too: the language model's answer without decoding. The checkpoint contains the best one on validation users."""
    form: Choice = "product"
    """How recommenders are put together: "product" (weighted log-probabilities are added: an item needs the consent of all), "mixture"
    (weighted probabilities are added: one of them is enough, so an item that never sold can be found), "gate" (a product with weights
    that depend on how often an item sold and how long the history is; set hybrid_users to 6000 or more), or "best" (the one of product
    and gate that is better on validation users)."""
    fit: Fit = "ndcg"
    """How weights are chosen: "ndcg" (those with the best NDCG@10), "macro" (those with the best mean of NDCG@10 over slices of items
    that sold equally often, so that seldom sold ones count as much), or "likelihood" (those under which the next items are likeliest, and a
    product gets a bias by how often an item sold, so that seldom sold items compete; set hybrid_users to 6000 or more). A gate's weights
    are fitted by likelihood in any case; this chooses what they depend on, and of the form "best" the form."""
    validation_users: Count = 12_000
    """Number of random validation users that choose the settings of item_knn; with too few it overfits to them."""
    hybrid_users: Count = 2000
    """Number of random validation users that choose the weights of priors beside the language model. Test users never choose anything."""

    def __post_init__(self) -> None:
        check_settings(self, "priors.")
        for name, given in (("methods", self.methods), ("combine", self.combine or []), ("hybrids", self.hybrids or [])):
            for entry in given:
                parts, known = entry.split("+"), PRIORS if name == "methods" else self.methods
                known = [*known, DENSE] if name == "hybrids" else known
                if strange := [part for part in parts if part not in known]:
                    allowed = "+".join(known) or "nothing, as priors.methods is empty"
                    raise ValueError(f"priors.{name} has {strange[0]!r}; expected {allowed}.")
                if len(set(parts)) < len(parts) or (name == "methods" and len(parts) > 1) or (name == "combine" and len(parts) < 2):
                    form = "one method" if name == "methods" else "methods joined by +"
                    raise ValueError(f"priors.{name} has {entry!r}; expected {form}.")
            if len(set(given)) < len(given):
                raise ValueError(f"priors.{name} is {given}; expected each entry once.")

    def combinations(self) -> list[str]:
        """The combinations without the language model: `combine`, or those that follow from `methods`."""
        if self.combine is not None:
            return self.combine
        together = ["item_knn+text_knn"] if {"item_knn", "text_knn"} <= set(self.methods) else []
        return together + (["+".join(self.methods)] if len(self.methods) > 1 and set(self.methods) != {"item_knn", "text_knn"} else [])

    def hybrid_names(self) -> list[str]:
        """What is fused with the language model: `hybrids`, or what follows from `methods`."""
        return replace(self, combine=None).combinations() or self.methods if self.hybrids is None else self.hybrids


@dataclass(frozen=True)
class Recipe:
    """All settings from a data folder to an evaluated checkpoint."""

    name: str = "grlm"
    """Title of the dataset and of the report."""
    data: str = ""
    """A folder with items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz)."""
    output: str = ""
    """Folder that receives neighbors.parquet, catalog/, quality/, datasets/, priors/, checkpoint/ and the report."""
    until: Stage = "evaluate"
    """The last stage that runs: neighbors, terms, quality, dataset, priors, teacher, train, hybrid or evaluate."""
    seed: Seed = 0
    """Seed of everything random."""
    notice: str = ""
    """Text about the data, shown in cards."""
    read: DataConfig = field(default_factory=DataConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    identifier: IdentifierConfig = field(default_factory=IdentifierConfig)
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
        if self.identifier.kind == "atomic" and self.read.split == "unseen-items":
            raise ValueError(
                "identifier.kind is atomic and read.split unseen-items: a new item has no atomic id before the next training. Choose "
                "another kind or split."
            )
        distill = self.train.distill
        if distill.weight and (missing := [name for name in distill.of_recipe if name not in self.priors.methods]):
            raise ValueError(f"train.distill.teacher is {distill.teacher!r}: add {missing[0]} to priors.methods, or name a file or folder.")
        if distill.weight and len(distill.of_recipe) > 1 and distill.teacher not in self.priors.combinations():
            raise ValueError(f"train.distill.teacher is {distill.teacher!r}, whose weights are not chosen: add it to priors.combine.")
        if self.evaluate.free_users and self.train.objective != "vocabulary":
            raise ValueError(
                "evaluate.free_users needs train.objective=vocabulary; a model trained with the trie never learns to write freely."
            )

    def plugins(self) -> list[str]:
        """The functions of the user that the recipe names."""
        return [name for name in (self.terms.function, *self.evaluate.metrics, *self.evaluate.methods) if name]


def load_recipe(path: str | Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file and ``key=value`` settings (``train.epochs=3``), over the defaults. ``${oc.env:GRLM_NAME,default}`` works.
    Functions that it names (`grlm_hf.plugins`) are neither opened nor run.
    Raises `ValueError` for no such file, broken YAML, an unknown key (with the nearest known one), or a value of the wrong type or out of
    range."""
    from omegaconf import OmegaConf

    if path is None:
        return override(Recipe(), settings)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; expected a recipe, which is a YAML file, such as {Path(path) / RECIPE_FILE}.")
    if not Path(path).is_file():
        raise ValueError(f"No recipe at {path}. Recipes are YAML files; `grlm import` writes one for your tables.")
    part = (str(path), lambda: _with_places(OmegaConf.load(path), path))
    if downloaded(path) and (named := override(Recipe(), (), part).plugins()):
        raise ValueError(
            f"{path} was downloaded from the Hub, and names code to run ({', '.join(named)}). "
            "Read both, and copy them into a folder of your own."
        )
    return override(Recipe(), settings, part)


def _with_places(loaded: Any, path: str | Path) -> Any:
    """The content of a recipe file, in which functions of files beside it are named with its folder. Nothing of them is opened."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(loaded, resolve=False)
    for section, key in _PLUGINS:
        part = plain.get(section) if isinstance(plain, dict) else None
        found = part.get(key) if isinstance(part, dict) else None
        if isinstance(found, str):
            loaded[section][key] = beside(path, found)
        elif isinstance(found, list):
            loaded[section][key] = [beside(path, one) if isinstance(one, str) else one for one in found]
    return loaded


def override(recipe: Recipe, settings: Sequence[str], *more: tuple[str, Callable[[], Any]]) -> Recipe:
    """The recipe with ``key=value`` settings applied. Raises ``ValueError`` as `load_recipe` does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    wrong = (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError, ValueError, OSError, RecursionError)
    parts = list(more)
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"Setting {setting!r} is not of the form key=value, such as train.epochs=3.")
        key, _, value = setting.partition("=")
        plain = f"{key.strip()}={value.strip() or repr('')}"  # an empty value is the empty text, as in --set neighbors.embedder=
        parts.append((f"setting {setting!r}", partial(OmegaConf.from_dotlist, [plain])))
    merged = OmegaConf.structured(recipe)
    for where, load in parts:
        try:
            loaded = load()
            if not OmegaConf.is_dict(loaded):
                raise ValueError("expected keys and values, such as `name: my-shop`.")
            _check_interpolations(loaded)
            merged = OmegaConf.merge(merged, loaded)
            OmegaConf.to_container(merged, resolve=True)
        except wrong as error:
            raise ValueError(f"{where}: {_reason(error)}") from error
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]  # checked once, since settings may belong together
    except wrong as error:
        places = ", ".join(where for where, _ in parts)
        raise ValueError(f"{places}: {_reason(error)}" if len(parts) == 1 else f"{_reason(error)} (in {places})") from error


def _check_interpolations(loaded: Any) -> None:
    """Refuses ``${…}`` that could carry a secret into published files, or that computes.

    Raises:
        ValueError: a resolver other than ``oc.env``, or an environment variable whose name does not begin with GRLM_.
    """
    from omegaconf import OmegaConf

    for text in _texts(OmegaConf.to_container(loaded, resolve=False)):
        for name in re.findall(r"\$\{\s*([^${}:]+?)\s*:", text):
            if name != "oc.env":
                raise ValueError(f"{text!r} uses the resolver {name!r}; a recipe may use ${{oc.env:GRLM_…}} and ${{another.setting}} only.")
        for variable in re.findall(r"\$\{\s*oc\.env\s*:\s*([^,}]*)", text):
            if not re.fullmatch(r"GRLM_\w+", variable.strip(" '\"")):
                raise ValueError(
                    f"{text!r} reads the environment variable {variable.strip()!r}, which may be a secret, and a recipe is published with "
                    "its results. Name one that begins with GRLM_."
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (*_texts(key), *_texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


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
    if "is not a ListConfig" in text:
        return f"expected a list, such as [a,b] (at {key})."
    if choice := re.fullmatch(r"Invalid value (.*), expected one of \[(.*)\]", text):  # as `check_settings` words it
        return f"{key} is {choice[1]}; expected one of {choice[2]}."
    return text + (f" (at {key})" if key else "")
