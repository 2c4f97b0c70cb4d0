"""Items and Term IDs: what is read, what is refused, how ties are ordered, and that parquet gives back the same catalog."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, toy_catalog

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item, item_features, items_to_dataset, load_items, load_term_ids
from grlm_hf.identifiers.terms import TermID
from grlm_hf.layout import CATALOG_FILE, CATALOG_SCHEMA
from grlm_hf.tables.tally import Tally


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- items -------------------------------------------------------------------------------------------------------------------------

FULL = Item("b1", "Red tent", "Hearth", ("Outdoor", "Camping", "Tents"), "Two poles, one door.", 99.5, "Outdoor")


def test_items_from_csv(tmp_path: Path) -> None:
    full = {
        "item_id": " b1 ",
        "title": "Red \n tent",
        "brand": "Hearth",
        "categories": "Outdoor >  Camping> Tents>",
        "description": "Two poles, one door.",
        "price": "99.5",
        "domain": "Outdoor",
        "colour": "red",
    }
    bare = dict.fromkeys(full, "") | {"item_id": "007", "title": "Mug"}
    assert load_items(write(tmp_path / "items.csv", [full, bare])) == [FULL, Item("007", "Mug")]


def test_items_from_jsonl(tmp_path: Path) -> None:
    rows = [
        {"item_id": 0, "title": 1984, "brand": None, "categories": None, "price": None},  # ids and titles may be numbers
        {"item_id": "b2", "title": "Mug", "categories": ["A > B", " C  D ", "", None, 5], "price": 12, "reviews": [{"stars": 5}]},
        {"item_id": "b3", "title": "Lamp", "price": " "},
    ]
    want = [Item("0", "1984"), Item("b2", "Mug", categories=("A > B", "C D", "5"), price=12.0), Item("b3", "Lamp")]
    assert load_items(write(tmp_path / "items.jsonl", rows)) == want


def test_items_from_the_table_that_is_published(tmp_path: Path) -> None:
    items = [FULL, Item("b2", "水")]
    items_to_dataset(items).to_parquet(tmp_path / "items.parquet")
    assert load_items(tmp_path / "items.parquet") == items


@pytest.mark.parametrize(("name", "first_line"), [("items.csv", 2), ("items.jsonl", 1)])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_id": "  ", "title": "T"}, "has an empty item_id"),
        ({"item_id": " b1", "title": "T"}, ": Duplicate item_id 'b1', first at {first}: item ids must be unique"),
        ({"item_id": "b2", "title": " \t"}, ": item 'b2' has an empty title. Give it one, or"),
    ],
)
def test_items_refused(tmp_path: Path, name: str, first_line: int, row: dict[str, str], message: str) -> None:
    path = write(tmp_path / name, [dict.fromkeys(row, "") | {"item_id": "b1", "title": "T"}, row])
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        load_items(path)
    assert str(raised.value).startswith(f"{path}:{first_line + 1}")
    assert message.format(first=f"{path}:{first_line}") in str(raised.value)


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
@pytest.mark.parametrize(("column", "missing"), [("title", "item_id"), ("item_id", "title")])
def test_a_missing_item_column_is_named(tmp_path: Path, name: str, column: str, missing: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}(:1)? has no column '{missing}'; found \['{column}'\]"):
        load_items(write(tmp_path / name, [{column: "x"}]), "fill")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"price": [1]}, "price [1] is not a number"),
        ({"price": {"eur": 1}}, "price {'eur': 1} is not a number"),
        ({"categories": {"a": "b"}}, "categories must be a list of strings or a path 'A > B > C'; found {'a': 'b'}"),
        ({"categories": [["a", "b"]]}, "categories must be a list of strings"),
        ({"categories": 7}, "categories must be a list of strings"),
    ],
)
def test_typed_values_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "items.jsonl", [{"item_id": "b1", "title": "T"}, {"item_id": "b2", "title": "T", **more}])
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        load_items(path)
    assert str(raised.value).startswith(f"{path}:2: ")
    assert message in str(raised.value)


def test_no_items(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n")
    with pytest.raises(ValueError, match=r"items\.csv holds no items"):
        load_items(tmp_path / "items.csv")
    with pytest.raises(ValueError, match="missing_title is 'guess'; expected 'error' or 'fill'"):
        load_items(tmp_path / "items.csv", "guess")


def test_missing_titles_are_filled_on_request(tmp_path: Path) -> None:
    rows = [
        {"item_id": "b1", "title": "", "brand": "Hearth", "categories": ["Outdoor", "Tents"]},
        {"item_id": "b2", "title": None, "brand": "Hearth"},
        {"item_id": "b3", "title": " ", "categories": ["Outdoor", "Tents"]},
        {"item_id": "b4", "title": ""},
        {"item_id": "b5", "title": "Kept", "brand": "Hearth"},
    ]
    titles = [i.title for i in load_items(write(tmp_path / "items.jsonl", rows), "fill")]
    assert titles == ["Hearth Tents", "Hearth", "Tents", "b4", "Kept"]


def test_the_items_table_has_an_items_columns() -> None:
    assert list(item_features()) == [f.name for f in fields(Item)]
    table = items_to_dataset([FULL, Item("b2", "Mug")])
    assert table.features == item_features()
    assert table[0] == {f.name: list(v) if isinstance(v, tuple) else v for f, v in zip(fields(Item), astuple(FULL), strict=True)}
    assert table[1] == {"item_id": "b2", "title": "Mug", "brand": "", "categories": [], "description": "", "price": None, "domain": ""}


# --- Term IDs ----------------------------------------------------------------------------------------------------------------------


def test_term_ids_from_jsonl_and_csv(tmp_path: Path) -> None:
    want = {"0": ("tent", "long-lasting"), "b2": ("mug",)}
    rows = [{"item_id": 0, "terms": ["Tent", " Long  lasting"]}, {"item_id": " b2", "terms": ["mug."]}]
    assert load_term_ids(write(tmp_path / "t.jsonl", rows)) == want
    rows = [{"item_id": "0", "terms": "Tent, long lasting"}, {"item_id": "b2", "terms": " [mug]"}]
    assert load_term_ids(write(tmp_path / "t.csv", rows)) == want


def test_term_ids_of_a_catalog_table(tmp_path: Path) -> None:
    toy_catalog().to_dataset().select_columns(["item_id", "terms"]).to_parquet(tmp_path / "t.parquet")
    assert list(load_term_ids(tmp_path / "t.parquet").values()) == TERM_IDS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"terms": ["a"]}, "{path}:2 needs `item_id` and a list `terms`"),
        ({"item_id": "", "terms": ["a"]}, "{path}:2 needs `item_id`"),
        ({"item_id": "b2"}, "{path}:2 needs `item_id` and a list `terms`; found"),
        ({"item_id": "b2", "terms": []}, "{path}:2 needs"),
        ({"item_id": "b2", "terms": 5}, "{path}:2 needs"),
        ({"item_id": "b2", "terms": ["a", "?!"]}, "{path}:2: item 'b2' has a term without a letter or digit: ['a', '?!']"),
        ({"item_id": "b2", "terms": ""}, "{path}:2: item 'b2' has a term without a letter"),
        ({"item_id": "b1", "terms": ["b"]}, "{path}:2: item_id 'b1' has two rows"),
    ],
)
def test_term_ids_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "t.jsonl", [{"item_id": "b1", "terms": ["a"]}, row])
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        load_term_ids(path)
    assert message.format(path=path) in str(raised.value)


# --- the catalog -------------------------------------------------------------------------------------------------------------------

tids = st.sampled_from([("a",), ("a", "b"), ("b", "a"), ("c", "d", "水")])
catalogs = st.lists(st.tuples(st.text(min_size=1, max_size=3), tids), min_size=1, max_size=12, unique_by=lambda row: row[0]).map(
    lambda rows: Catalog([Item(item_id, f"Title of {item_id}") for item_id, _ in rows], [tid for _, tid in rows])
)


@given(catalogs)
def test_items_and_identifiers(catalog: Catalog) -> None:
    ids = [i.item_id for i in catalog]
    assert len(catalog) == len(ids) == len(catalog.items)
    assert [catalog.position(i) for i in ids] == list(range(len(ids)))
    assert [catalog[i].item_id for i in ids] == ids
    assert [catalog.term_id(i) for i in ids] == list(catalog.term_ids)
    assert all(i in catalog for i in ids)
    assert catalog.identifiers == tuple(dict.fromkeys(catalog.term_ids))  # in the order in which items first carry them


@given(catalogs)
def test_items_of_an_identifier_stand_in_ascending_order_of_id(catalog: Catalog) -> None:
    for tid in catalog.identifiers:
        carriers = sorted(i.item_id for i in catalog if catalog.term_id(i.item_id) == tid)
        assert [i.item_id for i in catalog.items_of(tid)] == carriers
        assert [catalog.items[p].item_id for p in catalog.positions_of(tid)] == carriers
        assert catalog.positions_of(list(tid)) == catalog.positions_of(tid)  # type: ignore[arg-type]  # as parquet gives it
    assert sorted(p for tid in catalog.identifiers for p in catalog.positions_of(tid)) == list(range(len(catalog)))
    assert {tid: len(group) for tid, group in catalog.collisions.items()} == {
        tid: n for tid in catalog.identifiers if (n := catalog.term_ids.count(tid)) > 1
    }
    assert all(group == catalog.items_of(tid) for tid, group in catalog.collisions.items())


def test_the_tie_order_is_that_of_strings() -> None:
    catalog = Catalog([Item(i, "T") for i in ("i9", "i10", "B", "a", "i1")], [("x",)] * 5)
    assert [i.item_id for i in catalog.items_of(("x",))] == ["B", "a", "i1", "i10", "i9"]
    assert catalog.positions_of(("x",)) == (2, 3, 4, 1, 0)


def test_unknown_names() -> None:
    catalog = toy_catalog()
    assert catalog.positions_of(("nothing",)) == ()
    assert catalog.items_of(TERM_IDS[0][:3]) == ()  # a prefix is no identifier
    assert "nope" not in catalog
    assert None not in catalog
    for ask in (catalog.position, catalog.term_id, catalog.__getitem__):
        with pytest.raises(ValueError, match=r"Item 'nope' is not in the catalog of 12 items \(ids look like 'i20', 'i19', 'i18'\)"):
            ask("nope")
    with pytest.raises(ValueError, match="is not in the catalog"):
        catalog.position(["i20"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "term_ids", "message"),
    [
        ([], [], "at least one item; found none"),
        ([Item("a", "A")], [], "Found 1 items and 0 Term IDs"),
        ([Item("a", "A")], [("x",), ("y",)], "Found 1 items and 2 Term IDs"),
        ([Item("a", "A"), Item("b", "B"), Item("a", "C")], [("x",)] * 3, "Duplicate item_id 'a'"),
        ([Item("a", "A"), Item("b", "")], [("x",)] * 2, "Item 1 needs a non-empty item_id and title"),
        ([Item("", "A")], [("x",)], "Item 0 needs a non-empty item_id and title"),
        ([Item("a", "A")], [()], "needs one or more terms; found 0"),
        ([Item("a", "A")], [("Red Wine",)], "'Red Wine' in .* is not a normalised term; expected 'red-wine'"),
        ([Item("a", "A")], ["red"], "Found the text 'red'; expected a tuple of terms"),
    ],
)
def test_what_is_no_catalog(items: list[Item], term_ids: list[TermID], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Catalog(items, term_ids)


@given(catalogs, st.data())
def test_add_and_remove(catalog: Catalog, data: st.DataObject) -> None:
    before = (catalog.items, catalog.term_ids, catalog.identifiers)
    new = [Item("new item 1", "N"), Item("new item 2", "N")]
    longer = catalog.add(new, [("a",), ("quite", "new")])
    assert longer.items == catalog.items + tuple(new)
    assert longer.identifiers[: len(catalog.identifiers)] == catalog.identifiers
    assert longer.remove(i.item_id for i in new) == catalog
    gone = data.draw(st.sets(st.sampled_from([i.item_id for i in catalog]), max_size=len(catalog) - 1))
    shorter = catalog.remove(gone)
    assert [i for i in catalog if i.item_id not in gone] == list(shorter)
    assert all(shorter.term_id(i.item_id) == catalog.term_id(i.item_id) for i in shorter)
    assert (catalog.items, catalog.term_ids, catalog.identifiers) == before


def test_add_and_remove_refuse() -> None:
    catalog = toy_catalog()
    with pytest.raises(ValueError, match="item_id 'i20' is in the catalog already"):
        catalog.add([Item("i20", "again")], [("a",)])
    with pytest.raises(ValueError, match="Found 1 items and 0 Term IDs"):
        catalog.add([Item("new", "N")], [])
    with pytest.raises(ValueError, match="Item 'nope' is not in the catalog"):
        catalog.remove(["i20", "nope"])
    with pytest.raises(ValueError, match="at least one item"):
        catalog.remove([i.item_id for i in catalog])


def test_equality() -> None:
    assert toy_catalog() == toy_catalog()
    assert toy_catalog() != toy_catalog().remove(["i20"])
    assert toy_catalog() != Catalog(toy_catalog().items, [*TERM_IDS[:-1], ("other",)])
    assert toy_catalog() != "catalog"
    with pytest.raises(TypeError, match="unhashable"):
        hash(toy_catalog())
    assert repr(toy_catalog()) == "Catalog(12 items, 11 Term IDs, 1 shared)"


# --- on disk -----------------------------------------------------------------------------------------------------------------------

text = st.text(max_size=8)
prices = st.none() | st.floats(0, allow_infinity=False)
full_items = st.builds(
    Item, st.just(""), text.filter(bool), text, st.lists(text, max_size=3).map(tuple), text, prices, st.sampled_from(["", "水"])
)


@settings(max_examples=40, deadline=None)
@given(catalogs, st.data())
def test_parquet_gives_back_the_same_catalog(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog, data: st.DataObject) -> None:
    rest = [data.draw(full_items) for _ in catalog]
    items = [Item(a.item_id, *astuple(b)[1:]) for a, b in zip(catalog, rest, strict=True)]
    catalog = Catalog(items, catalog.term_ids)
    folder = tmp_path_factory.getbasetemp() / "round"
    path = catalog.save_pretrained(folder)
    assert path == folder / CATALOG_FILE
    for place in (folder, str(folder), path):
        assert Catalog.from_pretrained(place) == catalog


def test_the_file_states_its_schema_and_its_columns(tmp_path: Path) -> None:
    schema = pq.read_schema(toy_catalog().save_pretrained(tmp_path))
    assert schema.names == [*item_features(), "terms"]
    assert schema.metadata[b"grlm_catalog_schema"] == str(CATALOG_SCHEMA).encode()


def test_saving_leaves_the_rest_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    toy_catalog().save_pretrained(tmp_path)
    toy_catalog().remove(["i20"]).save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CATALOG_FILE, "notes.txt"]
    assert len(Catalog.from_pretrained(tmp_path)) == 11


def restated(path: Path, **metadata: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({k: v.encode() for k, v in metadata.items()}), path)


def test_a_catalog_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    restated(path, grlm_catalog_schema=str(CATALOG_SCHEMA + 1))
    with pytest.raises(ValueError, match=f"has catalog schema {CATALOG_SCHEMA + 1}; .* reads up to {CATALOG_SCHEMA}. Upgrade: pip install"):
        Catalog.from_pretrained(tmp_path)


@pytest.mark.parametrize("metadata", [{}, {"grlm_catalog_schema": "one"}, {"grlm_catalog_schema": ""}])
def test_a_file_that_states_no_version_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    restated(path, **metadata)
    with pytest.raises(ValueError, match="states no catalog schema version"):
        Catalog.from_pretrained(path)


@pytest.mark.parametrize("column", ["terms", "item_id", "price"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(ValueError, match=rf"lacks the catalog columns \['{column}'\]"):
        Catalog.from_pretrained(path)


def test_further_columns_are_ignored(tmp_path: Path) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    pq.write_table(pq.read_table(path).append_column("embedding", pa.array([[0.5]] * 12)), path)
    assert Catalog.from_pretrained(path) == toy_catalog()


def test_a_catalog_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 101):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"catalog\.parquet is not a readable parquet file"):
            Catalog.from_pretrained(tmp_path)


def test_a_damaged_catalog_names_its_file(tmp_path: Path) -> None:
    path = toy_catalog().save_pretrained(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[4:60] = bytes(56)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"catalog\.parquet is not a readable parquet file"):
        Catalog.from_pretrained(tmp_path)


def test_a_folder_without_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No catalog\.parquet in .*: it holds no catalog"):
        Catalog.from_pretrained(tmp_path)


@pytest.mark.parametrize("price", ["much", "on request", "N/A", "-1", -1, "inf", 10**400, float("-inf")])
def test_what_is_no_price_is_left_empty_and_counted(tmp_path: Path, price: Any) -> None:
    rows = [{"item_id": "a", "title": "T", "price": price}, {"item_id": "b", "title": "U", "price": "3.50"}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tally = Tally()
    found = load_items(tmp_path / "items.jsonl", tally=tally)
    assert [item.price for item in found] == [None, 3.5]
    (line,) = tally.lines()
    assert re.search(r"1 of 2 items .*have a price that is .*left empty", line), line
