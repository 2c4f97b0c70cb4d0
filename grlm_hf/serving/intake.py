"""A catalog from outside, checked before anything is made of it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.files import clean
from grlm_hf.layout import CATALOG_FILE
from grlm_hf.serving.schemas import MAX_ID, MAX_TERM, MAX_TERMS

MAX_FIELD = 100_000
"""Characters of a title or description in a whole catalog, which may be longer than those that come by `POST /items`."""


def read_catalog(file: Path, *, max_bytes: int, max_items: int, sha256: str | None = None) -> Catalog:
    """The catalog in a parquet file that `Catalog.save_pretrained` wrote, wherever it comes from.

    Args:
        max_bytes: of the file; unpacked it may take eight times as much.
        max_items: rows.
        sha256: what the file's has to be, in hex.

    Raises:
        ValueError: another checksum, not parquet, other columns, too large, or a value that no catalog should hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.stat().st_size > max_bytes:
        raise ValueError(f"{CATALOG_FILE} has {file.stat().st_size:,} bytes; expected at most {max_bytes:,}.")
    if sha256 is not None:
        with open(file, "rb") as content:
            if (found := hashlib.file_digest(content, "sha256").hexdigest()) != sha256.lower():
                raise ValueError(f"The catalog's SHA-256 is {found}; expected {sha256}. It was changed or cut on its way.")
    try:
        facts = pq.read_metadata(file)
        schema = facts.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"The catalog is not a readable parquet file: {error}") from error
    if facts.num_rows > max_items:
        raise ValueError(f"The catalog has {facts.num_rows:,} items; expected at most {max_items:,}.")
    unpacked = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    if unpacked > 8 * max_bytes:
        raise ValueError(f"The catalog takes {unpacked:,} bytes unpacked; expected at most {8 * max_bytes:,}.")
    text = (pa.string(), pa.large_string())
    for name in (*Item.__slots__, "terms"):
        if name not in schema.names:
            raise ValueError(f"The catalog lacks the column {name!r}.")
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if name in ("categories", "terms"):
            good = is_list and kind.value_type in text
        else:
            good = kind == pa.float64() if name == "price" else kind in text
        if not good:
            raise ValueError(f"The catalog's column {name!r} is of type {kind}; expected that of Catalog.save_pretrained.")
    # One long text in a dictionary page can stand in every row: rows are counted as they unpack, before Python makes objects of them.
    size = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024, columns=[*Item.__slots__, "terms"]):
                size += batch.nbytes
                if size > 8 * max_bytes:
                    raise ValueError(f"The catalog takes more than {8 * max_bytes:,} bytes unpacked.")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"The catalog is not a readable parquet file: {error}") from error
    try:
        catalog = Catalog.from_pretrained(file)
    except (TypeError, KeyError, AttributeError) as error:  # a missing value where there has to be one
        raise ValueError(f"The catalog holds a row that is not an item with a Term ID: {error}") from error
    except ValueError as error:
        raise ValueError(str(error).replace(str(file), "The catalog")) from error
    for item, term_id in zip(catalog.items, catalog.term_ids, strict=True):
        check_item(item)
        check_terms(term_id, item.item_id)
    return catalog


def check_item(item: Item) -> None:
    """Raises ``ValueError`` for what would not come back out of a request or an answer as it went in."""
    who = f"item {item.item_id!r}"
    if not isinstance(item.item_id, str) or not item.item_id or len(item.item_id) > MAX_ID or clean(item.item_id) != item.item_id:
        raise ValueError(f"{who:.400}: an id has 1 to {MAX_ID} characters, no spaces around it, and no two spaces or a tab within.")
    for name in ("title", "brand", "description", "domain"):
        value = getattr(item, name)
        if not isinstance(value, str) or len(value) > MAX_FIELD:
            raise ValueError(f"{who}: {name} is no text of up to {MAX_FIELD:,} characters.")
    if not item.title.strip():
        raise ValueError(f"{who} has an empty title.")
    if not all(isinstance(c, str) and len(c) <= MAX_FIELD for c in item.categories):
        raise ValueError(f"{who}: categories are not all texts.")
    if item.price is not None and not (math.isfinite(item.price) and item.price >= 0):
        raise ValueError(f"{who}: price {item.price} is not a finite, non-negative number; leave it empty where unknown.")


def check_terms(term_id: tuple[str, ...], item_id: str) -> None:
    """Raises ``ValueError`` for a Term ID so long that it would take the room of histories in everyone's prompt."""
    if len(term_id) > MAX_TERMS or any(len(term) > MAX_TERM for term in term_id):
        raise ValueError(f"item {item_id!r}: a Term ID has up to {MAX_TERMS} terms of up to {MAX_TERM} characters.")
