"""Tables of a shop under any column names → a data folder and a recipe for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from grlm_hf.data.interactions import MIN_ITEMS, History, load_histories
from grlm_hf.data.items import Item, items_to_dataset, load_items
from grlm_hf.files import check_regular, check_replaceable, did_you_mean, replacing, rows_to_dataset, write_json, write_parquet
from grlm_hf.layout import RECIPE_FILE, STATISTICS_FILE
from grlm_hf.settings import Range, check_settings
from grlm_hf.tables.movielens import Row, films, open_movielens, ratings
from grlm_hf.tables.names import EVENTS, ITEMS, Names, match
from grlm_hf.tables.parquet import parquet_schema
from grlm_hf.tables.rows import read_rows, times_by_value
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.values import identifier, missing
from grlm_hf.version import __version__

_EVENTS = {name: others for name, others in EVENTS.items() if not name.startswith("n_")}
_RATING: Names = {"rating": ("stars", "score", "overall", "userrating")}


@dataclass(frozen=True)
class ImportConfig:
    """How tables are read by `import_tables`."""

    columns: dict[str, str] = field(default_factory=dict)
    """Our name → the table's: ``{"title": "name"}``. ``items.item_id`` and ``events.item_id`` name it for one of the two tables. An empty
    name: the column is not read. Others are found by their usual names (`grlm_hf.tables.names`)."""
    encoding: str = ""
    """Of text files; by default UTF-8, or what their first bytes state."""
    separator: str = ""
    """Of cells; by default found from the header."""
    category_separator: str = ">"
    """Of the categories in a text."""
    min_rating: float | None = None
    """Leave out events with a lower rating; null: read no ratings."""
    core: Annotated[int, Range(0, 1000)] = 0
    """Keep the users and items with at least this many events each, as benchmarks do; 0: keep all, unsold items too."""

    def __post_init__(self) -> None:
        check_settings(self)
        known = [*ITEMS, *_EVENTS, *_RATING]
        for name in self.columns:
            table, _, column = name.rpartition(".")
            if table not in ("", "items", "events") or column not in known:
                raise ValueError(f"There is no column {name!r} of ours; expected one of {', '.join(known)}, or items.NAME or events.NAME.")
        if len(self.separator) > 1:
            raise ValueError(f"The separator {self.separator!r} has {len(self.separator)} characters; expected one.")
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                f"The encoding {self.encoding!r} is not known to Python; expected one such as utf-8, latin-1, cp1252."
            ) from None


@dataclass(frozen=True)
class Imported:
    """What `import_tables` read.

    Attributes:
        columns: file name → our name → its column.
        unread: file name → its columns that are not read.
        facts: counts; the content of ``statistics.json``.
        lines: what was dropped, merged or read otherwise than it was written, as sentences.
        examples: the first items.
    """

    columns: dict[str, dict[str, str]]
    unread: dict[str, list[str]]
    facts: dict[str, Any]
    lines: list[str]
    examples: tuple[Item, ...]


def import_tables(
    output: str | Path,
    source: str | Path | None = None,
    *,
    items: str | Path | None = None,
    events: str | Path | None = None,
    config: ImportConfig | None = None,
    write: bool = True,
) -> Imported:
    """Reads a table of items and one of events and writes a data folder: ``items.parquet``, ``interactions.parquet``, ``statistics.json``,
    and ``recipe.yaml``, which `grlm_hf.stages.run` runs.

    Items without an event stay. Of rows with the same item id the first one counts. Events on unknown items are left out. All of this is
    counted.

    Args:
        output: a new folder, or one that this function wrote.
        source: MovieLens, as a folder or zip (100K, or those with ``movies.csv`` and ``ratings.csv``), instead of `items` and `events`.
        items: CSV, TSV, JSON lines (also ``.gz``) or parquet, with at least an id and a title.
        events: likewise, with a user's id, an item's id and mostly a time; may be the same file.
        write: ``False`` only reads.

    Raises:
        ValueError: not both tables; an output folder with other content; what `load_items` and `load_histories` refuse.
    """
    config = config or ImportConfig()
    check_replaceable(output, STATISTICS_FILE)
    if (source is None) == (items is None and events is None) or (source is None and (items is None or events is None)):
        raise ValueError("Name a table of items and one of events (--items FILE --events FILE), or a folder or zip of MovieLens.")
    given = nullcontext((Path(items), Path(events))) if items is not None and events is not None else open_movielens(source or "")
    with given as (item_file, event_file):
        for path in (item_file, event_file):
            check_regular(path)
            if Path(output).resolve() in Path(path).resolve().parents:
                raise ValueError(f"{path} is in {output}, which would be replaced. Choose another folder.")
        tally = Tally()
        columns: dict[str, dict[str, str]] = {}
        unread: dict[str, list[str]] = {}
        if source is not None:
            config = replace(config, category_separator="|")
        if source is not None and item_file.suffix != ".csv":
            item_rows, event_rows = films(item_file), ratings(event_file)
        else:
            item_rows = _rows(item_file, "items", ITEMS, ("item_id", "title"), config, tally, columns, unread)
            rating = _RATING if config.min_rating is not None else {}
            needed = ("user_id", "item_id", *rating)
            event_rows = _rows(event_file, "events", {**_EVENTS, **rating}, needed, config, tally, columns, unread)
        if config.min_rating is not None:
            event_rows = _rated(event_rows, config.min_rating, tally)
        found = load_items(item_file, "fill", tally, rows=_first_of_each(item_rows, tally), category_separator=config.category_separator)
        histories = load_histories(event_file, {i.item_id for i in found}, "keep", "drop", tally, rows=event_rows)
        used = {theirs for mapping in columns.values() for theirs in mapping.values()}
        for ours, theirs in config.columns.items():
            if theirs and theirs not in used:
                names = sorted({*used, *chain.from_iterable(unread.values())})
                hint = did_you_mean(theirs, names, f"They have {', '.join(map(repr, names))}.")
                raise ValueError(f"No table has the column {theirs!r}, which was named for {ours!r}. {hint}")
        before = _counts(found, histories)
        if config.core:
            found, histories = _core(found, histories, config.core, tally)
        facts = {
            "source": "grlm import",
            "grlm_hf": __version__,
            "files": [{"name": p.name, "bytes": p.stat().st_size} for p in dict.fromkeys((item_file, event_file))],
            "columns": columns,
            **({"before_filtering": before} if config.core else {}),
            **_counts(found, histories),
            "reading": tally.lines(examples=False),
        }
    if write:
        recipe = recipe_text(Path(output), facts)
        with replacing(output) as new:
            new.mkdir()
            write_parquet(items_to_dataset(found), new / "items.parquet")
            write_parquet(_events_table(histories), new / "interactions.parquet")
            write_json(new / STATISTICS_FILE, facts)
            (new / RECIPE_FILE).write_text(recipe, encoding="utf-8")
    return Imported(columns, unread, facts, tally.lines(), tuple(found[:3]))


def recipe_text(folder: Path, facts: Mapping[str, Any]) -> str:
    """A recipe for a data folder that `import_tables` writes.

    Args:
        facts: its counts; where most users buy the same things again, the recipe lets seen items be recommended.
    """
    again = facts["last_event_on_seen_item"]
    seen = (
        f"evaluate:\n  exclude_seen: false     # {again:.0%} of the users' last events are on an item that they had before\n"
        if again > 0.2
        else ""
    )
    return f"""# Run it: grlm run {folder / RECIPE_FILE}
# All settings and what they do: grlm run --help
name: {json.dumps(folder.resolve().name)}
data: {json.dumps(str(folder))}
output: {json.dumps(f"{folder}-run")}
read:
  short_users: keep       # users with fewer than three events are for training only
{seen}train:                    # a small model, trained from scratch on a CPU
  objective: trie
  scratch: {{vocab_size: 3072, hidden_size: 128, layers: 2}}
  epochs: 6
  learning_rate: 3.0e-3
  batch_size: 64
  weight_decay: 0.05
  dropout: 0.1
# With a GPU, fine-tune a pretrained model. Put this in the place of the block above:
# train: {{objective: trie, model: Qwen/Qwen3-0.6B, bf16: true, epochs: 3, learning_rate: 2.0e-4}}
"""


def _rows(
    path: Path,
    table: str,
    wanted: Names,
    needed: tuple[str, ...],
    config: ImportConfig,
    tally: Tally,
    columns: dict[str, dict[str, str]],
    unread: dict[str, list[str]],
) -> Iterator[Row]:
    """The rows of a table under our names. Notes its columns in `columns` and `unread` before the first one."""
    options: dict[str, Any] = {"encoding": config.encoding, "separator": config.separator}
    if path.name.endswith(".parquet"):
        names = list(parquet_schema(path).names)
    else:
        names = [str(name) for name in next((row for _, row in read_rows(path, **options)), {})]
        if not names:
            raise ValueError(f"{path} holds no row.")
    given = {}
    for name, theirs in config.columns.items():
        of, _, ours = name.rpartition(".")
        if ours in wanted and of in ("", table) and (of or theirs in ("", *names)):
            given[ours] = theirs
    if "timestamp" in wanted:
        given = dict(times_by_value(path, wanted, given, tally, **options))
    mapping = match(names, wanted, str(path), given)
    lists = {"item_id"} if "items" in mapping else set()  # a row of a user's whole history
    for ours in needed:
        if ours not in mapping and ours not in lists:
            if named := config.columns.get(ours):
                match(names, {}, str(path), {ours: named})  # raises, with the nearest name
            raise ValueError(f"{path} has no column for {ours!r}; found {names[:40]}. Name it: --column {table}.{ours}=COLUMN.")
    columns[f"{table}: {path.name}"] = mapping
    unread[f"{table}: {path.name}"] = [name for name in names if name not in mapping.values()]
    silent = Tally()  # the columns are shown as a whole
    yield from read_rows(path, wanted, needed=[n for n in needed if n not in lists], columns=given, tally=silent, **options)
    for note in silent.notes:
        if "column" not in note:
            tally.note(note)


def _first_of_each(rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
    known: dict[str, int] = {}
    kind = "rows of items"
    for where, row in rows:
        tally.read[kind] = tally.read.get(kind, 0) + 1
        item_id = identifier(where, "item_id", row.get("item_id"))
        content = hash(repr(row))
        if not item_id:
            tally.count(kind, "have no item id and are left out", where)
        elif item_id not in known:
            known[item_id] = content
            yield where, row
        elif known[item_id] == content:
            tally.count(kind, "repeat an earlier one and are left out", repr(item_id), loss=False)
        else:
            tally.count(kind, "have the id of an earlier one and another content; the first one counts", f"{item_id!r} ({where})")


def _rated(rows: Iterable[Row], least: float, tally: Tally) -> Iterator[Row]:
    for where, row in rows:
        try:
            rating = float("nan") if missing(row.get("rating")) else float(row["rating"])
        except (TypeError, ValueError):
            raise ValueError(f"{where}: the rating {row['rating']!r} is no number.") from None
        if rating >= least:
            yield where, row
        else:
            what = "have no rating" if rating != rating else f"have a rating below {least:g}"
            tally.read["events"] = tally.read.get("events", 0) + 1
            tally.count("events", f"{what} and are left out", where)


def _core(items: list[Item], histories: list[History], core: int, tally: Tally) -> tuple[list[Item], list[History]]:
    before = Counter(item for h in histories for item in h.items)
    kept = histories
    while True:
        often = Counter(item for h in kept for item in h.items)
        fewer = [_only(h, {item for item in h.items if often[item] >= core}) for h in kept]
        fewer = [h for h in fewer if len(h.items) >= core]
        if sum(len(h.items) for h in fewer) == sum(len(h.items) for h in kept):
            break
        kept = fewer
    if not kept:
        raise ValueError(
            f"Nothing is left with core={core}: no users and items have that many events of each other. Choose a smaller core."
        )
    n = sum(before.values()) - sum(len(h.items) for h in kept)
    tally.count("events", f"are of users or items outside the {core}-core and are left out", n=n)
    alive = {item for h in kept for item in h.items}
    tally.count("items", f"are outside the {core}-core and are left out", n=len(items) - len(alive))
    return [i for i in items if i.item_id in alive], kept


def _only(h: History, items: set[str]) -> History:
    at = [n for n, item in enumerate(h.items) if item in items]
    return History(h.user_id, tuple(h.items[n] for n in at), tuple(h.timestamps[n] for n in at) if h.timestamps else ())


def _counts(items: Sequence[Item], histories: Sequence[History]) -> dict[str, Any]:
    sold = {item for h in histories for item in h.items}
    times = [t for h in histories for t in h.timestamps]
    long = [h for h in histories if len(h.items) >= MIN_ITEMS]
    again = sum(h.items[-1] in h.items[:-1] for h in long)
    return {
        "items": len(items),
        "items_without_event": len(items) - len(sold),
        "users": len(histories),
        "users_with_three_events": len(long),
        "events": sum(len(h.items) for h in histories),
        "last_event_on_seen_item": again / max(1, len(long)),
        "times": [datetime.fromtimestamp(t, timezone.utc).date().isoformat() for t in (min(times), max(times))] if times else None,
    }


def _events_table(histories: Sequence[History]) -> Any:
    from datasets import Features, Value

    features = Features({"user_id": Value("string"), "item_id": Value("string"), "timestamp": Value("int64")})
    rows = [
        {"user_id": h.user_id, "item_id": item, "timestamp": h.timestamps[n] if h.timestamps else None}
        for h in histories
        for n, item in enumerate(h.items)
    ]
    return rows_to_dataset(rows, features)
