"""Two processes that a launcher starts, joined by Accelerate: the figures of one, to the last bit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import forks
import pytest

from grlm_hf.evaluation.processes import everywhere, is_main, on_main, world

TOY = Path(__file__).with_name("processes_toy.py")


def started(folder: Path, processes: int, *more: str) -> list[subprocess.CompletedProcess[str]]:
    """The evaluation in processes that find each other as a launcher has them do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    code = TOY.read_text(encoding="utf-8").replace("__file__", repr(str(TOY)))
    with ExitStack() as running:
        ranks = [place | {"RANK": str(n), "LOCAL_RANK": str(n)} if processes > 1 else {} for n in range(processes)]
        all_of_them = [running.enter_context(forks.Process(code, str(folder), *more, env=os.environ | rank)) for rank in ranks]
        return [process.wait() for process in all_of_them]


@pytest.mark.slow
def test_two_processes_share_the_work_and_report_what_one_does(tmp_path: Path) -> None:
    (alone,) = started(tmp_path, 1)
    assert alone.returncode == 0, alone.stderr[-3000:]
    # `accelerate launch --cpu` starts one process, however many are asked for; on GPUs it starts them just as torchrun does
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run([*launcher, str(TOY), str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    one = (tmp_path / "report-1.json").read_bytes()
    assert (tmp_path / "report-2.json").read_bytes() == one
    assert (tmp_path / "seen-by-1-of-2.json").read_bytes() == one  # every process has it
    # whole chunks of twelve, turn by turn; each process kept its own
    asked = [(tmp_path / name).read_text().split() for name in ("asked-0-of-1", "asked-0-of-2", "asked-1-of-2")]
    assert asked == [["12", "12", "12", "4"], ["12", "12"], ["12", "4"]]
    assert len(list((tmp_path / "work-2").iterdir())) == 3 * 4  # two methods, one of them twice
    # and from where a killed run stopped, also with another number of processes
    gone = sorted((tmp_path / "work-2").glob("grlm-*"))[2]
    gone.unlink()
    assert [process.returncode for process in started(tmp_path, 2)] == [0, 0]
    assert (tmp_path / "report-2.json").read_bytes() == one
    assert (tmp_path / "asked-0-of-2").read_text().split() == ["12", "12", "12"]
    assert (tmp_path / "asked-1-of-2").read_text().split() == ["12", "4"]


def test_what_fails_in_one_process_ends_them_all(tmp_path: Path) -> None:
    other, broken = started(tmp_path, 2, "broken")
    assert other.returncode
    assert broken.returncode
    assert "Process 1 of 2 failed: ValueError: a poem about sheep" in other.stderr
    assert not (tmp_path / "report-2.json").exists()


def test_one_process_needs_no_launcher() -> None:
    assert world() == (0, 1)
    assert is_main()
    assert everywhere(lambda: 7) == [7]
    assert on_main(lambda: "x") == "x"
