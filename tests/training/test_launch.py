"""The launch configs and recipes load, and `grlm train` under Accelerate's own launcher writes the checkpoint of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from forks import grlm
from safetensors.torch import load_file
from toys import toy_catalog, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.recipe import load_recipe
from grlm_hf.stages import make_dataset
from grlm_hf.tasks.config import MixtureConfig

RECIPES = Path(__file__).parents[2] / "recipes"
LAUNCH = sorted(RECIPES.glob("accelerate/*.yaml"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.name)
def test_the_training_of_every_recipe_is_possible(path: Path) -> None:
    load_recipe(path).train.check()


def test_the_published_settings() -> None:
    t = load_recipe(RECIPES / "grlm-qwen3-4b.yaml").train
    assert (t.model, t.epochs, t.learning_rate, t.warmup, t.bf16) == ("Qwen/Qwen3-4B", 3, 1e-4, 0.1, True)
    assert (t.batch_size, t.gradient_accumulation, t.beta1, t.beta2, t.epsilon, t.clip) == (2, 8, 0.9, 0.95, 1e-8, 1.0)
    text = (RECIPES / "grlm-qwen3-4b.yaml").read_text()
    assert [rate in text for rate in ("2.0e-4", "7.0e-5", "5.0e-5")] == [True] * 3
    assert load_config_from_file(str(RECIPES / "accelerate" / "zero2-8gpu.yaml")).num_processes == 8


@pytest.mark.parametrize("path", LAUNCH, ids=lambda p: p.name)
def test_launch_configs_are_read_by_accelerate(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == {"one-gpu": 1, "two-processes": 2, "zero2-2nodes": 16}.get(path.stem, 8)
    kind = path.stem.split("-")[0]
    assert config.distributed_type.name == {"one": "NO", "two": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(kind, "DEEPSPEED")
    if config.deepspeed_config:
        settings = json.loads((RECIPES.parent / config.deepspeed_config["deepspeed_config_file"]).read_text())
        stage = settings["zero_optimization"]["stage"]
        assert stage == int(kind.removeprefix("zero"))
        assert config.deepspeed_config["zero3_init_flag"] == (stage == 3)
        assert settings["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)
        assert {settings[k] for k in settings if k.startswith(("train_", "gradient_"))} == {"auto"}  # the recipe's


@pytest.mark.slow
def test_grlm_train_under_the_launcher(tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path / "catalog")
    rows = [json.dumps({"user_id": h.user_id, "items": list(h.items)}) + "\n" for h in toy_histories()]
    (tmp_path / "sequences.jsonl").write_text("".join(rows))
    make_dataset(tmp_path, tmp_path / "catalog", tmp_path / "d", MixtureConfig(max_history=3))
    shape = "{vocab_size: 380, hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, kv_heads: 1, max_positions: 256}"
    stopping = "{metric: ndcg@10, every: 3, users: 20}"
    (tmp_path / "recipe.yaml").write_text(
        f"train:\n  objective: trie\n  scratch: {shape}\n  max_steps: 9\n  dropout: 0.0\n  early_stopping: {stopping}\n"
    )
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(RECIPES / "accelerate" / "two-processes.yaml")]
    train = ["train", str(tmp_path / "d"), "--recipe", str(tmp_path / "recipe.yaml"), "--output"]
    call = [*launcher, "-m", "grlm_hf", *train, str(tmp_path / "two"), "--set", "train.batch_size=4"]
    for done in (subprocess.run(call, capture_output=True, text=True), grlm(*train, str(tmp_path / "one"), "--set", "train.batch_size=8")):
        assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in tmp_path.glob(".*")] == []  # neither has left anything behind
    logs = [json.loads((tmp_path / name / "training_log.json").read_text()) for name in ("one", "two")]
    one, two = ([(e["step"], e["eval_ndcg@10"]) for e in log if "eval_ndcg@10" in e] for log in logs)
    assert one == two
    assert len(one) == 3
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
    assert len(GRLMForRecommendation.from_pretrained(tmp_path / "two").recommend(["i20"], 5)) == 5
