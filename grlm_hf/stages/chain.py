"""The chain of stages, and which of them have to run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.saved import rankings_path
from grlm_hf.evaluation.schema import Report, load_report
from grlm_hf.files import fingerprint, local_paths, only_writer, read_json, write_json
from grlm_hf.indexing.index_file import numbers_beside
from grlm_hf.layout import CATALOG_FILE, COUNTING_FOLDER, DATASET_FACTS, LABELS_FILE, NEIGHBORS_FILE, PRIOR_FOLDER, QUALITY_FILE
from grlm_hf.loading import load_tokenizer
from grlm_hf.plugins import load_plugin, load_plugins, plugin_files, stated
from grlm_hf.progress import took
from grlm_hf.publishing.counting_card import write_counting_card
from grlm_hf.recipe import STAGES, Recipe
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.found import found
from grlm_hf.stages.identify import make_identifiers, make_neighbors
from grlm_hf.stages.model import make_checkpoint, make_report, remember_evaluation, stopping_rule
from grlm_hf.stages.priors import make_hybrid, make_priors
from grlm_hf.stages.quality import make_quality
from grlm_hf.stages.reading import find_data
from grlm_hf.stages.teacher import check_teacher, given_answers, make_teacher, teacher_files
from grlm_hf.tables.tally import Tally
from grlm_hf.tasks.prompts import templates_hash


def run(recipe: Recipe, say: Callable[[str], None] = print, *, dry_run: bool = False) -> Report | dict[str, Any]:
    """Runs a recipe's stages up to `Recipe.until`; a finished stage with unchanged inputs and settings is not run again.

    Args:
        say: gets a line when a stage begins, and one with what it found and how long it took.
        dry_run: only say which stages would run, and write nothing.

    Returns:
        What the last stage measured: after ``evaluate`` the `Report`, after ``quality`` the content of ``quality.json``, else {}.

    Raises:
        ValueError: no output or data folder; an output folder that holds tables of its own, or that another process writes; and what a
            stage refuses.
    """
    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    if any((Path(recipe.output) / name).exists() for name in ("items.csv", "items.jsonl", "items.parquet", CATALOG_FILE, DATASET_FACTS)):
        raise ValueError(f"{recipe.output} holds tables of its own, and stays as it is. Choose another output folder.")
    if not recipe.data:
        raise ValueError("The recipe names no data folder: --data DIR, one with items.* and interactions.* (csv, jsonl or parquet).")
    if dry_run:
        _plan(recipe, say)
        return {}
    together = bool(recipe.terms.llm.part)  # several processes write the parts of one answer
    with nullcontext() if together else only_writer(recipe.output):
        return _run(recipe, say)


def _run(recipe: Recipe, say: Callable[[str], None]) -> Report | dict[str, Any]:
    out = Path(recipe.output)
    state = out / ".grlm"
    _check_plugins(recipe, STAGES.index(recipe.until))
    for stage in _stages(recipe, out, state):
        stage.before()
        key = fingerprint(stage.name, stage.inputs, stage.settings)
        record = state / f"{stage.name}.json"
        if _finished(stage, key, record):
            say(f"{stage.name}: unchanged, kept")
            continue
        say(f"{stage.name}: → {_names(stage)}")
        started = time.monotonic()
        record.unlink(missing_ok=True)
        stage.work(key)
        write_json(record, {"key": key})
        shutil.rmtree(state / f"{stage.kept or stage.name}-{key}", ignore_errors=True)  # its own unfinished work, and no other
        say(f"{stage.name}: {found(stage.name, out)} ({took(time.monotonic() - started)})")
    if recipe.until == "evaluate":
        return load_report(out / "report.json")
    return read_json(out / "quality" / QUALITY_FILE) if recipe.until == "quality" else {}


def _plan(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Says what each stage would do. A stage also runs if one before it writes what it reads."""
    out = Path(recipe.output)
    state = out / ".grlm"
    written: list[Path] = []
    for stage in _stages(recipe, out, state):
        depends = any(path == new or path in new.parents or new in path.parents for path in stage.inputs for new in written)
        if not depends and _finished(stage, fingerprint(stage.name, stage.inputs, stage.settings), state / f"{stage.name}.json"):
            say(f"{stage.name}: unchanged, kept")
        else:
            say(f"{stage.name}: will run → {_names(stage)}")
            written += stage.outputs


def _stages(recipe: Recipe, out: Path, state: Path) -> Iterator[_Stage]:
    """The stages up to the last one of the recipe, made one by one: a stage reads what those before it wrote."""
    last = STAGES.index(recipe.until)
    for stage in chain.from_iterable(part(recipe, out, state) for part in (_identify, _learn, _measure)):
        if STAGES.index(stage.name) <= last:
            yield stage
        if STAGES.index(stage.name) >= last:  # before the next one looks for files that this run does not need
            return


def _finished(stage: _Stage, key: str, record: Path) -> bool:
    return record.is_file() and read_json(record).get("key") == key and all(o.exists() for o in stage.outputs)


def _names(stage: _Stage) -> str:
    return ", ".join(o.name for o in stage.outputs)


def _check_plugins(r: Recipe, last: int) -> None:
    """Loads the functions of the user that this run needs, and looks for its teacher, models and second stage, so that a wrong name is no
    error hours later."""
    if r.terms.function and last >= STAGES.index("terms"):
        load_plugin("terms.function", r.terms.function)
    if last >= STAGES.index("teacher"):
        check_teacher(r.train.distill)
    if last >= STAGES.index("train") and r.train.model != "scratch" and not (Path(r.output) / "checkpoint").exists():
        load_tokenizer(r.train.model)  # a small part of a model that must be there, in a folder or on the Hub
    if last == STAGES.index("evaluate"):
        load_plugins("evaluate.metrics", r.evaluate.metrics)
        load_plugins("evaluate.methods", r.evaluate.methods)
        without = [*r.priors.methods, *r.priors.combinations(), "popularity", "random"]
        if (retriever := r.evaluate.rerank.retriever) and retriever not in without:
            raise ValueError(f"evaluate.rerank.retriever is {retriever!r}; expected a method without the language model: {without}.")
        if r.evaluate.zero_shot.model:
            from grlm_hf.evaluation.zero_shot import chat_tokenizer

            chat_tokenizer(r.evaluate.zero_shot.model)


@dataclass(frozen=True)
class _Stage:
    name: str
    inputs: Sequence[Path]
    settings: Any
    outputs: Sequence[Path]
    work: Callable[[str], Any]  # called with the stage's key
    before: Callable[[], None] = lambda: None  # whatever changes its inputs
    kept: str = ""  # what its unfinished work is named by, if not by the stage


def _identify(r: Recipe, out: Path, state: Path) -> Iterator[_Stage]:
    """Items → neighbours → Term IDs → their quality."""
    neighbors, catalog, quality, items = out / NEIGHBORS_FILE, out / "catalog", out / "quality", find_data(r.data, "items")
    terms_files = [Path(r.terms.file)] if r.terms.file else []
    if r.terms.generator == "file" and not terms_files:
        terms_files = [find_data(r.data, "term_ids", "term_ids_official")]
    read = [r.read.missing_title, r.read.limit]
    silent = None if r.until == "neighbors" else Tally()  # else said by the next stage, which reads the items again
    yield _Stage(
        "neighbors",
        [items, *map(Path, r.neighbors.vectors), *local_paths(r.neighbors.embedder)],
        [r.neighbors, *read],
        [neighbors],
        lambda _: make_neighbors(r.data, neighbors, r.neighbors, r.read, work=state / "embeddings", tally=silent),
    )
    own_vectors = [Path(path) for path in r.neighbors.vectors]
    if r.identifier.kind == "terms":
        made_of = [items, neighbors, *terms_files, *local_paths(r.terms.llm.model), *plugin_files([r.terms.function])]
        how: list[Any] = [replace(r.terms, llm=replace(r.terms.llm, part=""), function=stated(r.terms.function)), *read]
    else:
        behaviour = r.identifier.codes.needs_histories or r.read.split == "unseen-items"
        events = [find_data(r.data, "interactions", "sequences")] if behaviour else []
        codes = r.identifier.codes
        of_codes = (codes.file, codes.numbers or numbers_beside(codes.file)) if codes.file and r.identifier.kind == "codes" else ()
        given = [Path(path) for path in of_codes if path]
        made_of = [items, neighbors, *events, *given, *own_vectors, *local_paths(r.neighbors.embedder)]
        how = [r.identifier, r.neighbors, r.read, r.seed if behaviour else None]
    yield _Stage(
        "terms",
        made_of,
        how,
        [catalog],
        lambda key: make_identifiers(
            r.data, catalog, r, neighbors=neighbors, work=state / ("answers" if r.identifier.kind == "terms" else f"codes-{key}")
        ),
    )
    name = _GENERATED.get(r.terms.origin, r.terms.origin) if r.identifier.kind == "terms" else r.identifier.kind
    compared = [Path(p) for p in (r.quality.compare, r.quality.neighbors, r.quality.behaviour) if p]
    yield _Stage(
        "quality",
        [catalog, *compared, *local_paths(r.quality.tokenizer)],
        [r.quality, name, *([r.read, r.seed] if r.quality.behaviour else [])],
        [quality],
        lambda _: make_quality(catalog, quality, r.quality, name=name, read=r.read, seed=r.seed),
    )


def _learn(r: Recipe, out: Path, state: Path) -> Iterator[_Stage]:
    """Term IDs and interactions → a dataset repository → priors and a checkpoint."""
    catalog, quality, datasets, priors, checkpoint = (out / name for name in ("catalog", "quality", "datasets", "priors", "checkpoint"))
    given = [Path(p) for p in (r.mixture.neighbors, r.mixture.chat_file) if p] + local_paths(r.mixture.tokenizer)
    yield _Stage(
        "dataset",
        [find_data(r.data, "interactions", "sequences"), catalog, quality, *given],
        [r.mixture, r.sequence_model if r.mixture.collaborative else None, r.read, r.seed, r.name, r.notice, templates_hash()],
        [datasets],
        lambda key: make_dataset(
            r.data, catalog, datasets, r.mixture, r.read, quality=quality, sequence_model=r.sequence_model, work=state / f"sequence-{key}",
            seed=r.seed, title=r.name, notice=r.notice,
        ),
        kept="sequence",
    )  # fmt: skip
    if r.priors.methods:
        yield _Stage(
            "priors",
            [datasets],
            [r.priors.methods, r.priors.combinations(), r.priors.validation_users, r.sequence_model, r.seed, r.evaluate.exclude_seen],
            [priors],
            lambda key: make_priors(
                datasets,
                priors,
                r.priors,
                r.sequence_model,
                work=state / f"priors-{key}",
                seed=r.seed,
                exclude_seen=r.evaluate.exclude_seen,
            ),
        )
    answers = given_answers(r.train.distill)
    teacher = answers or (out / LABELS_FILE if r.train.distill.weight else None)
    if teacher and not answers:
        distill = r.train.distill
        yield _Stage(
            "teacher",
            [datasets, *teacher_files(distill, priors)],
            [distill.teacher, distill.temperature, distill.top],
            [teacher],
            lambda key: make_teacher(datasets, teacher, distill, priors=priors, work=state / f"teacher-{key}"),
        )
    yield _Stage(
        "train",
        [datasets, *local_paths(r.train.model), *([teacher] if teacher else [])],
        [r.train, r.seed, *stopping_rule(r.train, r.evaluate.exclude_seen)],
        [checkpoint],
        lambda key: make_checkpoint(
            datasets,
            checkpoint,
            r.train,
            work=state / f"train-{key}",
            seed=r.seed,
            teacher=teacher,
            exclude_seen=r.evaluate.exclude_seen,
        ),
    )


def _measure(r: Recipe, out: Path, state: Path) -> Iterator[_Stage]:
    """Checkpoint and priors → their weights beside each other → a report."""
    datasets, checkpoint, priors, hybrids, report = (
        out / name for name in ("datasets", "checkpoint", "priors", "hybrids.json", "report.json")
    )
    counting = out / COUNTING_FOLDER
    if r.priors.methods:
        yield _Stage(
            "hybrid",
            [datasets, priors, checkpoint / CATALOG_FILE, *sorted(checkpoint.glob("*.safetensors"))],
            [r.priors, r.seed, r.evaluate.exclude_seen],
            [hybrids, *([checkpoint / PRIOR_FOLDER, counting] if r.priors.hybrid_names() else [])],
            lambda _: make_hybrid(
                checkpoint, datasets, priors, hybrids, r.priors, seed=r.seed, exclude_seen=r.evaluate.exclude_seen, counting=counting
            ),
        )
    own_prior = bool(r.priors.methods and r.priors.hybrid_names())
    fused: dict[str, Any] = {"priors": priors, "hybrids": hybrids} if r.priors.methods else {}

    def measure(key: str) -> None:
        work = state / f"evaluate-{key}"
        found = make_report(checkpoint, datasets, report, r.evaluate, work=work, seed=r.seed, name=r.name, **fused)
        if counting.is_dir() and fused:
            write_counting_card(counting, found, read_json(hybrids)["counting"]["method"])

    yield _Stage(
        "evaluate",
        [
            datasets,
            checkpoint,
            *fused.values(),
            *plugin_files([*r.evaluate.metrics, *r.evaluate.methods]),
            *local_paths(r.evaluate.zero_shot.model),
        ],
        [replace(r.evaluate, metrics=list(map(stated, r.evaluate.metrics)), methods=list(map(stated, r.evaluate.methods))), r.seed],
        [report, report.with_suffix(".png"), report.with_suffix(".html"), *([rankings_path(report)] if r.evaluate.save_rankings else [])],
        measure,
        before=partial(remember_evaluation, checkpoint, r.evaluate.exclude_seen, own_prior),
    )


_GENERATED = {"extract": "extracted", "file": "given", "function": "own"}
