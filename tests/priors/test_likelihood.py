"""Weights of a fused prior by maximum likelihood, with a bias by an item's training events."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grlm_hf.data.interactions import Case, History
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.how import BORDERS, How, buckets
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.likelihood import fit_weights
from grlm_hf.priors.popularity import Popularity

N, CASES = 40, 3000
IDS = [f"i{n}" for n in range(N)]
RNG = np.random.default_rng(0)
COUNTS = np.repeat([1, 4, 9, 30], N // 4)
BIAS = np.array([2.0, 0.5, -0.5, 0.0])


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def drawn(weights: dict[str, float], bias: np.ndarray = BIAS) -> tuple[dict[str, np.ndarray], list[Case]]:
    """Log-probabilities of scorers, and cases whose targets are drawn from their weighted sum with the bias."""
    parts = {name: log_softmax(2 * RNG.normal(size=(CASES, N))) for name in weights}
    p = np.exp(log_softmax(sum(weights[name] * part for name, part in parts.items()) + bias[buckets(COUNTS)]))
    targets = [RNG.choice(N, p=row.astype(float) / row.sum(dtype=float)) for row in p]
    return parts, [Case(f"u{n}", ("none",), IDS[t]) for n, t in enumerate(targets)]


def test_the_weights_and_the_bias_that_made_the_targets_are_found() -> None:
    parts, cases = drawn({"grlm": 1.0, "a": 0.5, "b": 2.0, "nothing": 0.0})
    found = fit_weights(parts, cases, IDS, COUNTS)
    assert found.weights["grlm"] == 1.0
    assert found.weights["a"] == pytest.approx(0.5, abs=0.15)
    assert found.weights["b"] == pytest.approx(2.0, abs=0.3)
    assert found.weights["nothing"] == pytest.approx(0, abs=0.1)
    assert np.allclose(found.how.bias, BIAS, atol=0.35)
    assert found.how.bias[-1] == 0
    assert found.by_case.shape == (CASES,)
    assert found.by_case.mean() > fit_weights({"a": parts["a"]}, cases, IDS, COUNTS).by_case.mean()
    total = found.total(parts, buckets(COUNTS), np.zeros(CASES, int))
    by_hand = sum(np.float32(found.weights[n]) * parts[n] for n in parts) + np.array(found.how.bias, np.float32)[buckets(COUNTS)]
    assert np.allclose(total, by_hand, atol=1e-4)


def test_each_case_is_measured_under_weights_of_the_others() -> None:
    parts, cases = drawn({"grlm": 1.0, "a": 1.0})
    found = fit_weights(parts, cases, IDS, COUNTS)
    changed = [Case(c.user_id, c.history, IDS[0]) if n % 4 == 0 else c for n, c in enumerate(cases)]  # half of the even cases
    other = fit_weights(parts, changed, IDS, COUNTS)
    assert np.array_equal(other.by_case[2::4], found.by_case[2::4])  # even ones, under the weights of the odd ones
    assert not np.array_equal(other.by_case[1::2], found.by_case[1::2])  # odd ones, under the weights of the even ones


def test_what_cannot_be_fitted_is_refused() -> None:
    parts, cases = drawn({"grlm": 1.0, "a": 1.0})
    with pytest.raises(ValueError, match=r"Only .* are ranked high; too few"):
        fit_weights({n: part[:4] for n, part in parts.items()}, cases[:4], IDS, COUNTS)
    noise = -parts["grlm"]
    with pytest.raises(ValueError, match="'grlm' got no weight"):
        fit_weights({"grlm": noise, "a": parts["a"]}, cases, IDS, COUNTS)


def test_a_bias_belongs_to_the_prior_that_is_saved(tmp_path: Path) -> None:
    histories = [History(f"u{n}", tuple(RNG.choice(IDS, 3).tolist())) for n in range(60)]
    knn, popularity = ItemKNN.fit(IDS, histories), Popularity.fit(IDS, histories)
    plain, biased = Fused({"item_knn": (knn, 1.0)}), Fused({"item_knn": (knn, 1.0)}, how=How(bias=(3.0, 1.0, 0.0, 0.0)))
    asked = [["i0", "i3"], ["i7"]]
    difference = biased.scores(asked) - plain.scores(asked)
    want = np.array(biased.how.bias)[buckets(popularity.counts)]
    assert np.allclose(difference - difference[:, :1], want - want[0], atol=1e-4)
    assert np.allclose(np.exp(biased.scores(asked)).sum(1), 1, atol=1e-4)
    biased.save(tmp_path / "prior")
    assert json.loads((tmp_path / "prior" / "prior.json").read_text())["schema"] == 2  # an earlier version refuses it
    assert np.array_equal(Fused.load(tmp_path / "prior").scores(asked), biased.scores(asked))
    plain.save(tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "prior.json").read_text())["schema"] == 1
    both = Fused({"item_knn": (knn, 1.0), "popularity": (popularity, 1.0)})
    assert both.weighted({"item_knn": 2.0}, How(bias=(1.0, 0.0, 0.0, 0.0))).how.bias == (1.0, 0.0, 0.0, 0.0)
    assert both.weighted({"item_knn": 2.0}).how.bias == ()
    for bias in ((1.0,), (1.0, 0.0, 0.0, float("nan"))):
        with pytest.raises(ValueError, match=f"expected {len(BORDERS) + 1} finite numbers"):
            How(bias=bias)
