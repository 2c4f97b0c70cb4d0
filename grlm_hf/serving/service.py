"""The recommender behind the routes: versions, queue and metrics. Of HTTP it knows only status numbers."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.layout import CATALOG_FILE
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.modeling.results import Recommendations
from grlm_hf.serving.batcher import Batcher, Refused
from grlm_hf.serving.intake import check_item, check_terms, read_catalog
from grlm_hf.serving.options import MB, ServeOptions
from grlm_hf.serving.state import State, Version
from grlm_hf.tables.parquet import release
from grlm_hf.tokens import tokenizer_hash

MAX_CHANGES = 16
"""Maximum number of changes of the catalog that wait for each other."""
log = logging.getLogger("grlm.serve")


class Metrics:
    """The metrics of `/metrics`, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = r = CollectorRegistry()
        self.requests = Counter("grlm_requests", "Requests answered.", ["method", "route", "status"], registry=r)
        self.seconds = Histogram("grlm_request_seconds", "From the first byte in to the last one out.", ["method", "route"], registry=r)
        self.rejected = Counter("grlm_rejected", "Requests refused before any work.", ["reason"], registry=r)
        self.waiting = Gauge("grlm_queue_depth", "Requests that wait for the model.", registry=r)
        self.batch = Histogram("grlm_batch_histories", "Histories in a search.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), registry=r)
        self.forwards = Counter("grlm_forwards", "Calls of the model, as searches report them.", registry=r)
        self.version = Gauge("grlm_catalog_version", "Of the catalog served.", registry=r)
        self.items = Gauge("grlm_catalog_items", "Items in the catalog served.", registry=r)
        ProcessCollector(registry=r)


class Service:
    """Serves a recommender. All changes of its catalog go through here, one at a time: each is made, checked, committed, then served.

    Args:
        grlm: the recommender. Nothing else may change its catalog.

    Raises:
        ValueError: the state folder is in use, holds other files, or cannot be read.
    """

    def __init__(self, grlm: GRLMForRecommendation, options: ServeOptions | None = None):
        self.grlm, self.options = grlm, options or ServeOptions()
        if self.options.prior == "own" and grlm.prior is None:
            raise ValueError("--prior own, but this checkpoint has no prior. Leave it out, or serve a checkpoint of `grlm run`.")
        own, seen = self.options.prior, self.options.exclude_seen
        grlm.config = replace(
            grlm.config,
            own_prior=(grlm.config.own_prior if own is None else own == "own") and grlm.prior is not None,
            exclude_seen=grlm.config.exclude_seen if seen is None else seen,
        )
        self.metrics = Metrics()
        self._temporary = None if self.options.state else tempfile.TemporaryDirectory(prefix="grlm-serve-")
        self.state = State(self.options.state or Path(self._temporary.name), self.options.keep)  # type: ignore[union-attr]
        self._changes, self._uploads = threading.Semaphore(MAX_CHANGES), threading.Semaphore(1)
        try:
            found = self.state.open()
            if found:
                trie = found.trie
                if trie and trie.tokenizer_hash != tokenizer_hash(grlm.tokenizer):
                    trie = None  # of another checkpoint
                grlm.shelf.restore(SearchIndex.build(found.catalog, grlm.tokenizer, trie))
            else:
                found = self.state.commit(1, grlm.catalog, grlm.trie)
        except BaseException:
            self.state.close()
            raise
        self.current = found
        """The version that is served, as it was committed."""
        self._first = found.number - grlm.version  # the two numbers rise together from here on
        self.batcher = Batcher(grlm, self.options.max_batch, self.options.max_wait_ms / 1000, self.options.queue)
        self.batcher.searched = self._searched
        self.metrics.waiting.set_function(lambda: len(self.batcher))
        self.metrics.version.set_function(lambda: self.current.number)
        self.metrics.items.set_function(lambda: len(self.current.catalog))
        self.stopping = False

    def _searched(self, histories: int, forwards: int) -> None:
        self.metrics.batch.observe(histories)
        self.metrics.forwards.inc(forwards)

    def version_of(self, answers: Sequence[Recommendations]) -> int:
        """The number of the version that the answers to a request were computed on."""
        (version,) = {answer.version for answer in answers}
        return self._first + version

    @property
    def ready(self) -> bool:
        return self.batcher.alive and not self.stopping

    def stop(self, timeout: float = 0.0) -> None:
        """Waits up to `timeout` seconds for running requests, and for a change of the catalog until it is made; then releases the lock on
        the state folder. Another process that took the folder earlier would be overtaken by that change."""
        self.stopping = True
        self.batcher.close(timeout)
        with self.grlm.shelf.paused():
            self.state.close()
        if self._temporary:
            self._temporary.cleanup()

    # --- changes -------------------------------------------------------------------------------------------------------------------

    def add(self, items: Sequence[Item], term_ids: Sequence[Sequence[str]] | None) -> Version:
        """Adds items. Raises `Refused`: 409 for an id that the catalog has, 422 for an invalid item or Term ID."""
        scheme = self.grlm.catalog.scheme
        given = None if term_ids is None else [tuple(map(scheme.part, terms)) for terms in term_ids]
        for item, parts, terms in zip(items, given or (), term_ids or (), strict=False):
            if not all(parts):
                why = "has no letter or digit" if scheme.readable else f"is no part of a {scheme.noun}"
                raise Refused(422, f"item {item.item_id!r}: the term {terms[parts.index('')]!r} {why}.")

        def added(catalog: Catalog) -> Catalog:
            for item in items:
                check_item(item)
            if there := [item.item_id for item in items if item.item_id in catalog]:
                raise Refused(409, f"{len(there)} of the items are in the catalog already, such as {there[0]!r}.")
            tids = given if given is not None else self.grlm.shelf.new_identifiers(catalog, items)
            for item, tid in zip(items, tids, strict=True):
                check_terms(tid, item.item_id)
            return catalog.add(items, tids)

        return self._change(added)

    def remove(self, item_ids: Sequence[str]) -> Version:
        """Removes items. Raises `Refused`: 404 for an unknown id, 409 if none would be left."""

        def removed(catalog: Catalog) -> Catalog:
            if missing := [item_id for item_id in item_ids if item_id not in catalog]:
                raise Refused(404, f"{len(missing)} of the items are not in the catalog. {catalog.unknown(missing[0])}")
            if len(set(item_ids)) == len(catalog):
                raise Refused(409, "A catalog needs at least one item; none would be left.")
            return catalog.remove(item_ids)

        return self._change(removed)

    def reload(self, file: Path | None = None, sha256: str | None = None) -> Version:
        """Replaces the catalog by that of a file, or of ``options.catalog``. Raises `Refused`: 409 without such a folder, 422 for an
        invalid catalog; then the version before stays."""
        if file is None:
            if self.options.catalog is None:
                raise Refused(409, "The service was started without --catalog FOLDER; upload a catalog instead.")
            file = self.options.catalog / CATALOG_FILE
            if not file.is_file():
                raise Refused(409, f"The folder of --catalog holds no {CATALOG_FILE}.")

        def reloaded(_: Catalog) -> Catalog:
            limits = {"max_bytes": int(self.options.max_upload_mb * MB), "max_items": self.options.max_items}
            return read_catalog(file, **limits, sha256=sha256, codebook=self.grlm.catalog.codebook)

        try:
            return self._change(reloaded)
        finally:
            release()

    def rollback(self) -> Version:
        """Serves the catalog of the version before again, as a new version. Raises `Refused` (409) if none is kept or it is damaged."""

        def earlier(_: Catalog) -> Catalog:
            if len(self.state.kept) < 2:
                raise Refused(409, f"There is no version before {self.current.number} to go back to.")
            try:
                return self.state.read(self.state.kept[-2]).catalog
            except (ValueError, TypeError, KeyError) as error:
                raise Refused(409, f"Version {self.state.kept[-2]} cannot be read: {error}") from error

        return self._change(earlier, lambda: self.state.kept[:-2])

    def _change(self, make: Callable[[Catalog], Catalog], before: Callable[[], tuple[int, ...]] | None = None) -> Version:
        """Makes, checks, commits and serves the next version. `before`: the versions to keep, by default all."""
        committed: list[Version] = []

        def checked(catalog: Catalog) -> Catalog:
            if self.stopping:
                raise Refused(503, "The service is stopping.", "stopping")
            return make(catalog)

        def commit(index: SearchIndex) -> None:
            try:
                number = self._first + index.version
                committed.append(self.state.commit(number, index.catalog, index.trie, before() if before else None))
            except OSError as error:
                log.error("commit failed", extra={"facts": {"problem": str(error)}})
                raise Refused(507, "The change could not be written to disk, and is not made; the log says more.", "disk") from error
            self.current = committed[0]

        if not self._changes.acquire(blocking=False):
            raise Refused(429, f"{MAX_CHANGES} changes are waiting already; try again later.", "changes")
        try:
            self.grlm.shelf.change(checked, commit)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        except ImportError as error:
            raise Refused(422, f"This service cannot extract Term IDs; give term_ids. ({error})") from error
        finally:
            self._changes.release()
        (version,) = committed
        log.info("catalog changed", extra={"facts": {"version": version.number, "items": len(version.catalog)}})
        return version

    @contextmanager
    def upload_file(self) -> Iterator[Path]:
        """A temporary file for one upload, beside the versions. Raises `Refused` (429) for a second upload at the same time."""
        if not self._uploads.acquire(blocking=False):
            raise Refused(429, "Another upload is under way; try again later.", "uploads")
        try:
            with tempfile.NamedTemporaryFile(prefix=".upload-", suffix=".parquet", dir=self.state.folder) as file:
                yield Path(file.name)
        finally:
            self._uploads.release()
