"""Soft tokens: added rows of the vocabulary are all that is trained, and what is saved is an ordinary LM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_run import toy_train
from toys import close, toy_model, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.files import read_json
from grlm_hf.training.config import LoraConfig

HISTORY = ["i20", "i12"]
SETTINGS = {"soft_tokens": 3, "dropout": 0.0, "learning_rate": 0.05, "epochs": 3, "weight_decay": 0.5}


@pytest.fixture
def base(tmp_path: Path) -> str:
    toy_model().save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_only_the_added_rows_change(base: str, objective: str, tmp_path: Path) -> None:
    grlm = toy_train(tmp_path, model=base, objective=objective, **SETTINGS)
    grlm.save_pretrained(tmp_path / "checkpoint")
    given, made = AutoModelForCausalLM.from_pretrained(base), AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert type(made) is type(given)
    before, after = given.state_dict(), made.state_dict()
    assert set(before) == set(after)
    rows = len(before["model.embed_tokens.weight"])
    assert len(after["model.embed_tokens.weight"]) == rows + 3
    assert all(torch.equal(value, after[name][: len(value)]) for name, value in before.items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True, return_dict=False)
    assert prompt[:3] == [rows, rows + 1, rows + 2]
    assert tokenizer.chat_template.startswith("<|soft_0|><|soft_1|><|soft_2|>")
    losses = [entry["loss"] for entry in read_json(tmp_path / "work" / "log.json") if "loss" in entry]
    assert losses[-1] < losses[0]
    drawn = after["model.embed_tokens.weight"][rows:]
    assert (torch.cdist(drawn, before["model.embed_tokens.weight"]).min(1).values > 0.01).all()  # they have left their beginnings
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert loaded.prompt_tokens(HISTORY)[0, :3].tolist() == prompt[:3]
    for r in grlm.recommend(HISTORY, 5):
        assert close(loaded.score(HISTORY, [r.item_id])[0], r.log_prob)


def test_a_resumed_training_trains_the_same_rows(base: str, tmp_path: Path) -> None:
    whole = toy_train(tmp_path / "whole", model=base, **SETTINGS)
    again = toy_train(tmp_path / "whole", model=base, **SETTINGS)
    a, b = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_bos_token_stays_the_first(base: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{- bos_token }}" + tokenizer.chat_template
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.save_pretrained(base)
    grlm = toy_train(tmp_path, model=base, **{**SETTINGS, "epochs": 1})
    assert grlm.prompt_tokens(HISTORY)[0, 0].item() == grlm.tokenizer.bos_token_id
    assert grlm.tokenizer.decode(grlm.prompt_tokens(HISTORY)[0, 1:4]) == "<|soft_0|><|soft_1|><|soft_2|>"


def test_settings_that_cannot_be(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"train.soft_tokens is for a given model"):
        toy_train(tmp_path, soft_tokens=3)
    with pytest.raises(ValueError, match=r"the only weights to train; leave out train.lora.rank"):
        toy_train(tmp_path, model=base, soft_tokens=3, lora=LoraConfig(rank=2))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    from grlm_hf.training.models import add_soft_tokens

    with pytest.raises(ValueError, match="which FSDP and DeepSpeed split"):
        add_soft_tokens(toy_model(), toy_tokenizer(), 3, 0)
