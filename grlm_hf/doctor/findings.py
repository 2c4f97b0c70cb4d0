"""What an examination finds, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

LEVELS = ("error", "warning", "info")
"""An error: it does not work, or the answers are wrong. A warning: it works, and something bends the results or will bite elsewhere.
An info: worth knowing."""
_COLOURS = {"error": "31", "warning": "33", "info": "36"}
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        level: one of `LEVELS`.
        check: what was looked at, a short fixed name such as ``padding-side``.
        found: what is there.
        why: why it matters.
        fix: what to do; a command where there is one.
        where: the file or folder.
    """

    level: str
    check: str
    found: str
    why: str
    fix: str
    where: str = ""


@dataclass(frozen=True)
class Examination:
    """All that is said of one target.

    Attributes:
        target: what was examined: a folder, a Hub id, or ``environment``.
        kind: environment, checkpoint, dataset, catalog, run or unknown.
        facts: what it is, by name, for a table.
        findings: errors first.
    """

    target: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def of(self, level: str) -> list[Finding]:
        """The findings of one level."""
        return [f for f in self.findings if f.level == level]


def examined(target: str, kind: str, facts: dict[str, Any], findings: Iterable[Finding]) -> Examination:
    """An `Examination` with its findings in the order of their levels."""
    return Examination(target, kind, facts, tuple(sorted(findings, key=lambda f: LEVELS.index(f.level))))


def run_checks(checks: Iterable[Callable[..., Iterable[Finding]]], *subject: Any, where: str = "") -> list[Finding]:
    """What the checks find. One that fails, whatever the reason, is itself a finding, and the others go on."""
    found: list[Finding] = []
    for check in checks:
        try:
            found.extend(check(*subject))
        except Exception as error:
            name = check.__name__.strip("_").replace("_", "-")
            found.append(
                Finding(
                    "error", "not-examined", f"The check {name} could not be made: {type(error).__name__}: {str(error)[:300]}",
                    "A file is of a form that nobody foresaw, so nothing can be said of it.",
                    "Look at what the message names; if the files are sound, report this as a bug.", where,
                )
            )  # fmt: skip
    return found


def text_report(said: Examination, colour: bool = False) -> str:
    """For a terminal: the facts, then each finding with its reason and its remedy, then a count."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    def block(label: str, text: str) -> str:
        return textwrap.fill(text, _WIDTH, initial_indent=f"    {label}: ", subsequent_indent="         ", break_on_hyphens=False,
                             break_long_words=False)  # fmt: skip

    lines = [paint(f"{said.kind} {said.target}" if said.kind != said.target else said.kind, "1")]
    width = max(map(len, said.facts), default=0)
    lines += [f"  {name.ljust(width)}  {value}" for name, value in said.facts.items()]
    for f in said.findings:
        head = textwrap.fill(f"{f.level}: {f.check}: {f.found}" + (f" ({f.where})" if f.where else ""), _WIDTH, subsequent_indent="    ",
                             break_on_hyphens=False, break_long_words=False)  # fmt: skip
        lines += ["", paint(f.level, _COLOURS[f.level]) + head[len(f.level) :], block("why", f.why), block("fix", f.fix)]
    counts = [f"{n} {name}{'' if n == 1 else 's'}" for level, name in zip(LEVELS, ("error", "warning", "note"), strict=True)
              if (n := len(said.of(level)))]  # fmt: skip
    lines += ["", ", ".join(counts) if counts else paint("Nothing found that is amiss.", "32")]
    return "\n".join(lines)
