"""The deletion test of the benchmarks: areas by brute force, and that explanations beat chance."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import brute_force, random_grlm, some_histories, toy_catalog, toy_grlm

from grlm_hf.data.interactions import Case

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "quality" / "deletion.py"
SPEC = importlib.util.spec_from_file_location("deletion", PROGRAM)
assert SPEC
assert SPEC.loader
MODULE = sys.modules["deletion"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
deletion_test = MODULE.deletion_test
IDS = [i.item_id for i in toy_catalog()]
CASES = [Case(f"u{n}", tuple(h), "") for n, h in enumerate(some_histories(4))]


def areas(grlm, history: tuple[str, ...], item: str, order: list[int]) -> float:
    """Mean fall over 1, 2, … deletions in this order, by plain forwards."""
    tid = grlm.catalog.term_ids[grlm.catalog.position(item)]
    full = brute_force(grlm, list(history))[tid]
    falls = [full - brute_force(grlm, [h for i, h in enumerate(history) if i not in order[:n]])[tid] for n in range(1, len(history))]
    return sum(falls) / len(falls)


def test_deletion_areas_equal_brute_force() -> None:
    grlm = toy_grlm("trie")
    cases = [c for c in CASES if len(c.history) > 1][:3]
    found = deletion_test(grlm, CASES[: CASES.index(cases[-1]) + 1], exclude_seen=False, resamples=10)
    assert found.cases == found.users == len(cases)
    want = []
    for case in cases:
        item = grlm.recommend(case.history, 1)[0].item_id
        drops = [h.drop for h in grlm.explain(case.history, item).history]
        want.append(areas(grlm, case.history, item, sorted(range(len(drops)), key=lambda i: -drops[i])))
    assert found.attributed.value == pytest.approx(np.mean(want), abs=1e-4)
    assert found.difference.value == pytest.approx(found.attributed.value - found.random.value)
    assert found.attributed.low <= found.attributed.value <= found.attributed.high
    assert found == deletion_test(grlm, cases, exclude_seen=False, resamples=10)


def test_deleting_what_matters_costs_more_than_chance() -> None:
    found = deletion_test(toy_grlm("trie", seed=1), CASES[::2], resamples=200)
    assert found.difference.low > 0


def test_nothing_to_delete() -> None:
    with pytest.raises(ValueError, match="Found 0 cases with two items or more"):
        deletion_test(toy_grlm(), [Case("u", (IDS[0],), "")])
    only = random_grlm(random.Random(0), "trie", most=1)  # a catalog of one item
    with pytest.raises(ValueError, match="all items are seen"):
        deletion_test(only, [Case("u", ("i0", "i0"), "")])
