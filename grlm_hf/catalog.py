"""Items and their identifiers: one Term ID names one or more items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import clean, read_rows, rows_to_dataset, write_parquet
from grlm_hf.identifiers.terms import TermID, normalise, validate

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from grlm_hf.decoding.trie import Trie

CATALOG_FILE = "catalog.parquet"
TRIE_FILE = "catalog.trie"  # beside it in a checkpoint; safetensors inside, but not called so, or other tools would take it for weights
CATALOG_SCHEMA = 1
_SCHEMA_KEY = b"grlm_catalog_schema"


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


def item_features() -> Features:
    """The columns of the ``items`` table. `item_id` and `title` are never empty; other text may be ``""``, `price` null."""
    from datasets import Features, List, Value

    text = Value("string")
    return Features(
        {
            "item_id": text,
            "title": text,
            "brand": text,
            "categories": List(text),
            "description": text,
            "price": Value("float64"),
            "domain": text,
        }
    )


def items_to_dataset(items: Sequence[Item]) -> Dataset:
    """The ``items`` table, one row an item, with `item_features`."""
    return rows_to_dataset([_item_row(item) for item in items], item_features())


def load_items(path: str | Path, missing_title: str = "error") -> list[Item]:
    """Items from a CSV, JSONL or parquet file with at least the columns `item_id` and `title`.

    In CSV, `categories` is a path written ``Beauty > Hair Care > Shampoos``. Columns that are not an `Item`'s are ignored.

    Args:
        missing_title: ``"error"``, or ``"fill"`` to title such an item with its brand and last category, else its item_id.

    Raises:
        ValueError: no rows, a missing or repeated item_id, an empty title, a price that is no number; names the line.
    """
    if missing_title not in ("error", "fill"):
        raise ValueError(f"missing_title is {missing_title!r}; expected 'error' or 'fill'.")
    items: list[Item] = []
    seen: dict[str, str] = {}
    for where, row in read_rows(path):
        item = _item_from_row(where, row, missing_title)
        if item.item_id in seen:
            raise ValueError(f"{where}: item_id {item.item_id!r} stands already at {seen[item.item_id]}; item ids must be unique.")
        seen[item.item_id] = where
        items.append(item)
    if not items:
        raise ValueError(f"{path} holds no items.")
    return items


def load_term_ids(path: str | Path) -> dict[str, TermID]:
    """item_id → Term ID from a file with the columns `item_id` and `terms` (a list; in CSV comma-separated). Terms are normalised.

    Raises:
        ValueError: a missing or repeated item_id, no terms, a term without a letter or digit; names the line.
    """
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
            raise ValueError(f"{where}: item_id {item_id!r} has a Term ID already; expected one row an item.")
        found[item_id] = tid
    return found


class Catalog:
    """Items with their Term IDs. Immutable: `add` and `remove` return another one.

    Items that share a Term ID stand in ascending order of item_id (compared as strings); wherever a shared identifier is expanded
    into a ranking, that is the tie order.

    Args:
        items: the items; item ids must be unique.
        term_ids: the Term ID of each item, in the same order, in normal form.

    Raises:
        ValueError: lengths differ, no items, a repeated item_id, an empty title, an illegal term.
    """

    def __init__(self, items: Iterable[Item], term_ids: Iterable[TermID]):
        self.items = tuple(items)
        self.term_ids = tuple(validate(tid) for tid in term_ids)
        if len(self.items) != len(self.term_ids):
            raise ValueError(f"Found {len(self.items)} items and {len(self.term_ids)} Term IDs; expected one Term ID an item.")
        if not self.items:
            raise ValueError("A catalog needs at least one item; found none.")
        self._position: dict[str, int] = {}
        for position, item in enumerate(self.items):
            if not item.item_id or not item.title:
                raise ValueError(f"Item {position} needs a non-empty item_id and title; found {item}.")
            if self._position.setdefault(item.item_id, position) != position:
                raise ValueError(f"item_id {item.item_id!r} stands more than once in the catalog; item ids must be unique.")

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._position

    def __getitem__(self, item_id: str) -> Item:
        return self.items[self.position(item_id)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalog) and (self.items, self.term_ids) == (other.items, other.term_ids)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Catalog({len(self)} items, {len(self.identifiers)} Term IDs, {len(self.collisions)} shared)"

    def position(self, item_id: str) -> int:
        """Where the item stands in `items`. Raises ``ValueError`` for an unknown id."""
        try:
            return self._position[item_id]
        except (KeyError, TypeError):
            some = ", ".join(repr(i.item_id) for i in self.items[:3])
            raise ValueError(f"Item {item_id!r} is not in the catalog of {len(self)} items (ids look like {some}).") from None

    def term_id(self, item_id: str) -> TermID:
        """The item's Term ID. Raises ``ValueError`` for an unknown id."""
        return self.term_ids[self.position(item_id)]

    @cached_property
    def _groups(self) -> dict[TermID, tuple[int, ...]]:
        groups: dict[TermID, list[int]] = {}
        for position in sorted(range(len(self)), key=lambda p: self.items[p].item_id):
            groups.setdefault(self.term_ids[position], []).append(position)
        return {tid: tuple(groups[tid]) for tid in dict.fromkeys(self.term_ids)}

    @cached_property
    def identifiers(self) -> tuple[TermID, ...]:
        """The distinct Term IDs, in the order in which items first carry them. Leaf `i` of the trie is ``identifiers[i]``."""
        return tuple(self._groups)

    @cached_property
    def identifiers_hash(self) -> str:
        """Identifies `identifiers` and their order: a saved trie states whose it is."""
        digest = hashlib.sha256()
        for tid in self.identifiers:
            digest.update(("\t".join(tid) + "\n").encode())
        return digest.hexdigest()[:16]

    @cached_property
    def collisions(self) -> dict[TermID, tuple[Item, ...]]:
        """Term IDs shared by several items, with those items in tie order."""
        return {tid: tuple(self.items[p] for p in group) for tid, group in self._groups.items() if len(group) > 1}

    def positions_of(self, term_id: TermID) -> tuple[int, ...]:
        """Positions of the items that carry `term_id`, in tie order; empty if none does."""
        return self._groups.get(tuple(term_id), ())

    def items_of(self, term_id: TermID) -> tuple[Item, ...]:
        """The items that carry `term_id`, in tie order; empty if none does."""
        return tuple(self.items[p] for p in self.positions_of(term_id))

    @cached_property
    def _by_domain(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, item in enumerate(self.items):
            if item.domain:
                found.setdefault(item.domain, []).append(position)
        return found

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains that items are of, in the order in which they first occur. Items may be of none."""
        return tuple(self._by_domain)

    def positions_in(self, domain: str) -> Sequence[int]:
        """Positions of the items of a domain, rising. Raises ``ValueError`` for an unknown one, listing those there are."""
        try:
            return self._by_domain[domain]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self.domains)) or "none: no item states its domain"
            raise ValueError(f"The catalog has no domain {domain!r}; its domains are {known}.") from None

    def domain(self, name: str) -> Catalog:
        """The catalog of one domain's items, in the order in which they stand here; its `trie` holds their identifiers alone.

        Raises ``ValueError`` for an unknown domain, listing those there are.
        """
        keep = self.positions_in(name)
        catalog = self._changed(tuple(self.items[p] for p in keep), tuple(self.term_ids[p] for p in keep))
        catalog._position = {item.item_id: p for p, item in enumerate(catalog.items)}
        return catalog

    def trie(self, tokenizer: Any) -> Trie:
        """The decoding trie of this catalog's identifiers under a tokenizer. Leaf `i` is ``identifiers[i]``."""
        from grlm_hf.decoding.trie import Trie  # decoding builds on the catalog; this door is for the user's convenience

        return Trie.from_catalog(self, tokenizer)

    def add(self, items: Sequence[Item], term_ids: Sequence[TermID]) -> Catalog:
        """A catalog with these items added at the end; existing identifiers stay as they are.

        Raises ``ValueError`` as for a new catalog, and for an item_id that is there already.
        """
        if not len(items) and not len(term_ids):
            return self
        new = Catalog(items, term_ids)
        for item_id in new._position:
            if item_id in self._position:
                raise ValueError(f"item_id {item_id!r} is in the catalog already; item ids must be unique. To replace it, use update.")
        n = len(self)
        catalog = self._changed(self.items + new.items, self.term_ids + new.term_ids)
        catalog._position = self._position | {item_id: n + p for item_id, p in new._position.items()}
        groups = dict(self._groups)
        for position, tid in enumerate(new.term_ids, n):
            both = (*groups.get(tid, ()), position)
            groups[tid] = tuple(sorted(both, key=lambda p: catalog.items[p].item_id)) if len(both) > 1 else both
        catalog.__dict__["_groups"] = groups
        return catalog

    def remove(self, item_ids: Iterable[str]) -> Catalog:
        """A catalog without these items. Raises ``ValueError`` for an unknown id or when none would be left."""
        gone = {self.position(item_id) for item_id in item_ids}
        if len(gone) == len(self):
            raise ValueError("A catalog needs at least one item; none would be left.")
        keep = [p for p in range(len(self)) if p not in gone]
        catalog = self._changed(tuple(self.items[p] for p in keep), tuple(self.term_ids[p] for p in keep))
        catalog._position = {item.item_id: p for p, item in enumerate(catalog.items)}
        return catalog

    @staticmethod
    def _changed(items: tuple[Item, ...], term_ids: tuple[TermID, ...]) -> Catalog:
        # Of parts that have been checked: a change of a few items must not look at a million others.
        catalog = Catalog.__new__(Catalog)
        catalog.items, catalog.term_ids = items, term_ids
        return catalog

    def update(self, items: Sequence[Item], term_ids: Sequence[TermID] | None = None) -> Catalog:
        """A catalog with these items in the place of those with the same ids, with other Term IDs if given.

        Raises ``ValueError`` for an unknown id.
        """
        if term_ids is not None and len(term_ids) != len(items):
            raise ValueError(f"Found {len(items)} items and {len(term_ids)} Term IDs; expected one Term ID an item.")
        new_items, new_tids = list(self.items), list(self.term_ids)
        for i, item in enumerate(items):
            position = self.position(item.item_id)
            new_items[position] = item
            if term_ids is not None:
                new_tids[position] = term_ids[i]
        return Catalog(new_items, new_tids)

    def to_dataset(self) -> Dataset:
        """One row an item: the columns of `item_features` and `terms`, a list of strings."""
        from datasets import Features, List, Value

        rows = [{**_item_row(item), "terms": list(tid)} for item, tid in zip(self.items, self.term_ids, strict=True)]
        return rows_to_dataset(rows, Features({**item_features(), "terms": List(Value("string"))}))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes ``folder/catalog.parquet`` (atomically) and returns its path."""
        target = Path(folder) / CATALOG_FILE
        write_parquet(self.to_dataset(), target, {_SCHEMA_KEY: str(CATALOG_SCHEMA).encode()})
        return target

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> Catalog:
        """Reads a catalog from a folder, a file, or a dataset or model repository on the Hub; also from a dataset, here or there, that
        holds only the tables ``items`` and ``term_ids``, whoever wrote them.

        Raises:
            ValueError: there is no catalog, it is broken, or a newer grlm-hf wrote it.
        """
        path = Path(path_or_repo)
        if not path.exists():
            from grlm_hf.hub import fetch_catalog

            return fetch_catalog(str(path_or_repo), revision=revision, token=token)
        if path.is_dir():
            if not (path / CATALOG_FILE).is_file() and (path / "README.md").is_file():
                from grlm_hf.hub import catalog_from_tables

                return catalog_from_tables(str(path))
            path = path / CATALOG_FILE
        if not path.is_file():
            raise ValueError(f"No {CATALOG_FILE} in {path.parent}: it holds no catalog. Write one with Catalog.save_pretrained.")
        return cls._from_parquet(path)

    @classmethod
    def _from_parquet(cls, path: Path) -> Catalog:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from error
        version = (schema.metadata or {}).get(_SCHEMA_KEY, b"").decode()
        if not version.isdigit():
            raise ValueError(f"{path} states no catalog schema version; it was not written by Catalog.save_pretrained.")
        if int(version) > CATALOG_SCHEMA:
            raise ValueError(
                f"{path} has catalog schema {version}; this grlm-hf reads up to {CATALOG_SCHEMA}. Upgrade: pip install -U grlm-hf"
            )
        if missing := {*Item.__slots__, "terms"} - set(schema.names):
            raise ValueError(f"{path} lacks the catalog columns {sorted(missing)}.")
        rows = [row for _, row in read_rows(path)]
        items = [Item(**{k: r[k] for k in Item.__slots__} | {"categories": tuple(r["categories"])}) for r in rows]
        return cls(items, [tuple(row["terms"]) for row in rows])

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publishes the catalog as a dataset repository (private unless said otherwise) in one commit; returns its URL."""
        from grlm_hf.hub import push_catalog

        return push_catalog(self, repo_id, private=private, token=token)


def _item_row(item: Item) -> dict[str, Any]:
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
                "Give it one, or let brand and category stand in: read.missing_title=fill."
            )
        title = " ".join(filter(None, (text("brand"), *categories[-1:]))) or text("item_id")
    return Item(
        item_id=text("item_id"),
        title=title,
        brand=text("brand"),
        categories=categories,
        description=text("description"),
        price=price,
        domain=text("domain"),
    )
