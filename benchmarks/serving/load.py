"""`grlm serve` under load: concurrent clients, a catalog that is reloaded and changed meanwhile, and every answer checked.

    python benchmarks/serving/load.py CHECKPOINT [--seconds 600] [--clients 32] [--output benchmarks/results/serving-load.json]

Starts a server of its own with a state folder, and kills it (-9) at the end: after a restart it has to serve the last version that was
acknowledged. Every answer has to hold the right number of distinct items of the catalog of the version that it states, best first, none
that the request excluded; a sample is computed again in this process, on that version's catalog, once the load is over.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from grlm_hf import Catalog, GRLMForRecommendation, Item

RELOAD_S = 5.0
K = 10


@dataclass
class Seen:
    """What the clients saw. One lock for all of it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    users: int = 0
    status: Counter[str] = field(default_factory=Counter)
    invalid: list[str] = field(default_factory=list)
    unchecked: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    """Answers of a version whose acknowledgement had not been read yet."""
    sample: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    catalogs: dict[int, Catalog] = field(default_factory=dict)
    """By version, as acknowledged."""


def call(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection.request(method, path, body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()


def asks(port: int, pool: list[str], seen: Seen, until: float, seed: int) -> None:
    """One client: a request after another."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < until:
        body: dict[str, Any] = {"histories": [rng.sample(pool, rng.randint(1, 8)) for _ in range(rng.choice((1, 1, 1, 4)))], "k": K}
        if rng.random() < 0.3:
            body["exclude_seen"] = True
        if rng.random() < 0.1:
            body |= {"exact": True, "deadline_ms": 30_000}
        began = time.perf_counter()
        try:
            status, answer = call(connection, "POST", "/recommend", json.dumps(body).encode())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            with seen.lock:
                seen.status[type(error).__name__] += 1
            continue
        took = time.perf_counter() - began
        with seen.lock:
            seen.seconds.append(took)
            seen.status[str(status)] += 1
            if status == 200:
                said = json.loads(answer)
                seen.users += len(said["results"])
                if said["version"] in seen.catalogs:
                    check(body, said, seen)
                else:
                    seen.unchecked.append((body, said))
                if rng.random() < 0.05 and len(seen.sample) < 2000:
                    seen.sample.append((body, said))
        if status == 429:
            time.sleep(rng.random())


def check(body: dict[str, Any], said: dict[str, Any], seen: Seen) -> None:
    """What holds of every answer, whatever the model says."""
    catalog = seen.catalogs.get(said["version"])
    if catalog is None or len(said["results"]) != len(body["histories"]):
        seen.invalid.append(f"version {said['version']}, {len(said['results'])} results of {len(body['histories'])}")
        return
    for history, result in zip(body["histories"], said["results"], strict=True):
        ids = [item["item_id"] for item in result["items"]]
        scores = [item["score"] for item in result["items"]]
        good = len(ids) == len(set(ids)) == K and all(i in catalog for i in ids) and scores == sorted(scores, reverse=True)
        good &= all(tuple(item["term_id"]) == catalog.term_id(item["item_id"]) for item in result["items"]) if good else True
        if not good or (body.get("exclude_seen") and set(ids) & set(history)):
            seen.invalid.append(f"version {said['version']}: {history} → {ids}")


def changes(port: int, bases: list[Catalog], spare: list[tuple[Item, tuple[str, ...]]], seen: Seen, until: float, work: Path) -> None:
    """Reloads every `RELOAD_S`; adds and removes items in between; now and then rolls back, or sends what has to be refused."""
    rng = random.Random(0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = [base.save_pretrained(work / str(n)).read_bytes() for n, base in enumerate(bases)]
    kept, next_reload, turn = [max(seen.catalogs)], time.monotonic() + RELOAD_S, 0

    def changed(answer: tuple[int, bytes], catalog: Catalog) -> None:
        with seen.lock:
            seen.status[f"change {answer[0]}"] += 1
            if answer[0] == 200:
                version = json.loads(answer[1])["version"]
                seen.catalogs[version] = catalog
                kept.append(version)

    while time.monotonic() < until:
        now = seen.catalogs[kept[-1]]
        if time.monotonic() >= next_reload:
            next_reload += RELOAD_S
            turn += 1
            which = turn % len(bases)
            poison = data[which][:-50]
            status, _ = call(connection, "POST", "/catalog/reload", poison, **{"x-content-sha256": hashlib.sha256(poison).hexdigest()})
            with seen.lock:
                seen.status[f"poison {status}"] += 1
            checksum = hashlib.sha256(data[which]).hexdigest()
            changed(call(connection, "POST", "/catalog/reload", data[which], **{"x-content-sha256": checksum}), bases[which])
            if turn % 4 == 0:
                back, kept[:] = seen.catalogs[kept[-2]], kept[:-2]
                changed(call(connection, "POST", "/catalog/rollback"), back)
        else:
            absent = [s for s in spare if s[0].item_id not in now]
            if absent and rng.random() < 0.5:
                item, tid = rng.choice(absent)
                body = {"items": [{"item_id": item.item_id, "title": item.title}], "term_ids": [list(tid)]}
                changed(call(connection, "POST", "/items", json.dumps(body).encode()), now.add([item], [tid]))
            elif present := [s[0].item_id for s in spare if s[0].item_id in now]:
                gone = rng.choice(present)
                changed(call(connection, "DELETE", "/items", json.dumps({"item_ids": [gone]}).encode()), now.remove([gone]))
            time.sleep(0.5)


@contextmanager
def server(checkpoint: str, state: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "grlm_hf", "serve", checkpoint, "--port", "0", "--state", str(state), "--queue", "1024"]
    with open(log, "a") as err:
        process = subprocess.Popen(command, stderr=err, text=True)
    try:
        start = time.monotonic()
        while True:
            lines = [line for line in log.read_text().splitlines() if line.startswith("Serving ")]
            if lines:
                break
            if process.poll() is not None or time.monotonic() - start > 300:
                raise SystemExit(f"The server did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield process, int(lines[-1].rsplit(":", 1)[1])
    finally:
        process.kill()
        process.wait()
        os.replace(log, f"{log}.{process.pid}")


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--warmup", type=float, default=0.0, help="Seconds before memory is first measured; by default a tenth.")
    parser.add_argument("--sample", type=int, default=300, help="Answers computed again.")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()

    disable_progress_bar()
    grlm = GRLMForRecommendation.from_pretrained(args.checkpoint)
    whole, rng = grlm.catalog, random.Random(0)
    order = rng.sample([i.item_id for i in whole], len(whole))
    n = len(order) // 20
    bases = [whole, whole.remove(order[:n]), whole.remove(order[n : 2 * n])]  # one in twenty comes and goes
    spare = [(Item(f"new-{i}", f"New item {i}"), whole.term_id(order[-1 - i])) for i in range(20)]
    seen = Seen(catalogs={1: whole})
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with server(args.checkpoint, work / "state", work / "log") as (process, port):
            until = time.monotonic() + args.seconds
            threads = [threading.Thread(target=asks, args=(port, order[2 * n :], seen, until, seed)) for seed in range(args.clients)]
            threads.append(threading.Thread(target=changes, args=(port, bases, spare, seen, until, work / "bases")))
            for thread in threads:
                thread.start()
            memory: list[tuple[float, float]] = []
            began = time.monotonic()
            while any(t.is_alive() for t in threads):
                memory.append((time.monotonic() - began, resident_mb(process.pid)))
                time.sleep(1)
            last = max(seen.catalogs)
            process.send_signal(signal.SIGKILL)
        with server(args.checkpoint, work / "state", work / "log") as (_, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            after = json.loads(call(connection, "GET", "/catalog")[1])
        unhandled = sum(
            json.loads(line)["level"] == "error"
            for log in work.glob("log.*")
            for line in log.read_text().splitlines()
            if line.startswith("{")
        )
    for body, said in seen.unchecked:
        check(body, said, seen)

    wrong, recomputed, references = 0, 0, {}
    for body, said in rng.sample(seen.sample, min(args.sample, len(seen.sample))):
        if (version := said["version"]) not in seen.catalogs:
            continue  # counted as invalid above
        if version not in references:
            references = {version: GRLMForRecommendation(grlm.model, grlm.tokenizer, seen.catalogs[version], grlm.config, prior=grlm.prior)}
        options = {name: body[name] for name in ("k", "exclude_seen", "exact") if name in body}
        for want, result in zip(references[version].recommend(body["histories"], **options), said["results"], strict=True):
            recomputed += 1
            got = [item["score"] for item in result["items"]]
            # Scores within rounding, so that two items which tie up to it may change places.
            if len(got) != len(want) or not np.allclose(got, [r.score for r in want], atol=1e-3):
                wrong += result["certified"] or not body.get("exact")  # what was cut off in time may be another
    warm = next((mb for at, mb in memory if at >= (args.warmup or args.seconds / 10)), memory[-1][1])
    tail = float(np.median([mb for at, mb in memory if at >= 0.9 * memory[-1][0]]))
    failed = {name: count for name, count in seen.status.items() if name not in ("200", "429", "change 200", "poison 422")}
    report = {
        "checkpoint": args.checkpoint, "seconds": args.seconds, "clients": args.clients, "items": len(whole),

        "users_per_s": round(seen.users / args.seconds, 2), "requests": len(seen.seconds),
        "p50_ms": round(float(np.percentile(seen.seconds, 50)) * 1000, 1),
        "p99_ms": round(float(np.percentile(seen.seconds, 99)) * 1000, 1),
        "status": dict(seen.status), "versions": len(seen.catalogs),
        "invalid": len(seen.invalid), "wrong": wrong, "recomputed": recomputed, "errors": sum(failed.values()), "errors_logged": unhandled,
        "rss_warm_mb": round(warm, 1), "rss_end_mb": round(tail, 1), "rss_change": round(tail / warm - 1, 4),
        "last_acknowledged": last, "after_kill_9": after["version"],
        "after_kill_9_right": after["version"] == last and after["items"] == len(seen.catalogs[last]),
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    for line in seen.invalid[:5]:
        print(line, file=sys.stderr)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if seen.invalid or wrong or failed or unhandled or not report["after_kill_9_right"]:
        raise SystemExit("Not all was right.")


if __name__ == "__main__":
    main()
