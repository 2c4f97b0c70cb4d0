"""The record of a checkpoint in its folder ``card``, from which its card is made.

card/training.json  settings, seed, data, versions; also those of earlier trainings
card/facts.json     the data of the evaluation, and a digest of the measured checkpoint
card/report.json    the report, and its pictures
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.schema import Report, load_report
from grlm_hf.files import check_regular, read_json, replacing, write_json
from grlm_hf.layout import CARD_FOLDER, CONFIG_FILE

TRAINING, FACTS, REPORT = (f"{CARD_FOLDER}/{name}.json" for name in ("training", "facts", "report"))
RECORD_SCHEMA = "grlm.card/1"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_LIBRARIES = ("torch", "transformers", "trl", "datasets")
_KEPT = ("title", "split", "max_history", "history", "language", "terms", "quality")  # of the facts of a dataset


def record_training(
    checkpoint: str | Path,
    method: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    start: str,
    datasets: str | Path,
    facts: Mapping[str, Any],
) -> None:
    """Writes ``card/training.json`` into a finished checkpoint. Of a path on this machine only the last part is recorded.

    Args:
        method: "sft", "grpo" or "dpo"; `settings` are its JSON values.
        start: the origin of the weights: "scratch", a Hub id or a folder, whose own record becomes `before`.
        datasets: folder or Hub id.
        facts: the content of ``grlm_dataset.json``.
    """
    from accelerate import PartialState

    from grlm_hf.version import __version__

    before = _read(Path(start) / TRAINING) if Path(start).is_dir() else None
    terms, mixture = facts.get("terms") or {}, (facts.get("mixture") or {}).get("settings") or {}
    recipe = {
        "read": {"split": facts.get("split")},
        "terms": {key: terms[key] for key in ("generator", "n_terms", "vocabulary", "resolver", "model") if key in terms},
        "mixture": {key: value for key, value in mixture.items() if value},
        "train" if method == "sft" else method: {key: value for key, value in settings.items() if key != "hub"},  # where, not how
        "seed": seed,
    }
    recipe = _without_paths({key: value for key, value in recipe.items() if value != {}})
    processes = PartialState()
    record = {
        "schema": RECORD_SCHEMA,
        "method": method,
        "base_model": hub_id(start) if start != "scratch" else "",
        "start": "scratch" if start == "scratch" else _without_paths(start),
        "title": facts.get("title", ""),
        "datasets": hub_id(datasets),
        "prompt_hash": facts.get("prompt_hash", ""),
        "recipe": recipe,
        "recipe_hash": hashlib.sha256(json.dumps([method, recipe], sort_keys=True).encode()).hexdigest()[:16],
        "device": _device(processes.device),
        "processes": processes.num_processes,
        "versions": {"grlm-hf": __version__, **{name: found for name in _LIBRARIES if (found := _version(name))}},
    }
    if before:
        record["before"] = before
        record["base_model"] = record["base_model"] or before.get("base_model", "")
    write_json(Path(checkpoint) / TRAINING, record)


def record_report(
    checkpoint: str | Path, report: Report, *, datasets: str | Path, facts: Mapping[str, Any], audit: Mapping[str, int]
) -> None:
    """Replaces the evaluation in the checkpoint's ``card`` folder.

    Args:
        datasets: folder or Hub id of the test data; a folder's ``quality.png`` is copied.
        facts, audit: the content of ``grlm_dataset.json``, and of `grlm_hf.publishing.audit`.
    """
    from grlm_hf.evaluation.report.plots import figures, save_png

    checkpoint = Path(checkpoint)
    with replacing(checkpoint / CARD_FOLDER) as new:
        new.mkdir()
        if (checkpoint / TRAINING).is_file():
            shutil.copyfile(checkpoint / TRAINING, new / Path(TRAINING).name)
        for name, figure in figures(report).items():
            save_png(figure, new / f"{'report' if name == 'metrics' else name}.png")
        if (picture := Path(datasets) / "quality.png").is_file():
            shutil.copyfile(picture, new / "quality.png")
        public = replace(report, examples=())  # histories of people are not published with a model
        write_json(new / Path(REPORT).name, public.to_json())
        about = {
            "schema": RECORD_SCHEMA,
            "title": report.dataset,
            "notice": facts.get("notice", ""),
            "datasets": hub_id(datasets),
            "dataset": {key: facts[key] for key in _KEPT if key in facts},
            "audit": dict(audit),
            "measured": content_digest(checkpoint),
        }
        write_json(new / Path(FACTS).name, about)


def recorded(checkpoint: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None, Report | None]:
    """The training, the facts of the data, and the report; each ``None`` if it was not recorded. Raises `ValueError` if a file is broken or
    of another schema; or the report is of another version of this checkpoint."""
    training, facts = _read(checkpoint / TRAINING), _read(checkpoint / FACTS)
    if facts is None:
        return training, None, None
    if facts.get("measured") != content_digest(checkpoint):
        raise ValueError(
            f"{checkpoint / CARD_FOLDER} holds a report of other weights, priors or items than those that are here now, so its figures are "
            "not of this checkpoint. Evaluate it again (grlm evaluate), or remove that folder and README.md."
        )
    return training, facts, load_report(checkpoint / REPORT)


def content_digest(checkpoint: Path) -> str:
    """A digest of the files that determine recommendations: weights, priors, items, settings and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        if path.suffix in (".safetensors", ".prior", ".parquet") or name in (CONFIG_FILE, "tokenizer.json"):
            check_regular(path)
            with open(path, "rb") as content:
                digest.update(f"{name}:{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def hub_id(place: str | Path) -> str:
    """The place if it is a Hub id; "" for a folder."""
    return str(place) if _HUB_ID.fullmatch(str(place)) and not Path(place).exists() else ""


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != RECORD_SCHEMA:
        raise ValueError(f"{path} is no record with schema {RECORD_SCHEMA!r}, which this grlm-hf reads.")
    for key in ("base_model", "datasets"):  # they become links and metadata
        if (stated := found.get(key)) and not (isinstance(stated, str) and _HUB_ID.fullmatch(stated)):
            raise ValueError(f"{path} states {key} {stated!r}; expected a Hub id like ORG/NAME, or nothing.")
    return found


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(v) for v in value]
    if isinstance(value, str) and "/" in value and (Path(value).is_absolute() or value.startswith((".", "~")) or Path(value).exists()):
        return Path(value).name
    return value


def _device(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type).upper()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
