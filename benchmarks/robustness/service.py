"""The running service among strangers: long use, names that point at it, and heavy bodies."""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uploads
from http_requests import BODIES, _requests
from served import PLAIN, Served, served

from grlm_hf import Catalog
from grlm_hf.layout import CATALOG_FILE

Request = tuple[str, str, bytes, bool]
"""Method, route, body, and whether the answer has to be 200."""


# --- long use ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    faults: list[str] = field(default_factory=list)
    status: Counter[int] = field(default_factory=Counter)
    mb: list[float] = field(default_factory=list)
    """Resident memory after each twentieth of the requests; `files` and `threads` likewise."""
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def grown(self, name: str) -> float:
        """The last twentieths over those after a quarter: medians of three, which one busy moment does not move. Of threads the most in
        each half: pools start threads for a burst, and end them when they have been idle."""
        values = getattr(self, name)
        if name == "threads":
            half = len(values) // 2
            return max(values[half:]) / max(values[:half])
        first = len(values) // 4 - 1
        return statistics.median(values[-3:]) / statistics.median(values[first : first + 3])


def soak(checkpoint: Path, folder: Path, requests: int, clients: int = 8) -> Soak:
    """A mixture of all that clients do, right and wrong."""
    found = Soak()
    with served(checkpoint, folder) as service, ThreadPoolExecutor(clients) as pool:
        paths = json.loads(service.ask("GET", "/openapi.json")[1])["paths"]
        broken = [(method, path, body, False) for _, method, path, body in _requests(paths)]
        mixture = _mixture(checkpoint, broken)

        def one(request: Request) -> None:
            method, path, body, good = request
            extra = {"X-Content-SHA256": hashlib.sha256(body).hexdigest()} if path == "/catalog/reload" else {}
            try:
                status, answer = service.ask(method, path, body, extra)
            except OSError as error:
                status, answer = -1, str(error).encode()
            found.status[status] += 1
            if status >= 500 or status < 0 or (good and status != 200):
                found.faults.append(f"{method} {path} {body[:80]!r} → {status}: {answer[:200]!r}")

        for _ in range(20):
            list(pool.map(one, [next(mixture) for _ in range(requests // 20)]))
            for name in ("mb", "files", "threads"):
                getattr(found, name).append(getattr(service, name))
    return found


def _mixture(checkpoint: Path, broken: list[Request]) -> Iterator[Request]:
    rng = random.Random(0)
    ids = [item.item_id for item in Catalog.from_pretrained(checkpoint)]
    catalog = (checkpoint / CATALOG_FILE).read_bytes()
    there: list[str] = []

    def recommend(good: bool = True, **body: Any) -> Request:
        return "POST", "/recommend", json.dumps({"k": rng.randint(1, 10), **body}).encode(), good

    def history() -> list[str]:
        return rng.sample(ids, rng.randint(1, 8))

    for number in range(10**9):
        draw = rng.random()
        if draw < 0.45:
            yield recommend(history=history(), exclude_seen=rng.random() < 0.3)
        elif draw < 0.50:
            yield recommend(False, history=[*history(), f"gone-{number}"])
        elif draw < 0.55:
            yield recommend(history=[*history(), f"gone-{number}"], unknown_items="skip")
        elif draw < 0.60:
            yield recommend(history=[])
        elif draw < 0.66:
            yield recommend(histories=[history() for _ in range(rng.choice((2, 4, 8)))])
        elif draw < 0.69:
            yield recommend(history=history(), exact=True, deadline_ms=10_000)
        elif draw < 0.76:
            yield (
                "GET",
                rng.choice(("/items?limit=20", f"/items/{rng.choice(ids)}", "/catalog", "/health", "/metrics", "/nowhere")),
                b"",
                False,
            )
        elif draw < 0.83 and len(there) < 20:
            there.append(f"new-{number}")
            item = {"item_id": there[-1], "title": f"A steel tea kettle, model {number}", "description": "tea " * rng.randint(0, 200)}
            yield "POST", "/items", json.dumps({"items": [item]}).encode(), False  # a request under way may have brought it back
        elif draw < 0.88 and there:
            yield "DELETE", "/items", json.dumps({"item_ids": [there.pop(0)]}).encode(), False
        elif draw < 0.885:
            yield "POST", "/catalog/reload", catalog, False  # one upload at a time
            there.clear()
        elif draw < 0.89:
            yield "POST", "/catalog/rollback", b"", False
        else:
            yield rng.choice(broken)


# --- other names -------------------------------------------------------------------------------------------------------------------


def rebinding(service: Served) -> tuple[int, list[str]]:
    """Requests under a stranger's name to every route, and those that were not refused."""
    bodies = {(method, path): json.dumps(body).encode() for path, (method, body, _) in BODIES.items()}
    bodies["DELETE", "/items"] = b'{"item_ids": ["B0001"]}'
    paths = json.loads(service.ask("GET", "/openapi.json")[1])["paths"]
    before, port = service.ask("GET", "/catalog"), service.port
    routes = [(method.upper(), path.replace("{item_id}", "B0001")) for path, methods in paths.items() for method in methods]
    routes += [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/recommend"),
        ("HEAD", "/catalog"),
        ("GET", "/items/"),
    ]
    sent, accepted = 0, []
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        f"127.0.0.1@evil.example:{port}",
        f"[::2]:{port}",
    ):
        for origin in ({}, {"Origin": f"http://{host}"}, {"Origin": f"http://127.0.0.1:{port}"}, {"Origin": "null"}):
            for method, path in routes:
                sent += 1
                status, _ = service.ask(method, path, bodies.get((method, path), b""), {"Host": host, **origin})
                if status < 400 or status >= 500:
                    accepted.append(f"{method} {path} under {host}, {origin} → {status}")
    if service.ask("GET", "/catalog") != before:
        accepted.append("the catalog has changed")
    return sent, accepted


# --- heavy bodies ------------------------------------------------------------------------------------------------------------------


@dataclass
class Heavy:
    sent: int = 0
    peak: float = 0.0
    """The largest memory above the idle service's, in units of the limit of a body."""
    worst: str = ""
    faults: list[str] = field(default_factory=list)


def heavy(service: Served, sent: Iterator[tuple[str, uploads.Body]], limit: float, every: int = 1) -> Heavy:
    """Sends the bodies, one in `every`. `limit`: of a body, in MB."""
    found = Heavy()
    for _ in range(3):  # so that what stays in memory once is there
        service.ask("POST", "/recommend", PLAIN)
        service.ask("POST", "/items", b'{"items": [1]}')
    idle = service.mb
    for n, (name, (method, path, body)) in enumerate(sent):
        if n % every:
            continue
        service.forget_peak()
        found.sent += 1
        try:
            status, _ = service.ask(method, path, body, {"X-Content-SHA256": hashlib.sha256(body).hexdigest()})
        except OSError as error:
            if service.process.poll() is not None:
                found.faults.append(f"{name}: the service has ended")
                return found
            status = 0 if len(body) > limit * uploads.MB else -1  # refused before its end
            name += f" ({error})"
        if status >= 500 or status < 0:
            found.faults.append(f"{name} → {status}")
        if (peak := (service.peak_mb - idle) / limit) > found.peak:
            found.peak, found.worst = peak, name
        try:
            service.seconds("GET", "/items?limit=1", b"")
        except OSError as error:
            found.faults.append(f"{name}: afterwards {error}")
    return found


def catalogs(checkpoint: Path, limit: int) -> Iterator[tuple[str, uploads.Body]]:
    """`uploads.catalogs` of a limit in MB; after each one the checkpoint's own."""
    own = (checkpoint / CATALOG_FILE).read_bytes()
    for name, data in uploads.catalogs(checkpoint, limit * uploads.MB):
        yield name, ("POST", "/catalog/reload", data)
        yield f"the own catalog after {name}", ("POST", "/catalog/reload", own)
