"""The whole path as data: a recipe, its four stages, and which of them still have to run.

``terms → dataset → train → evaluate``. Each stage is one function that reads files and writes files; `run` calls those whose inputs or
settings have changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf import __version__
from grlm_hf.catalog import CATALOG_FILE, Catalog, items_to_dataset, load_items, load_term_ids
from grlm_hf.files import check_replaceable, find_table, read_json, replacing, write_json, write_parquet
from grlm_hf.interactions import (
    Case,
    History,
    Split,
    cases_to_dataset,
    hold_out_items,
    interactions_to_datasets,
    leave_one_out,
    load_histories,
    split_by_time,
)
from grlm_hf.tasks.mixture import MixtureConfig, build_mixture, examples_to_dataset, validation_sequences
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.training.sft import TrainConfig

if TYPE_CHECKING:
    from grlm_hf.modeling import GRLMForRecommendation

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


# --- stages: files in, files out ---------------------------------------------------------------------------------------------------


def find_data(data: str | Path, *stems: str) -> Path:
    """The table of a data folder that has one of these names. Raises ``ValueError`` naming what the folder should hold."""
    folder = Path(data)
    if not str(data) or not folder.is_dir():
        raise ValueError(f"No data folder at {str(data)!r}; expected one with items.* and interactions.* (csv, jsonl or parquet).")
    for stem in stems:
        if (path := find_table(folder, stem)) is not None:
            return path
    raise ValueError(f"{folder} holds no {' or '.join(f'{s}.*' for s in stems)} (csv, jsonl or parquet, also .gz).")


def make_terms(data: str | Path, output: str | Path, config: TermsConfig | None = None, read: DataConfig | None = None) -> Catalog:
    """Gives every item a Term ID and writes the catalog to `output`, with ``neighbors.parquet`` beside it where terms are extracted."""
    config, read = config or TermsConfig(), read or DataConfig()
    check_replaceable(output, CATALOG_FILE)
    items = load_items(find_data(data, "items"), read.missing_title)
    neighbors = None
    if config.source == "file":
        given = load_term_ids(find_data(data, "term_ids", "term_ids_official"))
        if missing := [i.item_id for i in items if i.item_id not in given]:
            raise ValueError(
                f"{len(missing)} items have no Term ID in the file, such as {missing[:3]}; extract them: terms.source=extract."
            )
        term_ids = [given[i.item_id] for i in items]
    elif config.source == "extract":
        from grlm_hf.identifiers.extract import extract_terms
        from grlm_hf.identifiers.neighbors import find_neighbors

        neighbors = find_neighbors(items, config.neighbors, config.embedder or None)
        term_ids = extract_terms(items, neighbors)
    else:
        raise ValueError(f"terms.source is {config.source!r}; expected 'extract' or 'file'.")
    if config.resolve:
        from grlm_hf.identifiers.collisions import resolve

        term_ids = resolve(items, term_ids)
    catalog = Catalog(items, term_ids)
    with replacing(output) as new:
        catalog.save_pretrained(new)
        if neighbors is not None:
            write_parquet(neighbors.to_dataset(), new / "neighbors.parquet")
    return catalog


def make_split(histories: Sequence[History], how: str, seed: int) -> Split:
    """Cuts histories as `DataConfig.split` says. Raises ``ValueError`` when nothing is left to validate on or to test on."""
    if how == "leave-one-out":
        split = leave_one_out(histories)
    elif how == "time":
        split = split_by_time(histories)
    elif how == "unseen-items":
        split = hold_out_items(histories, seed=seed)
    else:
        raise ValueError(f"read.split is {how!r}; expected one of {SPLITS}.")
    if not (split.validation and split.test):
        raise ValueError(
            f"read.split={how} leaves {len(split.validation)} validation and {len(split.test)} test cases of {len(histories)} users; "
            "expected some of each. Give more data, or choose another split."
        )
    return split


def make_dataset(
    data: str | Path,
    catalog_folder: str | Path,
    output: str | Path,
    mixture: MixtureConfig | None = None,
    read: DataConfig | None = None,
    *,
    seed: int = 0,
    title: str = "Term-ID dataset",
    notice: str = "",
) -> None:
    """Writes all tables as a dataset repository: items, interactions, term_ids, neighbors (if known), cases and sft."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    from grlm_hf.hub import save_datasets

    mixture, read = mixture or MixtureConfig(), read or DataConfig()
    check_replaceable(output, CATALOG_FILE)
    catalog = Catalog.from_pretrained(catalog_folder)
    histories = load_histories(
        find_data(data, "interactions", "sequences"), {i.item_id for i in catalog}, read.short_users, read.unknown_items
    )
    split = make_split(histories, read.split, seed)
    tables = {
        "items": {"train": items_to_dataset(catalog.items)},
        "interactions": interactions_to_datasets(split),
        "term_ids": {"train": catalog.to_dataset().select_columns(["item_id", "terms"])},
        "cases": {"validation": cases_to_dataset(split.validation), "test": cases_to_dataset(split.test)},
        "sft": {
            "train": build_mixture(catalog, split.train, mixture, seed),
            "validation": examples_to_dataset(validation_sequences(catalog, split.validation, mixture.max_history)),
        },
    }
    neighbors = Path(catalog_folder) / "neighbors.parquet"
    if neighbors.is_file():
        tables["neighbors"] = {"train": Dataset(pq.read_table(neighbors))}
    facts = {"schema": 1, "title": title, "split": split.name, "max_history": mixture.max_history, "notice": notice}
    save_datasets(tables, catalog, output, facts)


def make_checkpoint(
    datasets: str | Path, output: str | Path, config: TrainConfig | None = None, *, work: str | Path | None = None, seed: int = 0
) -> GRLMForRecommendation:
    """Trains on a dataset repository (folder or Hub id) and writes the checkpoint; resumes from what an earlier try left in `work`."""
    from datasets import load_dataset

    from grlm_hf.hub import dataset_facts
    from grlm_hf.training.sft import train

    check_replaceable(output, CATALOG_FILE)
    facts = dataset_facts(datasets)
    sft = load_dataset(str(datasets), "sft")
    config = config or TrainConfig()
    if work is None:  # named by all that the result depends on: never resumed from with other settings
        key = _fingerprint("train", [Path(datasets)] if Path(datasets).exists() else [], [config, seed, str(datasets), prompt_hash()])
        work = Path(output).parent / f".{Path(output).name}-training-{key}"
    grlm = train(
        Catalog.from_pretrained(datasets),
        sft["train"],
        work,
        config,
        validation=sft["validation"],
        max_history=facts["max_history"],
        seed=seed,
    )
    grlm.save_pretrained(output)
    shutil.rmtree(work, ignore_errors=True)
    return grlm


def make_report(
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    config: EvaluateConfig | None = None,
    *,
    part: str = "test",
    work: str | Path | None = None,
    seed: int = 0,
    name: str = "",
) -> dict[str, Any]:
    """Evaluates a checkpoint and the baselines on a dataset repository's cases; writes ``report.json`` and ``report.png``."""
    from datasets import load_dataset

    from grlm_hf.evaluation.baselines.chance import chance
    from grlm_hf.evaluation.baselines.popularity import popularity
    from grlm_hf.evaluation.evaluate import Method, evaluate
    from grlm_hf.evaluation.generative import constrained, free
    from grlm_hf.evaluation.report import save_report
    from grlm_hf.hub import dataset_facts
    from grlm_hf.modeling import GRLMForRecommendation

    config = config or EvaluateConfig()
    facts = dataset_facts(datasets)
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    cases = [Case(r["user_id"], tuple(r["history"]), r["target"]) for r in load_dataset(str(datasets), "cases", split=part)]
    train: dict[str, list[str]] = {}
    for row in load_dataset(str(datasets), "interactions", split="train"):
        train.setdefault(row["user_id"], []).append(row["item_id"])
    histories = [History(user, tuple(items)) for user, items in train.items()]
    methods: dict[str, Method] = {
        "grlm": constrained(grlm, config.exclude_seen, config.num_beams or None, config.batch_size),
        "popularity": popularity(grlm.catalog, histories, config.exclude_seen),
        "random": chance(grlm.catalog, config.exclude_seen, seed),
    }
    about = {"dataset": name or facts["title"], "split": f"{facts['split']}, {part}", "seen": "left out" if config.exclude_seen else "kept"}
    common = {**about, "seed": seed, "resamples": config.resamples, "work": work}
    report = evaluate(methods, cases, grlm.catalog, **common)  # type: ignore[arg-type]
    if config.free_users:
        if grlm.config.objective != "vocabulary":
            raise ValueError(
                "free_users needs a checkpoint with objective 'vocabulary'; one trained within the trie never learnt to write freely."
            )
        freely = evaluate({"grlm_free": free(grlm, config.exclude_seen)}, cases[: config.free_users], grlm.catalog, **common)  # type: ignore[arg-type]
        report["methods"] |= freely["methods"]
        report["protocol"]["grlm_free"] = f"first {freely['protocol']['users']} users; no trie, grounded in the paper's form"
    save_report(report, output)
    return report


# --- the chain ---------------------------------------------------------------------------------------------------------------------


def run(recipe: Recipe, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs a recipe's stages; returns the report. A finished stage with unchanged inputs and settings is not run again."""
    from grlm_hf.hub import write_model_card

    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    out, state, seed = Path(recipe.output), Path(recipe.output) / ".grlm", recipe.seed
    catalog, datasets, checkpoint, report_file = out / "catalog", out / "datasets", out / "checkpoint", out / "report.json"
    given = [find_data(recipe.data, "term_ids", "term_ids_official")] if recipe.terms.source == "file" else []

    def stage(name: str, inputs: Sequence[Path], settings: Any, outputs: Sequence[Path], work: Callable[[str], Any]) -> None:
        key = _fingerprint(name, inputs, settings)
        record = state / f"{name}.json"
        if record.is_file() and read_json(record).get("key") == key and all(o.exists() for o in outputs):
            say(f"{name}: unchanged, kept")
            return
        say(f"{name}: → {', '.join(o.name for o in outputs)}")
        record.unlink(missing_ok=True)
        work(key)
        write_json(record, {"key": key})

    events = find_data(recipe.data, "interactions", "sequences")
    r = recipe

    stage(
        "terms",
        [find_data(r.data, "items"), *given],
        [r.terms, r.read],
        [catalog],
        lambda _: make_terms(r.data, catalog, r.terms, r.read),
    )
    stage(
        "dataset",
        [events, catalog],
        [r.mixture, r.read, seed, r.name, r.notice],
        [datasets],
        lambda _: make_dataset(r.data, catalog, datasets, r.mixture, r.read, seed=seed, title=r.name, notice=r.notice),
    )
    stage(
        "train",
        [datasets],
        [r.train, seed, prompt_hash()],
        [checkpoint],
        lambda key: make_checkpoint(datasets, checkpoint, r.train, work=state / f"train-{key}", seed=seed),
    )
    stage(
        "evaluate",
        [datasets, checkpoint],
        [r.evaluate, seed],
        [report_file, report_file.with_suffix(".png")],
        lambda key: make_report(checkpoint, datasets, report_file, r.evaluate, work=state / f"evaluate-{key}", seed=seed, name=r.name),
    )
    report = read_json(report_file)
    write_model_card(checkpoint, report, recipe.name, recipe.notice)
    for leftover in [*state.glob("evaluate-*"), *state.glob("train-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    return report


def _fingerprint(name: str, inputs: Sequence[Path], settings: Any) -> str:
    digest = hashlib.sha256(
        json.dumps([name, __version__, [asdict(s) if hasattr(s, "__dataclass_fields__") else s for s in settings]]).encode()
    )
    for path in inputs:
        for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != "README.md") if path.is_dir() else [path]:
            with open(file, "rb") as content:
                digest.update(f"{file.name}:{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]
