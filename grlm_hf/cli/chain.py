"""Verbs for all stages: quickstart, run and scale."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from grlm_hf.cli.app import Json, Settings, app, listing, quiet, say, show_quality
from grlm_hf.layout import SCALING_FILE, SEEDS_FILE

if TYPE_CHECKING:
    from grlm_hf.evaluation.schema import Report
    from grlm_hf.recipe import Recipe

_SHOWN = 8  # items of the history that a run shows at its end, so that the command below it can be pasted
_LOOKED_AT = 200  # test cases among which it is looked for


@app.command
def quickstart(*, output: Path = Path("grlm-quickstart"), set_: Settings = None, as_json: Json = False) -> None:
    """Run all stages on the included synthetic shop: Term IDs, dataset, training, evaluation. One to four minutes on two CPU cores.

    Parameters
    ----------
    output
        Folder that receives data/, catalog/, datasets/, checkpoint/, report.json and report.png.
    """
    from grlm_hf.stages import run
    from grlm_hf.stages.quickstart import quickstart_recipe

    quiet()
    recipe = quickstart_recipe(output, set_ or [])
    _show(run(recipe, say), recipe, as_json)


@app.command(name="run")
def run_(
    recipe: Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    seeds: int | None = None,
    set_: Settings = None,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list the stages: which would run, and which are kept.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe's stages: neighbors, terms, quality, dataset, priors, teacher, train, hybrid, evaluate.

    A finished stage with unchanged inputs and settings is kept.

    Example: `grlm run my-shop/recipe.yaml --output runs/my-shop --set train.epochs=3`. `grlm import` writes such a recipe.

    Parameters
    ----------
    recipe
        YAML file, such as one of `grlm import`.
    data
        Data folder, instead of the recipe's: items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz).
    output
        Output folder, instead of the recipe's.
    seeds
        Run this many seeds, from the recipe's on, in OUTPUT/seed-N; then print mean and standard deviation, and write OUTPUT/seeds.json.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import run, run_seeds

    loaded = load_recipe(recipe, set_ or [])
    quiet()
    loaded = _with_data(loaded, data)
    loaded = replace(loaded, output=str(output or loaded.output or f"runs/{recipe.stem}"))
    if dry_run and seeds is not None:
        raise ValueError("--dry-run lists the stages of one run; leave --seeds out.")
    if dry_run:
        plan: list[str] = []
        run(loaded, plan.append, dry_run=True)
        print(json.dumps(dict(line.split(": ", 1) for line in plan), indent=2, ensure_ascii=False) if as_json else "\n".join(plan))
        return
    if seeds is None:
        _show(run(loaded, say), loaded, as_json)
        return
    from grlm_hf.evaluation.seeds import seed_text

    summary = run_seeds(loaded, seeds, say)
    print(json.dumps(summary.to_json(), indent=2, ensure_ascii=False) if as_json else f"\n{seed_text(summary, short=True)}")
    say(f"→ {Path(loaded.output) / SEEDS_FILE}, seeds.md")


@app.command
def scale(
    recipe: Path,
    *,
    sizes: str,
    data: Path | None = None,
    output: Path | None = None,
    set_: Settings = None,
    as_json: Json = False,
) -> None:
    """Train a recipe's model from scratch in several sizes, and fit how its validation loss falls: L(N) = a · N^-alpha + b.

    Each size is a run of its own in OUTPUT/size-N, up to its checkpoint; what no size changes is made once, and finished work is kept. The
    loss is the mean negative log-probability of the next item within the trie, on validation users. The law is fitted on all sizes but the
    largest, and predicts that one. Intervals are a bootstrap over users.

    All sizes have the recipe's data, steps and learning rate, which may suit one size better than another: compare the losses with
    those of a second learning rate before you trust the exponent. Settings (--set) are those of `grlm run`.

    Example: `grlm scale my-shop/recipe.yaml --sizes 0.5M,1M,2M,4M,8M --output runs/scale`

    Parameters
    ----------
    recipe
        YAML file, such as one of `grlm import`, with train.model=scratch.
    sizes
        Numbers of parameters (K, M, B), at least four. The width and the layers follow: a layer and two heads for each 64 of the width,
        with the default head_dim.
    data
        Data folder, instead of the recipe's.
    output
        Folder that receives size-N/, scaling.json and scaling.png; by default runs/RECIPE-scale.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import run_sizes

    loaded = load_recipe(recipe, set_ or [])
    quiet()
    loaded = replace(_with_data(loaded, data), output=str(output or f"runs/{recipe.stem}-scale"))
    law = run_sizes(loaded, sizes.split(","), say)
    print(json.dumps(law.to_json(), indent=2, ensure_ascii=False) if as_json else law.table().text(intervals=True))
    say(f"→ {Path(loaded.output) / SCALING_FILE}, scaling.png")


def _with_data(recipe: Recipe, data: Path | None) -> Recipe:
    """The recipe for another data folder; its name and notice describe its own data."""
    return recipe if data is None else replace(recipe, data=str(data), name=data.resolve().name, notice="")


def _show(found: Report | dict[str, Any], recipe: Recipe, as_json: bool) -> None:
    """Prints what a recipe measured (`grlm_hf.stages.run`)."""
    from grlm_hf.evaluation.schema import Report

    output = Path(recipe.output)
    if as_json:
        print(json.dumps(found.to_json() if isinstance(found, Report) else found, indent=2, ensure_ascii=False))
    elif isinstance(found, Report):
        _show_report(found, output)
    elif recipe.until == "quality":
        show_quality(found, output / "quality")
    else:
        say(f"{recipe.until} → {output}")
        if recipe.until == "train":
            say(f"Next: the same command up to its last stage, evaluate; or grlm evaluate {output / 'checkpoint'} {output / 'datasets'}")


def _show_report(report: Report, output: Path) -> None:
    from grlm_hf.data.repository import load_cases
    from grlm_hf.evaluation.report import short_text
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    folder, options, ship = _to_ship(report, output)
    grlm = GRLMForRecommendation.from_pretrained(folder)
    cases = load_cases(output / "datasets", "test")[:_LOOKED_AT]
    case = next((c for c in cases if 1 < len(c.history) <= _SHOWN), None) or min(cases, key=lambda c: len(c.history))
    k = min(5, len(grlm.catalog))
    print(f"\nUser {case.user_id} had, oldest first:")
    for item in case.history:
        print(f"     {grlm.catalog[item].title}  ({item})")
    print(f"and {folder} recommends:")
    print(listing(grlm.recommend(case.history, k, prior="none" if options else None, decode="--no-decode" not in options)))
    again = f"{folder}{options} --history {shlex.quote(','.join(case.history))} --k {k}"
    print(f"\nReport: {output / 'report.html'}\nNext: grlm recommend {again}")
    print(f"\n{short_text(report)}\n{ship}")


def _to_ship(report: Report, output: Path) -> tuple[Path, str, str]:
    """The folder with the method to ship, the options that choose the method there, and a line for people."""
    from grlm_hf.evaluation.verdict import stated, uses_language_model
    from grlm_hf.files import read_json
    from grlm_hf.layout import CONFIG_FILE, COUNTING_FOLDER
    from grlm_hf.priors.awaited import DENSE

    method, checkpoint, hybrids = stated(report).ship, output / "checkpoint", output / "hybrids.json"
    if uses_language_model(method):
        if method == DENSE:
            requests = '"decode": false and "prior": "none" in requests'
            return checkpoint, " --no-decode --prior none", f"Ship it: grlm serve {checkpoint}, with {requests}"
        alone = method == "grlm" and read_json(checkpoint / CONFIG_FILE).get("own_prior")
        options = " --prior none" if alone else ""
        return checkpoint, options, f"Ship it: grlm serve {checkpoint}{options}"
    if not method:
        return checkpoint, "", "Nothing to ship yet: see the report."
    if hybrids.is_file() and (counting := read_json(hybrids).get("counting", {}).get("method")):
        folder = output / COUNTING_FOLDER
        if counting == method:
            return folder, "", f"Ship it: grlm serve {folder}"
        return folder, "", f"No folder has {method}; the nearest that can be served is {counting}: grlm serve {folder}"
    return checkpoint, "", f"No folder has {method}: it is a baseline of the report. The language model: grlm serve {checkpoint}"
