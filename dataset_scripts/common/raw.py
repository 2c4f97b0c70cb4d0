"""Streaming readers of raw files: JSON lines (strict or loose), CSV, ``::`` tables and parquet, also gzipped or in a zip."""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grlm_hf.tables.rows import stated_encoding

LONGEST_LINE = 1 << 24  # bytes; only files without line ends have longer lines
EXAMPLES = 5  # reported places per reason


class RawFile:
    """One raw file, read once from start to end. Counts lines and rows, and those left out by reason, and computes the checksum.

    Args:
        path: the file; with `member`, the zip that contains it.
        max_bad_lines: largest number of unusable lines before the file is refused.

    Raises:
        ValueError: the file does not exist.
    """

    def __init__(self, path: Path, max_bad_lines: int, member: str = ""):
        if not path.is_file():
            raise ValueError(f"No file at {path}.")
        self.path, self.member, self.max_bad_lines = path, member, max_bad_lines
        self.name = Path(member).name or path.name
        self.line = 0  # the current line; at the end, their number
        self.rows = 0  # records so far, readable or not, without the header; a CSV record may have several lines
        self.bad_lines = 0
        self.dropped: dict[str, tuple[int, list[str]]] = {}
        self.bytes = path.stat().st_size
        self.sha256 = ""

    def drop(self, reason: str, *, bad: bool = True) -> None:
        """Counts the current line as left out. Raises ``ValueError`` for too many bad lines."""
        count, places = self.dropped.get(reason, (0, []))
        self.dropped[reason] = (count + 1, [*places, f"{self.name}:{self.line}"] if count < EXAMPLES else places)
        self.bad_lines += bad
        if self.bad_lines > self.max_bad_lines:
            found = "; ".join(f"{r}: {n} ({', '.join(p)}{', ...' if n > len(p) else ''})" for r, (n, p) in self.dropped.items())
            raise ValueError(
                f"{self.path} has more than {self.max_bad_lines} unusable lines. Found up to line {self.line}: {found}. "
                "Check that it is the expected file (see --help); to leave out more such lines, raise --max-bad-lines."
            )

    def json_rows(self, loose: bool = False) -> Iterator[dict[str, Any]]:
        """The objects of a file with one JSON object per line. `loose` also parses Python literals, as in older dumps, without running
        them."""
        for text in self.lines():
            if text.isspace():
                continue
            self.rows += 1
            row = _parse(text, loose)
            if isinstance(row, dict):
                yield row
            else:
                self.drop("not a JSON object")

    def csv_rows(self, encoding: str = "utf-8", delimiter: str = ",") -> Iterator[dict[str, str]]:
        """The rows of a CSV file with a header."""
        reader = csv.reader(self.lines(encoding), strict=True, delimiter=delimiter)
        header: list[str] | None = None
        while True:
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error:
                self.rows += 1
                self.drop("not valid CSV")
                continue
            if header is None:
                header = [name.strip() for name in row]
            elif row:
                self.rows += 1
                if len(row) == len(header):
                    yield dict(zip(header, row, strict=True))
                else:
                    self.drop(f"not the header's {len(header)} fields")

    def split_rows(self, names: Sequence[str], separator: str, encoding: str) -> Iterator[dict[str, str]]:
        """The rows of a file without a header, with fields separated by `separator`."""
        for text in self.lines(encoding):
            if text.isspace():
                continue
            self.rows += 1
            fields = text.rstrip("\r\n").split(separator)
            if len(fields) == len(names):
                yield dict(zip(names, fields, strict=True))
            else:
                self.drop(f"not {len(names)} fields parted by {separator!r}")

    def parquet_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of a parquet file; places are then row numbers, from 1."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file, self._bar(file.metadata.num_rows, " rows") as bar:
                for batch in file.iter_batches(batch_size=10_000):
                    for row in batch.to_pylist():
                        self.line += 1
                        self.rows += 1
                        yield row
                    bar.update(len(batch))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is not a readable parquet file: {error}") from error
        self._digest_whole()

    def lines(self, encoding: str = "utf-8") -> Iterator[str]:
        """The lines as text. Raises ``ValueError`` for a truncated file and for lines without end."""
        try:
            with self._stream() as stream:
                head = stream.peek(4096)
                encoding = stated_encoding(head) or encoding
                if (b"\r" in head and b"\n" not in head) or len("\n".encode(encoding)) > 1:  # lines that do not end with the byte 0x0A
                    yield from self._text_lines(io.TextIOWrapper(stream, encoding))
                    return
                while raw := stream.readline(LONGEST_LINE):
                    self.line += 1
                    if len(raw) == LONGEST_LINE:
                        raise ValueError(f"{self.path}:{self.line} is longer than {LONGEST_LINE:,} bytes; expected one record per line.")
                    try:
                        text = raw.decode("utf-8-sig" if self.line == 1 and encoding == "utf-8" else encoding)
                    except UnicodeDecodeError:
                        self.rows += 1
                        self.drop(f"not {encoding} text")
                        continue
                    yield text
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{self.path} is truncated or broken (after line {self.line}): {error}. Fetch it again; nothing was written."
            ) from error

    def _text_lines(self, stream: io.TextIOWrapper) -> Iterator[str]:
        try:
            while text := stream.readline(LONGEST_LINE):
                self.line += 1
                yield text
        except UnicodeError as error:
            raise ValueError(f"{self.path} is not {stream.encoding} text (after line {self.line}): {error}.") from error

    @contextmanager
    def _stream(self) -> Iterator[io.BufferedReader]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(self.member).file_size
                with archive.open(self.member) as file, self._bar(size) as bar:
                    yield io.BufferedReader(_Watched(file, None, bar), 1 << 20)
            self._digest_whole()
            return
        digest = hashlib.sha256()
        with open(self.path, "rb") as file, self._bar(self.bytes) as bar:
            watched = io.BufferedReader(_Watched(file, digest, bar), 1 << 20)
            gz = self.path.suffix == ".gz"
            yield io.BufferedReader(gzip.GzipFile(fileobj=watched, mode="rb"), 1 << 20) if gz else watched  # type: ignore[arg-type]
            self.bytes, self.sha256 = file.tell(), digest.hexdigest()

    def _bar(self, total: int, unit: str = "B") -> tqdm:
        return tqdm(total=total, unit=unit, unit_scale=True, unit_divisor=1000, desc=self.name, disable=None)

    def _digest_whole(self) -> None:
        with open(self.path, "rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()


class _Watched(io.RawIOBase):
    """A file that updates a progress bar and a checksum as it is read."""

    def __init__(self, file: Any, digest: Any, bar: tqdm):
        self.file, self.digest, self.bar = file, digest, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        if self.digest is not None:
            self.digest.update(data)
        self.bar.update(len(data))
        return len(data)


def _parse(text: str, loose: bool) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not loose:
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd escapes in old texts
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def open_files(paths: Sequence[Path], max_bad_lines: int) -> list[RawFile]:
    """The files of one role. Raises ``ValueError`` for a missing or repeated one."""
    if len({p.resolve() for p in paths}) != len(paths):
        raise ValueError(f"Duplicate file among {', '.join(map(str, paths))}.")
    return [RawFile(path, max_bad_lines) for path in paths]
