"""Reports as values, tables and pictures, and runs side by side."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from report_toys import HOSTILE, full_report, with_figure

from grlm_hf.cli.app import app
from grlm_hf.evaluation.report import all_tables, compared, load_report, load_reports, markdown_table, render, save_report, text_table
from grlm_hf.evaluation.report.plots import figures
from grlm_hf.evaluation.report.tables import MAIN, Table, comparison_table, tables
from grlm_hf.evaluation.schema import Methods, Report
from grlm_hf.files import write_json

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REPORTS = [f for f in sorted(RESULTS.glob("*.json")) if '"schema": "grlm.report/1"' in f.read_text(encoding="utf-8")]
PNG = b"\x89PNG"


def numbers(found: Iterable[Table]) -> Counter[float]:
    return Counter(c.value for t in found for row in t.rows for c in row if c.value is not None)


def values(methods: Methods, *names: str) -> list[float]:
    return [m[n].value for m in methods.values() for n in names or m if n in m]


def test_tables_hold_the_figures_of_each_block() -> None:
    report = full_report()
    found = tables(report)
    assert list(found) == ["methods", "comparisons", "unseen", "domains", "slices", "collisions", "unmasked", "diversity"]
    columns = ("recall@1", "recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "valid_rate", "coverage")
    assert found["methods"][0].head == ("method", *columns)
    assert numbers(found["methods"]) == Counter(values(report.methods, *columns))
    both = ("recall@10", "ndcg@10")
    parts = [part for grouping in report.slices.values() for part in grouping.values()]
    assert numbers(found["slices"]) == Counter(v for part in parts for v in values(part.methods, *both))
    assert numbers(found["collisions"]) == Counter(v for rule in report.collisions.values() for v in values(rule, *both))
    assert numbers(found["domains"]) == Counter(v for part in report.domains.values() for v in values(part.methods, *both))
    compared = [value for e in report.comparisons for value in (e.difference, e.low, e.p, e.p_holm)]
    assert numbers(found["comparisons"]) == Counter(compared)
    cells = {cell.text for t in found["diversity"] for row in t.rows for cell in row}
    assert f"{report.methods['grlm']['intra_list_diversity@10'].value:.4f}" in cells


def test_blocks_that_are_absent_are_left_out() -> None:
    report = full_report()
    methods = {
        method: {n: m for n, m in metrics.items() if not n.endswith("@10") or n.startswith(("recall", "ndcg"))}
        for method, metrics in report.methods.items()
    }
    plain = Report(report.dataset, report.protocol, methods)
    assert list(plain.to_json()) == ["schema", "dataset", "protocol", "methods"]
    assert list(tables(plain)) == ["methods"]
    assert list(figures(plain)) == ["metrics"]
    for block in ("comparisons", "slices", "training"):
        assert list(figures(replace(plain, **{block: getattr(report, block)}))) == ["metrics", block]
    assert list(figures(report)) == ["metrics", "comparisons", "slices", "training"]


def test_text_and_markdown_say_the_same() -> None:
    report = full_report()
    text, markdown = all_tables(report), all_tables(report, markdown=True)
    for name in report.methods:
        assert text.count(name) >= 5
        assert markdown.count(name.replace("_", r"\_")) >= 5
    for e in report.comparisons:
        assert f"{e.difference:+.4f}" in text
        assert f"{e.difference:+.4f}" in markdown
    assert text.startswith(text_table(report))
    assert report.comparisons[0].test in text
    assert len({line.count("|") for line in markdown_table(report).splitlines()}) == 1


def test_a_report_that_its_picture_would_replace_is_refused(tmp_path: Path) -> None:
    for name in ("report.png", "report.html"):
        with pytest.raises(ValueError, match=r"name it .*report\.json"):
            save_report(full_report(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_report_is_saved_with_its_picture_and_page(tmp_path: Path) -> None:
    report = full_report()
    save_report(report, tmp_path / "report.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.png"]
    assert load_report(tmp_path / "report.json") == report
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    written = render(report, tmp_path / "new", "run")
    assert [p.name for p in written] == ["run.html", "run.png", "run-comparisons.png", "run-slices.png", "run-training.png"]
    assert all(p.read_bytes().startswith(PNG) for p in written[1:])
    assert written[0].read_bytes() == (tmp_path / "report.html").read_bytes()
    with mpl.rc_context({"font.size": 23, "axes.facecolor": "red", "svg.hashsalt": None, "savefig.dpi": 20}):  # the user's own style
        again = render(report, tmp_path / "again", "run")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written]


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_reports_of_earlier_versions(path: Path, tmp_path: Path) -> None:
    report = load_report(path)
    assert json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n" == path.read_text(encoding="utf-8")
    assert all(f"{m['recall@10'].value:.4f}" in all_tables(report) for m in report.methods.values())
    assert all(p.stat().st_size > 10_000 for p in render(report, tmp_path))


def test_strange_names_are_drawn_and_written_literally(tmp_path: Path) -> None:
    report = full_report()
    last = list(report.slices["history length"].values())[-1]
    report = replace(
        report,
        dataset=HOSTILE,
        methods={HOSTILE if name == "random" else name: m for name, m in report.methods.items()},
        slices={**report.slices, "history length": {HOSTILE: last}},
        comparisons=(replace(report.comparisons[0], a=HOSTILE, b=HOSTILE, metric=HOSTILE), *report.comparisons[1:]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(render(report, tmp_path)) == 5  # nothing is read as mathematics or markup
    assert len({line.count(" | ") for line in markdown_table(report).splitlines()}) == 1
    assert "\n" not in text_table(report).splitlines()[0]


def test_pictures_stand_what_a_log_may_hold() -> None:
    def drawn(*log: dict[str, Any]) -> dict[str, Any]:
        return figures(replace(full_report(), training=log))

    log = [{"epoch": 1.0, "loss": float("nan")}, {"epoch": 2.0, "loss": "n/a", "eval_loss": 1.5}, {"step": 3}, {"train_loss": 2.0}]
    assert [len(axis.lines) for axis in drawn(*log)["training"].axes] == [1]
    assert "training" not in drawn(*log[2:])
    with_recall = [{"epoch": n, "loss": 2.0 - n, "eval_loss": 2.0, "eval_recall@10": n / 10} for n in range(3)]
    assert [len(axis.lines) for axis in drawn(*with_recall)["training"].axes] == [2, 1]


def test_points_and_whiskers_stand_where_the_figures_are() -> None:
    report = full_report()
    drawn = figures(report)["metrics"].axes
    assert [axis.get_title(loc="left") for axis in drawn] == list(MAIN)
    for axis, name in zip(drawn, MAIN, strict=True):
        for (point, _, (whisker,)), m in zip(axis.containers, report.methods.values(), strict=True):
            assert point.get_xdata()[0] == m[name].value
            ends = whisker.get_segments()[0][:, 0]
            assert ends == pytest.approx([m[name].low, m[name].high])


# --- several runs ------------------------------------------------------------------------------------------------------------------


def runs(folder: Path) -> tuple[Path, Path, Report, Report]:
    one = full_report()
    methods = one.methods
    for name in methods:
        m = methods[name]["recall@10"]
        methods = with_figure(methods, name, "recall@10", value=m.value / 2, low=m.low / 2, high=m.high / 2)
    methods = {name: metrics for name, metrics in methods.items() if name != "random"}
    two = replace(one, methods={**methods, "sasrec": one.methods["random"]})
    for name, report in (("a", one), ("b", two)):
        write_json(folder / name / "report.json", report.to_json())
    return folder / "a" / "report.json", folder / "b" / "report.json", one, two


def test_runs_side_by_side(tmp_path: Path) -> None:
    first, second, one, two = runs(tmp_path)
    loaded = load_reports([first, second])
    assert loaded == {"a/report": one, "b/report": two}
    table = comparison_table(loaded)
    assert table.head == ("method", "metric", "a/report", "b/report", "b/report − a/report")
    by_name = {(row[0].text, row[1].text): [c.value for c in row[2:]] for row in table.rows}
    assert len(by_name) == 4 * len(MAIN)
    for (method, metric), (a, b, difference) in by_name.items():
        wanted = [r.methods[method][metric].value if method in r.methods else None for r in (one, two)]
        assert [a, b] == wanted
        assert difference == (None if None in wanted else pytest.approx(b - a))
    assert by_name["grlm", "recall@10"][2] == pytest.approx(-one.methods["grlm"]["recall@10"].value / 2)
    assert compared(loaded).count("b/report − a/report") == 1
    assert compared(loaded, markdown=True).count("| grlm |") == len(MAIN)
    write_json(tmp_path / "c.json", one.to_json())
    assert list(load_reports([first, tmp_path / "c.json"])) == ["report", "c"]


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    first, second, one, _ = runs(tmp_path)
    write_json(second, replace(one, protocol=replace(one.protocol, seen_items="somewhere else")).to_json())
    with pytest.raises(ValueError, match=r"report\.json and .*report\.json: .*different protocols.*seen_items: 'left out' and 'somewhere"):
        load_reports([first, second])
    with pytest.raises(ValueError, match="One report is given twice"):
        load_reports([first, tmp_path / "b" / ".." / "a" / "report.json"])


PROTOCOL = full_report().to_json()["protocol"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "grlm.quality/1"}, "is no report with schema 'grlm.report/1'"),
        ({"methods": {}}, "it has no methods"),
        ({"dataset": 3}, "dataset of the report is 3, where a text is expected"),
        ({"dataset": None}, "dataset of the report is None, where a text is expected"),
        ({"protocol": []}, r"protocol of the report is \[\], where split, users, candidates, seen_items are expected"),
        ({"protocol": {"split": "s"}}, "protocol of the report does not state 'users'"),
        ({"protocol": {"split": "s", "users": True}}, "protocol of the report does not state 'candidates'"),
        ({"protocol": PROTOCOL | {"users": True}}, "users of protocol of the report is True, where a whole number is expected"),
        ({"methods": {"m": {"recall@10": 0.1}}}, "'recall@10' of 'm' of methods of the report is 0.1, where value, low, high are expected"),
        ({"methods": {"m": {"recall@10": {"value": "0.1", "low": 0, "high": 1}}}}, "value of 'recall@10' .* is '0.1', where a number is"),
        ({"methods": {"m": 3}}, "'m' of methods of the report is 3, where an object is expected"),
        ({"slices": {"target": {"cold": {"methods": {}}}}}, "'cold' of 'target' of slices of the report does not state 'cases'"),
        ({"comparisons": {}}, r"comparisons of the report is \{\}, where a list is expected"),
        ({"comparisons": [{"a": "x"}]}, "entry 0 of comparisons of the report does not state 'b'"),
        ({"unseen": 3}, "unseen of the report is 3, where items, users, cases, candidates, term_ids, methods, comparisons are expected"),
    ],
)
def test_files_that_are_no_report(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", full_report().to_json() | change)
    with pytest.raises(ValueError, match=message):
        load_report(tmp_path / "r.json")
    for text in ("", "[]", "3", '{"schema": '):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ValueError, match=r"r\.json is no"):
            load_report(tmp_path / "r.json")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, one, _ = runs(tmp_path)
    app(["report", str(first)], exit_on_error=False, result_action="return_value")
    assert capsys.readouterr().out == all_tables(one) + "\n"
    assert (first.parent / "report.html").is_file()
    app(["report", str(first), str(second), "--markdown", "--output", str(tmp_path / "both")], result_action="return_value")
    assert capsys.readouterr().out == compared(load_reports([first, second]), markdown=True) + "\n"
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["comparison.html", "comparison.png"]
    assert [p.name for p in second.parent.iterdir()] == ["report.json"]
    with pytest.raises(ValueError, match="is a file; --output names a folder"):
        app(["report", str(first), "--output", str(second)], exit_on_error=False, result_action="return_value")
