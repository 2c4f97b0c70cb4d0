"""Resuming an interrupted training: from its last whole checkpoint, and only with the same settings and data."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import read_json, write_json
from grlm_hf.training.config import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("grlm_hf")

RUN_FILE = "run.json"
_WITHOUT_EFFECT = ("save_steps", "hub")
"""Settings that do not change the result, and may differ on a resume."""


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint, checked part by part. Broken ones, left by a kill or a power cut, are removed, and the log says so. For
    the main process."""
    found = [(int(m[1]), p) for p in work.glob("checkpoint-*") if p.is_dir() and (m := re.fullmatch(r"checkpoint-(\d+)", p.name))]
    for step, folder in sorted(found, reverse=True):
        if not (fault := state_fault(folder, step)):
            return str(folder)
        log.warning("The training state of step %d is broken (%s); the one before it is taken.", step, fault)
        shutil.rmtree(folder)
    return None


def state_fault(folder: Path, step: int) -> str:
    """What a trainer's checkpoint lacks or has broken; "" for a whole one. Nothing is unpickled."""
    try:
        state = read_json(folder / "trainer_state.json")  # the trainer writes it last
        if not isinstance(state, dict) or state.get("global_step") != step or not isinstance(state.get("log_history"), list):
            return "trainer_state.json is of another step"
        files = [p for p in folder.rglob("*") if p.is_file()]
        sharded = [p for p in folder.iterdir() if p.is_dir()]  # of DeepSpeed or FSDP
        if not sharded and not {"optimizer.pt", "scheduler.pt"} <= {p.name for p in files}:
            return "optimizer.pt or scheduler.pt is missing"
        if not sharded and not any(p.suffix in (".safetensors", ".bin") and p.name != "training_args.bin" for p in files):
            return "the weights are missing"
        for path in files:
            if path.suffix == ".safetensors":
                _check_safetensors(path)
            elif path.suffix in (".pt", ".pth", ".bin") and path.name != "training_args.bin":
                with zipfile.ZipFile(path) as parts:
                    if broken := parts.testzip():
                        return f"{path.name} is broken at {broken}"
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        return " ".join(str(error).split())[:200]
    return ""


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"{path.name} is cut")
        header = json.loads(file.read(length))
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if 8 + length + end != size:
        raise ValueError(f"{path.name} has {size} bytes; its header states {8 + length + end}")


def check_same_run(work: Path, config: TrainConfig, seed: int, processes: int, examples: Dataset) -> None:
    """Records in `work` all that the result depends on. For the main process.

    Raises:
        ValueError: `work` has checkpoints of a run with other settings or data; the error names each difference.
    """
    run = {
        **run_settings(config),
        "seed": seed,
        "processes": processes,
        "examples": len(examples),
        "hash of the examples": digest(examples),
    }
    if (work / RUN_FILE).is_file() and any(work.glob("checkpoint-*")):
        before = {**run_settings(TrainConfig()), **read_json(work / RUN_FILE)}  # a state of a version without a setting has its default
        changed = [f"{n}: {before.get(n, '–')} → {run.get(n, '–')}" for n in {**before, **run} if before.get(n, "–") != run.get(n, "–")]
        if changed:
            raise ValueError(
                f"{work} has an interrupted training that was another one: {'; '.join(changed)}. Run it again with its own settings, or "
                "remove that folder to start again."
            )
    write_json(work / RUN_FILE, run)


def run_settings(config: TrainConfig) -> dict[str, Any]:
    """All settings that the result depends on, by their keys in a recipe."""
    return {f"train.{name}": value for name, value in _flat(asdict(config)).items() if name.split(".")[0] not in _WITHOUT_EFFECT}


def digest(examples: Dataset) -> str:
    """Hash of the tokens and labels of tokenized examples, in their order."""
    found = hashlib.sha256()
    for name in ("input_ids", "completion_mask", "free_text"):
        if name not in examples.column_names:
            continue
        for chunk in examples.with_format("arrow")[:][name].chunks:
            found.update(chunk.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            found.update(chunk.flatten().to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()[:16]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
