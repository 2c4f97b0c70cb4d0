"""Nearest items: faiss against brute force, ties, duplicates, empty texts; the embedder that needs no download."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.catalog import Item
from grlm_hf.identifiers.neighbors import Neighbors, embed, find_neighbors, item_text, nearest, tfidf_embedder

TITLES = (
    "Keratin Shampoo Lavender",
    "Keratin Shampoo Mint",
    "Keratin Conditioner Mint",
    "Red Nail Polish",
    "Pink Nail Polish Glitter",
    "Red Nail Polish Remover",
    "Copper Pipe Fitting",
    "Copper Pipe Nipple",
)


def catalog(titles: Sequence[str] = TITLES) -> list[Item]:
    return [Item(f"i{n}", title, categories=("Shop",)) for n, title in enumerate(titles)]


def brute_force(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs by a loop; the row itself and zero vectors left out; score falling, then position rising."""
    indices, scores = np.full((len(vectors), k), -1, np.int32), np.full((len(vectors), k), -np.inf, np.float32)
    for row, query in enumerate(vectors):
        others = [at for at in range(len(vectors)) if at != row and vectors[at].any() and query.any()]
        pairs = sorted((-np.float32(np.dot(query.astype(float), vectors[at].astype(float))), at) for at in others)[:k]
        for column, (score, at) in enumerate(pairs):
            indices[row, column], scores[row, column] = at, -score
    return indices, scores


# Entries of ±1/2 in four dimensions: unit vectors whose products are exact, with many ties and duplicates; and zero vectors.
sign_vectors = st.lists(st.one_of(st.just((0.0,) * 4), st.tuples(*[st.sampled_from((0.5, -0.5))] * 4)), min_size=1, max_size=40).map(
    lambda rows: np.array(rows, dtype=np.float32)
)


@given(sign_vectors, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_nearest_is_brute_force_with_ties_duplicates_and_zero_vectors(vectors: np.ndarray, k: int) -> None:
    indices, scores = nearest(vectors, k)
    want_indices, want_scores = brute_force(vectors, k)
    np.testing.assert_array_equal(indices, want_indices)
    np.testing.assert_array_equal(scores, want_scores)
    assert indices.dtype == np.int32
    assert scores.dtype == np.float32


def test_nearest_is_brute_force_on_random_vectors() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[120:140] = vectors[:20]  # duplicates
    indices, scores = nearest(vectors, 7)
    want_indices, want_scores = brute_force(vectors, 7)
    np.testing.assert_array_equal(indices, want_indices)
    np.testing.assert_allclose(scores, want_scores, atol=1e-6)
    assert indices[3, 0] == 123
    assert indices[123, 0] == 3


def test_more_duplicates_than_are_fetched_at_once_fall_in_catalog_order() -> None:
    vectors = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (60, 1))
    indices, _ = nearest(vectors, 3)
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[2].tolist() == [0, 1, 3]
    assert (indices[10:] == [0, 1, 2]).all()


class BackwardIndex:
    """faiss promises no order among equal scores: this index gives the last first."""

    def __init__(self, d: int) -> None:
        self.points = np.zeros((0, d), np.float32)

    def add(self, points: np.ndarray) -> None:
        self.points = points

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self.points.T
        order = np.lexsort((np.broadcast_to(-np.arange(scores.shape[1]), scores.shape), -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), order


def test_equal_scores_fall_in_catalog_order_whatever_the_index_gives_first(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.repeat(np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -0.5]], dtype=np.float32), 50, axis=0)[::-1].copy()
    monkeypatch.setattr("grlm_hf.identifiers.neighbors._needs", lambda _: SimpleNamespace(IndexFlatIP=BackwardIndex))
    for k in (1, 4, 60):
        np.testing.assert_array_equal(nearest(vectors, k)[0], brute_force(vectors, k)[0])


def test_find_neighbors_groups_similar_titles() -> None:
    found = find_neighbors(catalog(), k=2)
    assert found.item_ids == tuple(f"i{n}" for n in range(8))
    assert found.of(0)[0] == 1
    assert found.of(6)[0] == 7
    assert set(found.of(3)) == {4, 5}
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_exact_duplicates_are_neighbours_of_each_other_and_never_of_themselves() -> None:
    found = find_neighbors(catalog((*TITLES, TITLES[0], TITLES[0])), k=3)
    assert [found.of(row)[:2] for row in (0, 8, 9)] == [[8, 9], [0, 9], [0, 8]]
    np.testing.assert_allclose(found.scores[[0, 8, 9], 0], 1, atol=1e-6)
    assert all(row not in found.of(row) for row in range(10))


@given(st.permutations(range(len(TITLES))))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_items_plays_no_part(order: list[int]) -> None:
    items = catalog()
    straight, shuffled = find_neighbors(items, k=7), find_neighbors([items[at] for at in order], k=7)
    for row, at in enumerate(order):
        want = {straight.item_ids[i]: score for i, score in zip(straight.indices[at], straight.scores[at], strict=True)}
        found = {shuffled.item_ids[i]: score for i, score in zip(shuffled.indices[row], shuffled.scores[row], strict=True)}
        assert found == want


def test_an_empty_text_has_no_neighbours_and_is_nobodys() -> None:
    items = [Item("a", "red soap"), Item("b", "  "), Item("c", "red soap bar"), Item("d", "bar soap")]
    found = find_neighbors(items, k=3)
    assert found.of(1) == []
    assert (found.indices[1] == -1).all()
    assert np.isneginf(found.scores[1]).all()
    assert all(1 not in found.of(row) for row in range(4))
    assert len(found.of(0)) == 2
    assert found.indices[0, 2] == -1


def test_min_score_leaves_out_what_is_less_similar() -> None:
    everything, close = find_neighbors(catalog(), k=7), find_neighbors(catalog(), k=7, min_score=0.3)
    np.testing.assert_array_equal(close.indices >= 0, everything.scores >= 0.3)
    assert 0 < (close.indices >= 0).sum() < close.indices.size


def test_one_item_has_no_neighbours() -> None:
    assert find_neighbors(catalog(TITLES[:1]), k=2).indices.tolist() == [[-1, -1]]


def test_the_default_embedders_cosines_are_those_of_tfidf() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [item_text(item) for item in catalog()]
    vectors = embed(catalog())
    want = text.TfidfVectorizer(token_pattern=r"[^\W_]+", min_df=2).fit_transform(texts).toarray()
    np.testing.assert_allclose(vectors @ vectors.T, want @ want.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_projection_estimates_the_cosines_and_is_seeded() -> None:
    rng = np.random.default_rng(1)
    items = [Item(str(n), " ".join(f"word{w}" for w in rng.integers(0, 400, 12))) for n in range(150)]
    texts = [item_text(item) for item in items]
    exact, projected = embed(items, tfidf_embedder(texts, dim=10_000)), embed(items, tfidf_embedder(texts, dim=256))
    assert projected.shape == (150, 256)
    assert exact.shape[1] > 256
    error = (projected @ projected.T - exact @ exact.T)[np.triu_indices(150, 1)]
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.09
    np.testing.assert_array_equal(projected, embed(items, tfidf_embedder(texts[::-1], dim=256)))
    assert not np.array_equal(projected, embed(items, tfidf_embedder(texts, dim=256, seed=1)))


def test_a_saved_embedder_is_named_by_its_folder(tmp_path) -> None:
    items = catalog()
    tfidf_embedder([item_text(item) for item in items]).save(str(tmp_path / "embedder"))
    np.testing.assert_allclose(embed(items, str(tmp_path / "embedder")), embed(items), atol=1e-6)


class Broken:
    """An embedder that fails on one text."""

    def encode(self, texts: list[str], **_: object) -> np.ndarray:
        return np.array([[np.nan if "Mint" in text else 1.0, 2.0] for text in texts], dtype=np.float32)


def test_embeddings_that_are_not_finite_name_their_items() -> None:
    with pytest.raises(ValueError, match=r"2 of 8 embeddings.*'i1', 'i2'"):
        find_neighbors(catalog(), embedder=Broken())


@pytest.mark.parametrize(
    ("items", "k", "message"),
    [([], 5, "no items"), (catalog(), 0, "k must be at least 1"), ([*catalog(), Item("i3", "again")], 5, "'i3'")],
)
def test_mistakes_are_named(items: list[Item], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_neighbors(items, k=k)


def test_neighbors_refuse_other_shapes_and_dtypes() -> None:
    with pytest.raises(ValueError, match=r"Neighbors\.indices must be int32"):
        Neighbors(("a",), np.zeros((1, 2)), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"Neighbors\.scores must be float32"):
        Neighbors(("a",), np.zeros((1, 2), np.int32), np.zeros((1, 3), np.float32))


def test_to_dataset_leaves_out_the_missing_ones() -> None:
    found = find_neighbors([Item("a", "red soap"), Item("b", ""), Item("c", "red soap")], k=2).to_dataset()
    assert found.column_names == ["item_id", "neighbors", "scores"]
    assert found["neighbors"][:] == [["c"], [], ["a"]]
    assert [len(scores) for scores in found["scores"]] == [1, 0, 1]
    assert found.features["scores"].feature.dtype == "float32"


def test_item_text_has_title_brand_categories_and_description() -> None:
    item = Item("a", "Red Soap", "Acme", ("Beauty", "Soaps"), "Smells of roses.")
    assert item_text(item) == "Red Soap\nAcme\nBeauty > Soaps\nSmells of roses."
    assert item_text(Item("a", " ")) == ""


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'faiss.*pip install "grlm-hf\[terms\]"'):
        find_neighbors(catalog())


def test_importing_the_stage_loads_no_heavy_library() -> None:
    code = (
        "import sys, grlm_hf.identifiers.neighbors, grlm_hf.identifiers.extract, grlm_hf.identifiers.collisions\n"
        "print(sorted({'faiss', 'torch', 'sentence_transformers', 'sklearn', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
