"""A table of figures, for a terminal, for Markdown and for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from grlm_hf.markdown import escaped, one_line
from grlm_hf.markdown import table as markdown


@dataclass(frozen=True)
class Cell:
    """One place of a table."""

    text: str  # unescaped
    note: str = ""  # its interval, shown small where there is room
    value: float | None = None  # its sort key; None: its text
    more: Mapping[str, float] = field(default_factory=dict)  # columns beside it where a table is exported, such as "low" and "high"


@dataclass(frozen=True)
class Table:
    """Figures by rows and columns."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1  # number of the first columns, which hold names; the others hold figures
    notes: tuple[str, ...] = ()  # sentences below the table

    def text(self, intervals: bool = False) -> str:
        """Aligned for a terminal, with its title above and its notes below."""
        lines = [[one_line(h) for h in self.head], *([one_line(_shown(c, intervals)) for c in row] for row in self.rows)]
        width = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(c.ljust(w) if i < self.labels else c.rjust(w) for i, (c, w) in enumerate(zip(line, width, strict=True))).rstrip()
            for line in lines
        ]
        return "\n".join([*filter(None, [one_line(self.title)]), *aligned, *map(one_line, self.notes)])

    def markdown(self, intervals: bool = False) -> str:
        """As Markdown, with its title in bold above and its notes below."""
        rows = ([escaped(c.text) if i < self.labels else _shown(c, intervals) for i, c in enumerate(row)] for row in self.rows)
        head = [h if re.fullmatch(r"[\w@ ()%−-]+", h) else escaped(h) for h in self.head]
        title = f"**{escaped(self.title)}**" if self.title else ""
        return "\n\n".join(filter(None, [title, markdown(head, rows), *map(escaped, self.notes)]))


def _shown(cell: Cell, intervals: bool) -> str:
    return f"{cell.text} {cell.note}" if intervals and cell.note else cell.text
