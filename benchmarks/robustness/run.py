"""What the product does with broken input, with kills, and with strangers at its door: counts, each beside its target.

    python benchmarks/robustness/run.py                      # all of it, about 20 minutes on two cores; writes results/robustness.json
    python benchmarks/robustness/run.py --every 20           # one trial in 20, to look at; writes nothing
    python benchmarks/robustness/run.py --only kills

Each fault is printed with the call that showed it. The exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import artefacts
import calls
import http_requests
import kills
import shop
import tables
import trial
from environment import ROOT

from grlm_hf.files import write_json

sys.path.insert(0, str(ROOT / "benchmarks" / "decoding"))
from harness import RESULTS, Results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one trial in N (default: all)")
    parser.add_argument("--only", default="inputs,kills", help="parts, with commas: inputs, kills (default: all)")
    args = parser.parse_args()
    parts = {"inputs": inputs, "kills": killed}
    if unknown := set(args.only.split(",")) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(parts)}")
    results = Results("robustness", "python benchmarks/robustness/run.py")
    with tempfile.TemporaryDirectory(prefix="grlm-robustness-") as name:
        kept = Path(name) / "kept"
        kept.mkdir()
        shop.make(kept)
        for part in args.only.split(","):
            parts[part](results, kept, Path(name) / part, args.every)
    if args.every == 1 and set(args.only.split(",")) == set(parts):
        write_json(RESULTS / "robustness.json", results.records)
    return any(not record["met"] for record in results.records)


def inputs(results: Results, kept: Path, folder: Path, every: int) -> None:
    """Every broken input to every verb that reads it, and to every route of the service."""
    sources: dict[str, Callable[[], Iterator[trial.Trial]]] = {
        "tables": lambda: tables.trials(kept),
        "programs of dataset_scripts": lambda: tables.script_trials(ROOT),
        "checkpoints, catalogs, datasets and reports": lambda: artefacts.trials(kept),
        "flags, settings and recipes": lambda: calls.trials(kept),
    }
    all_found = []
    for name, trials in sources.items():
        all_found.append(found := trial.run(itertools.islice(trials(), 0, None, every)))
        results.add(f"malformed inputs: {name}", "inputs", found.trials)
        _show(found.tracebacks, found.slow, found.half_written)
    all_found.append(found := http_requests.run(kept / "run" / "checkpoint", folder))
    results.add("malformed inputs: HTTP", "inputs", found.trials)
    _show(found.tracebacks, found.slow)
    total = sum(f.trials for f in all_found)
    results.add("malformed inputs: all", "inputs", total, 600)
    results.add("refused with one line, or a status of 4xx", "inputs", sum(f.refused for f in all_found))
    _none(results, "tracebacks, and answers of 5xx", [line for f in all_found for line in f.tracebacks])
    _none(results, f"inputs that took more than {trial.LIMIT_S:.0f} s", [line for f in all_found for line in f.slow])
    _none(results, "outputs half written, or old outputs harmed, by a refused call", [line for f in all_found for line in f.half_written])
    results.add("the slowest input", "s", max(f.slowest for f in all_found), trial.LIMIT_S, better="lower")


def killed(results: Results, kept: Path, folder: Path, every: int) -> None:
    """``kill -9`` in everything that writes."""
    found = kills.run(kept, folder, 1 / every)
    _show(found.half, found.lost, found.left, found.undone)
    results.add("kills of run, train, grpo, dpo, catalog changes and pushes", "kills", found.kills, 60)
    _none(results, "outputs that a kill left half written", found.half)
    _none(results, "work lost: a repeated call that fails, or ends elsewhere than an undisturbed one", found.lost)
    _none(results, "leftovers that no later call removes", found.left)
    _none(results, "answered changes undone, and refused changes made", found.undone)


def _none(results: Results, name: str, faults: Sequence[str]) -> None:
    results.add(name, "faults", len(faults), 0, better="lower")


def _show(*faults: Sequence[Any]) -> None:
    for line in itertools.chain(*faults):
        print(f"  FAULT {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
