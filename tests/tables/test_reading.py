"""Tables as people and machines write them, through the readers of a data folder: what is unambiguous is read, what is not is refused, and
what is dropped or reinterpreted is counted."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grlm_hf.data.interactions import load_histories
from grlm_hf.data.items import Item, load_items, load_term_ids
from grlm_hf.tables.rows import LONGEST, read_rows
from grlm_hf.tables.tally import Tally

IDS = {"a", "b", "c", "d"}


def put(path: Path, content: str | bytes | list[dict[str, Any]]) -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def items_of(path: Path, content: Any, tally: Tally | None = None) -> list[Item]:
    return load_items(put(path, content), tally=tally)


def order(path: Path, content: Any, tally: Tally | None = None, **more: Any) -> tuple[str, ...]:
    (history,) = load_histories(put(path, content), more.pop("ids", IDS), tally=tally, **more)
    return history.items


# --- columns -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["user_id,item_id,timestamp", "User ID,Item-Id,TimeStamp", " user_id , item_id , timestamp ", "userId,movieId,time",
               "customer,sku,ordered_at", "\ufeffuser_id,item_id,date", "visitorid,itemid,Event Time"],
)  # fmt: skip
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_columns_under_other_names_and_separators(tmp_path: Path, header: str, separator: str) -> None:
    tally = Tally()
    text = f"{header}\nu,c,3\nu,b,2\nu,a,1\n".replace(",", separator)
    assert order(tmp_path / "i.csv", text, tally) == ("a", "b", "c")
    assert ("timestamp" in header) or any("as timestamp" in line for line in tally.lines())
    assert (separator == ",") or any("separated by" in line for line in tally.lines())


def test_columns_of_json_and_parquet_too(tmp_path: Path) -> None:
    rows = [{"User": "u", "ASIN": i, "unixReviewTime": t} for i, t in (("c", 3), ("b", 2), ("a", 1))]
    assert order(tmp_path / "i.jsonl", rows) == ("a", "b", "c")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "i.parquet")
    assert load_histories(tmp_path / "i.parquet", IDS)[0].items == ("a", "b", "c")
    assert items_of(tmp_path / "t.csv", "SKU,Product Name,Maker\n1,Rose balm,Fjall\n") == [Item("1", "Rose balm", "Fjall")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,item_id,time,date\nu,a,1,2\n", "'time' and 'date', which may all be 'timestamp'"),
        ("user_id,item_id,Timestamp,TIMESTAMP\nu,a,1,2\n", "may all be 'timestamp'"),
        ("user_id,item_id,zeitstempel_date\nu,a,1\n", "no column 'timestamp', and 'zeitstempel_date' looks like one"),
        ("user_id,item_id,item_id\nu,a,b\n", "has the column 'item_id' twice"),
        ("who,item_id\nu,a\n", "needs `user_id`"),
    ],
)
def test_ambiguous_columns_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order(tmp_path / "i.csv", text)


# --- files -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    text = "item_id,title\n1,Zelt für zwei 挀\n2,Ofen\n".replace("\n", end)
    assert [i.title for i in items_of(tmp_path / "t.csv", text.encode(encoding))] == ["Zelt für zwei 挀", "Ofen"]


def test_another_encoding_is_refused_and_can_be_stated(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "item_id,title\n1,Grün\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"t\.csv:2 is not UTF-8 text .*Save the file"):
        list(read_rows(path))
    assert [row for _, row in read_rows(path, encoding="cp1252")] == [{"item_id": "1", "title": "Grün"}]


def test_long_cells_are_read_and_endless_lines_are_not(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path / "t.csv", "item_id,title,description\n1,Zelt," + "x" * 140_000 + "\n")
    assert len(item.description) == 140_000
    with pytest.raises(ValueError, match=r"t\.csv:2 is longer than"):
        items_of(tmp_path / "t.csv", "item_id,title\n1," + "x" * (LONGEST + 2))


def test_errors_name_the_line_where_the_row_begins(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.csv:2: not valid CSV"):
        items_of(tmp_path / "t.csv", 'item_id,title\n1,"15" sleeve"\n2,x\n')


# --- values ------------------------------------------------------------------------------------------------------------------------


def test_values_of_other_types(tmp_path: Path) -> None:
    row = {"item_id": 101.0, "title": "Rose &amp; <b>balm</b>", "categories": "['Beauty', 'Lips']", "description": ["Soft.", "Vegan."]}
    content = json.dumps(row | {"brand": float("nan"), "price": float("nan")}) + "\n"
    assert items_of(tmp_path / "t.jsonl", content) == [Item("101", "Rose & balm", "", ("Beauty", "Lips"), "Soft. Vegan.", None)]
    with pytest.raises(ValueError, match="empty title"):
        items_of(tmp_path / "t.jsonl", '{"item_id": "1", "title": NaN}\n')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_id": True, "title": "x"}, "item_id is 'True', a bool"),
        ({"item_id": {"a": 1}, "title": "x"}, "a dict"),
        ({"item_id": ["1"], "title": "x"}, "a list"),
        ({"item_id": 1.5, "title": "x"}, "no whole number"),
        ({"item_id": 2.0**60, "title": "x"}, "floats lose digits"),
        ({"item_id": "a\x00b", "title": "x"}, "control character"),
        ({"item_id": "1", "title": {"a": 1}}, "title is .* a dict"),
        ({"item_id": "1", "title": False}, "title is 'False', a bool"),
    ],
)
def test_values_that_stand_for_nothing_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items_of(tmp_path / "t.jsonl", [row])


def test_terms_as_a_list_in_text(tmp_path: Path) -> None:
    assert load_term_ids(put(tmp_path / "t.csv", "item_id,terms\n1,\"['tent', 'red']\"\n")) == {"1": ("tent", "red")}


# --- ids ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", ["101.0 102.0 103.0", "101 102 103"])
@pytest.mark.parametrize("ids", [{"101", "102", "103"}, {"101.0", "102.0", "103.0"}])
def test_whole_floats_are_their_integers(tmp_path: Path, events: str, ids: set[str]) -> None:
    text = "user_id,item_id\n" + "".join(f"u,{i}\n" for i in events.split())
    assert set(order(tmp_path / "i.csv", text, ids=ids)) == ids
    numbers = [float(i) for i in events.split()]
    whole = {str(float(i)) for i in ids} if "101.0" in ids else ids
    assert set(order(tmp_path / "s.jsonl", [{"user_id": "u", "items": numbers, "n_valid": 1.0, "n_test": 1.0}], ids=ids)) == whole


def test_ids_that_never_meet_are_the_cause_that_is_named(tmp_path: Path) -> None:
    text = "user_id,item_id\n" + "".join(f"u,{i}\n" for i in ("10", "101", "55"))
    with pytest.raises(ValueError, match=r"no event names an item.*ids like '10' \(the catalog has '0010'\)"):
        order(tmp_path / "i.csv", text, ids={"0010", "0101", "0055"}, unknown_items="drop", short_users="keep")


def test_what_is_dropped_is_counted_and_said(tmp_path: Path) -> None:
    tally = Tally()
    text = "user_id,item_id\n" + "".join(f"u,{i}\n" for i in ("10", "101", "2020", "55", "3030"))
    found = order(tmp_path / "i.csv", text, tally, ids={"0010", "0101", "2020", "0055", "3030"}, unknown_items="drop", short_users="keep")
    assert found == ("2020", "3030")
    said = " ".join(tally.lines())
    assert "Warning: 3 of 5 events (60%) name items that the catalog lacks, and are left out, such as '10' (the catalog has '0010')" in said
    assert "users (100%) have fewer than 3 items and are for training only" in said


def test_repeats_ties_and_order_are_counted(tmp_path: Path) -> None:
    tally = Tally()
    rows = [("a", 5), ("b", 5), ("b", 5), ("c", 1)]
    assert order(tmp_path / "i.jsonl", [{"user_id": "u", "item_id": i, "timestamp": t} for i, t in rows], tally) == ("c", "a", "b", "b")
    said = " ".join(tally.lines())
    for what in ("2 of 4 events (50%) have the time of the one before", "1 of 4 events (25%) are exact repeats", "not in time order"):
        assert what in said


# --- times -------------------------------------------------------------------------------------------------------------------------

JAN, FEB = datetime(2024, 1, 31, tzinfo=timezone.utc), datetime(2024, 2, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1706659200, 1706745600),
        (1706659200000, 1706745600000),
        (1706659200000000, 1706745600000000),
        (1706659200000000000, 1706745600000000000),
        ("1706659200.0", "1706745600.0"),
        (20240131, 20240201),
        ("20240131", "2024-02-01"),
        ("2024-01-31 00:00:00 UTC", "2024-02-01 00:00:00 UTC"),
        ("2024-01-31T00:00:00Z", "2024-02-01T00:00:00+00:00"),
        ("2024-01-31T01:00:00+01:00", "2024-02-01T00:00:00.000Z"),
        ("31/01/2024", "01/02/2024 00:00"),
        ("01/31/2024 00:00:00", "02/01/2024"),
        ("31.01.2024", "01.02.2024"),
    ],
)
def test_times_in_any_unit_and_form(tmp_path: Path, first: Any, second: Any) -> None:
    rows = [{"user_id": "u", "item_id": i, "timestamp": t} for i, t in (("b", second), ("a", first), ("c", second))]
    (history,) = load_histories(put(tmp_path / "i.jsonl", rows), IDS)
    assert history.items == ("a", "b", "c")
    assert history.timestamps == tuple(int(t.timestamp()) for t in (JAN, FEB, FEB))


def test_fractions_of_seconds_decide_the_order(tmp_path: Path) -> None:
    for times in (
        (1.75, 1.5, 1.25),
        (1706659200500, 1706659200400, 1706659200300),
        ("2024-01-31T00:00:00.3", "2024-01-31T00:00:00.2", "2024-01-31"),
    ):
        rows = [{"user_id": "u", "item_id": i, "timestamp": t} for i, t in zip("abc", times, strict=True)]
        assert order(tmp_path / "i.jsonl", rows) == ("c", "b", "a")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((1706659200, 1706659200000, 5), "looks like milliseconds, and 1706659200 .* like seconds"),
        (("01/02/2024", "03/04/2024", "05/06/2024"), "do not say which number is the month"),
        (("2024-01-31", 1706659200, "2024-02-01"), "time 1706659200 is a number, and '2024-01-31' is text"),
        ((True, 2, 3), "timestamp True is neither"),
        (("2024-13-01", "2024-01-01", "2024-01-02"), "timestamp '2024-13-01' is neither"),
    ],
)
def test_times_that_cannot_be_told_apart_are_refused(tmp_path: Path, times: tuple[Any, ...], message: str) -> None:
    rows = [{"user_id": "u", "item_id": i, "timestamp": t} for i, t in zip("abc", times, strict=True)]
    with pytest.raises(ValueError, match=message):
        order(tmp_path / "i.jsonl", rows)


def test_prices_as_people_write_them(tmp_path: Path) -> None:
    tally = Tally()
    text = "item_id;title;price\n1;A;12,99\n2;B;$1,299.50\n3;C;nan\n4;D;\n5;E;3 EUR\n6;F;7\n"
    assert [i.price for i in items_of(tmp_path / "i.csv", text, tally)] == [12.99, 1299.5, None, None, 3.0, 7.0]
    assert any("3 of 6 items (50%) have a price that is text" in line for line in tally.lines())


@pytest.mark.parametrize(
    "terms", ["<a_60><b_159><c_203>", ["<a_60>", "<b_159>", "<c_203>"], ["<A12>", "tea"], ["<|sid_a_60|>"], ["<s_a_340>"]]
)
def test_codes_of_semantic_ids_are_no_words(tmp_path: Path, terms: Any) -> None:
    with pytest.raises(ValueError, match="codes of Semantic IDs"):
        load_term_ids(put(tmp_path / "t.jsonl", [{"item_id": "1", "terms": terms}]))


@pytest.mark.parametrize("terms", [[60, 159, 203], ["a_60", "b_159"], "60 159 203"])
def test_items_of_numbers_only_are_codes_unless_they_are_few(tmp_path: Path, terms: Any) -> None:
    coded = [{"item_id": str(n), "terms": terms} for n in range(2)]
    named = [{"item_id": "film", "terms": ["1917", "2019"]}, *({"item_id": f"w{n}", "terms": ["tea", f"v{n}"]} for n in range(2))]
    with pytest.raises(ValueError, match=r"2 of 3 items have numbers only, such as '0'.*codes of Semantic IDs"):
        load_term_ids(put(tmp_path / "t.jsonl", [*coded, named[1]]))
    assert load_term_ids(put(tmp_path / "u.jsonl", named))["film"] == ("1917", "2019")


def test_term_ids_of_a_tsv(tmp_path: Path) -> None:
    assert load_term_ids(put(tmp_path / "t.tsv", "item_id\tterms\n1\tgreen tea, kettle\n")) == {"1": ("green-tea", "kettle")}
