"""Metrics and methods of the user, cut-offs, and rankings that are kept; tests between runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toys import toy_catalog, toy_histories

from grlm_hf import Catalog
from grlm_hf.cli.app import app
from grlm_hf.data.interactions import Case, leave_one_out
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.metrics import Measures, ranks
from grlm_hf.evaluation.own import learnt, own_method
from grlm_hf.evaluation.paired import between_runs
from grlm_hf.evaluation.rankings import Method, Rankings
from grlm_hf.evaluation.report import load_report, load_reports, save_report
from grlm_hf.evaluation.report.tables import comparison_table, methods_table
from grlm_hf.evaluation.saved import cases_hash, load_rankings, rankings_of, rankings_path
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.scored import scored
from grlm_hf.evaluation.significance import compare_pairs, corrected
from grlm_hf.files import write_json
from grlm_hf.plugins import Plugin
from grlm_hf.priors.popularity import Popularity

TOY = toy_catalog()
CATALOG = Catalog([replace(i, domain="camp" if n < 6 else "home") for n, i in enumerate(TOY)], TOY.term_ids)
SPLIT = leave_one_out(toy_histories())
IDS = [i.item_id for i in CATALOG]
SETUP = Setup("toy", "leave-one-out, test", "left out", resamples=20)
POPULAR = scored(Popularity.fit(IDS, SPLIT.train), CATALOG, True)


def shuffled(seed: int) -> Method:
    def method(histories: Sequence[Sequence[str]]) -> Rankings:
        return Rankings([random.Random(f"{seed} {h}").sample(IDS, len(IDS)) for h in histories])

    return method


def first_half(ranks: np.ndarray) -> np.ndarray:
    return (ranks > 0) & (ranks <= 6)


# --- cut-offs and metrics ----------------------------------------------------------------------------------------------------------------


def test_cut_offs_say_what_is_measured_and_how_long_rankings_are() -> None:
    asked = []

    def long(histories: Sequence[Sequence[str]]) -> Rankings:
        asked.append(len(histories))
        return Rankings([[*(f"x{n}" for n in range(29)), "target"] for _ in histories])

    cases = [Case("u", ("i20",), "target"), Case("v", ("i19",), "x3")]
    report = evaluate({"long": long}, cases, CATALOG, replace(SETUP, measures=Measures([3, 30], [50])))
    found = report.methods["long"]
    assert [n for n in found if "recall" in n or "ndcg" in n] == ["recall@3", "recall@10", "recall@30", "ndcg@10", "ndcg@50"]
    assert (found["recall@3"].value, found["recall@10"].value, found["recall@30"].value) == (0, 0.5, 1)
    assert found["mrr"].value == pytest.approx((1 / 30 + 1 / 4) / 2)
    assert report.protocol.depth == 50
    short = evaluate({"long": long}, cases, CATALOG, SETUP)
    assert short.methods["long"]["recall@20"].value == 0.5
    assert short.protocol.depth == 20


def test_a_metric_of_the_user_is_in_every_place_of_a_report(tmp_path: Path) -> None:
    setup = replace(SETUP, measures=Measures(own={"first_half": first_half}))
    report = evaluate({"a": shuffled(1), "b": POPULAR}, SPLIT.test, CATALOG, setup)
    rank = ranks(shuffled(1)([c.history for c in SPLIT.test]).items, [c.target for c in SPLIT.test])
    assert report.methods["a"]["first_half"].value == pytest.approx(first_half(rank).mean())
    assert {"a", "b"} <= report.domains["camp"].methods.keys()
    assert "first_half" in report.domains["camp"].methods["a"]
    assert {e.metric for e in report.comparisons} == {"recall@10", "ndcg@10", "first_half"}
    head = methods_table(report).head
    assert head[head.index("mrr") : head.index("valid_rate") + 1] == ("mrr", "first_half", "valid_rate")
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda r: r[:-1], r"'own' returned an array of shape \[39\]; expected a number for each of the 40 cases"),
        (lambda r: r.mean(), r"an array of shape \[\]"),
        (lambda r: "a lot", "returned str"),
        (lambda r: np.where(r == 0, np.nan, r), r"returned nan for case \d+; expected finite numbers"),
    ],
)
def test_metrics_that_return_something_else(function: Any, message: str) -> None:
    some: Method = lambda histories: Rankings([["i20"] for _ in histories])  # noqa: E731
    with pytest.raises(ValueError, match=message):
        evaluate({"a": some}, SPLIT.test, CATALOG, replace(SETUP, measures=Measures(own={"own": function})))


def test_a_metric_cannot_change_the_ranks_or_take_a_known_name() -> None:
    def spoil(ranks: np.ndarray) -> np.ndarray:
        ranks[:] = 1
        return ranks

    plain = evaluate({"a": shuffled(1)}, SPLIT.test, CATALOG, SETUP)
    spoilt = evaluate({"a": shuffled(1)}, SPLIT.test, CATALOG, replace(SETUP, measures=Measures(own={"spoil": spoil, "b": first_half})))
    assert all(spoilt.methods["a"][n] == m for n, m in plain.methods["a"].items() if n.startswith(("recall", "ndcg", "mrr")))
    with pytest.raises(ValueError, match="called 'coverage', as one of the report is"):
        Measures(own={"coverage": first_half})


# --- methods ------------------------------------------------------------------------------------------------------------------------------


def plugin(function: Any) -> Plugin:
    return Plugin("evaluate.methods", "mine.py:mine", function, __file__)


def test_a_method_of_the_user_is_held_to_the_protocol() -> None:
    def mine(histories: Any, catalog: Catalog, seed: int) -> Any:
        assert [h.user_id for h in histories] == [h.user_id for h in SPLIT.train]
        order = random.Random(seed).sample([i.item_id for i in catalog], len(catalog))
        return lambda some: (np.array(order) for _ in some)

    found = learnt(plugin(mine), SPLIT.train, CATALOG, 3)
    order = random.Random(3).sample(IDS, len(IDS))
    history = ("i20", order[0])
    assert own_method(plugin(mine), found, CATALOG, False, 4)([history]).items == [order[:4]]
    assert own_method(plugin(mine), found, CATALOG, True, 4)([history]).items == [[i for i in order if i not in history][:4]]
    in_home = own_method(plugin(mine), found, CATALOG, True)([history], domain="home").items[0]
    assert in_home == [i for i in order if CATALOG[i].domain == "home" and i not in history]
    report = evaluate({"mine": own_method(plugin(mine), found, CATALOG, True)}, SPLIT.test, CATALOG, replace(SETUP, candidates="domain"))
    assert report.methods["mine"]["valid_rate"].value == 1


def test_a_scorer_is_a_method_too() -> None:
    fitted = learnt(plugin(lambda histories, catalog: Popularity.fit([i.item_id for i in catalog], histories)), SPLIT.train, CATALOG, 0)
    histories = [c.history for c in SPLIT.test]
    assert own_method(plugin(None), fitted, CATALOG, True)(histories) == POPULAR(histories)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda some: ["i20", "i19"], "returned item ids; expected a list of item ids for each history"),
        (lambda some: [["i20", "zz"]] * len(some), "returned the item 'zz', which the catalog lacks; expected item ids of the catalog"),
        (lambda some: [["i20"]], "returned 1 rankings for 2 histories; expected one for each history"),
        (lambda some: 1 / 0, r"mine\.py:mine, line \d+: ZeroDivisionError"),
    ],
)
def test_methods_that_return_something_else(answer: Any, message: str) -> None:
    method = own_method(plugin(None), answer, CATALOG, True)
    with pytest.raises(ValueError, match=rf"^evaluate\.methods: mine\.py:mine.*{message}" if "line" not in message else message):
        method([("i20",), ("i19",)])


def test_a_method_that_returns_no_function() -> None:
    with pytest.raises(ValueError, match=r"mine\.py:mine returned list; expected a function of a list of histories, or a Scorer"):
        learnt(plugin(lambda histories, catalog: []), SPLIT.train, CATALOG, 0)


# --- kept rankings -----------------------------------------------------------------------------------------------------------------------


def made(path: Path, methods: dict[str, Method], cases: Sequence[Case] = SPLIT.test, **own: Any) -> Report:
    report = evaluate(methods, cases, CATALOG, replace(SETUP, measures=Measures(own=own)), save_to=rankings_path(path))
    write_json(path, report.to_json())
    return report


def test_kept_rankings_are_the_rankings(tmp_path: Path) -> None:
    broken: Method = lambda histories: Rankings([["i20", None] for _ in histories])  # noqa: E731
    report = made(tmp_path / "r.json", {"a": shuffled(1), "popularity": POPULAR, "broken": broken}, first_half=first_half)
    table = pd.read_parquet(tmp_path / "r.rankings.parquet")
    assert list(table) == ["case", "user_id", "method", "items", "target", "rank", "split", "metric:first_half"]
    assert Counter(table["method"]) == {"a": 40, "popularity": 40, "broken": 40}
    assert set(table["split"]) == {"leave-one-out, test"}
    of = {c.user_id: c for c in SPLIT.test}
    for row in table.itertuples():
        case = of[row.user_id]
        assert row.target == case.target
        if row.method == "a":
            assert list(row.items) == shuffled(1)([case.history]).items[0]
            assert row.rank == list(row.items).index(row.target) + 1
        elif row.method == "broken":
            assert list(row.items) == ["i20", None]
    assert table[table["method"] == "popularity"].sort_values("case")["user_id"].is_monotonic_increasing
    saved = rankings_of(tmp_path / "r.json", report)
    assert saved
    for method, values in saved.values().items():
        for metric in ("recall@10", "ndcg@5", "mrr", "first_half"):
            assert values[metric].mean() == pytest.approx(report.methods[method][metric].value)
    assert saved.cases_hash == report.protocol.cases_hash == cases_hash(SPLIT.test[::-1])


def test_rankings_of_another_report_are_refused(tmp_path: Path) -> None:
    report = made(tmp_path / "r.json", {"a": shuffled(1)})
    assert rankings_of(tmp_path / "none.json", report) is None
    other = evaluate({"a": shuffled(2)}, SPLIT.test, CATALOG, SETUP)
    with pytest.raises(
        ValueError, match=r"r\.rankings\.parquet is not of the report .*recall@10 of a is 0\.\d+ there, and the report states 0\."
    ):
        rankings_of(tmp_path / "r.json", other)
    fewer = evaluate({"a": shuffled(1)}, SPLIT.test[:9], CATALOG, SETUP)
    with pytest.raises(ValueError, match="it has other users, histories or targets"):
        rankings_of(tmp_path / "r.json", fewer)
    (tmp_path / "x.rankings.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        load_rankings(tmp_path / "x.rankings.parquet")
    pd.DataFrame({"case": [0]}).to_parquet(tmp_path / "x.rankings.parquet")
    with pytest.raises(ValueError, match=r"has rankings of schema None; this grlm-hf reads 1"):
        load_rankings(tmp_path / "x.rankings.parquet")


# --- tests between runs ------------------------------------------------------------------------------------------------------------------


def test_methods_of_two_runs_are_tested_against_each_other_in_any_order_of_cases(tmp_path: Path) -> None:
    cases = random.Random(4).sample(SPLIT.test, len(SPLIT.test))
    theirs = made(tmp_path / "theirs.json", {"grlm": shuffled(1), "popularity": POPULAR})
    mine = made(tmp_path / "mine.json", {"markov": shuffled(2), "popularity": POPULAR}, cases)
    paths = [tmp_path / "theirs.json", tmp_path / "mine.json"]
    reports = load_reports(paths)
    found = between_runs(reports, paths, ["markov > grlm"])
    assert [(e.a, e.b, e.metric) for e in found] == [("markov · mine", "grlm · theirs", m) for m in ("recall@10", "ndcg@10")]
    together = evaluate({"markov": shuffled(2), "grlm": shuffled(1)}, SPLIT.test, CATALOG, SETUP)
    for e in found:
        assert e.difference == pytest.approx(mine.methods["markov"][e.metric].value - theirs.methods["grlm"][e.metric].value)
        same = next(t for t in together.comparisons if t.metric == e.metric)
        assert e.p == same.p  # the two-sided test does not depend on which one is first
    assert [e.p_holm for e in found] == corrected(np.array([e.p for e in found])).tolist()
    every = between_runs(reports, paths)
    named = {(e.a, e.b) for e in every if e.metric == "recall@10"}
    best = {run: max(r.methods, key=lambda n: r.methods[n]["recall@10"].value) for run, r in reports.items()}
    assert named >= {("markov · mine", f"{best['theirs']} · theirs"), (f"{best['mine']} · mine", "grlm · theirs")}
    assert not any(a.startswith("popularity") and b.startswith("popularity") for a, b in named)  # the same rankings: nothing to test
    assert f"p_holm over {len(every)}" in every[0].test
    assert "no paired test" not in comparison_table(reports, tested=True).text()


def test_the_same_method_of_two_runs(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for n, path in enumerate(paths):
        made(path, {"grlm": shuffled(n)}, first_half=first_half)
    found = between_runs(load_reports(paths), paths)
    assert {(e.a, e.b) for e in found} == {("grlm · b", "grlm · a")}
    assert [e.metric for e in found] == ["recall@10", "ndcg@10", "first_half"]
    swapped = between_runs(load_reports(paths), paths, ["a:grlm > b:grlm"])
    assert [e.difference for e in swapped] == pytest.approx([-e.difference for e in found])
    with pytest.raises(ValueError, match="a and b both have a method 'grlm'; name the run, such as 'a:grlm'"):
        between_runs(load_reports(paths), paths, ["grlm > b:grlm"])
    with pytest.raises(ValueError, match=r"no method 'b:grml'\. Did you mean 'b:grlm'\?"):
        between_runs(load_reports(paths), paths, ["a:grlm > b:grml"])
    with pytest.raises(ValueError, match="expected two methods, such as 'markov > grlm'"):
        between_runs(load_reports(paths), paths, ["grlm"])


def test_runs_of_other_cases_or_without_rankings(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    made(paths[0], {"x": shuffled(1)})
    moved = [
        replace(c, target=next(i for i in IDS if i != c.target and i not in c.history)) if n == 5 else c for n, c in enumerate(SPLIT.test)
    ]
    made(paths[1], {"y": shuffled(2)}, moved)
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json: The reports have different protocols.*cases_hash"):
        load_reports(paths)
    reports = {p.stem: load_report(p) for p in paths}
    with pytest.raises(ValueError, match=rf"other cases \(user '{moved[5].user_id}' has the target '{SPLIT.test[5].target}' in a and "):
        between_runs(reports, paths)
    made(paths[1], {"y": shuffled(2)}, SPLIT.test[:-1])
    with pytest.raises(ValueError, match=rf"user '{SPLIT.test[-1].user_id}' is only in a"):
        between_runs({p.stem: load_report(p) for p in paths}, paths)
    made(paths[1], {"y": shuffled(2)})
    rankings_path(paths[1]).unlink()
    assert between_runs(load_reports(paths), paths) == ()
    with pytest.raises(
        ValueError, match=r"b has no rankings, at .*b\.rankings\.parquet\. Make its report again with evaluate\.save_rankings"
    ):
        between_runs(load_reports(paths), paths, ["y > x"])


def test_holm_is_over_the_comparisons_that_are_wanted() -> None:
    rng = np.random.default_rng(0)
    hits = {name: {"m": rng.random(50) + shift} for name, shift in (("a", 0.2), ("b", 0.0), ("c", 0.1))}
    users = [f"u{n}" for n in range(50)]
    (one,) = compare_pairs(hits, users, [("a", "b", "m")])
    both = compare_pairs(hits, users, [("a", "b", "m"), ("c", "b", "m")])
    assert one.p_holm == one.p == both[0].p
    assert both[0].p_holm == min(2 * one.p, 1) or both[0].p > both[1].p
    assert compare_pairs(hits, users, []) == ()


@pytest.mark.usefixtures("blank_pictures")
def test_the_verb_with_rankings(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("a.json"), {"x": shuffled(1)})
    made(Path("b.json"), {"y": shuffled(2)})
    app(["report", "a.json", "b.json", "--output", "both"], result_action="return_value")
    said = capsys.readouterr().out
    assert "y · b  x · a" in said
    assert "no paired test" not in said
    assert "y · b" in Path("both/comparison.html").read_text()
    app(["report", "a.json", "b.json", "--json"], result_action="return_value")
    found = json.loads(capsys.readouterr().out)
    paths = [Path("a.json"), Path("b.json")]
    assert found["comparisons"] == [asdict(e) for e in between_runs(load_reports(paths), paths)]
    with pytest.raises(ValueError, match="--pair is for several reports"):
        app(["report", "a.json", "--pair", "x > y"], result_action="return_value")
