"""Each program from raw files in the source's own format to a folder that `grlm run` reads."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import amazon
import movielens
import own
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import steam
import yelp
from shop_files import SEVERAL, failed, product, read, review, run_amazon, write_lines

from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item


def test_amazon_2014(tmp_path: Path) -> None:
    reviews = [
        {"reviewerID": u, "asin": i, "overall": 4.0, "unixReviewTime": t, "reviewTime": "01 1, 1970", "helpful": [0, 0]}
        for u, i, t in SEVERAL
    ]
    products = [  # Python literals, as the dump has them
        "{'asin': 'A', 'title': \"Girl's <b>Tutu</b> &amp; Bow\", 'price': 3.17, 'brand': 'Coxlures', 'salesRank': {'Toys': 1}, "
        "'categories': [['Beauty', 'Skin'], ['Beauty', 'Hair', 'Oil'], ['Sale']], 'related': {'also_bought': ['B']}, "
        "'description': 'So\\nsoft'}",
        "{'asin': 'B', 'title': 'caf\\xe9 \\u2019n more', 'categories': [['Beauty']], 'imUrl': None}",
        '{"asin": "C", "title": "of strict JSON", "categories": [[]]}',
    ]
    paths = write_lines(tmp_path / "r.json.gz", reviews), write_lines(tmp_path / "m.json.gz", products)
    amazon.main(f"{tmp_path / 'shop'} --year 2014 --core 2 --category Beauty --reviews {paths[0]} --metadata {paths[1]}".split())
    items, histories, statistics = read(tmp_path / "shop")
    assert items["A"] == Item("A", "Girl's Tutu & Bow", "Coxlures", ("Beauty", "Hair", "Oil"), "So soft", 3.17, "Beauty")
    assert items["B"] == Item("B", "café ’n more", categories=("Beauty",), domain="Beauty")
    assert histories == [History("u1", ("B", "A", "C"), (10, 20, 30)), History("u2", ("C", "A", "B"), (10, 20, 30))]
    assert statistics["files"]["reviews"][0]["sha256"] == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert statistics["source"] == "Amazon Reviews 2014"


def test_fetched_from_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (
        ("review_categories/Toys", [review(*e) for e in SEVERAL]),
        ("meta_categories/meta_Toys", [product(i) for i in "ABC"]),
    ):
        (tmp_path / "host" / name).parent.mkdir(parents=True)
        write_lines(tmp_path / "host" / f"{name}.jsonl.gz", rows)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "host"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        host = f"http://127.0.0.1:{server.server_address[1]}"
        call = f"{tmp_path / 'shop'} --year 2023 --core 0 --download {tmp_path / 'raw'} --host {host} --category"
        amazon.main([*call.split(), "Toys"])
        said = failed(lambda: amazon.main([*call.split(), "Tois"]), capsys)
        server.shutdown()
        thread.join()
    assert {item.domain for item in read(tmp_path / "shop")[0].values()} == {"Toys"}
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["Toys.jsonl.gz", "meta_Toys.jsonl.gz"]
    assert f"{host}/review_categories/Tois.jsonl.gz could not be downloaded: 404" in said


def test_loose_json_is_never_run(tmp_path: Path) -> None:
    reviews = [{"reviewerID": u, "asin": i, "unixReviewTime": t} for u, i, t in SEVERAL]
    evil = f"__import__('os').mkdir({str(tmp_path / 'owned')!r}) or {{'asin': 'A', 'title': 'x'}}"
    deep = "{'asin': " + "[" * 50_000
    products = [evil, deep, *({"asin": i, "title": "Good"} for i in "ABC")]
    paths = write_lines(tmp_path / "r.json", reviews), write_lines(tmp_path / "m.json", products)
    amazon.main(f"{tmp_path / 'shop'} --year 2014 --core 0 --reviews {paths[0]} --metadata {paths[1]}".split())
    assert not (tmp_path / "owned").exists()
    (file,) = read(tmp_path / "shop")[2]["files"]["items"]
    assert file["dropped"] == {"not a JSON object": {"count": 2, "first": ["m.json:1", "m.json:2"]}}


def test_amazon_2018(tmp_path: Path) -> None:
    reviews = [{"reviewerID": u, "asin": i, "overall": 4.0, "unixReviewTime": t, "verified": True} for u, i, t in SEVERAL]
    products = [
        {
            "asin": "A",
            "title": "Lamp <span class='a'>red</span>",
            "brand": "Visit Amazon's  Jo Doe Page",
            "category": ["Toys &amp; Games", "Lamps"],
            "description": ["<p>One.</p>", "Two."],
            "feature": ["unseen"],
            "price": "$12.99 - $20.00",
            "main_cat": "Toys",
        },
        {
            "asin": "B",
            "title": "B",
            "brand": "",
            "category": [],
            "description": [],
            "feature": ["Of wood"],
            "price": "",
            "main_cat": "Toys &amp; Games",
        },
        {"asin": "C", "title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=1;", "price": ".a-box{}", "category": []},
        {"asin": "C", "title": "the second row has it"},
        {"asin": "A", "title": "another A"},
    ]
    paths = write_lines(tmp_path / "r.json", reviews), write_lines(tmp_path / "m.json", products)
    amazon.main(f"{tmp_path / 'shop'} --year 2018 --core 0 --reviews {paths[0]} --metadata {paths[1]}".split())
    items, histories, statistics = read(tmp_path / "shop")
    assert items["A"] == Item("A", "Lamp red", "Jo Doe", ("Toys & Games", "Lamps"), "One. Two.", 12.99)
    assert items["B"] == Item("B", "B", categories=("Toys & Games",), description="Of wood")
    assert items["C"].title == "the second row has it"
    assert len(histories) == 2
    assert statistics["files"]["items"][0]["dropped"] == {"item stands already": {"count": 1, "first": ["m.json:5"]}}


def test_amazon_2023(tmp_path: Path) -> None:
    products = [
        product("A", title="Kettle 😀 &amp; cup", price=9.5, description=["Boils.", "Fast."], features=["unseen"]),
        product("B", price="from 14.99", features=["Steel", "1 L"], categories=[]),
        product("C", store=None, price=None),
        product("never reviewed"),
    ]
    items, histories, statistics = read(run_amazon(tmp_path, [review(*event) for event in SEVERAL], products))
    assert items == {
        "A": Item("A", "Kettle 😀 & cup", "Shop", ("Main", "Sub"), "Boils. Fast.", 9.5),
        "B": Item("B", "Title B", "Shop", ("Main",), "Steel 1 L", 14.99),
        "C": Item("C", "Title C", "", ("Main", "Sub")),
    }
    assert histories == [History("u1", ("B", "A", "C"), (10, 20, 30)), History("u2", ("C", "A", "B"), (10, 20, 30))]
    assert statistics["times"] == {"first": "1970-01-01T00:00:10+00:00", "last": "1970-01-01T00:00:30+00:00"}
    assert statistics["before_filtering"] == {"users": 2, "items": 3, "interactions": 6, "density": 1.0}


def test_amazon_of_another_year_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"reviewerID": "u", "asin": str(n), "unixReviewTime": 5} for n in range(20)]
    said = failed(lambda: run_amazon(tmp_path, rows, []), capsys)
    assert "more than 10 unusable lines" in said
    assert "no user: 11 (reviews.jsonl:1, " in said


@pytest.mark.parametrize("form", ["1m folder", "1m zip", "10m zip", "32m zip", "32m folder"])
def test_movielens(tmp_path: Path, form: str) -> None:
    size, kind = form.split()
    folder = tmp_path / f"ml-{size}"
    folder.mkdir()
    films = [
        ("1", "Toy Story (1995)", "Animation|Children's"),
        ("2", "Amélie, La (2001)", "Comedy"),
        ("3", "No, Genre (1999)", "(no genres listed)"),
    ]
    events = [(u, {"A": "1", "B": "2", "C": "3"}[i], 4.5 if i == "A" else 3.0, t) for u, i, t in SEVERAL]
    if size == "32m":
        for name, header, rows in (("movies", "movieId,title,genres", films), ("ratings", "userId,movieId,rating,timestamp", events)):
            with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header.split(","), *rows])
    else:
        for name, rows in (("movies", films), ("ratings", events)):
            text = "".join("::".join(map(str, row)) + "\n" for row in rows)
            (folder / f"{name}.dat").write_bytes(text.encode("latin-1" if size == "1m" else "utf-8"))
    data = folder
    if kind == "zip":
        data = tmp_path / f"ml-{size}.zip"
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.iterdir():
                archive.write(path, f"{folder.name}/{path.name}")
    movielens.main(f"{tmp_path / 'films'} --data {data} --core 0".split())
    items, histories, statistics = read(tmp_path / "films")
    assert items["1"] == Item("1", "Toy Story (1995)", categories=("Animation", "Children's"))
    assert items["2"].title == "Amélie, La (2001)"
    assert items["3"].categories == ()
    assert histories == [History("u1", ("2", "1", "3"), (10, 20, 30)), History("u2", ("3", "1", "2"), (10, 20, 30))]
    assert statistics["files"]["ratings"][0]["lines"] == 6 + (size == "32m")
    movielens.main(f"{tmp_path / 'films'} --data {data} --core 0 --min-rating 4".split())
    assert [h.items for h in read(tmp_path / "films")[1]] == [("1",), ("1",)]


def test_steam(tmp_path: Path) -> None:
    day = {10: "2017-06-01", 20: "2017-06-02", 30: "2017-06-03"}
    reviews = [
        f"{{u'username': u'{u}', u'hours': 1.5, u'product_id': u'{i}', u'date': u'{day[t]}', u'text': u'3 spooky \\u20ac'}}"
        for u, i, t in [*SEVERAL, ("u1", "D", 30)]  # on the day of C, later in the file
    ]
    games = [
        "{u'publisher': u'Pub', u'genres': [u'Action', u'Indie'], u'app_name': u'Doom\\xae', u'tags': [u'Gore', u'Action'], "
        "u'price': u'Free To Play', u'id': u'A', u'developer': u'id'}",
        "{u'app_name': u'B game', u'price': 4.99, u'id': u'B', u'publisher': u'Pub'}",
        "{u'app_name': u'without an id', u'price': 4.99}",
        "{u'title': u'C game', u'id': u'C'}",
        "{u'title': u'D game', u'id': u'D'}",
    ]
    paths = write_lines(tmp_path / "r.json.gz", reviews), write_lines(tmp_path / "g.json.gz", games)
    steam.main(f"{tmp_path / 'games'} --core 0 --reviews {paths[0]} --games {paths[1]} --max-bad-lines 0".split())
    items, histories, _ = read(tmp_path / "games")
    assert items["A"] == Item("A", "Doom®", "id", ("Action", "Indie", "Gore"), price=0.0)
    assert items["B"] == Item("B", "B game", "Pub", price=4.99)
    assert items["C"].title == "C game"
    assert [h.items for h in histories] == [("B", "A", "C", "D"), ("C", "A", "B")]


def test_yelp(tmp_path: Path) -> None:
    reviews = [
        {"review_id": "r", "user_id": u, "business_id": i, "stars": 4.0, "date": f"2018-07-07 22:09:{t}", "text": "x"}
        for u, i, t in SEVERAL
    ]
    places = [
        {"business_id": "A", "name": "Café <3", "city": "Tempe", "state": "AZ", "categories": "Mexican, Bars", "stars": 4.0},
        {"business_id": "B", "name": "B", "city": "", "state": "AZ", "categories": None},
        {"business_id": "C", "name": "C", "categories": ["Old", "List"]},
    ]
    paths = write_lines(tmp_path / "r.json", reviews), write_lines(tmp_path / "b.json", places)
    yelp.main(f"{tmp_path / 'out'} --core 0 --reviews {paths[0]} --businesses {paths[1]}".split())
    items, histories, _ = read(tmp_path / "out")
    assert items["A"] == Item("A", "Café <3", categories=("Mexican", "Bars"), description="Tempe, AZ")
    assert (items["B"].categories, items["C"].categories) == ((), ("Old", "List"))
    assert histories[0] == History("u1", ("B", "A", "C"), (1_531_001_350, 1_531_001_360 - 60 + 60, 1_531_001_370))


@pytest.mark.parametrize("form", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_own(tmp_path: Path, form: str) -> None:
    things = [
        {"sku": 7, "name": 'Seven, "the"\nfirst', "path": "A > B", "eur": "1.299,00 €"},
        {"sku": 8, "name": "Eight", "path": "", "eur": ""},
    ]
    orders = [
        {"who": u, "what": i, "at": t} for u, i, t in [("x", 7, 3000), ("x", 8, 2000), ("x", 7, 1000), ("y", 8, 1000), ("y", 8, 1000)]
    ]
    paths = []
    for name, rows in (("things", things), ("orders", orders)):
        path = tmp_path / (name + form)
        if form == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif form.startswith(".jsonl"):
            write_lines(path, rows)
        else:
            with gzip.open(path, "wt", newline="") if form.endswith(".gz") else open(path, "w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        paths.append(path)
    options = "--item-id sku --title name --categories path --price eur --user-id who --event-item-id what --timestamp at --time-unit ms"
    own.main(f"{tmp_path / 'shop'} --core 0 --items {paths[0]} --interactions {paths[1]} {options} --domain Things".split())
    items, histories, statistics = read(tmp_path / "shop")
    assert items["7"] == Item("7", 'Seven, "the" first', categories=("A", "B"), price=1299.0, domain="Things")
    assert items["8"].price is None
    assert histories == [
        History("x", ("7", "8", "7"), (1, 2, 3)),
        History("y", ("8",), (1,)),
    ]  # a later purchase stays, a repeated line not
    assert statistics["files"]["interactions"][0]["kept"] == 5
    assert statistics["dropped"]["duplicate"]["count"] == 1


def test_own_in_one_table(tmp_path: Path) -> None:
    orders = write_lines(tmp_path / "o.jsonl", [{"user_id": u, "item_id": i, "title": f"Title {i}", "timestamp": t} for u, i, t in SEVERAL])
    own.main(f"{tmp_path / 'shop'} --core 0 --items {orders} --interactions {orders}".split())
    items, histories, _ = read(tmp_path / "shop")
    assert {item.title for item in items.values()} == {"Title A", "Title B", "Title C"}
    assert [h.items for h in histories] == [("B", "A", "C"), ("C", "A", "B")]


def test_own_without_times(tmp_path: Path) -> None:
    items = write_lines(tmp_path / "i.jsonl", [{"item_id": i, "title": i} for i in "CBA"])
    events = write_lines(tmp_path / "e.jsonl", [{"user_id": "u", "item_id": i} for i in "CAB"])
    own.main(f"{tmp_path / 'shop'} --core 0 --items {items} --interactions {events} --no-times".split())
    assert read(tmp_path / "shop")[1] == [History("u", ("C", "A", "B"))]
    assert read(tmp_path / "shop")[2]["times"] is None


def test_own_names_missing_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = write_lines(tmp_path / "i.jsonl", [{"item_id": "A", "title": "A"}])
    events = write_lines(tmp_path / "e.csv", ["customer,item_id", "u,A"])
    said = failed(lambda: own.main(f"{tmp_path / 'shop'} --items {items} --interactions {events}".split()), capsys)
    assert "e.csv has no column ['user_id', 'timestamp']; found ['customer', 'item_id']" in said
