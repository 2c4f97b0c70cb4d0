"""The view of the beams against brute force: its probabilities, what became of each identifier, and that it shows the real search."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_toys import space_grlm
from toys import brute_force, close, toy_catalog

from grlm_hf.decoding.rules import Rules, SearchOptions
from grlm_hf.identifiers.terms import TermID
from grlm_hf.space.trie_view import FATES, Branch, Reached, tree, walk

HISTORY = ["i20", "i15", "i9"]
PROBLEMS = [
    Rules(), Rules(banned_terms=["red"]), Rules(exclude_seen=True), Rules(prior={"i20": 50.0, "i9": 0.0}, banned_terms=["lamp"]),
]  # fmt: skip


@pytest.mark.parametrize("objective", ["trie", "vocabulary"])
@pytest.mark.parametrize("rules", PROBLEMS)
@pytest.mark.parametrize("beams", [1, 3, 11])
def test_it_shows_the_search_that_recommends(objective: str, rules: Rules, beams: int) -> None:
    grlm = space_grlm(objective=objective)
    reached = walk(grlm, HISTORY, beams, rules)
    found = {r.terms: r.log_prob for r in reached if r.complete and r.fate == "found"}
    ranked = grlm.recommend(HISTORY, min(beams, 5), search=SearchOptions(beams, edge_wise=True), rules=rules)
    assert ranked or not found
    for r in ranked:
        assert close(found[r.term_id], r.log_prob)


@pytest.mark.parametrize("objective", ["trie", "vocabulary"])
def test_probabilities_are_those_of_brute_force(objective: str) -> None:
    grlm = space_grlm(objective=objective)
    exact = brute_force(grlm, HISTORY)
    for beams in (1, 2, 4):
        reached = walk(grlm, HISTORY, beams, Rules())
        total = sum(math.exp(r.log_prob) for r in reached)
        assert close(total, 1.0) if objective == "trie" else 0 < total <= 1 + 1e-6
        for r in reached:
            below = [math.exp(p) for tid, p in exact.items() if tid[: len(r.terms)] == r.terms]
            if r.complete and objective == "trie":
                assert close(r.log_prob, exact[r.terms], 1e-3)
            assert math.exp(r.log_prob) <= (sum(below) + 1e-6 if objective == "trie" else 1)
    everything = walk(grlm, HISTORY, len(exact), Rules())  # no beam is given up
    assert {r.terms for r in everything} == set(exact)
    assert all(r.complete and r.fate == "found" and close(r.log_prob, exact[r.terms], 1e-3) for r in everything)


def test_what_is_banned_is_ruled_out_and_nothing_else() -> None:
    grlm = space_grlm()
    reached = walk(grlm, HISTORY, 11, Rules(banned_terms=["steel"]))
    banned = {tid for tid in grlm.catalog.identifiers if "steel" in tid}
    ruled_out = [r for r in reached if r.fate == "ruled out"]
    assert ruled_out
    for r in ruled_out:
        assert {tid for tid in grlm.catalog.identifiers if tid[: len(r.terms)] == r.terms} & banned
    assert {r.terms for r in reached if r.fate == "found"} == set(grlm.catalog.identifiers) - banned
    assert close(sum(math.exp(r.log_prob) for r in reached), 1.0)


# --- the tree --------------------------------------------------------------------------------------------------------------------------

term_ids = st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=4).map(tuple), min_size=1, max_size=12, unique=True)


def prefixes(branch: Branch, start: TermID = ()) -> list[tuple[TermID, Branch]]:
    """Each branch with the terms up to its end."""
    here = start + branch.label
    return [(here, branch), *(one for child in branch.children for one in prefixes(child, here))]


@settings(deadline=None, max_examples=200)
@given(term_ids, st.data())
def test_tree_sums_what_was_reached(paths: list[TermID], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 1), min_size=len(paths), max_size=len(paths)))
    reached = []
    for path, weight in zip(paths, weights, strict=True):
        complete = data.draw(st.booleans())
        fate = data.draw(st.sampled_from(["found", "ruled out"] if complete else ["given up", "ruled out"]))
        reached.append(Reached(path, math.log(weight), complete, fate))
    possible = [r.terms for r in reached if r.fate == "found"]
    recommended = possible[: data.draw(st.integers(0, len(possible)))]
    mass: dict[TermID, float] = defaultdict(float)
    for r in reached:
        for n in range(len(r.terms) + 1):
            mass[r.terms[:n]] += math.exp(r.log_prob)
    root = tree(reached, recommended, dead_ends=100)
    for path, branch in prefixes(root):
        assert close(branch.probability, mass[path], 1e-9)
        below = [r for r in reached if r.terms[: len(path)] == path]
        assert (branch.fate == "kept") == any(r.terms in recommended for r in below)
        assert branch.fate in FATES
        assert branch.place == (recommended.index(path) + 1 if path in recommended else 0)
    shown = [path for path, branch in prefixes(root) if branch.place]
    assert sorted(shown) == sorted(recommended)  # each recommendation stands in the tree, once
    few = tree(reached, recommended, dead_ends=1)
    for path, branch in prefixes(few):
        assert sum(child.fate != "kept" for child in branch.children) <= 1
        if branch.fate == "kept":
            own = sum(math.exp(r.log_prob) for r in reached if r.complete and r.terms == path)
            assert close(own + sum(c.probability for c in branch.children) + branch.others_probability, branch.probability, 1e-9)


def test_forced_terms_stand_in_one_box() -> None:
    grlm = space_grlm()
    best = grlm.recommend(HISTORY, 3, num_beams=11, edge_wise=True)
    root = tree(walk(grlm, HISTORY, 11, Rules()), [r.term_id for r in best])
    for path, branch in prefixes(root):
        follow = {tid[len(path)] for tid in toy_catalog().identifiers if tid[: len(path)] == path and len(tid) > len(path)}
        assert len(follow) != 1 or branch.fate != "kept" or branch.place
