"""Tables for other programs: CSV, LaTeX, Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Literal, get_args

from grlm_hf.evaluation.report.table import Cell, Table
from grlm_hf.markdown import one_line

Format = Literal["csv", "latex", "markdown"]
FORMATS: tuple[Format, ...] = get_args(Format)


def exported(tables: Sequence[Table], form: Format) -> str:
    """Tables as text, with a newline at the end.

    ``csv`` has full precision, and a column for each bound or deviation; of several tables the first column is their title. ``latex`` has
    booktabs' rules, and every name is escaped.

    Raises:
        ValueError: no tables.
    """
    if not tables:
        raise ValueError("There is no table to export.")
    if form == "markdown":
        return "\n\n".join(t.markdown() for t in tables) + "\n"
    return "\n".join(map(_latex, tables)) if form == "latex" else _csv(tables)


def _csv(tables: Sequence[Table]) -> str:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    for n, table in enumerate(tables):
        more = [list(dict.fromkeys(key for row in table.rows for key in row[c].more)) for c in range(len(table.head))]
        # a cell that shows its interval alone has no value of its own
        alone = [any(row[c].text.startswith("[") and row[c].more for row in table.rows) for c in range(len(table.head))]
        head = ["table"] if len(tables) > 1 else []
        for name, keys, only in zip(table.head, more, alone, strict=True):
            head += ([] if only else [one_line(name)]) + [key if only else f"{one_line(name)} {key}" for key in keys]
        if n == 0 or table.head != tables[n - 1].head:
            text.write("\n" if n else "")
            write(head)
        for row in table.rows:
            cells: list[object] = [one_line(table.title)] if len(tables) > 1 else []
            for cell, keys, only in zip(row, more, alone, strict=True):
                cells += ([] if only else [_plain(cell)]) + [cell.more.get(key, "") for key in keys]
            write(cells)
    return text.getvalue()


def _plain(cell: Cell) -> object:
    return cell.value if cell.value is not None else "" if cell.text == "–" else _no_formula(one_line(cell.text))


def _no_formula(text: str) -> str:
    """A name that a spreadsheet would take for a formula, with an apostrophe before it."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


_LATEX = {
    **{c: f"\\{c}" for c in "{}$&#_%"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}",  # "[" behind a line break is an option
    "−": "$-$", "–": "--", "±": r"$\pm$", "·": r"$\cdot$", "→": r"$\to$", "…": r"\dots{}",
}  # fmt: skip


def latex_escaped(text: object) -> str:
    """Any value as one line of LaTeX that shows literally."""
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def _latex(table: Table) -> str:
    lines = [r"% \usepackage{booktabs}", *(f"% {one_line(t)}" for t in (table.title, *table.notes) if t)]
    lines += [rf"\begin{{tabular}}{{{'l' * table.labels}{'r' * (len(table.head) - table.labels)}}}", r"\toprule"]
    lines += [" & ".join(map(latex_escaped, table.head)) + r" \\", r"\midrule"]
    lines += [" & ".join(latex_escaped(re.sub("^-(?=\\d)", "−", cell.text)) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
