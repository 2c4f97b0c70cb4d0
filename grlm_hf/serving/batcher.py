"""Batches of waiting requests: one thread owns the model and takes requests with equal options from a bounded queue."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.decoding.rules import Rules, SearchOptions
from grlm_hf.engines.protocol import BrokenModel, Cancelled, cancelled
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.modeling.results import Recommendations

log = logging.getLogger("grlm.serve")


class Refused(Exception):
    """A request that is refused, with its HTTP status. `reason` is its label in the metrics; empty: it is not counted."""

    def __init__(self, status: int, detail: str, reason: str = ""):
        super().__init__(detail)
        self.status, self.detail, self.reason = status, detail, reason


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        histories: item ids, oldest first, one list a user.
        k: number of items wanted.
        search: without `deadline_ms`, which `deadline` replaces.
        deadline: seconds of ``time.monotonic``; ``None``: no deadline.
        gone: the client has left, so nobody reads the answer.
        answer: one `Recommendations` a history; ``None`` where the deadline came before the search began. Running once that has begun;
            cancelled, it will not begin.
    """

    histories: Sequence[Sequence[str]]
    k: int = 10
    rules: Rules = field(default_factory=Rules)
    search: SearchOptions = field(default_factory=SearchOptions)
    deadline: float | None = None
    gone: bool = False
    arrived: float = field(default_factory=time.monotonic)
    answer: Future[list[Recommendations] | None] = field(default_factory=Future)

    @property
    def over(self) -> bool:
        """Nobody waits for the answer any more. An exact search answers at its deadline with what it has found so far."""
        late = self.deadline is not None and time.monotonic() >= self.deadline and not self.search.exact
        return self.gone or late

    def joins(self, head: Job) -> bool:
        """Whether one search can serve both: equal options and, for an exact search, about the same time left."""
        if (self.k, self.rules, self.search) != (head.k, head.rules, head.search):
            return False
        if not self.search.exact or self.deadline == head.deadline:
            return True
        if self.deadline is None or head.deadline is None:
            return False
        return abs(self.deadline - head.deadline) <= (head.deadline - time.monotonic()) / 4


class Batcher:
    """The queue and the thread that empties it.

    Args:
        grlm: the recommender. Its catalog may change meanwhile: each search reads one version.
        max_batch: histories in a search, unless a single request has more.
        max_wait: seconds that the first job of a batch waits for others.
        capacity: maximum number of waiting jobs.
    """

    def __init__(self, grlm: GRLMForRecommendation, max_batch: int = 32, max_wait: float = 0.002, capacity: int = 256):
        self.grlm, self.max_batch, self.max_wait, self.capacity = grlm, max_batch, max_wait, capacity
        self.searched: Any = lambda histories, forwards: None
        """Called after each search with its numbers of histories and of forward passes."""
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
        """Appends a job to the queue. Raises `Refused` if the queue is full (429) or closed (503)."""
        with self._changed:
            if not self._open:
                raise Refused(503, "The service is stopping.", "stopping")
            if len(self._waiting) >= self.capacity:
                raise Refused(429, f"{self.capacity} requests are waiting already; try again later.", "queue")
            self._waiting.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> bool:
        """Removes a job from the queue; False if its search has begun already."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        return job.answer.cancel()

    def close(self, timeout: float) -> None:
        """Refuses new jobs, waits for those in the queue, and refuses those that are left after `timeout` seconds."""
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
            del batch  # or the last answers stay in memory until the next request

    def _take(self) -> list[Job]:
        """The first job and those that can share its search, in order of arrival; [] once closed and empty."""
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
                    continue  # the queue may have changed
                for job in batch:
                    self._waiting.remove(job)
                return batch

    def _search(self, jobs: list[Job]) -> None:
        """Answers jobs that share a search. A mistake in one of them does not affect the others."""
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
        head = ready[0]
        search, deadlines = head.search, [job.deadline for job in ready if job.deadline is not None]
        if search.exact and deadlines:
            search = replace(search, deadline_ms=max(0.0, min(deadlines) - time.monotonic()) * 1000)
        cancelled.set(lambda: all(job.over for job in ready))  # asked between two forwards
        try:
            histories = [h for job in ready for h in job.histories]
            found = self.grlm.recommend(histories, head.k, rules=head.rules, search=search, batch_size=self.max_batch)
        except Cancelled:
            for job in ready:
                job.answer.set_result(None)
            return
        except Exception as error:
            if len(ready) > 1:  # one by one, to find the job that caused it
                for job in ready:
                    self._search([job])
            elif isinstance(error, ValueError) and not isinstance(error, BrokenModel):
                head.answer.set_exception(Refused(422, str(error)))
            else:
                log.error("search failed", extra={"facts": failure(error)})
                head.answer.set_exception(Refused(500, "The search failed; the log says more.", "failed"))
            return
        self.searched(len(found), max(f.forwards for f in found))
        first = 0
        for job in ready:
            job.answer.set_result(found[first : first + len(job.histories)])
            first += len(job.histories)

    @staticmethod
    def _check(job: Job, catalog: Catalog) -> None:
        """Raises `Refused` for unknown items, which would fail the search of the whole batch."""
        if job.rules.unknown_items == "skip":
            return
        for name, ids in (("history", [i for h in job.histories for i in h]), ("allow", job.rules.allow), ("exclude", job.rules.exclude)):
            for item_id in ids or ():
                if item_id not in catalog:
                    raise Refused(422, f"{name}: {catalog.unknown(item_id)}")


def failure(error: BaseException) -> dict[str, Any]:
    """An unexpected error for the log, without its message, which may quote a request."""
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return {"error": type(error).__name__, "where": where[-6:]}
