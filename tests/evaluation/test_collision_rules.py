"""Hits under the three rules, against every order of the items that share a Term ID."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from toys import random_catalog, random_history

from grlm_hf import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.collisions import RULES, by_rule
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.metrics import DEPTH, per_case, ranks
from grlm_hf.evaluation.rankings import Rankings
from grlm_hf.identifiers.terms import TermID


def expanded(order: list[TermID], catalog: Catalog, gone: set[str]) -> list[list[str]]:
    """Term IDs, best first, as the items that carry them, without those that are gone."""
    return [[i.item_id for i in catalog.items_of(tid) if i.item_id not in gone] for tid in order]


@pytest.mark.parametrize("seen_kept", [True, False])
def test_rules_by_brute_force_over_all_orders(seen_kept: bool) -> None:
    rng = random.Random(3)
    shared = cut = 0
    for n_case in range(150):
        catalog = random_catalog(rng, 40)
        while n_case % 3 and not catalog.collisions:
            catalog = random_catalog(rng, 40)
        history = random_history(rng, catalog)
        target = rng.choice(rng.choice(list(catalog.collisions.values())) if n_case % 3 else catalog.items).item_id
        case = Case("u", tuple(history), target)
        order = rng.sample(catalog.identifiers, len(catalog.identifiers))
        if n_case % 3 == 2:  # about where the list ends
            order.remove(catalog.term_id(target))
            before = [len(g) for g in expanded(order, catalog, set() if seen_kept else set(history))]
            order.insert(next((n for n in range(len(order)) if sum(before[:n]) >= DEPTH - 1), 0), catalog.term_id(target))
        groups = expanded(order, catalog, set() if seen_kept else set(history))
        ranking = [item for group in groups for item in group][:DEPTH]
        got = by_rule(Rankings([ranking], by_term_id=True), [case], [catalog], seen_kept)
        assert tuple(got) == RULES

        mates = {i.item_id for i in catalog.items_of(catalog.term_id(target))}
        at = next(n for n, tid in enumerate(order) if tid == catalog.term_id(target))
        assert len(groups[at]) <= 6
        before, after = ([item for group in some for item in group] for some in (groups[:at], groups[at + 1 :]))
        every = [[*before, *some, *after][:DEPTH] for some in itertools.permutations(groups[at])]
        shared += len(groups[at]) > 1
        cut += 0 < len(mates & set(ranking)) < len(groups[at])
        over_all = per_case(ranks(every, [target] * len(every)))
        means = {name: value.mean() for name, value in over_all.items()}
        nearest = min((n for n, item in enumerate(ranking, 1) if item in mates), default=0)
        for name, value in got["first"].items():
            assert value[0] == per_case(ranks([ranking], [target]))[name][0]
            assert got["expected"][name][0] == pytest.approx(means[name], abs=1e-12)
            assert got["any"][name][0] == per_case(np.array([nearest]))[name][0]
    assert shared > 30
    assert cut > 10  # the end of the list parts the group


def test_a_target_outside_what_may_be_recommended_is_never_hit() -> None:
    catalog = random_catalog(random.Random(1))
    other = Catalog(catalog.items[:3], catalog.term_ids[:3])
    ranking = [i.item_id for i in other]
    (missing,) = [i.item_id for i in catalog][3:4]
    got = by_rule(Rankings([ranking]), [Case("u", ("x",), missing)], [other], True)
    assert all(value[0] == 0 for rule in RULES for value in got[rule].values())


def test_only_methods_by_term_id_are_in_the_block() -> None:
    rng = random.Random(5)
    catalog = random_catalog(rng)
    while not catalog.collisions:
        catalog = random_catalog(rng)
    ids = [i.item_id for i in catalog]
    cases = [Case(f"u{n}", (ids[0],), item) for n, item in enumerate(ids)]

    def by_terms(histories: list[tuple[str, ...]]) -> Rankings:
        return Rankings([[i.item_id for tid in catalog.identifiers for i in catalog.items_of(tid)][:DEPTH]] * len(histories), None, True)

    setup = Setup("toy", "all", "kept", resamples=10)
    report = evaluate({"t": by_terms, "i": lambda h: Rankings([ids[:DEPTH]] * len(h))}, cases, catalog, setup)
    assert set(report.collisions) == set(RULES)
    for rule in RULES:
        assert list(report.collisions[rule]) == ["t"]
    first, expected, any_ = (report.collisions[rule]["t"] for rule in RULES)
    assert first == {name: report.methods["t"][name] for name in first}
    assert expected["mrr"].value < any_["mrr"].value
    plain = Catalog(catalog.items, [(f"a{n}",) for n in range(len(catalog))])
    assert not evaluate({"t": lambda h: Rankings([ids[:9]] * len(h), None, True)}, cases, plain, setup).collisions
