"""Hits where items share a Term ID, by three rules.

A method that ranks by Term ID gives the same score to all items of one, and has to put them in some order. The effect of that order:

first     as everywhere in a report: items that share a Term ID are in ascending order of item_id.
expected  the mean over all orders of the items that share the target's Term ID, all equally likely.
any       every item with the target's Term ID is a hit: how good the Term IDs are that the method finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.metrics import Measures, ranks
from grlm_hf.evaluation.rankings import Rankings

RULES = ("first", "expected", "any")


def by_rule(
    rankings: Rankings, cases: Sequence[Case], pools: Sequence[Catalog], seen_kept: bool, measures: Measures | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Rule → metric of `per_case` → value for each case, float64 [cases]. Metrics of the user are left out.

    Args:
        rankings: of a method that ranks by Term ID (``rankings.by_term_id``).
        pools: the candidates of each case.
        seen_kept: items of the history are ranked too. Otherwise they are no candidates; a target that is one of them is never hit under
            "expected", as under "first".

    Under "expected" the `g` candidates with the target's Term ID hold `g` places: those that they have in the ranking, and for the rest
    places beyond its end. The target is at each place with probability 1 / g. Where the end of a ranking cuts such a group, this is exact
    too, since every order of the group begins at the same place.
    """
    measures = measures or Measures()
    targets = [c.target for c in cases]
    first = measures.per_case(ranks(rankings.items, targets, measures.length), own=False)
    # the places of all groups, one after the other: `owner[j]` is the case of the j-th place
    owner: list[int] = []
    places: list[int] = []
    size = np.ones(len(cases))
    nearest = np.zeros(len(cases), np.int64)
    for n, (ranking, case, pool) in enumerate(zip(rankings.items, cases, pools, strict=True)):
        if case.target not in pool:
            continue
        group = {i.item_id for i in pool.items_of(pool.identifier(case.target))}
        found = [place for place, item in enumerate(ranking[: measures.length], 1) if item in group]
        if found:
            nearest[n] = found[0]
        candidates = group if seen_kept else group.difference(case.history)
        if case.target in candidates:
            owner += [n] * len(found)
            places += found
            size[n] = len(candidates)
    each = measures.per_case(np.array(places, np.int64), own=False)
    expected = {name: np.bincount(owner, value, len(cases)) / size if owner else np.zeros(len(cases)) for name, value in each.items()}
    return {"first": first, "expected": expected, "any": measures.per_case(nearest, own=False)}
