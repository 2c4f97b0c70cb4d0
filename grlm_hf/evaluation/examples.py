"""A few users to read: what they had, what methods recommend them, and what came next."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.schema import Example, Shown

USERS, HITS = 5, 2
"""Number of examples, and the least number of hits of the first method among them, where it has enough hits."""
TOP = 5
"""Recommendations shown of each method. A hit is a target among them."""
_LATEST = 6  # items of the history


def examples(
    rankings: Mapping[str, Sequence[Sequence[str | None]]],
    cases: Sequence[Case],
    catalog: Catalog,
    seed: int = 0,
    seen_left_out: bool = True,
) -> tuple[Example, ...]:
    """Cases of `USERS` users in random order, among them `HITS` hits of the first method, where it has enough. The same
    seed, the same users.

    Args:
        rankings: method → item ids of each case, best first.
        seen_left_out: items of the history are in no ranking.
    """
    order = random.Random(seed).sample(range(len(cases)), len(cases))
    first = next(iter(rankings.values()))
    chosen: dict[str, int] = {}  # user → one case of theirs
    for number, some in ((HITS, (at for at in order if cases[at].target in first[at][:TOP])), (USERS, iter(order))):
        while len(chosen) < number and (at := next(some, None)) is not None:
            chosen.setdefault(cases[at].user_id, at)
    note = "in the history already: left out" if seen_left_out else None
    return tuple(_example(at, rankings, cases[at], catalog, note) for at in sorted(chosen.values(), key=order.index))


def _example(at: int, rankings: Mapping[str, Sequence[Sequence[str | None]]], case: Case, catalog: Catalog, note: str | None) -> Example:
    def shown(item_id: str | None) -> Shown:
        return Shown(item_id, catalog[item_id].title) if item_id is not None and item_id in catalog else Shown(item_id or "", "")

    return Example(
        user=case.user_id,
        history=tuple(map(shown, case.history[-_LATEST:])),
        earlier=max(0, len(case.history) - _LATEST),
        recommended={name: tuple(map(shown, found[at][:TOP])) for name, found in rankings.items()},
        ranks={name: list(found[at]).index(case.target) + 1 if case.target in found[at] else 0 for name, found in rankings.items()},
        target=shown(case.target),
        note=note if case.target in case.history else None,
    )
