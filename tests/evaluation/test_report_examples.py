"""The users of a report's page: the same for the same seed, each once, with hits among them, and with what really came next."""

from __future__ import annotations

from toys import toy_catalog

from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.examples import HITS, TOP, USERS, examples
from grlm_hf.evaluation.rankings import Rankings
from grlm_hf.evaluation.report.tables import unanswerable_note
from grlm_hf.evaluation.verdict import verdict

CATALOG = toy_catalog()
IDS = [item.item_id for item in CATALOG]
CASES = [Case(f"u{n % 30}", tuple(IDS[n % 4 : n % 4 + 2 + n % 8]), IDS[-1]) for n in range(40)]
MISS, HIT = IDS[:TOP], [IDS[0], IDS[-1], *IDS[1:4]]


def rankings(*hits: int) -> list[list[str]]:
    return [HIT if n in hits else MISS for n in range(len(CASES))]


def test_hits_are_among_them_where_there_are_some() -> None:
    for hits, expected in (((), 0), ((7,), 1), ((3, 17, 25), HITS), (range(40), USERS)):
        for seed in range(5):
            found = examples({"a": rankings(*hits), "b": rankings()}, CASES, CATALOG, seed)
            assert len({e.user for e in found}) == len(found) == USERS
            assert sum(e.target in e.recommended["a"] for e in found) >= expected
            assert all((e.ranks["a"] == 2) == (e.target in e.recommended["a"]) and e.ranks["b"] == 0 for e in found)


def test_they_are_those_of_the_seed_and_show_what_was_there() -> None:
    given = {"a": rankings(3, 17, 25)}
    assert examples(given, CASES, CATALOG, 1) == examples(given, CASES, CATALOG, 1)
    assert len({tuple(e.user for e in examples(given, CASES, CATALOG, seed)) for seed in range(5)}) > 1
    for e in examples(given, CASES, CATALOG, 1):
        cases = [c for c in CASES if c.user_id == e.user]
        assert any(
            len(c.history) == e.earlier + len(e.history) and c.history[e.earlier :] == tuple(i.item_id for i in e.history) for c in cases
        )
        assert {i.title for i in e.history} <= {item.title for item in CATALOG}
    repeated = [Case("a", (IDS[-1], IDS[0]), IDS[-1])]
    (left_out,), (kept,) = (examples({"a": [MISS]}, repeated, CATALOG, seen_left_out=left) for left in (True, False))
    assert (left_out.note, kept.note) == ("in the history already: left out", None)
    assert len(examples({"a": [MISS]}, CASES[:1], CATALOG)) == 1


def test_targets_that_are_left_out_are_counted_and_told() -> None:
    cases = [Case("a", (IDS[0], IDS[1]), IDS[1]), Case("b", (IDS[0],), IDS[1])]

    def measured(seen: str, some: list[Case]) -> tuple[int | None, str, str]:
        methods = {"m": lambda histories: Rankings([IDS[2:5]] * len(histories))}
        report = evaluate(methods, some, CATALOG, Setup("toy", "leave-one-out, test", seen, resamples=5))
        return report.protocol.unanswerable, unanswerable_note(report.protocol), verdict(report).text

    number, note, _ = measured("left out", cases)
    assert number == 1
    assert note.startswith("1 of 2 cases (50%) ask for an item that the history has already.")
    assert "evaluate.exclude_seen=false" in note
    assert measured("kept", cases)[:2] == (0, "")
    assert measured("left out", cases[1:])[:2] == (0, "")
    assert measured("left out", cases[:1])[2].startswith("Nothing can be concluded: every case asks for an item that the history has")
