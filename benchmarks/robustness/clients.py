"""Clients that are slow, that leave, and that work while the service is stopped."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import select
import signal
import socket
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from served import PLAIN, Served, served

from grlm_hf import Catalog
from grlm_hf.serving.door import BODY_S
from grlm_hf.serving.run import HEADERS_S, IDLE_S, READ_S

# --- slow clients ------------------------------------------------------------------------------------------------------------------

_HEAD = b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SLOW = {
    "sends nothing": (b"", b"", HEADERS_S),
    "sends a byte of its head a second": (b"GET /cat", b"x", HEADERS_S),
    "sends half a body": (_HEAD % 1000 + b'{"history"', b"", BODY_S),
    "sends a byte of its body a second": (_HEAD % 1000 + b'{"history"', b" ", BODY_S),
    "sends half a body to a route without one": (_HEAD.replace(b"POST /recommend", b"GET /catalog") % 1000, b"", float(IDLE_S)),
    "sends nothing after an answer": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", float(IDLE_S)),
    "reads no answer": (b"GET /items?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400, b"", READ_S + 5),
}
"""What a connection sends at once, then each second, and when it has to be closed."""


@dataclass
class Slow:
    connections: int = 0
    slowest: float = 0.0
    """Of the answers to somebody else meanwhile, in seconds."""
    late: list[str] = field(default_factory=list)
    """Connections that were open longer than stated."""


def slow(service: Served, each: int, margin: float = 10.0) -> Slow:
    """`each` connections of every kind at once; a tenth of those that read nothing, since all their answers are computed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    found, before, over = Slow(), service.files, threading.Event()

    def user() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # too slow, then
                found.slowest = max(found.slowest, service.seconds("POST", "/recommend", PLAIN))
            time.sleep(0.2)

    other = threading.Thread(target=user)
    other.start()
    opened: dict[socket.socket, tuple[str, float]] = {}
    for kind, (first, _, _) in SLOW.items():
        for _ in range(each // 10 or 1 if kind == "reads no answer" else each):
            s = socket.socket()
            if kind == "reads no answer":
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", service.port))
            s.setblocking(False)
            with contextlib.suppress(OSError):
                s.send(first)
            opened[s] = kind, time.monotonic()
    found.connections = len(opened)
    readers = {s: k for s, k in opened.items() if k[0] != "reads no answer"}
    unread = [s for s in opened if s not in readers]
    unread_until = time.monotonic() + SLOW["reads no answer"][2] + margin
    while readers:
        for s, (kind, _) in readers.items():
            if drip := SLOW[kind][1]:
                with contextlib.suppress(OSError):
                    s.send(drip)
        poll = select.poll()
        for s in readers:
            poll.register(s, select.POLLIN)
        numbers = {s.fileno(): s for s in readers}
        for number, _ in poll.poll(10):
            s = numbers[number]
            with contextlib.suppress(BlockingIOError):
                try:
                    ended = not s.recv(65536)
                except ConnectionError:
                    ended = True
                if ended:
                    del readers[s]
        for s, (kind, since) in list(readers.items()):
            if time.monotonic() - since > SLOW[kind][2] + margin:
                found.late.append(f"who {kind} is still connected after {time.monotonic() - since:.0f} s")
                del readers[s]
        time.sleep(1)
    while service.files > before + 2 and time.monotonic() < unread_until:  # a client that does not read does not see the end
        time.sleep(1)
    if service.files > before + 2:
        found.late += [f"who reads no answer is still connected: {service.files} open files, {before} before"]
    over.set()
    other.join()
    for s in [*opened, *unread]:
        s.close()
    return found


# --- lost clients ------------------------------------------------------------------------------------------------------------------


@dataclass
class Gone:
    idle: float
    """Seconds of a plain request to an idle service."""
    attended: float
    """Seconds of the large search for a client that waits."""
    after: float
    """Seconds of the slowest plain request of another user right after a client of the large search has gone."""
    cpu: float
    """Seconds of processor time that the service used in the two seconds after that answer, at most."""


def gone(service: Served, checkpoint: Path, times: int) -> Gone:
    ids = [item.item_id for item in Catalog.from_pretrained(checkpoint)]
    body = json.dumps({"histories": [ids[n % 40 : n % 40 + 20] for n in range(200)], "k": 60, "num_beams": 80, "exact": True}).encode()
    idle = statistics.median(service.seconds("POST", "/recommend", PLAIN) for _ in range(20))
    attended = service.seconds("POST", "/recommend", body)
    after, cpu = [], []
    for n in range(times):
        with socket.create_connection(("127.0.0.1", service.port)) as s:
            s.sendall(_HEAD % len(body) + body)
            time.sleep(min(0.2 + 0.1 * n, attended / 2))
        after.append(service.seconds("POST", "/recommend", PLAIN))
        used = service.cpu_s
        time.sleep(2)
        cpu.append(service.cpu_s - used)
    return Gone(idle, attended, max(after), max(cpu))


# --- a stop in full work -----------------------------------------------------------------------------------------------------------


@dataclass
class Stopped:
    made: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def stopped(checkpoint: Path, folder: Path, times: int, clients: int = 200) -> Stopped:
    """SIGTERM while many clients ask and change; then what a restart finds of the changes that were acknowledged, and of those refused."""
    found, told = Stopped(), dict[str, bool | None]()
    rng = random.Random(0)
    for n in range(times + 1):
        with served(checkpoint, folder) as service:
            _compare(service, told, found, n)
            service.ask("POST", "/recommend", PLAIN)  # the first one loads what the others use
            if n == times:
                service.stop()
                break
            over = threading.Event()
            threads = [threading.Thread(target=_client, args=(service, f"{n}-{c}", c % 2 == 0, told, found, over)) for c in range(clients)]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(2, 5))
            started = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            try:
                status = service.process.wait(60)
                if status:
                    found.faults.append(f"stop {n}: exit status {status}")
            except subprocess.TimeoutExpired:
                found.faults.append(f"stop {n}: still running after {time.monotonic() - started:.0f} s")
            over.set()
            for thread in threads:
                thread.join()
            if "Traceback" in (log := service.log.read_text()) or '"level": "error"' in log:
                found.faults.append(f"stop {n}: an error in the log: {[x for x in log.splitlines() if 'rror' in x][:2]}")
    return found


def _client(service: Served, name: str, changes: bool, told: dict[str, bool | None], found: Stopped, over: threading.Event) -> None:
    for turn in range(10_000):
        if over.is_set():
            return
        item, gone = f"new-{name}-{turn}", f"new-{name}-{turn - 1}"
        try:
            if not changes:
                service.ask("POST", "/recommend", PLAIN)
            elif turn % 3 == 2 and told.get(gone):
                told[gone] = None  # not answered: either is right
                status, _ = service.ask("DELETE", "/items", json.dumps({"item_ids": [gone]}).encode())
                told[gone] = status != 200
                found.made += status == 200
                found.refused += status != 200
            else:
                told[item] = None
                body = {
                    "items": [{"item_id": item, "title": f"A steel tea kettle, model {turn}"}],
                    "term_ids": [["kettle", name, f"m{turn}"]],
                }
                status, _ = service.ask("POST", "/items", json.dumps(body).encode())
                told[item] = status == 200
                found.made += status == 200
                found.refused += status != 200
        except OSError:
            if service.process.poll() is not None:
                return
        time.sleep(0.1)


def _compare(service: Served, told: dict[str, bool | None], found: Stopped, number: int) -> None:
    total = json.loads(service.ask("GET", "/items?limit=1")[1])["total"]
    pages = [json.loads(service.ask("GET", f"/items?limit=1000&offset={o}")[1])["items"] for o in range(0, total, 1000)]
    have = {item["item_id"] for page in pages for item in page}
    for item, there in told.items():
        if there is not None and (item in have) != there:
            found.faults.append(f"after stop {number - 1}: {item} {'is gone' if there else 'is there'}")
