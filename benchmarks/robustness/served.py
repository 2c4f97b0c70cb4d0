"""A ``grlm serve`` process of its own, and what it takes of the system."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from environment import ROOT
from trial import LIMIT_S

PLAIN = b'{"history": ["B0001", "B0002"], "k": 5}'


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    _own: threading.local = field(default_factory=threading.local)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of an answer, on one connection a thread. Raises ``OSError`` if there is none."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=4 * LIMIT_S)
        try:
            connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OSError(f"{type(error).__name__}: {error}") from error

    def seconds(self, method: str, path: str, body: bytes) -> float:
        """How long an answer of 200 takes. Raises ``OSError`` for another one."""
        started = time.monotonic()
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise OSError(f"{status}: {answer[:200]!r}")
        return time.monotonic() - started

    def _status(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1])

    @property
    def mb(self) -> float:
        """Resident memory."""
        return self._status("VmRSS") / 1024

    @property
    def peak_mb(self) -> float:
        """The most since `forget_peak`."""
        return self._status("VmHWM") / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@contextmanager
def served(checkpoint: Path, folder: Path, *flags: str) -> Iterator[Served]:
    """A running service, with its state and its log in a folder. It is killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    command = [sys.executable, "-m", "grlm_hf", "serve", str(checkpoint), "--port", "0", "--state", str(folder / "state"), *flags]
    with open(log, "wb") as out, subprocess.Popen(command, stderr=out, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            end = time.monotonic() + 120
            while not (found := re.search(r"on http://[^ ]*:(\d+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"The service did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield Served(process, int(found[1]), log)
        finally:
            process.kill()
