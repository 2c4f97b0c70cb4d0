"""Terms written by vLLM: the conformance test of every back end, and the same answers as transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
from writer_toys import ITEMS, check_writer, save_toy_llm

from grlm_hf.identifiers.terms import validate
from grlm_hf.indexing.generate import LLMConfig, generate_terms
from grlm_hf.indexing.neighbors import find_neighbors
from grlm_hf.llms.writers import make_writer

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_toy_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def writer(llm: str, kept: list[Any]) -> Any:
    kept.append(make_writer("vllm", llm, dtype="float32", max_model_len=2048, eager=True))
    return kept[-1]


def test_vllm_keeps_the_form_and_is_deterministic(writer: Any) -> None:
    check_writer(writer)


def test_both_back_ends_write_the_same_identifiers(writer: Any, llm: str, tmp_path: Any) -> None:
    config, neighbors = LLMConfig(model="toy", shard_size=4), find_neighbors(ITEMS, 3)
    made = [
        generate_terms(ITEMS, neighbors, w, tmp_path / str(n), 5, config)
        for n, w in enumerate((writer, make_writer("transformers", llm, dtype="float32")))
    ]
    assert made[0] == made[1]
    assert all(len(set(validate(tid, 5))) == 5 for tid in made[0].term_ids)
