"""The stages of the path, ``terms → dataset → train → evaluate``, and which of them still have to run.

Each stage is one function that reads files and writes files; `run` calls those whose inputs or settings have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf import __version__
from grlm_hf.catalog import CATALOG_FILE, Catalog, items_to_dataset, load_items, load_term_ids
from grlm_hf.files import check_replaceable, find_table, read_json, replacing, write_json, write_parquet
from grlm_hf.hub import DATASET_FACTS, dataset_facts, load_table, save_datasets, write_model_card
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
from grlm_hf.recipe import DataConfig, EvaluateConfig, Recipe, TermsConfig
from grlm_hf.tasks.mixture import MixtureConfig, build_mixture, examples_to_dataset, validation_sequences
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.training.sft import TrainConfig

if TYPE_CHECKING:
    from grlm_hf.modeling import GRLMForRecommendation

CHECKPOINT_SIGN = "grlm_config.json"


def find_data(data: str | Path, *stems: str) -> Path:
    """The table of a data folder that has one of these names. Raises ``ValueError`` naming what the folder should hold."""
    folder = Path(data)
    if not str(data) or not folder.is_dir():
        raise ValueError(f"No data folder at {str(data)!r}; expected one with items.* and interactions.* (csv, jsonl or parquet).")
    for stem in stems:
        if (path := find_table(folder, stem)) is not None:
            return path
    hint = " Let them be made from the items' texts: terms.source=extract." if "term_ids" in stems else ""
    raise ValueError(f"{folder} holds no {' or '.join(f'{s}.*' for s in stems)} (csv, jsonl or parquet, also .gz).{hint}")


def make_terms(data: str | Path, output: str | Path, config: TermsConfig | None = None, read: DataConfig | None = None) -> Catalog:
    """Gives every item a Term ID and writes the catalog to `output`, with ``neighbors.parquet`` beside it where terms are extracted."""
    config, read = config or TermsConfig(), read or DataConfig()
    check_replaceable(output, CATALOG_FILE, never=(CHECKPOINT_SIGN, DATASET_FACTS))
    items = load_items(find_data(data, "items"), read.missing_title)
    neighbors = None
    if config.source == "file":
        given = load_term_ids(find_data(data, "term_ids", "term_ids_official"))
        if missing := [i.item_id for i in items if i.item_id not in given]:
            raise ValueError(
                f"{len(missing)} items have no Term ID in the file, such as {missing[:3]}; extract them: terms.source=extract."
            )
        term_ids = [given[i.item_id] for i in items]
    else:
        from grlm_hf.identifiers.extract import extract_terms
        from grlm_hf.identifiers.neighbors import find_neighbors

        neighbors = find_neighbors(items, config.neighbors, config.embedder or None)
        term_ids = extract_terms(items, neighbors)
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
    else:
        split = hold_out_items(histories, seed=seed)
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

    mixture, read = mixture or MixtureConfig(), read or DataConfig()
    check_replaceable(output, DATASET_FACTS)
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
    facts = {
        "schema": 1,
        "title": title,
        "notice": notice,
        "split": split.name,
        "max_history": mixture.max_history,
        "prompt_hash": prompt_hash(),
    }
    save_datasets(tables, catalog, output, facts)


def make_checkpoint(
    datasets: str | Path, output: str | Path, config: TrainConfig | None = None, *, work: str | Path | None = None, seed: int = 0
) -> GRLMForRecommendation:
    """Trains on a dataset repository (folder or Hub id) and writes the checkpoint; resumes from what an earlier try left in `work`."""
    from grlm_hf.training.sft import train

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Training in several processes is not supported yet; start one process without a launcher.")
    check_replaceable(output, CHECKPOINT_SIGN)
    config = config or TrainConfig()
    facts = dataset_facts(datasets)
    if facts["prompt_hash"] != prompt_hash():
        raise ValueError(
            f"{datasets} was made with other prompts (hash {facts['prompt_hash']}; this grlm-hf writes {prompt_hash()}). "
            "Make it again with this version: grlm dataset."
        )
    if work is None:  # named by all that the result depends on: never resumed from with other settings
        key = _fingerprint("train", _local(datasets, config.model), [config, seed, str(datasets), prompt_hash()])
        work = Path(output).parent / f".{Path(output).name}-training-{key}"
    grlm = train(
        Catalog.from_pretrained(datasets),
        load_table(datasets, "sft", "train"),
        work,
        config,
        validation=load_table(datasets, "sft", "validation"),
        max_history=facts["max_history"],
        seed=seed,
    )
    grlm.save_pretrained(output)
    write_json(Path(output) / "training_log.json", read_json(Path(work) / "log.json"))
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
    """Evaluates a checkpoint and the baselines on a dataset repository's cases.

    Writes ``report.json`` and ``report.png``, and the model card of a checkpoint in a local folder.
    """
    from grlm_hf.evaluation.baselines.chance import chance
    from grlm_hf.evaluation.baselines.popularity import popularity
    from grlm_hf.evaluation.evaluate import Method, evaluate
    from grlm_hf.evaluation.generative import constrained, free
    from grlm_hf.evaluation.report import save_report
    from grlm_hf.modeling import GRLMForRecommendation

    if Path(output).is_dir():
        raise ValueError(f"{output} is a folder; name the file that the report is to be, such as {Path(output) / 'report.json'}.")
    config = config or EvaluateConfig()
    facts = dataset_facts(datasets)
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    cases = [Case(r["user_id"], tuple(r["history"]), r["target"]) for r in load_table(datasets, "cases", part)]
    train: dict[str, list[str]] = {}
    for row in load_table(datasets, "interactions", "train"):
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
    if Path(checkpoint).is_dir():
        write_model_card(checkpoint, report, report["dataset"], facts["notice"])
    return report


# --- the chain ---------------------------------------------------------------------------------------------------------------------


def run(recipe: Recipe, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs a recipe's stages; returns the report. A finished stage with unchanged inputs and settings is not run again."""
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
        [find_data(r.data, "items"), *given, *_local(r.terms.embedder)],
        [r.terms, r.read.missing_title],
        [catalog],
        lambda _: make_terms(r.data, catalog, r.terms, r.read),
    )
    stage(
        "dataset",
        [events, catalog],
        [r.mixture, r.read, seed, r.name, r.notice, prompt_hash()],
        [datasets],
        lambda _: make_dataset(r.data, catalog, datasets, r.mixture, r.read, seed=seed, title=r.name, notice=r.notice),
    )
    stage(
        "train",
        [datasets, *_local(r.train.model)],
        [r.train, seed],
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
    for leftover in [*state.glob("evaluate-*"), *state.glob("train-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    return report


def _local(*places: str | Path) -> list[Path]:
    """Those of the places that are local folders, whose content counts; the others are names on the Hub."""
    return [Path(p) for p in places if str(p) and Path(p).is_dir()]


def _fingerprint(name: str, inputs: Sequence[Path], settings: Any) -> str:
    digest = hashlib.sha256(
        json.dumps([name, __version__, [asdict(s) if hasattr(s, "__dataclass_fields__") else s for s in settings]]).encode()
    )
    for path in inputs:
        for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != "README.md") if path.is_dir() else [path]:
            with open(file, "rb") as content:
                digest.update(f"{file.name}:{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]
