"""From raw events and items to a data folder: items.parquet, interactions.parquet and statistics.json.

An event is three integers in memory, and every id is stored once; the items' texts stream from the raw file to parquet. So memory grows
with the number of events and distinct ids, not with the size of the raw files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import grlm_hf
from common.events import Events, k_core, without_duplicates
from common.options import Settings
from common.raw import EXAMPLES, RawFile
from grlm_hf.files import replacing, write_json
from grlm_hf.layout import STATISTICS_FILE
from grlm_hf.tables.cleaning import clean_id, clean_list, clean_price, clean_text, clean_title, shorten

ROWS_AT_ONCE = 10_000  # items in memory, and in one row group
EVENTS_AT_ONCE = 1_000_000  # likewise
MISSING_TITLE, MISSING_ITEM, DUPLICATE_ITEM = "no title", "no metadata", "item stands already"


class RawItem(NamedTuple):
    """An item of a source before cleaning: text may have markup, `price` may be text, `description` a list."""

    item_id: Any
    title: Any
    brand: Any = ""
    categories: Any = ()
    description: Any = ""
    price: Any = None
    domain: Any = ""


def write_folder(folder: Path, source: str, settings: Settings, events: Events, files: dict[str, list[RawFile]],
                 items: Callable[[RawFile], Iterable[RawItem]]) -> dict[str, Any]:  # fmt: skip
    """Filters the events, reads the items' texts and writes the folder; returns the content of ``statistics.json``.

    Args:
        files: the raw files by role; only those of ``"items"`` are still to be read.
        items: reads one file of ``files["items"]``.

    Raises:
        ValueError: no event is left, or a file is unreadable.
    """
    users, item_of, times = (np.frombuffer(a, a.typecode) for a in (events.users, events.items, events.times))
    user_ids, item_ids = list(events.user_codes), list(events.item_codes)
    events.user_codes.clear()
    dropped: dict[str, dict[str, Any]] = {}
    before = _counts(users, item_of)

    def keep(stays: np.ndarray, reason: str) -> None:
        nonlocal users, item_of, times
        gone = np.flatnonzero(~stays)
        if len(gone):
            entry = dropped.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += len(gone)
            entry["first"] += [f"user {user_ids[users[n]]}, item {item_ids[item_of[n]]}" for n in gone[: EXAMPLES - len(entry["first"])]]
            users, item_of, times = users[stays], item_of[stays], times[stays]
        if not len(users):
            reasons = ", ".join(f"{name}: {entry['count']:,}" for name, entry in dropped.items()) or "there were none"
            raise ValueError(f"No event of {before['interactions']:,} is left ({reasons}). Check the files, or filter less (--core).")

    keep(without_duplicates(users, item_of, times, settings.duplicates), "duplicate")
    keep(k_core(users, item_of, settings.core), f"not in the {settings.core}-core")
    with replacing(folder) as new:
        new.mkdir()
        wanted = np.zeros(len(item_ids), bool)
        wanted[item_of] = True
        # The core of the items with metadata is within the core of all, so one pass over the metadata is enough.
        texts = _ItemTexts(settings, {item_id: n for n, item_id in enumerate(item_ids) if wanted[n]})
        events.item_codes.clear()
        candidates = new / "candidates.parquet"
        _write_rows(candidates, item_schema(), texts.read(files.get("items", []), items))
        if settings.missing_metadata == "drop":
            missing = np.zeros(len(item_ids), bool)
            missing[list(texts.wanted.values())] = True
            keep(~missing[item_of], "item without metadata or title")
            keep(k_core(users, item_of, settings.core), f"not in the {settings.core}-core")
        users, user_ids = _by_id(users, user_ids)
        order = np.lexsort((times, users))  # stable: file order at equal times
        users, item_of, times = users[order], item_of[order], times[order]
        if settings.max_history:
            ends = np.cumsum(np.bincount(users))
            keep(ends[users] - np.arange(len(users)) <= settings.max_history, "beyond --max-history")
        kept_items = {item_ids[n] for n in np.unique(item_of)}
        rows = {
            "items.parquet": _write_batches(new / "items.parquet", item_schema(), _only(candidates, kept_items)),
            "interactions.parquet": _write_batches(
                new / "interactions.parquet", event_schema(), _event_batches(users, item_of, times, user_ids, item_ids, events.timed)
            ),
        }
        candidates.unlink()
        lengths = np.bincount(users)
        statistics = {
            "source": source,
            "grlm_hf": grlm_hf.__version__,
            "settings": asdict(settings),
            "files": {role: [_of_file(file) for file in some] for role, some in files.items()},
            "before_filtering": before,
            "dropped": dropped,
            "after_filtering": _counts(users, item_of),
            "items": texts.counts,
            "history_length": _quantiles(lengths),
            "times": _period(times) if events.timed else None,
            "outputs": {name: _of_output(new / name, count) for name, count in rows.items()},
        }
        write_json(new / STATISTICS_FILE, statistics)
    return statistics


class _ItemTexts:
    """Reads and cleans the texts of the items in `wanted`, which keeps those without metadata or title."""

    def __init__(self, settings: Settings, wanted: dict[str, int]):
        self.settings, self.wanted = settings, wanted
        self.counts = {MISSING_ITEM: 0, MISSING_TITLE: 0, "title cut": 0, "description cut": 0, "price not a number": 0}

    def read(self, files: Sequence[RawFile], items: Callable[[RawFile], Iterable[RawItem]]) -> Iterator[dict[str, Any]]:
        done: set[str] = set()
        untitled: dict[str, dict[str, Any]] = {}
        for file in files:
            for raw in items(file):
                if not (item_id := clean_id(raw.item_id)):
                    file.drop("no item")
                elif item_id in done:
                    file.drop(DUPLICATE_ITEM, bad=False)
                elif item_id in self.wanted:
                    row = self._row(item_id, raw)
                    if row["title"]:
                        done.add(item_id)
                        del self.wanted[item_id]
                        untitled.pop(item_id, None)
                        yield self._counted(raw, row)
                    elif item_id not in untitled:
                        untitled[item_id] = self._counted(raw, row)
        self.counts[MISSING_TITLE], self.counts[MISSING_ITEM] = len(untitled), len(self.wanted) - len(untitled)
        if self.settings.missing_metadata == "keep":
            for item_id in sorted(self.wanted):
                row = untitled.get(item_id) or self._row(item_id, RawItem(item_id, ""))
                title = " ".join(filter(None, (row["brand"], *row["categories"][-1:])))
                yield {**row, "title": shorten(title, self.settings.max_title) or item_id}

    def _row(self, item_id: str, raw: RawItem) -> dict[str, Any]:
        return {
            "item_id": item_id,
            "title": shorten(clean_title(raw.title), self.settings.max_title),
            "brand": shorten(clean_text(raw.brand), self.settings.max_title),
            "categories": clean_list(raw.categories),
            "description": shorten(clean_text(raw.description), self.settings.max_description),
            "price": clean_price(raw.price),
            "domain": clean_text(raw.domain) or self.settings.domain,
        }

    def _counted(self, raw: RawItem, row: dict[str, Any]) -> dict[str, Any]:
        self.counts["title cut"] += row["title"] != clean_title(raw.title)
        self.counts["description cut"] += row["description"] != clean_text(raw.description)
        self.counts["price not a number"] += row["price"] is None and bool(clean_text(raw.price))
        return row


def item_schema() -> Any:
    """The columns of `grlm_hf.data.items.item_features` for pyarrow, without loading `datasets`."""
    import pyarrow as pa

    types = dict.fromkeys(("item_id", "title", "brand", "categories", "description", "price", "domain"), pa.string())
    return pa.schema(types | {"categories": pa.list_(pa.string()), "price": pa.float64()})


def event_schema() -> Any:
    """`user_id`, `item_id` and `timestamp` in unix seconds, null if times are unknown."""
    import pyarrow as pa

    return pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])


def _by_id(codes: np.ndarray, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Codes in the order of the ids as text, without unused ids; and these ids."""
    present, codes = np.unique(codes, return_inverse=True)
    ids = [ids[n] for n in present]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return rank[codes], [ids[n] for n in order]


def _event_batches(users: np.ndarray, items: np.ndarray, times: np.ndarray, user_ids: list[str], item_ids: list[str],
                   timed: bool) -> Iterator[Any]:  # fmt: skip
    import pyarrow as pa

    user_texts, item_texts = pa.array(user_ids, pa.string()), pa.array(item_ids, pa.string())
    for start in range(0, len(users), EVENTS_AT_ONCE):
        part = slice(start, start + EVENTS_AT_ONCE)
        columns = [
            user_texts.take(pa.array(users[part])),
            item_texts.take(pa.array(items[part])),
            pa.array(times[part]) if timed else pa.nulls(len(times[part]), pa.int64()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=event_schema())


def _only(path: Path, item_ids: set[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pa.array(sorted(item_ids), pa.string())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield batch.filter(pc.is_in(batch["item_id"], ids))


def _write_rows(path: Path, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        some: list[dict[str, Any]] = []
        for row in rows:
            some.append(row)
            if len(some) == ROWS_AT_ONCE:
                yield pa.RecordBatch.from_pylist(some, schema)
                some.clear()
        yield pa.RecordBatch.from_pylist(some, schema)

    _write_batches(path, schema, batches())


def _write_batches(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    """Writes a parquet file by row groups; returns the number of rows."""
    import pyarrow.parquet as pq

    count = 0
    # Written through a Python file: on a full disk pyarrow's own can end the process, where Python raises an error.
    with open(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += len(batch)
    return count


def _counts(users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    n_users, n_items = (int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0 for codes in (users, items))
    density = len(users) / (n_users * n_items) if len(users) else 0.0
    return {"users": n_users, "items": n_items, "interactions": len(users), "density": density}


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    found = np.quantile(lengths, (0, 0.25, 0.5, 0.75, 0.95, 1), method="lower").tolist()
    return dict(zip(("min", "25%", "median", "75%", "95%", "max"), found, strict=True)) | {"mean": float(lengths.mean())}


def _period(times: np.ndarray) -> dict[str, str]:
    return {name: datetime.fromtimestamp(int(t), timezone.utc).isoformat() for name, t in (("first", times.min()), ("last", times.max()))}


def _of_file(file: RawFile) -> dict[str, Any]:
    dropped = {reason: {"count": count, "first": places} for reason, (count, places) in file.dropped.items()}
    kept = file.rows - sum(count for count, _ in file.dropped.values())
    name = f"{file.path.name}:{file.member}" if file.member else file.path.name
    facts = {"name": name, "bytes": file.bytes, "sha256": file.sha256, "lines": file.line, "rows": file.rows}
    return facts | {"kept": kept, "dropped": dropped}


def _of_output(path: Path, rows: int) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"rows": rows, "bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
