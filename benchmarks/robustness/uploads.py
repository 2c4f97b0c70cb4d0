"""Bodies that are small on the wire and large in memory, and as large as the service allows, to every route that takes bulk data."""

from __future__ import annotations

import functools
import gzip
import io
import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grlm_hf.layout import CATALOG_FILE

MB, BIG = 2**20, 2**30
Body = tuple[str, str, bytes]
"""Method, route, body."""


def catalogs(checkpoint: Path, size: int) -> Iterator[tuple[str, bytes]]:
    """Files for ``POST /catalog/reload``, none larger than `size` bytes: catalogs as large as is allowed, and bombs."""
    table = pq.read_table(checkpoint / CATALOG_FILE)
    rng = random.Random(0)
    noise = rng.randbytes(size // 2).hex()  # no codec of parquet makes it much smaller than half
    write = functools.partial(_write, table)
    many, texts = 100_000, pa.list_(pa.string())
    yield "as it was", write(len(table))
    for length in (300, 90_000):
        for how, share in ((2**20, 0.9), (BIG, 0.7)):  # as `Catalog.save_pretrained` writes, and with all texts in a dictionary
            rows = int(size * share) // (length + 50)
            values = [noise[n * length : (n + 1) * length] for n in range(rows)]
            end = f"of {length:,} characters, {share:.0%} of the limit" + (", in a dictionary" if how == BIG else "")
            yield f"titles {end}", write(rows, dictionary=how, title=values)
            yield f"descriptions {end}", write(rows, dictionary=how, description=values)
    rows = 5 * size // 91_500
    yield "one title, in as many items as a file may unpack to", write(rows, title=[noise[:90_000]])
    titles = [f"{n} " + "t" * 90_000 for n in range(rows)]
    yield "different titles, as many as a file may unpack to", write(rows, "zstd", dictionary=0, batch=16, title=titles)
    yield "different titles in large pages", write(rows, "zstd", dictionary=0, title=titles)
    yield "different titles in a dictionary", write(rows, "zstd", title=titles)
    yield "items, as many as a file may unpack to", write(5 * size // 1_900)
    yield "empty texts, a million", write(1_000_000, title=[""], description=[""], terms=pa.array([["a"]] * 1_000_000, texts))
    yield "an extra column: one text of 1 MB in each row", write(60_000, extra=["x" * 2**20])
    yield "an extra column of noise", write(90, extra=[noise[: size // 200]])
    yield "extra columns, 10,000", write(90, **{f"extra-{n}": ["x"] for n in range(10_000)})
    yield "one title of 1 MB in each row", write(60_000, title=["t" * 2**20])
    yield "one description of 20 MB in each row", write(1_000, description=["d" * 20 * 2**20])
    yield "a category of 1 MB in each row", write(many, categories=_words(many, "c" * 2**20))
    yield "a term of 1 MB in each row", write(many, terms=_words(many, "t" * 2**20))
    yield "one cell of 300 MB", write(90, "gzip", description=["z" * 300_000_000, *[""] * 89])
    yield "one cell of 1 GB, in zstd", write(9, "zstd", description=["z" * 1_000_000_000, *[""] * 8])
    yield "one cell of noise", write(90, "zstd", title=[noise[: size * 9 // 10], *["t"] * 89])
    for codec in ("gzip", "brotli", "zstd", "lz4"):
        yield f"zeros in {codec}", write(200_000, codec, dictionary=0, description=["0" * 5_000])
    yield "front coding", write(60_000, dictionary=0, encoding="DELTA_BYTE_ARRAY", description=["p" * 20_000])
    yield "row groups of one row", write(size // 1_700, row_group_size=1)
    yield "row groups of one row with long texts", write(1_000, row_group_size=1, description=["r" * 100_000])
    yield "ten million terms in one item", write(9, terms=pa.array([["a"] * 10_000_000] + [["a"]] * 8, texts))
    yield "ten million nulls in one item", write(9, categories=pa.array([[None] * 10_000_000] + [[]] * 8, texts))
    yield "lists within lists", write(9, extra=pa.array([_deep(60)] * 9, _deep_type(60)))
    yield "a footer of text", write(9, metadata={b"k%d" % n: noise[:1000].encode() for n in range(size // 1500)})
    yield "a footer that compresses", gzip.compress(b"PAR1" + bytes(50_000_000) + b"PAR1")
    yield "a catalog within gzip", gzip.compress(write(len(table)))
    yield "zeros", bytes(size)
    yield "too large", bytes(2 * size)
    yield "far too large", bytes(size + 17 * 2**20)


def _write(
    table: pa.Table,
    rows: int,
    codec: str = "snappy",
    dictionary: int = BIG,
    encoding: str | None = None,
    batch: int = 1024,
    row_group_size: int | None = None,
    metadata: dict[bytes, bytes] | None = None,
    **columns: Any,
) -> bytes:
    """The catalog `table`, repeated to a number of rows with ids of their own, and with some columns replaced or added."""
    new = pa.concat_tables([table] * -(-rows // len(table))).slice(0, rows)
    columns = {"item_id": [f"u{n:07}" for n in range(rows)], **columns}
    for name, values in columns.items():
        if isinstance(values, list):
            values = pa.array(values, pa.string()) if len(values) == rows else _repeated(values[0], rows)
        at = new.schema.get_field_index(name)
        new = new.append_column(name, values) if at < 0 else new.set_column(at, name, values)
    out = io.BytesIO()
    how = {"column_encoding": {"description": encoding}} if encoding else {}
    # without Arrow's own schema, in which a column of dictionaries would be one of another type
    with pq.ParquetWriter(
        out, new.schema.remove_metadata(), compression=codec, use_dictionary=dictionary > 0, dictionary_pagesize_limit=dictionary or 1,
        write_statistics=False, store_schema=False, write_batch_size=batch, **how,
    ) as writer:  # fmt: skip
        writer.write_table(new.replace_schema_metadata(None), row_group_size)
        writer.add_key_value_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    return out.getvalue()


def _repeated(text: str, rows: int) -> pa.Array:
    """One text in each row, stored once where it is long."""
    if len(text) * rows < 2**30:
        return pa.array([text] * rows, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def _words(rows: int, text: str) -> pa.Array:
    """A list of one long text in each row."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    return pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), words)


def _deep(depth: int) -> Any:
    return [_deep(depth - 1)] if depth else "x"


def _deep_type(depth: int) -> pa.DataType:
    return pa.list_(_deep_type(depth - 1)) if depth else pa.string()


def bodies(size: int) -> Iterator[tuple[str, Body]]:
    """JSON for the routes that take lists, none larger than `size` bytes: each fills it with as many small values as there is room for."""
    room = size - 500
    fills = {
        '"aaa"': "ids of three letters",
        '"B0001234"': "ids of eight letters",
        '"éé"': "ids of two letters with an accent",
        '"€"': "ids of one wide letter",
        "[]": "empty lists",
        "{}": "empty objects",
        '""': "empty texts",
        "1": "numbers",
        '"a"': "ids",
        '{"a":1}': "objects",
        "null": "nulls",
    }
    item = '{"item_id": "new", "title": "A steel tea kettle"'
    places = {
        "history": ("POST", "/recommend", '{"history": [', "]}"),
        "histories": ("POST", "/recommend", '{"histories": [', "]}"),
        "a history of several": ("POST", "/recommend", '{"histories": [[', "]]}"),
        "allow": ("POST", "/recommend", '{"history": ["B0001"], "allow": [', "]}"),
        "banned terms": ("POST", "/recommend", '{"history": ["B0001"], "banned_terms": [', "]}"),
        "items": ("POST", "/items", '{"items": [', "]}"),
        "categories": ("POST", "/items", '{"items": [' + item + ', "categories": [', "]}]}"),
        "Term IDs": ("POST", "/items", '{"items": [' + item + '}], "term_ids": [', "]}"),
        "terms": ("POST", "/items", '{"items": [' + item + '}], "term_ids": [[', "]]}"),
        "ids": ("DELETE", "/items", '{"item_ids": [', "]}"),
    }
    for place, (method, path, before, after) in places.items():
        for value, name in fills.items():
            yield f"{place}: {name}", (method, path, f"{before}{','.join([value] * (room // (len(value.encode()) + 1)))}{after}".encode())
        rows = "[" + ",".join(["1"] * 15) + "]"
        few = ",".join([*(f'"B{n:04}"' for n in range(1, 80)), '"B0080"'] * (size // 1100))
        yield f"{place}: ids, as many as the service takes", (method, path, f"{before}{few}{after}".encode())
        yield f"{place}: lists of numbers", (method, path, f"{before}{','.join([rows] * (room // (len(rows) + 1)))}{after}".encode())
    wrong = '{"item_id":1,"title":2,"categories":[' + "1," * 60 + "1]}"
    many = "[" + ",".join(['"B0001"'] * 499 + ['"gone"']) + "]"  # refused before a search, whose memory is another matter
    long = '{"item_id": "n", "title": "T", "description": "' + "x" * min(9_900, room // 8) + '😀"}'
    names = ",".join(f'"k{n}":1' for n in range(room // 11))
    for name, text in {
        "unknown fields": "{" + names + "}",
        "unknown fields of an item": '{"items": [{' + names + "}]}",
        "one long text": '{"history": ["' + "x" * (room - 20) + '"]}',
        "one long text, escaped": '{"history": ["' + "\\u00e9" * (room // 6 - 20) + '"]}',
        "one long text with one emoji": '{"history": ["' + "x" * (room - 40) + '😀"]}',
        "one long text with one emoji, escaped": '{"history": ["' + "x" * (room - 40) + '\\ud83d\\ude00"]}',
        "long texts with an emoji": '{"items": [' + ",".join([long] * (room // (len(long) + 4))) + "]}",
        "histories with an unknown item, as many as the service takes": '{"histories": [' + ",".join([many] * (size // 6_500)) + "]}",
        "as many objects as the service takes": '{"a": [' + ",".join(['{"a":1}'] * min(room // 8, size // 40)) + "]}",
        "as many fields as the service takes": "{" + ",".join(f'"k{n}":1' for n in range(min(room // 11, size // 30))) + "}",
        "one long number": '{"history": ["B0001"], "k": ' + "9" * (room - 40) + "}",
        "lists within lists": "[" * room,
        "objects within objects": '{"a":' * (room // 5),
        "items of wrong values": '{"items": [' + ",".join([wrong] * (room // (len(wrong) + 1))) + "]}",
    }.items():
        for method, path in (("POST", "/recommend"), ("POST", "/items"), ("DELETE", "/items")):
            yield f"{method} {path}: {name}", (method, path, text.encode())
    yield "gzip", ("POST", "/recommend", gzip.compress(b'{"history": ["' + b"x" * 100_000_000 + b'"]}')[:room])
    yield "deflate", ("POST", "/items", zlib.compress(json.dumps({"items": ["x" * 100_000_000]}).encode())[:room])
