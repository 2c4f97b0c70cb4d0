"""A report as files and for people: JSON, tables, pictures, a page; and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from grlm_hf.evaluation.report.table import Table
from grlm_hf.evaluation.report.tables import (
    comparison_table,
    comparisons_tables,
    merged,
    methods_table,
    protocol_note,
    short_table,
    tables,
    unanswerable_note,
)
from grlm_hf.evaluation.schema import Report, check_comparable, load_report
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.evaluation.verdict import stated
from grlm_hf.files import write_json, write_text
from grlm_hf.markdown import escaped, one_line

__all__ = [
    "all_tables", "check_path", "compared", "load_report", "load_reports", "markdown_table", "render", "render_comparison", "save_report",
    "short_text", "show_tables", "text_table",
]  # fmt: skip


def check_path(path: str | Path) -> None:
    """Raises ``ValueError`` where no report can be written: a folder, or the name of its picture or page."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for the report, such as {path / 'report.json'}.")
    if path.suffix in (".png", ".html"):
        raise ValueError(f"{path} would be JSON, beside which a .png and a .html are written; name it {path.with_suffix('.json')}.")


def save_report(report: Report, path: str | Path) -> None:
    """Writes ``report.json`` and, beside it, ``report.png`` and ``report.html``. Raises as `check_path`."""
    check_path(path)
    path = Path(path)
    _write(report, path.parent, path.stem, ("metrics",))
    write_json(path, report.to_json())


def load_reports(paths: Sequence[str | Path]) -> dict[str, Report]:
    """Run → report, of runs that can be compared. The name of a run is the shortest end of its path that no other run has.

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


def markdown_table(report: Report) -> str:
    """Methods by metrics, as Markdown; with several domains, overall first and then each, by the domain of the target."""
    return methods_table(report, with_domains=True).markdown()


def text_table(report: Report) -> str:
    """The verdict; the rows of `markdown_table`, aligned for a terminal, with the 95 % interval of recall@10; and the comparisons."""
    table = methods_table(report, with_domains=True)
    at = table.head.index("recall@10")
    rows = tuple((*row, replace(row[at], text=row[at].note or "–")) for row in table.rows)
    head = (*(h.replace("_rate", "") for h in table.head), "recall@10 95 %")
    notes = [*table.notes, *_notes(report)]
    notes += [f"{name}: {part.cases:,} cases of {part.users:,} users." for name, part in report.domains.items()]
    compared = tables(report).get("comparisons", ())
    whole = replace(table, head=head, rows=rows, notes=tuple(notes)).text()
    return "\n\n".join([one_line(stated(report).text), whole, *(t.text() for t in compared)])


def short_text(report: Report) -> str:
    """The best methods in few columns, and the verdict: how a run ends on a terminal."""
    table = short_table(report)
    return f"{replace(table, notes=(*table.notes, *_notes(report))).text()}\n\n{one_line(stated(report).text)}"


def _notes(report: Report) -> list[str]:
    return [*filter(None, [protocol_note(report), unanswerable_note(report.protocol)])]


def all_tables(report: Report, markdown: bool = False) -> str:
    """Every table that a report has figures for, for a terminal or as Markdown with intervals."""
    found = tables(report)
    if markdown:
        said = map(escaped, [stated(report).text, *_notes(report)])
        return "\n\n".join([*said, *(t.markdown(intervals=True) for some in found.values() for t in some)])
    others = [t.text() for block, some in found.items() if block not in ("methods", "domains", "comparisons") for t in some]
    return "\n\n".join([text_table(report), *others])


def compared(reports: Mapping[str, Report], markdown: bool = False, comparisons: Sequence[Comparison] = ()) -> str:
    """Runs side by side (`load_reports`), each with its difference from the first, and paired tests between them
    (`grlm_hf.evaluation.paired`); for a terminal or as Markdown."""
    note, table = protocol_note(next(iter(reports.values()))), comparison_table(reports, bool(comparisons))
    tests = comparisons_tables(comparisons)
    if markdown:
        return "\n\n".join([escaped(note), table.markdown(intervals=True), *(t.markdown() for t in tests)])
    return "\n\n".join([f"{table.text()}\n{note}", *(t.text() for t in tests)])


def show_tables(reports: Mapping[str, Report], comparisons: Sequence[Comparison] = ()) -> dict[str, list[Table]]:
    """Block → its tables: of one report, or of several side by side with the tests between them."""
    if len(reports) == 1:
        return tables(next(iter(reports.values())))
    found = {"methods": [comparison_table(reports, bool(comparisons))], "comparisons": comparisons_tables(comparisons)}
    return {block: some for block, some in found.items() if some}


def render(report: Report, folder: str | Path, name: str = "report") -> list[Path]:
    """Writes the page and all pictures of a report into a folder: ``NAME.html``, ``NAME.png``, ``NAME-comparisons.png``, …"""
    return _write(report, Path(folder), name)


def _write(report: Report, folder: Path, name: str, pictures: Sequence[str] | None = None) -> list[Path]:
    """Writes the page and these pictures, by default all."""
    from grlm_hf.evaluation.report.page import page
    from grlm_hf.evaluation.report.plots import figures, save_png

    drawn, written = figures(report), [folder / f"{name}.html"]
    write_text(written[0], page(report, drawn))
    for picture in drawn if pictures is None else pictures:
        written.append(folder / (f"{name}.png" if picture == "metrics" else f"{name}-{picture}.png"))
        save_png(drawn[picture], written[-1])
    return written


def render_comparison(
    reports: Mapping[str, Report], folder: str | Path, name: str = "comparison", comparisons: Sequence[Comparison] = ()
) -> list[Path]:
    """Writes the page and the picture of several runs side by side into a folder: ``NAME.html``, ``NAME.png``."""
    from grlm_hf.evaluation.report.page import comparison_page
    from grlm_hf.evaluation.report.plots import figures, save_png

    written = [Path(folder) / f"{name}.html", Path(folder) / f"{name}.png"]
    write_text(written[0], comparison_page(reports, comparisons))
    save_png(figures(merged(reports))["metrics"], written[1])
    return written
