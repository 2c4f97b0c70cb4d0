"""Requests that wait together are searched together: one thread owns the model, and takes what shares a batch from a bounded queue."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.modeling.results import Recommendations

log = logging.getLogger("grlm.serve")


class Refused(Exception):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, status: int, detail: str, reason: str = ""):
        super().__init__(detail)
        self.status, self.detail, self.reason = status, detail, reason


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        histories: item ids, oldest first, one list a user.
        options: of `GRLMForRecommendation.recommend`, `k` included, the deadline not.
        deadline: when its time is over, in seconds of ``time.monotonic``; ``None``: never.
        answer: one `Recommendations` a history; ``None`` where the deadline came before the search began. Running once that has begun;
            cancelled, it will not begin.
    """

    histories: Sequence[Sequence[str]]
    options: dict[str, Any]
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    answer: Future[list[Recommendations] | None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.key = json.dumps(self.options, sort_keys=True)

    def joins(self, head: Job) -> bool:
        """Whether one search can serve both: the same options and, where the search is cut off in time, about the same time left."""
        if self.key != head.key:
            return False
        if not self.options.get("exact") or self.deadline == head.deadline:
            return True
        if self.deadline is None or head.deadline is None:
            return False
        return abs(self.deadline - head.deadline) <= (head.deadline - time.monotonic()) / 4


class Batcher:
    """The queue and the thread that empties it.

    Args:
        grlm: whose catalog may change meanwhile: each search is of one version.
        max_batch: histories in a search, unless one request alone has more.
        max_wait: seconds that the first of a batch waits for others.
        capacity: jobs that may wait.
    """

    def __init__(self, grlm: GRLMForRecommendation, max_batch: int = 32, max_wait: float = 0.002, capacity: int = 256):
        self.grlm, self.max_batch, self.max_wait, self.capacity = grlm, max_batch, max_wait, capacity
        self.searched: Any = lambda histories, forwards: None
        """Called after each search with its number of histories and of calls of the model."""
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._open = True
        self.busy = False
        """A search is under way."""
        self._thread = threading.Thread(target=self._work, name="grlm-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue. Raises `Refused` where that is full (429) or closed (503)."""
        with self._changed:
            if not self._open:
                raise Refused(503, "The service is stopping.", "stopping")
            if len(self._waiting) >= self.capacity:
                raise Refused(429, f"{self.capacity} requests are waiting already; try again later.", "queue")
            self._waiting.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> bool:
        """Takes a job out of the queue; False where its search has begun already."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        return job.answer.cancel()

    def close(self, timeout: float) -> None:
        """Takes no more; waits for what is there, and refuses what is left after `timeout` seconds."""
        until = time.monotonic() + timeout
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for job in left:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(Refused(503, "The service is stopping.", "stopping"))
        self._thread.join(max(0.0, until - time.monotonic()))

    # --- the thread ----------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._take():
            self.busy = True
            self._search([job for job in batch if job.answer.set_running_or_notify_cancel()])
            self.busy = False
            del batch  # or the last answers stay in memory while nothing comes

    def _take(self) -> list[Job]:
        """The first job, and those that can share its search, in the order they came; nothing once closed and empty."""
        with self._changed:
            while True:
                if not self._waiting:
                    if not self._open:
                        return []
                    self._changed.wait()
                    continue
                head = self._waiting[0]
                batch, size = [head], len(head.histories)
                for job in list(self._waiting)[1:]:
                    if size + len(job.histories) <= self.max_batch and job.joins(head):
                        batch.append(job)
                        size += len(job.histories)
                left = head.arrived + self.max_wait - time.monotonic()
                if left > 0 and size < self.max_batch and self._open:
                    self._changed.wait(left)
                    continue  # what waits may have changed
                for job in batch:
                    self._waiting.remove(job)
                return batch

    def _search(self, jobs: list[Job]) -> None:
        """Answers jobs that share a search. Whatever is wrong with one of them, the others get their answers."""
        ready = []
        catalog = self.grlm.catalog
        for job in jobs:
            if job.deadline is not None and time.monotonic() >= job.deadline:
                job.answer.set_result(None)
                continue
            try:
                self._check(job, catalog)
                ready.append(job)
            except Refused as error:
                job.answer.set_exception(error)
        if not ready:
            return
        options = dict(ready[0].options)
        deadlines = [job.deadline for job in ready if job.deadline is not None]
        if options.get("exact") and deadlines:
            options["deadline_ms"] = max(0.0, min(deadlines) - time.monotonic()) * 1000
        try:
            found = self.grlm.recommend([h for job in ready for h in job.histories], batch_size=self.max_batch, **options)
        except Exception as error:
            if len(ready) > 1:  # whose fault it is shows when each goes alone
                for job in ready:
                    self._search([job])
            elif isinstance(error, ValueError):
                ready[0].answer.set_exception(Refused(422, str(error)))
            else:
                log.error("search failed", extra={"facts": failure(error)})
                ready[0].answer.set_exception(Refused(500, "The search failed; the log says more.", "failed"))
            return
        self.searched(len(found), max(f.forwards for f in found))
        first = 0
        for job in ready:
            job.answer.set_result(found[first : first + len(job.histories)])
            first += len(job.histories)

    @staticmethod
    def _check(job: Job, catalog: Catalog) -> None:
        """What would spoil the search for all, found before it begins."""
        for name, ids in (
            ("history", [i for h in job.histories for i in h]),
            *((n, job.options.get(n) or ()) for n in ("allow", "exclude")),
        ):
            for item_id in ids:
                if item_id not in catalog:
                    raise Refused(422, f"{name}: item {item_id!r} is not in the catalog of {len(catalog)} items.")


def failure(error: BaseException) -> dict[str, Any]:
    """An unexpected error for the log, without its message, which may quote what a request held."""
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return {"error": type(error).__name__, "where": where[-6:]}
