"""Duplicates and k-core against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from common.events import k_core, without_duplicates
from hypothesis import given
from hypothesis import strategies as st

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=60)


def columns(events: list[tuple[int, int, int]]) -> list[np.ndarray]:
    return [np.array([e[n] for e in events], kind) for n, kind in enumerate((np.int32, np.int32, np.int64))]


@given(EVENTS, st.integers(0, 5))
def test_k_core_is_the_largest_fixed_point(events: list[tuple[int, int, int]], k: int) -> None:
    users, items, _ = columns(events)
    left = list(range(len(events)))
    while True:  # remove one offender at a time: another order, the same end
        of_user, of_item = Counter(events[n][0] for n in left), Counter(events[n][1] for n in left)
        bad = [n for n in left if of_user[events[n][0]] < k or of_item[events[n][1]] < k]
        if not bad:
            break
        left.remove(bad[-1])
    assert np.flatnonzero(k_core(users, items, k)).tolist() == left


@given(EVENTS, st.sampled_from(["first", "exact", "keep"]))
def test_duplicates(events: list[tuple[int, int, int]], duplicates: str) -> None:
    stays = np.flatnonzero(without_duplicates(*columns(events), duplicates)).tolist()
    best: dict[tuple, tuple] = {}
    for n, (user, item, time) in enumerate(events):
        key = {"first": (user, item), "exact": (user, item, time), "keep": (n,)}[duplicates]
        best[key] = min(best.get(key, (time, n)), (time, n))
    assert stays == sorted(n for _, n in best.values())


@given(EVENTS, st.integers(1, 4), st.sets(st.integers(0, 5)))
def test_core_of_a_part_lies_in_the_core_of_all(events: list[tuple[int, int, int]], k: int, known: set[int]) -> None:
    """Why the metadata need be read only for the items of the first core."""
    users, items, _ = columns(events)
    part = np.isin(items, sorted(known))
    direct = np.flatnonzero(part)[k_core(users[part], items[part], k)]
    both = k_core(users, items, k) & part
    assert np.flatnonzero(both)[k_core(users[both], items[both], k)].tolist() == direct.tolist()


@pytest.mark.parametrize("duplicates", ["first", "exact"])
def test_of_one_time_the_first_line_stays(duplicates: str) -> None:
    stays = without_duplicates(*columns([(0, 0, 2), (0, 0, 1), (0, 0, 1), (0, 0, 2)]), duplicates)
    assert stays.tolist() == ([False, True, False, False] if duplicates == "first" else [True, True, False, False])
