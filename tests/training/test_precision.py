"""bfloat16 on a CPU: the caches of compiled products are bounded first, and a CPU without AMX gets a line that float32 is faster there."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path

import pytest
import torch
from toy_run import CATALOG, SPLIT, toy_train
from toys import toy_grlm

from grlm_hf.precision import CACHES, say_float32_is_faster
from grlm_hf.priors.sequence import SequenceConfig
from grlm_hf.priors.sequence_training import train_sequence_model
from grlm_hf.priors.vae import MultVAE, VAEConfig
from grlm_hf.training.dpo import DPOConfig, train_dpo

IDS = [item.item_id for item in CATALOG]
DECODER = SequenceConfig(layers=1, width=16, heads=2, epochs=1)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the trainings would be on the GPU")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CACHES:
        monkeypatch.setenv(name, "")  # so that it is put back to nothing afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    say_float32_is_faster.cache_clear()


def first_product(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the capacities are whenever autocast to bfloat16 begins."""
    seen = []
    begin = torch.autocast.__enter__

    def entered(self: torch.autocast) -> object:
        if self._enabled and self.fast_dtype == torch.bfloat16:
            seen.append({name: os.environ.get(name, "1024") for name in CACHES})
        return begin(self)

    monkeypatch.setattr(torch.autocast, "__enter__", entered)
    return seen


def test_caches_are_bounded_before_the_first_product_of_each_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = [
        lambda: toy_train(tmp_path, max_steps=1, bf16=True),
        lambda: train_sequence_model(IDS, SPLIT.train, DECODER),
        lambda: MultVAE.learn(IDS, SPLIT.train, VAEConfig(epochs=1)),
    ]
    for training in trainings:
        seen = first_product(monkeypatch)
        training()
        assert seen
        assert {int(value) for found in seen for value in found.values()} == {32}
        for name in CACHES:
            monkeypatch.delenv(name)
    toy_train(tmp_path / "float32", max_steps=1)
    assert not set(CACHES) & set(os.environ)


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHES[0], "500")
    toy_train(tmp_path, max_steps=1, bf16=True)
    assert [os.environ[name] for name in CACHES] == ["500", "32"]


@pytest.mark.parametrize("amx", [True, False])
def test_one_line_names_the_setting_where_there_is_no_amx(
    amx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with caplog.at_level(logging.WARNING, "grlm_hf"):
        toy_train(tmp_path / "no", max_steps=1)
        train_sequence_model(IDS, SPLIT.train, DECODER)  # bfloat16 is no slower there
        assert not caplog.messages
        for again in ("one", "two"):
            toy_train(tmp_path / again, max_steps=1, bf16=True)
        pairs = DPOConfig(prompts=4, negatives=1, batch_size=4, bf16=True)
        train_dpo(toy_grlm(), SPLIT.train, tmp_path / "dpo", pairs)
    told = [message.split(" is on")[0] for message in caplog.messages]
    assert told == ([] if amx else ["train.bf16", "dpo.bf16"])
    assert all(message.endswith(f"Set {name}=false.") for name, message in zip(told, caplog.messages, strict=True))


def test_other_processors_are_told_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    say_float32_is_faster("train.bf16")
    assert not caplog.messages
