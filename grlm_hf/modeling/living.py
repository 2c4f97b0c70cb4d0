"""A living catalog: readers search one immutable version of it while a writer makes the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.identifiers.symbols import ATOMIC
from grlm_hf.indexing.codes import identify_new
from grlm_hf.indexing.collisions import resolve_new
from grlm_hf.indexing.extract import TermExtender
from grlm_hf.modeling.prompter import Prompter


class Shelf:
    """The current version of a catalog, and the only way to change it. Threads may share it. `index` is the first version; `prompter`
    checks that the model can read and write each version."""

    def __init__(self, index: SearchIndex, prompter: Prompter):
        self._index, self._prompter = index, prompter  # one reference to an immutable value: readers see a whole version
        self._lock = threading.Lock()
        self._extender = TermExtender()

    @property
    def index(self) -> SearchIndex:
        """The current version. A search takes it once and reads that version to its end."""
        return self._index

    def change(self, make: Callable[[Catalog], Catalog], commit: Callable[[SearchIndex], None] | None = None) -> SearchIndex:
        """Makes the next version; one change at a time.

        Args:
            make: the catalog → its successor. It runs under the lock, so `index` is the version that it changes.
            commit: called with the new version, checked, before readers see it; to write it to disk, say. What it raises undoes the change.

        Raises `ValueError` if the model cannot read or write the new catalog (`Prompter.check_capacity`), or its identifiers are of another
        scheme; or what `make` raises. Then nothing is changed.
        """
        with self._lock:
            before = self._index
            catalog = make(before.catalog)
            if catalog.scheme is not before.catalog.scheme:
                found, expected = catalog.scheme.name, before.catalog.scheme.name
                raise ValueError(f"The catalog has the identifier scheme {found!r}; this model writes {expected!r}. Train a model for it.")
            if catalog.codebook_hash != before.catalog.codebook_hash:
                raise ValueError(
                    f"The catalog has codes of the codebook {catalog.codebook_hash or 'none'}; this model writes those of "
                    f"{before.catalog.codebook_hash or 'none'}, and equal codes mean other items. Train a model for it."
                )
            after = before.updated(catalog, self._prompter.tokenizer)
            self._prompter.check_capacity(after, before)
            if commit:
                commit(after)
            self._index = after
            return after

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for a change under way, and keeps others out meanwhile."""
        with self._lock:
            yield

    def restore(self, index: SearchIndex) -> None:
        """Replaces the current version by one that was committed earlier."""
        with self._lock:
            self._index = index

    def branch(self) -> Shelf:
        """A shelf that begins with the current version and changes on its own."""
        shelf = Shelf(self._index, self._prompter)
        shelf._extender = self._extender
        return shelf

    def new_identifiers(self, catalog: Catalog, items: Sequence[Item], beside: Catalog | None = None) -> list[Identifier]:
        """Identifiers for items that join `catalog`, from their texts, different from its own where the text allows: words, counted in the
        catalog `beside`, by default `catalog`; or codes, by the codebook that gave the catalog its own.

        Raises:
            ValueError: new items of this scheme cannot get an identifier from their texts.
            ImportError: sentence-transformers or faiss is missing.
        """
        if catalog.codebook is not None or catalog.scheme is ATOMIC:
            return identify_new(catalog, items)
        if not catalog.scheme.from_text:
            raise ValueError(f"An item's text gives no {catalog.scheme.noun}; give the identifiers of new items.")
        return resolve_new(catalog, items, self._extender(beside or catalog, items))

    def warm(self) -> None:
        """Reads the catalog for the first new item, which otherwise waits some seconds."""
        if not self._index.catalog.scheme.from_text:
            return
        self._extender(self._index.catalog, [Item("warm", "warm")])
