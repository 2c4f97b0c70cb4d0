"""A bash for the blocks of the documentation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forks

BLANK_PICTURES = "import matplotlib.figure; matplotlib.figure.Figure.draw = lambda *_: None; "


class Shell:
    """Runs blocks of bash in `folder`; its `grlm` starts at once (`forks`) and draws nothing. The port 8000 of its commands is free."""

    def __init__(self, programs: Path):
        forks.install(programs, BLANK_PICTURES + forks.GRLM)
        self.environment = os.environ | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.started: list[subprocess.Popen[str]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

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
        """Ends the commands that run in the background."""
        for process in self.started:
            process.terminate()
            process.wait(60)
        self.started.clear()
