"""Nearest items: faiss against brute force, ties, duplicates, empty texts; what is saved and stated of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.data.items import Item
from grlm_hf.files import write_parquet
from grlm_hf.indexing.embedding import item_text, tfidf_embedder
from grlm_hf.indexing.index import Index
from grlm_hf.indexing.neighbors import Neighbors, NeighborsConfig, find_neighbors, nearest

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

    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def search(self, queries: np.ndarray, k: int, params: None) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self.points.T
        order = np.lexsort((np.broadcast_to(-np.arange(scores.shape[1]), scores.shape), -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), order


def test_equal_scores_fall_in_catalog_order_whatever_the_index_gives_first() -> None:
    vectors = np.repeat(np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, -0.5]], dtype=np.float32), 50, axis=0)[::-1].copy()
    index = Index("exact", np.arange(100), BackwardIndex(vectors))
    for k in (1, 4, 60):
        np.testing.assert_array_equal(nearest(vectors, k, index=index)[0], brute_force(vectors, k)[0])


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


@pytest.mark.parametrize(
    ("items", "k", "message"),
    [([], 5, "no items"), (catalog(), 0, r"^neighbors\.k is 0; expected at least 1"), ([*catalog(), Item("i3", "again")], 5, "'i3'")],
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


def test_only_the_rows_asked_for_are_searched() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5] = 0
    indices, scores = nearest(vectors, 3, rows=[4, 5, 29])
    whole = brute_force(vectors, 3)
    np.testing.assert_array_equal(indices[[4, 29]], whole[0][[4, 29]])
    assert (np.delete(indices, [4, 29], 0) == -1).all()
    assert np.isneginf(np.delete(scores, [4, 29], 0)).all()


@pytest.mark.parametrize("index", ["exact", "ivf", "hnsw"])
def test_saved_neighbours_are_loaded_with_what_is_stated_of_them(index: str, tmp_path: Path) -> None:
    items = [*catalog(), Item("blank", " ")]
    config = NeighborsConfig(k=4, min_score=0.2, index=index)
    found = find_neighbors(items, config=config, work=tmp_path / "work")
    found.save(tmp_path / "neighbors.parquet")
    loaded = Neighbors.load(tmp_path / "neighbors.parquet")
    assert loaded.item_ids == found.item_ids
    assert loaded.facts == found.facts
    np.testing.assert_array_equal(loaded.indices, found.indices)
    np.testing.assert_array_equal(loaded.scores, found.scores)
    assert loaded.facts["index"] == index
    assert loaded.facts["recall"] == 1
    assert (loaded.facts["n_items"], loaded.facts["k"], loaded.facts["min_score"], loaded.facts["without_text"]) == (9, 4, 0.2, 1)
    assert loaded.facts["embedder"] == "tf-idf"
    straight = find_neighbors(items, 4, min_score=0.2)
    np.testing.assert_array_equal(straight.indices, found.indices)  # exact or not, in files or not


def test_what_is_given_counts_instead_of_the_config(tmp_path: Path) -> None:
    tfidf_embedder([item_text(item) for item in catalog()]).save(str(tmp_path / "mine"))
    found = find_neighbors(catalog(), 2, str(tmp_path / "mine"), config=NeighborsConfig(k=7, min_score=0.1))
    assert found.indices.shape == (8, 2)
    assert (found.facts["embedder"], found.facts["min_score"]) == ("mine", 0.1)
    assert (found.scores[found.indices >= 0] >= 0.1).all()


def test_files_that_are_no_neighbours_are_refused(tmp_path: Path) -> None:
    found = find_neighbors(catalog(), 2)
    write_parquet(found.to_dataset(), tmp_path / "plain.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for name, message in (("plain", "not written by"), ("broken", "no readable"), ("absent", "no readable")):
        with pytest.raises(ValueError, match=message):
            Neighbors.load(tmp_path / f"{name}.parquet")
    write_parquet(found.to_dataset(), tmp_path / "later.parquet", {b"grlm_neighbors": b'{"schema": 99}'})
    with pytest.raises(ValueError, match="later grlm-hf"):
        Neighbors.load(tmp_path / "later.parquet")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_id": "b", "neighbors": ["b"], "scores": [1.0]}, "'b' is the item itself"),
        ({"item_id": "b", "neighbors": ["gone"], "scores": [1.0]}, "'gone' is"),
        ({"item_id": "b", "neighbors": ["a"], "scores": []}, "1 neighbours, 0 scores"),
        ({"item_id": "a", "neighbors": [], "scores": []}, "the id is repeated"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Neighbors.from_dataset([{"item_id": "a", "neighbors": [], "scores": []}, row])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, r"^neighbors\.k is 0; expected at least 1"),
        ({"batch_size": 0}, r"^neighbors\.batch_size is 0; expected 1 to 1048576"),
        ({"shard_size": 0}, r"^neighbors\.shard_size is 0; expected at least 1"),
        ({"min_score": 1.5}, r"^neighbors\.min_score is 1\.5; expected -1 to 1"),
        ({"min_score": float("nan")}, r"^neighbors\.min_score is nan"),
        ({"recall": 0.0}, r"^neighbors\.recall is 0\.0"),
        ({"index": "lsh"}, "expected one of .*ivf"),
        ({"dtype": "int4"}, "expected one of .*bfloat16"),
        ({"memory_gb": -1.0}, r"^neighbors\.memory_gb is -1\.0"),
        ({"max_tokens": -1}, r"^neighbors\.max_tokens is -1"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighborsConfig(**setting)


def test_the_config_is_one_that_recipes_can_hold() -> None:
    from omegaconf import OmegaConf

    merged = OmegaConf.merge(OmegaConf.structured(NeighborsConfig()), OmegaConf.from_dotlist(["k=3", "min_score=0.5"]))
    assert OmegaConf.to_object(merged) == NeighborsConfig(k=3, min_score=0.5)


def test_a_prompt_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="give embedder too"):
        find_neighbors(catalog(), config=NeighborsConfig(prompt="query"))


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'faiss.*pip install "grlm-hf\[terms\]"'):
        find_neighbors(catalog())


def test_importing_the_stage_loads_no_heavy_library() -> None:
    code = (
        "import sys, grlm_hf.indexing.neighbors, grlm_hf.indexing.extract, grlm_hf.indexing.collisions\n"
        "print(sorted({'faiss', 'torch', 'sentence_transformers', 'sklearn', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
