"""Reading a user's tables and writing ours: clear errors on the way in, atomic on the way out."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TABLE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


def find_table(folder: str | Path, stem: str) -> Path | None:
    """The one file ``folder/stem.{jsonl,csv,parquet}`` (also ``.gz``), or ``None``. Raises ``ValueError`` if there are several."""
    found = [p for p in (Path(folder) / f"{stem}{suffix}" for suffix in TABLE_SUFFIXES) if p.is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {[p.name for p in found]}; expected one {stem!r} file. Remove all but one.")
    return found[0] if found else None


def read_rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (``file:line``, row) from a CSV, JSONL (both also ``.gz``) or parquet file.

    Raises ``ValueError`` that names file and line for text that is not UTF-8, broken JSON, ragged CSV rows and truncated files.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"No file at {path}.")
    name = path.name.removesuffix(".gz")
    if not path.name.endswith(TABLE_SUFFIXES):
        raise ValueError(f"{path} is none of the formats read here: {', '.join(TABLE_SUFFIXES)}.")
    where = f"{path}:1"
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                number = 0
                for batch in file.iter_batches():
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}:row {number}", row
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")  # type: ignore[arg-type]
            if name.endswith(".csv"):
                reader = csv.DictReader(text, strict=True)
                for row in reader:
                    where = f"{path}:{reader.line_num}"
                    if None in row or None in row.values():
                        raise ValueError(f"{where} has {'more' if None in row else 'fewer'} fields than the header's {reader.fieldnames}.")
                    yield where, row
                return
            for number, line in enumerate(text, 1):
                where = f"{path}:{number}"
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"{where} holds a JSON {type(row).__name__}; expected an object like {{'item_id': ...}}.")
                yield where, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (near {where}: {error.reason}). Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON ({error.msg}); the file may be truncated. Mend or remove that line.") from error
    except csv.Error as error:
        raise ValueError(f"{where}: not valid CSV ({error}); the file may be truncated.") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a truncated or broken gzip file (after {where}): {error}.") from error
    except Exception as error:
        if type(error).__module__.startswith("pyarrow"):
            raise ValueError(f"{path} is not a readable parquet file: {error}") from error
        raise


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A temporary path beside `target` to write a file or folder at; it takes `target`'s place only when the block succeeds.

    A folder is swapped by two renames, so a reader sees the old one or the new one, never a half-written one. On any error, Ctrl-C
    or a full disk what stood at `target` stays.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        new = work / "new"
        yield new
        if not new.is_dir():
            os.chmod(new, 0o644)
            os.replace(new, target)
            return
        old = work / "old"
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except BaseException:
            if old.exists():
                os.rename(old, target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file. Raises ``ValueError`` naming the file when it is broken or missing."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
