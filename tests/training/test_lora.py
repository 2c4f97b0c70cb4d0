"""LoRA ends as an ordinary causal LM, and settings that need what is not here say so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from toy_run import toy_train
from toys import toy_grlm, toy_tokenizer
from transformers import AutoModelForCausalLM

from grlm_hf import GRLMForRecommendation
from grlm_hf.training.config import EarlyStoppingConfig, LoraConfig
from grlm_hf.training.scratch import ScratchConfig, make_model


@pytest.fixture
def base(tmp_path: Path) -> str:
    toy_grlm().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(30)[None]).logits


@pytest.mark.parametrize(("objective", "targets"), [("trie", "all-linear"), ("vocabulary", "q_proj, v_proj")])
def test_after_the_merge_it_answers_as_with_the_matrices_beside_it(base: str, objective: str, targets: str, tmp_path: Path) -> None:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.1, targets=targets)
    grlm = toy_train(tmp_path, model=base, lora=lora, objective=objective, epochs=2, dropout=0.0)
    assert type(grlm.model).__name__ == "Qwen3ForCausalLM"
    given = AutoModelForCausalLM.from_pretrained(base)
    assert set(grlm.model.state_dict()) == set(given.state_dict())
    before = logits(given)
    beside = PeftModel.from_pretrained(given, tmp_path / "work" / "final")
    assert {n.split(".")[-4] for n, _ in beside.named_parameters() if "lora_A" in n} == (
        {"q_proj", "v_proj"} if "," in targets else {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    )
    assert torch.allclose(logits(grlm.model), logits(beside), atol=1e-4)
    assert not torch.allclose(logits(grlm.model), before, atol=1e-2)
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert [r.item_id for r in loaded.recommend(["i20", "i12"], 5)] == [r.item_id for r in grlm.recommend(["i20", "i12"], 5)]


def test_lora_with_early_stopping_and_a_resume(base: str, tmp_path: Path) -> None:
    settings = {"model": base, "lora": LoraConfig(rank=2, dropout=0.2), "early_stopping": EarlyStoppingConfig("ndcg@10", every=3)}
    whole = toy_train(tmp_path / "whole", **settings, epochs=2)
    again = toy_train(tmp_path / "whole", **settings, epochs=2)  # from the last checkpoint: nothing is left to do
    a, b = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lora": LoraConfig(rank=4)}, ValueError, r"train\.lora\.rank is for a given model"),
        ({"model": "x", "lora": LoraConfig(bits=4)}, ValueError, r"set train\.lora\.rank"),
        ({"attention": "eager"}, ValueError, r"train\.attention is for a given model"),
        ({"model": "BASE", "attention": "flash_attention_2"}, ValueError, r"train\.bf16=true"),
        ({"model": "BASE", "attention": "flash_attention_2", "bf16": True}, ImportError, "pip install flash-attn"),
        ({"model": "BASE", "liger": True}, ImportError, "pip install liger-kernel"),
        ({"model": "BASE", "attention": "flush"}, ValueError, "flush"),
    ],
)
def test_settings_that_cannot_be(base: str, settings: dict, error: type, message: str, tmp_path: Path) -> None:
    if settings.get("model") == "BASE":
        settings = {**settings, "model": base}
    with pytest.raises(error, match=message):
        toy_train(tmp_path, **settings)


@pytest.mark.skipif(bool(find_spec("bitsandbytes")), reason="bitsandbytes is installed")
def test_qlora_names_its_package(base: str, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        toy_train(tmp_path, model=base, lora=LoraConfig(rank=4, bits=4))


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="needs bitsandbytes")
def test_qlora_is_merged_into_the_unquantised_weights(tmp_path: Path) -> None:
    wide = make_model(ScratchConfig(hidden_size=64, intermediate_size=128, layers=1), toy_tokenizer(), 0)  # bitsandbytes' blocks are of 64
    wide.save_pretrained(base := str(tmp_path / "base"))
    toy_tokenizer().save_pretrained(base)
    grlm = toy_train(tmp_path, model=base, lora=LoraConfig(rank=4, bits=4), epochs=1)
    given = AutoModelForCausalLM.from_pretrained(base).state_dict()
    delta = {name: value - given[name] for name, value in grlm.model.state_dict().items()}
    assert set(delta) == set(given)
    assert not delta["model.embed_tokens.weight"].any()
    # of the matrices' rank, which rounded weights would not leave it
    assert torch.linalg.matrix_rank(delta["model.layers.0.self_attn.q_proj.weight"], atol=1e-4) == 4
