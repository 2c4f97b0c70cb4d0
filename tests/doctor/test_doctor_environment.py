"""The environment: versions against declared ranges, what does not import, and no secrets; and how findings are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from grlm_hf.doctor import environment
from grlm_hf.doctor.environment import compare_libraries, examine_environment
from grlm_hf.doctor.findings import Finding, examined, run_checks, text_report


@pytest.mark.parametrize(
    ("declared", "python", "wanted"),
    [
        (["numpy>=1", "torch>=2"], ">=3.11", []),
        (["numpy<1"], "", [("error", "library-version", "numpy")]),
        (["no-such-library>=2"], "", [("error", "library-missing", "no-such-library>=2")]),
        (['no-such-library>=2; extra == "terms"'], "", []),
        (['numpy<1; extra == "terms"', 'numpy<1; extra == "dev"'], "", [("warning", "library-version", "numpy")]),
        (['numpy<1; sys_platform == "amiga"', "]broken["], "", []),
        (["numpy>=1"], "<3", [("error", "python", "Python 3")]),
    ],
)
def test_libraries(declared: list[str], python: str, wanted: list[tuple[str, str, str]]) -> None:
    found = list(compare_libraries(declared, python, {}))
    assert [(f.level, f.check) for f in found] == [w[:2] for w in wanted]
    assert all(w[2] in f.found for f, w in zip(found, wanted, strict=True))


def test_extras_that_are_whole_and_others() -> None:
    facts: dict[str, Any] = {}
    list(compare_libraries(['numpy; extra == "terms"', 'no-such; extra == "gpu"', 'numpy; extra == "gpu"'], "", facts))
    assert facts["extras"] == "terms"
    assert facts["extras not installed"] == "gpu (no-such)"


def test_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that the tests are made for; of the token it says only that there is one."""
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    said = examine_environment()
    assert not said.of("error")
    assert "token present" in said.facts["Hub"]
    assert "secretsecret" not in json.dumps(asdict(said), default=str) + text_report(said)
    assert said.facts["numpy"] == metadata.version("numpy")


def test_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(environment._disk({})) == []
    monkeypatch.setattr(environment, "_LOW", float("inf"))
    assert {(f.level, f.check) for f in environment._disk({})} == {("warning", "disk")}
    monkeypatch.setattr(environment, "_FULL", float("inf"))
    assert {(f.level, f.check) for f in environment._disk({})} == {("error", "disk")}


def test_a_vllm_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {}
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (one,) = environment._vllm(facts)
    assert (one.level, one.check) == ("warning", "vllm")
    assert "torchvision::nms" in one.found
    assert facts["vLLM"] == "installed, does not import"


def test_a_check_that_fails_is_a_finding() -> None:
    def breaks(_: int) -> list[Finding]:
        raise KeyError("lost")

    def finds(_: int) -> list[Finding]:
        return [Finding("info", "a", "b", "c", "d")]

    first, second = run_checks([breaks, finds], 1)
    assert (first.level, first.check) == ("error", "not-examined")
    assert "KeyError: 'lost'" in first.found
    assert second.check == "a"


def test_the_text() -> None:
    findings = [Finding("info", "a-note", "found", "why", "fix", "where"), Finding("error", "bad", "x " * 200, "y " * 100, "z")]
    said = examined("folder", "checkpoint", {"model": "qwen3", "weights": 3}, findings)
    assert [f.level for f in said.findings] == ["error", "info"]
    text = text_report(said)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "checkpoint folder"
    assert text.splitlines()[-1] == "1 error, 1 note"
    assert max(map(len, text.splitlines())) <= 110
    assert re.sub(r"\x1b\[[0-9;]*m", "", text_report(said, colour=True)) == text
    assert "\x1b[31merror\x1b[0m" in text_report(said, colour=True)
    assert text_report(examined("f", "catalog", {}, [])).endswith("No problems found.")


def test_importing_it_is_light() -> None:
    """The environment is examined where libraries are missing or broken, too: none is loaded before its check."""
    heavy = ("torch", "transformers", "datasets", "pyarrow")
    code = f"import sys, grlm_hf.cli.doctor, grlm_hf.doctor; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600)
    assert run.stdout == "[]\n", run.stderr
