"""Checks a catalog from outside before any of it is used."""

from __future__ import annotations

import math
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.files import clean
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.layout import CATALOG_FILE
from grlm_hf.serving.options import MB
from grlm_hf.serving.schemas import MAX_ID, MAX_TERM, MAX_TERMS
from grlm_hf.serving.state import file_sha256
from grlm_hf.tables.parquet import check_footer, release

UNPACKED = 6
"""A catalog may unpack to this many times the limit of its file, as Python objects."""
FOOTER = 16
"""The footer of a catalog, which lists columns and groups of rows, may take this part of the limit of its file."""
MAX_FIELD = 100_000
"""Maximum number of characters of a text in a whole catalog; `POST /items` allows fewer."""


def read_catalog(file: Path, *, max_bytes: int, max_items: int, sha256: str | None = None, codebook: Codebook | None = None) -> Catalog:
    """The catalog in a parquet file of `Catalog.save_pretrained`, wherever it comes from.

    Args:
        max_bytes: maximum size of the file; unpacked it may be `UNPACKED` times as large.
        max_items: maximum number of rows.
        sha256: expected checksum of the file, in hex.
        codebook: of the model, for a catalog with its codes.

    Raises:
        ValueError: another checksum, not parquet, other columns, too large, or an invalid value.
    """
    if file.stat().st_size > max_bytes:
        raise ValueError(f"{CATALOG_FILE} has {file.stat().st_size:,} bytes; expected at most {max_bytes:,}.")
    if sha256 is not None and (found := file_sha256(file)) != sha256.lower():
        raise ValueError(f"The catalog's SHA-256 is {found}; expected {sha256}. It was changed or cut on its way.")
    try:
        check_footer(file, max(MB, max_bytes // FOOTER))
        _check_table(file, max_items)
        catalog = Catalog.read(file, UNPACKED * max_bytes, codebook)
    except ValueError as error:
        raise ValueError(str(error).replace(str(file), "The catalog")) from error
    release()  # before the catalog is written to disk, which takes as much again
    for item, term_id in zip(catalog.items, catalog.item_identifiers, strict=True):
        check_item(item)
        check_terms(term_id, item.item_id)
    return catalog


def _check_table(file: Path, max_items: int) -> None:
    """Raises ``ValueError`` for a file that is not parquet, has too many rows, or columns of other types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = (pa.string(), pa.large_string())
    try:
        with pq.ParquetFile(file) as table:
            facts, schema = table.metadata, table.schema_arrow
            identifiers = "terms" if "terms" in schema.names or "identifier" not in schema.names else "identifier"
            if facts.num_rows > max_items:
                raise ValueError(f"The catalog has {facts.num_rows:,} items; expected at most {max_items:,}.")
            for name in (*Item.__slots__, identifiers):
                if name not in schema.names:
                    raise ValueError(f"The catalog lacks the column {name!r}.")
                kind = schema.field(name).type
                if name in ("categories", identifiers):
                    good = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and kind.value_type in texts
                else:
                    good = kind == pa.float64() if name == "price" else kind in texts
                if not good:
                    raise ValueError(f"The catalog's column {name!r} is of type {kind}; expected that of Catalog.save_pretrained.")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"The catalog is not a readable parquet file: {error}") from error


def check_item(item: Item) -> None:
    """Raises ``ValueError`` for values that a request or an answer would change."""
    who = f"item {item.item_id!r}"
    if not isinstance(item.item_id, str) or not item.item_id or len(item.item_id) > MAX_ID or clean(item.item_id) != item.item_id:
        raise ValueError(f"{who:.400}: an id has 1 to {MAX_ID} characters, no spaces around it, and no two spaces or a tab within.")
    if any(c < " " or c == "\x7f" for c in item.item_id):
        raise ValueError(f"{who:.400}: its id has a control character; an id is text.")
    texts = {name: (getattr(item, name),) for name in ("title", "brand", "description", "domain")} | {"categories": item.categories}
    for name, values in texts.items():
        if not all(isinstance(value, str) and len(value) <= MAX_FIELD for value in values):
            raise ValueError(f"{who}: {name} is no text of up to {MAX_FIELD:,} characters.")
    if not item.title.strip():
        raise ValueError(f"{who} has an empty title.")
    if item.price is not None and not (math.isfinite(item.price) and item.price >= 0):
        raise ValueError(f"{who}: price {item.price} is not a finite, non-negative number; leave it empty where unknown.")


def check_terms(term_id: tuple[str, ...], item_id: str) -> None:
    """Raises ``ValueError`` for a Term ID so long that it would take the place of histories in prompts."""
    if len(term_id) > MAX_TERMS or any(len(term) > MAX_TERM for term in term_id):
        raise ValueError(f"item {item_id!r}: a Term ID has up to {MAX_TERMS} terms of up to {MAX_TERM} characters.")
