"""Items come and go while others read: every answer is that of one version of the catalog."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, brute_force, close, toy_catalog, toy_grlm, toy_model, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.identifiers.terms import TermID

WORDS = ["tent", "stove", "lamp", "mug", "steel", "red"]
tids = st.tuples(*[st.sampled_from(WORDS)] * 2, st.sampled_from(["led", "gas"])).map(lambda t: tuple(dict.fromkeys(t)))


def same_index(got: SearchIndex, want: SearchIndex) -> None:
    assert got.catalog == want.catalog
    assert got.catalog.identifiers == want.catalog.identifiers
    assert {t: got.catalog.positions_of(t) for t in got.catalog.identifiers} == {
        t: want.catalog.positions_of(t) for t in want.catalog.identifiers
    }
    assert [p.tolist() for p in got.paths] == [p.tolist() for p in want.paths]
    for name in ("tokens", "start", "shared", "leaf", "border"):
        assert np.array_equal(getattr(got.trie, name), getattr(want.trie, name))


@settings(max_examples=40, deadline=None)
@given(st.lists(tids, min_size=1, max_size=8), st.lists(st.tuples(st.sampled_from("aru"), st.integers(0, 99), tids), max_size=12))
def test_any_series_of_changes_equals_building_anew(first: list[TermID], changes: list[tuple[str, int, TermID]]) -> None:
    tokenizer = toy_tokenizer()
    catalog = Catalog([Item(f"i{n}", f"T {n}") for n in range(len(first))], first)
    index = SearchIndex.build(catalog, tokenizer)
    for n, (kind, which, tid) in enumerate(changes):
        ids = [i.item_id for i in catalog]
        if kind == "a":
            catalog = catalog.add([Item(f"n{n}", f"New {n}"), Item(f"m{n}", f"Other {n}")], [tid, ("mug", tid[0])])
        elif kind == "r" and len(ids) > 1:
            catalog = catalog.remove([ids[which % len(ids)]])
        elif kind == "u":
            catalog = catalog.update([Item(ids[which % len(ids)], "Changed")], [tid])
        index = index.updated(catalog, tokenizer)
        same_index(index, SearchIndex.build(Catalog(catalog.items, catalog.term_ids), tokenizer))
    assert index.version == len(changes)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_new_items_are_recommended_at_once_and_gone_ones_no_more(objective: str) -> None:
    grlm = toy_grlm(objective)
    before = {r.item_id for r in grlm.recommend(["i20"], 12)}
    assert grlm.add_items([Item("new", "New lamp"), Item("twin", "Twin tent")], [("lamp", "camping", "gas"), TERM_IDS[0]]) == 1
    answer = grlm.recommend(["i20", "new"], 14)  # a new item in the history, too
    assert {r.item_id for r in answer} == before | {"new", "twin"}
    assert answer.version == grlm.version == 1
    scores = brute_force(grlm, ["i20", "new"])
    assert all(close(r.score, scores[r.term_id]) for r in answer)
    assert grlm.remove_items(["i20", "new"]) == 2
    assert {r.item_id for r in grlm.recommend(["i19"], 12)} == before - {"i20"} | {"twin"}
    assert grlm.update_items([Item("twin", "Renamed")], [("mug", "led", "small")]) == 3
    (found,) = [r for r in grlm.recommend(["i19"], 12) if r.item_id == "twin"]
    assert (found.title, found.term_id) == ("Renamed", ("mug", "led", "small"))


def test_terms_of_new_items_come_from_their_text_in_the_catalogs_words() -> None:
    grlm = toy_grlm()
    vocabulary = len(grlm.tokenizer)
    grlm.add_items([Item("new", "Camping tent", description="light camping tent for two")])
    assert "tent" in grlm.catalog.term_id("new")
    assert len(grlm.tokenizer) == vocabulary
    assert "new" in {r.item_id for r in grlm.recommend(["i20"], 13)}


def test_a_refused_change_changes_nothing() -> None:
    grlm = toy_grlm()
    for change, message in (
        (lambda: grlm.add_items([Item("i20", "Again")], [("mug",)]), "is in the catalog already"),
        (lambda: grlm.add_items([Item("new", "New")], [("Not Normal!",)]), "normal"),
        (lambda: grlm.add_items([Item("new", "New")], [("mug",), ("tent",)]), "1 items and 2 Term IDs"),
        (lambda: grlm.remove_items(["nope"]), "'nope' is not in the catalog"),
        (lambda: grlm.remove_items([i.item_id for i in grlm.catalog]), "none would be left"),
        (lambda: grlm.update_items([Item("nope", "No")]), "'nope' is not in the catalog"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
    assert grlm.version == 0
    assert grlm.catalog == toy_catalog()


def test_a_changed_catalog_is_saved_with_its_trie(tmp_path: object) -> None:
    grlm = toy_grlm()
    grlm.add_items([Item("new", "New lamp")], [("lamp", "camping", "gas")])
    grlm.remove_items(["i20"])
    grlm.save_pretrained(f"{tmp_path}/checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(f"{tmp_path}/checkpoint")
    assert [r.item_id for r in loaded.recommend(["new"], 12)] == [r.item_id for r in grlm.recommend(["new"], 12)]


def test_a_thousand_changes_under_eight_readers() -> None:
    """Each version's answers are known from its catalog alone: no wrong, missing, or mixed answer may be seen."""
    tokenizer = toy_tokenizer()
    rng = random.Random(0)
    fixed = [("tent", "camping", "light"), ("stove", "kitchen", "gas")]
    catalog = Catalog([Item("a", "A"), Item("b", "B")], fixed)
    grlm = GRLMForRecommendation(toy_model(), tokenizer, catalog)
    # The scores under the vocabulary objective do not depend on the catalog: one table for all versions.
    pool = [tuple(dict.fromkeys(rng.choices(WORDS, k=3))) for _ in range(40)]
    everything = Catalog([Item("a", "A"), Item("b", "B"), *(Item(f"p{i}", "P") for i in range(40))], [*fixed, *pool])
    table = brute_force(GRLMForRecommendation(toy_model(), tokenizer, everything), ["a"])
    versions: dict[int, frozenset[str]] = {0: frozenset("ab")}
    stop, wrong, read = threading.Event(), [], [0] * 8
    todo = threading.Lock()

    def reader(n: int) -> None:
        last = -1
        while not stop.is_set() or read[n] == 0:
            answer = grlm.recommend(["a"], 2, exact=True)
            while answer.version not in versions:  # the writer notes a version just after it is out
                time.sleep(0.0001)
            present = versions[answer.version]
            scores = sorted((table[everything.term_id(i)] for i in present), reverse=True)[:2]
            ok = {r.item_id for r in answer} <= present and len(answer) == 2 and answer.certified and answer.version >= last
            if not ok or not all(close(r.score, s) for r, s in zip(answer, scores, strict=True)):
                wrong.append((answer.version, list(answer), scores))
            last = answer.version
            read[n] += 1

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    present = {"a", "b"}
    for _ in range(1000):
        which = rng.randrange(40)
        item_id = f"p{which}"
        with todo:
            if item_id in present:
                present = present - {item_id}
                version = grlm.remove_items([item_id])
            else:
                present = present | {item_id}
                version = grlm.add_items([Item(item_id, "P")], [pool[which]])
            versions[version] = frozenset(present)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert grlm.version == 1000
    assert min(read) > 0


@pytest.mark.parametrize("history", ["term_ids", "both", "titles"])
def test_a_change_that_the_model_has_no_room_for_is_refused_and_changes_nothing(history: str) -> None:
    grlm = toy_grlm(history=history)
    limit = grlm.model.config.max_position_embeddings = grlm.trie.depth + 90
    words = tuple(f"word-{n}" for n in range(limit))
    with pytest.raises(ValueError, match=rf"the model takes {limit} in all"):
        grlm.add_items([Item("long", "Long")], [words])
    if history != "term_ids":
        with pytest.raises(ValueError, match=rf"the model takes {limit} in all"):
            grlm.add_items([Item("long", "Œ" * 190)], [("tent", "new")])
    with pytest.raises(ValueError, match=rf"the model takes {limit} in all"):
        grlm.update_items([grlm.catalog["i20"]], [words])
    assert grlm.version == 0
    assert len(grlm.recommend(["i20"], 3)) == 3
    assert grlm.add_items([Item("short", "Short")], [("tent", "new")]) == 1
