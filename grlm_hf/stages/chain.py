"""The chain of stages, and which of them still have to run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.schema import Report, load_report
from grlm_hf.files import fingerprint, local_paths, read_json, write_json
from grlm_hf.layout import CATALOG_FILE, DATASET_FACTS, NEIGHBORS_FILE, PRIOR_FOLDER, QUALITY_FILE, SASREC_FILE
from grlm_hf.recipe import STAGES, Recipe
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.identify import find_data, make_neighbors, make_quality, make_terms
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.stages.priors import make_hybrid, make_priors
from grlm_hf.tasks.prompts import templates_hash


def run(recipe: Recipe, say: Callable[[str], None] = print) -> Report | dict[str, Any]:
    """Runs a recipe's stages up to `Recipe.until`; a finished stage with unchanged inputs and settings is not run again.

    Returns:
        What the last stage measured: after ``evaluate`` the `Report`, after ``quality`` the content of ``quality.json``, else {}.
    """
    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    if any((Path(recipe.output) / name).exists() for name in ("items.csv", "items.jsonl", "items.parquet", CATALOG_FILE, DATASET_FACTS)):
        raise ValueError(f"{recipe.output} holds tables of its own, and stays as it is. Choose another output folder.")
    if not recipe.data:
        raise ValueError("The recipe names no data folder: --data DIR, one with items.* and interactions.* (csv, jsonl or parquet).")
    r, out, state, seed = recipe, Path(recipe.output), Path(recipe.output) / ".grlm", recipe.seed
    neighbors, catalog, quality = out / NEIGHBORS_FILE, out / "catalog", out / "quality"
    datasets, checkpoint, report = out / "datasets", out / "checkpoint", out / "report.json"
    priors, hybrids = out / "priors", out / "hybrids.json"
    items = find_data(r.data, "items")
    terms_files = [Path(r.terms.file)] if r.terms.file else []
    if r.terms.generator == "file" and not terms_files:
        terms_files = [find_data(r.data, "term_ids", "term_ids_official")]
    wanted = STAGES[: STAGES.index(r.until) + 1]

    def stage(name: str, inputs: Sequence[Path], settings: Any, outputs: Sequence[Path], work: Callable[[str], Any]) -> None:
        if name not in wanted:
            return
        key = fingerprint(name, inputs, settings)
        record = state / f"{name}.json"
        if record.is_file() and read_json(record).get("key") == key and all(o.exists() for o in outputs):
            say(f"{name}: unchanged, kept")
            return
        say(f"{name}: → {', '.join(o.name for o in outputs)}")
        record.unlink(missing_ok=True)
        work(key)
        write_json(record, {"key": key})

    read = [r.read.missing_title, r.read.limit]
    stage(
        "neighbors",
        [items, *local_paths(r.neighbors.embedder)],
        [r.neighbors, *read],
        [neighbors],
        lambda _: make_neighbors(r.data, neighbors, r.neighbors, r.read, work=state / "embeddings"),
    )
    stage(
        "terms",
        [items, neighbors, *terms_files, *local_paths(r.terms.llm.model)],
        [replace(r.terms, llm=replace(r.terms.llm, part="")), *read],
        [catalog],
        lambda _: make_terms(r.data, catalog, r.terms, r.read, neighbors=neighbors, work=state / "answers"),
    )
    stage(
        "quality",
        [catalog, *(Path(p) for p in (r.quality.compare, r.quality.neighbors) if p), *local_paths(r.quality.tokenizer)],
        [r.quality, r.terms.generator],
        [quality],
        lambda _: make_quality(catalog, quality, r.quality, name=_GENERATED.get(r.terms.generator, r.terms.generator)),
    )
    given = [Path(p) for p in (r.mixture.neighbors, r.mixture.chat_file) if p] + local_paths(r.mixture.tokenizer)
    stage(
        "dataset",
        [find_data(r.data, "interactions", "sequences"), catalog, quality, *given] if "dataset" in wanted else [],
        [r.mixture, r.sequence_model if r.mixture.collaborative else None, r.read, seed, r.name, r.notice, templates_hash()],
        [datasets],
        lambda key: make_dataset(
            r.data, catalog, datasets, r.mixture, r.read, quality=quality, sequence_model=r.sequence_model, work=state / f"sequence-{key}",
            seed=seed, title=r.name, notice=r.notice,
        ),
    )  # fmt: skip
    if r.priors.methods:
        stage(
            "priors",
            [datasets],
            [r.priors.methods, r.priors.combine, r.priors.validation_users, r.sequence_model, seed],
            [priors],
            lambda key: make_priors(datasets, priors, r.priors, r.sequence_model, work=state / f"priors-{key}", seed=seed),
        )
    teacher = [Path(r.train.distill.model or priors / SASREC_FILE)] if r.train.distill.weight else []
    stage(
        "train",
        [datasets, *local_paths(r.train.model), *teacher],
        [r.train, seed],
        [checkpoint],
        lambda key: make_checkpoint(
            datasets, checkpoint, r.train, work=state / f"train-{key}", seed=seed, teacher=next(iter(teacher), None)
        ),
    )
    fused = [priors, hybrids] if r.priors.methods else []
    if fused:
        stage(
            "hybrid",
            [datasets, priors, checkpoint / CATALOG_FILE, *sorted(checkpoint.glob("*.safetensors"))],
            [r.priors, seed],
            [hybrids, *([checkpoint / PRIOR_FOLDER] if r.priors.hybrids else [])],
            lambda _: make_hybrid(checkpoint, datasets, priors, hybrids, r.priors, seed=seed),
        )
    stage(
        "evaluate",
        [datasets, checkpoint, *fused],
        [r.evaluate, seed],
        [report, report.with_suffix(".png"), report.with_suffix(".html")],
        lambda key: make_report(
            checkpoint, datasets, report, r.evaluate, priors=priors if fused else None, hybrids=hybrids if fused else None,
            work=state / f"evaluate-{key}", seed=seed, name=r.name,
        ),
    )  # fmt: skip
    for leftover in [p for name in ("evaluate", "train", "priors", "sequence") for p in state.glob(f"{name}-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    if r.until == "evaluate":
        return load_report(report)
    return read_json(quality / QUALITY_FILE) if r.until == "quality" else {}


_GENERATED = {"extract": "extracted", "file": "given"}
