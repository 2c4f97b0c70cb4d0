from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.data.interactions import Case, History
from grlm_hf.priors.knn import GRID, ItemKNN, KNNConfig, tune_knn
from grlm_hf.priors.neighbors import fuse_neighbors
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.tuning import Targets

IDS = [f"i{n}" for n in range(9)]
NEVER = IDS[-1]
walks = st.lists(st.lists(st.sampled_from(IDS[:-1]), min_size=1, max_size=9), min_size=1, max_size=8)
configs = st.builds(
    KNNConfig,
    backwards=st.sampled_from([0.0, 0.2, 1.0]),
    age_power=st.sampled_from([0.0, 0.7, 1.0]),
    distance_power=st.sampled_from([0.0, 0.5, 2.0]),
    max_distance=st.sampled_from([1, 3, 50]),
    max_items=st.sampled_from([1, 2, 20]),
    source_power=st.sampled_from([0.0, 0.3]),
    target_power=st.sampled_from([0.0, 0.3]),
    spread=st.sampled_from([0.01, 0.5]),
)


def histories_of(walks: list[list[str]]) -> list[History]:
    return [History(f"u{n}", tuple(walk)) for n, walk in enumerate(walks)]


def by_hand(walks: list[list[str]], config: KNNConfig, history: list[str]) -> dict[str, float]:
    """p(next item | history), with nothing but loops."""
    count = Counter(item for walk in walks for item in walk)
    weight: dict[tuple[str, str], float] = Counter()
    for walk in walks:
        for at, a in enumerate(walk):
            for other, b in enumerate(walk):
                if at != other and abs(at - other) <= config.max_distance:
                    weight[a, b] += (1 if other > at else config.backwards) * abs(at - other) ** -config.distance_power
    score = dict.fromkeys(IDS, 0.0)
    for age, a in enumerate([i for i in reversed(history) if i in IDS][: config.max_items], 1):
        for b in IDS:
            score[b] += (
                weight[a, b] / ((count[a] + 1) ** config.source_power * (count[b] + 1) ** config.target_power) * age**-config.age_power
            )
    total = sum(score.values())
    events = sum(count.values()) + len(IDS)
    share = {b: (count[b] + 1) / events for b in IDS}
    return {b: (1 - config.spread) * score[b] / total + config.spread * share[b] if total else share[b] for b in IDS}


@settings(max_examples=60, deadline=None)
@given(walks, configs, st.lists(st.sampled_from([*IDS, "unknown"]), max_size=6))
def test_scores_are_those_of_the_formula(walks: list[list[str]], config: KNNConfig, history: list[str]) -> None:
    knn = ItemKNN.fit(IDS, histories_of(walks), config)
    (row,) = knn.scores([history])
    assert row.dtype == np.float32
    assert np.allclose(np.exp(row.astype(float)), list(by_hand(walks, config, history).values()), rtol=1e-4, atol=0)


@settings(max_examples=30, deadline=None)
@given(walks, st.randoms(use_true_random=False))
def test_the_order_of_histories_does_not_matter(walks: list[list[str]], rng: random.Random) -> None:
    shuffled = rng.sample(walks, len(walks))
    one, other = (ItemKNN.fit(IDS, histories_of(w)) for w in (walks, shuffled))
    for name in ("counts", "first", "items", "weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=30, deadline=None)
@given(walks, st.integers(1, 10))
def test_neighbours_are_the_heaviest_of_a_row(walks: list[list[str]], k: int) -> None:
    knn = ItemKNN.fit(IDS, histories_of(walks))
    neighbors = knn.neighbors(k)
    for row in range(len(IDS)):
        cells = range(knn.first[row], knn.first[row + 1])
        found = sorted((-knn.weights[c], int(knn.items[c])) for c in cells if knn.items[c] != row)
        assert neighbors.of(row) == [item for _, item in found[:k]]
        there = neighbors.scores[row][neighbors.indices[row] >= 0]
        assert np.allclose(there, [w / sum(w for w, _ in found) for w, _ in found[:k]])
        assert np.isneginf(neighbors.scores[row][neighbors.indices[row] < 0]).all()
    assert neighbors.of(IDS.index(NEVER)) == []
    assert neighbors.to_dataset().num_rows == len(IDS)


def test_a_saved_knn_answers_the_same(tmp_path: Path) -> None:
    knn = ItemKNN.fit(IDS, histories_of([IDS[:5], IDS[2:7], ["i7", "i0"]]), KNNConfig(spread=0.3))
    knn.save(tmp_path / "knn")
    again = ItemKNN.load(tmp_path / "knn")
    assert (again.item_ids, again.config) == (knn.item_ids, knn.config)
    asked = [["i1"], ["i7", "i3"], [], [NEVER]]
    assert np.array_equal(again.scores(asked), knn.scores(asked))
    assert again.known.tolist() == [True] * 8 + [False]


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No knn model at"):
        ItemKNN.load(tmp_path / "none")
    Popularity.fit(IDS, []).save(tmp_path / "popularity")
    with pytest.raises(ValueError, match="it is no knn model"):
        ItemKNN.load(tmp_path / "popularity")
    ItemKNN.fit(IDS, histories_of([IDS])).save(tmp_path / "knn")
    (tmp_path / "half").write_bytes((tmp_path / "knn").read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated"):
        ItemKNN.load(tmp_path / "half")


def test_tuning_finds_what_the_cases_ask_for() -> None:
    """Users repeat what came before; only a large ρ can know."""
    rng = random.Random(0)
    walks = [[IDS[a], IDS[b]] for a, b in ((rng.randrange(8), rng.randrange(8)) for _ in range(60)) if a != b]
    cases = [Case(f"u{n}", (walk[1],), walk[0]) for n, walk in enumerate(walks)]
    config = tune_knn(IDS, histories_of(walks), cases)
    assert config.backwards == max(GRID["backwards"])
    targets = Targets(IDS, cases)
    tuned, plain = (targets.measure(ItemKNN.fit(IDS, histories_of(walks), c)) for c in (config, KNNConfig()))
    assert tuned > plain
    assert tune_knn(IDS, histories_of(walks), cases) == config


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_what_tuning_measures_is_the_ndcg_with_ties_against_it(exclude_seen: bool) -> None:
    rng = np.random.default_rng(0)
    many = [f"n{n}" for n in range(30)]
    scores = rng.integers(0, 8, (40, 30)).astype(np.float32)
    cases = [Case("u", (many[n % 7], many[n % 11]), many[n % 30] if n % 9 else "unknown") for n in range(40)]
    targets = Targets(many, cases, exclude_seen)
    expected = []
    for row, case in zip(scores, cases, strict=True):
        open_ = [i for i in many if not (exclude_seen and i in case.history)]
        rank = sum(row[many.index(i)] >= row[many.index(case.target)] for i in open_) if case.target in open_ else 99
        expected.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
    assert 0 < sum(expected) < 40
    found = np.concatenate([targets.ndcg(scores[s : s + 15].copy(), s) for s in (0, 15, 30)])
    assert np.allclose(found, expected)


def test_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ValueError, match="1 are repeated, such as 'i3'"):
        ItemKNN.fit([*IDS, "i3"], [])
    with pytest.raises(ValueError, match="User 'u' has item 'x', which is not among the 9 item ids"):
        ItemKNN.fit(IDS, [History("u", ("i1", "x"))])
    with pytest.raises(ValueError, match="still has its held-out items"):
        ItemKNN.fit(IDS, [History("u", ("i1", "i2"), n_valid=1)])
    with pytest.raises(ValueError, match="no validation cases"):
        tune_knn(IDS, [], [])
    with pytest.raises(ValueError, match="k must be at least 1"):
        ItemKNN.fit(IDS, []).neighbors(0)
    for name, value in (("spread", 0.0), ("spread", 1.0), ("max_items", 0), ("age_power", float("nan")), ("backwards", -0.1)):
        with pytest.raises(ValueError, match=f"item_knn.{name} is {value}"):
            replace(KNNConfig(), **{name: value})


def test_without_histories_it_knows_nothing_and_still_answers() -> None:
    knn = ItemKNN.fit(IDS, [])
    assert np.allclose(knn.scores([[], ["i1"]]), -np.log(9))
    assert not knn.known.any()
    assert knn.neighbors(2).of(0) == []


@settings(max_examples=30, deadline=None)
@given(walks, walks, st.integers(1, 5))
def test_neighbours_of_two_are_fused_by_their_ranks(one: list[list[str]], other: list[list[str]], k: int) -> None:
    found = {name: ItemKNN.fit(IDS, histories_of(w)).neighbors(6) for name, w in (("a", one), ("b", other))}
    fused = fuse_neighbors(found, k)
    for row in range(len(IDS)):
        score = {n: sum(1 / (61 + f.of(row).index(n)) for f in found.values() if n in f.of(row)) for n in range(len(IDS))}
        assert fused.of(row) == sorted((n for n in score if score[n]), key=lambda n: (-score[n], n))[:k]
    assert fuse_neighbors({"a": found["a"]}, 6).indices.tolist() == found["a"].indices.tolist()


def test_refuses_neighbours_that_do_not_belong_together() -> None:
    found = ItemKNN.fit(IDS, []).neighbors(2)
    with pytest.raises(ValueError, match="of different items"):
        fuse_neighbors({"a": found, "b": ItemKNN.fit(IDS[::-1], []).neighbors(2)})
    with pytest.raises(ValueError, match="0 lists of neighbours"):
        fuse_neighbors({})
