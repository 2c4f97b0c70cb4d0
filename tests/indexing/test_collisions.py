"""Collisions found and undone: against a double loop, and as properties of random catalogs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item, load_items, load_term_ids
from grlm_hf.identifiers.terms import TermID, normalise
from grlm_hf.indexing.collisions import RESOLVERS, attributes, collision_report, collisions, resolve, resolve_new
from grlm_hf.indexing.words import words

TID = ("nail-polish", "gel", "opi")
BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"


def polish(item_id: str, title: str, **more: str) -> Item:
    return Item(item_id, title, **more)


catalogs = st.lists(
    st.tuples(
        st.lists(st.sampled_from(("red", "blue", "matte", "the", "705", "polish", "gel")), max_size=4).map(" ".join),
        st.sampled_from((TID, ("nail-polish", "gel", "red"), ("nail-polish", "gel", "blue"), ("soap",))),
    ),
    min_size=1,
    max_size=9,
).map(lambda rows: ([Item(f"{n * 7 % 10}", title) for n, (title, _) in enumerate(rows)], [term_id for _, term_id in rows]))


@given(st.lists(st.sampled_from("abc").map(lambda term: (term,)), max_size=8))
def test_collisions_are_the_pairs_of_equal_identifiers(term_ids: list[TermID]) -> None:
    groups = collisions(term_ids)
    pairs = {(i, j) for group in groups for i in group for j in group if i < j}
    assert pairs == {(i, j) for i in range(len(term_ids)) for j in range(i + 1, len(term_ids)) if term_ids[i] == term_ids[j]}
    assert groups == sorted(groups)
    assert all(list(group) == sorted(set(group)) for group in groups)


hows = st.sampled_from(RESOLVERS)


@given(catalogs, hows)
@settings(max_examples=400, deadline=None)
def test_resolve_only_ever_separates(catalog: tuple[list[Item], list[TermID]], how: str) -> None:
    items, before = catalog
    after = resolve(items, before, how=how)
    everyone = range(len(items))
    assert all(before[i] == before[j] for i in everyone for j in everyone if after[i] == after[j])  # never a new collision
    for at in everyone:
        group = [other for other in everyone if before[other] == before[at]]
        keeps = {other for other in group if after[other] == before[other]}
        assert keeps  # so one that was alone stays as it was
        if after[at] != before[at]:
            *kept, word = after[at]
            assert tuple(kept) == (before[at] if how == "append" else before[at][:-1])
            assert len(set(after[at])) == len(after[at])
            assert word in {*words(items[at].title), *attributes(items[at])}
            assert normalise(word) == word != "the"
            assert after[at] not in before
            assert any(word not in words(items[other].title) for other in group)
        for other in group:  # what is the same in text stays together
            if items[other].title == items[at].title:
                assert after[other] == after[at]
    assert how != "rank" or after == before


@given(catalogs, hows, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_items_plays_no_part(catalog: tuple[list[Item], list[TermID]], how: str, random) -> None:
    items, before = catalog
    order = random.sample(range(len(items)), len(items))
    after = resolve(items, before, how=how)
    assert resolve([items[at] for at in order], [before[at] for at in order], how=how) == [after[at] for at in order]


@given(catalogs)
@settings(max_examples=100, deadline=None)
def test_resolving_again_changes_no_more_than_what_still_collides(catalog: tuple[list[Item], list[TermID]]) -> None:
    items, before = catalog
    after = resolve(items, before)
    again = resolve(items, after)
    alone = set(range(len(items))) - {at for group in collisions(after) for at in group}
    assert all(again[at] == after[at] for at in alone)


@given(catalogs, catalogs, hows, st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_items_that_join_a_catalog_give_way_to_it(old, new, how: str, resolved: bool, random) -> None:
    old_items, old_ids = old
    catalog = Catalog([Item(item.item_id, item.title or "-") for item in old_items], resolve(*old, how=how) if resolved else old_ids)
    items, before = [Item(f"new-{item.item_id}", item.title) for item in new[0]], new[1]
    after = resolve_new(catalog, items, before, how=how)

    order = random.sample(range(len(items)), len(items))
    assert resolve_new(catalog, [items[at] for at in order], [before[at] for at in order], how=how) == [after[at] for at in order]
    assert how != "rank" or after == before
    mine = catalog.add(items, after) if all(item.title for item in items) else None
    assert mine is None or mine.term_ids[: len(catalog)] == catalog.term_ids
    for at, item in enumerate(items):
        if after[at] != before[at]:
            assert not catalog.positions_of(after[at])  # only ever something free
            assert after[at] not in before
            assert len(set(after[at])) == len(after[at])
            assert len(after[at]) == len(before[at]) + (how == "append")
            assert catalog.positions_of(before[at]) or before.count(before[at]) > 1
        elif catalog.positions_of(after[at]) and how != "rank":  # it shares with an old one: its text has nothing that helps
            others = [*catalog.items_of(before[at]), *(items[i] for i in range(len(items)) if before[i] == before[at])]
            texts = {frozenset((*words(other.title), *attributes(other))) - {"the"} for other in others}
            for word in {*words(item.title), *attributes(item)} - {"the", *before[at]}:
                changed = (*before[at], word) if how == "append" else (*before[at][:-1], word)
                assert all(word in text for text in texts) or catalog.positions_of(changed) or changed in {*before, *after}


def test_a_new_item_shares_an_old_identifier_only_where_its_text_offers_nothing() -> None:
    catalog = Catalog([polish("b", "Coral Matte")], [TID])
    new = [polish("a", "Coral Matte"), polish("c", "Matte")]
    assert [resolve_new(catalog, [item], [TID]) for item in new] == [[TID], [TID]]
    assert resolve_new(catalog, [polish("a", "Ruby Matte")], [TID]) == [(*TID[:2], "ruby")]  # though its id comes first
    shared = Catalog([polish("b", "Coral"), polish("d", "Ruby Matte")], [TID, TID])
    assert resolve_new(shared, [polish("a", "Ruby Matte")], [TID]) == [(*TID[:2], "ruby")]
    assert catalog.term_ids + shared.term_ids == (TID,) * 3
    with pytest.raises(ValueError, match="1 items are in the catalog already, such as 'b'"):
        resolve_new(catalog, [polish("b", "Coral")], [TID])


def test_one_that_has_nothing_of_its_own_keeps_the_identifier() -> None:
    items = [polish("a", "Mascara Black Brown"), polish("b", "Mascara Black")]
    assert resolve(items, [TID, TID]) == [(*TID[:2], "brown"), TID]
    assert resolve(items[:1], [TID]) == [TID]


def test_attributes() -> None:
    item = polish(
        "a", 'Tee, Navy Blue/red, X-Large, 8.4 Fl. Oz, 1 7/8" wide, 16 ounces, 3-Pack, Pack of 6, SPF 30, 2 in 1', brand="OPI Inc."
    )
    assert attributes(item) == [
        *("navy-blue", "red", "8.4-ounce", "1-7/8-inch", "16-ounce", "x-large", "pack-of-3", "pack-of-6", "spf-30", "opi")
    ]
    assert attributes(polish("a", "", description="500ML")) == ["500-ml"]
    assert attributes(polish("a", "Redness blues 316/316L 22oza")) == []


def test_ways_to_tell_apart() -> None:
    items = [polish("a", "Polish"), polish("b", "Polish Glossy 8 Ounces Navy Blue", brand="Essie")]
    found = {how: resolve(items, [TID, TID], how=how) for how in RESOLVERS}
    assert all(first == TID for first, _ in found.values())
    assert [second[-1] for _, second in found.values()] == ["glossy", "navy-blue", "glossy", "opi"]
    assert found["append"][1] == (*TID, "glossy")
    assert resolve([items[0], polish("c", "Polish Glossy")], [TID, TID], how="attribute")[1][-1] == "glossy"  # no attribute: a word
    noise = [polish("a", "Plate"), polish("b", "Plate " + "1" * 10_000 + " " + "x" * 10_000)]
    assert resolve(noise, [TID, TID]) == [TID, TID]  # no term of ten thousand letters
    plates = [polish("a", "Plate (C)"), polish("b", "Plate (B)")]
    assert resolve(plates, [TID, TID])[1][-1] == "b"


@given(catalogs)
@settings(max_examples=100, deadline=None)
def test_the_report_counts_what_is_shared(catalog: tuple[list[Item], list[TermID]]) -> None:
    items, term_ids = catalog
    report = collision_report(items, term_ids)
    shared = [item for item, term_id in zip(items, term_ids, strict=True) if term_ids.count(term_id) > 1]
    assert {item for _, group in report.groups for item in group} == set(shared)
    assert report.n_shared == len(shared) == sum(size * n for size, n in report.sizes.items())
    assert report.share == len(shared) / len(items)
    assert all([i.item_id for i in group] == sorted(i.item_id for i in group) for _, group in report.groups)
    assert [len(group) for _, group in report.groups] == sorted((len(group) for _, group in report.groups), reverse=True)
    backwards = collision_report(items[::-1], term_ids[::-1])
    assert backwards == report


def test_a_word_that_the_others_lack_takes_the_last_place() -> None:
    items = [polish("b", "OPI Gel Polish Ruby"), polish("a", "OPI Gel Polish Coral"), polish("c", "OPI Gel Polish Coral Matte")]
    assert resolve(items, [TID] * 3) == [("nail-polish", "gel", "ruby"), TID, ("nail-polish", "gel", "matte")]


def test_title_before_brand_before_description_and_words_before_packaging_before_numbers() -> None:
    keeper = polish("a", "Polish")
    full = polish("b", "705 Set of Polish Coral", brand="Essie", description="Glossy")
    chosen: list[str] = []
    taken: list[TermID] = []
    for n in range(6):  # each time, what was chosen before is another item's
        items = [keeper, full, *(polish(f"z{i}", "") for i in range(n))]
        last = resolve(items, [TID, TID, *taken])[1]
        chosen.append(last[-1])
        taken.append(last)
    assert chosen == ["coral", "essie", "glossy", "set", "705", "opi"]


def test_numbers_are_told_with_their_unit() -> None:
    items = [polish("a", "Remover 4 oz"), polish("b", "Remover 16 oz")]
    assert resolve(items, [TID, TID])[1][-1] == "16-oz"


def test_an_identifier_that_another_item_has_is_never_taken() -> None:
    items = [polish("a", "Polish"), polish("b", "Ruby Matte Polish"), polish("c", "other")]
    found = resolve(items, [TID, TID, (*TID[:2], "ruby")])
    assert found == [TID, (*TID[:2], "matte"), (*TID[:2], "ruby")]


def test_the_same_words_stay_together_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    items = [polish("1", "Red"), polish("2", "Blue"), polish("3", "Blue"), polish("4", "Red")]
    with caplog.at_level(logging.DEBUG, logger="grlm_hf"):
        found = resolve(items, [TID] * 4)
    assert found == [TID, (*TID[:2], "blue"), (*TID[:2], "blue"), TID]
    assert "4 of 4 before, 4 after" in caplog.text


def test_candidates_replace_the_words_of_the_text() -> None:
    items = [polish("a", "Same"), polish("b", "Same")]
    assert resolve(items, [TID, TID]) == [TID, TID]
    assert resolve(items, [TID, TID], candidates=[["gel"], ["gel", "", "Long Lasting"]])[1] == (*TID[:2], "long-lasting")


@given(catalogs, hows, st.sets(st.sampled_from(("red", "blue", "matte", "705", "gel"))))
@settings(max_examples=100, deadline=None)
def test_no_term_comes_in_that_is_not_allowed(catalog: tuple[list[Item], list[TermID]], how: str, allowed: set[str]) -> None:
    items, term_ids = catalog
    found = resolve(items, term_ids, how=how, allowed=allowed)
    before = Counter(term_ids)
    for old, new in zip(term_ids, found, strict=True):
        assert set(new) - set(old) <= allowed
        assert new == old or before[old] > 1
    everything = {word for item in items for word in (*words(item.title), *attributes(item))}  # an attribute may be two words: matte-red
    assert resolve(items, term_ids, how=how, allowed=everything) == resolve(items, term_ids, how=how)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="1 items, 2 Term IDs"):
        resolve([polish("a", "x")], [TID, TID])
    with pytest.raises(ValueError, match="2 candidates"):
        resolve([polish("a", "x")], [TID], [[], []])
    with pytest.raises(ValueError, match="'a'"):
        resolve([polish("a", "x"), polish("a", "y")], [TID, TID])
    with pytest.raises(ValueError, match="how is 'best'; expected one of 'term', 'attribute', 'append', 'rank'"):
        resolve([polish("a", "x")], [TID], how="best")
    with pytest.raises(ValueError, match="1 items, 2 Term IDs"):
        collision_report([polish("a", "x")], [TID, TID])
    with pytest.raises(ValueError, match="'b' has an empty Term ID"):
        resolve([polish("a", "x"), polish("b", "y")], [TID, ()])


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")
@pytest.mark.parametrize("how", ["term", "attribute", "append"])
def test_on_the_official_term_ids_of_beauty(how: str) -> None:
    items = load_items(BEAUTY / "items.jsonl.gz", missing_title="fill")
    given = load_term_ids(BEAUTY / "term_ids_official.jsonl.gz")
    before = [given[item.item_id] for item in items]
    assert collision_report(items, before).n_shared == 441
    after = resolve(items, before, how=how)
    report = collision_report(items, after)
    assert report.share < 0.002
    assert all(len(set(b)) - len(b) == len(set(a)) - len(a) for a, b in zip(after, before, strict=True))  # ten had a term twice before
    catalog = Catalog(items[:-600], after[:-600])
    new = resolve_new(catalog, items[-600:], before[-600:], how=how)
    assert sum(bool(catalog.positions_of(term_id)) for term_id in new) <= 2
