"""`grlm import`: other people's tables, under their own names, become a data folder and a recipe that runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from grlm_hf.cli import main
from grlm_hf.recipe import load_recipe
from grlm_hf.stages.importing import ImportConfig, Imported, import_tables
from grlm_hf.stages.reading import read_items

PRODUCTS = "SKU\tProduct Label\tmaker\tprix\tstock\n1\tRose balm\tFjall\t$12.99\t3\n2\tMint soap\t\t3,50 €\t0\n3\tUnsold comb\tFjall\t\t9\n"
ORDERS = """customer;product;ordered_at
u;2;2024-01-02 10:00:00 UTC
u;1;2024-01-01 10:00:00 UTC
u;1.0;2024-01-03 10:00:00 UTC
v;9;2024-01-04 10:00:00 UTC
v;2;2024-01-05 10:00:00 UTC
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "products.tsv").write_text(PRODUCTS, encoding="utf-8")
    (tmp_path / "orders.csv").write_text(ORDERS, encoding="utf-8")
    return tmp_path


def imported(shop: Path, **more: Any) -> Imported:
    return import_tables(shop / "out", items=shop / "products.tsv", events=shop / "orders.csv", config=ImportConfig(**more))


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_names_are_found_or_given_and_everything_is_counted(shop: Path) -> None:
    found = imported(shop, columns={"price": "prix"})
    assert found.columns["items: products.tsv"] == {"item_id": "SKU", "title": "Product Label", "brand": "maker", "price": "prix"}
    assert found.columns["events: orders.csv"] == {"user_id": "customer", "item_id": "product", "timestamp": "ordered_at"}
    assert found.unread == {"items: products.tsv": ["stock"], "events: orders.csv": []}
    assert [(r["item_id"], r["title"], r["price"]) for r in rows(shop / "out" / "items.parquet")] == [
        ("1", "Rose balm", 12.99), ("2", "Mint soap", 3.5), ("3", "Unsold comb", None),
    ]  # fmt: skip
    events = [(r["user_id"], r["item_id"]) for r in rows(shop / "out" / "interactions.parquet")]
    assert events == [("u", "1"), ("u", "2"), ("u", "1"), ("v", "2")]
    facts = json.loads((shop / "out" / "statistics.json").read_text())
    assert (facts["items"], facts["items_without_event"], facts["users"], facts["events"]) == (3, 1, 2, 4)
    said = " ".join(found.lines)
    for part in ("separated by semicolons", "1 of 5 events (20%) name items that the catalog lacks", "2 of 3 items (67%) have a price that",
                 "whole number with a fraction", "1 of 2 users (50%) have fewer than 3 items"):  # fmt: skip
        assert part in said
    assert [line.split(", such as")[0].rstrip(".") for line in found.lines] == [line.rstrip(".") for line in facts["reading"]]
    assert "'9'" in said
    assert "'9'" not in str(facts["reading"])  # the card is public


def test_the_recipe_runs_and_repeats_are_answered(shop: Path) -> None:
    imported(shop)
    recipe = load_recipe(shop / "out" / "recipe.yaml")
    assert recipe.data == str(shop / "out")
    assert recipe.read.short_users == "keep"
    assert not recipe.evaluate.exclude_seen  # the last event of u is an item that u had before
    assert [i.title for i in read_items(recipe.data, recipe.read)] == ["Rose balm", "Mint soap", "Unsold comb"]
    (shop / "orders.csv").write_text(ORDERS.replace("u;1.0;", "u;3;"), encoding="utf-8")
    imported(shop)
    assert load_recipe(shop / "out" / "recipe.yaml").evaluate.exclude_seen


@pytest.mark.parametrize("columns", [{"items.item_id": "SKU", "events.item_id": "product"}, {"item_id": "SKU"}, {"item_id": "product"}])
def test_one_column_for_both_tables_or_for_one(shop: Path, columns: dict[str, str]) -> None:
    assert imported(shop, columns=columns).facts["events"] == 4


def test_a_column_can_be_left_unread(shop: Path) -> None:
    found = imported(shop, columns={"timestamp": ""})
    assert found.facts["times"] is None
    assert [r["item_id"] for r in rows(shop / "out" / "interactions.parquet") if r["user_id"] == "u"] == ["2", "1", "1"]
    assert {r["timestamp"] for r in rows(shop / "out" / "interactions.parquet")} == {None}


def test_one_table_of_orders_with_titles(tmp_path: Path) -> None:
    orders = tmp_path / "orders.csv"
    orders.write_text("user,sku,name,time\nu,1,Rose balm,1\nu,2,Mint soap,2\nv,1,Rose balm,3\nv,2,Mint soap NEW,4\nv,1,Rose balm,6\n")
    found = import_tables(tmp_path / "out", items=orders, events=orders)
    assert (found.facts["items"], found.facts["events"]) == (2, 5)
    assert [r["title"] for r in rows(tmp_path / "out" / "items.parquet")] == ["Rose balm", "Mint soap"]
    said = " ".join(found.lines)
    assert "2 of 5 rows of items (40%) repeat an earlier one" in said
    assert "1 of 5 rows of items (20%) have the id of an earlier one and another content" in said


def test_a_core_and_ratings(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("item_id,title\n" + "".join(f"{i},Item {i}\n" for i in range(6)))
    events = [f"u{u},{i},{5 if (u + i) % 5 else 1},{10 * u + i}" for u in range(6) for i in range(5)]
    (tmp_path / "e.csv").write_text("user,item,stars,time\n" + "\n".join(events) + "\nlone,5,5,1\n")
    plain = import_tables(tmp_path / "a", items=tmp_path / "i.csv", events=tmp_path / "e.csv")
    assert (plain.facts["events"], plain.facts["items"]) == (31, 6)
    found = import_tables(tmp_path / "b", items=tmp_path / "i.csv", events=tmp_path / "e.csv", config=ImportConfig(min_rating=4, core=4))
    kept = rows(tmp_path / "b" / "interactions.parquet")
    for column in ("user_id", "item_id"):
        counts = [sum(r[column] == value for r in kept) for value in {r[column] for r in kept}]
        assert min(counts) >= 4
    assert found.facts["before_filtering"]["events"] == 25
    assert "6 of 31 events (19%) have a rating below 4 and are left out" in " ".join(found.lines)
    with pytest.raises(ValueError, match="Nothing is left with core=40"):
        import_tables(tmp_path / "c", items=tmp_path / "i.csv", events=tmp_path / "e.csv", config=ImportConfig(core=40))
    assert not (tmp_path / "c").exists()


def movielens_100k(folder: Path) -> Path:
    folder.mkdir()
    films = [f"{n}|Amélie {n} (1999)|01-Jan-1999||http://x|" + "|".join("1" if g in (5, 8) else "0" for g in range(19)) for n in (1, 2, 3)]
    (folder / "u.item").write_bytes("\n".join(films).encode("latin-1"))
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{i + 2}\t{880000000 + i}\n" for u in (7, 8) for i in (3, 1, 2)))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_movielens_100k(tmp_path: Path, packed: bool) -> None:
    source = movielens_100k(tmp_path / "ml-100k")
    if packed:
        with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
            for path in source.iterdir():
                archive.write(path, f"ml-100k/{path.name}")
        source = tmp_path / "ml-100k.zip"
    import_tables(tmp_path / "out", source, config=ImportConfig(min_rating=4))
    (item, *_) = rows(tmp_path / "out" / "items.parquet")
    assert (item["title"], item["categories"]) == ("Amélie 1 (1999)", ["Comedy", "Drama"])
    assert [(r["user_id"], r["item_id"]) for r in rows(tmp_path / "out" / "interactions.parquet")] == [
        ("7", "2"), ("7", "3"), ("8", "2"), ("8", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("films", "ratings", "files"),
    [
        ("1::Toy Story (1995)::Animation|Comedy\n", "7::1::5::978300760\n", ("movies.dat", "ratings.dat")),
        ("movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n", "userId,movieId,rating,timestamp\n7,1,5.0,9783007\n",
         ("movies.csv", "ratings.csv")),
    ],
)  # fmt: skip
def test_other_movielens(tmp_path: Path, films: str, ratings: str, files: tuple[str, str]) -> None:
    for name, text in zip(files, (films, ratings), strict=True):
        (tmp_path / name).write_text(text)
    import_tables(tmp_path / "out", tmp_path)
    assert rows(tmp_path / "out" / "items.parquet")[0]["categories"] == ["Animation", "Comedy"]


def test_nothing_is_written_by_a_refusal_or_a_dry_run(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: str) -> None:
        monkeypatch.setattr("sys.argv", ["grlm", *args])
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise

    call = ["import", "--items", str(shop / "products.tsv"), "--events", str(shop / "orders.csv"), "--output", str(shop / "out")]
    for more, said in (
        (["--column", "titel=x"], "There is no column 'titel' of ours"),
        (["--column", "title"], "is not of the form OURS=YOURS"),
        (["--column", "title=Product Labl"], "column 'Product Labl', which was named for 'title'. Did you mean 'Product Label'?"),
        (["--separator", "ab"], "has 2 characters; expected one"),
        (["--encoding", "foo"], "is not known to Python"),
        (["--core", "-1"], "core"),
        (["--min-rating", "4"], "no column for 'rating'"),
        ([str(shop)], "or a folder or zip of MovieLens"),
    ):
        with pytest.raises(SystemExit):
            run(*call, *more)
        err = capsys.readouterr().err
        assert said in err, err
        assert "Traceback" not in err
        assert not (shop / "out").exists()
    run(*call, "--dry-run")
    out = capsys.readouterr()
    assert "title ← 'Product Label'" in out.err
    assert "Nothing was written." in out.out
    assert not (shop / "out").exists()
    run(*call)
    assert f"grlm run {shop / 'out' / 'recipe.yaml'}" in capsys.readouterr().out
    (shop / "out" / "statistics.json").unlink()
    with pytest.raises(SystemExit):
        run(*call)
    assert "grlm did not write it" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b"", b"no zip"])
def test_broken_zips(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(ValueError, match="neither a folder nor a readable zip"):
        import_tables(tmp_path / "out", tmp_path / "ml.zip")


def test_a_zip_with_a_bad_checksum(tmp_path: Path) -> None:
    source = movielens_100k(tmp_path / "ml")
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for path in source.iterdir():
            archive.write(path, path.name)
    data = (tmp_path / "ml.zip").read_bytes()
    (tmp_path / "ml.zip").write_bytes(data.replace(b"Am\xe9lie 2", b"Am\xe9lie 9", 1))
    with pytest.raises(ValueError, match="Download it again"):
        import_tables(tmp_path / "out", tmp_path / "ml.zip")


def of(shop: Path, orders: str, **more: Any) -> Imported:
    (shop / "orders.csv").write_text(orders, encoding="utf-8")
    return imported(shop, **more)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("Gekauft am", ["02.01.2024", "01.01.2024"]),
        ("fecha", ["2024-01-02T10:00:00Z", "2024-01-01T09:00:00Z"]),
        ("when", ["20240102", "20240101"]),
        ("bought", ["1/13/2024 10:00", "1/12/2024"]),
        ("time of day", ["1704189600", "1704103200"]),  # numbers need a name that says so
    ],
)
def test_a_column_of_times_is_found_by_its_values(shop: Path, name: str, times: list[str]) -> None:
    found = of(shop, f"user,item,{name}\n" + "".join(f"u,{n + 1},{t}\n" for n, t in enumerate(times)))
    assert found.columns["events: orders.csv"]["timestamp"] == name
    assert [r["item_id"] for r in rows(shop / "out" / "interactions.parquet")] == ["2", "1"]  # by time, not as written


def test_what_may_be_a_time_is_never_passed_over_in_silence(shop: Path) -> None:
    with pytest.raises(ValueError, match=r"'paid' and 'sent' hold times.*--column timestamp='paid'"):
        of(shop, "user,item,paid,sent\nu,1,2024-01-02,2024-01-03\nu,2,2024-01-01,2024-01-05\n")
    chosen = of(shop, "user,item,paid,sent\nu,1,2024-01-02,2024-01-03\nu,2,2024-01-01,2024-01-05\n", columns={"timestamp": "paid"})
    assert chosen.facts["times"] == ["2024-01-01", "2024-01-02"]
    numbers = of(shop, "user,item,order number\nu,1,1704189600\nu,2,1704103200\n")
    assert numbers.facts["times"] is None
    assert any("'order number' may hold times" in line for line in numbers.lines)
    plain = of(shop, "user,item,amount,note\nu,1,3,2024\nu,2,1,good\n")
    assert plain.facts["times"] is None
    assert not any("may hold times" in line for line in plain.lines)


@pytest.mark.parametrize(
    ("orders", "column"), [("who,item\nu,1\n", "user_id"), ("user,what\nu,1\n", "item_id"), ("käufer;ware\nu;1\n", "user_id")]
)
def test_events_without_a_known_column_are_refused_with_their_columns_and_the_flag(shop: Path, orders: str, column: str) -> None:
    names = orders.splitlines()[0].replace(";", ",").split(",")
    with pytest.raises(ValueError, match=f"--column events.{column}=COLUMN") as raised:
        of(shop, orders)
    assert all(repr(name) in str(raised.value) for name in names)


def test_a_whole_history_in_a_row_needs_no_column_of_items(shop: Path) -> None:
    (shop / "orders.csv").unlink()
    (shop / "orders.jsonl").write_text('{"user": "u", "history": ["1", "2"]}\n')
    found = import_tables(shop / "out", items=shop / "products.tsv", events=shop / "orders.jsonl")
    assert found.facts["events"] == 2
