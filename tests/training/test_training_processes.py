"""Several processes train what one trains, and a killed training ends where an uninterrupted one does."""

from __future__ import annotations

import json
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_run import STOPPING, run

from grlm_hf.files import write_json

pytestmark = pytest.mark.slow
OBJECTIVES = ("trie", "vocabulary")
PLAIN = {"dropout": 0.0, "early_stopping": STOPPING}
WHOLE = {"objective": "trie", "dropout": 0.2, "early_stopping": STOPPING}
TIMES = ("runtime", "per_second", "total_flos", "num_tokens")


def log(folder: Path) -> list[dict[str, Any]]:
    """The log without what differs from run to run."""
    entries = json.loads((folder / "work" / "log.json").read_text())
    return [{k: v for k, v in e.items() if not any(t in k for t in TIMES) and k != "train_loss"} for e in entries]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "model.safetensors")


def check_same(one: Path, other: Path, exact: bool) -> None:
    assert len(log(one)) == len(log(other)) > 8
    for a, b in zip(log(one), log(other), strict=True):
        assert a == pytest.approx(b, rel=1e-4) if not exact else a == b
    x, y = weights(one), weights(other)
    if exact:
        assert all(torch.equal(x[name], y[name]) for name in x)
    else:
        assert all(torch.allclose(x[name], y[name], atol=1e-4) for name in x)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    assert run({folder / name: {**PLAIN, "objective": name} for name in OBJECTIVES} | {folder / "whole": WHOLE}) == [0]
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    jobs = {folder / name: {**PLAIN, "objective": name, "batch_size": 4} for name in OBJECTIVES}
    assert run(jobs | {folder / "whole": {**WHOLE, "batch_size": 4}}, processes=2) == [0, 0]
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_what_one_trains(one: Path, two: Path, objective: str) -> None:
    check_same(one / objective, two / objective, exact=False)
    asked = [[e["eval_ndcg@10"] for e in log(folder / objective) if "eval_ndcg@10" in e] for folder in (one, two)]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) > 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_killed_again_and_again_ends_as_one_that_was_not(one: Path, two: Path, processes: int, tmp_path: Path) -> None:
    folder, whole = tmp_path / "killed", (one, two)[processes - 1] / "whole"
    job = {folder: {**WHOLE, "batch_size": 8 // processes}}
    # before the first checkpoint, between two, in the middle of writing one, at the first step of an epoch and right behind a checkpoint
    for kills in ({"kill_at": 3}, {"kill_at": 9}, {"kill_saving": 10}, {"kill_at": 13}, {"kill_at": 16}, {"kill_at": 24}):
        assert run(job, processes, **kills)[-1] == -signal.SIGKILL
        assert not (folder / "checkpoint").exists()
    assert run(job, processes) == [0] * processes
    check_same(whole, folder, exact=True)


@pytest.mark.skipif(not find_spec("deepspeed"), reason="needs DeepSpeed: pip install grlm-hf[distributed]")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_zero_2_trains_what_one_process_trains(one: Path, objective: str, tmp_path: Path) -> None:
    settings = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
    write_json(tmp_path / "zero2.json", {**settings, "gradient_clipping": "auto", "bf16": {"enabled": "auto"}})
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "zero2.json")}
    environment["DS_ACCELERATOR"] = "cpu"
    job = {tmp_path / "zero": {**PLAIN, "objective": objective, "batch_size": 4}}
    assert run(job, 2, kill_at=9, environment=environment)[-1] == -signal.SIGKILL
    assert run(job, 2, environment=environment) == [0, 0]
    check_same(one / objective, tmp_path / "zero", exact=False)
