"""The verb for reports."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from grlm_hf.cli.app import Json, app, say
from grlm_hf.files import write_text

if TYPE_CHECKING:
    from grlm_hf.evaluation.report.export import Format
    from grlm_hf.evaluation.report.table import Table


@app.command
def report(
    reports: Annotated[list[Path], Parameter(negative=())],
    *,
    output: Path | None = None,
    markdown: Annotated[bool, Parameter(negative=(), help="Print Markdown tables.")] = False,
    format: Annotated[Literal["csv", "latex", "markdown"] | None, Parameter(help="Write one table in this form, and nothing else.")] = None,
    table: Annotated[str, Parameter(help="With --format: the table, such as comparisons or slices.")] = "methods",
    pair: Annotated[list[str] | None, Parameter(negative=())] = None,
    as_json: Json = False,
) -> None:
    """Show a report as tables, pictures and a page; or compare several with the same protocol.

    Example: `grlm report report.json` · `grlm report runs/a/report.json runs/b/report.json --output comparison` ·
    `grlm report report.json --format latex --output table.tex`

    Parameters
    ----------
    reports
        Reports of `grlm evaluate`. Two or more are compared with the first, and tested by user where their rankings were kept
        (evaluate.save_rankings). Or the seeds.json of `grlm run --seeds`.
    output
        Folder that receives the page and the pictures; by default the folder of a single report, for several none. With --format the file
        that receives the table; by default it is printed.
    pair
        With several reports: test this claim alone, such as "markov > grlm", or "a:grlm > b:grlm" for a method of both; repeat for more.
    """
    from grlm_hf.evaluation.paired import between_runs
    from grlm_hf.evaluation.report import all_tables, compared, load_reports, render, render_comparison, show_tables
    from grlm_hf.evaluation.seeds import is_summary, load_summary, seed_tables, seed_text

    if format is None and output is not None and output.is_file():
        raise ValueError(f"{output} is a file; --output names a folder.")
    if len(reports) == 1 and is_summary(reports[0]):
        if pair:
            raise ValueError("--pair is for several reports; name pairs of a run with seeds in its recipe: evaluate.pairs.")
        summary = load_summary(reports[0])
        if format is not None:
            _export(seed_tables(summary), table, format, output)
        else:
            print(_json(summary.to_json()) if as_json else seed_text(summary))
        return
    if len(reports) == 1 and pair:
        raise ValueError("--pair is for several reports; name pairs of one report when it is made: evaluate.pairs.")
    loaded = load_reports(reports)
    tests = between_runs(loaded, reports, pair or ()) if len(reports) > 1 else ()
    if format is not None:
        _export(show_tables(loaded, tests), table, format, output)
        return
    written = []
    if len(reports) > 1:
        found = {run: report.to_json() for run, report in loaded.items()} | ({"comparisons": [asdict(t) for t in tests]} if tests else {})
        print(_json(found) if as_json else compared(loaded, markdown, tests))
        written = render_comparison(loaded, output, comparisons=tests) if output else []
    else:
        (one,) = loaded.values()
        print(_json(one.to_json()) if as_json else all_tables(one, markdown))
        written = render(one, output or reports[0].parent, reports[0].stem)
    for path in written:
        say(f"→ {path}")


def _export(found: dict[str, list[Table]], name: str, form: Format, output: Path | None) -> None:
    """Prints the tables of a block, or writes them to a file."""
    from grlm_hf.evaluation.report.export import exported

    if name not in found:
        raise ValueError(f"There is no table {name!r} here; expected one of {', '.join(found)}.")
    if output is not None and output.is_dir():
        raise ValueError(f"{output} is a folder; with --format, --output names a file.")
    text = exported(found[name], form)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        say(f"→ {output}")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
