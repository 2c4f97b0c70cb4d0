"""The quality of Semantic IDs and other identifiers that are no words, against brute force; several sets side by side; the files."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_codes import ITEMS, SMALL, made
from test_quality import items_of, neighbors_of

from grlm_hf import Catalog
from grlm_hf.identifiers.symbols import ATOMIC, code
from grlm_hf.identifiers.titles import TITLES
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.index_file import write_index
from grlm_hf.indexing.neighbors import find_neighbors
from grlm_hf.indexing.quality.measure import compare, measure
from grlm_hf.indexing.quality.report import markdown_table, save_quality, text_table
from grlm_hf.indexing.quality.symbols import adjusted_rand, measure_symbols, stability
from grlm_hf.publishing.cards import quality_section
from grlm_hf.recipe import QualityConfig
from grlm_hf.stages import make_quality
from grlm_hf.stages.codes import atomic_catalog, titles_catalog

CODE_SETS = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=3), min_size=1, max_size=15)


def named(rows: list[list[int]]) -> list[tuple[str, ...]]:
    return [tuple(code(level, number) for level, number in enumerate(row)) for row in rows]


@given(CODE_SETS)
def test_collisions_levels_and_prefixes(rows: list[list[int]]) -> None:
    report = measure_symbols(items_of(len(rows)), named(rows))
    groups = Counter(map(tuple, rows))
    shared = report["collisions"]
    assert shared["rate"] == pytest.approx((len(rows) - len(groups)) / len(rows))
    assert shared["items"] == sum(n for n in groups.values() if n > 1)
    assert shared["largest"] == max(groups.values())
    longest = max(map(len, rows))
    assert report["prefixes"] == [len({tuple(row[:n]) for row in rows}) for n in range(1, longest + 1)]
    for at, level in enumerate(report["levels"]):
        uses = Counter(row[at] for row in rows if len(row) > at)
        every = [uses[number] for number in range(max(uses) + 1)]
        bits = -sum(n / uses.total() * math.log2(n / uses.total()) for n in uses.values())
        gini = sum(abs(a - b) for a in every for b in every) / (2 * len(every) * sum(every))
        assert (level["used"], level["of"], level["dead"]) == (len(uses), len(every), every.count(0))
        assert level["perplexity"] == pytest.approx(2**bits)
        assert level["gini"] == pytest.approx(gini)


@given(CODE_SETS, st.integers(1, 3), st.integers(0, 99))
def test_agreement_and_the_order_of_items(rows: list[list[int]], k: int, seed: int) -> None:
    items = items_of(len(rows))
    near = neighbors_of(items, k, seed)
    report = measure_symbols(items, named(rows), near, behaviour=near)
    pairs = [(a, b) for a in range(len(rows)) for b in near.of(a)]
    if not pairs:
        assert report["agreement"] is None
        assert report["behaviour"] is None
        return
    found = report["agreement"]
    longest = max(map(len, rows))
    same = [sum(len(rows[a]) >= n and rows[a][:n] == rows[b][:n] for a, b in pairs) / len(pairs) for n in range(1, longest + 1)]
    assert found["same"] == pytest.approx(same)
    assert report["behaviour"]["same"] == found["same"]
    shuffled = random.Random(seed).sample(range(len(rows)), len(rows))
    place = {old: new for new, old in enumerate(shuffled)}
    indices = np.array([[-1 if i < 0 else place[i] for i in near.indices[old]] for old in shuffled], np.int32).reshape(near.indices.shape)
    again = type(near)(tuple(items[i].item_id for i in shuffled), indices, near.scores[shuffled])
    other = measure_symbols([items[i] for i in shuffled], [named(rows)[i] for i in shuffled], again, behaviour=again)
    assert json.dumps(other) == json.dumps(report)


def test_random_items_agree_as_chance_says() -> None:
    rows = [[n % 10, n % 7] for n in range(700)]
    report = measure_symbols(items := items_of(100), named(rows[:100]), neighbors_of(items, 3, 0))
    assert report["agreement"]["random"][0] == pytest.approx(0.1, abs=0.05)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
def test_adjusted_rand(pairs: list[tuple[int, int]]) -> None:
    a, b = map(np.array, zip(*pairs, strict=True))
    both = [(a[i] == a[j], b[i] == b[j]) for i, j in itertools.combinations(range(len(a)), 2)]
    together, in_a, in_b = sum(x and y for x, y in both), sum(x for x, _ in both), sum(y for _, y in both)
    chance, most = in_a * in_b / len(both), (in_a + in_b) / 2
    assert adjusted_rand(a, b) == pytest.approx(1.0 if most == chance else (together - chance) / (most - chance))
    assert adjusted_rand(a, a) == 1.0


def test_a_codebook_states_sizes_and_what_it_leaves_of_a_vector() -> None:
    catalog = made()
    report = measure_symbols(ITEMS, catalog.item_identifiers, find_neighbors(ITEMS), codebook=catalog.codebook)
    assert [level["of"] for level in report["levels"][:3]] == [8, 8, 8]
    first, *_, last = report["reconstruction"]
    assert 0 <= last < first < 1
    assert report["agreement"]["same"][0] > report["agreement"]["random"][0] + 0.3
    chance = made(CodesConfig(quantizer="random", codes=[8], levels=3))
    control = measure_symbols(ITEMS, chance.item_identifiers, find_neighbors(ITEMS), codebook=chance.codebook)
    assert control["reconstruction"] is None
    assert control["agreement"]["same"][0] == pytest.approx(control["agreement"]["random"][0], abs=0.08)


def test_parts_of_a_vector_have_one_figure() -> None:
    catalog = made(CodesConfig(quantizer="opq", codes=[8], levels=3, dims=15))
    (left,) = measure_symbols(ITEMS, catalog.item_identifiers, codebook=catalog.codebook)["reconstruction"]
    assert 0 < left < 1


def test_stability_of_two_seeds_and_none_across_settings() -> None:
    sets: dict[str, Any] = {}
    for name, config in {"a": SMALL, "b": CodesConfig(codes=[8], dims=16, seed=1), "c": CodesConfig(codes=[16], dims=16)}.items():
        catalog = made(config)
        sets[name] = (catalog.item_identifiers, catalog.codebook)
    (pair,) = stability(sets)
    assert pair["sets"] == ["a", "b"]
    assert 0.1 < pair["same"][0] <= 1
    (equal,) = stability({"a": sets["a"], "again": sets["a"]})
    assert set(equal["same"]) == {1.0}


@pytest.mark.parametrize("kind", ["atomic", "titles"])
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    catalog, scheme = (atomic_catalog, titles_catalog)[kind == "titles"](ITEMS)[0], {"atomic": ATOMIC, "titles": TITLES}[kind]
    report = measure_symbols(ITEMS, catalog.item_identifiers, find_neighbors(ITEMS), scheme=scheme)
    assert (report["levels"], report["noun"]) == ([], scheme.noun)
    assert report["collisions"]["distinct"] == len(ITEMS)
    save_quality(compare({"a": report}), tmp_path / "quality")
    assert scheme.noun in (tmp_path / "quality" / "quality.md").read_text()


def test_unequal_input_is_refused() -> None:
    with pytest.raises(ValueError, match="Found 2 items and 1 Semantic IDs"):
        measure_symbols(items_of(2), [("a_1",)])
    with pytest.raises(ValueError, match=r"The Semantic ID of item .* expected a list of texts, one per part"):
        measure_symbols(items_of(1), ["<a_1>"])  # type: ignore[list-item]


def test_sets_of_several_kinds_side_by_side(tmp_path: Path) -> None:
    near = find_neighbors(ITEMS)
    words = measure(ITEMS, [tuple(item.title.split()) for item in ITEMS], near)
    codes = measure_symbols(ITEMS, made().item_identifiers, near)
    found = compare({"words": words, "codes": codes})
    save_quality(found, tmp_path)
    assert json.loads((tmp_path / "quality.json").read_text()) == found
    table = {line.split(" | ")[0].lstrip("| "): line for line in markdown_table(found).splitlines()}
    assert table["distinct identifiers"].endswith(" 120 |")
    assert "–" in table["terms an item"]
    assert "–" in table["perplexity by level"]
    assert "Term ID" not in text_table(found)
    assert quality_section(found) == markdown_table(found)
    assert (tmp_path / "quality.png").stat().st_size > 10_000


def test_the_stage_compares_catalogs_and_files(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        made(CodesConfig(codes=[8], dims=16, seed=seed), ITEMS if seed else ITEMS[::-1]).save_pretrained(tmp_path / name / "catalog")
    write_index(Catalog.from_pretrained(tmp_path / "two" / "catalog"), tmp_path / "two.index.json")
    three = [tmp_path / "two" / "catalog", tmp_path / "two.index.json"]
    found = make_quality(tmp_path / "one" / "catalog", tmp_path / "quality", name="", more=three)
    assert list(found["sets"]) == ["one/catalog", "two/catalog", f"{tmp_path.name}/two.index.json"]
    first, *_, both = [pair["same"][0] for pair in found["stability"]]
    assert (0.1 < first < 1, both) == (True, 1.0)
    alone = make_quality(tmp_path / "two.index.json", tmp_path / "file")["sets"]["ours"]
    assert alone["agreement"] is None
    assert alone["levels"][0]["used"] == 8
    with pytest.raises(ValueError, match=r"needs|No catalog folder"):
        make_quality(tmp_path / "nowhere", tmp_path / "file")
    made(items=ITEMS[:60]).save_pretrained(tmp_path / "fewer")
    with pytest.raises(ValueError, match="catalog of 60 items without 60 of the 120 measured ones"):
        make_quality(tmp_path / "one" / "catalog", tmp_path / "other", QualityConfig(compare=str(tmp_path / "fewer")))
