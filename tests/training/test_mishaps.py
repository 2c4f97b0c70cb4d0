"""A training that goes wrong says what to do, and what it wrote before stays good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi
from safetensors.torch import load_file
from toy_run import CATALOG, MIXTURE, TINY, run, toy_train
from toys import toy_grlm, toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.files import read_json, write_json
from grlm_hf.training.config import ContrastiveConfig, HubConfig
from grlm_hf.training.labels import tokenize_mixture
from grlm_hf.training.resume import RUN_FILE
from grlm_hf.training.scratch import ScratchConfig


def test_nan_names_the_examples_and_leaves_good_checkpoints(tmp_path: Path) -> None:
    """A token that a single example holds has an embedding of NaN."""
    grlm = toy_grlm()
    examples = tokenize_mixture(MIXTURE, toy_tokenizer(), CATALOG)
    paths = {
        t for ids, mask in zip(examples["input_ids"], examples["completion_mask"], strict=True) for t, m in zip(ids, mask, strict=True) if m
    }
    once = {t: [k for k, ids in zip(examples["key"], examples["input_ids"], strict=True) if t in ids] for t in range(len(toy_tokenizer()))}
    token, (key,) = next((t, keys) for t, keys in once.items() if len(keys) == 1 and t not in paths)
    with torch.no_grad():
        grlm.model.get_input_embeddings().weight[token] = torch.nan
    grlm.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"loss became nan at step \d+, in a batch of the examples .*train\.learning_rate") as said:
        toy_train(tmp_path, model=str(tmp_path / "base"), objective="trie", save_steps=1, batch_size=2, validation_examples=0)
    assert repr(key) in str(said.value)
    assert set(re.findall(r"'(.*?)'", str(said.value))) <= set(MIXTURE["key"])
    checkpoints = list((tmp_path / "work").glob("checkpoint-*"))
    step = int(re.search(r"step (\d+)", str(said.value))[1])  # type: ignore[index]
    assert max((int(p.name.split("-")[1]) for p in checkpoints), default=0) == step - 1


def test_a_gradient_that_explodes_never_reaches_the_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"became (nan|inf) at step \d+"):
        toy_train(tmp_path, learning_rate=1e12, warmup=0.0, save_steps=1, clip=1e30, epochs=50)
    written = [load_file(p / "model.safetensors") for p in (tmp_path / "work").glob("checkpoint-*")]
    assert written
    assert all(torch.isfinite(value).all() for some in written for value in some.values())


def test_a_resume_with_other_settings_shows_the_difference(tmp_path: Path) -> None:
    toy_train(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"was another one: train\.max_steps: 2 → 3; train\.learning_rate: 0\.01 → 0\.02\. Run it again"):
        toy_train(tmp_path, max_steps=3, learning_rate=2e-2)
    shape = ScratchConfig(**{**TINY.__dict__, "vocab_size": 370})
    with pytest.raises(ValueError, match=r"train\.scratch\.vocab_size: 380 → 370; hash of the examples: \w+ → \w+\. "):
        toy_train(tmp_path, max_steps=2, scratch=shape)
    toy_train(tmp_path, max_steps=2, save_steps=1)  # nothing that the result depends on


def test_a_state_of_a_version_without_a_setting_had_its_default(tmp_path: Path) -> None:
    toy_train(tmp_path, max_steps=2)
    path = tmp_path / "work" / RUN_FILE
    older = {n: v for n, v in read_json(path).items() if n != "train.soft_tokens" and not n.startswith("train.contrastive.")}
    write_json(path, older)
    with pytest.raises(ValueError, match=r"was another one: train\.contrastive\.weight: 0\.0 → 0\.1\. "):
        toy_train(tmp_path, max_steps=2, contrastive=ContrastiveConfig(weight=0.1))
    toy_train(tmp_path, max_steps=2)


def test_a_resume_in_more_processes_is_another_training(tmp_path: Path) -> None:
    toy_train(tmp_path / "a", max_steps=2)
    assert run({tmp_path / "a": {"max_steps": 2}}, processes=2)[0] != 0
    assert "processes: 1 → 2" in (tmp_path / "a.0.log").read_text()


def test_memory_that_runs_out_names_the_knobs(tmp_path: Path) -> None:
    wide = ScratchConfig(**{**TINY.__dict__, "intermediate_size": 30_000})
    assert run({tmp_path / "a": {"scratch": wide, "batch_size": 44}}, memory=120 * 2**20) == [1]
    said = (tmp_path / "a.0.log").read_text()
    assert re.search(
        r"MemoryError: Memory ran out in training \(.*\)\. Try train\.batch_size=22 with train\.gradient_accumulation=2; ", said
    )


def test_an_answer_longer_than_the_context() -> None:
    with pytest.raises(ValueError, match=r"has an answer of \d+ tokens, its prompt left out; the model takes 9 in all"):
        tokenize_mixture(MIXTURE, toy_tokenizer(), CATALOG, max_length=9)


def test_checkpoints_are_pushed_while_it_trains(hub: HubServer, tmp_path: Path) -> None:
    grlm = toy_train(tmp_path, hub=HubConfig("tester/while-it-trains", every=4), max_steps=10)
    repo = hub.repos["models", "tester/while-it-trains"]
    assert repo.private
    uploads = [commit for commit in repo.by_sha.values() if commit.message.startswith("Upload")]
    assert len(uploads) == 2  # at steps 4 and 8; the finished one is left to the stage
    pushed = GRLMForRecommendation.from_pretrained("tester/while-it-trains")
    assert pushed.config == grlm.config
    assert len(pushed.recommend(["i20"], 5)) == 5
    a, b = pushed.model.state_dict(), grlm.model.state_dict()
    assert not torch.equal(a["model.embed_tokens.weight"], b["model.embed_tokens.weight"])


def test_a_push_that_fails_does_not_end_the_training(hub: HubServer, tmp_path: Path) -> None:
    HfApi().create_repo("tester/in-public", private=False)
    with pytest.warns(UserWarning, match=r"Step 4 was not pushed, training goes on: tester/in-public exists and is public"):
        toy_train(tmp_path, hub=HubConfig("tester/in-public", every=4), max_steps=6)
