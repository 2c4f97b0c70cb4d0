from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import some_histories, toy_catalog, toy_grlm, toy_histories

from grlm_hf.data.interactions import Case, leave_one_out
from grlm_hf.decoding.grounding import Grounder
from grlm_hf.evaluation import generative
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained, free
from grlm_hf.evaluation.metrics import Estimate
from grlm_hf.evaluation.rankings import Chunks, Method, Rankings
from grlm_hf.evaluation.report import load_report, markdown_table, save_report, text_table
from grlm_hf.evaluation.report.tables import methods_table
from grlm_hf.evaluation.schema import Report, check_comparable
from grlm_hf.evaluation.scored import scored
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.popularity import Popularity

CATALOG = toy_catalog()
SPLIT = leave_one_out(toy_histories())
IDS = tuple(i.item_id for i in CATALOG)
POPULAR = Popularity.fit(IDS, SPLIT.train)
SETUP = Setup("toy", "leave-one-out", "kept", resamples=10)


def oracle(histories: Sequence[Sequence[str]]) -> Rankings:
    answers = {c.history: c.target for c in SPLIT.test}
    return Rankings([[answers[tuple(h)], None, "gone"] for h in histories], [0.5] * len(histories))


def test_report_has_the_stated_form_and_figures(tmp_path: Path) -> None:
    methods = {"oracle": oracle, "popularity": scored(POPULAR, CATALOG, True), "random": scored(Chance(IDS), CATALOG, True)}
    report = evaluate(methods, SPLIT.test, CATALOG, replace(SETUP, resamples=50))
    written = report.to_json()
    assert written["schema"] == "grlm.report/1"
    assert written["dataset"] == report.dataset == "toy"
    assert {"split", "users", "candidates", "seed", "ties"} <= written["protocol"].keys()
    assert report.protocol.users == len(SPLIT.test) == 40
    best = report.methods["oracle"]
    assert best["recall@1"] == Estimate(1.0, 1.0, 1.0)
    assert written["methods"]["oracle"]["recall@1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert best["mrr"].value == 1
    # one of three answers is an item, where up to ten were due
    due = [min(10, 12 - len(set(c.history))) for c in SPLIT.test]
    assert best["valid_rate"].value == pytest.approx(sum(1 / max(d, 3) for d in due) / len(due))
    assert best["direct_hit_rate"].value == 0.5
    assert best["coverage"].value == len({c.target for c in SPLIT.test}) / len(CATALOG)
    assert "direct_hit_rate" not in report.methods["popularity"]
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "oracle" in text_table(report)
    assert markdown_table(report).count("\n") == 4


def test_baselines_leave_out_seen_items_and_rank_all_else() -> None:
    histories = some_histories(3)
    for method in (scored(POPULAR, CATALOG, True), scored(Chance(IDS, 5), CATALOG, True)):
        for history, ranking in zip(histories, method(histories).items, strict=True):
            assert sorted([*ranking, *set(history)]) == sorted(i.item_id for i in CATALOG)
        assert method(histories) == method(histories)
    counts = [sum(h.items.count(i) for h in SPLIT.train) for i in scored(POPULAR, CATALOG, False)([[]]).items[0]]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_grlm_as_a_method_is_valid_and_complete(exclude_seen: bool) -> None:
    method = constrained(toy_grlm(), exclude_seen)
    histories = some_histories(3)
    answer = method(histories)
    assert answer.direct_hits is None  # true of any search within the trie, so it would say nothing
    for history, ranking in zip(histories, answer.items, strict=True):
        expected = {i.item_id for i in CATALOG} - (set(history) if exclude_seen else set())
        assert set(ranking) == expected
        assert len(ranking) == len(expected)


def test_free_writing_is_grounded_or_counted_as_invalid() -> None:
    answer = free(toy_grlm(), True, num_beams=4)(some_histories(2)[:4])
    known = {i.item_id for i in CATALOG} | {None}
    assert all(set(r) <= known for r in answer.items)
    assert len(answer.direct_hits or []) == 4


def test_direct_hits_are_texts_that_are_identifiers_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    grlm = toy_grlm()
    first, second, third = CATALOG.identifiers[0], CATALOG.identifiers[-1], CATALOG.identifiers[2]
    near = (*second[:-1], "unheard-of")  # is grounded, but no identifier as it is written
    assert Grounder(CATALOG).ground(near).term_id == second
    written = {
        ("i20",): [first, near, None, third, *[None] * 6],
        ("i19",): [near] * 10,
        ("i18",): [None] * 10,
        ("i17",): [near, *[None] * 9, first],  # below the first ten
    }
    monkeypatch.setattr(generative, "write_freely", lambda _, history, num_beams: written[tuple(history)])
    answer = free(grlm, False)(list(written))
    assert answer.direct_hits == [0.2, 0.0, 0.0, 0.0]
    named = [[i.item_id for i in CATALOG.items_of(tid)] for tid in (first, second, third)]
    assert answer.items[0] == [*named[0], *named[1], None, *named[2], *[None] * 6]
    methods = {"grlm": constrained(grlm, False), "grlm_free": free(grlm, False)}
    report = evaluate(methods, [Case("u", h, "i20") for h in written], CATALOG, SETUP)
    assert report.methods["grlm_free"]["direct_hit_rate"].value == pytest.approx(0.05)
    assert "direct_hit_rate" not in report.methods["grlm"]
    table = methods_table(report)
    rates = [row[table.head.index("direct_hit_rate")].text for row in table.rows]
    assert rates == ["–", "0.0500"]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked = []

    def method(histories: Sequence[Sequence[str]]) -> Rankings:
        asked.append(len(histories))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return oracle(histories)

    with pytest.raises(KeyboardInterrupt):
        evaluate({"m": method}, SPLIT.test, CATALOG, SETUP, chunks=Chunks(tmp_path, size=16))
    again = evaluate({"m": method}, SPLIT.test, CATALOG, SETUP, chunks=Chunks(tmp_path, size=16))
    assert asked == [16, 16, 8, 8]
    assert again == evaluate({"m": oracle}, SPLIT.test, CATALOG, SETUP)


def test_a_changed_method_is_not_answered_from_an_old_chunk(tmp_path: Path) -> None:
    asked = []

    def method(histories: Sequence[Sequence[str]]) -> Rankings:
        asked.append(len(histories))
        return Rankings([[IDS[len(asked) % 3]]] * len(histories))

    def figures(key: str, **more: Mapping[str, Method]) -> Report:
        return evaluate({"m": method}, SPLIT.test, CATALOG, SETUP, chunks=Chunks(tmp_path, key), **more)

    first = figures("checkpoint 1")
    assert figures("checkpoint 1") == first
    assert asked == [40]
    second = figures("checkpoint 2")
    assert asked == [40, 40]
    assert second.methods != first.methods
    assert figures("checkpoint 1") == first
    # the same method made to keep seen items is another one
    both = figures("checkpoint 1", unmasked={"m": method})
    assert asked == [40, 40, 40]
    assert both.unmasked["m"] != both.methods["m"]


def test_with_and_without_seen_items() -> None:
    masked, kept = scored(POPULAR, CATALOG, True), scored(POPULAR, CATALOG, False)
    report = evaluate({"p": masked}, SPLIT.test, CATALOG, SETUP, unmasked={"p": kept})
    assert report.methods == evaluate({"p": masked}, SPLIT.test, CATALOG, SETUP).methods
    assert report.unmasked == evaluate({"p": kept}, SPLIT.test, CATALOG, SETUP).methods
    assert "unmasked" not in evaluate({"p": masked}, SPLIT.test, CATALOG, SETUP).to_json()


def test_reports_of_other_protocols_are_not_compared() -> None:
    def report(cases: Sequence[Case] = SPLIT.test, **changed: Any) -> Report:
        return evaluate({"m": scored(POPULAR, CATALOG, True)}, cases, CATALOG, replace(SETUP, resamples=3, **changed))

    plain = report()
    for same in (report(), report(seed=4), report(SPLIT.test[::-1]), report(dataset="the same by another name")):
        check_comparable(plain, same)
    older = replace(plain, protocol=replace(plain.protocol, cases_hash=None))
    check_comparable(plain, older)
    with pytest.raises(ValueError, match="dataset: 'toy' and 'other'"):
        check_comparable(older, report(dataset="other"))
    with pytest.raises(ValueError, match=r"different protocols.*seen_items: 'kept' and 'left out'\.$"):
        check_comparable(plain, report(seen="left out"))
    with pytest.raises(ValueError, match="split: 'leave-one-out' and 'time'"):
        check_comparable(plain, report(dataset="other", split="time"))
    with pytest.raises(ValueError, match="users: 40 and 39; cases: 40 and 39; cases_hash"):
        check_comparable(plain, report(SPLIT.test[1:]))
    others = [Case(c.user_id, c.history, IDS[0]) for c in SPLIT.test]  # as many, but others
    with pytest.raises(ValueError, match=r"protocols.*compared\. cases_hash: '\w+' and '\w+'\.$"):
        check_comparable(plain, report(others))


def test_several_methods_are_compared_and_sliced() -> None:
    methods = {"oracle": oracle, "p": scored(POPULAR, CATALOG, True), "r": scored(Chance(IDS), CATALOG, True)}
    counts = {i: n for n, i in enumerate(IDS)}
    report = evaluate(methods, SPLIT.test, CATALOG, SETUP, counts=counts, pairs=[("r", "p")])
    pairs = [("oracle", "p"), ("oracle", "r"), ("r", "p")]
    assert [(e.metric, e.a, e.b) for e in report.comparisons] == [(m, *p) for m in ("recall@10", "ndcg@10") for p in pairs]
    assert all(
        e.difference == pytest.approx(report.methods[e.a][e.metric].value - report.methods[e.b][e.metric].value) for e in report.comparisons
    )
    assert report.slices["target"]["cold"].cases == sum(c.target == IDS[0] for c in SPLIT.test)
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    with pytest.raises(ValueError, match="Cannot compare"):
        evaluate(methods, SPLIT.test, CATALOG, SETUP, pairs=[("r", "nobody")])
    with pytest.raises(ValueError, match="Cannot compare"):
        evaluate({"oracle": oracle}, SPLIT.test, CATALOG, SETUP, pairs=[("oracle", "p")])


def test_refuses_no_cases_and_broken_methods() -> None:
    with pytest.raises(ValueError, match="No cases"):
        evaluate({}, [], CATALOG, SETUP)
    with pytest.raises(ValueError, match="ranks an item twice"):
        evaluate({"m": lambda h: Rankings([["a", "a"]] * len(h))}, [Case("u", ("i20",), "i19")], CATALOG, SETUP)
    with pytest.raises(ValueError, match="answered 1 histories with 0"):
        evaluate({"m": lambda h: Rankings([])}, [Case("u", ("i20",), "i19")], CATALOG, SETUP)
