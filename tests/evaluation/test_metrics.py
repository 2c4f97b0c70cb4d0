from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grlm_hf.evaluation.metrics import DEPTH, NDCG_AT, RECALL_AT, bootstrap, per_case, ranks

items = st.permutations([f"i{n}" for n in range(25)])


@given(items, st.integers(0, 24))
def test_metrics_by_their_definition(ranking: list[str], at: int) -> None:
    target = f"i{at}"
    place = ranking.index(target) + 1
    values = {name: v[0] for name, v in per_case(ranks([ranking], [target])).items()}
    for k in RECALL_AT:
        assert values[f"recall@{k}"] == (target in ranking[:k])
    for k in NDCG_AT:
        gains = [item == target for item in ranking[:k]]
        assert values[f"ndcg@{k}"] == pytest.approx(sum(g / math.log2(i + 2) for i, g in enumerate(gains)))
    assert values["mrr"] == pytest.approx(1 / place if place <= DEPTH else 0)


def test_a_missing_target_and_an_invalid_output_count_nothing() -> None:
    assert ranks([["a", None, "b"], [], [None]], ["b", "a", "c"]).tolist() == [3, 0, 0]


def test_bootstrap_interval_matches_the_normal_approximation() -> None:
    hits = (np.arange(4000) % 10 == 0).astype(float)
    each = [f"u{n}" for n in range(4000)]
    got = bootstrap({"recall@10": hits, "half": hits / 2}, each, resamples=2000, seed=1)
    half_width = 1.96 * math.sqrt(0.1 * 0.9 / 4000)
    assert got["recall@10"].value == pytest.approx(0.1)
    assert got["recall@10"].low == pytest.approx(0.1 - half_width, abs=0.001)
    assert got["recall@10"].high == pytest.approx(0.1 + half_width, abs=0.001)
    assert got["half"].high == pytest.approx(got["recall@10"].high / 2)
    assert got == bootstrap({"recall@10": hits, "half": hits / 2}, each, resamples=2000, seed=1)
    # four equal cases a user tell no more than one
    fours = bootstrap({"recall@10": np.repeat(hits[:1000], 4)}, np.repeat(each[:1000], 4).tolist(), resamples=2000, seed=1)
    assert fours["recall@10"].high - fours["recall@10"].low == pytest.approx(4 * half_width, rel=0.1)
