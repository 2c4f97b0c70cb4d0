from __future__ import annotations

import itertools
import math
import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import random_catalog, toy_catalog, toy_histories

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.evaluation.diversity import HEAD, exposure, head, intra_list, places, popularity_of
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.rankings import Rankings


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_gini_is_half_the_mean_absolute_difference(shown: list[int]) -> None:
    x = np.bincount(shown, minlength=7)
    found = exposure(np.array([shown]), 7)
    assert found["gini"] == pytest.approx(np.abs(x[:, None] - x[None]).mean() / (2 * x.mean()), abs=1e-12)
    assert found["coverage"] == len(set(shown)) / 7


def test_gini_at_its_ends() -> None:
    assert exposure(np.arange(8).reshape(2, 4), 8) == {"coverage": 1.0, "gini": 0.0}
    assert exposure(np.zeros((5, 1), int), 8) == {"coverage": 1 / 8, "gini": 7 / 8}
    assert exposure(np.full((2, 3), -1), 8) == {"coverage": 0.0, "gini": 0.0}


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_the_head_is_the_fewest_items_that_hold_a_fifth(values: list[int]) -> None:
    counts = np.array(values)
    found = head(counts)
    need = HEAD * counts.sum()
    assert counts[found].sum() >= need
    if not counts.any():
        assert not found.any()
        return
    assert counts[found].min() >= counts[~found].max(initial=0)
    assert counts[found].sum() - counts[found].min() < need  # one item fewer would not hold it


def test_lists_by_their_definitions() -> None:
    rng = random.Random(2)
    for _ in range(40):
        catalog = random_catalog(rng)
        ids = [i.item_id for i in catalog]
        counts = {i: rng.randrange(8) for i in ids if rng.random() < 0.8}
        rankings = [rng.sample([*ids, None, "gone"], rng.randint(0, min(12, len(ids)))) for _ in range(30)]
        shown = places(rankings, catalog, 10)
        vectors = np.array([[rng.gauss(0, 1) for _ in range(3)] if rng.random() < 0.8 else [0.0] * 3 for _ in ids], np.float32)
        in_head = dict(zip(ids, head(np.array([counts.get(i, 0) for i in ids])), strict=True))
        got = popularity_of(shown, catalog, counts)
        by_terms, by_vectors = intra_list(shown, catalog), intra_list(shown, catalog, vectors)
        events = sum(counts.values())
        for n, ranking in enumerate(rankings):
            real = [i for i in ranking[:10] if i in ids]
            if not real:
                assert got["tail_share"][n] == got["novelty"][n] == by_terms[n] == by_vectors[n] == 0
                continue
            assert got["tail_share"][n] == pytest.approx(sum(not in_head[i] for i in real) / len(real))
            bits = [-math.log2((counts.get(i, 0) + 1) / (events + len(ids))) for i in real]
            assert got["novelty"][n] == pytest.approx(sum(bits) / len(bits))
            terms, cosines = [], []
            for a, b in itertools.combinations(real, 2):
                one, two = set(catalog.term_id(a)), set(catalog.term_id(b))
                terms.append(1 - len(one & two) / len(one | two))
                x, y = vectors[catalog.position(a)], vectors[catalog.position(b)]
                length = np.linalg.norm(x) * np.linalg.norm(y)
                cosines.append(1 - float(x @ y) / length if length else 1.0)
            assert by_terms[n] == pytest.approx(np.mean(terms) if terms else 0)
            assert by_vectors[n] == pytest.approx(np.mean(cosines) if cosines else 0, abs=1e-5)


def test_vectors_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 vectors for 12 items"):
        intra_list(np.zeros((1, 2), int), toy_catalog(), np.ones((2, 3)))


def test_diversity_is_in_the_report() -> None:
    catalog, split = toy_catalog(), leave_one_out(toy_histories())
    twin = Catalog([*catalog.items, Item("z", "Twin")], [*catalog.term_ids, catalog.term_ids[0]])
    first, last = catalog.items[0].item_id, catalog.items[6].item_id
    report = evaluate(
        {"twins": lambda h: Rankings([[first, "z"]] * len(h)), "strangers": lambda h: Rankings([[first, last]] * len(h))},
        split.test, twin, Setup("toy", "x", "kept", resamples=10), counts={first: 6, last: 4},
    )  # fmt: skip
    twins, strangers = report.methods["twins"], report.methods["strangers"]
    assert twins["intra_list_diversity@10"].value == 0
    assert strangers["intra_list_diversity@10"].value == 1
    assert twins["tail_share@10"].value == 0.5  # the most popular item holds a fifth of the events alone
    bits = [-math.log2((n + 1) / (10 + 13)) for n in (6, 0, 4)]
    assert twins["novelty@10"].value == pytest.approx((bits[0] + bits[1]) / 2)
    assert strangers["novelty@10"].value == pytest.approx((bits[0] + bits[2]) / 2)
    assert astuple(twins["gini@10"]) == pytest.approx((11 / 13,) * 3)
    bare = evaluate({"m": lambda h: Rankings([[first]] * len(h))}, split.test, twin, Setup("t", "x", "kept", resamples=5))
    assert {"gini@10", "intra_list_diversity@10"} <= bare.methods["m"].keys()
    assert not {"tail_share@10", "novelty@10"} & bare.methods["m"].keys()
    assert list(bare.slices) == ["history length"]
