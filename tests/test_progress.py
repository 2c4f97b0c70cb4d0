"""Bars on a terminal; in a log few whole lines, and none for short work."""

from __future__ import annotations

import io
import sys

import pytest
from tqdm.std import tqdm

from grlm_hf import progress as module
from grlm_hf.progress import Lines, progress, took


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A time that only the test moves."""
    clock = Clock()
    monkeypatch.setattr(module, "_now", clock)
    return clock


def worked(clock: Clock, steps: int, seconds: float) -> None:
    with progress(total=steps, desc="digging", unit="hole") as bar:
        for _ in range(steps):
            clock.now += seconds
            bar.update()
            bar.refresh()
        bar.set_postfix({"depth": 3})


def test_a_log_gets_few_whole_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    worked(clock, 1000, 0.6)  # ten minutes
    text = capsys.readouterr().err
    lines = text.splitlines(keepends=True)
    assert 8 <= len(lines) <= 12
    assert "\r" not in text
    assert all(line.startswith("digging: ") and line.endswith("\n") for line in lines)
    assert lines[0].startswith("digging: 1%, 9 of 1,000 holes in ")
    assert " to go" in lines[0]
    assert lines[-1].startswith("digging: 100%, 1,000 of 1,000 holes")
    assert "depth=3" in lines[-1]


def test_long_work_is_told_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    worked(clock, 10_000, 8.64)  # a day
    assert 20 < len(capsys.readouterr().err.splitlines()) < 24 * 6 + 20


def test_short_work_is_not_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    worked(clock, 1000, 0.004)
    assert list(progress(range(3), disable=True)) == [0, 1, 2]
    assert isinstance(progress(range(3)), Lines)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = progress(range(3))
    assert isinstance(bar, tqdm)
    assert not isinstance(bar, Lines)
    assert list(bar) == [0, 1, 2]
    assert "3/3" in terminal.getvalue()


def test_times_for_people() -> None:
    assert [took(s) for s in (2.13, 99.0, 204.0, 18_720.0)] == ["2.1 s", "99.0 s", "3.4 min", "5.2 h"]


def test_no_bar_writes_after_the_last_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that Ctrl-C ends leaves its bar to the collector, which closes it after the message."""
    for kind in (Lines, tqdm):
        out, clock = io.StringIO(), iter(range(0, 10**6, 60))
        monkeypatch.setattr(module, "_now", lambda clock=clock: float(next(clock)))
        bar = kind(total=100, file=out, desc="work")
        bar.update(3)
        bar.refresh()
        bar.n += 1
        module.end_all()
        said = out.getvalue()
        bar.close()
        del bar
        assert out.getvalue() == said
