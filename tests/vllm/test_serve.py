"""``grlm serve`` on vLLM's engine, beside transformers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from toys import toy_catalog, toy_grlm

from grlm_hf import GRLMForRecommendation

pytestmark = pytest.mark.vllm
IDS = [i.item_id for i in toy_catalog()]


def test_the_service_answers_on_the_engine_as_recommend_does(tmp_path: Path, kept: list[Any]) -> None:
    from fastapi.testclient import TestClient

    from grlm_hf.serving import ServeOptions, Service, make_app

    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    grlm = GRLMForRecommendation.from_pretrained(
        tmp_path / "checkpoint", backend="vllm", dtype="float32", enforce_eager=True, max_model_len=512, num_gpu_blocks_override=256
    )
    kept.append(grlm)
    service = Service(grlm, ServeOptions(max_wait_ms=20, allowed_hosts=("testserver",)))
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(8) as pool:

        def ask(n: int) -> Any:
            return client.post("/recommend", json={"history": IDS[n : n + 3], "k": 4, "exact": n % 2 == 0}).json()

        answers = list(pool.map(ask, range(8)))
        for n, answer in enumerate(answers):
            expected = toy_grlm("trie").recommend(IDS[n : n + 3], 4, exact=n % 2 == 0)
            assert [r["item_id"] for r in answer["results"][0]["items"]] == [r.item_id for r in expected]
        added = client.post("/items", json={"items": [{"item_id": "new", "title": "A mug"}], "term_ids": [["mug", "tent", "red"]]})
        assert added.status_code in (200, 201)
        only = client.post("/recommend", json={"history": ["new"], "k": 1, "allow": ["new"]}).json()
        assert [r["item_id"] for r in only["results"][0]["items"]] == ["new"]
