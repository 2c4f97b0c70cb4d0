"""The whole path as data: what is read, how terms are made, what is trained on and how, how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from grlm_hf.tasks.mixture import MixtureConfig
from grlm_hf.training.sft import TrainConfig

SPLITS = ("leave-one-out", "time", "unseen-items")


@dataclass(frozen=True)
class DataConfig:
    """What is read, and what is forgiven."""

    missing_title: str = "error"
    """An item without a title: "error", or "fill" with its brand and category."""
    unknown_items: str = "error"
    """Events on items that the catalog lacks: "error" or "drop"."""
    short_users: str = "error"
    """Users with fewer than three items: "error", "drop", or "keep" (to learn from only)."""
    split: str = "leave-one-out"
    """leave-one-out, time, or unseen-items."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"read.split is {self.split!r}; expected one of {SPLITS}.")


@dataclass(frozen=True)
class TermsConfig:
    """Where Term IDs come from."""

    source: str = "extract"
    """"extract" takes words from item texts, without an LLM; "file" reads term_ids.* (or term_ids_official.*) of the data folder."""
    neighbors: int = 5
    """Similar items that an item's terms are chosen in view of."""
    embedder: str = ""
    """A SentenceTransformer's name or folder; empty: a TF-IDF embedder fitted on the catalog, which needs no download."""
    resolve: bool = True
    """Give items that share a Term ID one distinguishing term, where their text has one. False: keep the given identifiers."""

    def __post_init__(self) -> None:
        if self.source not in ("extract", "file"):
            raise ValueError(f"terms.source is {self.source!r}; expected 'extract' or 'file'.")


@dataclass(frozen=True)
class EvaluateConfig:
    """How the recommender is measured."""

    num_beams: int = 0
    """Width of the search; 0: as `recommend` chooses."""
    batch_size: int = 64
    exclude_seen: bool = True
    """Leave out items of the user's own history, in every method."""
    resamples: int = 1000
    """Of the bootstrap."""
    free_users: int = 0
    """Let the model also write without the trie, for so many users, grounded afterwards; needs objective "vocabulary"."""


@dataclass(frozen=True)
class Recipe:
    """From a data folder to an evaluated checkpoint."""

    name: str = "grlm"
    data: str = ""
    """A folder with items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz)."""
    output: str = ""
    """Where catalog/, datasets/, checkpoint/ and the report go."""
    seed: int = 0
    notice: str = ""
    """Said in cards: what these data are."""
    read: DataConfig = field(default_factory=DataConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
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
        parts.append((f"setting {setting!r}", partial(OmegaConf.from_dotlist, [setting])))
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
    import difflib
    from dataclasses import fields, is_dataclass

    key = getattr(error, "full_key", None)
    if type(error).__name__ == "ConfigKeyError" and key:
        owner: Any = Recipe()
        *path, last = str(key).split(".")
        for name in path:
            owner = getattr(owner, name, owner)
        known = [f.name for f in fields(owner)] if is_dataclass(owner) else []
        near = difflib.get_close_matches(last, known, 1)
        return f"unknown key {key!r}" + (
            f"; did you mean {'.'.join([*path, near[0]])!r}?" if near else f"; known there: {', '.join(known)}."
        )
    if mark := getattr(error, "problem_mark", None):  # broken YAML
        return f"line {mark.line + 1}: {error.problem}."  # type: ignore[attr-defined]
    return str(error).splitlines()[0] + (f" (at {key})" if key else "")
