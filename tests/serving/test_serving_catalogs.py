"""Items and catalogs from outside: what is not in order changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_toys import Running, on, running, same
from toys import TERM_IDS, toy_catalog

from grlm_hf import Catalog, Item
from grlm_hf.indexing.words import FILLERS
from grlm_hf.serving import ServeOptions
from grlm_hf.serving.schemas import AddRequest
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.values import price as read_price


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """For tests whose every change is refused."""
    with running(ServeOptions(max_upload_mb=0.25, max_items=50)) as r:
        yield r


def upload(r: Running, data: bytes, sha256: str | None = None) -> httpx2.Response:
    return r.client.post("/catalog/reload", content=data, headers={"x-content-sha256": sha256 or hashlib.sha256(data).hexdigest()})


def parquet(tmp_path: Path, catalog: Catalog | None = None, change: Callable[[pa.Table], pa.Table] = lambda t: t) -> bytes:
    file = (catalog or toy_catalog()).save_pretrained(tmp_path)
    pq.write_table(change(pq.read_table(file)), file)
    return file.read_bytes()


def column(name: str, values: list[Any], kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(t.schema.get_field_index(name), name, pa.array((values * len(t))[: len(t)], kind))


def test_items_come_and_go(tmp_path: Path) -> None:
    with running() as r:
        new = {"item_id": "../../x/水 ", "title": "Camping lamp,  small"}
        assert r.client.post("/items", json={"items": [new]}).status_code == 422  # a space that would be lost
        new["item_id"] = "../../x/水"
        body = {
            "items": [{**new, "brand": "B", "categories": ["A", " "], "price": 3, "domain": "d"}],
            "term_ids": [["Camping  Lamp", "led"]],
        }
        said = r.client.post("/items", json=body).json()
        assert said["added"] == {"../../x/水": ["camping-lamp", "led"]}
        assert (said["version"], said["items"], said["domains"], said["rollback_to"]) == (2, 13, ["d"], [1])
        item = {"item_id": "../../x/水", "title": "Camping lamp, small", "brand": "B", "categories": ["A"], "description": "", "price": 3.0,
                "domain": "d", "term_id": ["camping-lamp", "led"]}  # fmt: skip
        assert r.client.get("/items/..%2F..%2Fx%2F水").json() == {"version": 2, "item": item}
        assert r.client.get("/items?domain=d").json() == {"version": 2, "total": 1, "items": [item]}
        pages = [r.client.get(f"/items?offset={n}&limit=5").json()["items"] for n in range(0, 15, 5)]
        assert [i["item_id"] for page in pages for i in page] == [i.item_id for i in r.grlm.catalog]
        catalog = toy_catalog().add([Item("../../x/水", "t")], [("camping-lamp", "led")])
        got = r.client.post("/recommend", json={"history": ["../../x/水"], "k": 13}).json()
        assert {i["item_id"] for i in got["results"][0]["items"]} == {i.item_id for i in catalog}
        gone = r.client.request("DELETE", "/items", json={"item_ids": ["../../x/水", "i20", "i20"]})
        assert (gone.json()["version"], gone.json()["items"]) == (3, 11)
        assert r.client.post("/recommend", json={"history": ["i20"]}).status_code == 422
        assert r.client.post("/catalog/rollback").json()["items"] == 13


def test_titles_without_spaces_get_terms_and_no_fixed_words() -> None:
    pytest.importorskip("sentence_transformers")
    titles = {"zh": "小米轻薄吸尘器红色102", "th": "พานาโซนิคไร้สายหม้อหุงข้าวสีขาว102", "ja": "象印軽量炊飯器<br/>白"}
    with running() as r:
        new = [{"item_id": name, "title": title} for name, title in titles.items()]
        added = r.client.post("/items", json={"items": new}).json()["added"]
    assert len(set(map(tuple, added.values()))) == 3
    for terms in added.values():
        assert len(terms) > 2
        assert not {*FILLERS, "br"} & set(terms)


def test_terms_are_extracted_where_none_are_given() -> None:
    pytest.importorskip("sentence_transformers")
    with running() as r:
        said = r.client.post("/items", json={"items": [{"item_id": "n", "title": "Camping stove, gas, steel"}]}).json()
        assert said["added"]["n"] == list(r.grlm.catalog.term_id("n"))


PRICES: list[Any] = ["$12.99", "12,99 €", "1.234,50", "Free", "7", " ", 3, 2.5, None]


def test_prices_are_read_as_by_import() -> None:
    with running() as r:
        items = [{"item_id": f"p{n}", "title": "T", "price": price} for n, price in enumerate(PRICES)]
        answer = r.client.post("/items", json={"items": items, "term_ids": [["a", f"p{n}"] for n in range(len(PRICES))]})
        assert answer.status_code == 200, answer.text
        got = [r.client.get(f"/items/p{n}").json()["item"]["price"] for n in range(len(PRICES))]
    assert got == [read_price("", price, Tally()) for price in PRICES] == [12.99, 12.99, 1234.5, 0, 7, None, 3, 2.5, None]
    bad = AddRequest.model_json_schema()["$defs"]["ItemFields"]["properties"]["price"]
    assert {option["type"] for option in bad["anyOf"]} == {"number", "string", "null"}


BAD_ITEMS: list[tuple[dict[str, Any], int]] = [
    ({"items": [{"item_id": "i20", "title": "There"}], "term_ids": [["a"]]}, 409),
    ({"items": [{"item_id": "n", "title": "T"}] * 2, "term_ids": [["a"]] * 2}, 422),
    ({"items": [{"item_id": "n", "title": "T"}], "term_ids": [["a"]] * 2}, 422),
    ({"items": [{"item_id": "n", "title": "T"}], "term_ids": [["!?"]]}, 422),
    ({"items": [{"item_id": "n", "title": "T"}], "term_ids": [[]]}, 422),
    ({"items": [{"item_id": "n", "title": "T"}], "term_ids": [["a"] * 17]}, 422),
    ({"items": [{"item_id": "n", "title": "T"}], "term_ids": [["a" * 65]]}, 422),
    ({"items": [{"item_id": "n", "title": " \t"}], "term_ids": [["a"]]}, 422),
    ({"items": [{"item_id": "", "title": "T"}], "term_ids": [["a"]]}, 422),
    ({"items": [{"item_id": "n\u0000", "title": "T"}], "term_ids": [["a"]]}, 422),
    ({"items": [{"item_id": "n\u007f", "title": "T"}], "term_ids": [["a"]]}, 422),
    ({"items": [{"item_id": "n"}], "term_ids": [["a"]]}, 422),
    *[
        ({"items": [{"item_id": "n", "title": "T", "price": price}], "term_ids": [["a"]]}, 422)
        for price in (-1, "-1", "ask us", "1e999", "1" * 400, True, [], 1e13, "{x}")
    ],
    ({"items": [{"item_id": "n", "title": "T", "path": "/etc"}], "term_ids": [["a"]]}, 422),
    ({"items": []}, 422),
    ({"items": [{"item_id": f"n{n}", "title": "T"} for n in range(1001)]}, 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_ITEMS)
def test_bad_items_change_nothing(shared: Running, body: dict[str, Any], status: int) -> None:
    answer = shared.client.post("/items", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert shared.client.get("/catalog").json()["version"] == 1


def test_a_term_without_a_letter_is_named(shared: Running) -> None:
    items = [{"item_id": "n", "title": "T"}, {"item_id": "m", "title": "T"}]
    answer = shared.client.post("/items", json={"items": items, "term_ids": [["a"], ["b", "👍"]]})
    assert (answer.status_code, answer.json()["detail"]) == (422, "item 'm': the term '👍' has no letter or digit.")


@pytest.mark.parametrize(("ids", "status"), [(["gone"], 404), (["i20", "gone"], 404), ([i.item_id for i in toy_catalog()], 409), ([], 422)])
def test_bad_removals_change_nothing(shared: Running, ids: list[str], status: int) -> None:
    assert shared.client.request("DELETE", "/items", json={"item_ids": ids}).status_code == status
    assert shared.client.get("/catalog").json()["version"] == 1


LONG = Catalog([Item("a", "A"), Item("b", "B")], [("a",) * 17, ("b",)])
MANY = Catalog([Item(f"n{n}", "T") for n in range(51)], [("a", f"n{n}") for n in range(51)])
text, texts = pa.string(), pa.list_(pa.string())
POISON: dict[str, tuple[Callable[[Path], bytes], int]] = {
    "no parquet": (lambda _: b"PAR1" + b"\0" * 100 + b"PAR1", 422),
    "a pickle": (lambda _: b"\x80\x04cos\nsystem\n(S'true'\ntR.", 422),
    "cut short": (lambda p: parquet(p)[:-40], 422),
    "a bit flipped": (lambda p: (d := bytearray(parquet(p)), d.__setitem__(len(d) // 3, d[len(d) // 3] ^ 255), bytes(d))[2], 422),
    "no schema version": (lambda p: parquet(p, change=lambda t: t.replace_schema_metadata(None)), 422),
    "a newer schema": (lambda p: parquet(p, change=lambda t: t.replace_schema_metadata({b"grlm_catalog_schema": b"99"})), 422),
    "a column short": (lambda p: parquet(p, change=lambda t: t.drop_columns(["terms"])), 422),
    "numbers for ids": (lambda p: parquet(p, change=column("item_id", list(range(12)), pa.int64())), 422),
    "an id twice": (lambda p: parquet(p, change=column("item_id", ["a"], text)), 422),
    "no id": (lambda p: parquet(p, change=column("item_id", [None, *map(str, range(11))], text)), 422),
    "a long id": (lambda p: parquet(p, change=column("item_id", ["i" * 300, *map(str, range(11))], text)), 422),
    "no title": (lambda p: parquet(p, change=column("title", [None], text)), 422),
    "no brand": (lambda p: parquet(p, change=column("brand", [None], text)), 422),
    "no categories": (lambda p: parquet(p, change=column("categories", [None], texts)), 422),
    "an empty category": (lambda p: parquet(p, change=column("categories", [[None]], texts)), 422),
    "no terms": (lambda p: parquet(p, change=column("terms", [None], texts)), 422),
    "terms as written": (lambda p: parquet(p, change=column("terms", [["Not Normal"]], texts)), 422),
    "a price that is none": (lambda p: parquet(p, change=column("price", [float("nan")], pa.float64())), 422),
    "a Term ID too long": (lambda p: parquet(p, LONG), 422),
    "too many items": (lambda p: parquet(p, MANY), 422),
    "small, but large unpacked": (lambda p: parquet(p, change=column("description", ["d" * 2**20], text)), 422),
    "too large": (lambda p: parquet(p, change=column("description", [np.random.default_rng(0).bytes(2**18).hex()], text)), 413),
}


@pytest.mark.parametrize(("data", "status"), POISON.values(), ids=POISON.keys())
def test_a_poisoned_catalog_is_refused_and_the_old_one_stays(
    shared: Running, tmp_path: Path, data: Callable[[Path], bytes], status: int
) -> None:
    before = shared.client.get("/catalog").json()
    answer = upload(shared, data(tmp_path))
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert "/tmp" not in answer.text
    assert shared.client.get("/catalog").json() == before
    assert shared.client.post("/recommend", json={"history": ["i20"], "k": 12}).status_code == 200
    assert not list(shared.service.state.folder.glob(".upload-*"))


def test_the_checksum_is_needed_and_checked(shared: Running, tmp_path: Path) -> None:
    data = parquet(tmp_path)
    assert "SHA-256 is" in upload(shared, data, "0" * 64).json()["detail"]
    assert upload(shared, data, "../../etc").status_code == 422
    assert shared.client.post("/catalog/reload", content=data).status_code == 422
    assert shared.client.post("/catalog/reload").status_code == 409  # no folder was named at the start
    assert shared.client.post("/catalog/rollback").status_code == 409  # there is nothing before
    assert shared.client.get("/catalog").json()["version"] == 1


def test_another_catalog_is_served_as_if_it_had_been_there_from_the_start(tmp_path: Path) -> None:
    other = Catalog([Item("p", "P"), Item("q", "Q"), Item("r", "R", domain="d")], [("mug", "kitchen"), TERM_IDS[0], ("水", "new")])
    with running(ServeOptions(catalog=tmp_path / "catalog")) as r:
        assert r.client.post("/catalog/reload").status_code == 409  # nothing there yet
        other.save_pretrained(tmp_path / "catalog")
        said = r.client.post("/catalog/reload").json()
        assert (said["version"], said["items"], said["domains"]) == (2, 3, ["d"])
        got = r.client.post("/recommend", json={"histories": [["p"], ["q", "r"]], "k": 3}).json()
        assert got["version"] == 2
        for one, want in zip(got["results"], on(r.grlm, other).recommend([["p"], ["q", "r"]], 3), strict=True):
            same(one, want)
        (tmp_path / "catalog" / "catalog.parquet").write_bytes(b"")
        assert r.client.post("/catalog/reload").status_code == 422
        assert r.client.get("/catalog").json() == said
        assert upload(r, parquet(tmp_path)).json()["version"] == 3
        assert r.client.post("/recommend", json={"history": ["i20"], "k": 12}).json()["version"] == 3


def test_the_schema_names_every_route(shared: Running) -> None:
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert {"/recommend", "/items", "/items/{item_id}", "/catalog", "/catalog/reload", "/catalog/rollback", "/health", "/metrics"} <= {
        *paths
    }
    assert json.dumps(paths).count("Problem") > 20
