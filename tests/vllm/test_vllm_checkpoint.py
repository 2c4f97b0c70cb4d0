"""A checkpoint is an ordinary causal LM to vLLM. Runs in vLLM's own environment: ``make test-vllm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import toy_catalog, toy_grlm

from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tokens import identifier_tokens

pytestmark = pytest.mark.vllm
IDS = [i.item_id for i in toy_catalog()]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, kept: list[Any]) -> Any:
    from vllm import LLM

    folder: Path = tmp_path_factory.mktemp("vllm") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    kept.append(LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=512, max_logprobs=32, num_gpu_blocks_override=256))
    return kept[-1]


def test_vllm_scores_identifiers_as_recommend_does(engine: Any) -> None:
    from vllm import SamplingParams

    grlm = toy_grlm()
    history = IDS[:3]
    prompt = grlm.prompt_tokens(history)[0].tolist()
    paths = dict(zip(grlm.catalog.identifiers, identifier_tokens(grlm.tokenizer, TERMS, grlm.catalog.identifiers), strict=True))
    answers = grlm.recommend(history, len(IDS))
    requests = [{"prompt_token_ids": [*prompt, *paths[r.term_id]]} for r in answers]
    outputs = engine.generate(requests, SamplingParams(max_tokens=1, prompt_logprobs=1, temperature=0), use_tqdm=False)
    for answer, request, output in zip(answers, requests, outputs, strict=True):
        tokens = request["prompt_token_ids"]
        score = sum(output.prompt_logprobs[i][tokens[i]].logprob for i in range(len(prompt), len(tokens)))
        assert score == pytest.approx(answer.score, abs=1e-3)


def test_greedy_text_is_that_of_transformers(engine: Any) -> None:
    from vllm import SamplingParams

    grlm = toy_grlm()
    prompt = grlm.prompt_tokens(IDS[4:7])
    with torch.no_grad():
        ours = grlm.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)
    (output,) = engine.generate(
        [{"prompt_token_ids": prompt[0].tolist()}], SamplingParams(max_tokens=24, temperature=0), use_tqdm=False
    )  # fmt: skip
    assert list(output.outputs[0].token_ids) == ours[0, prompt.shape[1] :].tolist()
