"""Finds and explains faults of this machine, a checkpoint, a dataset, a catalog or a recipe's run folder, and names the fix. An examination
never raises because of its target: an unreadable file is a finding too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grlm_hf.doctor.environment import examine_environment
from grlm_hf.doctor.findings import Examination, Finding, examined, run_checks, text_report
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE, DATASET_FACTS, TRIE_FILE

if TYPE_CHECKING:
    from grlm_hf.doctor.dataset import Tables
    from grlm_hf.doctor.parts import Parts

__all__ = ["Examination", "Finding", "examine", "examine_environment", "text_report"]

_CHECKPOINT = (CONFIG_FILE, "config.json")
_STAGES = ("checkpoint", "datasets", "catalog")


def examine(target: str | Path, engine: str | Path | None = None) -> list[Examination]:
    """Examines a folder or a repository on the Hub: a checkpoint, a dataset, a catalog; or each stage in the folder of a run.
    `engine`: YAML file of a vLLM engine for the checkpoint, as for ``vllm serve --config``."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    folder, names = Path(target), None
    published = not folder.is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks find what libraries warn of
        if published:
            try:
                folder, names = _fetched(str(target))
            except Exception as error:  # the network, the name, the disk
                return [examined(str(target), "unknown", {}, [_unreadable(str(target), error)])]
        if (kind := _kind(folder)) == "run":
            return _run(folder, engine)
        return [_one(folder, kind, str(target), published, names, engine)[0]]


def _kind(folder: Path) -> str:
    """The kind of a folder, by files that only one kind has."""
    if (folder / DATASET_FACTS).is_file():
        return "dataset"
    if (folder / "config.json").is_file() and not any((folder / name).exists() for name in (CONFIG_FILE, CATALOG_FILE, TRIE_FILE)):
        return "base model"
    if any((folder / name).is_file() for name in _CHECKPOINT) or any(folder.glob("*.safetensors")):
        return "checkpoint"
    if (folder / CATALOG_FILE).is_file():
        return "catalog"
    return "run" if any(_kind_of_stage(folder / name) for name in _STAGES) else "unknown"


def _kind_of_stage(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in (*_CHECKPOINT, DATASET_FACTS, CATALOG_FILE))


def _one(
    folder: Path, kind: str, target: str, published: bool, names: list[str] | None, engine: str | Path | None
) -> tuple[Examination, Parts | Tables | None]:
    if kind == "checkpoint":
        from grlm_hf.doctor.checkpoint import examine_checkpoint

        parts, found = examine_checkpoint(folder, published, names)
        found += _engine(engine, found, parts)
        return examined(target, kind, parts.facts, found), parts
    if kind == "base model":
        from grlm_hf.doctor.base import examine_base

        parts, found = examine_base(folder, published, names)
        return examined(target, kind, parts.facts, found), parts
    if kind == "dataset":
        from grlm_hf.doctor.dataset import examine_dataset

        tables, found = examine_dataset(folder, published)
        return examined(target, kind, tables.about, found), tables
    if kind == "catalog":
        from grlm_hf.doctor.catalog import examine_catalog

        catalog, found = examine_catalog(folder)
        return examined(target, kind, {} if catalog is None else {"catalog": repr(catalog)}, found), None
    some = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
    return examined(target, kind, {}, [_unreadable(target, f"It holds {some}: no {CONFIG_FILE}, {DATASET_FACTS} or {CATALOG_FILE}.")]), None


def _unreadable(target: str, error: object) -> Finding:
    return Finding("error", "target", " ".join(str(error).split())[:400], "There is nothing here to examine.",
                   "Name a folder that grlm wrote (checkpoint, dataset, catalog, the output of grlm run), a base model, or ORG/NAME on "
                   "the Hub.", target)  # fmt: skip


def _engine(engine: str | Path | None, found: list[Finding], parts: Parts) -> list[Finding]:
    from grlm_hf.decoding.rules import MIN_BEAMS
    from grlm_hf.doctor.generation import engine as check

    if engine is None:
        parts.facts["vLLM"] = (f"LLM.beam_search needs logprobs_mode='processed_logits' and max_logprobs={2 * MIN_BEAMS}; "
                         "grlm_hf.vllm.recommend neither (--engine FILE examines an engine's arguments)")  # fmt: skip
        return []
    try:
        import yaml

        arguments = yaml.safe_load(Path(engine).read_text(encoding="utf-8")) or {}
        if not isinstance(arguments, dict):
            raise ValueError(f"it holds a {type(arguments).__name__}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [
            Finding("error", "broken-file", f"{engine} cannot be read: {error}", "It should have the arguments of the engine.",
                    "Write names and values in YAML, such as `max-logprobs: 40`.", str(engine))
        ]  # fmt: skip
    left = any(f.check == "sampler-defaults" for f in found)
    return run_checks([check], arguments, left, parts.needed, where=str(engine))


def _run(folder: Path, engine: str | Path | None) -> list[Examination]:
    """Each stage of a run, and whether checkpoint and dataset belong together."""
    found, read = [], {}
    for name in _STAGES:
        if _kind_of_stage(folder / name):
            one, read[name] = _one(folder / name, _kind(folder / name), str(folder / name), False, None, engine)
            found.append(one)
    parts, tables = read.get("checkpoint"), read.get("datasets")
    if parts is not None and tables is not None:
        from grlm_hf.doctor.run import together

        found.append(examined(str(folder), "run", {}, run_checks([together], parts, tables, where=str(folder))))
    return found


def _fetched(repo_id: str) -> tuple[Path, list[str] | None]:
    """A repository's files, downloaded, and the names of all its files. Pickles are listed but never downloaded."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    from grlm_hf.hub import explained, fetch_checkpoint
    from grlm_hf.layout import CARD

    api = HfApi()
    with explained(repo_id):
        try:
            names = api.list_repo_files(repo_id)
        except RepositoryNotFoundError:
            api.list_repo_files(repo_id, repo_type="dataset")
            return Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["*.parquet", "*.json", CARD])), None
        folder = fetch_checkpoint(repo_id)
        snapshot_download(repo_id, allow_patterns=[CARD])
        return folder, names
