"""One call of the command line with something broken, and what is wrong with how it ended."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from environment import forks

LIMIT_S = 30.0
SCRIPT = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rsplit('/', 1)[0])
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@dataclass(frozen=True)
class Trial:
    """`arguments` of ``grlm``, or of a program if `code` runs one, in a folder that `prepare` fills.

    `output` is what the call writes, in that folder. It exists before with probability ½, and then has to survive a failure.
    """

    name: str
    arguments: Sequence[str]
    prepare: Callable[[Path], object]
    output: str = ""
    code: str = forks.GRLM


@dataclass
class Found:
    """What went wrong, by kind: each entry names the trial and shows the end of what it printed."""

    trials: int = 0
    refused: int = 0
    tracebacks: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run(trials: Iterable[Trial], workers: int = 2) -> Found:
    """Runs all trials; each has a folder of its own."""
    found = Found()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda pair: _one(*pair, found), enumerate(trials)):
            pass
    return found


def _one(number: int, trial: Trial, found: Found) -> None:
    with tempfile.TemporaryDirectory(prefix="grlm-trial-") as name:
        folder = Path(name)
        trial.prepare(folder)
        before = _old_output(folder / trial.output, number) if trial.output else ""
        started = time.monotonic()
        try:
            with forks.Process(trial.code, *trial.arguments, cwd=folder, env={**os.environ, "COLUMNS": "200"}) as process:
                done = process.wait(2 * LIMIT_S)
        except TimeoutError:
            done = subprocess.CompletedProcess([], -1, "", "no end")
        took = time.monotonic() - started
        told = f"{trial.name}: {' '.join(trial.arguments)} → {done.returncode}: {done.stderr[-600:].strip()}"
        found.trials += 1
        found.refused += done.returncode == 2
        found.slowest = max(found.slowest, took)
        if (
            "Traceback (most recent" in done.stderr + done.stdout
            or done.returncode not in (0, 1, 2)
            or (done.returncode == 1 and "error" not in done.stdout)
        ):
            found.tracebacks.append(told)
        if took > LIMIT_S:
            found.slow.append(f"{took:.0f} s: {told}")
        if trial.output and done.returncode and _state(folder / trial.output) != before:
            found.half_written.append(told)


def _old_output(path: Path, number: int) -> str:
    """Every second output is there already: an earlier one of the same verb, kept in ``old`` beside the trials."""
    old = path.parent / "old-output"
    if old.exists():
        if number % 2:
            os.rename(old, path)
        else:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    return _state(path)


def _state(path: Path) -> str:
    """Hash of all files of an output; "" if there is none. Work that a later call resumes stands beside it, under a hidden name."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    for file in sorted(p for p in [path, *path.rglob("*")] if p.is_file() and ".grlm" not in p.parts):
        digest.update(f"{file}:{hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()
