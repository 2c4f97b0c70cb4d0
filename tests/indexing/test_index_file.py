"""Files of codes as others publish them: what is read, what is written, and what each fault is called."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grlm_hf import Catalog, Item
from grlm_hf.identifiers.symbols import CODES
from grlm_hf.indexing import index_file
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.index_file import is_index, read_index, write_index
from grlm_hf.recipe import IdentifierConfig, Recipe
from grlm_hf.stages.codes import given_codes
from grlm_hf.stages.identify import make_identifiers
from grlm_hf.stages.quality import make_quality

CODED = {"0": ["<a_12>", "<b_3>"], "1": ["<a_12>", "<b_4>"], "2": ["<a_0>", "<b_3>", "<c_1>"], "3": ["<a_0>", "<b_3>", "<c_0>"]}
IDS = ["B07", "A 1,5", "z", "B08"]
ITEMS = [Item(item_id, f"Title {item_id}") for item_id in IDS]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "Shop.index.json"
    path.write_text(json.dumps(CODED))
    return path


def test_keys_are_item_ids_or_numbers_of_a_mapping(index: Path, tmp_path: Path) -> None:
    assert read_index(index)["2"] == ("a_0", "b_3", "c_1")
    assert list(read_index(index, [Item("3", "x"), Item("0", "y")]).items()) == [("3", ("a_0", "b_3", "c_0")), ("0", ("a_12", "b_3"))]
    mapping = tmp_path / "numbers.tsv"
    mapping.write_text("item\tnumber\n" + "".join(f"{i}\t{n}\n" for n, i in enumerate(IDS)))
    expected = {item_id: tuple(c[1:-1] for c in CODED[str(n)]) for n, item_id in enumerate(IDS)}
    assert read_index(index, ITEMS, mapping) == expected
    mapping.rename(tmp_path / "Shop.item2id")
    assert read_index(index, ITEMS) == expected  # found beside it
    zipped = tmp_path / "Shop.index.json.gz"
    zipped.write_bytes(gzip.compress(index.read_bytes()))
    assert read_index(zipped, ITEMS) == expected


@pytest.mark.parametrize("name", ["out.index.json", "out.tsv"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    catalog = Catalog(ITEMS, [tuple(c[1:-1] for c in codes) for codes in CODED.values()], CODES)
    write_index(catalog, tmp_path / name)
    assert is_index(tmp_path / name)
    assert list(read_index(tmp_path / name, ITEMS).values()) == list(catalog.item_identifiers)
    if name.endswith(".json"):
        assert json.loads((tmp_path / name).read_text()) == CODED
        assert (tmp_path / "out.item2id").read_text() == "B07\t0\nA 1,5\t1\nz\t2\nB08\t3\n"
    else:
        assert (tmp_path / name).read_text().splitlines()[1] == "B07\t<a_12> <b_3>"


def test_only_codes_are_written_and_only_under_known_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The catalog has Term IDs; an index file holds codes"):
        write_index(Catalog(ITEMS[:1], [("red", "tent", "big")]), tmp_path / "a.index.json")
    with pytest.raises(ValueError, match=r"expected one that ends with \.index\.json or \.tsv"):
        write_index(Catalog(ITEMS[:1], [("a_1",)], CODES), tmp_path / "a.txt")
    (tmp_path / "terms.tsv").write_text("item_id\tterms\na\tred\n")
    assert not is_index(tmp_path / "terms.tsv")


FAULTS: list[tuple[Any, str]] = [
    ({"0": "<a_1><b_2>"}, r"item '0' has its codes in one text, '<a_1><b_2>'; expected one by one"),
    ({"0": ["<a_1><b_2>"]}, r"item '0' has its codes in one text"),
    ({"0": []}, r"item '0' has '\[\]'; expected a list of 1 to 26 codes"),
    ({"0": 7}, r"item '0' has '7'; expected a list"),
    ({"0": ["<a_1>", "<a_2>"]}, r"item '0' has '<a_2>' as code 2; expected one of level b, such as <b_12>"),
    ({"0": ["<s_a_1>"]}, r"has '<s_a_1>' as code 1; expected one of level a"),
    ({"0": ["<a_01>"]}, r"item '0': .* is not a Semantic ID"),
    ({"0": [1, 2]}, r"has '1' as code 1"),
    ({"0": ["<x.a_1>", "<y.b_1>"]}, r"is not a Semantic ID"),
    ({"0": ["<a_1>"], "1": ["<a_1>", "<b_2>", "<c_3>"]}, r"item '0' has 1 codes and '1' 3; expected as many for each, or one more"),
    ({}, r"holds no item"),
    (["<a_1>"], r"holds a JSON list; expected an object"),
    (3, r"holds a JSON int; expected an object"),
]


@pytest.mark.parametrize(("content", "said"), FAULTS)
def test_faults_of_an_index(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        read_index(path)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.index.json"
    with pytest.raises(ValueError, match="missing"):
        read_index(path)
    write: list[tuple[Callable[[], Any], str]] = [
        (lambda: path.write_text('{"0": ["<a_1>"'), "is no readable JSON"),
        (lambda: path.write_text("[" * 100_000), "is no readable JSON"),
        (lambda: path.write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
        (lambda: path.write_text('{"0": ["<a_1>"], "0": ["<a_2>"]}'), "has the item '0' twice"),
    ]
    for make, said in write:
        make()
        with pytest.raises(ValueError, match=said):
            read_index(path)
    monkeypatch.setattr(index_file, "MOST", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_index(path)
    broken = tmp_path / "b.index.json.gz"
    broken.write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(ValueError, match="cannot be read"):
        read_index(broken)


def test_an_index_of_other_items_names_them(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codes of 4 items, whose keys look like '0', '1', '2'; 4 of the 4 items here .* such as \['B07'"):
        read_index(index, ITEMS)
    for text, said in {
        "B07\t0\nB07\t1\n": "has the item 'B07' again",
        "B07\t0\nz\t0\n": "has the number 0 for several items",
        "B07\t0\nz\tone\n": ":2 holds",
        "B07\t0\n": r"3 of the 4 items here are not among them, such as \['A 1,5'",
    }.items():
        (tmp_path / "map").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_index(index, ITEMS, tmp_path / "map")


def test_codes_of_a_file_in_place_of_a_quantiser(index: Path, tmp_path: Path) -> None:
    (tmp_path / "Shop.item2id").write_text("".join(f"{i}\t{n}\n" for n, i in enumerate(IDS)))
    catalog, facts = given_codes(ITEMS, CodesConfig(file=str(index)))
    assert catalog.codebook is None
    assert catalog.identifier("z") == ("a_0", "b_3", "c_1")
    assert (facts["file"], facts["levels"], facts["items_with_a_digit"]) == ("Shop.index.json", 2, 2)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.jsonl").write_text("".join(json.dumps({"item_id": i, "title": f"Title {i}"}) + "\n" for i in IDS))
    recipe = Recipe(identifier=IdentifierConfig(kind="codes", codes=CodesConfig(file=str(index))))
    made = make_identifiers(tmp_path / "data", tmp_path / "catalog", recipe)
    assert made.item_identifiers == catalog.item_identifiers
    assert Catalog.from_pretrained(tmp_path / "catalog") == made


def test_figures_of_a_published_file(tmp_path: Path) -> None:
    rows = {str(n): [f"<a_{n % 4}>", f"<b_{n % 3}>", f"<c_{n // 20}>"] for n in range(100)}
    (tmp_path / "Toy.index.json").write_text(json.dumps(rows))
    report = make_quality(tmp_path / "Toy.index.json", tmp_path / "quality")["sets"]["ours"]
    distinct = len({tuple(codes) for codes in rows.values()})
    assert report["collisions"]["rate"] == pytest.approx(1 - distinct / 100)
    assert [level["used"] for level in report["levels"]] == [4, 3, 5]
    assert report["levels"][0]["perplexity"] == pytest.approx(4)
    assert report["levels"][0]["gini"] == pytest.approx(0)
    assert report["prefixes"] == [4, 12, distinct]


def test_a_file_of_codes_is_for_codes_only() -> None:
    with pytest.raises(ValueError, match=r"'a\.index\.json' and identifier\.kind 'pieces'; expected the kind codes"):
        IdentifierConfig(kind="pieces", codes=CodesConfig(file="a.index.json"))
