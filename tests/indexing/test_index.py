"""Indexes: approximate ones find what their measured recall says, compressed ones fit, and what does not fit is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grlm_hf.data.items import Item
from grlm_hf.indexing import index as index_module
from grlm_hf.indexing.embedding import Shards
from grlm_hf.indexing.index import EXACT_UP_TO, Index, available_memory, build_index, choose_index, index_bytes, recall_of, search
from grlm_hf.indexing.neighbors import NeighborsConfig, find_neighbors, nearest


def clustered(n: int = 3_000, dim: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n // 20, dim))[rng.integers(0, n // 20, n)] + 0.9 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def true_sets(vectors: np.ndarray, k: int) -> list[set[int]]:
    scores = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    return [set(row) for row in np.argsort(-scores, axis=1)[:, :k].tolist()]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_recall_is_that_of_brute_force_and_a_bad_setting_has_less(kind: str) -> None:
    vectors = clustered()
    index = build_index(vectors, 5, kind)
    want = true_sets(vectors, 5)

    def share(indices: np.ndarray, rows: np.ndarray) -> float:
        return float(np.mean([len(want[row] & set(found)) / 5 for row, found in zip(rows, indices.tolist(), strict=True)]))

    assert index.recall >= 0.99
    assert index.facts["recall_queries"] == 1_000
    found, scores = nearest(vectors, 5, index=index)
    assert share(found, np.arange(3_000)) == pytest.approx(index.recall, abs=0.01)  # a sample's, and all rows'
    assert (found != np.arange(3_000)[:, None]).all()
    np.testing.assert_allclose(scores, np.einsum("nd,nkd->nk", vectors, vectors[found]), atol=1e-6)

    bad = replace(index, effort=1)
    some = np.arange(0, 3_000, 3)
    measured = recall_of(bad, vectors, some, 5)
    assert measured == pytest.approx(share(search(bad, vectors, some, 5)[0], some), abs=1e-9)
    assert measured < (0.9 if kind == "ivf" else 1)  # faiss's graph keeps as many candidates as are fetched


def test_a_goal_that_cannot_be_reached_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(index_module._WIDEST, "ivf", 8)
    index = build_index(clustered(), 5, "ivf")
    assert index.effort == 8
    assert index.recall < 0.99
    assert f"has a recall of at most {index.recall:.4f}; 0.9900 was requested" in caplog.text


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_duplicates_and_zero_vectors(kind: str) -> None:
    vectors = clustered(1_000)
    vectors[100:130] = vectors[7]
    vectors[[0, 500, 999]] = 0
    index = build_index(vectors, 4, kind)
    indices, scores = nearest(vectors, 4, index=index)
    assert not np.isin(indices, [0, 500, 999]).any()
    assert (indices[[0, 500, 999]] == -1).all()
    np.testing.assert_allclose(scores[[7, *range(100, 130)]], 1, atol=1e-6)
    assert indices[7].tolist() == [100, 101, 102, 103]
    assert indices[100].tolist() == [7, 101, 102, 103]


def test_items_all_alike_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.concatenate([np.tile(clustered(40)[:1], (500, 1)), clustered(40, seed=1)])
    fetched = 0

    def counting(self: Index, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal fetched
        fetched += len(queries) * fetch
        return propose(self, queries, fetch)

    propose = Index.propose
    monkeypatch.setattr(Index, "propose", counting)
    indices, scores = nearest(vectors, 3)
    assert indices[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert (indices[5:500] == [0, 1, 2]).all()
    np.testing.assert_allclose(scores[:500], 1, atol=1e-6)
    assert fetched < 10 * len(vectors)  # not the square


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_vectors(n: int, kind: str) -> None:
    vectors = np.concatenate([clustered(40)[:n], np.zeros((1, 24), np.float32)])
    indices, scores = nearest(vectors, 3, index=kind)
    assert indices.shape == scores.shape == (n + 1, 3)
    assert ((indices >= 0).sum(axis=1) == [*[min(3, max(0, n - 1))] * n, 0]).all()
    assert (np.isneginf(scores) == (indices < 0)).all()


def test_the_kind_follows_size_and_memory() -> None:
    gb = 10**9
    assert choose_index(EXACT_UP_TO, 64, "auto", 100 * gb) == "exact"
    assert choose_index(EXACT_UP_TO + 1, 64, "auto", 100 * gb) == "ivf"
    assert choose_index(1_000, 64, "hnsw", gb) == "hnsw"
    sizes = {kind: index_bytes(kind, 10**7, 1024) for kind in ("exact", "ivf", "ivf-sq8")}
    assert sizes["ivf-sq8"] < 20 * gb < sizes["ivf"] < sizes["exact"]
    assert choose_index(10**7, 1024, "auto", 20 * gb) == choose_index(10**7, 1024, "ivf", 20 * gb) == "ivf-sq8"
    with pytest.raises(ValueError, match=r"10,000,000 vectors of 1024 numbers needs 81\.9 GB \(exact\), and may take 20 GB: choose"):
        choose_index(10**7, 1024, "exact", 20 * gb)
    with pytest.raises(ValueError, match=r"GB \(ivf-sq8\), and may take 0\.1 GB: choose an embedder of fewer dimensions"):
        choose_index(10**7, 1024, "auto", gb // 10)
    with pytest.raises(ValueError, match="expected one of"):
        choose_index(10, 4, "lsh", gb)


def test_vectors_on_disk_and_a_compressed_index_find_the_same() -> None:
    vectors = clustered(3_000, 64)
    memory = index_bytes("ivf-sq8", 3_000, 64) * 5 // 4
    assert memory < index_bytes("exact", 3_000, 64)
    shards = Shards([vectors[:1_400], vectors[1_400:2_800], vectors[2_800:]])
    index = build_index(shards, 5, memory=memory)
    assert index.kind == "ivf-sq8"
    assert index.recall >= 0.99
    indices, scores = nearest(shards, 5, index=index)
    want_indices, want_scores = nearest(vectors, 5)
    assert (indices == want_indices).mean() > 0.98
    same = indices == want_indices
    np.testing.assert_array_equal(scores[same], want_scores[same])  # scored from the vectors, not from their bytes


def test_a_limit_on_memory_is_one_of_the_stage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = [Item(str(n), " ".join(f"word{w}" for w in rng.integers(0, 300, 8))) for n in range(2_000)]
    found = find_neighbors(items, config=NeighborsConfig(memory_gb=3.8e-3, shard_size=600), work=tmp_path)
    assert found.facts["index"] == "ivf-sq8"
    assert found.facts["recall"] >= 0.99
    with pytest.raises(ValueError, match=r"2,000 vectors of 256 numbers needs 0\.00\d+ GB \(ivf-sq8\), and may take 1e-06 GB"):
        find_neighbors(items, config=NeighborsConfig(memory_gb=1e-6), work=tmp_path)


def test_available_memory_is_no_more_than_there_is() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
