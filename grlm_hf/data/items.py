"""Items, and the tables that they are read from and written to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import rows_to_dataset
from grlm_hf.identifiers.terms import TermID, normalise
from grlm_hf.tables.names import ITEMS
from grlm_hf.tables.rows import read_rows
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.values import identifier, parsed_list, price, text, texts

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


def load_items(
    path: str | Path,
    missing_title: str = "error",
    tally: Tally | None = None,
    *,
    rows: Iterable[tuple[str, dict[str, Any]]] | None = None,
    category_separator: str = ">",
) -> list[Item]:
    """Items from a CSV, JSONL or parquet file with at least the columns `item_id` and `title`.

    In CSV, `categories` is a path written ``Beauty > Hair Care > Shampoos``. Columns may have other known names
    (`grlm_hf.tables.names.ITEMS`); others are ignored. `missing_title`: ``"error"``, or ``"fill"`` to title such an item with its brand and
    last category, else its item_id. `tally` counts what was read otherwise than it was written. `rows`, (place, row under our names), are
    those of a file that was read already.

    Raises `ValueError` with the line for no rows, a missing or duplicate item_id, an empty title, a price that is no number.
    """
    if missing_title not in ("error", "fill"):
        raise ValueError(f"missing_title is {missing_title!r}; expected 'error' or 'fill'.")
    items: list[Item] = []
    seen: dict[str, str] = {}
    tally = tally or Tally()
    for where, row in read_rows(path, ITEMS, needed=("item_id", "title"), tally=tally) if rows is None else rows:
        item = _item_from_row(where, row, missing_title, tally, category_separator)
        if item.item_id in seen:
            raise ValueError(f"{where}: Duplicate item_id {item.item_id!r}, first at {seen[item.item_id]}: item ids must be unique.")
        seen[item.item_id] = where
        items.append(item)
    if not items:
        raise ValueError(f"{path} holds no items.")
    tally.read["items"] = len(items)
    return items


def load_term_ids(path: str | Path) -> dict[str, TermID]:
    """item_id → Term ID from a file with the columns `item_id` and `terms` (a list; in CSV comma-separated). Terms are normalised. Raises
    `ValueError` with the line for a missing or duplicate item_id, no terms, a term without a letter or digit; for codes of Semantic IDs."""
    found: dict[str, TermID] = {}
    numbered: list[str] = []  # items whose terms are all codes or numbers
    for where, row in read_rows(path, _TERM_IDS):
        terms = row.get("terms")
        if isinstance(terms, str):
            found_list = parsed_list(terms)
            terms = terms.strip().strip("[]").split(",") if found_list is None else found_list
        item_id = identifier(where, "item_id", row.get("item_id"))
        if not item_id or not isinstance(terms, list) or not terms:
            raise ValueError(f"{where} needs `item_id` and a list `terms`; found {row}.")
        if codes := [term for term in terms if _CODE.search(str(term))]:
            raise ValueError(f"{where}: item {item_id!r} has {str(codes[0])[:60]!r}: codes of Semantic IDs. {_NO_CODES}")
        tid = tuple(normalise(str(term)) for term in terms)
        if not all(tid):
            raise ValueError(f"{where}: item {item_id!r} has a term without a letter or digit: {terms}.")
        if item_id in found:
            raise ValueError(f"{where}: item_id {item_id!r} has two rows; expected one row an item.")
        found[item_id] = tid
        if all(map(_NUMBERED.fullmatch, tid)):
            numbered.append(item_id)
    if 2 * len(numbered) > len(found):  # a film may be called 1917
        raise ValueError(
            f"{path}: {len(numbered)} of {len(found)} items have numbers only, such as {numbered[0]!r}: {list(found[numbered[0]])}. "
            f"They look like codes of Semantic IDs. {_NO_CODES}"
        )
    return found


_CODE = re.compile(r"<\|?(?:[^\W\d_]{1,8}[_-]?){1,3}\d+\|?>")  # <a_60>, <s_a_340>, <|sid_a_60|>
_NUMBERED = re.compile(r"(?:[a-z]-?)?\d+(?:-(?:[a-z]-?)?\d+)*")  # 60, a-60, a60-b159
_NO_CODES = (
    "Term IDs are words; as words, codes would lose their hierarchy. Set identifier.kind=codes, and name a file of codes: "
    "identifier.codes.file (docs/identifiers.md), or let them be made from the items' texts."
)
_TERM_IDS = {"item_id": ITEMS["item_id"], "terms": ("termids", "termid")}


def item_row(item: Item) -> dict[str, Any]:
    return {name: list(value) if isinstance(value := getattr(item, name), tuple) else value for name in Item.__slots__}


def _item_from_row(where: str, row: dict[str, Any], missing_title: str, tally: Tally, separator: str) -> Item:
    def words(name: str) -> str:
        return text(where, name, row.get(name))

    item_id = identifier(where, "item_id", row["item_id"])
    if not item_id:
        raise ValueError(f"{where} has an empty item_id.")
    categories = texts(where, "categories", row.get("categories"), separator)
    title = words("title")
    if not title:
        if missing_title == "error":
            raise ValueError(
                f"{where}: item {item_id!r} has an empty title. Give it one, or use brand and category as title: read.missing_title=fill."
            )
        title = " ".join(filter(None, (words("brand"), *categories[-1:]))) or item_id
        tally.count("items", "have no title; it was made of brand and category", repr(item_id))
    return Item(item_id, title, words("brand"), categories, words("description"), price(where, row.get("price"), tally), words("domain"))
