"""What the trainings share: a model is left as it was found, and an error says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys import toy_catalog, toy_grlm, toy_histories

import grlm_hf.training
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.tasks.mixture import make_mixture
from grlm_hf.training.callbacks import StopAtNaN
from grlm_hf.training.dpo import DPOConfig, train_dpo
from grlm_hf.training.grpo import GRPOConfig, train_grpo
from grlm_hf.training.run import patches_removed
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, train

TRAIN = leave_one_out(toy_histories()).train
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)


def test_a_models_own_forward_comes_back() -> None:
    model = toy_grlm().model
    own = model.forward
    model.forward = own

    def fail() -> None:
        with patches_removed(model):
            model.forward = model.train().generate
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert model.__dict__["forward"] is own
    assert not model.training


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_a_finished_training_leaves_no_patches(objective: str, tmp_path: Path) -> None:
    mixture = make_mixture(toy_catalog(), TRAIN, MixtureConfig(max_history=3)).dataset
    config = TrainConfig(objective=objective, scratch=TINY, max_steps=1, batch_size=8, validation_examples=0, bf16=True)
    trained = [
        train(toy_catalog(), mixture, tmp_path / "sft", config, max_history=3),
        train_grpo(toy_grlm(objective), TRAIN, tmp_path / "grpo", GRPOConfig(steps=1, prompts=2, rollouts=4)),
        train_dpo(toy_grlm(objective), TRAIN, tmp_path / "dpo", DPOConfig(prompts=4, negatives=1, batch_size=4)),
    ]
    for grlm in trained:
        assert grlm is not None
        assert "forward" not in grlm.model.__dict__
        assert not grlm.model.training


def test_a_loss_that_is_not_finite_names_the_setting() -> None:
    state = SimpleNamespace(global_step=7)
    StopAtNaN("dpo.learning_rate").on_log(None, state, None, {"loss": 1.0, "grad_norm": 2.0})
    for name in ("loss", "grad_norm", "eval_loss"):
        with pytest.raises(ValueError, match=rf"^{name} became nan by step 7; lower dpo\.learning_rate\.$"):
            StopAtNaN("dpo.learning_rate").on_log(None, state, None, {name: float("nan")})


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("on the GPU\nMore"), RuntimeError("can't allocate memory")])
def test_memory_that_runs_out_names_the_settings(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.Trainer.train", fail)
    grlm = toy_grlm()
    with pytest.raises(MemoryError, match=r"Try grpo\.gradient_accumulation=4; grpo\.gradient_checkpointing=true; grpo\.bf16=true; a"):
        train_grpo(grlm, TRAIN, tmp_path, GRPOConfig(steps=1, prompts=2, rollouts=4, gradient_accumulation=2))
    with pytest.raises(MemoryError, match=r"Try dpo\.batch_size=32; dpo\.bf16=true\."):
        train_dpo(grlm, TRAIN, tmp_path, DPOConfig(prompts=4, negatives=1, gradient_checkpointing=True))
    assert "forward" not in grlm.model.__dict__


def test_one_file_knows_the_inner_parts_of_trl() -> None:
    """Its modules, its fused head and the form of its rollouts, which other versions may change."""
    inner = re.compile(r"from trl\.|import trl\.|fused_lm_head|FusedCausalLMOutput|_prepare_dataset|TRL_EXPERIMENTAL|completion_ids.:")
    folder = Path(grlm_hf.training.__file__).parent
    assert {path.name for path in folder.parent.rglob("*.py") if inner.search(path.read_text(encoding="utf-8"))} == {"policy.py"}
    requirements = re.findall(r'"trl([^"]*)"', (folder.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(requirements) == {">=1.16,<1.17"}


def test_a_training_says_what_is_ahead_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixture = make_mixture(toy_catalog(), TRAIN, MixtureConfig(max_history=3)).dataset
    with caplog.at_level("INFO", logger="grlm_hf"):
        train(
            toy_catalog(), mixture, tmp_path, TrainConfig(scratch=TINY, max_steps=2, batch_size=4, gradient_accumulation=2), max_history=3
        )
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("training: ")]
    parts = re.fullmatch(r"training: ([\d,]+) parameters on \w+, (\d+) examples of ([\d,]+) tokens, 2 steps of 8 examples", line)
    assert parts
    assert int(parts[2]) == len(mixture)
    assert int(parts[3].replace(",", "")) > 10 * len(mixture)
