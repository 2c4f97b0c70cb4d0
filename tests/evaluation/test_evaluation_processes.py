"""Two processes that a launcher starts, joined by Accelerate: the figures of one, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grlm_hf.evaluation.processes import everywhere, is_main, on_main, world

TOY = Path(__file__).with_name("processes_toy.py")


def launched(folder: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    # `accelerate launch --cpu` starts one process, however many are asked for; on GPUs it starts them just as torchrun does
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, str(TOY), str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_share_the_work_and_report_what_one_does(tmp_path: Path) -> None:
    for n in (1, 2):
        ended = launched(tmp_path, n)
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
    assert launched(tmp_path, 2).returncode == 0
    assert (tmp_path / "report-2.json").read_bytes() == one
    assert (tmp_path / "asked-0-of-2").read_text().split() == ["12", "12", "12"]
    assert (tmp_path / "asked-1-of-2").read_text().split() == ["12", "4"]


@pytest.mark.slow
def test_what_fails_in_one_process_ends_them_all(tmp_path: Path) -> None:
    ended = launched(tmp_path, 2, "broken")
    assert ended.returncode != 0
    assert "Process 1 of 2 failed: ValueError: a poem about sheep" in ended.stderr  # so says the other one
    assert not (tmp_path / "report-2.json").exists()


def test_one_process_needs_no_launcher() -> None:
    assert world() == (0, 1)
    assert is_main()
    assert everywhere(lambda: 7) == [7]
    assert on_main(lambda: "x") == "x"
