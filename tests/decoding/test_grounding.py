from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TERM_IDS, toy_catalog

from grlm_hf.decoding.grounding import Grounder
from grlm_hf.identifiers.terms import TermID

CATALOG = toy_catalog()
GROUNDERS = {form: Grounder(CATALOG, form) for form in ("paper", "code")}


def by_hand(terms: TermID, tid: TermID, form: str) -> float:
    total = score = 0.0
    for place, term in enumerate(terms):
        weight = 1 / (place + 1)
        total += weight
        if form == "paper":
            score += weight * (place < len(tid) and tid[place] == term)
        else:
            score += weight * max(1.0 if w == term else 0.8 if w in term or term in w else 0.0 for w in tid)
    return score / total


words = st.sampled_from([*sorted({t for tid in TERM_IDS for t in tid}), "camp", "steel-pan", "zzz"])


@given(st.lists(words, min_size=1, max_size=6).map(tuple), st.sampled_from(["paper", "code"]))
def test_goes_to_the_greatest_overlap_and_the_first_of_equals(terms: TermID, form: str) -> None:
    grounded = GROUNDERS[form].ground(terms)
    overlaps = [by_hand(terms, tid, form) for tid in CATALOG.identifiers]
    best = max(overlaps)
    if terms in CATALOG.identifiers:
        assert grounded is not None
        assert grounded.exact
        assert grounded.term_id == terms
    elif best == 0:
        assert grounded is None
    else:
        assert grounded is not None
        assert not grounded.exact
        assert grounded.overlap == pytest.approx(best)
        assert by_hand(terms, grounded.term_id, form) == pytest.approx(best)
        assert grounded.items == CATALOG.items_of(grounded.term_id)


def test_a_shared_identifier_names_its_items_in_tie_order() -> None:
    grounded = GROUNDERS["paper"].ground(TERM_IDS[6])
    assert grounded is not None
    assert [i.item_id for i in grounded.items] == ["i13", "i14"]


def test_the_two_forms_differ_where_they_should() -> None:
    moved = ("camping", "tent", "light", "two", "green")  # two terms have changed places
    assert GROUNDERS["paper"].ground(moved).overlap == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5))
    assert GROUNDERS["code"].ground(moved).overlap == pytest.approx(1.0)


def test_refuses_an_unknown_form() -> None:
    with pytest.raises(ValueError, match="'paper'"):
        Grounder(CATALOG, "fuzzy")
