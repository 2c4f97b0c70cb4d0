"""Collisions found and undone: against a double loop, and as properties of random catalogs."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.catalog import Item
from grlm_hf.identifiers.collisions import collisions, resolve
from grlm_hf.identifiers.extract import words
from grlm_hf.identifiers.terms import TermID, normalise

TID = ("nail-polish", "gel", "opi")


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


@given(catalogs)
@settings(max_examples=300, deadline=None)
def test_resolve_only_ever_separates(catalog: tuple[list[Item], list[TermID]]) -> None:
    items, before = catalog
    after = resolve(items, before)
    everyone = range(len(items))
    assert all(before[i] == before[j] for i in everyone for j in everyone if after[i] == after[j])  # never a new collision
    for at in everyone:
        group = [other for other in everyone if before[other] == before[at]]
        if at == min(group, key=lambda other: items[other].item_id):  # alone, or the first of its group
            assert after[at] == before[at]
        if after[at] != before[at]:
            assert after[at][:-1] == before[at][:-1]
            assert len(set(after[at])) == len(after[at])
            assert after[at][-1] in words(items[at].title)
            assert normalise(after[at][-1]) == after[at][-1] != "the"
            assert after[at] not in before
            assert any(after[at][-1] not in words(items[other].title) for other in group)
        for other in group:  # what is the same in text stays together
            if items[other].title == items[at].title:
                assert after[other] == after[at]


@given(catalogs, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_items_plays_no_part(catalog: tuple[list[Item], list[TermID]], random) -> None:
    items, before = catalog
    order = random.sample(range(len(items)), len(items))
    after = resolve(items, before)
    assert resolve([items[at] for at in order], [before[at] for at in order]) == [after[at] for at in order]


@given(catalogs)
@settings(max_examples=100, deadline=None)
def test_resolving_again_changes_no_more_than_what_still_collides(catalog: tuple[list[Item], list[TermID]]) -> None:
    items, before = catalog
    after = resolve(items, before)
    again = resolve(items, after)
    alone = set(range(len(items))) - {at for group in collisions(after) for at in group}
    assert all(again[at] == after[at] for at in alone)


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
    with caplog.at_level(logging.INFO, logger="grlm_hf"):
        found = resolve(items, [TID] * 4)
    assert found == [TID, (*TID[:2], "blue"), (*TID[:2], "blue"), TID]
    assert "4 of 4 before, 4 after" in caplog.text


def test_candidates_replace_the_words_of_the_text() -> None:
    items = [polish("a", "Same"), polish("b", "Same")]
    assert resolve(items, [TID, TID]) == [TID, TID]
    assert resolve(items, [TID, TID], candidates=[["gel"], ["gel", "", "Long Lasting"]])[1] == (*TID[:2], "long-lasting")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="1 items, 2 Term IDs"):
        resolve([polish("a", "x")], [TID, TID])
    with pytest.raises(ValueError, match="2 candidates"):
        resolve([polish("a", "x")], [TID], [[], []])
    with pytest.raises(ValueError, match="'a'"):
        resolve([polish("a", "x"), polish("a", "y")], [TID, TID])
    with pytest.raises(ValueError, match="'b' has an empty Term ID"):
        resolve([polish("a", "x"), polish("b", "y")], [TID, ()])
