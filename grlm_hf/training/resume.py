"""Resuming an interrupted training: from its last whole checkpoint, and only with the same settings and data."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import read_json, write_json
from grlm_hf.training.config import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset

RUN_FILE = "run.json"
_WITHOUT_EFFECT = ("save_steps", "hub")
"""Settings that do not change the result, and may differ on a resume."""


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint. A half-written one, left by a kill, is removed. For the main process."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            read_json(folder / "trainer_state.json")  # the trainer writes it last
        except ValueError:
            shutil.rmtree(folder)
            continue
        return str(folder)
    return None


def check_same_run(work: Path, config: TrainConfig, seed: int, processes: int, examples: Dataset) -> None:
    """Records in `work` all that the result depends on. For the main process.

    Raises:
        ValueError: `work` has checkpoints of a run with other settings or data; the error names each difference.
    """
    settings = {f"train.{name}": value for name, value in _flat(asdict(config)).items() if name.split(".")[0] not in _WITHOUT_EFFECT}
    run = {**settings, "seed": seed, "processes": processes, "examples": len(examples), "hash of the examples": digest(examples)}
    if (work / RUN_FILE).is_file() and any(work.glob("checkpoint-*")):
        before = read_json(work / RUN_FILE)
        changed = [f"{n}: {before.get(n, '–')} → {run.get(n, '–')}" for n in {**before, **run} if before.get(n, "–") != run.get(n, "–")]
        if changed:
            raise ValueError(
                f"{work} has an interrupted training that was another one: {'; '.join(changed)}. Run it again with its own settings, or "
                "remove that folder to start again."
            )
    write_json(work / RUN_FILE, run)


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
