"""What examples/ and docs/vllm.md show on vLLM. Runs in vLLM's own environment: ``make test-vllm``."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toys import toy_catalog, toy_model, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "num_gpu_blocks_override": 256}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint under the names that the page gives it, some of the items being the page's."""
    toys = toy_catalog()
    named = dict(zip(range(4), ("B0366", "B0260", "B00A", "B00B"), strict=True))
    catalog = Catalog([replace(i, item_id=named.get(n, i.item_id)) for n, i in enumerate(toys)], toys.term_ids)
    for name in ("checkpoint", "grlm-quickstart/checkpoint"):
        GRLMForRecommendation(toy_model(), toy_tokenizer(), catalog).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example(here: Path, kept: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("constrained_vllm", ROOT / "examples" / "constrained_vllm.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept.append(module.main(str(here / "checkpoint"), **ENGINE))
    assert re.search(r"^held: \[.*\]$", capsys.readouterr().out, re.MULTILINE)


def test_the_page(here: Path, kept: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python in order, the engines being small ones."""
    import vllm

    monkeypatch.setattr(vllm, "LLM", partial(vllm.LLM, **ENGINE))
    text = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == 3
    namespace: dict[str, Any] = {}
    for n, code in enumerate(found):
        exec(compile(code, f"docs/vllm.md, block {n}", "exec"), namespace)
        kept.append((namespace.get("llm"), namespace["grlm"]))
    out = namespace["llm"].generate([{"prompt_token_ids": namespace["grlm"].prompt_tokens(["B0366"])[0].tolist()}], namespace["params"])
    assert out[0].outputs[0].text.startswith("[")
