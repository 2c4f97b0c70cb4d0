"""Which work a run removes, and who may run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grlm_hf.data.sample import write_sample
from grlm_hf.files import only_writer
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.recipe import Recipe
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
