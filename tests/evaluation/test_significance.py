from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.evaluation.metrics import bootstrap, per_case
from grlm_hf.evaluation.significance import compare, corrected, sign_flip


def test_sign_flip_agrees_with_all_signs() -> None:
    rng = np.random.default_rng(0)
    differences = np.column_stack([rng.integers(-1, 2, (12, 3)), rng.normal(0.4, 1, 12), np.zeros(12)])
    draws = 40_000
    got = sign_flip(differences, draws, seed=1)
    signs = np.array(list(itertools.product((-1, 1), repeat=12)))
    exact = (np.abs(signs @ differences) >= np.abs(differences.sum(0)) - 1e-12).mean(0)
    assert got == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(draws))
    assert got[-1] == 1  # no difference at all
    assert (got == sign_flip(differences, draws, seed=1)).all()
    assert (got[:-1] != sign_flip(differences, draws, seed=2)[:-1]).any()


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(5)
    p = sign_flip(rng.normal(size=(60, 400)), 999, seed=0)
    assert abs((p < 0.05).mean() - 0.05) < 0.04
    assert abs((p < 0.5).mean() - 0.5) < 0.1


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(values: list[float]) -> None:
    got = corrected(np.array(values))
    ordered = sorted(range(len(values)), key=values.__getitem__)
    highest = 0.0
    for k, n in enumerate(ordered):
        highest = max(highest, min(1.0, values[n] * (len(values) - k)))
        assert got[n] == pytest.approx(highest)


def methods() -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    rng = np.random.default_rng(0)
    base = rng.random(600)
    ranks = {name: np.where(base < share, 1 + (base * 997).astype(int) % 10, 0) for name, share in (("good", 0.4), ("fair", 0.36))}
    ranks["bad"] = np.where(rng.random(600) < 0.1, 5, 0)
    return {name: per_case(rank) for name, rank in ranks.items()}, [f"u{n // 2}" for n in range(600)]


def test_comparisons_are_of_the_best_method_and_of_what_was_asked() -> None:
    hits, users = methods()
    found = compare(hits, users, [("fair", "bad"), ("fair", "good")], metrics=("recall@10",), resamples=400, seed=3)
    assert [(e.a, e.b) for e in found] == [("fair", "good"), ("good", "bad"), ("fair", "bad")]  # as asked, and not twice
    p = np.array([e.p for e in found])
    assert np.array([e.p_holm for e in found]) == pytest.approx(corrected(p))
    for e in found:
        difference = hits[e.a]["recall@10"] - hits[e.b]["recall@10"]
        own = bootstrap({"d": difference}, users, 400, 3)["d"]
        assert (e.difference, e.low, e.high) == pytest.approx((own.value, own.low, own.high), abs=1e-12)
        assert e.p <= 1e-3  # far apart, or seldom but always on one side: pairing tells where the intervals of each overlap
    one, two = (bootstrap({"x": hits[name]["recall@10"]}, users, 400, 3)["x"] for name in ("good", "fair"))
    assert one.low < two.high
    both = compare(hits, users, resamples=10)
    assert [(e.metric, e.a, e.b) for e in both] == [(m, "good", b) for m in ("recall@10", "ndcg@10") for b in ("fair", "bad")]
    assert both == compare(hits, users, resamples=10)


def test_a_users_cases_are_flipped_together() -> None:
    ones = {"a": {"m": np.ones(12)}, "b": {"m": np.zeros(12)}}
    alone = compare(ones, [f"u{n}" for n in range(12)], metrics=("m",), resamples=5)
    same = compare(ones, ["u0", "u1", "u2"] * 4, metrics=("m",), resamples=5)
    assert alone[0].p < 0.002
    assert same[0].p == pytest.approx(0.25, abs=0.03)  # of three users, two in eight draws are as one-sided


def test_refuses_methods_and_metrics_that_are_not_there() -> None:
    hits, users = methods()
    for pair in (("good", "none"), ("good", "good")):
        with pytest.raises(ValueError, match="expected two of the methods"):
            compare(hits, users, [pair])
    with pytest.raises(ValueError, match="'map' was not measured"):
        compare(hits, users, metrics=("map",))
    assert compare({"good": hits["good"]}, users) == ()
