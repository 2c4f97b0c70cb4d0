"""Catalog and interactions → a dataset repository."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import (
    History,
    Split,
    cases_to_dataset,
    interactions_to_datasets,
)
from grlm_hf.data.items import items_to_dataset
from grlm_hf.data.repository import sample_cases
from grlm_hf.files import alone, check_replaceable, fingerprint, read_json
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import DATASET_FACTS, DOMAINS_FILE, NEIGHBORS_FILE, QUALITY_FILE, STATISTICS_FILE, TERMS_FACTS
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.recipe import DataConfig
from grlm_hf.stages.reading import find_data, read_split
from grlm_hf.tables.tally import Tally
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.mixture import MixtureConfig, check_inputs, examples_to_dataset, load_tokenizer, make_mixture, validation_sequences
from grlm_hf.tasks.prompts import prompt_hash, templates_hash

if TYPE_CHECKING:
    from grlm_hf.indexing.neighbors import Neighbors
    from grlm_hf.priors.sequence import SequenceConfig

_WATCHED = 5_000  # validation cases on which the sequence model's best epoch is chosen
log = logging.getLogger("grlm_hf")
_PICTURES = ("quality.png", "quality.md")


@alone
def make_dataset(
    data: str | Path,
    catalog_folder: str | Path,
    output: str | Path,
    mixture: MixtureConfig | None = None,
    read: DataConfig | None = None,
    *,
    quality: str | Path | None = None,
    sequence_model: SequenceConfig | None = None,
    work: str | Path | None = None,
    seed: int = 0,
    title: str = "Term-ID dataset",
    notice: str = "",
) -> None:
    """Writes all tables as a dataset repository: items, interactions, term_ids, neighbors (if known), cases and sft.

    Args:
        quality: folder of `make_quality`, for the card.
        sequence_model: finds collaborative neighbours, where the mixture has them and names no file.
        work: keeps the state of the sequence model's training, so that a killed run is resumed; by default beside `output`, until that is
            written.

    Raises:
        ValueError: `output` holds other files; `quality` is no folder of `make_quality`; data or settings that cannot be used.
    """
    mixture, read = mixture or MixtureConfig(), read or DataConfig()
    check_replaceable(output, DATASET_FACTS)
    kept = Path(output).parent / f".{Path(output).name}-sequence"
    check_inputs(mixture)
    if quality is not None and not (Path(quality) / QUALITY_FILE).is_file():
        raise ValueError(f"{quality} holds no {QUALITY_FILE}; name the folder that `grlm quality` wrote, or none.")
    catalog = Catalog.from_pretrained(catalog_folder)
    tally = Tally()
    events = find_data(data, "interactions", "sequences")
    histories, split = read_split(data, catalog.items, read, seed, tally)
    facts: dict[str, Any] = {
        "title": title,
        "notice": notice,
        "split": split.name,
        "max_history": mixture.max_history,
        "history": mixture.history,
        "max_tokens": mixture.max_tokens,
        "prompt_hash": prompt_hash(mixture.history, catalog.scheme, mixture.evidence),
    }
    if catalog.scheme is not TERMS:
        facts["scheme"] = catalog.scheme.name
    if mixture.evidence:
        facts["evidence"] = mixture.evidence
    if split.skipped:
        facts["skipped_events"] = split.skipped
    if counted := tally.lines(examples=False):
        facts["reading"] = counted
    repeated = sum(case.target in case.history for case in split.test)
    if repeated:
        tally.read["test cases"] = len(split.test)
        what = "have a target that is in the history already: with seen items left out (evaluate.exclude_seen) none can be found"
        tally.count("test cases", what, n=repeated)
    for line in tally.lines():
        log.warning(line)
    identified = catalog.to_dataset()
    tables: dict[str, dict[str, Any]] = {
        "items": {"train": items_to_dataset(catalog.items)},
        "interactions": interactions_to_datasets(split),
        "term_ids": {"train": identified.select_columns(["item_id", identified.column_names[-1]])},
        "cases": {"validation": cases_to_dataset(split.validation), "test": cases_to_dataset(split.test)},
    }
    if (path := Path(catalog_folder) / NEIGHBORS_FILE).is_file():
        from grlm_hf.indexing.neighbors import Neighbors

        found = Neighbors.load(path)
        tables["neighbors"] = {"train": found.to_dataset()}
        facts["neighbors"] = found.facts
    together = None
    if mixture.collaborative and not mixture.neighbors:
        k = mixture.neighbors_per_item * math.ceil(mixture.collaborative)  # a second example of an item has the next neighbours
        key = fingerprint("sequence", [events, Path(catalog_folder)], [read, sequence_model, seed])  # no state of other data is resumed
        together = _collaborative(catalog, split, sequence_model, k, work or kept / key, seed, mixture.neighbors_from)
        facts["collaborative"] = together.facts
        tables["collaborative"] = {"train": together.to_dataset()}
    made = make_mixture(
        _trainable(catalog, histories, split), split.train, mixture, seed,
        neighbors=None if together is None else {row["item_id"]: row["neighbors"] for row in together.to_dataset()},
    )  # fmt: skip
    validation = validation_sequences(
        catalog, split.validation, mixture.max_history, mixture.history,
        max_tokens=mixture.max_tokens, tokenizer=load_tokenizer(mixture.tokenizer) if mixture.tokenizer else None,
        evidence=Evidence.fit(catalog, split.train, mixture.max_history, mixture.evidence) if mixture.evidence else None,
    )  # fmt: skip
    columns = made.dataset.column_names  # the same in both splits
    tables["sft"] = {"train": made.dataset, "validation": examples_to_dataset(validation, catalog.scheme, "spans" in columns)}
    facts["mixture"] = made.statistics | {"settings": _public(mixture), "seed": seed, "templates_hash": templates_hash()}
    earlier, files = _earlier_facts(data, catalog_folder, quality)
    save_datasets(tables, catalog, output, facts | earlier, files=files)
    shutil.rmtree(kept, ignore_errors=True)


def _public(mixture: MixtureConfig) -> dict[str, Any]:
    """The settings for a card; of a path on this machine only its last part."""
    names = ["neighbors", "chat_file", *(["tokenizer"] if Path(mixture.tokenizer).is_dir() else [])]
    return asdict(mixture) | {name: Path(getattr(mixture, name)).name for name in names}


def _earlier_facts(data: str | Path, catalog_folder: str | Path, quality: str | Path | None) -> tuple[dict[str, Any], list[Path]]:
    """Facts that earlier programs and stages wrote, and their files for the dataset folder."""
    facts: dict[str, Any] = {}
    files: list[Path] = []
    if (path := Path(catalog_folder) / TERMS_FACTS).is_file():
        facts["terms"] = read_json(path)
    if quality is not None:
        facts["quality"] = read_json(Path(quality) / QUALITY_FILE)
        files += [path for name in _PICTURES if (path := Path(quality) / name).is_file()]
    for name, key in ((STATISTICS_FILE, "provenance"), (DOMAINS_FILE, "domains")):
        if (path := Path(data) / name).is_file():
            facts[key] = read_json(path)
            files.append(path)
    return facts, files


def _trainable(catalog: Catalog, histories: Sequence[History], split: Split) -> Catalog:
    """The items that examples may be made of. Unseen items are left out: if their texts were learnt, they would not be new."""
    if split.name != "unseen-items":
        return catalog
    return catalog.remove({i for h in histories for i in h.items} - {i for h in split.train for i in h.items})


def _collaborative(
    catalog: Catalog, split: Split, config: SequenceConfig | None, k: int, work: str | Path | None, seed: int, source: str
) -> Neighbors:
    from grlm_hf.priors.knn import ItemKNN
    from grlm_hf.priors.neighbors import fuse_neighbors
    from grlm_hf.priors.sequence_training import train_sequence_model

    ids = [item.item_id for item in catalog]
    if source == "knn":
        return ItemKNN.fit(ids, split.train).neighbors(k)
    cases = sample_cases(split.validation, _WATCHED, seed)
    model = train_sequence_model(ids, split.train, config, validation=cases, seed=seed, work=work)
    if source == "sequence":
        return model.neighbors(k)
    return fuse_neighbors({"sequence": model.neighbors(4 * k), "knn": ItemKNN.fit(ids, split.train).neighbors(4 * k)}, k)
