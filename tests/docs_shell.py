"""A bash whose `grlm` and `python -m grlm_hf` answer at once: each call is forked from a process that has imported everything.

As a program it is that process: ``python docs_shell.py SOCKET``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode().ljust(1 << 16)], [0, 1, 2])
    status = server.recv(16)
sys.exit(int(status or b"1"))
"""


class Shell:
    """Runs blocks of bash in `folder`, the port 8000 of its commands being a free one."""

    def __init__(self, work: Path):
        address, programs = str(work / "grlm.socket"), work / "bin"
        programs.mkdir()
        (programs / "grlm").write_text(CLIENT.format(python=sys.executable, address=address))
        (programs / "grlm").chmod(0o755)
        self.environment = os.environ | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.started: list[subprocess.Popen[str]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = subprocess.Popen([sys.executable, __file__, address])
        while not Path(address).exists():
            assert self.server.poll() is None, "the process that runs grlm has ended"
            time.sleep(0.1)

    def run(self, text: str, folder: Path) -> str:
        """Returns what is printed; fails where a command does. A block that begins with ``grlm serve`` goes on until `stop`."""
        text = text.replace("localhost:8000", f"127.0.0.1:{self.port}")
        how: dict[str, Any] = {"cwd": folder, "env": self.environment, "text": True}
        if text.startswith("grlm serve"):
            call = text.splitlines()[0].split(" #")[0] + f" --port {self.port}"
            self.started.append(subprocess.Popen(["bash", "-c", f"exec {call}"], stderr=subprocess.DEVNULL, **how))
            for _ in range(600):
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", self.port)) == 0:
                        return ""
                assert self.started[-1].poll() is None, "grlm serve has ended"
                time.sleep(0.1)
            raise AssertionError("grlm serve does not answer")
        # what curl calls a success may be a refusal
        text = text.replace("curl ", "curl --fail-with-body ")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, **how
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def stop(self) -> None:
        """Ends what goes on in the background."""
        for process in self.started:
            process.terminate()
            process.wait(60)
        self.started.clear()

    def close(self) -> None:
        self.stop()
        self.server.terminate()
        self.server.wait(10)


def main(address: str) -> None:
    sys.path.pop(0)  # this folder, whose vllm/ is no package
    import grlm_hf.cli
    import grlm_hf.evaluation.report
    import grlm_hf.modeling.recommender
    import grlm_hf.pipeline
    import grlm_hf.priors.text
    import grlm_hf.stages
    import grlm_hf.training.trainer  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _serve(client)
            client.close()


def _serve(client: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(client, 1 << 16, 3, socket.MSG_WAITALL)
    folder, arguments, environment = json.loads(message)
    for mine, given in enumerate(files):
        os.dup2(given, mine)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["grlm", *arguments]

    def watch() -> None:  # who asked has gone: Ctrl-C, or the test is over
        if not client.recv(1):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    status = 0
    try:
        from grlm_hf.cli import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
