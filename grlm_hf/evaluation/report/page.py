"""A report as one HTML page that needs nothing else: readable without a network, by day and by night, and on a phone."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from grlm_hf.evaluation.report.plots import figures, svg
from grlm_hf.evaluation.report.tables import Cell, Table, comparison_table, merged, protocol_words, tables
from grlm_hf.evaluation.schema import Protocol, Report, plain
from grlm_hf.markdown import flat, one_line
from grlm_hf.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SECTIONS = {  # block: heading, its picture, what that shows
    "methods": ("Methods", "metrics", "metrics of each method, with 95 % bootstrap intervals over users"),
    "comparisons": ("Which differences are real", "comparisons", "differences between methods; hollow where the 95 % interval holds 0"),
    "unseen": ("Items new to the model", "", ""),
    "slices": ("Where methods are good", "slices", "recall@10 of each method by slice, with 95 % intervals"),
    "domains": ("By domain", "", ""),
    "collisions": ("Shared Term IDs", "", ""),
    "unmasked": ("With seen items kept", "", ""),
    "diversity": ("What is recommended", "", ""),
    "training": ("Training", "training", "loss and validation metrics by epoch"),
}
_FOLDED = "Where methods are good"  # many tables, and the picture says most of it


def page(report: Report, drawn: Mapping[str, Figure] | None = None) -> str:
    """The page of one report: the protocol first, then each block that it has, with pictures inside. The same report, the same bytes.

    Args:
        drawn: the report's `figures`, if they are there already.
    """
    drawn, written = drawn or figures(report), tables(report)
    parts = [
        _section(heading, drawn.get(picture), caption, written.get(block, ()))
        for block, (heading, picture, caption) in _SECTIONS.items()
        if block in written or picture in drawn
    ]
    return _page(report.dataset, report.protocol, parts)


def comparison_page(reports: Mapping[str, Report]) -> str:
    """The page of several runs under one protocol.

    Args:
        reports: run → report.
    """
    first = next(iter(reports.values()))
    figure = figures(merged(reports))["metrics"]
    caption = "metrics of each method in each run, with 95 % bootstrap intervals over users"
    part = _section("Runs side by side", figure, caption, [comparison_table(reports)])
    return _page(f"{first.dataset}: {' – '.join(reports)}", first.protocol, [part])


def _page(title: str, protocol: Protocol, parts: Iterable[str]) -> str:
    template = Template((files("grlm_hf.evaluation.report") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_escaped(title),
        summary=f"{_escaped(_opened(protocol_words(protocol)))}.",
        protocol="\n".join(
            f"<dt>{_escaped(k.replace('_', ' '))}</dt><dd>{_escaped(_with_commas(v))}</dd>" for k, v in flat(plain(protocol)).items()
        ),
        sections="\n".join(parts),
        end=f"grlm-hf {__version__}. Brackets and whiskers are 95 % bootstrap intervals over users.",
    )


def _opened(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _with_commas(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _escaped(value: object) -> str:
    return html.escape(one_line(value))


def _section(heading: str, figure: Figure | None, caption: str, some: Iterable[Table]) -> str:
    picture = ""
    if figure is not None:
        data = base64.b64encode(svg(figure)).decode()
        picture = (
            f'<figure><div class="scroll" tabindex="0"><img alt="{_escaped(heading)}: {_escaped(caption)}" '
            f'src="data:image/svg+xml;base64,{data}"></div><figcaption>{_escaped(_opened(caption))}.</figcaption></figure>'
        )
    written = "\n".join(map(_table, some))
    if heading == _FOLDED and written:
        written = f"<details><summary>Figures as tables</summary>\n{written}\n</details>"
    return "\n".join(filter(None, [f"<section><h2>{_escaped(heading)}</h2>", picture, written, "</section>"]))


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_name(i < table.labels)}><button type="button">{_escaped(h)}</button></th>' for i, h in enumerate(table.head)
    )
    rows = "\n".join("<tr>" + "".join(_cell(c, i < table.labels) for i, c in enumerate(row)) + "</tr>" for row in table.rows)
    caption = f"<caption>{_escaped(table.title)}</caption>" if table.title else ""
    notes = "".join(f'<p class="faint">{_escaped(note)}</p>' for note in table.notes)
    return (
        f'<div class="scroll" tabindex="0"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{notes}'
    )


def _name(is_name: bool) -> str:
    return ' class="name"' if is_name else ""


def _cell(cell: Cell, is_name: bool) -> str:
    if is_name:
        return f'<th scope="row" class="name" title="{_escaped(cell.text)}">{_escaped(cell.text)}</th>'
    value = "" if cell.value is None else f' data-value="{float(cell.value)!r}" title="{float(cell.value)!r}"'
    note = f"<small>{_escaped(cell.note)}</small>" if cell.note else ""
    return f"<td{value}>{_escaped(cell.text)}{note}</td>"
