"""Vectors → a faiss index that fits into memory, with measured recall.

The index is exact up to a million vectors and uses inverted lists (IVF) beyond. On clustered vectors IVF is built ten times faster than a
graph (HNSW), runs on a GPU, can be compressed, and keeps exact duplicates, frequent in catalogs, in one list. The graph is better for
vectors with little cluster structure (`benchmarks/identifiers/neighbors.py`). The search of an approximate index is widened until it
reaches the required recall, measured against brute force on a sample of the vectors.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grlm_hf.indexing.embedding import Shards, needs
from grlm_hf.progress import progress
from grlm_hf.settings import check_value

IndexKind = Literal["auto", "exact", "ivf", "hnsw"]
EXACT_UP_TO = 1_000_000  # vectors
RECALL_QUERIES = 1_000
_BLOCK = 1 << 24  # floats in memory at once
_PROGRESS_FROM = 10**9  # products of two vectors; fewer take too little time for a progress bar
_FAISS_ERROR = 1e-5  # above the float32 rounding error of an inner product of unit vectors
_LINKS = 32  # per vector in HNSW; twice as many in the lowest layer
_PER_LIST = 40  # training vectors per IVF list; faiss warns below 39
_WIDEST = {"ivf": 1 << 30, "ivf-sq8": 1 << 30, "hnsw": 4096}  # nprobe ends at the number of lists
_MOST_FETCHED = 1024  # results of an approximate search
_MOST_ON_GPU = 2048  # faiss's limit of results on a GPU

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Index:
    """A faiss index over unit vectors, by inner product.

    Attributes:
        kind: "exact", "ivf", "ivf-sq8" (IVF with one byte per number) or "hnsw".
        rows: int64 `[n]`, the rows of the indexed vectors, ascending: all that are not zero.
        raw, on_gpu: the faiss index, and its copy on a GPU, if there is one.
        effort: width of the search: lists (`nprobe`) or candidates (`efSearch`); 0 if exact.
        recall: share of the true nearest neighbours found, measured by `recall_of` on `queries` of the vectors; 1 if exact.
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
        """What a dataset card states about the index."""
        if self.kind == "exact":
            return {"index": self.kind, "recall": 1.0}
        effort = "ef_search" if self.kind == "hnsw" else "nprobe"
        return {"index": self.kind, effort: self.effort, "recall": round(self.recall, 5), "recall_queries": self.queries}

    def propose(self, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32, rows of the vectors int64), both `[n_queries, fetch]`, best first; row -1 after the last one found."""
        faiss = needs("faiss")
        params = None
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(self.effort, fetch))
        elif self.kind != "exact":
            params = faiss.SearchParametersIVF(nprobe=self.effort)
        index = self.raw if self.on_gpu is None or fetch > _MOST_ON_GPU else self.on_gpu
        scores, found = index.search(queries, fetch, params=params)
        return scores, np.where(found < 0, -1, self.rows[found])


def build_index(vectors: np.ndarray | Shards, k: int, kind: str = "auto", recall: float = 0.99, memory: int = 0) -> Index:
    """An index of the non-zero vectors, float32 `[n, d]` of length 1.

    Args:
        k: number of neighbours of a query; `recall` is recall@k.
        kind: as in `choose_index`.
        recall: an approximate index doubles the width of its search until the measured recall@k reaches this; else the log says so.
        memory: limit in bytes; 0: four fifths of `available_memory`.

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
    index = Index(kind, rows, raw, None if kind == "hnsw" else _on_gpu(raw))  # faiss has no HNSW on GPUs
    if kind == "exact":
        return index

    queries = np.sort(np.random.default_rng(1).choice(rows, min(len(rows), RECALL_QUERIES), replace=False))
    floor = _true_floor(vectors, rows, queries, k)
    widest = min(getattr(raw, "nlist", len(rows)), _WIDEST[kind])
    index = replace(index, effort=min(32 if kind == "hnsw" else 8, widest), queries=len(queries))
    while True:
        index = replace(index, recall=recall_of(index, vectors, queries, k, floor))
        if index.recall >= recall or index.effort >= widest:
            break
        index = replace(index, effort=min(2 * index.effort, widest))
    if index.recall < recall:
        log.warning("The %s index has a recall of at most %.4f; %.4f was requested.", kind, index.recall, recall)
    return index


def choose_index(n: int, dim: int, wanted: str, memory: int) -> str:
    """The kind of index for `n` vectors in `memory` bytes: "auto" is exact up to `EXACT_UP_TO` vectors and IVF beyond. If "auto" or "ivf"
    does not fit, it becomes IVF with one byte per number: candidates are scored again with the original vectors, so compression costs only
    recall, which is measured. Raises `ValueError` for an unknown kind, and when none fits."""
    check_value("index", wanted, IndexKind)
    first = wanted if wanted != "auto" else "exact" if n <= EXACT_UP_TO else "ivf"
    kinds = (first,) if wanted in ("exact", "hnsw") else (first, "ivf-sq8")
    for kind in kinds:
        if index_bytes(kind, n, dim) <= memory:
            if kind != first:
                log.warning("An index of kind %s does not fit into %.2f GB; using one byte per number instead.", first, memory / 1e9)
            return kind
    smaller = "choose index=auto, which compresses, " if wanted in ("exact", "hnsw") else ""
    raise ValueError(
        f"An index of {n:,} vectors of {dim} numbers needs {index_bytes(kinds[-1], n, dim) / 1e9:.3g} GB ({kinds[-1]}), and may take "
        f"{memory / 1e9:.3g} GB: {smaller}choose an embedder of fewer dimensions, or a machine with more memory."
    )


def index_bytes(kind: str, n: int, dim: int) -> int:
    """Upper bound on the bytes needed to build such an index, without vectors on disk. faiss doubles a full array and for a moment holds
    the old and the new one."""
    if kind == "exact":
        return 2 * n * dim * 4
    if kind == "hnsw":
        return n * (2 * dim * 4 + 2 * _LINKS * 4 * 2)
    trained = (_PER_LIST + 2) * _n_lists(n) * dim * 4
    return trained + 3 * n * (dim * (1 if kind == "ivf-sq8" else 4) + 8) // 2  # many small arrays, half full on average


def available_memory() -> int:
    """Bytes that this process can still allocate: Linux's available memory, within the limit of its control group (v2)."""
    if not Path("/proc/meminfo").is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(info["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(cached["inactive_file"]) + int(cached["active_file"]))
    except (OSError, ValueError, KeyError):  # no control group, or "max": no limit
        pass
    return max(0, free)


def search(index: Index, vectors: np.ndarray | Shards, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours int64, scores float32), both `[n_rows, k]`, for indexed rows; -1 and -inf where there are fewer than k.

    The scores of the index's candidates are recomputed in float64, so that they depend on the two vectors only: equal scores are equal
    numbers, and sort in catalog order. When candidates beyond the fetched ones may tie with the last score, more are fetched: as many as
    needed from an exact index, up to `_MOST_FETCHED` from an approximate one. Rows with equal vectors are searched once.
    """
    exact, n = index.kind == "exact", len(index.rows)
    neighbors = np.full((len(rows), k), -1, dtype=np.int64)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    kept = min(k, n - 1)
    if kept < 1 or not len(rows):
        return neighbors, scores
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(v, digest_size=16).digest() for some in _blocks(rows, vectors.shape[1]) for v in vectors[some])
    alike = np.array([seen.setdefault(digest, at) for at, digest in enumerate(digests)])  # the first of `rows` with an equal vector
    nearby = np.full((len(rows), kept + 1), -1, dtype=np.int64)  # includes the item itself
    cosines = np.full((len(rows), kept + 1), -np.inf, dtype=np.float32)
    most = n if exact else min(n, max(_MOST_FETCHED, 2 * k))
    fetch = min(most, k + 1 + (4 * k + 16 if index.kind == "ivf-sq8" else 8))
    pending = np.unique(alike)
    with progress(total=len(pending), desc="searching", unit="item", disable=len(pending) * n < _PROGRESS_FROM) as bar:
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
    out = nearby == rows[:, None]  # the item itself, at any rank
    out[~out.any(axis=1), -1] = True
    neighbors[:, :kept] = nearby[~out].reshape(-1, kept)
    scores[:, :kept] = np.where(neighbors[:, :kept] >= 0, cosines[~out].reshape(-1, kept).clip(-1, 1), -np.inf)
    return neighbors, scores


def recall_of(index: Index, vectors: np.ndarray | Shards, queries: np.ndarray, k: int, floor: np.ndarray | None = None) -> float:
    """recall@k of the index: of the `k` neighbours that `search` finds for each row of `queries`, the share that scores no lower than the
    k-th of a brute-force search (`floor`, if known). So any of several tied neighbours counts."""
    floor = _true_floor(vectors, index.rows, queries, k) if floor is None else floor
    _, scores = search(index, vectors, queries, k)
    kept = min(k, len(index.rows) - 1)
    return float((scores[:, :kept] >= floor[:, None]).mean())


def _true_floor(vectors: np.ndarray | Shards, rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """float32 `[n_queries]`: the k-th best score of each query among all others, by brute force, block by block."""
    faiss = needs("faiss")
    of_queries, kept = vectors[queries], min(k, len(rows) - 1)
    found = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for some in _blocks(rows, vectors.shape[1]):
        near, at = faiss.knn(of_queries, vectors[some], min(len(some), k + 9), metric=faiss.METRIC_INNER_PRODUCT)
        found, scores = np.hstack([found, some[at]]), np.hstack([scores, near])
        best = np.argsort(-scores, axis=1, kind="stable")[:, : k + 9]
        found, scores = np.take_along_axis(found, best, 1), np.take_along_axis(scores, best, 1)
    parts = _blocks(np.arange(len(queries)), found.shape[1] * of_queries.shape[1])
    exact = np.concatenate([_scores(of_queries[at], vectors, found[at]) for at in parts])
    exact[found == queries[:, None]] = -np.inf
    return -np.sort(-exact, axis=1)[:, kept - 1]


def _scores(queries: np.ndarray, vectors: np.ndarray | Shards, found: np.ndarray) -> np.ndarray:
    """float32 `[n_queries, fetch]`: inner products, summed in float64."""
    others = vectors[np.maximum(found, 0)].astype(np.float64)
    return np.einsum("rd,rfd->rf", queries.astype(np.float64), others).astype(np.float32)


def _blocks(rows: np.ndarray, floats: int) -> Iterator[np.ndarray]:
    """The rows in blocks; with `floats` numbers per row, a block has at most `_BLOCK` numbers."""
    step = max(1, _BLOCK // floats)
    return (rows[at : at + step] for at in range(0, max(1, len(rows)), step))


def _n_lists(n: int) -> int:
    """About 4 · sqrt(n), as faiss recommends, with at least `_PER_LIST` vectors each."""
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
    """A copy on the first GPU, if faiss supports one and it fits; else None. Tests without a GPU do not run it."""
    faiss = needs("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:  # too little memory
        log.warning("The index stays on the CPU: %s", error)
        return None
