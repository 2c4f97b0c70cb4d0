"""One recipe with several seeds, and the summary of their reports."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from grlm_hf.evaluation.saved import Saved, rankings_of
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.seeds import Summary, save_summary, summarised
from grlm_hf.files import only_writer, read_json, replacing, write_json
from grlm_hf.layout import NEIGHBORS_FILE, SEEDS_FILE
from grlm_hf.recipe import Recipe
from grlm_hf.stages.chain import run

_SHARED = {"neighbors": NEIGHBORS_FILE, "terms": "catalog", "quality": "quality"}
"""Stages that no seed changes, and what each writes."""


def run_seeds(recipe: Recipe, number: int, say: Callable[[str], None] = print) -> Summary:
    """Runs a recipe with the seeds `recipe.seed`, `recipe.seed` + 1, …, each in ``OUTPUT/seed-N``, and summarises their reports in
    ``OUTPUT/seeds.json`` and ``seeds.md``.

    The identifiers depend on no seed: the first run makes them, the others take them over. Rankings are kept, for the tests by user.
    Finished stages are kept, so an interrupted call goes on where it stopped.

    Raises:
        ValueError: fewer than two seeds; a recipe that ends before the evaluation, or that is one part of several; and as `run`.
    """
    if number < 2:
        raise ValueError(f"--seeds is {number}; expected at least 2. For one seed, run the recipe without it.")
    if recipe.until != "evaluate":
        raise ValueError(f"--seeds summarises reports, and the recipe ends with {recipe.until!r}; expected until=evaluate.")
    if recipe.terms.llm.part:
        raise ValueError("--seeds needs a whole run; write the parts first: grlm run RECIPE --set until=terms --set terms.llm.part=…")
    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    out = Path(recipe.output)
    reports: dict[int, Report] = {}
    saved: dict[int, Saved] = {}
    with only_writer(out):
        out.mkdir(parents=True, exist_ok=True)
        first = out / f"seed-{recipe.seed}"
        for seed in range(recipe.seed, recipe.seed + number):
            folder = out / f"seed-{seed}"
            if reports:
                take_over(first, folder, _SHARED)
            say(f"seed {seed} → {folder}")
            one = replace(recipe, seed=seed, output=str(folder), evaluate=replace(recipe.evaluate, save_rankings=True))
            report = run(one, say)
            assert isinstance(report, Report)
            reports[seed] = report
            if (rankings := rankings_of(folder / "report.json", report)) is not None:
                saved[seed] = rankings
        summary = summarised(reports, saved if len(saved) == number else None, recipe.evaluate.stated_pairs())
        save_summary(summary, out / SEEDS_FILE)
    return summary


def take_over(first: Path, folder: Path, shared: Mapping[str, str]) -> None:
    """Copies the results of the `shared` stages (stage → what it writes) and their records, where they are not the same already."""
    for stage, name in shared.items():
        record, there = (place / ".grlm" / f"{stage}.json" for place in (first, folder))
        if not record.is_file() or (there.is_file() and read_json(there) == read_json(record)):
            continue
        there.unlink(missing_ok=True)
        with replacing(folder / name) as new:
            (shutil.copytree if (first / name).is_dir() else shutil.copyfile)(first / name, new)
        write_json(there, read_json(record))
