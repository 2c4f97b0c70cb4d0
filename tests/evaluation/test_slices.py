from __future__ import annotations

import random
from dataclasses import astuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.metrics import bootstrap, per_case
from grlm_hf.evaluation.slices import METRICS, popularity_cuts, sliced

CATALOG = Catalog([Item(f"i{n}", "T") for n in range(30)], [(f"t{n}",) for n in range(30)])


def test_each_case_is_in_the_slice_of_its_kind() -> None:
    rng = random.Random(0)
    counts = {f"i{n}": rng.choice([0, 1, 2, 3, 5, 9, 40]) for n in range(30)}
    cases = [Case(f"u{n % 50}", ("i0",) * rng.randint(1, 25), f"i{rng.randrange(30)}") for n in range(200)]
    hits = {name: per_case(np.array([rng.choice([0, 0, 1, 4, 15]) for _ in cases])) for name in ("a", "b")}
    found = sliced(hits, cases, CATALOG, counts, resamples=20, seed=1)
    assert list(found) == ["history length", "target popularity", "target"]

    def within(label: str, value: int) -> bool:
        low, _, high = label.partition("–")
        return value >= int(label[:-1]) if label.endswith("+") else int(low) <= value <= int(high or low)

    kinds = {
        "history length": lambda c, label: within(label, len(c.history)),
        "target popularity": lambda c, label: within(label, counts[c.target]),
        "target": lambda c, label: (counts[c.target] == 0) == (label == "cold"),
    }
    for grouping, parts in found.items():
        assert sum(part.cases for part in parts.values()) == len(cases)
        for label, part in parts.items():
            at = [n for n, c in enumerate(cases) if kinds[grouping](c, label)]
            assert part.cases == len(at) > 0
            for name in hits:
                own = bootstrap({m: hits[name][m][at] for m in METRICS}, [cases[n].user_id for n in at], 20, 1)
                for metric in METRICS:
                    assert np.allclose(astuple(part.methods[name][metric]), astuple(own[metric]), rtol=1e-5, atol=1e-12)
    assert list(sliced(hits, cases, CATALOG, None, resamples=5)) == ["history length"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_equal_counts_are_never_parted_and_distinct_ones_fall_into_tenths(values: list[int]) -> None:
    counts = np.array(values)
    cuts = popularity_cuts(counts)
    assert cuts[0] == counts.min()
    assert (np.diff(cuts) > 0).all()
    assert len(cuts) <= 10
    assert set(cuts) <= set(values)
    if len(set(values)) == len(values) and len(values) >= 10:
        sizes = np.bincount(np.searchsorted(cuts, counts, side="right") - 1)
        assert sizes.max() - sizes.min() <= 1
