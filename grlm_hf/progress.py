"""How far long work is: a bar on a terminal or in a notebook; where the output goes to a file, a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

SOON, OFTEN, RARELY = 5.0, 10.0, 600.0
"""Seconds to the first line of a log, between two lines with a tenth of the work between them, and between any two lines."""


_now = time.monotonic


def progress(*args: Any, **options: Any) -> tqdm[Any]:
    """A `tqdm.tqdm` with these arguments; where standard error is no terminal, one that writes few lines (`Lines`)."""
    from tqdm.auto import tqdm as auto

    notebook = any(kind.__name__ == "tqdm_notebook" for kind in auto.__mro__)
    kind = auto if notebook or sys.stderr.isatty() else Lines
    return kind(*args, **options)


def end_all() -> None:
    """Ends all bars as they are, ours and those of other libraries, so that none writes after a last message."""
    for bar in list(getattr(tqdm, "_instances", ())):
        if not bar.disable and not isinstance(bar, Lines) and sys.stderr.isatty():
            bar.close()  # ends its line
        bar.disable = True


def took(seconds: float) -> str:
    """A time for people: ``2.1 s``, ``3.4 min``, ``5.2 h``."""
    value, unit = (seconds, "s") if seconds < 100 else (seconds / 60, "min") if seconds < 6000 else (seconds / 3600, "h")
    return f"{value:.1f} {unit}"


class Lines(tqdm):  # type: ignore[type-arg]  # it has no arguments when it runs
    """A bar for logs: whole lines, the first after `SOON` seconds, and none of work that is done before."""

    disable: bool

    def __init__(self, *args: Any, **options: Any):
        self._began = self._told = _now()
        self._share = 0.0
        self._start: tuple[float, int] | None = None
        super().__init__(*args, **options | {"mininterval": 1.0, "dynamic_ncols": False, "ascii": False})

    def display(self, *_: Any, **__: Any) -> bool:
        """Writes a line if one is due; tqdm calls it about once a second."""
        now, share = _now(), self.n / self.total if self.total else 0.0
        if self._start is None and self.n > self.initial:
            self._start = now, self.n
        waited = now - self._told
        first = self._told == self._began and waited >= SOON
        if first or waited >= RARELY or (waited >= OFTEN and share - self._share >= 0.1):
            self._told, self._share = now, share
            self._write()
        return True

    def clear(self, *_: Any, **__: Any) -> None:
        """Nothing: lines of a log stay."""

    def close(self) -> None:
        """Ends the bar, with a last line if it has written one before."""
        if self.disable:
            return
        self.disable = True
        type(self)._decr_instances(self)
        if self._told > self._began and self.n > self._share * (self.total or 0):
            self._write()

    def _write(self) -> None:
        elapsed, unit = _now() - self._began, self.unit.strip().removesuffix("s") + "s"
        since, done = self._start or (self._began, self.initial)  # the first steps also prepare, and take longer
        if self.n == done:
            since, done = self._began, self.initial
        rate = (self.n - done) / max(_now() - since, 1e-9)
        of = f"{self.n / self.total:.0%}, {self.n:,} of {self.total:,} {unit}" if self.total else f"{self.n:,} {unit}"
        left = f", about {took((self.total - self.n) / rate)} to go" if self.total and rate and self.n < self.total else ""
        more = f", {self.postfix}" if self.postfix else ""
        name = (self.desc or "").removesuffix(": ")
        self.fp.write(f"{name or 'progress'}: {of} in {took(elapsed)}{left}{more}\n")
        self.fp.flush()
