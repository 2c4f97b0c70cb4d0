"""A mixture of experts (a tiny Qwen3-MoE with random weights) goes the ordinary way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import toy_train
from toys import close, toy_catalog, toy_histories, toy_tokenizer
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import SFTConfig

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training.head import plain_head
from grlm_hf.training.sft import tokenize_mixture
from grlm_hf.training.trainer import TermIDTrainer

HISTORY = ["i20", "i12"]


def mixture_of_experts(**more: Any) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2, head_dim=16,
            num_attention_heads=2, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2, max_position_embeddings=512,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, **more,
        )
    )  # fmt: skip


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_it_trains_saves_loads_and_recommends(objective: str, tmp_path: Path) -> None:
    mixture_of_experts(output_router_logits=True).save_pretrained(base := str(tmp_path / "base"))
    toy_tokenizer().save_pretrained(base)
    grlm = toy_train(tmp_path, model=base, objective=objective, epochs=2, dropout=0.0)
    given, trained = AutoModelForCausalLM.from_pretrained(base).state_dict(), grlm.model.state_dict()
    assert type(grlm.model) is Qwen3MoeForCausalLM
    assert set(trained) == set(given)
    changed = {name for name, value in trained.items() if not torch.equal(value, given[name])}
    assert any("experts" in name for name in changed)
    assert any(name.endswith("mlp.gate.weight") for name in changed)
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    found, exact = loaded.recommend(HISTORY, 5), grlm.recommend(HISTORY, 12, exact=True)
    assert loaded.model.generate(loaded.prompt_tokens(HISTORY), max_new_tokens=3).shape[0] == 1
    assert [r.item_id for r in found] == [r.item_id for r in grlm.recommend(HISTORY, 5)]
    assert len({r.item_id for r in exact}) == 12
    for r in exact:  # one plain forward says the same as the search with its cache
        assert close(loaded.explain(HISTORY, r.item_id).log_prob, r.log_prob)


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
@pytest.mark.parametrize("num_items", [None, 57])
def test_the_loss_with_the_routers_is_trls_own(coefficient: float, num_items: int | None, tmp_path: Path) -> None:
    tokenizer, catalog = toy_tokenizer(), toy_catalog()
    mixture = make_mixture(catalog, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3)).dataset.select(range(12))
    settings = {"bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    args = SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_length=None, **settings)
    examples = tokenize_mixture(mixture, tokenizer, catalog)
    model = mixture_of_experts(router_aux_loss_coef=coefficient)  # TRL asks for the routers' logits where it is not 0
    made = TermIDTrainer(model, trie=None, args=args, train_dataset=examples, processing_class=tokenizer)
    made.current_gradient_accumulation_steps = 3
    assert plain_head(made.model)
    batch = made.data_collator([made.train_dataset[i] for i in range(12)])
    found = []
    for loss_of in (made.compute_loss, super(TermIDTrainer, made).compute_loss):
        made.model.zero_grad()
        loss = loss_of(made.model, dict(batch), num_items_in_batch=num_items)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in made.model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    made.router_aux_loss_coef = 0.0
    without = made.compute_loss(made.model, dict(batch), num_items_in_batch=num_items)
    assert (found[0][0] - without).item() > 0.1 if coefficient else torch.equal(found[0][0], without)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
