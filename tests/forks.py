"""Python processes that start at once: each is forked from one process, a session's server, that has imported everything.

`run` and `start` take code; `grlm` runs the command line; `install` writes a program `grlm` for shells. What a test says about the start
of a process itself (which modules are imported, what they print) needs a real one: `subprocess.run([sys.executable, …])`.

As a program this file is the server: ``python forks.py SOCKET``. It ends with its parent, and a process ends with who started it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

PRELOADED = (
    "grlm_hf.cli", "grlm_hf.decoding.processor", "grlm_hf.doctor.run", "grlm_hf.evaluation.report", "grlm_hf.generation",
    "grlm_hf.indexing.extract", "grlm_hf.indexing.generate", "grlm_hf.indexing.neighbors", "grlm_hf.pipeline", "grlm_hf.priors.text",
    "grlm_hf.serving", "grlm_hf.stages", "grlm_hf.training.sft", "grlm_hf.training.trainer", "matplotlib.pyplot",
    "transformers.models.qwen3", "sentence_transformers", "faiss", "llguidance.hf", "llguidance.torch",
    "toys", "toy_run",
)  # fmt: skip
GRLM = "from grlm_hf.cli import main; main()"
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = [{code!r}, ["grlm", *sys.argv[1:]], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [b"-"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\\n")
    status = int(server.makefile().read().split()[1])
sys.exit(status if status >= 0 else 128 - status)
"""


class Process:
    """A process that runs `code`; leaving the context ends it."""

    def __init__(self, code: str, *args: str, cwd: Path | str | None = None, env: Mapping[str, str] | None = None):
        self._open = contextlib.ExitStack()
        self._printed = [self._open.enter_context(tempfile.TemporaryFile()) for _ in ("stdout", "stderr")]  # noqa: SIM115
        self._server = self._open.enter_context(socket.socket(socket.AF_UNIX))
        self._server.connect(address())
        request = [code, ["-c", *args], str(cwd or os.getcwd()), dict(os.environ if env is None else env)]
        with open(os.devnull) as nothing:
            socket.send_fds(self._server, [b"-"], [file.fileno() for file in (nothing, *self._printed)])
        self._server.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._open.enter_context(self._server.makefile())
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Its exit code, negative for a signal as `subprocess` has it, and all that it printed."""
        self._server.settimeout(timeout)
        status = int(self._answers.readline())
        texts = []
        for file in self._printed:
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess([], status, *texts)

    def running(self) -> bool:
        return not select.select([self._server], [], [], 0)[0]

    def printed(self) -> str:
        """What is on its stderr so far."""
        return os.pread(self._printed[1].fileno(), 1 << 20, 0).decode(errors="replace")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def run(code: str, *args: str, cwd: Path | str | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``python -c code args``."""
    with Process(code, *args, cwd=cwd, env=env) as process:
        return process.wait()


def grlm(*args: str, cwd: Path | str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a terminal of 200 columns."""
    return run(GRLM, *args, cwd=cwd, env={**os.environ, "COLUMNS": "200", **env})


def install(folder: Path, code: str = GRLM) -> None:
    """Writes a program `grlm` into a folder."""
    program = folder / "grlm"
    program.write_text(CLIENT.format(python=sys.executable, address=address(), code=code))
    program.chmod(0o755)


@functools.cache
def address() -> str:
    """The socket of the server, which is started at the first call and ends with this process."""
    place = str(Path(tempfile.mkdtemp(prefix="grlm-hf-forks-")) / "socket")
    server = subprocess.Popen([sys.executable, __file__, place], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    while not Path(place).exists():
        assert server.poll() is None, "the process that others are forked from has ended"
        time.sleep(0.05)
    return place


# --- the server --------------------------------------------------------------------------------------------------------------------


def serve(place: str) -> None:
    parent = os.getppid()
    if (spec := importlib.util.find_spec("vllm")) and not spec.loader:
        sys.modules["vllm"] = None  # type: ignore[assignment]  # not installed: found is the folder beside this file
    sys.path.append(str(Path(__file__).with_name("training")))
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        while True:
            ready, _, _ = select.select([server], [], [], 1)
            if os.getppid() != parent:
                os.unlink(place)
                os.rmdir(Path(place).parent)
                return
            if ready:
                client, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    attend(client)
                client.close()


def attend(client: socket.socket) -> None:
    """Forks the process that the client wants, tells its pid and then its exit code, and ends it when the client has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().readline())
    if (pid := os.fork()) == 0:
        client.close()
        work(files, *request)
    for file in files:
        os.close(file)
    with contextlib.suppress(OSError):
        client.sendall(f"{pid}\n".encode())
        ended = os.pidfd_open(pid)
        ready, _, _ = select.select([client, ended], [], [])
        if ended not in ready:
            os.kill(pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        client.sendall(f"{status}\n".encode())
    os._exit(0)


def work(files: list[int], code: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    for own, given in enumerate(files):
        os.dup2(given, own)
        os.close(given)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    status = 0
    try:
        exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
