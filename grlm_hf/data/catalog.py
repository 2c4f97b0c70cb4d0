"""Items and their identifiers: one Term ID names one or more items."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.items import load_items, load_term_ids
from grlm_hf.files import read_rows, rows_to_dataset, write_parquet
from grlm_hf.identifiers.terms import TermID, validate
from grlm_hf.layout import CATALOG_FILE, PLACE

if TYPE_CHECKING:
    from datasets import Dataset
from grlm_hf.data.items import Item, item_features, item_row
from grlm_hf.hub import explained, push_folder
from grlm_hf.layout import CATALOG_SCHEMA, TAGS
from grlm_hf.markdown import escaped

if TYPE_CHECKING:
    from datasets import Dataset

    from grlm_hf.trie.arrays import Trie

_SCHEMA_KEY = b"grlm_catalog_schema"


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
        from grlm_hf.tokens import identifier_tokens, tokenizer_hash
        from grlm_hf.trie.arrays import Trie

        paths = identifier_tokens(tokenizer, self.identifiers)
        return Trie(paths, tokenizer.eos_token_id, tokenizer_hash(tokenizer), tokenizer.pad_token_id)

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

        rows = [{**item_row(item), "terms": list(tid)} for item, tid in zip(self.items, self.term_ids, strict=True)]
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
            return fetch_catalog(str(path_or_repo), revision=revision, token=token)
        if path.is_dir():
            if not (path / CATALOG_FILE).is_file() and (path / "README.md").is_file():
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
        return push_catalog(self, repo_id, private=private, token=token)


def fetch_catalog(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog of a repository: the ``catalog.parquet`` of a dataset or else of a model, or else the tables ``items`` and ``term_ids``
    of a dataset, whoever wrote them.

    Raises:
        ValueError: there is no such repository or it holds none of these; or an item has no Term ID.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

    is_dataset = True
    with explained(repo_id):
        try:
            found = hf_hub_download(repo_id, CATALOG_FILE, repo_type="dataset", revision=revision, token=token)
        except (RepositoryNotFoundError, EntryNotFoundError) as error:
            is_dataset = isinstance(error, RemoteEntryNotFoundError)
            try:
                found = hf_hub_download(repo_id, CATALOG_FILE, revision=revision, token=token)
            except (RepositoryNotFoundError, RemoteEntryNotFoundError):
                if not is_dataset:
                    raise
                found = ""
    return Catalog.from_pretrained(found) if found else catalog_from_tables(repo_id, revision, token)


def catalog_from_tables(repo_id: str, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog that the tables ``items`` and ``term_ids`` of a dataset folder or repository make. Raises as `fetch_catalog` does."""
    from datasets import concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    with tempfile.TemporaryDirectory() as work:
        for table in ("items", "term_ids"):
            try:
                # a cache of its own: the common one takes a local folder that has changed since for the same
                splits = load_dataset(repo_id, table, revision=revision, token=token, cache_dir=work)
            except (ValueError, FileNotFoundError, DatasetsError) as error:
                raise ValueError(f"{repo_id!r} holds no {CATALOG_FILE}, nor a table {table!r} to make a catalog of: {error}") from error
            concatenate_datasets(list(splits.values())).to_parquet(str(Path(work) / f"{table}.parquet"))
        try:
            items, term_ids = load_items(Path(work) / "items.parquet"), load_term_ids(Path(work) / "term_ids.parquet")
        except ValueError as error:
            raise ValueError(str(error).replace(f"{work}/", f"{repo_id}, table ").replace(".parquet", "")) from error
    if missing := [item.item_id for item in items if item.item_id not in term_ids]:
        raise ValueError(
            f"{repo_id!r}: {len(missing)} of the {len(items)} items in its table 'items' have no Term ID in 'term_ids', such as "
            f"{missing[:3]}. The two tables must be of the same items."
        )
    return Catalog(items, [term_ids[item.item_id] for item in items])


def push_catalog(catalog: Catalog, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Publishes a catalog as a dataset repository that ``load_dataset`` and ``Catalog.from_pretrained`` both read."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "catalog"
        catalog.save_pretrained(folder)
        return push_folder(folder, repo_id, repo_type="dataset", private=private, token=token, card=catalog_card(catalog, repo_id))


def catalog_card(catalog: Catalog, title: str) -> str:
    """The card of a repository that holds a catalog and nothing else."""
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(tags=TAGS, configs=[{"config_name": "default", "data_files": CATALOG_FILE}])
    body = f'```python\nfrom datasets import load_dataset\n\nrepo = "{PLACE}"\ncatalog = load_dataset(repo, split="train")\n```'
    return f"---\n{header.to_yaml()}\n---\n\n# {escaped(title)}\n\nItems with their Term IDs. {escaped(repr(catalog))}\n\n{body}\n"
