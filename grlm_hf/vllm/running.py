"""Recommending on a running ``vllm.LLM``, which may serve other requests at the same time."""

from __future__ import annotations

import weakref
from typing import Any

from grlm_hf.modeling.recommender import GRLMForRecommendation

_known: weakref.WeakKeyDictionary[Any, GRLMForRecommendation] = weakref.WeakKeyDictionary()


def of_engine(llm: Any) -> GRLMForRecommendation:
    """The recommender on a ``vllm.LLM`` with a GRLM checkpoint; always the same one, so that items added to it stay.

    Raises:
        ValueError: the engine serves another model, or reports no log-probabilities.
    """
    from grlm_hf.vllm.engine import VLLMEngine

    if llm not in _known:
        _known[llm] = GRLMForRecommendation.from_pretrained(llm.llm_engine.model_config.model, model=VLLMEngine(llm))
    return _known[llm]


def recommend(llm: Any, histories: Any, k: int = 10, **options: Any) -> Any:
    """`GRLMForRecommendation.recommend` on a running ``vllm.LLM``: same arguments, items and scores. It needs no logits processor.

    Each prompt and prefix is computed once and then comes from the engine's prefix cache. Only scores of legal children are requested.
    """
    return of_engine(llm).recommend(histories, k, **options)


def sample(llm: Any, histories: Any, n: int = 10, **options: Any) -> Any:
    """`GRLMForRecommendation.sample` on a running engine: `n` distinct items drawn at random, each prefix computed once."""
    return of_engine(llm).sample(histories, n, **options)
