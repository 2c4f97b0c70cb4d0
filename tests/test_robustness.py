"""The trials of benchmarks/robustness measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import forks

FOLDER = Path(__file__).parents[1] / "benchmarks" / "robustness"
HARNESS = f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"


def test_a_part_that_does_not_exist_is_named() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "run.py"), "--only", "kills,strangers"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such part: strangers; expected some of inputs, kills, service" in done.stderr


def test_growth_compares_the_end_with_a_quarter() -> None:
    code = """
from service import Soak
mb = [500.0] * 4 + [600, 601, 602] + [650.0] * 10 + [660, 661, 900]
print(Soak(mb=mb).grown("mb"))
"""
    done = forks.run(HARNESS + code)
    assert float(done.stdout) == 661 / 601, done.stderr  # a busy moment at the end does not count


def test_heavy_bodies_are_within_the_limit_and_fill_it() -> None:
    code = """
import json, uploads
print(json.dumps([[name, path, len(body)] for name, (_, path, body) in uploads.bodies(10_000)]))
"""
    done = forks.run(HARNESS + code)
    found = json.loads(done.stdout)
    assert len({name for name, _, _ in found}) == len(found) > 50
    assert {path for _, path, _ in found} == {"/recommend", "/items"}
    assert max(size for _, _, size in found) <= 10_000
    assert min(size for name, _, size in found if name not in ("gzip", "deflate") and "as the service takes" not in name) > 7_000


def test_the_memory_and_the_end_of_a_service_are_seen() -> None:
    """Of any process: here of one that takes 100 MB, gives them back, and ends."""
    code = """
import subprocess, time
from pathlib import Path
from served import Served
program = "x = bytearray(100_000_000); x[::4096] = bytes(len(x[::4096])); del x; print(flush=True); input()"
process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
process.stdout.readline()
served = Served(process, 0, Path())
before = served.peak_mb - served.mb
served.forget_peak()
print(before > 90, served.peak_mb - served.mb < 5, served.threads, served.files, served.stop())
"""
    assert forks.run(HARNESS + code).stdout.split() == ["True", "True", "1", "3", "-15"]
