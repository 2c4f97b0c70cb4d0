"""Histories in time order, from any layout; splits in which nothing of what is asked was learnt from."""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grlm_hf.data.interactions import (
    MIN_ITEMS,
    Case,
    History,
    Split,
    cases_to_dataset,
    hold_out_items,
    interaction_features,
    interactions_to_datasets,
    leave_one_out,
    load_histories,
    split_as_given,
    split_by_time,
)
from grlm_hf.data.items import load_items
from grlm_hf.stages import make_split

ITEMS = {"a", "b", "c", "d"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one_user(items: str, *times: Any) -> list[dict[str, Any]]:
    return [{"user_id": "u", "item_id": i} | ({"timestamp": times[n]} if times else {}) for n, i in enumerate(items)]


# --- reading -----------------------------------------------------------------------------------------------------------------------

events = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from(sorted(ITEMS)), st.integers(-5, 5)), min_size=1, max_size=25)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@settings(max_examples=40, deadline=None)
@given(events=events)
def test_events_are_put_in_time_order_and_ties_stay_in_file_order(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, events: list[tuple[str, str, int]]
) -> None:
    rows = [{"user_id": u, "item_id": i, "timestamp": t} for u, i, t in events]
    found = load_histories(write(tmp_path_factory.getbasetemp() / f"events{suffix}", rows), ITEMS, short_users="keep")
    want = {}
    for user in dict.fromkeys(u for u, _, _ in events):
        own = sorted((t, n, i) for n, (u, i, t) in enumerate(events) if u == user)
        want[user] = History(user, tuple(i for _, _, i in own), tuple(t for t, _, _ in own))
    assert found == list(want.values())


@settings(max_examples=40, deadline=None)
@given(events, st.booleans())
def test_both_layouts_give_the_same_histories(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, int]], timed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    long = [{"user_id": u, "item_id": i} | ({"timestamp": t} if timed else {}) for u, i, t in events]
    wide: dict[str, dict[str, Any]] = {}
    for u, i, t in events:
        row = wide.setdefault(u, {"user_id": u, "items": [], "timestamps": []})
        row["items"].append(i)
        row["timestamps"].append(t)
    if not timed:
        wide = {u: {"user_id": u, "items": row["items"]} for u, row in wide.items()}
    a = load_histories(write(folder / "long.jsonl", long), ITEMS, "keep")
    assert a == load_histories(write(folder / "wide.jsonl", list(wide.values())), ITEMS, "keep")
    assert a == load_histories(write(folder / "wide.parquet", list(wide.values())), ITEMS, "keep")
    if not timed:
        assert all(h.timestamps == () for h in a)


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the clock on the wall says must not matter."""
    if not hasattr(time, "tzset"):
        pytest.skip("this platform's time zone cannot be set")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR-11")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0),
        ("1700000000", 1_700_000_000),
        (1_700_000_000.9, 1_700_000_000),
        ("-3600", -3600),
        ("1970-01-01", 0),
        ("1970-01-01T01:00:00", 3600),  # UTC where it states no zone
        ("1970-01-01 01:00:00Z", 3600),
        (" 1970-01-01T01:00:00+02:00", -3600),
        ("2024-02-29T00:00:00.5+00:00", 1_709_164_800),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.usefixtures("far_from_utc")
def test_times(tmp_path: Path, suffix: str, written: Any, seconds: int) -> None:
    (history,) = load_histories(write(tmp_path / f"i{suffix}", one_user("abc", written, written, written)), ITEMS)
    assert history.timestamps == (seconds,) * 3


@pytest.mark.usefixtures("far_from_utc")
def test_times_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": pa.array([3_000_000, 1, 2_000_000], pa.timestamp("us"))}
    )
    pq.write_table(table, tmp_path / "i.parquet")
    assert load_histories(tmp_path / "i.parquet", ITEMS) == [History("u", ("b", "c", "a"), (0, 2, 3))]


def test_ids_may_be_numbers_and_padded(tmp_path: Path) -> None:
    rows = [{"user_id": 0, "item_id": i} for i in (0, 1, " 2 ")]  # 0 is an id, not a missing one
    assert load_histories(write(tmp_path / "i.jsonl", rows), {"0", "1", "2"}) == [History("0", ("0", "1", "2"))]
    assert load_histories(write(tmp_path / "s.jsonl", [{"user_id": 0, "items": [0, 1, 2]}]), {"0", "1", "2"}) == [
        History("0", ("0", "1", "2"))
    ]


def test_unknown_items(tmp_path: Path) -> None:
    path = write(tmp_path / "i.csv", one_user("axbcx", *range(5)))
    with pytest.raises(ValueError, match=r"i\.csv:3: user 'u' has item 'x', which is not among the 4 items.*read\.unknown_items=drop"):
        load_histories(path, ITEMS)
    assert load_histories(path, ITEMS, unknown_items="drop") == [History("u", ("a", "b", "c"), (0, 2, 3))]
    path = write(tmp_path / "s.jsonl", [{"user_id": "u", "items": ["a", None, "b", "x", "c"], "timestamps": [5, 4, 3, 2, 1]}])
    assert load_histories(path, ITEMS, unknown_items="drop") == [History("u", ("c", "b", "a"), (1, 3, 5))]


def test_short_users(tmp_path: Path) -> None:
    rows = [{"user_id": u, "item_id": i} for u, i in ("ua", "va", "ub", "vb", "uc", "wx")]
    path = write(tmp_path / "i.csv", rows)
    with pytest.raises(ValueError, match=r"i\.csv:3: user 'v' has 2 items; leave-one-out needs 3.*read\.short_users=drop"):
        load_histories(path, ITEMS, unknown_items="drop")
    full, short = History("u", ("a", "b", "c")), History("v", ("a", "b"))
    assert load_histories(path, ITEMS, "drop", "drop") == [full]
    assert load_histories(path, ITEMS, "keep", "drop") == [full, short]  # w has no item that is known: no history at all
    with pytest.raises(ValueError, match=r"i\.csv holds no user with 3 or more items"):
        load_histories(write(tmp_path / "i.csv", rows[:2]), ITEMS, "drop")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item_id": "a"}], "{path}:1 needs `user_id` and either `item_id` or `items`"),
        ([{"user_id": "", "item_id": "a"}], "{path}:1 needs `user_id`"),
        ([{"user_id": None, "items": ["a"]}], "{path}:1 needs `user_id`"),
        ([{"user_id": "u", "thing": "a"}], "{path}:1 needs `user_id` and either `item_id` or `items`; found"),
        ([{"user_id": "u", "item_id": None}], "{path}:1: user 'u' has item '', which is not among the 4 items"),
        ([{"user_id": "u", "items": "a b"}], "{path}:1: `items` must be a list of item ids; found 'a b'"),
        ([{"user_id": "u", "items": [*"abc"]}] * 2, "{path}:2: duplicate user 'u', first at {path}:1; expected one row per user"),
        ([{"user_id": "u", "items": [*"abc"], "timestamps": [1, 2]}], "{path}:1: `timestamps` must be a list of 3 times, one per item"),
        ([{"user_id": "u", "items": [*"abc"], "timestamps": 5}], "{path}:1: `timestamps` must be a list of 3 times"),
        ([{"user_id": "u", "items": [*"abc"], "timestamps": "123"}], "{path}:1: `timestamps` must be a list of 3 times"),
        (one_user("abc", 1, 2, "soon"), "{path}:3: timestamp 'soon' is neither unix seconds nor ISO 8601"),
        (one_user("abc", 1, [2], 3), "{path}:2: timestamp [2] is neither"),
        (one_user("abc", float("inf"), 2, 3), "{path}:1: timestamp inf is neither"),
        (one_user("abc", float("nan"), 2, 3), "{path}: user 'u' has 2 timestamps for 3 events"),
        (one_user("abc", 1e30, 2, 3), "{path}:1: timestamp 1e+30 is neither"),
        (one_user("abc", 1, None, 3), "{path}: user 'u' has 2 timestamps for 3 events; give all or none"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = write(tmp_path / "i.jsonl", rows)
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        load_histories(path, ITEMS)
    assert message.format(path=path) in str(raised.value)


@pytest.mark.parametrize("policy", [{"short_users": "ignore"}, {"unknown_items": "keep"}])
def test_unknown_policies(tmp_path: Path, policy: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(policy))} is '{next(iter(policy.values()))}'; expected one of 'error', 'drop'"):
        load_histories(write(tmp_path / "i.csv", one_user("abc")), ITEMS, **policy)


# --- splits ------------------------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn, timed: bool = False, min_users: int = 1) -> list[History]:
    found = []
    for user in range(draw(st.integers(min_users, 8))):
        items = draw(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=9))  # an item may come again
        times = sorted(draw(st.lists(st.integers(0, 30), min_size=len(items), max_size=len(items)))) if timed else ()
        found.append(History(f"u{user}", tuple(items), tuple(times)))
    return found


def check_cases(split: Split, given_: list[History]) -> None:
    """What holds of every split: a case has a history, of known users, and training histories keep the order of events."""
    users = {h.user_id for h in given_}
    for case in (*split.validation, *split.test):
        assert case.history
        assert case.user_id in users
    for h in split.train:
        assert h.items
        assert len(h.timestamps) in (0, len(h.items))
        assert list(h.timestamps) == sorted(h.timestamps)


@given(histories() | histories(timed=True))
def test_leave_one_out(given_: list[History]) -> None:
    split = leave_one_out(given_)
    check_cases(split, given_)
    assert split.name == "leave-one-out"
    train = {h.user_id: h for h in split.train}
    assert list(train) == [h.user_id for h in given_]
    validation, test = ({c.user_id: c for c in part} for part in (split.validation, split.test))
    assert validation.keys() == test.keys() == {h.user_id for h in given_ if len(h.items) >= MIN_ITEMS}
    for h in given_:
        if len(h.items) < MIN_ITEMS:
            assert train[h.user_id] == h
            continue
        # every event stands in exactly one part: no target is trained on
        assert (*train[h.user_id].items, validation[h.user_id].target, test[h.user_id].target) == h.items
        assert validation[h.user_id].history == train[h.user_id].items
        assert test[h.user_id].history == (*validation[h.user_id].history, validation[h.user_id].target)
        assert train[h.user_id].timestamps == h.timestamps[:-2]
        assert (validation[h.user_id].timestamp, test[h.user_id].timestamp) == (h.timestamps[-2:] or (None, None))


@given(histories(timed=True, min_users=3), st.floats(0.01, 0.6), st.floats(0.01, 0.6))
def test_split_by_time(given_: list[History], validation: float, test: float) -> None:
    assume(validation + test < 1)
    try:
        split = split_by_time(given_, validation, test)
    except ValueError as error:
        assert "nothing is left to train on" in str(error)  # noqa: PT017
        times = sorted(t for h in given_ for t in h.timestamps)
        assert times[int(len(times) * (1 - validation - test))] == times[0]
        return
    check_cases(split, given_)
    of = {h.user_id: h for h in given_}
    kept = {h.user_id: len(h.items) for h in split.train}
    learnt, asked = [], {"validation": [], "test": []}  # type: ignore[var-annotated]
    for h in split.train:
        assert (h.items, h.timestamps) == (of[h.user_id].items[: len(h.items)], of[h.user_id].timestamps[: len(h.items)])
        learnt += h.timestamps
    for name, part in (("validation", split.validation), ("test", split.test)):
        for case in part:
            at = len(case.history)  # position of the target in its user's events
            assert of[case.user_id].items[: at + 1] == (*case.history, case.target)
            assert at >= kept.get(case.user_id, 0)
            assert case.timestamp == of[case.user_id].timestamps[at]
            asked[name].append(case.timestamp)
    first = min(asked["validation"] + asked["test"], default=31)
    assert max(learnt) < first  # every training event precedes everything that is asked, of any user
    if asked["validation"] and asked["test"]:
        assert max(asked["validation"]) < min(asked["test"])
    events = Counter(h.user_id for h in given_ for _ in h.items)
    for user, n in events.items():  # every later event is asked once, but for a user's first
        cases = [len(c.history) for c in (*split.validation, *split.test) if c.user_id == user]
        assert sorted(cases) == list(range(max(kept.get(user, 0), 1), n))


def test_split_by_time_cuts_at_the_stated_shares() -> None:
    given_ = [History(f"u{u}", tuple("abcdefghij"), tuple(range(u, 100 + u, 10))) for u in range(10)]  # 100 events at 100 times
    split = split_by_time(given_, 0.2, 0.1)
    assert sum(len(h.items) for h in split.train) == 70
    assert (len(split.validation), len(split.test)) == (20, 10)


@pytest.mark.parametrize(
    ("given_", "shares", "message"),
    [
        ([], (0.1, 0.1), "needs a timestamp for every event"),
        ([History("u", ("a", "b"), (1, 2)), History("v", ("a",))], (0.1, 0.1), "needs a timestamp for every event"),
        ([History("u", ("a", "b"), (1, 2))], (0.5, 0.5), "must be positive and sum to less than 1"),
        ([History("u", ("a", "b"), (1, 2))], (0.1, 0), "must be positive"),
        ([History("u", ("a", "b"), (1, 2))], (-0.1, 0.2), "must be positive"),
        ([History("u", tuple("abcdef"), (7,) * 6)], (0.1, 0.1), r"No event is earlier than .* \(7\): nothing is left to train on"),
    ],
)
def test_split_by_time_refuses(given_: list[History], shares: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_time(given_, *shares)


def test_training_histories_state_no_targets() -> None:
    stated = [History("u", ("a", "b"), (), 1, 1), History("v", ("a", "b", "c", "d"), (), 1, 1)]
    assert leave_one_out(stated).train == (History("u", ("a", "b")), History("v", ("a", "b")))


def test_split_by_time_with_a_tiny_share() -> None:
    split = split_by_time([History("u", ("a", "b", "c"), (1, 2, 3))], 1e-20, 1e-20)
    assert split.test == (Case("u", ("a", "b"), "c"),)


@given(histories(min_users=3) | histories(timed=True, min_users=3), st.floats(0.2, 0.7), st.integers(0, 3))
def test_hold_out_items(given_: list[History], share: float, seed: int) -> None:
    everything = {i for h in given_ for i in h.items}
    assume(int(len(everything) * share) >= 2)
    split = hold_out_items(given_, share, seed)
    check_cases(split, given_)
    known = {i for h in split.train for i in h.items}
    held = everything - known
    assert len(held) == int(len(everything) * share)
    targets = [{c.target for c in part} for part in (split.validation, split.test)]
    assert not targets[0] & targets[1]
    assert targets[0] | targets[1] <= held  # what is asked was never trained on ...
    assert all(set(c.history) <= known for c in (*split.validation, *split.test))  # ... nor shown
    train = {h.user_id: h for h in split.train}
    cases = {(c.user_id, c.target): c for c in (*split.validation, *split.test)}
    assert len(cases) == len(split.validation) + len(split.test)  # an item is asked once a user
    for h in given_:
        kept = [(i, t) for i, t in zip(h.items, h.timestamps or [0] * len(h.items), strict=True) if i in known]
        assert (h.user_id in train) == bool(kept)
        if kept:
            assert train[h.user_id].items == tuple(i for i, _ in kept)
            assert train[h.user_id].timestamps == (tuple(t for _, t in kept) if h.timestamps else ())
        for item in held & set(h.items):
            past = tuple(i for i in h.items[: h.items.index(item)] if i in known)
            late = any(i in known for i in h.items[: len(h.items) - 1 - h.items[::-1].index(item)])
            case = cases.get((h.user_id, item))
            if past:
                assert case == Case(h.user_id, past, item)
                assert case.timestamp == (h.timestamps[h.items.index(item)] if h.timestamps else None)
            elif not late:
                assert case is None
    if given_[0].timestamps:  # those first seen last
        first = {i: min(t for h in given_ for j, t in zip(h.items, h.timestamps, strict=True) if j == i) for i in everything}
        assert max(first[i] for i in known) <= min(first[i] for i in held)


def test_held_out_items_depend_on_the_seed_only() -> None:
    given_ = [History(f"u{n}", tuple("abcdefghij"[n:])) for n in range(8)]
    assert hold_out_items(given_, 0.4, 1) == hold_out_items(given_, 0.4, 1) == hold_out_items(tuple(given_), 0.4, 1)
    assert len({frozenset(i for h in hold_out_items(given_, 0.4, s).train for i in h.items) for s in range(9)}) > 1


@pytest.mark.parametrize(
    ("share", "message"), [(0, "must lie between"), (1, "must lie between"), (0.34, "share=0.34 of 3 items holds out 1")]
)
def test_hold_out_items_refuses(share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hold_out_items([History("u", ("a", "b", "c"))], share)


@pytest.mark.parametrize("how", ["leave-one-out", "unseen-items"])
def test_a_recipe_refuses_a_split_that_asks_nothing(how: str) -> None:
    short = [History(f"u{n}", (f"i{n}",)) for n in range(20)]  # an empty part could not be loaded with load_dataset
    with pytest.raises(ValueError, match=f"read.split={how} leaves 0 validation and 0 test cases of 20 users"):
        make_split(short, how, seed=0)


# --- a split that the file states --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), st.data(), st.booleans()), min_size=1, max_size=4))
def test_split_as_given(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[list[str], Any, bool]]) -> None:
    rows = []
    for u, (items, data, timed) in enumerate(drawn):
        n_test = data.draw(st.integers(0, len(items)))
        n_valid = data.draw(st.integers(0, len(items) - n_test))
        rows.append({"user_id": f"u{u}", "items": items, "n_valid": n_valid, "n_test": n_test})
        rows[-1] |= {"timestamps": list(range(len(items)))} if timed else {}
    histories = load_histories(write(tmp_path_factory.getbasetemp() / "given.jsonl", rows), ITEMS, "keep")
    if not any(r["n_valid"] or r["n_test"] for r in rows):
        with pytest.raises(ValueError, match="state no split: expected"):
            split_as_given(histories)
        return
    split = split_as_given(histories)
    train, cases, skipped = [], {"n_valid": [], "n_test": []}, 0
    for r in rows:
        parts = ["train"] * (len(r["items"]) - r["n_valid"] - r["n_test"]) + ["n_valid"] * r["n_valid"] + ["n_test"] * r["n_test"]
        times = r.get("timestamps", [])
        if n := parts.count("train"):
            train.append(History(r["user_id"], tuple(r["items"][:n]), tuple(times[:n])))
        for i, part in enumerate(parts):
            if part != "train" and i == 0:
                skipped += 1
            elif part != "train":
                cases[part].append((Case(r["user_id"], tuple(r["items"][:i]), r["items"][i]), times[i] if times else None))
    assert (split.name, list(split.train), split.skipped) == ("given", train, skipped)
    assert [(c, c.timestamp) for c in split.validation] == cases["n_valid"]
    assert [(c, c.timestamp) for c in split.test] == cases["n_test"]
    check_cases(split, histories)


def test_a_stated_split_survives_dropped_items_and_other_formats(tmp_path: Path) -> None:
    row = {"user_id": "u", "items": ["a", "x", "b", "c", "x", "d"], "n_valid": 2, "n_test": 2}
    for name in ("s.jsonl", "s.parquet"):
        (found,) = load_histories(write(tmp_path / name, [row]), ITEMS, unknown_items="drop")
        assert found == History("u", ("a", "b", "c", "d"), n_valid=2, n_test=1)
    assert leave_one_out([found]).test == (Case("u", ("a", "b", "c"), "d"),)  # unless asked for, the stated split plays no part
    bare = {"user_id": "v", "items": ["a", "b", "c"], "n_valid": None}
    assert load_histories(write(tmp_path / "bare.jsonl", [bare]), ITEMS) == [History("v", ("a", "b", "c"))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n_valid": 2, "n_test": 2}, r"s.jsonl:1: n_valid=2 and n_test=2 are more than the 3 items"),
        ({"n_valid": -1}, "n_valid is -1; expected the number"),
        ({"n_test": "x"}, "n_test is 'x'"),
        ({"n_test": True}, "n_test is True"),
        ({"n_test": 0.5}, "n_test is 0.5"),
        ({"n_test": 1, "timestamps": [3, 9, 5]}, "in time order the targets of user 'u' .* are not the last"),
    ],
)
def test_a_stated_split_that_does_not_fit_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_histories(write(tmp_path / "s.jsonl", [{"user_id": "u", "items": ["a", "b", "c"], **columns}]), ITEMS)


def test_events_that_cannot_be_asked_are_counted() -> None:
    late = History("late", ("a",), (9,))
    split = split_by_time([History("u", ("a", "b", "c", "d"), (1, 2, 3, 4)), late], 0.2, 0.2)
    assert split.skipped == 1
    assert "late" not in {x.user_id for x in (*split.train, *split.validation, *split.test)}


INDUSTRIAL = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-industrial"


@pytest.mark.skipif(not INDUSTRIAL.is_dir(), reason=f"no real data at {INDUSTRIAL}; set GRLM_DATA")
def test_industrial_with_the_split_of_its_file() -> None:
    items = {i.item_id for i in load_items(INDUSTRIAL / "items.jsonl.gz")}
    histories = load_histories(INDUSTRIAL / "sequences.jsonl.gz", items)
    split = split_as_given(histories)
    assert (len(items), len(histories), sum(len(h.items) for h in histories)) == (3_686, 3_285, 22_743)
    assert (len(split.validation), len(split.test), split.skipped) == (4_532, 4_533, 0)
    assert (len(split.train), sum(len(h.items) for h in split.train)) == (3_285, 22_743 - 4_532 - 4_533)
    assert len({c.user_id for c in split.validation} | {c.user_id for c in split.test}) == 3_285
    assert sum(c.target in c.history for c in split.test) == 128  # out of reach where seen items are left out


# --- tables ------------------------------------------------------------------------------------------------------------------------


def test_tables() -> None:
    split = leave_one_out([History("u", tuple("abcd"), (1, 2, 3, 4)), History("v", ("a", "b"))])
    tables = interactions_to_datasets(split)
    assert all(table.features == interaction_features() for table in tables.values())
    rows = {name: [tuple(row.values()) for row in table] for name, table in tables.items()}
    assert rows == {
        "train": [("u", "a", 0, 1), ("u", "b", 1, 2), ("v", "a", 0, None), ("v", "b", 1, None)],
        "validation": [("u", "c", 2, 3)],
        "test": [("u", "d", 3, 4)],
    }
    assert list(cases_to_dataset(split.test)) == [{"user_id": "u", "history": ["a", "b", "c"], "target": "d"}]
    assert cases_to_dataset([]).column_names == ["user_id", "history", "target"]
