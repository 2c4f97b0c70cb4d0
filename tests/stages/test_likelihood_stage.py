"""`priors.fit=likelihood`: what was fitted is what is measured, saved and served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_priors_stage import PRIORS, shop
from toys import toy_catalog, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import History
from grlm_hf.evaluation.schema import Report
from grlm_hf.files import read_json
from grlm_hf.priors.fused import Fused
from grlm_hf.recipe import PriorsConfig, Recipe, TermsConfig
from grlm_hf.stages import make_report, run
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.scratch import ScratchConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
FIT: PriorsConfig = replace(PRIORS, methods=["item_knn", "text_knn"], combine=None, hybrids=None, fit="likelihood", hybrid_users=400)


def walks(n: int) -> list[History]:
    """Each next item is one of the three that follow in the catalog: something to learn, and something left to chance."""
    rng, ids = np.random.default_rng(0), [item.item_id for item in toy_catalog()]
    steps = rng.integers(1, 4, (n, 6)).cumsum(1) + rng.integers(0, len(ids), (n, 1))
    return [History(f"u{u}", tuple(ids[s % len(ids)] for s in row)) for u, row in enumerate(steps)]


def recipe(tmp_path: Path, histories: list[History]) -> Recipe:
    train = TrainConfig(
        objective="trie", epochs=3, batch_size=32, learning_rate=1e-2, validation_examples=0,
        scratch=ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512),
    )  # fmt: skip
    return Recipe(
        data=str(shop(tmp_path / "shop", histories)), output=str(tmp_path / "out"), terms=TermsConfig(generator="file", resolver="rank"),
        priors=FIT, train=train,
    )  # fmt: skip


def test_the_bias_is_measured_saved_and_served(tmp_path: Path) -> None:
    report = run(recipe(tmp_path, walks(400)), lambda _: None)
    assert isinstance(report, Report)
    out = tmp_path / "out"
    hybrid = read_json(out / "hybrids.json")["hybrids"]["item_knn+text_knn"]
    combination = read_json(out / "priors" / "tuning.json")["combinations"]["item_knn+text_knn"]
    for found in (hybrid, combination):
        assert len(found["bias"]) == 4
        assert found["weights"].keys() == {"item_knn", "text_knn"}
    grlm = GRLMForRecommendation.from_pretrained(out / "checkpoint")
    assert grlm.prior is not None
    assert list(grlm.prior.how.bias) == hybrid["bias"]
    counting = GRLMForRecommendation.from_pretrained(out / "counting")
    assert counting.prior is not None
    method = read_json(out / "hybrids.json")["counting"]["method"]
    assert list(counting.prior.how.bias) == (combination["bias"] if method == "item_knn+text_knn" else [])
    own = make_report(out / "checkpoint", out / "datasets", tmp_path / "own.json")
    name = "grlm+item_knn+text_knn"
    assert own.methods[name]["recall@10"] == report.methods[name]["recall@10"]
    assert own.methods[name]["ndcg@10"] == report.methods[name]["ndcg@10"]
    assert "a bias by how often an item sold" in (out / "checkpoint" / "README.md").read_text()
    plain = Fused.load(out / "priors")
    assert plain.how.bias == ()  # the scorers; each combination has its own


def test_with_few_users_the_weights_are_chosen_as_before_and_that_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="too few to fit weights"):
        run(replace(recipe(tmp_path, toy_histories(12)), until="priors"), lambda _: None)
    found = read_json(tmp_path / "out" / "priors" / "tuning.json")["combinations"]["item_knn+text_knn"]
    assert found.keys() == {"weights", "ndcg@10"}
