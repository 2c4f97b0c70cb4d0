"""The programs as programs: help, being stopped, memory."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from raw_files import write_raw
from shop_files import SCRIPTS, SEVERAL, product, read, review, run_amazon, write_lines


@pytest.mark.parametrize("name", ["amazon", "movielens", "own", "steam", "yelp"])
def test_help_teaches(name: str) -> None:
    done = subprocess.run([sys.executable, SCRIPTS / f"{name}.py", "--help"], capture_output=True, text=True, check=True)
    for line in (f"python dataset_scripts/{name}.py", "grlm run", "--core", "filters, in this order", "Memory"):
        assert line in done.stdout


@pytest.mark.parametrize(("blow", "before"), [(signal.SIGINT, False), (signal.SIGKILL, True)])
def test_a_stopped_run_leaves_nothing_half_done(tmp_path: Path, blow: signal.Signals, before: bool) -> None:
    good = [review(*event) for event in SEVERAL]
    if before:
        run_amazon(tmp_path, good, [product(i) for i in "ABC"])
        old = {p.name: p.read_bytes() for p in (tmp_path / "shop").iterdir()}
    (tmp_path / "raw").mkdir(exist_ok=True)
    line = json.dumps(product("ITEM"))
    reviews = write_lines(tmp_path / "raw" / "r.jsonl", good)
    meta = write_lines(tmp_path / "raw" / "m.jsonl", [product(i) for i in "ABC"] + [line.replace("ITEM", str(n)) for n in range(250_000)])
    call = [
        sys.executable,
        SCRIPTS / "amazon.py",
        tmp_path / "shop",
        *["--year", "2023", "--core", "0", "--reviews"],
        reviews,
        "--metadata",
        meta,
    ]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background would ignore it
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as running:
        while not list(tmp_path.glob(".shop.*-*/new")) and running.poll() is None:
            time.sleep(0.01)
        os.kill(running.pid, blow)
        said = running.communicate()[1]
    assert running.returncode == (130 if blow == signal.SIGINT else -blow), "it was stopped in the middle"
    if blow == signal.SIGINT:
        assert "Interrupted" in said
        assert "Traceback" not in said
        assert not list(tmp_path.glob(".shop*"))
    assert (tmp_path / "shop").exists() == before
    if before:
        assert {p.name: p.read_bytes() for p in (tmp_path / "shop").iterdir()} == old
    write_lines(meta, [product(i) for i in "ABC"])
    subprocess.run(call, check=True, capture_output=True)
    assert len(read(tmp_path / "shop")[0]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "shop"]


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """The slope between two sizes: far below the 680 bytes of a line, so that no raw text is held."""
    lines, peaks = (5_000, 55_000), []
    for count in lines:
        reviews, metadata = write_raw(tmp_path / str(count), count)
        call = [sys.executable, SCRIPTS / "amazon.py", tmp_path / "shop", "--year", "2023", "--reviews", reviews, "--metadata", metadata]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        peaks.append(int(re.search(r"peak memory ([\d,]+) MB", done.stdout)[1].replace(",", "")))  # type: ignore[index]
    slope = (peaks[1] - peaks[0]) * 1e6 / (lines[1] - lines[0])
    assert slope < 500, f"{slope:.0f} bytes a line, {peaks} MB"
