"""A dataset repository as a folder: parquet files that ``load_dataset`` reads without this package, a card, the catalog and the facts."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.repository import cases_of, read_facts
from grlm_hf.files import check_regular, replacing, write_json
from grlm_hf.layout import CARD, CATALOG_FILE, DATASET_FACTS, DATASET_SCHEMA, PLOT, SCHEMA_KEY
from grlm_hf.publishing.audit import audit
from grlm_hf.publishing.cards import dataset_card
from grlm_hf.publishing.statistics import count_events, dataset_statistics, plot_events

if TYPE_CHECKING:
    from datasets import Dataset

SHARD_BYTES = 500_000_000
_BATCH = 10_000  # rows of a parquet row group: what a streaming reader fetches at once


def save_datasets(
    tables: Mapping[str, Mapping[str, Dataset]],
    catalog: Catalog,
    folder: str | Path,
    facts: Mapping[str, Any],
    *,
    files: Sequence[str | Path] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tables (config → split → rows) as a dataset repository for ``load_dataset``: parquet files, card, catalog, and the facts
    with the tables' statistics as ``grlm_dataset.json``.

    The first table with rows is the default config. A split without rows gets no file, since `datasets` cannot load one; card and facts
    count it as 0. `folder` is replaced as a whole, or not at all.

    Args:
        facts: JSON values: at least `title`, `notice`, `split` and `max_history`; see `grlm_hf.publishing.cards.dataset_card`.
        files: plots and reports for the folder (``quality.png``, ``statistics.json``, ...), each under its own name.
        shard_bytes: a split that is larger in memory is written, batch by batch, as several files of about this size.

    Raises `ValueError` if no table has rows; `datasets` would not read the name of a table or split; one of `files` is missing, or its name
    is taken; the Hub would not read a licence or language in `facts`.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; expected at least 1.")
    filled = {config: {split: rows for split, rows in splits.items() if len(rows)} for config, splits in tables.items()}
    if not (kept := {config: splits for config, splits in filled.items() if splits}):
        raise ValueError("No table has a row; there is nothing to write.")
    for name in [*tables, *(split for splits in tables.values() for split in splits)]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name for a table or split; expected lower-case letters, digits and underscores.")
    attached = _attachments(files, kept)
    with replacing(folder) as new:
        new.mkdir()
        configs: list[dict[str, Any]] = []
        for config, splits in kept.items():
            digest, data_files = hashlib.sha256(), []
            for split, rows in splits.items():
                shards = _write_shards(rows, new / config, split, shard_bytes, digest)
                data_files.append({"split": split, "path": f"{config}/{split}-*-of-{shards:05d}.parquet"})
            # load_dataset caches a local folder by its name and its card's YAML: without the digest it would return the rows of an
            # older folder of this name.
            about = {"config_name": config, "description": f"content {digest.hexdigest()[:16]}", "data_files": data_files}
            configs.append(about if configs else {**about, "default": True})
        catalog.save_pretrained(new)
        events = count_events(dict(kept["interactions"])) if "interactions" in kept else None
        if events is not None:
            plot_events(events, new / PLOT)
        for name, path in attached.items():
            shutil.copyfile(path, new / name)
        all_tables = {config: dict(splits) for config, splits in tables.items()}
        complete = {**facts, "schema": DATASET_SCHEMA, "statistics": dataset_statistics(all_tables, catalog, events)}
        if "train" in kept.get("interactions", {}) and "test" in kept.get("cases", {}):
            complete["audit"] = _audit(kept["interactions"]["train"], kept["cases"]["test"], catalog)
        columns = {config: _types(next(iter(splits.values()))) for config, splits in kept.items()}
        shown = [*attached, *([PLOT] if events is not None else [])]
        (new / CARD).write_text(dataset_card(complete, configs, columns, shown), encoding="utf-8")
        write_json(new / DATASET_FACTS, complete)


def _attachments(files: Sequence[str | Path], configs: Mapping[str, Any]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in map(Path, files):
        if not path.is_file():
            raise ValueError(f"No file at {path}, which was to go beside the card.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.name) or path.suffix == ".parquet":
            raise ValueError(f"{path.name!r} cannot go beside the card; expected letters, digits, '.', '_' and '-', and no parquet.")
        if path.name in {CARD, CATALOG_FILE, DATASET_FACTS, PLOT, *found, *configs}:
            raise ValueError(f"{path} cannot go beside the card: the dataset has another {path.name}. Rename it.")
        found[path.name] = path
    return found


def _write_shards(rows: Dataset, folder: Path, split: str, shard_bytes: int, digest: hashlib._Hash) -> int:
    """Writes one split, feeding the files' bytes to `digest`; returns the number of files."""
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    share = shard_bytes / max(1.0, rows.data.nbytes / max(1, rows.data.num_rows))
    shards = math.ceil(len(rows) / max(1, int(share)))
    schema = rows.features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), SCHEMA_KEY: str(DATASET_SCHEMA).encode()})
    for n in range(shards):
        path = folder / f"{split}-{n:05d}-of-{shards:05d}.parquet"
        part = rows.select(range(n * len(rows) // shards, (n + 1) * len(rows) // shards)).with_format("arrow")
        # A Python file raises an error on a full disk, where pyarrow's own can end the process. With content-defined chunks a later
        # version uploads little more than its changes; with a page index readers fetch single pages.
        options = {"use_content_defined_chunking": True, "write_page_index": True}
        with open(path, "wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
            for batch in part.iter(_BATCH):
                writer.write_table(batch.cast(schema))
        with open(path, "rb") as written:
            digest.update(hashlib.file_digest(written, "sha256").digest())
    return shards


def _audit(events: Dataset, cases: Dataset, catalog: Catalog) -> dict[str, int]:
    def pairs() -> Iterator[tuple[str, str]]:
        for batch in events.select_columns(["user_id", "item_id"]).with_format("arrow").iter(_BATCH):
            yield from zip(batch["user_id"].to_pylist(), batch["item_id"].to_pylist(), strict=True)

    return audit(pairs(), cases_of(cases), catalog)


def _types(rows: Dataset) -> dict[str, str]:
    from datasets import List

    def name(feature: Any) -> str:
        if isinstance(feature, List):
            return f"list of {name(feature.feature)}"
        return str(getattr(feature, "dtype", "struct"))

    return {column: name(feature) for column, feature in rows.features.items()}


def check_folder(folder: str | Path) -> None:
    """Checks that a dataset folder has all shards of every table in its card, with as many rows as its facts state. Raises `ValueError` if
    something is missing or broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub import RepoCard

    folder = Path(folder)
    facts = read_facts(folder / DATASET_FACTS)
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} holds no {CARD}, whose YAML names its tables. Make it again: grlm dataset.")
    for config in RepoCard.load(folder / CARD).data.get("configs") or []:
        for part in config.get("data_files") or []:
            if not (isinstance(part, dict) and isinstance(part.get("path"), str)):
                continue  # a table that its owner added by hand
            found = sorted(folder.glob(part["path"]))
            wanted = re.search(r"-of-(\d+)\.parquet$", part["path"])
            if not found or (wanted and len(found) != int(wanted[1])):
                raise ValueError(f"{folder} holds {len(found)} files {part['path']}, not all of them. Make it again: grlm dataset.")
            for path in found:
                check_regular(path)
            try:
                rows = sum(pq.read_metadata(path).num_rows for path in found)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{folder}: {part['path']} is not readable parquet ({error}). Make it again: grlm dataset.") from error
            stated = facts.get("statistics", {}).get("rows", {}).get(config["config_name"], {}).get(part["split"], rows)
            if rows != stated:
                raise ValueError(f"{folder}: {part['path']} has {rows} rows, its facts say {stated}. Make it again: grlm dataset.")
