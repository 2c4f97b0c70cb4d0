"""Which work a run removes, and who may run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grlm_hf.cli.app import app
from grlm_hf.data.catalog import Catalog
from grlm_hf.data.sample import write_sample
from grlm_hf.files import only_writer
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.recipe import QualityConfig, Recipe, TermsConfig
from grlm_hf.stages import run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_sample(tmp_path / "data", users=30)
    return Recipe(data=str(tmp_path / "data"), output=str(tmp_path / "run"), until="quality", neighbors=NeighborsConfig(k=3))


def test_a_run_removes_no_unfinished_work_of_another_stage_or_run(recipe: Recipe) -> None:
    """An interrupted training stays when somebody looks at an earlier stage, also with other settings."""
    state = Path(recipe.output) / ".grlm"
    kept = [
        state / f"{name}-0123456789abcdef" / "checkpoint-6" for name in ("train", "evaluate", "priors", "sequence", "neighbors", "terms")
    ]
    for folder in kept:
        folder.mkdir(parents=True)
    run(recipe, lambda _: None)
    run(recipe, lambda _: None)
    run(replace(recipe, seed=1, until="dataset"), lambda _: None)
    assert all(folder.is_dir() for folder in kept)


def test_two_runs_in_one_folder(recipe: Recipe) -> None:
    with only_writer(recipe.output), pytest.raises(ValueError, match=r"run is being written by process .*choose another output"):
        run(recipe, lambda _: None)
    run(recipe, lambda _: None)


def test_each_stage_says_what_it_found_and_how_long_it_took(recipe: Recipe) -> None:
    said: list[str] = []
    run(recipe, said.append)
    assert [line.split(":")[0] for line in said] == [name for name in ("neighbors", "terms", "quality") for _ in range(2)]
    assert said[0] == "neighbors: → neighbors.parquet"
    assert all(re.search(r" \(\d+\.\d (s|min)\)$", line) for line in said[1::2])
    catalog = Catalog.from_pretrained(Path(recipe.output) / "catalog")
    shared = sum(len(items) for items in catalog.collisions.values())
    assert said[1].startswith(f"neighbors: {len(catalog)} items, up to 3 neighbours each (")
    assert said[3].startswith(f"terms: {len(catalog)} items, {shared} share an identifier (")
    said.clear()
    run(recipe, said.append)
    assert said == [f"{name}: unchanged, kept" for name in ("neighbors", "terms", "quality")]


def test_a_dry_run_says_what_would_run_and_writes_nothing(recipe: Recipe) -> None:
    def planned(**changes: Any) -> dict[str, str]:
        said: list[str] = []
        before = {p: p.stat().st_mtime_ns for p in Path(recipe.data).parent.rglob("*")}
        assert run(replace(recipe, **changes), said.append, dry_run=True) == {}
        assert {p: p.stat().st_mtime_ns for p in Path(recipe.data).parent.rglob("*")} == before
        return {stage: what.split(" →")[0] for stage, what in (line.split(": ", 1) for line in said)}

    stages = ("neighbors", "terms", "quality", "dataset", "priors", "train", "hybrid", "evaluate")
    assert planned(until="evaluate") == dict.fromkeys(stages, "will run")
    run(recipe, lambda _: None)
    kept, runs = "unchanged, kept", "will run"
    assert planned() == dict.fromkeys(stages[:3], kept)
    assert planned(until="dataset") == {**dict.fromkeys(stages[:3], kept), "dataset": runs}
    assert planned(terms=TermsConfig(n_terms=4)) == {"neighbors": kept, "terms": runs, "quality": runs}
    assert planned(neighbors=NeighborsConfig(k=2)) == dict.fromkeys(stages[:3], runs)
    assert planned(quality=QualityConfig(compare_name="x")) == {"neighbors": kept, "terms": kept, "quality": runs}


def test_the_plan_on_the_command_line(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("until: terms\nneighbors: {k: 3}\n")
    arguments = ["run", str(tmp_path / "r.yaml"), "--data", recipe.data, "--output", recipe.output, "--dry-run"]
    app(arguments, exit_on_error=False, result_action="return_value")
    assert capsys.readouterr().out == "neighbors: will run → neighbors.parquet\nterms: will run → catalog\n"
    app([*arguments, "--json"], exit_on_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out) == {"neighbors": "will run → neighbors.parquet", "terms": "will run → catalog"}
    assert not Path(recipe.output).exists()
