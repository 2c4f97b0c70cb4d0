"""Every search on vLLM's engine gives what it gives on a model of transformers. Runs in vLLM's own environment: ``make test-vllm``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.items import Item
from grlm_hf.evaluation.generative import write_freely

pytestmark = pytest.mark.vllm
IDS = [i.item_id for i in toy_catalog()]
HISTORIES = [IDS[:3], IDS[2:7], [IDS[5]], IDS[:1] * 4, IDS[::-1][:6], IDS[:3]]
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "num_gpu_blocks_override": 512}
ASKED = {
    "beams": {},
    "fewer beams": {"num_beams": 3},
    "edges": {"edge_wise": True},
    "exact": {"exact": True},
    "rules": {"exclude_seen": True, "allow": IDS[::2]},
    "prior": {"prior": {IDS[0]: 0.2, IDS[3]: 3.0}, "prior_weight": 0.5},
    "length": {"length_penalty": 0.7},
}


def same(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert [(r.item_id, r.term_id) for r in one] == [(r.item_id, r.term_id) for r in other]
        np.testing.assert_allclose([r.score for r in one], [r.score for r in other], atol=1e-3)
        np.testing.assert_allclose([r.log_prob for r in one], [r.log_prob for r in other], atol=1e-3)


@pytest.fixture(scope="module", params=["vocabulary", "trie"])
def saved(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("vllm") / "checkpoint"
    toy_grlm(objective=request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def both(saved: Path, kept: list[Any]) -> Any:
    kept.append(GRLMForRecommendation.from_pretrained(saved, backend="vllm", **ENGINE))
    return GRLMForRecommendation.from_pretrained(saved), kept[-1]


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_all_searches_are_those_of_transformers(both: Any, asked: Any) -> None:
    grlm, engine = both
    k = 3 if "num_beams" in asked else len(asked.get("allow", IDS)) - 1
    same(engine.recommend(HISTORIES, k, **asked), grlm.recommend(HISTORIES, k, **asked))
    same(engine.recommend(HISTORIES, k, **asked), grlm.recommend(HISTORIES, k, **asked))  # now all of it is in the prefix cache


def test_samples_are_those_of_transformers(both: Any) -> None:
    grlm, engine = both
    for seed in range(3):
        same(engine.sample(HISTORIES, 5, temperature=1.5, seed=seed), grlm.sample(HISTORIES, 5, temperature=1.5, seed=seed))


def test_nodes_of_many_children_take_several_requests(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grlm, engine = both
    monkeypatch.setattr("grlm_hf.vllm.prefixes.MAX_CHILDREN", 2)
    same(engine.recommend(HISTORIES, 5), grlm.recommend(HISTORIES, 5))


def test_a_catalog_lives_on_an_engine_too(both: Any) -> None:
    grlm, engine = both
    new = Item("new", "A green mug for the tent")
    term_id = ("mug", "tent", "green", "light", "small")
    for one in (grlm, engine):
        one.add_items([new], [term_id])
    try:
        same(engine.recommend(HISTORIES, 10), grlm.recommend(HISTORIES, 10))
        assert [r.item_id for r in engine.recommend(["new", IDS[0]], 1, allow=["new"])] == ["new"]
    finally:
        for one in (grlm, engine):
            one.remove_items(["new"])


def test_a_running_engine_recommends(both: Any) -> None:
    from grlm_hf.vllm import recommend, sample

    grlm, engine = both
    same([recommend(engine.engine.llm, HISTORIES[0], 4)], [grlm.recommend(HISTORIES[0], 4)])
    same(sample(engine.engine.llm, HISTORIES, 4, seed=1), grlm.sample(HISTORIES, 4, seed=1))


def test_engines_of_others_do_too(saved: Path, both: Any, kept: list[Any]) -> None:
    """One without our forced tokens, whose prompts are prefilled; and one whose every request is held to the catalog, where vLLM's own beam
    search finds what ours does."""
    from stock_beams import beam_search
    from vllm import LLM

    from grlm_hf.vllm import recommend

    grlm, _ = both
    always = {"max_logprobs": 40, "additional_config": {"grlm": {"constrain": "always"}}, "num_gpu_blocks_override": 64}
    kept.append(LLM(str(saved), **ENGINE | always, block_size=32))
    for _ in range(2):  # the second time the runs are in the prefix cache
        same(recommend(kept[-1], HISTORIES, 5), grlm.recommend(HISTORIES, 5))
    with pytest.raises(ValueError, match="processed_logits"):
        beam_search(kept[-1], HISTORIES, 5)
    kept.append(LLM(str(saved), **ENGINE | always, logprobs_mode="processed_logits"))
    same(beam_search(kept[-1], HISTORIES, 5), grlm.recommend(HISTORIES, 5))
    same([beam_search(kept[-1], HISTORIES[0], 3)], [grlm.recommend(HISTORIES[0], 3)])
    with pytest.raises(ValueError, match="logprobs_mode='processed_logits'"):
        recommend(kept[-1], HISTORIES, 5)


def test_what_an_engine_cannot_do_is_said(both: Any, tmp_path: Path) -> None:
    _, engine = both
    for call in (
        lambda: engine.save_pretrained(tmp_path / "x"),
        lambda: engine.explain(IDS[:2], IDS[3]),
        lambda: write_freely(engine, IDS[:2]),
    ):
        with pytest.raises(ValueError, match="backend='transformers'"):
            call()
    with pytest.raises(ValueError, match="history is empty"):
        engine.recommend([], 3)


def test_an_engine_without_log_probabilities_is_refused() -> None:
    from types import SimpleNamespace

    from grlm_hf.vllm.engine import VLLMEngine

    config = SimpleNamespace(logprobs_mode="raw_logits", logits_processors=None, get_vocab_size=lambda: 300, max_model_len=512)
    engine = VLLMEngine(SimpleNamespace(llm_engine=SimpleNamespace(model_config=config)))
    with pytest.raises(ValueError, match="logprobs_mode='raw_logits'"):
        GRLMForRecommendation(engine, toy_tokenizer(), toy_catalog()).recommend(IDS[:2], 3)


def test_the_quickstart_recommends_on_vllm_as_on_transformers(kept: list[Any]) -> None:
    """The checkpoint that ``make test-vllm`` has made; 32 users of its data."""
    folder = Path(os.environ["GRLM_QUICKSTART"]) / "checkpoint"
    grlm = GRLMForRecommendation.from_pretrained(folder)
    kept.append(GRLMForRecommendation.from_pretrained(folder, backend="vllm", **ENGINE))
    ids = [i.item_id for i in grlm.catalog.items]
    histories = [[ids[(7 * user + 31 * n) % len(ids)] for n in range(1 + user % 12)] for user in range(32)]
    for how in ({}, {"edge_wise": True}, {"exact": True, "exclude_seen": True}):
        same(kept[-1].recommend(histories, 10, **how), grlm.recommend(histories, 10, **how))


@pytest.mark.parametrize("lookahead", [None, 2])
def test_the_engine_keeps_the_protocol(both: Any, lookahead: int | None) -> None:
    from engine_checks import check_engine

    grlm, engine = both
    check_engine(engine.engine, grlm, HISTORIES[:4], lookahead)
