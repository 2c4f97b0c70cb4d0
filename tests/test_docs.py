"""What README says is what the report files hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from grlm_hf.evaluation.report import load_report, markdown_table
from grlm_hf.files import read_json
from grlm_hf.identifiers.quality.report import markdown_table as quality_table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("quality-beauty", "README.md"),
        ("quality-sports", "docs/evaluation.md"),
        ("quickstart", "docs/evaluation.md"),
        ("beauty-cpu", "docs/evaluation.md"),
    ],
)
def test_the_tables_of_the_reports(name: str, page: str) -> None:
    report = load_report(ROOT / "benchmarks" / "results" / f"{name}.json")
    assert markdown_table({**report, "domains": {}}) in (ROOT / page).read_text(encoding="utf-8")


def test_the_table_of_the_decoding_goals() -> None:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "decoding" / "table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "decoding"))
        spec.loader.exec_module(module)
    assert module.table() in (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")


def test_the_table_of_the_identifiers_quality() -> None:
    report = load_report(ROOT / "benchmarks" / "results" / "beauty-cpu-extracted.json")
    assert markdown_table(report) in (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    kept = read_json(ROOT / "benchmarks" / "results" / "identifiers-beauty.json")
    assert quality_table(kept) in (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in (
    "datasets", "how-it-works", "decoding", "formats", "training", "evaluation",
))])  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    assert targets or page == "docs/formats.md"
    assert all(t.startswith("https://") or (ROOT / page).parent.joinpath(t.split("#")[0]).is_file() for t in targets)
