"""A report as people meet it: JSON on disk, tables, pictures, a page; and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.evaluate import REPORT_SCHEMA, check_comparable
from grlm_hf.evaluation.report.tables import comparison_table, merged, methods_table, protocol_note, tables
from grlm_hf.files import read_json, write_json, write_text
from grlm_hf.markdown import escaped


def save_report(report: dict[str, Any], path: str | Path) -> None:
    """Writes ``report.json`` and, beside it, ``report.png`` and ``report.html``. Raises ``ValueError`` for a path that is one of these."""
    from grlm_hf.evaluation.report.page import page
    from grlm_hf.evaluation.report.plots import figures, save_png

    path = Path(path)
    if path.suffix in (".png", ".html"):
        raise ValueError(f"{path} is to be JSON, beside which a .png and a .html are written; name it {path.with_suffix('.json')}.")
    drawn = figures(report)
    save_png(drawn["metrics"], path.with_suffix(".png"))
    write_text(path.with_suffix(".html"), page(report, drawn))
    write_json(path, report)


def load_report(path: str | Path) -> dict[str, Any]:
    """Reads a report. Raises ``ValueError`` if the file is none, or of another schema."""
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema") != REPORT_SCHEMA:
        raise ValueError(f"{path} is no report with schema {REPORT_SCHEMA!r}.")
    if wrong := _missing(report):
        raise ValueError(f"{path} is not a whole report: {wrong}. Make it again with grlm evaluate.")
    return report


def _missing(report: Mapping[str, Any]) -> str:
    """What keeps a report from being shown; "" if nothing does."""
    protocol, methods = report.get("protocol"), report.get("methods")
    if not isinstance(report.get("dataset"), str) or not isinstance(protocol, dict) or not isinstance(methods, dict) or not methods:
        return "it lacks its dataset, its protocol or its methods"
    if absent := [key for key in ("split", "users", "candidates", "seen_items") if key not in protocol]:
        return f"its protocol does not state {absent[0]!r}"
    for name, metrics in methods.items():
        for metric, found in metrics.items() if isinstance(metrics, dict) else [("metrics", None)]:
            if not isinstance(found, dict) or not all(isinstance(found.get(k), int | float) for k in ("value", "low", "high")):
                return f"{metric} of {name!r} is {found!r}, where value, low and high are expected"
    return ""


def load_reports(paths: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Run → report, of runs that can be compared. A run is named by as much of its path's end as tells it from the others.

    Raises:
        ValueError: a file that is no report, the same file twice, or reports of different protocols.
    """
    places = [Path(p).resolve().with_suffix("").parts for p in paths]
    if len(set(places)) < len(places):
        raise ValueError(f"One report is given twice: {', '.join(map(str, paths))}.")
    reports = [load_report(path) for path in paths]
    for path, other in zip(paths[1:], reports[1:], strict=True):
        try:
            check_comparable(reports[0], other)
        except ValueError as error:
            raise ValueError(f"{paths[0]} and {path}: {error}") from error
    length = next(n for n in range(1, max(map(len, places)) + 1) if len({p[-n:] for p in places}) == len(places))
    return dict(zip(("/".join(p[-length:]) for p in places), reports, strict=True))


def markdown_table(report: Mapping[str, Any]) -> str:
    """Methods by metrics, as Markdown; of several domains, overall first and then each, by the domain of the target."""
    return methods_table(report, with_domains=True).markdown()


def text_table(report: Mapping[str, Any]) -> str:
    """The rows of `markdown_table`, aligned for a terminal, with the 95 % interval of recall@10; and what was compared."""
    table = methods_table(report, with_domains=True)
    at = table.head.index("recall@10")
    rows = tuple((*row, replace(row[at], text=row[at].note or "–")) for row in table.rows)
    head = (*(h.replace("_rate", "") for h in table.head), "recall@10 95 %")
    notes = [protocol_note(report)]
    notes += [f"{name}: {part['cases']:,} cases of {part['users']:,} users." for name, part in report.get("domains", {}).items()]
    compared = tables(report).get("comparisons", ())
    return "\n\n".join([replace(table, head=head, rows=rows, notes=tuple(notes)).text(), *(t.text() for t in compared)])


def all_tables(report: Mapping[str, Any], markdown: bool = False) -> str:
    """Every table that a report has figures for, for a terminal or as Markdown with intervals."""
    if markdown:
        return "\n\n".join(
            [escaped(protocol_note(report)), *(t.markdown(intervals=True) for some in tables(report).values() for t in some)]
        )
    others = [t.text() for block, some in tables(report).items() if block not in ("methods", "domains", "comparisons") for t in some]
    return "\n\n".join([text_table(report), *others])


def compared(reports: Mapping[str, Mapping[str, Any]], markdown: bool = False) -> str:
    """Runs side by side (`load_reports`), each with its difference from the first; for a terminal or as Markdown."""
    note, table = protocol_note(next(iter(reports.values()))), comparison_table(reports)
    return f"{escaped(note)}\n\n{table.markdown(intervals=True)}" if markdown else f"{table.text()}\n{note}"


def render(report: Mapping[str, Any], folder: str | Path, name: str = "report") -> list[Path]:
    """Writes the page and all pictures of a report into a folder: ``NAME.html``, ``NAME.png``, ``NAME-comparisons.png``, …"""
    from grlm_hf.evaluation.report.page import page
    from grlm_hf.evaluation.report.plots import figures, save_png

    folder, drawn = Path(folder), figures(report)
    written = [folder / f"{name}.html"]
    write_text(written[0], page(report, drawn))
    for picture, figure in drawn.items():
        written.append(folder / (f"{name}.png" if picture == "metrics" else f"{name}-{picture}.png"))
        save_png(figure, written[-1])
    return written


def render_comparison(reports: Mapping[str, Mapping[str, Any]], folder: str | Path, name: str = "comparison") -> list[Path]:
    """Writes the page and the picture of several runs side by side into a folder: ``NAME.html``, ``NAME.png``."""
    from grlm_hf.evaluation.report.page import comparison_page
    from grlm_hf.evaluation.report.plots import figures, save_png

    written = [Path(folder) / f"{name}.html", Path(folder) / f"{name}.png"]
    write_text(written[0], comparison_page(reports))
    save_png(figures(merged(reports))["metrics"], written[1])
    return written
