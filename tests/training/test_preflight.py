"""What is tried before the first step, and which state a resume takes."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import CATALOG, MIXTURE, toy_train
from toys import toy_grlm, toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.recipe import load_recipe
from grlm_hf.training.preflight import PLAIN, check_room
from grlm_hf.training.resume import last_whole_checkpoint
from grlm_hf.training.sft import TrainConfig, train


@pytest.fixture
def base(tmp_path: Path) -> Path:
    toy_grlm().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("sampling", [{"temperature": 0.9, "top_p": 0.6, "do_sample": False}, {"num_beams": 1, "length_penalty": 2.0}])
def test_sampling_settings_of_a_base_model_do_not_end_a_training(base: Path, tmp_path: Path, sampling: dict[str, Any]) -> None:
    """transformers refuses to save them, at the first checkpoint or behind the last step."""
    (base / "generation_config.json").write_text(json.dumps(sampling))
    grlm = toy_train(tmp_path, model=str(base), max_steps=6, save_steps=3, validation_examples=0)
    grlm.save_pretrained(tmp_path / "checkpoint")
    stated = json.loads((tmp_path / "checkpoint" / "generation_config.json").read_text())
    assert not {"temperature", "top_p"} & stated.keys()


def test_a_base_model_without_a_template_trains_with_the_stated_one(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (base / "chat_template.jinja").unlink()
    toy_train(tmp_path, model=str(base), max_steps=2, validation_examples=0).save_pretrained(tmp_path / "checkpoint")
    assert "train.chat_template=plain" in caplog.text
    again = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert again.tokenizer.chat_template == PLAIN
    assert again.recommend(["i20"], 3)


def test_a_template_of_ones_own(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(PLAIN.replace("assistant", "shop"))
    grlm = toy_train(tmp_path, model=str(base), chat_template=str(tmp_path / "mine.jinja"), max_steps=1, validation_examples=0)
    assert "shop:" in grlm.tokenizer.chat_template
    for name, content, message in (("none.jinja", None, "expected 'plain' or a file"), ("cut.jinja", "{% for", "template is broken")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            toy_train(tmp_path / name, model=str(base), chat_template=str(tmp_path / name), max_steps=1)


@pytest.mark.parametrize("what", ["rows", "eos"])
def test_a_tokenizer_beyond_the_embeddings_is_refused_before_any_work(base: Path, tmp_path: Path, what: str) -> None:
    made = copy.deepcopy(toy_tokenizer())  # the toys share one
    if what == "rows":
        made.add_tokens([f"<extra{i}>" for i in range(500)])
    else:
        made.eos_token = None
    made.save_pretrained(base)
    with pytest.raises(ValueError, match="embeddings" if what == "rows" else "EOS"):
        toy_train(tmp_path, model=str(base), max_steps=1)
    assert not (tmp_path / "work").exists()


def test_room_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(10, 10)
    check_room(tmp_path / "a" / "b", model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="GiB free; two states"):
        check_room(tmp_path / "a", model)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written"):
        check_room(tmp_path / "a", model)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


FAULTS: dict[str, Callable[[Path], object]] = {
    "optimizer cut": lambda f: cut(f / "optimizer.pt"),
    "optimizer flipped": lambda f: flip(f / "optimizer.pt"),
    "optimizer missing": lambda f: (f / "optimizer.pt").unlink(),
    "scheduler cut": lambda f: cut(f / "scheduler.pt"),
    "rng cut": lambda f: cut(f / "rng_state.pth"),
    "weights cut": lambda f: cut(f / "model.safetensors"),
    "weights missing": lambda f: (f / "model.safetensors").unlink(),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "state a list": lambda f: (f / "trainer_state.json").write_text("[]"),
    "state cut": lambda f: cut(f / "trainer_state.json"),
    "state missing": lambda f: (f / "trainer_state.json").unlink(),
    "state of another step": lambda f: (f / "trainer_state.json").write_text('{"global_step": 1, "log_history": []}'),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """States of the steps 4 and 6."""
    folder = tmp_path_factory.mktemp("stopped")
    toy_train(folder, max_steps=6, save_steps=2)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_resume_takes_the_newest_whole_state_and_says_so(
    stopped: Path, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(stopped / "work", tmp_path / "work")
    (tmp_path / "work" / "checkpoint-abc").mkdir()
    (tmp_path / "work" / "checkpoint-9").touch()
    assert last_whole_checkpoint(tmp_path / "work") == str(tmp_path / "work" / "checkpoint-6")
    FAULTS[fault](tmp_path / "work" / "checkpoint-6")
    assert last_whole_checkpoint(tmp_path / "work") == str(tmp_path / "work" / "checkpoint-4")
    assert "step 6 is broken" in caplog.text
    assert (tmp_path / "work" / "checkpoint-abc").is_dir()


def test_a_training_with_a_broken_state_ends_like_a_whole_one(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "work", tmp_path / "work")
    cut(tmp_path / "work" / "checkpoint-6" / "optimizer.pt")
    want = json.loads((stopped / "work" / "log.json").read_text())
    grlm = toy_train(tmp_path, max_steps=6, save_steps=2)
    got = json.loads((tmp_path / "work" / "log.json").read_text())
    assert [e.get("loss") for e in got] == [e.get("loss") for e in want]
    assert got[-1]["train_loss"] == pytest.approx(want[-1]["train_loss"], rel=1e-9)
    assert grlm is not None


def test_a_stopped_training_is_finished_with_what_it_has(stopped: Path, tmp_path: Path) -> None:
    from toy_run import TINY

    shutil.copytree(stopped / "work", tmp_path / "work")
    settings: Any = {"scratch": TINY, "learning_rate": 1e-2, "batch_size": 8, "epochs": 4, "max_steps": 6, "save_steps": 2}
    from toy_run import SPLIT, VALIDATION

    more: Any = {"validation": VALIDATION, "cases": SPLIT.validation, "max_history": 3, "seed": 3}
    grlm = train(CATALOG, MIXTURE, tmp_path / "work", TrainConfig(**settings), finish=True, **more)
    assert grlm is not None
    assert len(grlm.recommend(["i20"], 5)) == 5
    with pytest.raises(ValueError, match="no whole state of this training"):
        train(CATALOG, MIXTURE, tmp_path / "other", TrainConfig(**settings), finish=True, **more)


@pytest.mark.parametrize(
    "setting",
    [
        "train.scratch.hidden_size=-1", "train.scratch.layers=0", "train.dropout=2", "train.warmup=5", "train.clip=-1",
        "train.batch_size=1000000000000", "train.learning_rate=.nan", "train.learning_rate=.inf", "evaluate.batch_size=10000000000",
        "grpo.beta=-1", "train.scratch.heads=0", "dpo.batch_size=1e400", "train.scratch.vocab_size=99999999999",
    ],
)  # fmt: skip
def test_numbers_that_no_training_can_have(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.split("=")[0].rsplit(".", 1)[1]):
        load_recipe(None, [setting])
