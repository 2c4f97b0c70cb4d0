"""The causal engine keeps the protocol; what no engine runs is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from engine_checks import check_engine
from toys import random_grlm, random_history, toy_grlm, toy_model
from transformers import T5Config, T5ForConditionalGeneration

from grlm_hf.engines.causal import CausalEngine
from grlm_hf.engines.choose import engine_of
from grlm_hf.engines.protocol import Engine


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("lookahead", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_causal_engine(seed: int, lookahead: int | None, objective: str) -> None:
    rng = random.Random(seed)
    grlm = random_grlm(rng, objective)
    histories = [random_history(rng, grlm.catalog) for _ in range(3)]
    check_engine(CausalEngine(grlm.model), grlm, histories, lookahead)


def test_which_engine_runs_what() -> None:
    model = toy_model()
    engine = engine_of(model)
    assert isinstance(engine, CausalEngine)
    assert engine_of(engine) is engine
    assert engine.language_model("x") is model
    assert toy_grlm().engine.max_length == 512
    tiny = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder model; expected a causal"):
        engine_of(tiny)
    with pytest.raises(ValueError, match="Found a model of type str; expected a causal LM of transformers, or an Engine"):
        engine_of("Qwen/Qwen3-0.6B")


class Keeps(Engine):
    """An engine that gives no access to its model."""

    name = "the toy engine"
    vocabulary = 1000
    max_length = None

    def prefixes(self, *_: Any, **__: Any) -> Any:
        raise ValueError("not needed")


def test_an_engine_that_keeps_the_model_says_so() -> None:
    grlm = toy_grlm()
    kept = type(grlm)(Keeps(), grlm.tokenizer, grlm.catalog, grlm.config)
    assert kept.device == torch.device("cpu")
    for call in (lambda: kept.explain(["i20"], "i19"), lambda: kept.save_pretrained("nowhere"), lambda: kept.to("cpu"), lambda: kept.model):
        with pytest.raises(ValueError, match=r"which the toy engine keeps; load the checkpoint with backend='transformers'"):
            call()
