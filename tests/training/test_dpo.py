from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import TERM_IDS, brute_force, prompt_and_paths, toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import History, leave_one_out
from grlm_hf.training.dpo import PAIRS_FILE, DPOConfig, beam_negatives, train_dpo
from grlm_hf.training.rollouts import positions

CATALOG = toy_catalog()
TRAIN = leave_one_out(toy_histories()).train


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_rejected_are_the_best_beams_that_are_not_the_target(objective: str) -> None:
    grlm = toy_grlm(objective)
    asked = positions(TRAIN, 70, seed=1)  # more than are searched at once
    pairs = beam_negatives(grlm, asked, 3)
    assert len(pairs) == 3 * len(asked)
    for i, (history, target) in enumerate(asked):
        prompt, paths = prompt_and_paths(grlm, history)
        leaf = {tuple(p): n for n, p in enumerate(paths)}
        rows = pairs[3 * i : 3 * i + 3]
        assert rows["prompt_ids"] == [prompt] * 3
        wanted = CATALOG.identifiers.index(CATALOG.term_id(target))
        assert rows["chosen_ids"] == [paths[wanted]] * 3
        rejected = [leaf[tuple(r)] for r in rows["rejected_ids"]]
        assert len({*rejected, wanted}) == 4
        assert not any({i.item_id for i in CATALOG.items_of(CATALOG.identifiers[r])} <= set(history) for r in rejected)
        beams = [r.term_id for r in grlm.recommend(list(history), len(CATALOG) - len(set(history)), exclude_seen=True, edge_wise=True)]
        best = [t for t in dict.fromkeys(beams) if t != CATALOG.term_id(target)]
        assert [CATALOG.identifiers[r] for r in rejected][:1] == best[:1]


def weights(grlm: GRLMForRecommendation) -> dict[str, torch.Tensor]:
    return {name: w.clone() for name, w in grlm.model.state_dict().items()}


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_the_first_loss_is_that_of_equals_and_the_target_gains_on_its_rivals(objective: str, tmp_path: Path) -> None:
    train = [History(f"u{n}", (a, "i11")) for n, a in enumerate(i.item_id for i in CATALOG if i.item_id != "i11")]
    grlm = toy_grlm(objective, seed=2)
    target = CATALOG.term_id("i11")
    before = [brute_force(grlm, [h.items[0]]) for h in train]
    config = DPOConfig(prompts=33, negatives=4, epochs=2, batch_size=22, learning_rate=1e-3)
    assert train_dpo(grlm, train, tmp_path, config) is grlm
    after = [brute_force(grlm, [h.items[0]]) for h in train]
    log = [e for e in json.loads((tmp_path / "log.json").read_text()) if "loss" in e]
    assert len(log) == 12
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)  # as likely as under the reference
    assert log[-1]["loss"] < 0.6
    # the log's sums are scores of whole identifiers, as the search gives them
    assert log[0]["logps/chosen"] == pytest.approx(np.mean([b[target] for b in before]), rel=1e-3)
    for b, a in zip(before, after, strict=True):
        margin = [x[target] - max(v for t, v in x.items() if t != target) for x in (b, a)]
        assert margin[1] > margin[0]
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config == grlm.config
    assert [r.item_id for r in loaded.recommend(["i20"], 5)] == [r.item_id for r in grlm.recommend(["i20"], 5)]


def test_a_resumed_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    config = DPOConfig(prompts=32, negatives=2, batch_size=16, save_steps=2, learning_rate=1e-3)
    whole = weights(train_dpo(toy_grlm("trie"), TRAIN, tmp_path, config, seed=3))
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "log.json").unlink()
    assert (tmp_path / PAIRS_FILE).is_file()
    resumed = weights(train_dpo(toy_grlm("trie"), TRAIN, tmp_path, config, seed=3))
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-6) for name in whole)


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    grlm = toy_grlm("trie")
    with pytest.raises(ValueError, match=r"became .*; lower dpo\.learning_rate"):
        train_dpo(grlm, TRAIN, tmp_path, DPOConfig(prompts=64, learning_rate=1e30, batch_size=16))
    assert not (tmp_path / "log.json").exists()
    assert "forward" not in grlm.model.__dict__  # the model goes on without the training's patches
    assert not grlm.model.training


@pytest.mark.parametrize("settings", [{"prompts": 0}, {"negatives": 0}, {"beta": 0}, {"epochs": 0}, {"loss": "foo"}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DPOConfig(**settings)


def test_more_negatives_than_identifiers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        train_dpo(toy_grlm(), TRAIN, tmp_path, DPOConfig(prompts=4, negatives=len(TERM_IDS)))
