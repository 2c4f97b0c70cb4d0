"""Requests that make no sense, to every route of a running service: none may be answered with an error of the service, or not at all."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environment import forks
from trial import LIMIT_S, Found

VALUES = (
    "null",
    "[]",
    "{}",
    "true",
    "-1",
    "0",
    "1.5",
    "1e400",
    "NaN",
    '"x"',
    '""',
    "[null]",
    "[[]]",
    "[{}]",
    "9" * 400,
    '"\\ud800"',
    '["\\u0000"]',
    '"' + "x" * 100_000 + '"',
)
RECOMMEND = (
    "history", "histories", "k", "num_beams", "exclude", "allow", "domain", "banned_terms", "prior", "prior_weight", "exact",
    "deadline_ms", "length_penalty", "unknown_items", "x",
)  # fmt: skip
BODIES = {
    "/recommend": ("POST", {"history": ["B0001", "B0002"], "k": 3}, RECOMMEND),
    "/items": ("POST", {"items": [{"item_id": "n1", "title": "A steel tea kettle"}]}, ("items", "term_ids", "x")),
    "/catalog/rollback": ("POST", {}, ("x",)),
    "/explain": ("POST", {"history": ["B0001"], "item_id": "B0002"}, ("history", "item_id", "x")),
}
WHOLE = (
    b"", b"{", b"[]", b"null", b"\xff\xfe{", b'{"history": ["B0001"]', b"[" * 200_000, b'{"a":' * 50_000, bytes(1000), b'{"k": 3}',
    b'{"history": ["B0001"], "history": ["nowhere"]}',
)  # fmt: skip
HERE = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /recommend" + HERE
RAW = (
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(4000),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 1e3\r\n\r\n",
    POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
    b"GET /" + b"a" * 100_000 + HERE + b"\r\n",
    b"GET /" + HERE + b"a: b\r\n" * 20_000 + b"\r\n",
    b"GET /" + HERE + b"Origin: http://[\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n",
    b"GET /%00%ff/../..//etc/passwd" + HERE + b"\r\n",
    b"OPTIONS *" + HERE + b"\r\n",
)  # fmt: skip


@contextmanager
def service(checkpoint: Path, state: Path, *more: str) -> Iterator[tuple[forks.Process, int]]:
    """A running ``grlm serve`` and its port."""
    with forks.Process(forks.GRLM, "serve", str(checkpoint), "--port", "0", "--state", str(state), *more, env=dict(os.environ)) as process:
        end = time.monotonic() + 120
        while not (found := re.search(r"on http://[^ ]*:(\d+)", process.printed())):
            if not process.running() or time.monotonic() > end:
                raise SystemExit(f"The service did not start:\n{process.printed()}")
            time.sleep(0.05)
        yield process, int(found[1])


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * LIMIT_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def run(checkpoint: Path, folder: Path) -> Found:
    found = Found()
    with service(checkpoint, folder / "state") as (process, port):
        paths = json.loads(ask(port, "GET", "/openapi.json")[1])["paths"]
        for name, method, path, body in _requests(paths):
            _judge(found, name, lambda method=method, path=path, body=body: ask(port, method, path, body))
        for data in RAW:
            _judge(found, f"raw {data[:60]!r}", lambda data=data: _raw(port, data))
        status, answer = ask(port, "POST", "/recommend", b'{"history": ["B0001", "B0002"], "k": 3}')
        if status != 200 or len(json.loads(answer)["results"][0]["items"]) != 3 or not process.running():
            found.tracebacks.append(f"the service no longer recommends: {status} {answer[:200]!r}")
        log = process.printed()
    found.tracebacks += [f"log: {line[:300]}" for line in log.splitlines() if '"level": "error"' in line or line.startswith("Traceback")]
    return found


def _requests(paths: dict[str, Any]) -> Iterator[tuple[str, str, str, bytes]]:
    for path, (method, body, names) in BODIES.items():
        if path not in paths:
            continue
        for name in names:
            for value in VALUES:
                rest = {k: v for k, v in body.items() if k != name}
                text = "{" + ", ".join([f'"{k}": {json.dumps(v)}' for k, v in rest.items()] + [f'"{name}": {value}']) + "}"
                yield f"{path} {name}={value[:30]}", method, path, text.encode()
    for path, methods in paths.items():
        for method in methods:
            for body in WHOLE:
                yield f"{method} {path} {body[:20]!r}", method.upper(), path, body
        yield f"TRACE {path}", "TRACE", path, b""


def _judge(found: Found, name: str, call: Any) -> None:
    started = time.monotonic()
    try:
        status, answer = call()
    except OSError as error:
        status, answer = (-1 if isinstance(error, TimeoutError) else 400), str(error).encode()
    except http.client.HTTPException as error:
        status, answer = 400, str(error).encode()
    took = time.monotonic() - started
    found.trials += 1
    found.refused += 400 <= status < 500
    found.slowest = max(found.slowest, took)
    if status >= 500 or status < 0:
        found.tracebacks.append(f"{name} → {status}: {answer[:200]!r}")
    if took > LIMIT_S:
        found.slow.append(f"{took:.0f} s: {name}")


def _raw(port: int, data: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
        status = re.match(rb"HTTP/1.1 (\d+)", answer)
        return int(status[1]) if status else 400, answer
