"""``generate(custom_generate=…)``: a saved checkpoint recommends through plain transformers."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import close, toy_catalog, toy_grlm, toy_model
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList, MinLengthLogitsProcessor, StoppingCriteriaList
from transformers.generation import MaxTimeCriteria

from grlm_hf import GRLMForRecommendation
from grlm_hf.generation import generate

IDS = [i.item_id for i in toy_catalog()]
HISTORIES = [["i20"], ["i19", "i9", "i14"]]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    toy_grlm("trie").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lm(repo: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(repo)


def batch(grlm: GRLMForRecommendation) -> dict[str, torch.Tensor]:
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in HISTORIES]
    return grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")


@pytest.mark.parametrize("how", ["repo", "callable"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exact": True},
        {"edge_wise": True},
        {"exclude": IDS[:4]},
        {"exclude": IDS[:4], "exact": True},
        {"exclude": IDS[:4], "edge_wise": True},
        {"prior": {"i15": 50.0}},
    ],
)
def test_writes_what_recommend_answers(repo: str, lm: Any, how: str, options: dict[str, Any]) -> None:
    grlm = GRLMForRecommendation.from_pretrained(repo)
    inputs = batch(grlm)
    custom = {"custom_generate": repo, "trust_remote_code": True} if how == "repo" else {"custom_generate": generate}
    k = 5
    out = lm.generate(**inputs, **custom, num_return_sequences=k, return_dict_in_generate=True, **options)
    assert out.sequences.shape[0] == len(out.sequences_scores) == k * len(HISTORIES)
    assert torch.equal(out.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(k, 0))
    texts = grlm.tokenizer.batch_decode(out.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    for i, history in enumerate(HISTORIES):
        want = {r.term_id: r.score for r in grlm.recommend(history, 12 - len(options.get("exclude", ())), **options)}
        assert texts[i * k : (i + 1) * k] == ["[" + ", ".join(t) + "]\n" for t in list(want)[:k]]
        assert all(close(a, b) for a, b in zip(out.sequences_scores[i * k : (i + 1) * k].tolist(), want.values(), strict=False))


def test_a_model_loaded_with_its_code_recommends_by_itself(repo: str) -> None:
    lm = AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True)
    grlm = GRLMForRecommendation.from_pretrained(repo)
    prompt = grlm.prompt_tokens(["i20"])
    text = grlm.tokenizer.decode(lm.generate(input_ids=prompt)[0, prompt.shape[1] :], skip_special_tokens=True)
    assert text == "[" + ", ".join(grlm.recommend(["i20"], 1)[0].term_id) + "]\n"


def test_fewer_allowed_than_asked_for_end_at_once(repo: str, lm: Any) -> None:
    grlm = GRLMForRecommendation.from_pretrained(repo)
    prompt = grlm.prompt_tokens(["i20"])
    out = lm.generate(
        input_ids=prompt, custom_generate=generate, num_return_sequences=3, allow=[IDS[0], IDS[3]], return_dict_in_generate=True
    )
    assert out.sequences_scores.isfinite().tolist() == [True, True, False]
    assert out.sequences[2, prompt.shape[1]] == grlm.tokenizer.eos_token_id


def test_the_models_memory_is_given_back(repo: str) -> None:
    lm = AutoModelForCausalLM.from_pretrained(repo)
    lm.generate(input_ids=torch.tensor([[5, 6]]), custom_generate=generate)
    gone = weakref.ref(lm)
    del lm
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "has no do_sample=True"),
        ({"temperature": 0.5}, "has no temperature=0.5"),
        ({"num_beams": 2, "num_return_sequences": 5}, "num_beams=2; expected 5"),
        ({"num_beams": 99}, "num_beams=99"),
        ({"num_return_sequences": 99}, "num_return_sequences=99; expected 1 to 11"),
        ({"logits_processor": LogitsProcessorList([MinLengthLogitsProcessor(3, 1)])}, "applies no logits processors"),
        ({"allow": ["nope"]}, "Item 'nope' is not in the catalog"),
        ({"top_k": 1}, "has no top_k=1"),
        ({"min_p": 0.5}, r"has no min_p=0\.5"),
        ({"no_repeat_ngram_size": 2}, "has no no_repeat_ngram_size=2"),
        ({"early_stopping": True}, "has no early_stopping=True"),
        ({"output_scores": True}, "has no output_scores=True"),
        ({"max_new_tokens": 1}, r"The token limit leaves 1 new tokens; the longest identifier and EOS have \d+"),
        ({"max_length": 4}, "The token limit leaves 2 new tokens"),
        ({"exlude": ["i20"]}, "has no exlude="),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(1.0)])}, "leave out MaxTimeCriteria"),
        ({"generation_config": GenerationConfig(do_sample=True, top_p=0.9)}, "has no do_sample=True"),
    ],
)
def test_refuses_what_the_search_does_not_have(repo: str, lm: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.generate(torch.tensor([[5, 6]]), custom_generate=repo, trust_remote_code=True, **options)


@pytest.mark.parametrize(
    "options", [{"do_sample": True}, {"top_k": 1, "do_sample": True}, {"repetition_penalty": 1.3}, {"max_new_tokens": 1}]
)
def test_a_callable_refuses_the_same_by_name(lm: Any, options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(
        ValueError, match=f"has no ({'|'.join(options)})=" if name != "max_new_tokens" else "The token limit leaves 1 new tokens"
    ):
        lm.generate(torch.tensor([[5, 6]]), custom_generate=generate, **options)


def test_a_model_without_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say where it was loaded from"):
        generate(toy_model(), torch.tensor([[5, 6]]))
    toy_model().save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="it is not a GRLM checkpoint"):
        generate(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"), torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="needs input_ids"):
        generate(toy_model())
