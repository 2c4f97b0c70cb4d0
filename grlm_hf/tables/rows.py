"""Rows of CSV, JSON lines and parquet files, whoever wrote them; errors name the line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from grlm_hf.files import check_regular
from grlm_hf.tables.names import Names, looks_like_a_time, match, renamed
from grlm_hf.tables.parquet import parquet_schema, read_parquet
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.times import are_times

_CSV, _JSON = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json")
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""Formats of a data folder."""
MORE_SUFFIXES = (*SUFFIXES, ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".txt", ".txt.gz")
"""Formats of a file that is named."""
LONGEST = 2**24
"""Characters of a line, and of a cell."""
_PEEK = 200  # rows by which a column of times is found
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


_Wanted = tuple[Names, tuple[str, ...], Mapping[str, str]] | None


def find_table(folder: str | Path, stem: str) -> Path | None:
    """The one file ``folder/stem.{jsonl,csv,tsv,parquet}`` (also ``.gz``), or ``None``. Raises ``ValueError`` for several files."""
    there = (Path(folder) / f"{stem}{suffix}" for suffix in SUFFIXES)
    found = [p for p in there if os.path.lexists(p) and not p.is_dir()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {[p.name for p in found]}; expected one {stem!r} file. Remove all but one.")
    for path in found:
        check_regular(path)
    return found[0] if found else None


def read_rows(
    path: str | Path,
    wanted: Names | None = None,
    *,
    needed: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    encoding: str = "",
    separator: str = "",
    tally: Tally | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (``file:line``, row) from a CSV, TSV or JSONL (also ``.gz``) or parquet file.

    Args:
        wanted: our names of the columns to read, with other known names (`grlm_hf.tables.names`); rows have our names, and no other column.
            By default all columns under their own names.
        needed: those that every row must have, of the wanted ones.
        columns: our name → the file's name, for columns whose name a person states; "" for one that is not to be read.
        encoding: of text; by default UTF-8, or UTF-16 and UTF-32 that begin with their mark.
        separator: of cells; by default the one of comma, tab, semicolon and bar that the header has most of.
        tally: notes columns read under another name, and another separator.

    Raises `ValueError` naming file and line, for text in another encoding, broken JSON, ragged CSV rows, lines longer than `LONGEST`,
    truncated files, and two columns that may be the same.
    """
    path, tally, columns = Path(path), tally or Tally(), columns or {}
    check_regular(path)
    if wanted and "timestamp" in wanted and path.name.endswith(MORE_SUFFIXES):
        columns = times_by_value(path, wanted, columns, tally, encoding=encoding, separator=separator)
    asked = None if wanted is None else (wanted, tuple(needed), columns)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path, asked, tally)
        return
    if not name.endswith((*_CSV, *_JSON)):
        raise ValueError(f"{path} has no known format; expected a name that ends with one of {', '.join(SUFFIXES)}.")
    where = [f"{path}:1"]  # the last line that was read
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as raw:
            encoding = encoding or _encoding(raw)
            text = io.TextIOWrapper(raw, encoding=encoding, newline="")  # type: ignore[arg-type]
            lines = _lines(text, path, where)
            yield from (_csv(path, lines, asked, separator, tally, where) if name.endswith(_CSV) else _jsonl(lines, asked, tally, where))
    except UnicodeError as error:
        place, kind = (_first_bad_line(path), "UTF-8") if encoding == "utf-8-sig" else ("", encoding)
        raise ValueError(f"{path}{place} is not {kind} text ({getattr(error, 'reason', error)}). Save the file as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or broken gzip file (after {where[0]}): {error}.") from error


def times_by_value(
    path: Path, wanted: Names, columns: Mapping[str, str], tally: Tally | None = None, *, encoding: str = "", separator: str = ""
) -> Mapping[str, str]:
    """`columns`, with the column of times where no name says which it is and the values of one column alone do.

    Raises:
        ValueError: several columns hold dates. And as `read_rows`.
    """
    if {"timestamp", "timestamps"} & columns.keys():
        return columns
    first = [row for _, row in islice(read_rows(path, encoding=encoding, separator=separator), _PEEK)]
    names = list(dict.fromkeys(name for row in first for name in row if isinstance(name, str)))
    mapping = match(names, wanted, str(path), columns, times=False)
    if {"timestamp", "timestamps"} & mapping.keys():
        return columns
    kinds = {name: are_times([row.get(name) for row in first]) for name in names if name not in mapping.values()}
    found = [name for name, kind in kinds.items() if kind == "dates" or (kind == "numbers" and looks_like_a_time(name))]
    if len(found) > 1:
        some = " and ".join(map(repr, found[:3]))
        raise ValueError(
            f"{path} has no column 'timestamp', and {some} hold times. Name the time of the event timestamp (grlm import: --column "
            f"timestamp={found[0]!r})."
        )
    if found:
        return {**columns, "timestamp": found[0]}
    for name in (name for name, kind in kinds.items() if kind == "numbers" and tally is not None):
        tally.note(f"{path.name}: column {name!r} may hold times and is not read; if it does: grlm import --column timestamp={name!r}.")  # type: ignore[union-attr]
    return columns


def stated_encoding(head: bytes) -> str:
    """The encoding that the mark in a text's first bytes states, UTF-16 or UTF-32; "" if there is none."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")


def _encoding(raw: Any) -> str:
    head = raw.read(4)
    raw.seek(0)
    return stated_encoding(head) or "utf-8-sig"


def _lines(text: io.TextIOWrapper, path: Path, where: list[str]) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise ValueError(f"{path}:{number} is longer than {LONGEST:,} characters; it is no table of items or events.")
        where[0] = f"{path}:{number}"
        yield line


def _csv(
    path: Path, lines: Iterator[str], wanted: _Wanted, separator: str, tally: Tally, where: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(LONGEST)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        return
    separator = separator or max(_SEPARATORS, key=lambda s: len(next(csv.reader([first], delimiter=s))))
    if separator != "," and not path.name.removesuffix(".gz").endswith(".tsv"):
        tally.note(f"{path.name} is separated by {_SEPARATORS.get(separator, repr(separator))}.")

    begins = where[0]  # the line where the row begins that is read now

    def joined() -> Iterator[str]:
        nonlocal begins
        for line in chain([first], lines):
            begins = begins or where[0]
            yield line

    try:
        reader = csv.reader(joined(), delimiter=separator, strict=True)
        header = [name.strip() for name in next(reader)]
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise ValueError(f"{path} has the column {twice[0]!r} twice. Remove one of them, or give it another name.")
        mapping = _mapping(header, wanted, path, tally)
        place = {ours: header.index(theirs) for ours, theirs in mapping.items()}
        begins = ""
        for cells in reader:
            at, begins = begins, ""
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{at} has {'more' if len(cells) > len(header) else 'fewer'} fields than the header's {header}.")
            yield at, {ours: cells[i] for ours, i in place.items()}
    except csv.Error as error:
        raise ValueError(f"{begins or where[0]}: not valid CSV ({error}); the file may be truncated.") from error


def _jsonl(lines: Iterator[str], wanted: _Wanted, tally: Tally, where: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for line in lines:
        if not line.strip():
            continue
        row = _from_json(where[0], line)
        if not isinstance(row, dict):
            raise ValueError(f"{where[0]} holds a JSON {type(row).__name__}; expected an object like {{'item_id': ...}}.")
        if wanted is None:
            yield where[0], row
            continue
        names = tuple(row)
        if names not in known and len(known) < 1000:
            known[names] = _mapping(names, wanted, where[0], tally)
        mapping = known.get(names) or _mapping(names, wanted, where[0], tally)
        yield where[0], {ours: row[theirs] for ours, theirs in mapping.items()}


def _parquet(path: Path, wanted: _Wanted, tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    mapping = None if wanted is None else _mapping(parquet_schema(path).names, wanted, path, tally)
    for number, row in enumerate(read_parquet(path, None if mapping is None else list(mapping.values())), 1):
        yield f"{path}:row {number}", row if mapping is None else {ours: row[theirs] for ours, theirs in mapping.items()}


def _mapping(found: Sequence[str], wanted: _Wanted, where: str | Path, tally: Tally) -> dict[str, str]:
    if wanted is None:
        return {name: name for name in found}
    names, needed, given = wanted
    mapping = match(found, names, str(where), given)
    for ours in needed:
        if ours not in mapping:
            raise ValueError(
                f"{where} has no column {ours!r}; found {sorted(map(str, found))[:40]}. Rename yours, or name it: grlm import --help."
            )
    if others := renamed(mapping):
        tally.note(f"{Path(str(where).rsplit(':', 1)[0]).name}: column {others}.")
    return mapping


def _from_json(where: str, line: str) -> Any:
    try:
        value = json.loads(line)
        if "\\ud" in line or "\\uD" in line:  # half of a surrogate pair is legal in JSON but is not text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{where} has half of a surrogate pair ({half}). Correct or remove that line.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON ({error.msg}); the file may be truncated. Correct or remove that line.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ValueError(f"{where} is not readable JSON ({error}). Correct or remove that line.") from error


def _first_bad_line(path: Path) -> str:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as raw:
        number = 0
        while line := raw.readline(LONGEST):
            number += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f":{number}"
    return ""
