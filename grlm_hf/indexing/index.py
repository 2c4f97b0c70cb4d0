"""Vectors → a faiss index that fits into memory, and a measure of how well it finds.

Exact up to a million vectors. Beyond that inverted lists (IVF): on clustered vectors they are built ten times faster than a graph (HNSW),
run on a GPU, can be compressed, and hold exact duplicates, of which catalogs are full, in one list. The graph is the better one where
vectors hardly cluster (`benchmarks/identifiers/neighbors.py`). An approximate index is searched ever more widely until it finds what a
brute-force search finds, on a sample of the vectors themselves.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grlm_hf.indexing.embedding import Shards, needs
from grlm_hf.settings import check_value

IndexKind = Literal["auto", "exact", "ivf", "hnsw"]
EXACT_UP_TO = 1_000_000  # vectors
RECALL_QUERIES = 1_000
_BLOCK = 1 << 24  # floats held at once
_PROGRESS_FROM = 10**9  # products of two vectors; below that, a search is over before a bar is read
_FAISS_ERROR = 1e-5  # above the float32 rounding error of an inner product of unit vectors
_LINKS = 32  # of a vector in HNSW; twice as many in its lowest layer
_PER_LIST = 40  # vectors that a list of IVF is trained on; faiss warns below 39
_WIDEST = {"ivf": 1 << 30, "ivf-sq8": 1 << 30, "hnsw": 4096}  # nprobe ends at the number of lists
_MOST_FETCHED = 1024  # by an approximate search
_MOST_ON_GPU = 2048  # that faiss fetches there

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Index:
    """A faiss index over unit vectors, by inner product.

    Attributes:
        kind: "exact", "ivf", "ivf-sq8" (IVF, one byte a number) or "hnsw".
        rows: int64 `[n]`, the rows of the vectors it holds, rising: those that are not zero.
        raw: the faiss index.
        on_gpu: its copy on a GPU, if there is one.
        effort: how widely it searches: lists (`nprobe`) or candidates (`efSearch`); 0 where it is exact.
        recall: share of the true nearest neighbours found, measured by `recall_of` on `queries` of the vectors; 1 where it is exact.
    """

    kind: str
    rows: np.ndarray
    raw: Any
    on_gpu: Any = None
    effort: int = 0
    recall: float = 1.0
    queries: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What a dataset card says of it."""
        if self.kind == "exact":
            return {"index": self.kind, "recall": 1.0}
        effort = "ef_search" if self.kind == "hnsw" else "nprobe"
        return {"index": self.kind, effort: self.effort, "recall": round(self.recall, 5), "recall_queries": self.queries}

    def propose(self, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32, rows of the vectors int64), both `[n_queries, fetch]`, best first; row -1 where no more are found."""
        faiss = needs("faiss")
        params = None
        if self.kind != "exact":
            how = faiss.SearchParametersHNSW(efSearch=max(self.effort, fetch)) if self.kind == "hnsw" else None
            params = how or faiss.SearchParametersIVF(nprobe=self.effort)
        index = self.raw if self.on_gpu is None or fetch > _MOST_ON_GPU else self.on_gpu
        scores, found = index.search(queries, fetch, params=params)
        return scores, np.where(found < 0, -1, self.rows[found])


def build_index(vectors: np.ndarray | Shards, k: int, kind: str = "auto", recall: float = 0.99, memory: int = 0) -> Index:
    """An index of the vectors that are not zero, float32 `[n, d]` of length 1.

    Args:
        k: neighbours that will be asked for; `recall` is of so many.
        kind: as in `choose_index`.
        recall: an approximate index searches twice as widely until its measured recall@k is this, or until it cannot; the log says so.
        memory: bytes it may take; 0: four fifths of `available_memory`.

    Deterministic on one thread. Raises `ValueError` as `choose_index` does.
    """
    dim = vectors.shape[1]
    rows = np.concatenate([at[vectors[at].any(axis=1)] for at in _blocks(np.arange(len(vectors)), dim)])
    kind = choose_index(len(rows), dim, kind, memory or available_memory() * 4 // 5) if len(rows) > 1 else "exact"
    raw = _empty(kind, len(rows), dim)
    if not raw.is_trained:
        sample = np.random.default_rng(0).choice(rows, min(len(rows), _PER_LIST * raw.nlist), replace=False)
        raw.train(vectors[np.sort(sample)])
    for some in _blocks(rows, dim):
        raw.add(vectors[some])
    index = Index(kind, rows, raw, None if kind == "hnsw" else _on_gpu(raw))  # faiss has no HNSW there
    if kind == "exact":
        return index

    queries = np.sort(np.random.default_rng(1).choice(rows, min(len(rows), RECALL_QUERIES), replace=False))
    floor = _true_floor(vectors, rows, queries, k)
    widest = min(getattr(raw, "nlist", len(rows)), _WIDEST[kind])
    index = replace(index, effort=min(32 if kind == "hnsw" else 8, widest), queries=len(queries))
    while True:
        index = replace(index, recall=_recall(index, vectors, queries, floor, k))
        if index.recall >= recall or index.effort >= widest:
            break
        index = replace(index, effort=min(2 * index.effort, widest))
    if index.recall < recall:
        log.warning("The %s index finds %.4f of the true neighbours at most; asked for %.4f.", kind, index.recall, recall)
    return index


def choose_index(n: int, dim: int, wanted: str, memory: int) -> str:
    """The kind of index for `n` vectors in `memory` bytes.

    "auto" is exact up to `EXACT_UP_TO` vectors and IVF beyond. Where "auto" or "ivf" does not fit, IVF with one byte a number takes its
    place: its candidates are scored anew from the vectors themselves, so that it costs recall alone, which is measured.

    Raises `ValueError` for an unknown kind, or saying how much memory is needed, how much there is, and what to do.
    """
    check_value("index", wanted, IndexKind)
    first = wanted if wanted != "auto" else "exact" if n <= EXACT_UP_TO else "ivf"
    kinds = (first,) if wanted in ("exact", "hnsw") else (first, "ivf-sq8")
    for kind in kinds:
        if index_bytes(kind, n, dim) <= memory:
            if kind != first:
                log.warning("An index of kind %s does not fit into %.2f GB; one byte a number instead.", first, memory / 1e9)
            return kind
    smaller = "choose index=auto, which compresses, " if wanted in ("exact", "hnsw") else ""
    raise ValueError(
        f"An index of {n:,} vectors of {dim} numbers needs {index_bytes(kinds[-1], n, dim) / 1e9:.3g} GB ({kinds[-1]}), and may take "
        f"{memory / 1e9:.3g} GB: {smaller}take an embedder of fewer dimensions, or a machine with more memory."
    )


def index_bytes(kind: str, n: int, dim: int) -> int:
    """Bytes that building such an index takes at most, vectors on disk not counted. faiss doubles an array that is full, so that the old
    and the new one are held for a moment."""
    if kind == "exact":
        return 2 * n * dim * 4
    if kind == "hnsw":
        return n * (2 * dim * 4 + 2 * _LINKS * 4 * 2)
    trained = (_PER_LIST + 2) * _n_lists(n) * dim * 4
    return trained + 3 * n * (dim * (1 if kind == "ivf-sq8" else 4) + 8) // 2  # many small arrays: half of them half full


def available_memory() -> int:
    """Bytes that this process can still take: what Linux says is available, within its control group's limit (v2)."""
    import os

    if not Path("/proc/meminfo").is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(info["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(cached["inactive_file"]) + int(cached["active_file"]))
    except (OSError, ValueError, KeyError):  # no such group, or "max": no limit
        pass
    return max(0, free)


def search(index: Index, vectors: np.ndarray | Shards, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours int64, scores float32), both `[n_rows, k]`, of rows that the index holds: -1 and -inf where there are fewer.

    The index proposes; the scores are recomputed in float64, where they depend on the two vectors alone, so that equal ones are equal
    and fall in catalog order. Rows whose last score may be tied beyond what was fetched fetch more: an exact index as many as it takes,
    an approximate one `_MOST_FETCHED`. Rows with the same vector are searched for once, since there may be many of them.
    """
    from tqdm import tqdm

    exact, n = index.kind == "exact", len(index.rows)
    neighbors = np.full((len(rows), k), -1, dtype=np.int64)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    kept = min(k, n - 1)
    if kept < 1 or not len(rows):
        return neighbors, scores
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(v, digest_size=16).digest() for some in _blocks(rows, vectors.shape[1]) for v in vectors[some])
    alike = np.array([seen.setdefault(digest, at) for at, digest in enumerate(digests)])  # the first of `rows` with the same vector
    nearby = np.full((len(rows), kept + 1), -1, dtype=np.int64)  # the item itself among them
    cosines = np.full((len(rows), kept + 1), -np.inf, dtype=np.float32)
    most = n if exact else min(n, max(_MOST_FETCHED, 2 * k))
    fetch = min(most, k + 1 + (4 * k + 16 if index.kind == "ivf-sq8" else 8))
    pending = np.unique(alike)
    with tqdm(total=len(pending), desc="searching", unit="item", disable=len(pending) * n < _PROGRESS_FROM) as bar:
        while len(pending):
            unsettled = []
            for some in _blocks(pending, fetch * vectors.shape[1]):
                queries = vectors[rows[some]]
                proposed, found = index.propose(queries, fetch)
                again = _scores(queries, vectors, found)
                again[found < 0] = -np.inf
                order = np.lexsort((found, -again))[:, : kept + 1]
                best, chosen = np.take_along_axis(again, order, 1), np.take_along_axis(found, order, 1)
                settled = (proposed[:, -1] < best[:, -1] - _FAISS_ERROR) | (found[:, -1] < 0) | (fetch == most)
                cosines[some[settled]], nearby[some[settled]] = best[settled], chosen[settled]
                unsettled.append(some[~settled])
                bar.update(int(settled.sum()))
            pending, fetch = np.concatenate(unsettled), min(most, 2 * fetch)
    nearby, cosines = nearby[alike], cosines[alike]
    out = nearby == rows[:, None]  # the item itself, wherever it stands
    out[~out.any(axis=1), -1] = True
    neighbors[:, :kept] = nearby[~out].reshape(-1, kept)
    scores[:, :kept] = np.where(neighbors[:, :kept] >= 0, cosines[~out].reshape(-1, kept).clip(-1, 1), -np.inf)
    return neighbors, scores


def recall_of(index: Index, vectors: np.ndarray | Shards, queries: np.ndarray, k: int) -> float:
    """recall@k of the index as it is: of the `k` that `search` finds for each row of `queries`, the share that is as near as the k-th of
    a brute-force search (so that any of several equal ones counts)."""
    return _recall(index, vectors, queries, _true_floor(vectors, index.rows, queries, k), k)


def _recall(index: Index, vectors: np.ndarray | Shards, queries: np.ndarray, floor: np.ndarray, k: int) -> float:
    _, scores = search(index, vectors, queries, k)
    kept = min(k, len(index.rows) - 1)
    return float((scores[:, :kept] >= floor[:, None]).mean())


def _true_floor(vectors: np.ndarray | Shards, rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """float32 `[n_queries]`: the k-th best score of each query among all others, by brute force, a block of vectors at a time."""
    faiss = needs("faiss")
    asked, kept = vectors[queries], min(k, len(rows) - 1)
    found = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for some in _blocks(rows, vectors.shape[1]):
        near, at = faiss.knn(asked, vectors[some], min(len(some), k + 9), metric=faiss.METRIC_INNER_PRODUCT)
        found, scores = np.hstack([found, some[at]]), np.hstack([scores, near])
        best = np.argsort(-scores, axis=1, kind="stable")[:, : k + 9]
        found, scores = np.take_along_axis(found, best, 1), np.take_along_axis(scores, best, 1)
    parts = _blocks(np.arange(len(queries)), found.shape[1] * asked.shape[1])
    exact = np.concatenate([_scores(asked[at], vectors, found[at]) for at in parts])
    exact[found == queries[:, None]] = -np.inf
    return -np.sort(-exact, axis=1)[:, kept - 1]


def _scores(queries: np.ndarray, vectors: np.ndarray | Shards, found: np.ndarray) -> np.ndarray:
    """float32 `[n_queries, fetch]`: inner products, summed in float64."""
    others = vectors[np.maximum(found, 0)].astype(np.float64)
    return np.einsum("rd,rfd->rf", queries.astype(np.float64), others).astype(np.float32)


def _blocks(rows: np.ndarray, floats: int) -> Iterator[np.ndarray]:
    """The rows, so many at a time that `floats` a row stay within `_BLOCK`."""
    step = max(1, _BLOCK // floats)
    return (rows[at : at + step] for at in range(0, max(1, len(rows)), step))


def _n_lists(n: int) -> int:
    """About 4 · sqrt(n), faiss's advice, of at least `_PER_LIST` vectors each."""
    return max(1, min(int(4 * n**0.5), n // _PER_LIST))


def _empty(kind: str, n: int, dim: int) -> Any:
    faiss = needs("faiss")
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "exact":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _LINKS, product)
        index.hnsw.efConstruction = 80
        return index
    if kind == "ivf":
        return faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, _n_lists(n), product)
    return faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, _n_lists(n), faiss.ScalarQuantizer.QT_8bit, product)


def _on_gpu(index: Any) -> Any:
    """A copy on the first GPU, where faiss was built for one and it fits; else None. (Not run by the tests: they have no GPU.)"""
    faiss = needs("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:  # its memory is too small
        log.warning("The index stays on the CPU: %s", error)
        return None
