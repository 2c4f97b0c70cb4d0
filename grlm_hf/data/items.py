"""Items, and the tables that they are read from and written to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import clean, read_rows, rows_to_dataset
from grlm_hf.identifiers.terms import TermID, normalise

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be recommended. Only `item_id` and `title` are required; `price` is in the shop's own currency."""

    item_id: str
    title: str
    brand: str = ""
    categories: tuple[str, ...] = ()
    description: str = ""
    price: float | None = None
    domain: str = ""


def check_unique(item_ids: Iterable[str]) -> None:
    """Raises `ValueError` for a repeated item id."""
    if repeated := [item_id for item_id, count in Counter(item_ids).items() if count > 1]:
        raise ValueError(f"Item ids must be unique; {len(repeated)} are repeated, such as {repeated[0]!r}.")


def item_features() -> Features:
    """The columns of the ``items`` table. `item_id` and `title` are never empty; other text may be ``""``, `price` null."""
    from datasets import Features, List, Value

    text = dict.fromkeys(Item.__slots__, Value("string"))
    return Features(text | {"categories": List(Value("string")), "price": Value("float64")})


def items_to_dataset(items: Sequence[Item]) -> Dataset:
    """The ``items`` table, one row an item, with `item_features`."""
    return rows_to_dataset([item_row(item) for item in items], item_features())


def load_items(path: str | Path, missing_title: str = "error") -> list[Item]:
    """Items from a CSV, JSONL or parquet file with at least the columns `item_id` and `title`.

    In CSV, `categories` is a path written ``Beauty > Hair Care > Shampoos``. Columns that are not an `Item`'s are ignored.
    `missing_title`: ``"error"``, or ``"fill"`` to title such an item with its brand and last category, else its item_id.

    Raises `ValueError` with the line for no rows, a missing or duplicate item_id, an empty title, a price that is no number.
    """
    if missing_title not in ("error", "fill"):
        raise ValueError(f"missing_title is {missing_title!r}; expected 'error' or 'fill'.")
    items: list[Item] = []
    seen: dict[str, str] = {}
    for where, row in read_rows(path):
        item = _item_from_row(where, row, missing_title)
        if item.item_id in seen:
            raise ValueError(f"{where}: Duplicate item_id {item.item_id!r}, first at {seen[item.item_id]}: item ids must be unique.")
        seen[item.item_id] = where
        items.append(item)
    if not items:
        raise ValueError(f"{path} holds no items.")
    return items


def load_term_ids(path: str | Path) -> dict[str, TermID]:
    """item_id → Term ID from a file with the columns `item_id` and `terms` (a list; in CSV comma-separated). Terms are normalised. Raises
    `ValueError` with the line for a missing or duplicate item_id, no terms, a term without a letter or digit."""
    found: dict[str, TermID] = {}
    for where, row in read_rows(path):
        terms = row.get("terms")
        if isinstance(terms, str):
            terms = terms.strip().strip("[]").split(",")
        item_id = clean(row.get("item_id"))
        if not item_id or not isinstance(terms, list) or not terms:
            raise ValueError(f"{where} needs `item_id` and a list `terms`; found {row}.")
        tid = tuple(normalise(str(term)) for term in terms)
        if not all(tid):
            raise ValueError(f"{where}: item {item_id!r} has a term without a letter or digit: {terms}.")
        if item_id in found:
            raise ValueError(f"{where}: item_id {item_id!r} has two rows; expected one row an item.")
        found[item_id] = tid
    return found


def item_row(item: Item) -> dict[str, Any]:
    return {name: list(value) if isinstance(value := getattr(item, name), tuple) else value for name in Item.__slots__}


def _item_from_row(where: str, row: dict[str, Any], missing_title: str) -> Item:
    for column in ("item_id", "title"):
        if column not in row:
            raise ValueError(f"{where} has no column {column!r}; found {sorted(row)}. Rename yours, or let dataset_scripts/own.py do so.")

    def text(name: str) -> str:
        return clean(row.get(name))

    if not text("item_id"):
        raise ValueError(f"{where} has an empty item_id.")
    categories = row.get("categories") or ()
    if isinstance(categories, str):
        categories = categories.split(">")
    if not isinstance(categories, list | tuple) or any(isinstance(c, list | dict) for c in categories):
        raise ValueError(f"{where}: categories must be a list of strings or a path 'A > B > C'; found {categories!r}.")
    categories = tuple(c for c in map(clean, categories) if c)
    price = row.get("price")
    if price is not None:
        try:
            price = float(price) if str(price).strip() else None
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{where}: price {price!r} is not a number; write it like 12.99, or leave it empty.") from None
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ValueError(f"{where}: price {price!r} is not a finite, non-negative number; leave it empty where unknown.")
    title = text("title")
    if not title:
        if missing_title == "error":
            raise ValueError(
                f"{where}: item {text('item_id')!r} has an empty title. "
                "Give it one, or use brand and category as title: read.missing_title=fill."
            )
        title = " ".join(filter(None, (text("brand"), *categories[-1:]))) or text("item_id")
    return Item(text("item_id"), title, text("brand"), categories, text("description"), price, text("domain"))
