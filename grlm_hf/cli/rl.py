"""Verbs for training on rewards and preferences: grpo and dpo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grlm_hf.cli.app import Json, RecipeFile, Settings, app, quiet, say


@app.command
def grpo(checkpoint: str, datasets: str, *, output: Path, recipe: RecipeFile = None, set_: Settings = None, as_json: Json = False) -> None:
    """Train a checkpoint further with GRPO: rewards for identifiers that the constrained search finds after training histories.

    Evaluates all validation users before and after. After an interruption, run the same command again to resume.

    Example: `grlm grpo checkpoint datasets --output checkpoint-grpo --set grpo.steps=100`

    Parameters
    ----------
    checkpoint
        Folder or Hub id of the starting checkpoint.
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        Folder that receives the new checkpoint.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages.rl import make_grpo

    r = load_recipe(recipe, set_ or [])
    quiet()
    _show(make_grpo(checkpoint, datasets, output, r.grpo, seed=r.seed), output, datasets, as_json)


@app.command
def dpo(checkpoint: str, datasets: str, *, output: Path, recipe: RecipeFile = None, set_: Settings = None, as_json: Json = False) -> None:
    """Train a checkpoint further with DPO: the true next item against other results of the constrained search.

    Evaluates all validation users before and after. After an interruption, run the same command again to resume.

    Example: `grlm dpo checkpoint datasets --output checkpoint-dpo --set dpo.negatives=8`

    Parameters
    ----------
    checkpoint
        Folder or Hub id of the starting checkpoint.
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        Folder that receives the new checkpoint.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages.rl import make_dpo

    r = load_recipe(recipe, set_ or [])
    quiet()
    _show(make_dpo(checkpoint, datasets, output, r.dpo, seed=r.seed), output, datasets, as_json)


def _show(result: dict[str, Any], output: Path, datasets: str, as_json: bool) -> None:
    from grlm_hf.evaluation.processes import is_main

    if not is_main():
        return
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        say(f"checkpoint → {output}")
        return
    if "valid_rollouts" in result:
        print(f"Rollouts that name an item of the catalog: {result['valid_rollouts']:.2%}")
    print(f"{result['users']} validation users, full catalog:")
    for entry in result["comparisons"]:
        start, end = (result["methods"][name][entry["metric"]] for name in ("start", "end"))
        sign = 1 if entry["a"] == "end" else -1
        low, high = sorted((sign * entry["low"], sign * entry["high"]))
        print(f"  {entry['metric']:<10} {start:.4f} → {end:.4f}  ({sign * entry['difference']:+.4f}, 95 % [{low:+.4f}, {high:+.4f}], "
              f"p = {entry['p']:.2g})")  # fmt: skip
    say(f"checkpoint → {output}\nNext: grlm evaluate {output} {datasets}")
