"""The chain of stages, and which of them have to run."""

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

    Raises:
        ValueError: no output or data folder; an output folder that holds tables of its own; and what a stage refuses.
    """
    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    if any((Path(recipe.output) / name).exists() for name in ("items.csv", "items.jsonl", "items.parquet", CATALOG_FILE, DATASET_FACTS)):
        raise ValueError(f"{recipe.output} holds tables of its own, and stays as it is. Choose another output folder.")
    if not recipe.data:
        raise ValueError("The recipe names no data folder: --data DIR, one with items.* and interactions.* (csv, jsonl or parquet).")
    chain = _Chain(recipe, say)
    chain.identify()
    chain.learn()
    chain.measure()
    for unfinished in [p for name in ("evaluate", "train", "priors", "sequence") for p in chain.state.glob(f"{name}-*")]:
        shutil.rmtree(unfinished, ignore_errors=True)
    if recipe.until == "evaluate":
        return load_report(chain.report)
    return read_json(chain.quality / QUALITY_FILE) if recipe.until == "quality" else {}


class _Chain:
    """The stages of a recipe and the files that they write, all in its output folder."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None]):
        out = Path(recipe.output)
        self.recipe, self.say = recipe, say
        self.state = out / ".grlm"  # a record a finished stage, and the work of unfinished ones
        self.wanted = STAGES[: STAGES.index(recipe.until) + 1]
        self.neighbors, self.catalog, self.quality = out / NEIGHBORS_FILE, out / "catalog", out / "quality"
        self.datasets, self.checkpoint, self.report = out / "datasets", out / "checkpoint", out / "report.json"
        self.priors, self.hybrids = out / "priors", out / "hybrids.json"

    def stage(self, name: str, inputs: Sequence[Path], settings: Any, outputs: Sequence[Path], work: Callable[[str], Any]) -> None:
        """Calls `work` with the stage's key, unless a finished stage has the same key and its outputs."""
        if name not in self.wanted:
            return
        key = fingerprint(name, inputs, settings)
        record = self.state / f"{name}.json"
        if record.is_file() and read_json(record).get("key") == key and all(o.exists() for o in outputs):
            self.say(f"{name}: unchanged, kept")
            return
        self.say(f"{name}: → {', '.join(o.name for o in outputs)}")
        record.unlink(missing_ok=True)
        work(key)
        write_json(record, {"key": key})

    def identify(self) -> None:
        """Items → neighbours → Term IDs → their quality."""
        r, items = self.recipe, find_data(self.recipe.data, "items")
        terms_files = [Path(r.terms.file)] if r.terms.file else []
        if r.terms.generator == "file" and not terms_files:
            terms_files = [find_data(r.data, "term_ids", "term_ids_official")]
        read = [r.read.missing_title, r.read.limit]
        self.stage(
            "neighbors",
            [items, *local_paths(r.neighbors.embedder)],
            [r.neighbors, *read],
            [self.neighbors],
            lambda _: make_neighbors(r.data, self.neighbors, r.neighbors, r.read, work=self.state / "embeddings"),
        )
        self.stage(
            "terms",
            [items, self.neighbors, *terms_files, *local_paths(r.terms.llm.model)],
            [replace(r.terms, llm=replace(r.terms.llm, part="")), *read],
            [self.catalog],
            lambda _: make_terms(r.data, self.catalog, r.terms, r.read, neighbors=self.neighbors, work=self.state / "answers"),
        )
        self.stage(
            "quality",
            [self.catalog, *(Path(p) for p in (r.quality.compare, r.quality.neighbors) if p), *local_paths(r.quality.tokenizer)],
            [r.quality, r.terms.generator],
            [self.quality],
            lambda _: make_quality(self.catalog, self.quality, r.quality, name=_GENERATED.get(r.terms.generator, r.terms.generator)),
        )

    def learn(self) -> None:
        """Term IDs and interactions → a dataset repository → priors and a checkpoint."""
        r, seed = self.recipe, self.recipe.seed
        given = [Path(p) for p in (r.mixture.neighbors, r.mixture.chat_file) if p] + local_paths(r.mixture.tokenizer)
        events = [find_data(r.data, "interactions", "sequences")] if "dataset" in self.wanted else []
        self.stage(
            "dataset",
            [*events, self.catalog, self.quality, *given] if events else [],
            [r.mixture, r.sequence_model if r.mixture.collaborative else None, r.read, seed, r.name, r.notice, templates_hash()],
            [self.datasets],
            lambda key: make_dataset(
                r.data, self.catalog, self.datasets, r.mixture, r.read, quality=self.quality, sequence_model=r.sequence_model,
                work=self.state / f"sequence-{key}", seed=seed, title=r.name, notice=r.notice,
            ),
        )  # fmt: skip
        if r.priors.methods:
            self.stage(
                "priors",
                [self.datasets],
                [r.priors.methods, r.priors.combine, r.priors.validation_users, r.sequence_model, seed],
                [self.priors],
                lambda key: make_priors(
                    self.datasets, self.priors, r.priors, r.sequence_model, work=self.state / f"priors-{key}", seed=seed
                ),
            )
        teacher = Path(r.train.distill.model or self.priors / SASREC_FILE) if r.train.distill.weight else None
        self.stage(
            "train",
            [self.datasets, *local_paths(r.train.model), *([teacher] if teacher else [])],
            [r.train, seed],
            [self.checkpoint],
            lambda key: make_checkpoint(
                self.datasets, self.checkpoint, r.train, work=self.state / f"train-{key}", seed=seed, teacher=teacher
            ),
        )

    def measure(self) -> None:
        """Checkpoint and priors → their weights beside each other → a report."""
        r, seed = self.recipe, self.recipe.seed
        priors, hybrids = (self.priors, self.hybrids) if r.priors.methods else (None, None)
        if r.priors.methods:
            self.stage(
                "hybrid",
                [self.datasets, self.priors, self.checkpoint / CATALOG_FILE, *sorted(self.checkpoint.glob("*.safetensors"))],
                [r.priors, seed],
                [self.hybrids, *([self.checkpoint / PRIOR_FOLDER] if r.priors.hybrids else [])],
                lambda _: make_hybrid(self.checkpoint, self.datasets, self.priors, self.hybrids, r.priors, seed=seed),
            )
        self.stage(
            "evaluate",
            [self.datasets, self.checkpoint, *(p for p in (priors, hybrids) if p)],
            [r.evaluate, seed],
            [self.report, self.report.with_suffix(".png"), self.report.with_suffix(".html")],
            lambda key: make_report(
                self.checkpoint, self.datasets, self.report, r.evaluate, priors=priors, hybrids=hybrids,
                work=self.state / f"evaluate-{key}", seed=seed, name=r.name,
            ),
        )  # fmt: skip


_GENERATED = {"extract": "extracted", "file": "given"}
