from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grlm_hf.data.interactions import Case, History
from grlm_hf.priors.ease import EASE, tune_ease
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import KNNConfig

IDS = [f"i{n}" for n in range(9)]
NEVER = IDS[-1]
RNG = np.random.default_rng(0)
HISTORIES = [History(f"u{n}", tuple(RNG.choice(IDS[:-1], size=RNG.integers(2, 6)).tolist())) for n in range(40)]


def ridge(regularisation: float) -> np.ndarray:
    """The same weights column by column: each item predicted from all others by ridge regression."""
    x = np.array([[float(item in h.items) for item in IDS] for h in HISTORIES])
    found = np.zeros((len(IDS), len(IDS)))
    for b in range(len(IDS)):
        others = [a for a in range(len(IDS)) if a != b]
        gram = x[:, others].T @ x[:, others] + regularisation * np.eye(len(others))
        found[others, b] = np.linalg.solve(gram, x[:, others].T @ x[:, b])
    return found


@pytest.mark.parametrize("regularisation", [0.5, 10.0])
def test_weights_are_those_of_ridge_regressions_on_the_other_items(regularisation: float) -> None:
    ease, want = EASE.learn(IDS, HISTORIES, regularisation), ridge(regularisation)
    got = np.zeros_like(want)
    for row in range(len(IDS)):
        cells = slice(ease.first[row], ease.first[row + 1])
        got[row, ease.items[cells]] = ease.weights[cells]
    assert np.allclose(got, np.maximum(want, 0), atol=1e-4)  # negative weights are left out
    assert not got[IDS.index(NEVER)].any()
    fewer = EASE.learn(IDS, HISTORIES, regularisation, keep=2)
    assert (np.diff(fewer.first) <= 2).all()
    for row in range(len(IDS)):
        kept = fewer.weights[fewer.first[row] : fewer.first[row + 1]]
        assert np.allclose(np.sort(kept), np.sort(got[row])[::-1][: len(kept)][::-1], atol=1e-4)


def test_it_scores_like_any_recommender_and_is_kept_in_a_prior(tmp_path: Path) -> None:
    ease = EASE.learn(IDS, HISTORIES, 1.0, config=KNNConfig(age_power=0.0, spread=0.1))
    scores = ease.scores([["i0", "i3"], []])
    assert np.allclose(np.exp(scores).sum(1), 1, atol=1e-5)
    weights = np.maximum(ridge(1.0), 0)[[0, 3]].sum(0)
    share = (ease.counts + 1) / (ease.counts + 1).sum()
    assert np.allclose(np.exp(scores[0]), 0.9 * weights / weights.sum() + 0.1 * share, atol=1e-4)
    Fused({"ease": (ease, 1.0)}).save(tmp_path / "prior")
    again = Fused.load(tmp_path / "prior").components["ease"][0]
    assert isinstance(again, EASE)
    assert np.array_equal(again.scores([["i0"]]), ease.scores([["i0"]]))


def test_it_is_tuned_on_cases_and_refuses_too_many_items() -> None:
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in HISTORIES]
    ease, regularisation = tune_ease(IDS, HISTORIES, cases)
    assert regularisation > 0
    assert ease.known.tolist() == [True] * 8 + [False]
    with pytest.raises(ValueError, match="at most 40,000"):
        EASE.learn([str(n) for n in range(40_001)], [])
