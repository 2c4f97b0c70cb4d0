"""The figures of README and docs are those of the report files, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from toys import toy_catalog, toy_grlm

import grlm_hf
from grlm_hf import Catalog
from grlm_hf.evaluation.report import load_report
from grlm_hf.evaluation.report.tables import Table, methods_table
from grlm_hf.files import read_json
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.indexing.quality.report import markdown_table as quality_table
from grlm_hf.tasks.examples import Example, Span
from grlm_hf.tasks.task import Inputs, PromptSettings, TaskSettings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("quality-beauty", "docs/benchmarks.md"),
        ("quality-sports", "docs/benchmarks.md"),
        ("quality-beauty-taught", "docs/benchmarks.md"),
        ("quality-industrial", "docs/benchmarks.md"),
        ("quickstart", "docs/benchmarks.md"),
        ("beauty-cpu", "docs/benchmarks.md"),
        ("beauty-cpu-extracted", "docs/benchmarks.md"),
    ],
)
def test_the_tables_of_the_reports(name: str, page: str) -> None:
    report = load_report(ROOT / "benchmarks" / "results" / f"{name}.json")
    assert methods_table(report).markdown() in (ROOT / page).read_text(encoding="utf-8")


def test_the_table_of_the_readme() -> None:
    """Four methods and four metrics of the report of Amazon Beauty, and its numbers of users and items."""
    report = load_report(ROOT / "benchmarks" / "results" / "quality-beauty.json")
    whole = methods_table(report)
    columns = [whole.head.index(name) for name in ("method", "recall@5", "recall@10", "ndcg@10", "coverage")]
    methods = ("grlm", "grlm+sasrec+item_knn+text_knn", "item_knn", "sasrec+item_knn+text_knn")
    rows = tuple(tuple(row[c] for c in columns) for row in whole.rows if row[0].text in methods)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert Table("", tuple(whole.head[c] for c in columns), rows).markdown() in readme
    assert f"all {report.protocol.users:,} users, all {report.protocol.candidates:,} items ranked" in readme


def test_the_readme_is_read_in_a_minute() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 45


def test_the_benchmarks_are_those_of_the_result_files() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    assert page == (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), "python benchmarks/page.py"
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):  # none is forgotten; these two stand in datasets.md and evaluation.md
        assert f"results/{path.name}" in page or path.stem in ("identifiers-beauty", "cross-domain")


def test_the_table_of_the_identifiers_quality() -> None:
    kept = read_json(ROOT / "benchmarks" / "results" / "identifiers-beauty.json")
    assert quality_table(kept) in (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", t).strip().lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in (part.split(")")[0] for part in text.split("](")[1:]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r": ([\w-]+\.md)$", nav, re.MULTILINE)
    assert sorted(named) == sorted([*(p.name for p in (ROOT / "docs").glob("*.md")), "CONTRIBUTING.md", "CHANGELOG.md"])


def test_the_table_of_one_model_for_two_domains() -> None:
    spec = importlib.util.spec_from_file_location("cross_domain", ROOT / "benchmarks" / "quality" / "cross_domain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = read_json(ROOT / "benchmarks" / "results" / "cross-domain.json")
    assert module.markdown(kept["rows"]) in (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_picture_of_the_trie_can_be_drawn(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("trie_picture", ROOT / "docs" / "trie.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    grlm = toy_grlm("trie")
    grlm.save_pretrained(tmp_path / "checkpoint")
    module.main(str(tmp_path / "checkpoint"), "i20,i15", tmp_path / "trie.svg")
    drawn = ElementTree.parse(tmp_path / "trie.svg").getroot()
    texts = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "history"
    found = {r.identifier for r in grlm.recommend(["i20", "i15"], 6, num_beams=11, edge_wise=True)}
    assert len({text.split(" → ")[1] for text in texts if " → " in text}) == len(found) > 4


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_where_to_change_what() -> None:
    """Each row of the table names one file or folder, and a test; all of them exist, as do the tests named in a file."""
    table = CONTRIBUTING.split("## Where do I change …?", 1)[1].split("\n### ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    for what, where, _, test in rows:
        code = re.fullmatch(r"`([\w/.]+)`", where)
        assert code, f"{what}: {where!r} is not one path"
        found = re.fullmatch(r"`(tests/[\w/]+\.py)(?:: (\w+))?`", test)
        assert found, f"{what}: {test!r} is not one test"
        assert f"def {found[2] or ''}" in (ROOT / found[1]).read_text(encoding="utf-8"), test
    assert len({where for _, where, *_ in rows}) == len(rows)


def test_what_contributing_names_exists() -> None:
    text = re.sub(r"^```.*?^```", "", CONTRIBUTING, flags=re.MULTILINE | re.DOTALL)
    paths = {path for path in re.findall(r"`([\w.]+/[\w/.-]*)(?:: \w+)?`", text) if not path.startswith(".ci")}
    rooms = text.split("## Rooms", 1)[1]
    assert len(paths) > 60
    assert [p for p in paths if not (ROOT / p).exists() and not (f"`{p}`" in rooms and (ROOT / "grlm_hf" / p).exists())] == []
    named = re.findall(r"`(\w[\w/]*\.py): (\w+)`", text) + re.findall(r"`(\w+)` (?:of|in) `(\w[\w/]*\.py)`", text)
    assert len(named) > 10
    for one, other in named:
        path, name = (one, other) if one.endswith(".py") else (other, one)
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{path} has no {name}"


def test_the_example_of_a_task_makes_examples() -> None:
    code = next(block for block in re.findall(r"^```python\n(.*?)^```", CONTRIBUTING, re.MULTILINE | re.DOTALL) if "Task(" in block)
    namespace: dict[str, Any] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    toys = toy_catalog()
    catalog = Catalog([replace(item, price=None if n else 9.5) for n, item in enumerate(toys)], toys.term_ids)
    found = [s.make(s.items, 0) for s in namespace["PRICE"].sources(Inputs(catalog, (), PromptSettings(), TaskSettings()))]
    assert found == [
        Example("price", "i20", "An item for 9.50", (Span(TERMS.line(toys.term_ids[0]), "identifiers"),)),
        *["no price"] * (len(toys) - 1),
    ]


def test_what_contributing_says_of_the_checks() -> None:
    """Every target of `.ci/run` is named where CONTRIBUTING says what it runs, and every target that it names exists."""
    script, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "Makefile"))
    run = {word for call in re.findall(r"^make (.*)$", script, re.MULTILINE) for word in call.split() if not word.startswith("-")}
    said = re.search(r"^`\.ci/run` is what every change must pass: (.*?)\. ", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert said
    assert set(re.findall(r"`make ([\w-]+)`", said[1])) == run
    called = re.findall(r"^make ([a-z -]+?) *(?:#|$)|`make ([a-z-]+)`", CONTRIBUTING, re.MULTILINE)
    named = {word for call in called for word in " ".join(call).split()}
    assert {"test", "lint", "test-gpu"} < named
    assert named <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_the_reference_lists_the_public_names() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^from grlm_hf import (.*)$", text, re.MULTILINE)
    assert sorted(", ".join(listed).split(", ")) == sorted(set(grlm_hf.__all__) - {"__version__"})
    for name in set(grlm_hf.__all__) - {"__version__"}:
        home = getattr(grlm_hf, name)
        assert f"::: {home.__module__}.{name}\n" in text


def test_the_changes_name_what_exists() -> None:
    """Each name of the package in the right column of the table of changed names."""
    table = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("| before | now |", 1)[1].split("\n\n", 1)[0]
    named = [name for line in table.splitlines() for name in re.findall(r"`(grlm_hf\.[\w.]+)`", line.rsplit(" | ", 1)[-1])]
    assert len(named) > 15
    for name in named:
        pkgutil.resolve_name(name)
