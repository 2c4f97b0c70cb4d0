"""Tables for other programs."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_toys import HOSTILE, full_report

from grlm_hf.cli.app import app
from grlm_hf.evaluation.report import save_report, show_tables
from grlm_hf.evaluation.report.export import FORMATS, exported, latex_escaped
from grlm_hf.evaluation.report.tables import Cell, Table, comparison_table
from grlm_hf.markdown import one_line


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_figure_with_its_interval_in_full() -> None:
    report = full_report()
    rows = read(exported(show_tables({"run": report})["methods"], "csv"))
    assert [row["method"] for row in rows] == list(report.methods)
    for row in rows:
        for metric in ("recall@10", "mrr"):
            m = report.methods[row["method"]][metric]
            assert float(row[metric]) == m.value
            assert m.low == m.high or (float(row[f"{metric} low"]), float(row[f"{metric} high"])) == (m.low, m.high)
    tests = read(exported(show_tables({"run": report})["comparisons"], "csv"))
    assert list(tests[0]) == ["table", "a", "b", "a − b", "low", "high", "p", "p (Holm)"]
    assert [float(t["p"]) for t in tests] == [e.p for e in report.comparisons]
    assert [(float(t["low"]), float(t["high"])) for t in tests] == [(e.low, e.high) for e in report.comparisons]


def test_runs_side_by_side() -> None:
    report = full_report()
    rows = read(exported([comparison_table({"a": report, "b": replace(report, methods=dict(list(report.methods.items())[:1]))})], "csv"))
    assert {"a", "b", "b − a"} < rows[0].keys()
    assert rows[0]["b − a"] == "0.0"
    assert rows[-1]["b"] == rows[-1]["b − a"] == ""  # not measured


def test_several_tables_of_other_columns_are_separate_blocks() -> None:
    tables = [Table("t", ("x", "y"), ((Cell("a"), Cell("1.0", "", 1.0)),)), Table("u", ("z",), ((Cell("b"),),))]
    assert exported(tables, "csv") == "table,x,y\nt,a,1.0\n\ntable,z\nu,b\n"
    with pytest.raises(ValueError, match="no table to export"):
        exported([], "csv")


@pytest.mark.parametrize("name", [HOSTILE, 'a_b & 50 % #1 {x} ~ ^ \\ [1] $y$ <z> | "q" `r`', "=1+1", "[a", "-x", "+y", "@z", "A\nB"])
def test_names_are_shown_literally(name: str) -> None:
    table = Table(name, ("method", name), ((Cell(name), Cell("-0.5000", "", -0.5)),), notes=(name,))
    (row,) = csv.reader(exported([table], "csv").splitlines()[1:])
    assert row[0].removeprefix("'") == one_line(name)
    assert row[0][:1] not in "=+-@"
    assert row[1] == "-0.5"
    text = exported([table], "latex")
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[1] == r"\toprule"
    # what is left without our own commands has no special character but the two of the table itself
    for line in (body[2], body[4]):
        plain = re.sub(r"\\(text\w+|dots)\{\}|\\[{}$&#_%]|\{\[\}|\{\]\}|\$(-|\\pm|\\cdot|\\to)\$", "", line)
        assert plain.endswith(r" \\")
        assert plain.count("&") == 1
        assert not re.search(r"[\\{}$#_%~^<>|\"`\[\]]", plain.removesuffix(r" \\"))
    assert "$-$0.5000" in body[4]
    assert exported([table], "markdown").count("\n| ") == 3


def test_what_latex_reserves() -> None:
    assert latex_escaped("a_b{c}") == r"a\_b\{c\}"
    assert latex_escaped("\\") == r"\textbackslash{}"
    assert latex_escaped("x − y ± z · 5 %") == r"x $-$ y $\pm$ z $\cdot$ 5 \%"


@pytest.mark.usefixtures("blank_pictures")
def test_the_verb_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_report(full_report(), tmp_path / "report.json")
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    path = str(tmp_path / "report.json")
    for form in FORMATS:
        app(["report", path, "--format", form], result_action="return_value")
        printed = capsys.readouterr().out
        assert printed == exported(show_tables({"": full_report()})["methods"], form)
        app(["report", path, "--format", form, "--output", str(tmp_path / f"x.{form}")], result_action="return_value")
        assert (tmp_path / f"x.{form}").read_text(encoding="utf-8") == printed
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before  # the page is not drawn again
    app(["report", path, "--format", "csv", "--table", "slices"], result_action="return_value")
    assert "history length" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no table 'slice' here; expected one of methods, comparisons, "):
        app(["report", path, "--format", "csv", "--table", "slice"], result_action="return_value")
    with pytest.raises(ValueError, match="is a folder; with --format, --output names a file"):
        app(["report", path, "--format", "csv", "--output", str(tmp_path)], result_action="return_value")
