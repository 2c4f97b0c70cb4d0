"""Raw files that are broken, strange or not what they should be."""

from __future__ import annotations

import re
from pathlib import Path

import amazon
import movielens
import own
import pytest
from shop_files import SEVERAL, failed, product, read, review, run_amazon, write_lines


def test_bad_lines_are_counted_located_and_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [review(*event) for event in SEVERAL]
    bad = [
        '{"user_id": "u1", "parent_as',
        "[1]",
        "null",
        review("", "A", 1),
        review("u", None, 1),
        review("u", "A", 10**10),
        {"user_id": "u"},
    ]  # type: ignore[arg-type]
    bad += [review("\ud83d", "A", 1), review("u1", "A", 20, timestamp=None)]
    rows = [good[0], bad[0], "", *bad[1:], *good[1:]]
    products = [product(i) for i in "ABC"]
    assert "more than 8 unusable lines" in failed(lambda: run_amazon(tmp_path, rows, products, "--max-bad-lines", "8"), capsys)
    assert not (tmp_path / "shop").exists()
    histories, statistics = read(run_amazon(tmp_path, rows, products, "--max-bad-lines", "9"))[1:]
    assert [h.items for h in histories] == [("B", "A", "C"), ("C", "A", "B")]
    assert statistics["files"]["reviews"][0]["dropped"] == {
        "not a JSON object": {"count": 3, "first": ["reviews.jsonl:2", "reviews.jsonl:4", "reviews.jsonl:5"]},
        "no user": {"count": 2, "first": ["reviews.jsonl:6", "reviews.jsonl:10"]},
        "no item": {"count": 2, "first": ["reviews.jsonl:7", "reviews.jsonl:9"]},
        "no number or ISO 8601 time between 1970 and 2200": {"count": 1, "first": ["reviews.jsonl:8"]},
        "no time": {"count": 1, "first": ["reviews.jsonl:11"]},
    }


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    reviews = write_lines(tmp_path / "r.jsonl", [review(*event) for event in SEVERAL])
    reviews.write_bytes(b"\xef\xbb\xbf" + reviews.read_bytes() + b'{"user_id": "\xff"}\n')  # a byte order mark, and half a character
    meta = write_lines(tmp_path / "m.jsonl", [product(i) for i in "ABC"])
    amazon.main(f"{tmp_path / 'shop'} --year 2023 --core 0 --reviews {reviews} --metadata {meta}".split())
    assert read(tmp_path / "shop")[2]["files"]["reviews"][0]["dropped"] == {"not utf-8 text": {"count": 1, "first": ["r.jsonl:7"]}}


@pytest.mark.parametrize("which", ["reviews", "meta"])
@pytest.mark.parametrize("cut", [0.3, -4])
def test_truncated_gz(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str, cut: float) -> None:
    paths = {"reviews": write_lines(tmp_path / "reviews.jsonl.gz", [review(*event) for event in SEVERAL * 500])}
    paths["meta"] = write_lines(tmp_path / "meta.jsonl.gz", [product(i) for i in ("A", "B", "C", *map(str, range(999)))])
    data = paths[which].read_bytes()
    paths[which].write_bytes(data[: int(len(data) * cut) if cut > 0 else int(cut)])
    said = failed(
        lambda: amazon.main(f"{tmp_path / 'shop'} --year 2023 --core 0 --reviews {paths['reviews']} --metadata {paths['meta']}".split()),
        capsys,
    )
    assert f"{which}.jsonl.gz is truncated or broken" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meta.jsonl.gz", "reviews.jsonl.gz"]


def test_broken_csv_lines(tmp_path: Path) -> None:
    items = write_lines(tmp_path / "i.csv", ["item_id,title", "A,one", "B", '"C"x,three', "", "D,four,more", "E,five"])
    events = write_lines(tmp_path / "e.csv", ["user_id,item_id,timestamp", *(f"u,{i},5" for i in "ABCDE")])
    own.main(f"{tmp_path / 'shop'} --core 0 --items {items} --interactions {events}".split())
    found, _, statistics = read(tmp_path / "shop")
    assert set(found) == {"A", "E"}
    assert statistics["files"]["items"][0]["dropped"] == {
        "not the header's 2 fields": {"count": 2, "first": ["i.csv:3", "i.csv:6"]},
        "not valid CSV": {"count": 1, "first": ["i.csv:4"]},
    }


def test_a_line_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = "[" + " " * (1 << 24)
    assert "reviews.jsonl:1 is longer than 16,777,216 bytes" in failed(lambda: run_amazon(tmp_path, [endless], []), capsys)


def test_strange_texts(tmp_path: Path) -> None:
    titles = {"A": "word " * 2000, "B": "x" * 10_000, "C": "<div>" * 2000 + "שָׁלוֹם &lrm;\u200f(עולם) 👩‍👩‍👧\x00"}
    products = [product(i, title=title, description=[title]) for i, title in titles.items()]
    items, _, statistics = read(run_amazon(tmp_path, [review(*event) for event in SEVERAL], products, "--max-title", "103"))
    assert items["A"].title == ("word " * 20).strip()
    assert items["B"].title == "x" * 103
    assert items["C"].title == "שָׁלוֹם \u200e\u200f(עולם) 👩‍👩‍👧"
    assert statistics["items"]["title cut"] == 2
    assert statistics["items"]["description cut"] == 2
    assert len(items["A"].description) == 1999


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_missing_metadata(tmp_path: Path, policy: str) -> None:
    products = [product("A"), product("B", title=" <br> "), product("X")]
    items, histories, statistics = read(run_amazon(tmp_path, [review(*event) for event in SEVERAL], products, "--missing-metadata", policy))
    assert statistics["items"]["no metadata"] == statistics["items"]["no title"] == 1
    if policy == "drop":
        assert set(items) == {"A"}
        assert statistics["dropped"]["item without metadata or title"]["count"] == 4
    else:
        assert {i: item.title for i, item in items.items()} == {"A": "Title A", "B": "Shop Sub", "C": "C"}
        assert len(histories[0].items) == 3


def test_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(lambda: run_amazon(tmp_path, [review(*event) for event in SEVERAL], [product("A")], "--core", "3"), capsys)
    assert "No event of 6 is left (not in the 3-core: 6)" in said
    assert not (tmp_path / "shop").exists()
    assert "No event of 0 is left (there were none)" in failed(lambda: run_amazon(tmp_path, [], []), capsys)


def test_foreign_folders_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [review(*event) for event in SEVERAL]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "thesis.txt").write_text("mine")
    assert "no statistics.json" in failed(lambda: run_amazon(tmp_path, good, [product("A")]), capsys)
    assert (tmp_path / "shop" / "thesis.txt").read_text() == "mine"
    (tmp_path / "shop" / "thesis.txt").unlink()
    folder = run_amazon(tmp_path, good, [product("A")])
    raw = write_lines(folder / "reviews.jsonl", good)  # put into the very folder that is to be replaced
    said = failed(
        lambda: amazon.main(f"{folder} --year 2023 --core 0 --reviews {raw} --metadata {tmp_path / 'raw' / 'meta.jsonl'}".split()), capsys
    )
    assert "which would be replaced" in said
    assert raw.exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("--year 2018", r"Expected --reviews and --metadata: CATEGORY.json.gz and meta_CATEGORY.json.gz from https://cseweb"),
        ("--year 2023 --download raw", r"--download needs --category, such as All_Beauty; see https://amazon-reviews-2023"),
        ("--year 2023 --reviews no.jsonl --metadata no.jsonl", r"No file at no.jsonl"),
        ("--year 2023 --max-title 0", r"--max-title 0 would leave no titles"),
        ("--year 2023 --max-history 2", r"--max-history is 2; expected at least 3"),
    ],
)
def test_calls_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str, said: str) -> None:
    assert re.search(said, failed(lambda: amazon.main([str(tmp_path / "shop"), *call.split()]), capsys))


def test_no_movielens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 cut")
    for data, said in (
        ("empty", "has 0 files ratings.csv or ratings.dat"),
        ("broken.zip", "not a complete zip"),
        ("none.zip", "No file or folder"),
    ):
        assert said in failed(lambda name=data: movielens.main([str(tmp_path / "out"), "--data", str(tmp_path / name)]), capsys)  # type: ignore[misc]


@pytest.mark.parametrize("option", ["--delimiter ;;", "--encoding utf-9"])
def test_csv_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    items, events = (write_lines(tmp_path / f"{name}.csv", ["item_id,title,user_id,timestamp", "A,one,u,5"]) for name in ("i", "e"))
    said = failed(lambda: own.main(f"{tmp_path / 'shop'} --core 0 --items {items} --interactions {events} {option}".split()), capsys)
    assert option.split()[0] in said


@pytest.mark.parametrize(
    ("encoding", "ending"), [("utf-16", "\n"), ("utf-32", "\r\n"), ("utf-8", "\r"), ("latin-1", "\r"), ("utf-16-le", "\n")]
)
def test_lines_of_any_encoding_and_ending(tmp_path: Path, encoding: str, ending: str) -> None:
    tables = {"i": ["item_id,title", "A,Café one", "B,two"], "e": ["user_id,item_id,timestamp", "u,A,2019-10-01 00:00:00 UTC", "u,B,5"]}
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_bytes("".join(line + ending for line in lines).encode(encoding))
    call = f"{tmp_path / 'shop'} --core 0 --items {tmp_path / 'i.csv'} --interactions {tmp_path / 'e.csv'} --encoding {encoding}"
    own.main(call.split())
    found, events, _ = read(tmp_path / "shop")
    assert found["A"].title == "Café one"
    assert str(events).count("'A'") == 1
