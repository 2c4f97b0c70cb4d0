"""A report as one HTML page that needs nothing else: readable without a network, by day and by night, and on a phone."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from grlm_hf.evaluation.examples import HITS, TOP
from grlm_hf.evaluation.report.plots import figures, svg
from grlm_hf.evaluation.report.table import Table
from grlm_hf.evaluation.report.tables import (
    comparison_table,
    comparisons_tables,
    merged,
    protocol_words,
    short_table,
    tables,
    unanswerable_note,
)
from grlm_hf.evaluation.schema import Protocol, Report, plain
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.evaluation.verdict import stated
from grlm_hf.markdown import flat, one_line
from grlm_hf.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SECTIONS = {  # block: heading, its picture, the picture's caption
    "methods": ("Methods", "metrics", "metrics of each method, with 95 % bootstrap intervals over users"),
    "comparisons": ("Which differences are real", "comparisons", "differences between methods; hollow where the 95 % interval holds 0"),
    "unseen": ("Items new to the model", "", ""),
    "slices": ("Where methods are good", "slices", "recall@10 of each method by slice, with 95 % intervals"),
    "domains": ("By domain", "", ""),
    "collisions": ("Shared Term IDs", "", ""),
    "unmasked": ("With seen items kept", "", ""),
    "diversity": ("What is recommended", "", ""),
    "costs": ("What it costs", "", ""),
    "training": ("Training", "training", "loss and validation metrics by epoch"),
}
_FOLDED = "slices"  # many tables, and the picture says most of it


@dataclass(frozen=True)
class _Section:
    heading: str
    picture: str  # SVG in base64, or ""
    caption: str
    tables: Sequence[Table]
    folded: bool = False  # its tables are shown on demand


def page(report: Report, drawn: Mapping[str, Figure] | None = None) -> str:
    """The page of one report: the verdict, the best methods, a few users, its blocks with pictures inside, and the protocol last. The same
    report, the same bytes.

    Args:
        drawn: the report's `figures`; by default they are drawn here.
    """
    drawn, written = drawn or figures(report), tables(report)
    sections = [
        _Section(heading, _encoded(drawn.get(picture)), caption, written.get(block, ()), block == _FOLDED)
        for block, (heading, picture, caption) in _SECTIONS.items()
        if block in written or picture in drawn
    ]
    first = {"verdict": stated(report).text, "short": short_table(report, with_words=True), "examples": report.examples}
    return _rendered(report.dataset, report.protocol, sections, chosen=_chosen(report), **first)


def comparison_page(reports: Mapping[str, Report], comparisons: Sequence[Comparison] = ()) -> str:
    """The page of several runs under one protocol.

    Args:
        reports: run → report.
        comparisons: paired tests between them.
    """
    first = next(iter(reports.values()))
    picture = _encoded(figures(merged(reports))["metrics"])
    caption = "metrics of each method in each run, with 95 % bootstrap intervals over users"
    written = [comparison_table(reports, bool(comparisons)), *comparisons_tables(comparisons)]
    section = _Section("Runs side by side", picture, caption, written)
    return _rendered(f"{first.dataset}: {' – '.join(reports)}", first.protocol, [section])


def _rendered(title: str, protocol: Protocol, sections: Sequence[_Section], **first: Any) -> str:
    from jinja2 import Environment

    environment = Environment(autoescape=True, finalize=_escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((files("grlm_hf.evaluation.report") / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        summary=_opened(protocol_words(protocol)),
        warning=unanswerable_note(protocol),
        depth=protocol.depth or "ones",
        protocol={name: _with_commas(value) for name, value in flat(plain(protocol)).items()},
        sections=sections,
        opened=_opened,
        version=__version__,
        **first,
    )


def _chosen(report: Report) -> str:
    """How the users of the page were chosen, in words: hits are more frequent among them than they are."""
    if not report.examples:
        return ""
    method = next(iter(report.examples[0].recommended))
    said = f"Chosen by chance (seed {report.protocol.seed}), with at least {HITS} hits of {method} where it has them (✓: the next item is "
    said += f"among the first {TOP})."
    found = report.methods.get(method, {}).get(f"recall@{TOP}")
    return said + (f" Of all cases, {found.value:.1%} are hits." if found else "")


def _escaped(value: Any) -> Any:
    """Any value that the template shows, on one line; what macros return is HTML already."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(html.escape(one_line(value)))


def _encoded(figure: Figure | None) -> str:
    return "" if figure is None else base64.b64encode(svg(figure)).decode()


def _opened(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _with_commas(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
