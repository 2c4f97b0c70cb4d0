"""Parquet files of unknown origin: how much memory a file takes is known before it is unpacked.

A small file can unpack to any size: pages are compressed, a dictionary page holds one long text for a million rows, front coding repeats
a prefix, a list of a billion numbers takes a few bytes. So the headers of all pages of the wanted columns are read first, which bounds what
decoding allocates; texts are read as dictionaries, which are not repeated in memory; and their full size is counted before any row becomes
a Python object. Unknown columns are never read.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from grlm_hf.files import check_regular, replacing

if TYPE_CHECKING:
    from datasets import Features

LEAST, TIMES = 2**30, 64
"""A file may unpack to a gibibyte, or to 64 times its size."""
PER_VALUE = 64
"""Bytes that a Python object takes beside its text, roughly."""
_ROWS, _BATCH = 4096, 2**22
"""Limits of the rows that are decoded at once: their number, and their bytes (about)."""
_DICTIONARY = 8
"""How often the texts of a dictionary page are in memory while it is decoded."""
_GROUP_ROWS, _GROUP_TEXT = 2**16, 2**23
"""Limits of the rows that are written at once: their number, and their characters (about)."""
_DELTA_BYTE_ARRAY, _CODED = 7, (2, 8)  # encodings: front coding, and positions in a dictionary
_MOST, _SMALL = 2**9, 2**20  # bytes of most page headers; of any, which may hold statistics
_FOOTER = 2**26


def allowed(path: Path) -> int:
    """Bytes that a file may unpack to, where no other limit is stated."""
    return max(LEAST, TIMES * path.stat().st_size)


def read_parquet(path: str | Path, columns: Sequence[str] | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file.

    Args:
        columns: those to read, where the file has them; by default all.
        limit: bytes that they may take when unpacked; by default `allowed`.

    Raises `ValueError` for a file that is not parquet, is broken, or unpacks to more than the limit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    check_regular(path)
    limit = allowed(path) if limit is None else limit
    try:
        check_footer(path)
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            chosen = [i for i in range(file.metadata.num_columns) if _top(file, i) in names]
            plain, size = _check_pages(path, file.metadata, chosen, limit)
            rows = max(1, min(_ROWS, _BATCH * file.metadata.num_rows // max(1, size)))
            texts = [file.schema.column(i) for i in chosen]
            texts = [c.path for c in texts if c.physical_type == "BYTE_ARRAY" and c.path not in plain]
            groups = range(file.metadata.num_row_groups)
        with pq.ParquetFile(path, read_dictionary=texts, buffer_size=_SMALL) as file:
            size = 0
            for batch in chain.from_iterable(file.iter_batches(rows, [group], names) for group in groups):
                used = {n: _used(column) for n, column in zip(batch.schema.names, batch.columns, strict=True)}
                for name, column in used.items():
                    size += _unpacked(column)
                    if size > limit:
                        raise ValueError(f"{path} unpacks to more than {limit:,} bytes, in its column {name!r}. It is not read.")
                values = {name: _python(column) for name, column in used.items()}
                for row in range(batch.num_rows):
                    yield {name: column[row] for name, column in values.items()}
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:  # OverflowError: a date beyond the year 9999
        raise ValueError(f"{path} is not a readable parquet file: {str(error).strip()}") from error


def write_rows(rows: Iterable[dict[str, Any]], features: Features, path: str | Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """As `grlm_hf.files.write_parquet`, without copies of all rows in memory: they are written in groups of 65,536, of fewer where texts
    are long."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), **(metadata or {})})
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema) as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            group.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(group) == _GROUP_ROWS or size > _GROUP_TEXT:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    with replacing(path) as new:
        new.write_bytes(buffer.getvalue())


def release() -> None:
    """Returns to the system what Arrow and C's allocator keep for later: as much as the last table took, several times."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # another C library than GNU's has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def parquet_schema(path: str | Path) -> Any:
    """The Arrow schema of a file. Raises ``ValueError`` as `read_parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(path)
    try:
        check_footer(Path(path))
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).strip()}") from error


def _top(file: Any, i: int) -> str:
    """The name of the table's column that the i-th leaf is part of."""
    return file.schema.column(i).path.split(".")[0]


def check_footer(path: Path, most: int = _FOOTER) -> None:
    """Raises ``ValueError`` for a parquet file that states a footer of more bytes than `most`, or than it has: in memory the footer takes
    a dozen times as much."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size >= 12:
            file.seek(size - 8)
            length, most = int.from_bytes(file.read(4), "little"), min(most, size)
            if length > most:
                raise ValueError(
                    f"{path} is not a readable parquet file: it states a footer of {length:,} bytes; expected {most:,} at most."
                )


def _check_pages(path: Path, metadata: Any, chosen: Sequence[int], limit: int) -> tuple[set[str], int]:
    """Raises ``ValueError`` if decoding these leaf columns could allocate more than the limit, by the headers of their pages.

    Returns:
        The columns that are not read as dictionaries: lists, and those with front coding or mostly plain texts, of which Arrow would keep
        copies. Their texts count in full here, as often as they could be repeated. And the bytes that were counted.
    """
    total, plain = 0, {metadata.schema.column(i).path for i in chosen if "." in metadata.schema.column(i).path}
    written: Counter[str] = Counter()  # bytes of texts outside dictionaries, by column
    words: dict[str, list[_Words]] = {}
    largest = 0
    with open(path, "rb") as file:

        def check(name: str) -> None:
            if total > limit:
                raise ValueError(f"{path} unpacks to more than {limit:,} bytes, in its column {name!r}. It is not read.")

        for group in range(metadata.num_row_groups):
            for i in chosen:
                chunk = metadata.row_group(group).column(i)
                name = chunk.path_in_schema
                total += 8 * max(0, chunk.num_values)
                at = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o is not None and o >= 0)
                seen = 0
                while seen < chunk.num_values and total <= limit:
                    page, length = _page_header(file, at, path)
                    data = page.get(5, page.get(8, {}))  # the header of a data page, in its first or second form
                    values, encoding = data.get(1, 0), page.get(5, {}).get(2, page.get(8, {}).get(4))
                    size = max(0, page.get(2, 0))
                    if values < 0 or page.get(3, -1) < 0:
                        raise ValueError(f"{path} is not a readable parquet file: it has a page of negative size.")
                    largest = max(largest, 0 if 7 in page else size)
                    if encoding == _DELTA_BYTE_ARRAY:
                        plain.add(name)
                        size *= max(1, values)
                    elif 7 in page:
                        words.setdefault(name, []).append(_Words(at + length, page[3], size, chunk.compression))
                    elif encoding in _CODED and name in words:
                        words[name][-1].used += values
                    else:
                        written[name] += size
                    total += size * (_DICTIONARY if 7 in page else 1)
                    seen += values
                    at += length + page[3]
                check(name)
        total += 2 * largest  # unpacked as a whole, and copied
        for name in {*words, *written}:
            pages = words.get(name, [])
            if name in plain or written[name] > sum(p.size for p in pages):
                repeated = sum(p.used * _longest(file, p) for p in pages)
                if name in plain or total + repeated <= limit:
                    plain.add(name)
                    total += repeated
                else:
                    total += (_DICTIONARY - 1) * written[name]
            check(name)
    return plain, total


@dataclass
class _Words:
    """A dictionary page: where it is, its bytes packed and unpacked, and how many values refer to it."""

    at: int
    packed: int
    size: int
    compression: str
    used: int = 0


def _longest(file: BinaryIO, page: _Words) -> int:
    """Bytes of the longest text in a dictionary page; the page's size where that cannot be found out."""
    import pyarrow as pa

    file.seek(page.at)
    data = file.read(page.packed)
    try:
        if page.compression != "UNCOMPRESSED":
            data = pa.Codec(page.compression.lower()).decompress(data, page.size).to_pybytes()
    except (pa.ArrowException, OSError, ValueError):
        return page.size
    longest = at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        longest, at = max(longest, length), at + 4 + length
    return min(longest, page.size)


def _page_header(file: BinaryIO, at: int, path: Path) -> tuple[dict[int, Any], int]:
    """The fields of the page header at an offset, by their numbers, and its length in bytes."""
    for size in (_MOST, _SMALL):  # a file can have a hundred thousand pages
        file.seek(at)
        try:
            return _thrift(file.read(size), 0)
        except (IndexError, RecursionError, KeyError) as error:
            problem = error
    raise ValueError(f"{path} is not a readable parquet file: it has a broken page header.") from problem


def _thrift(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct in Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md): numbers and structs by field number;
    other values are skipped."""
    if depth > 16:
        raise RecursionError
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        kind, delta = data[at] & 15, data[at] >> 4
        at += 1
        if delta:
            number += delta
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        data[at + length - 1] if length else None  # within the data
        return None, at + length
    if kind in (9, 10):
        size, inner = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _varint(data, at)
        for _ in range(size):
            _, at = (None, at + 1) if inner in (1, 2) else _value(data, at, inner, depth + 1)
        return None, at
    if kind == 12:
        return _thrift(data, at, depth + 1)
    raise KeyError(kind)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _used(array: Any) -> Any:
    """The array, its dictionary without words that it does not use: Arrow's grows with each batch of a group of rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(array.type) or len(array.dictionary) <= len(array):
        return array
    used = pc.unique(array.indices).drop_null()
    return pa.DictionaryArray.from_arrays(pc.index_in(array.indices, used), array.dictionary.take(used))


def _unpacked(array: Any) -> int:
    """Bytes that the values of an Arrow array take as Python objects, counted without making them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        words = array.dictionary
        if pa.types.is_string(words.type) or pa.types.is_binary(words.type) or pa.types.is_large_string(words.type):
            lengths = pc.take(pc.cast(pc.binary_length(words), pa.int64()), array.indices)
            return PER_VALUE * len(array) + (pc.sum(lengths).as_py() or 0)
        return (PER_VALUE + 8) * len(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return PER_VALUE * len(array) + _unpacked(array.flatten())
    if pa.types.is_struct(array.type):
        return PER_VALUE * len(array) + sum(_unpacked(array.field(i)) for i in range(array.type.num_fields))
    return PER_VALUE * len(array) + array.nbytes


def _python(array: Any) -> list[Any]:
    """The values; equal texts of a dictionary are one object."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        words = array.dictionary.to_pylist()
        return [None if i is None else words[i] for i in array.indices.to_pylist()]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        flat, ends = iter(_python(array.flatten())), array.value_lengths().to_pylist()
        return [None if n is None else [next(flat) for _ in range(n)] for n in ends]
    return array.to_pylist()
