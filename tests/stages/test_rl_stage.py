"""The stages that train a checkpoint further, and their verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dataset_toys import toy_facts, toy_tables
from toys import toy_catalog, toy_grlm

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.cli import app
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.stages.rl import make_grpo
from grlm_hf.training.grpo import GRPOConfig, RewardWeights

pytestmark = pytest.mark.usefixtures("blank_pictures")
SMALL = GRPOConfig(steps=2, prompts=4, rollouts=5, learning_rate=1e-3, rewards=RewardWeights(prefix=1.0))


def shop(folder: Path, target: str = "", catalog: Catalog | None = None) -> Path:
    catalog = catalog or toy_catalog()
    save_datasets(toy_tables(catalog, target=target), catalog, folder, toy_facts())
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(GRLMForRecommendation.from_pretrained(folder).model.state_dict())


def test_a_new_checkpoint_of_the_same_catalog_and_what_it_brought(tmp_path: Path) -> None:
    start = toy_grlm("trie")
    start.model.bfloat16()
    start.save_pretrained(tmp_path / "start")
    result = make_grpo(tmp_path / "start", shop(tmp_path / "datasets"), tmp_path / "end", SMALL)
    end = GRLMForRecommendation.from_pretrained(tmp_path / "end")
    assert end.config == start.config
    assert end.catalog.items == start.catalog.items
    assert end.trie.of == start.catalog.identifiers_hash
    assert end.model.dtype == torch.bfloat16
    assert result["users"] == 40
    assert result["valid_rollouts"] == 1
    assert json.loads((tmp_path / "end" / "training_result.json").read_text()) == result
    gain = result["methods"]["end"]["ndcg@10"] - result["methods"]["start"]["ndcg@10"]
    (said,) = [c for c in result["comparisons"] if c["metric"] == "ndcg@10"]
    assert abs(said["difference"]) == pytest.approx(abs(gain))
    assert 0 < said["p"] <= 1
    log = json.loads((tmp_path / "end" / "training_log.json").read_text())
    assert [e["rewards/validity/mean"] for e in log if "loss" in e] == [1.0, 1.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["datasets", "end", "start"]  # nothing is left over


def test_what_is_held_out_changes_nothing(tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "start")
    found = []
    for n, target in enumerate(("", "i11")):  # every user's test item
        make_grpo(tmp_path / "start", shop(tmp_path / f"datasets-{n}", target), tmp_path / f"end-{n}", SMALL, measure=False)
        found.append(weights(tmp_path / f"end-{n}"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    start = weights(tmp_path / "start")
    assert not all(torch.equal(found[0][name], start[name]) for name in start)


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "start")
    datasets = shop(tmp_path / "datasets")
    for verb, settings in (
        ("grpo", ["grpo.steps=1", "grpo.prompts=4", "grpo.rollouts=5"]),
        ("dpo", ["dpo.prompts=8", "dpo.negatives=2", "dpo.batch_size=16"]),
    ):
        said = [part for s in settings for part in ("--set", s)]
        called = [verb, str(tmp_path / "start"), str(datasets), "--output", str(tmp_path / verb), *said]
        app(called, exit_on_error=False, result_action="return_value")
        out = capsys.readouterr().out
        assert "40 validation users" in out
        assert "ndcg@10" in out
        assert "p = " in out
        assert len(GRLMForRecommendation.from_pretrained(tmp_path / verb).recommend(["i20"], 5)) == 5


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    start = toy_grlm()
    start.remove_items(["i14"])
    start.save_pretrained(tmp_path / "start")
    with pytest.raises(ValueError, match="1 items that the checkpoint's catalog lacks, such as 'i14'"):
        make_grpo(tmp_path / "start", shop(tmp_path / "datasets"), tmp_path / "end")
    assert not (tmp_path / "end").exists()
