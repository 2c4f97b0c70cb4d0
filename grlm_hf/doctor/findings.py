"""Findings of an examination, and their report."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

LEVELS = ("error", "warning", "info")
"""error: it does not work, or answers are wrong. warning: it works, but results are distorted or other tools will fail. info: good to
know."""
_COLOURS = {"error": "31", "warning": "33", "info": "36"}
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what was found, why it matters, and how to mend it."""

    level: str  # one of `LEVELS`
    check: str  # the short fixed name of the check, such as "padding-side"
    found: str
    why: str
    fix: str  # a command if there is one
    where: str = ""  # the file or folder


@dataclass(frozen=True)
class Examination:
    """All facts and findings about one target."""

    target: str  # a folder, a Hub id, or "environment"
    kind: str  # environment, checkpoint, dataset, catalog, run or unknown
    facts: dict[str, Any] = field(default_factory=dict)  # name → value, for a table
    findings: tuple[Finding, ...] = ()  # errors first

    def of(self, level: str) -> list[Finding]:
        """The findings of one level."""
        return [f for f in self.findings if f.level == level]


def examined(target: str, kind: str, facts: dict[str, Any], findings: Iterable[Finding]) -> Examination:
    """An `Examination` with its findings in the order of their levels."""
    return Examination(target, kind, facts, tuple(sorted(findings, key=lambda f: LEVELS.index(f.level))))


def run_checks(checks: Iterable[Callable[..., Iterable[Finding]]], *subject: Any, where: str = "") -> list[Finding]:
    """The findings of the checks, by default at `where`. A check that raises is itself a finding, and the others still run."""
    found: list[Finding] = []
    for check in checks:
        try:
            found.extend(f if f.where else replace(f, where=where) for f in check(*subject))
        except Exception as error:
            name = check.__name__.strip("_").replace("_", "-")
            reason = f"The check {name} failed: {type(error).__name__}: {str(error)[:300]}"
            fix = "Check what the message names; if the files are correct, report this as a bug."
            found.append(Finding("error", "not-examined", reason, "A file has an unexpected form, so this was not examined.", fix, where))
    return found


def text_report(examination: Examination, colour: bool = False) -> str:
    """For a terminal: the facts, then each finding with reason and fix, then a count."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    def wrapped(text: str, indent: int) -> str:
        return textwrap.fill(text, _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)

    lines = [paint(f"{examination.kind} {examination.target}" if examination.kind != examination.target else examination.kind, "1")]
    width = max(map(len, examination.facts), default=0)
    lines += [f"  {name.ljust(width)}  {value}" for name, value in examination.facts.items()]
    for f in examination.findings:
        head = wrapped(f"{f.level}: {f.check}: {f.found}" + (f" ({f.where})" if f.where else ""), 4)
        lines += ["", paint(f.level, _COLOURS[f.level]) + head[len(f.level) :]]
        lines += [wrapped(f"    {label}: {text}", 9) for label, text in (("why", f.why), ("fix", f.fix))]
    counts = [f"{n} {name}{'' if n == 1 else 's'}" for level, name in zip(LEVELS, ("error", "warning", "note"), strict=True)
              if (n := len(examination.of(level)))]  # fmt: skip
    lines += ["", ", ".join(counts) if counts else paint("No problems found.", "32")]
    return "\n".join(lines)
