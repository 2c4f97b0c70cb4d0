"""A catalog: items and their identifiers. One identifier names one or more items."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.items import Item, item_features, item_row, load_items, load_term_ids
from grlm_hf.files import did_you_mean, inside, rows_to_dataset
from grlm_hf.hub import check_card_files, check_inside, explained, push_folder
from grlm_hf.identifiers import scheme_named
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import CATALOG_FILE, CATALOG_SCHEMA, CODEBOOK_FILE, PLACE, TAGS
from grlm_hf.markdown import escaped
from grlm_hf.tables.parquet import parquet_schema, read_parquet, write_rows
from grlm_hf.tokens import identifier_tokens, tokenizer_hash

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from grlm_hf.trie.arrays import Trie

_SCHEMA_KEY = b"grlm_catalog_schema"
_SCHEME_KEY = b"grlm_scheme"  # a file without it holds Term IDs
_CODEBOOK_KEY = b"grlm_codebook"  # the hash of the codebook in the file beside it


class Catalog:
    """Items with their identifiers, in the same order and in normal form. Immutable: `add`, `remove` and `update` return another catalog.

    Items that share an identifier are in ascending order of item_id, compared as strings. This tie order holds wherever a shared identifier
    is expanded into a ranking. Raises `ValueError` for different lengths, no items, a duplicate item_id, an empty title, an illegal
    identifier.
    """

    def __init__(self, items: Iterable[Item], identifiers: Iterable[Identifier], scheme: Scheme = TERMS, codebook: Codebook | None = None):
        self._set(tuple(items), tuple(map(scheme.validate, identifiers)), scheme, codebook)
        _check_lengths(self.items, self.item_identifiers, scheme)
        if not self.items:
            raise ValueError("A catalog needs at least one item; found none.")
        for position, item in enumerate(self.items):
            if not item.item_id or not item.title:
                raise ValueError(f"Item {position} needs a non-empty item_id and title; found {item}.")
        if len(self._position) < len(self.items):  # of duplicates, `_position` has the last
            duplicate = next(item.item_id for p, item in enumerate(self.items) if self._position[item.item_id] != p)
            raise ValueError(f"Duplicate item_id {duplicate!r}: item ids must be unique.")

    @classmethod
    def _of_checked(
        cls, items: tuple[Item, ...], identifiers: tuple[Identifier, ...], scheme: Scheme, codebook: Codebook | None
    ) -> Catalog:
        """From parts of another catalog: a change of a few items must not check a million others again."""
        catalog = cls.__new__(cls)
        catalog._set(items, identifiers, scheme, codebook)
        return catalog

    def _set(self, items: tuple[Item, ...], identifiers: tuple[Identifier, ...], scheme: Scheme, codebook: Codebook | None) -> None:
        self.items, self.item_identifiers, self.scheme, self.codebook = items, identifiers, scheme, codebook
        self._position = {item.item_id: position for position, item in enumerate(items)}

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._position

    def __getitem__(self, item_id: str) -> Item:
        return self.items[self.position(item_id)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalog):
            return False
        mine = (self.scheme.name, self.codebook_hash, self.items, self.item_identifiers)
        return mine == (other.scheme.name, other.codebook_hash, other.items, other.item_identifiers)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Catalog({len(self)} items, {len(self.identifiers)} {self.scheme.noun}s, {len(self.collisions)} shared)"

    def position(self, item_id: str) -> int:
        """The index of the item in `items`. Raises ``ValueError`` for an unknown id."""
        try:
            return self._position[item_id]
        except (KeyError, TypeError):
            raise ValueError(self._unknown(item_id)) from None

    def unknown(self, item_id: str) -> str:
        """What an error about an id that is not in the catalog says, with the most similar id."""
        return f"{self._unknown(item_id)} {did_you_mean(item_id, self._position)}".rstrip()

    def _unknown(self, item_id: str) -> str:
        some = ", ".join(repr(i.item_id) for i in self.items[:3])
        return f"Item {item_id!r} is not in the catalog of {len(self)} items (ids look like {some})."

    def identifier(self, item_id: str) -> Identifier:
        """The item's identifier. Raises ``ValueError`` for an unknown id."""
        return self.item_identifiers[self.position(item_id)]

    @property
    def term_ids(self) -> tuple[Identifier, ...]:
        """`item_identifiers`, under the name that catalogs of Term IDs use."""
        return self.item_identifiers

    def term_id(self, item_id: str) -> Identifier:
        """`identifier`, under the name that catalogs of Term IDs use."""
        return self.identifier(item_id)

    @cached_property
    def _groups(self) -> dict[Identifier, tuple[int, ...]]:
        groups: dict[Identifier, list[int]] = {identifier: [] for identifier in self.item_identifiers}
        for position in sorted(range(len(self)), key=lambda p: self.items[p].item_id):
            groups[self.item_identifiers[position]].append(position)
        return {identifier: tuple(group) for identifier, group in groups.items()}

    @cached_property
    def identifiers(self) -> tuple[Identifier, ...]:
        """The distinct identifiers, in the order in which items first have them. Leaf `i` of the trie is ``identifiers[i]``."""
        return tuple(self._groups)

    @cached_property
    def identifiers_hash(self) -> str:
        """Hash of `identifiers` and their order. A saved trie states it, so that a trie of another catalog is recognised."""
        lines = ("\t".join(identifier) + "\n" for identifier in self.identifiers)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    @property
    def codebook_hash(self) -> str:
        """`Codebook.hash` of the codebook that gave the items their codes; empty without one."""
        return self.codebook.hash if self.codebook else ""

    def added_tokens(self) -> list[str]:
        """Tokens that a tokenizer needs for the identifiers of this catalog, and for those that new items may get; sorted."""
        of_codebook = [tuple(self.codebook.written_symbols())] if self.codebook else []
        return self.scheme.added_tokens([*self.identifiers, *of_codebook])

    @cached_property
    def collisions(self) -> dict[Identifier, tuple[Item, ...]]:
        """Identifiers shared by several items, with those items in tie order."""
        return {identifier: tuple(self.items[p] for p in group) for identifier, group in self._groups.items() if len(group) > 1}

    def positions_of(self, identifier: Identifier) -> tuple[int, ...]:
        """Positions of the items with this identifier, in tie order; empty if there is none."""
        return self._groups.get(tuple(identifier), ())

    def items_of(self, identifier: Identifier) -> tuple[Item, ...]:
        """The items with this identifier, in tie order; empty if there is none."""
        return tuple(self.items[p] for p in self.positions_of(identifier))

    @cached_property
    def _by_domain(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, item in enumerate(self.items):
            if item.domain:
                found.setdefault(item.domain, []).append(position)
        return found

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the items' domains, in the order in which they first occur. An item may have no domain."""
        return tuple(self._by_domain)

    def positions_in(self, domain: str) -> Sequence[int]:
        """Positions of the items of a domain, ascending. Raises ``ValueError`` for an unknown domain and lists the known ones."""
        try:
            return self._by_domain[domain]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self.domains)) or "none: no item states its domain"
            raise ValueError(f"The catalog has no domain {domain!r}; its domains are {known}.") from None

    def domain(self, name: str) -> Catalog:
        """The catalog of one domain's items, in their order here. Raises ``ValueError`` for an unknown domain and lists the known ones."""
        return self._kept(self.positions_in(name))

    def trie(self, tokenizer: Any) -> Trie:
        """The decoding trie under a tokenizer. Its paths are the label tokens of training; leaf `i` is ``identifiers[i]``."""
        from grlm_hf.trie.arrays import Trie

        paths = identifier_tokens(tokenizer, self.scheme, self.identifiers)
        return Trie(paths, tokenizer.eos_token_id, tokenizer_hash(tokenizer), tokenizer.pad_token_id)

    def add(self, items: Sequence[Item], identifiers: Sequence[Identifier]) -> Catalog:
        """A catalog with these items added at the end. Raises ``ValueError`` as for a new catalog, and for an item_id that it has."""
        if not len(items) and not len(identifiers):
            return self
        new = Catalog(items, identifiers, self.scheme)
        for item_id in new._position:
            if item_id in self._position:
                raise ValueError(f"item_id {item_id!r} is in the catalog already; item ids must be unique. To replace it, use update.")
        catalog = self._of_checked(self.items + new.items, self.item_identifiers + new.item_identifiers, self.scheme, self.codebook)
        groups = dict(self._groups)
        for position, identifier in enumerate(new.item_identifiers, len(self)):
            both = (*groups.get(identifier, ()), position)
            groups[identifier] = tuple(sorted(both, key=lambda p: catalog.items[p].item_id)) if len(both) > 1 else both
        catalog.__dict__["_groups"] = groups
        return catalog

    def remove(self, item_ids: Iterable[str]) -> Catalog:
        """A catalog without these items. Raises ``ValueError`` for an unknown id or when none would be left."""
        gone = {self.position(item_id) for item_id in item_ids}
        if len(gone) == len(self):
            raise ValueError("A catalog needs at least one item; none would be left.")
        return self._kept([p for p in range(len(self)) if p not in gone])

    def _kept(self, positions: Sequence[int]) -> Catalog:
        items, identifiers = tuple(self.items[p] for p in positions), tuple(self.item_identifiers[p] for p in positions)
        return self._of_checked(items, identifiers, self.scheme, self.codebook)

    def in_order_of(self, items: Sequence[Item]) -> Catalog:
        """The catalog with its items in another order, that of `items`. Raises ``ValueError`` for an unknown item."""
        return self._kept([self.position(item.item_id) for item in items])

    def update(self, items: Sequence[Item], identifiers: Sequence[Identifier] | None = None) -> Catalog:
        """A catalog with these items in place of those with the same ids, and other identifiers if given. Raises ``ValueError`` for an
        unknown id."""
        if identifiers is not None:
            _check_lengths(items, identifiers, self.scheme)
        new_items, new_identifiers = list(self.items), list(self.item_identifiers)
        for i, item in enumerate(items):
            position = self.position(item.item_id)
            new_items[position] = item
            if identifiers is not None:
                new_identifiers[position] = identifiers[i]
        return Catalog(new_items, new_identifiers, self.scheme, self.codebook)

    def to_dataset(self) -> Dataset:
        """One row an item: the columns of `item_features`, and the parts of its identifier as a list of strings: `terms` in a catalog of
        Term IDs, `identifier` in others."""
        return rows_to_dataset(list(self._rows()), self._features())

    def _rows(self) -> Iterator[dict[str, Any]]:
        column = identifier_column(self.scheme)
        return ({**item_row(item), column: list(i)} for item, i in zip(self.items, self.item_identifiers, strict=True))

    def _features(self) -> Features:
        from datasets import Features, List, Value

        return Features({**item_features(), identifier_column(self.scheme): List(Value("string"))})

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes ``folder/catalog.parquet`` (atomically), beside it the codebook if there is one, and returns the path of the former."""
        target = Path(folder) / CATALOG_FILE
        stated = {_SCHEMA_KEY: str(CATALOG_SCHEMA).encode()}
        if self.scheme is not TERMS:
            stated[_SCHEME_KEY] = self.scheme.name.encode()
        if self.codebook:
            stated[_CODEBOOK_KEY] = self.codebook.hash.encode()
            target.parent.mkdir(parents=True, exist_ok=True)
            self.codebook.save(target.with_name(CODEBOOK_FILE))
        write_rows(self._rows(), self._features(), target, stated)
        return target

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> Catalog:
        """Reads a catalog from a folder, a file, or a dataset or model repository on the Hub; also a dataset with only the tables ``items``
        and ``term_ids``. Raises `ValueError` if there is no catalog, it is broken, or a newer grlm-hf wrote it."""
        path = Path(path_or_repo)
        if not path.exists():
            return fetch_catalog(str(path_or_repo), revision=revision, token=token)
        if path.is_dir():
            if not (path / CATALOG_FILE).is_file() and (path / "README.md").is_file():
                return catalog_from_tables(str(path))
            path = path / CATALOG_FILE
        if not path.is_file():
            other = inside(path.parent, CATALOG_FILE, "catalog")
            raise ValueError(
                f"No {CATALOG_FILE} in {path.parent}: it holds no catalog.{other or ' Write one with Catalog.save_pretrained.'}"
            )
        return cls.read(path)

    @staticmethod
    def stated(path: Path) -> tuple[Scheme, str]:
        """The kind of identifier that a catalog file states, and the hash of its codebook ("" without one). Raises ``ValueError`` for a
        file that is not parquet, and for an unknown kind."""
        found = parquet_schema(path).metadata or {}
        name, codebook = (
            found.get(key, default).decode(errors="replace") for key, default in ((_SCHEME_KEY, b"terms"), (_CODEBOOK_KEY, b""))
        )
        return scheme_named(name, str(path)), codebook

    @classmethod
    def read(cls, path: Path, limit: int | None = None, codebook: Codebook | None = None) -> Catalog:
        """Reads the parquet file of `save_pretrained`. `limit`: bytes that it may unpack to, by default
        `grlm_hf.tables.parquet.allowed`. `codebook`: of the file's codes, where it is loaded already; by default that of the file beside
        it. Raises `ValueError` as `from_pretrained` does."""
        schema = parquet_schema(path)
        stated = {key: value.decode(errors="replace") for key, value in (schema.metadata or {}).items()}
        version = stated.get(_SCHEMA_KEY, "")
        if not version.isdigit():
            raise ValueError(f"{path} states no catalog schema version; it was not written by Catalog.save_pretrained.")
        if int(version) > CATALOG_SCHEMA:
            raise ValueError(
                f"{path} has catalog schema {version}; this grlm-hf reads up to {CATALOG_SCHEMA}. Upgrade: pip install -U grlm-hf"
            )
        scheme, wanted = cls.stated(path)
        column = identifier_column(scheme)
        if missing := {*Item.__slots__, column} - set(schema.names):
            raise ValueError(f"{path} lacks the catalog columns {sorted(missing)}.")
        items, identifiers = [], []
        for row in read_parquet(path, (*Item.__slots__, column), limit):
            _check_row(path, row, column)
            items.append(Item(**{k: row[k] for k in Item.__slots__} | {"categories": tuple(row["categories"])}))
            identifiers.append(tuple(row[column]))
        return cls(items, identifiers, scheme, codebook if codebook and codebook.hash == wanted else _codebook_of(path, wanted))

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publishes the catalog as a dataset repository (private by default) in one commit; returns its URL. ``load_dataset`` and
        ``Catalog.from_pretrained`` both read it."""
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "catalog"
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, repo_type="dataset", private=private, token=token, card=catalog_card(self, repo_id))


def _check_row(path: Path, row: dict[str, Any], column: str) -> None:
    for name in Item.__slots__:
        value = row[name]
        good = (
            isinstance(value, list) and all(isinstance(part, str) for part in value) if name == "categories"
            else value is None or (isinstance(value, float | int) and not isinstance(value, bool)) if name == "price"
            else isinstance(value, str)
        )  # fmt: skip
        if not good:
            raise ValueError(f"{path}: the item {row['item_id']!r} has {name} {str(value)[:80]!r}; it was not written by save_pretrained.")
    if not isinstance(row[column], list) or not row[column] or not all(isinstance(part, str) for part in row[column]):
        raise ValueError(f"{path}: the item {row['item_id']!r} has {column} {str(row[column])[:80]!r}; expected a list of texts.")


def _codebook_of(path: Path, stated: str) -> Codebook | None:
    """The codebook beside a catalog file that states its hash. Raises ``ValueError`` if it is missing or another one."""
    if not stated:
        return None
    if not (beside := path.with_name(CODEBOOK_FILE)).is_file():
        raise ValueError(f"{path} has codes of the codebook {stated}, and there is no {CODEBOOK_FILE} beside it. Copy both files together.")
    if (codebook := Codebook.load(beside)).hash != stated:
        raise ValueError(f"{path} has codes of the codebook {stated}, {beside} is {codebook.hash}: they do not belong together.")
    return codebook


def _check_lengths(items: Sequence[Item], identifiers: Sequence[Identifier], scheme: Scheme) -> None:
    if len(items) != len(identifiers):
        raise ValueError(f"Found {len(items)} items and {len(identifiers)} {scheme.noun}s; expected one {scheme.noun} an item.")


def identifier_column(scheme: Scheme) -> str:
    """The column with the parts of the identifiers, in a catalog's file and in the table ``term_ids``."""
    return "terms" if scheme is TERMS else "identifier"


def fetch_catalog(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog of a repository: the ``catalog.parquet`` of a dataset or else of a model, or else the tables ``items`` and ``term_ids``
    of a dataset, whoever wrote them. Raises `ValueError` for no such repository, one without these, or an item without a Term ID."""
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
        if found and _CODEBOOK_KEY in (parquet_schema(Path(found)).metadata or {}):
            kind = "dataset" if is_dataset else None
            hf_hub_download(repo_id, CODEBOOK_FILE, repo_type=kind, revision=revision, token=token)  # arrives beside the other file
    return Catalog.from_pretrained(found) if found else catalog_from_tables(repo_id, revision, token)


def catalog_from_tables(repo_id: str, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog that the tables ``items`` and ``term_ids`` of a dataset folder or repository make. Raises as `fetch_catalog` does."""
    from datasets import concatenate_datasets, load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetsError

    with tempfile.TemporaryDirectory() as work:
        for table in ("items", "term_ids"):
            try:
                if Path(repo_id).is_dir():
                    check_card_files(repo_id)
                    for files in (load_dataset_builder(repo_id, table, cache_dir=work).config.data_files or {}).values():
                        for name in files:
                            check_inside(name, repo_id)
                # a cache of its own: the common one takes a local folder that has changed since for the same
                splits = load_dataset(repo_id, table, revision=revision, token=token, cache_dir=work)
            except (ValueError, OSError, ImportError, DatasetsError) as error:
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


def catalog_card(catalog: Catalog, title: str) -> str:
    """The card of a repository that holds a catalog and nothing else."""
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(tags=TAGS, configs=[{"config_name": "default", "data_files": CATALOG_FILE}])
    body = f'```python\nfrom datasets import load_dataset\n\nrepo = "{PLACE}"\ncatalog = load_dataset(repo, split="train")\n```'
    return f"---\n{header.to_yaml()}\n---\n\n# {escaped(title)}\n\nItems with their Term IDs. {escaped(repr(catalog))}\n\n{body}\n"
