"""What the product does with broken input, with kills, and with strangers at its door: counts, each beside its target.

    python benchmarks/robustness/run.py                      # all of it, about 30 minutes on two cores; writes results/robustness.json
    python benchmarks/robustness/run.py --every 20           # one trial in 20, to look at; writes nothing
    python benchmarks/robustness/run.py --only kills         # or inputs, or service, or several with commas

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
import clients
import http_requests
import kills
import service
import shop
import tables
import trial
import uploads
from environment import ROOT
from served import served

from grlm_hf.files import write_json

sys.path.insert(0, str(ROOT / "benchmarks" / "decoding"))
from harness import RESULTS, Results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one trial in N (default: all)")
    parser.add_argument("--only", default="inputs,kills,service", help="parts, with commas: inputs, kills, service (default: all)")
    args = parser.parse_args()
    parts = {"inputs": inputs, "kills": killed, "service": among_strangers}
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


def among_strangers(results: Results, kept: Path, folder: Path, every: int) -> None:
    """One service in long use; then services whose clients mean harm, or have bad luck."""
    checkpoint = kept / "run" / "checkpoint"
    used = service.soak(checkpoint, folder / "soak", max(400, SOAK // every))
    _show(used.faults[:20])
    print(f"  statuses: {dict(sorted(used.status.items()))}; MB: {[round(mb) for mb in used.mb]}; threads: {used.threads}", flush=True)
    results.add("service: requests of all kinds to one process", "requests", used.status.total(), SOAK if every == 1 else None)
    _none(results, "service: answers of 5xx or none, and right requests refused", used.faults)
    # Samples of one process lie within 2 % of each other; 10 % over 15,000 requests are 4 KB a request, less than an answer that leaks.
    results.add("service: memory at the end over that after a quarter of the requests", "times", used.grown("mb"), 1.10, better="lower")
    results.add("service: open files, likewise", "times", used.grown("files"), 1.10, better="lower")
    results.add("service: most threads, second half over first", "times", used.grown("threads"), 1.10, better="lower")
    with served(checkpoint, folder / "names") as running:
        sent, accepted = service.rebinding(running)
        results.add("service: requests under a stranger's name, to all routes", "requests", sent)
        _none(results, "service: those that were answered (DNS rebinding)", accepted)
        _show(accepted)
        gone = clients.gone(running, checkpoint, 5)
        print(f"  plain request {1000 * gone.idle:.0f} ms; the large search, awaited, {gone.attended:.1f} s", flush=True)
        results.add("service: next answer after the client of a large search has gone", "s", gone.after, gone.idle + 1.0, better="lower")
        results.add("service: processor time of that search in the two seconds after it", "s", gone.cpu, 0.2, better="lower")
        slow = clients.slow(running, max(5, 200 // every))
        results.add("service: slow and half-open connections at once", "connections", slow.connections)
        results.add("service: slowest answer to others meanwhile", "s", slow.slowest, 2.0, better="lower")
        _none(results, "service: connections open longer than stated", slow.late)
        _show(slow.late[:20])
    for name, limit, most, bodies in (
        ("JSON", 1, 10.0, lambda: uploads.bodies(uploads.MB)),
        ("catalogs", 64, 10.0, lambda: service.catalogs(checkpoint, 64)),
    ):
        with served(checkpoint, folder / name, "--max-upload-mb", "64") as running:
            heavy = service.heavy(running, bodies(), limit, every)
        results.add(f"service: heavy bodies, {name}", "bodies", heavy.sent)
        results.add(f"service: peak memory above idle over the limit of {limit} MB, {name}", "times", heavy.peak, most, better="lower")
        print(f"  the largest: {heavy.worst}", flush=True)
        _none(results, f"service: errors, or no service afterwards, {name}", heavy.faults)
        _show(heavy.faults)
    stopped = clients.stopped(checkpoint, folder / "stops", max(1, 6 // every))
    results.add("service: changes acknowledged to 200 clients before stops", "changes", stopped.made)
    results.add("service: changes refused meanwhile", "changes", stopped.refused)
    _none(results, "service: acknowledged changes gone, refused ones made, stops that fail", stopped.faults)
    _show(stopped.faults[:20])


SOAK = 20_000


def _none(results: Results, name: str, faults: Sequence[str]) -> None:
    results.add(name, "faults", len(faults), 0, better="lower")


def _show(*faults: Sequence[Any]) -> None:
    for line in itertools.chain(*faults):
        print(f"  FAULT {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
