"""A real pretrained model on vLLM. Runs in vLLM's own environment: ``make test-vllm``, which downloads the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import toy_catalog
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash

FOLDER = os.environ.get("GRLM_SMOLLM2", "")
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not FOLDER, reason="no pretrained model; make test-vllm downloads it")]
IDS = [item.item_id for item in toy_catalog()]


def test_a_pretrained_model_recommends_on_vllm_as_on_transformers(tmp_path: Path, kept: list[Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    config = GRLMConfig(4, prompt_hash("term_ids"), tokenizer_hash(tokenizer), "vocabulary", "term_ids")
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")
    GRLMForRecommendation(model, tokenizer, toy_catalog(), config).save_pretrained(tmp_path / "checkpoint")
    engine = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "num_gpu_blocks_override": 512}
    kept.append(GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint", backend="vllm", **engine))
    ours, theirs = (g.recommend([IDS[:3], IDS[4:6]], 5) for g in (kept[-1], GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")))
    for one, other in zip(ours, theirs, strict=True):
        assert {r.item_id for r in one} <= set(IDS)
        np.testing.assert_allclose([r.log_prob for r in one], [r.log_prob for r in other], atol=1e-2)
