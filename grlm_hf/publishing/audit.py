"""Leakage and ambiguity of a split: held-out targets in training, duplicate users, items with one Term ID."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.markdown import table

ALIKE = 5
"""From this many events on, two users with the same history are probably one."""
_ROWS = {
    "targets_trained_on": "whose target stands among its own user's training events more often than in its history (leakage)",
    "twins": f"with the very events of another user's case, {ALIKE} events or more (one person twice?)",
    "targets_had_before": "whose target its user had before",
    "targets_never_trained": "whose target occurs in no training event (cold)",
    "targets_sharing_a_term_id": "whose target shares its Term ID with another item",
}


def audit(events: Iterable[tuple[str, str]], cases: Sequence[Case], catalog: Catalog) -> dict[str, int]:
    """Counts the cases whose figures need care, and the items that share a Term ID. `events`: (user_id, item_id) in training."""
    users = {c.user_id for c in cases}
    trained: Counter[tuple[str, str]] = Counter()
    known = set()
    for user, item in events:
        known.add(item)
        if user in users:
            trained[user, item] += 1
    of_term_id = Counter(catalog.item_identifiers)
    alike: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for c in cases:
        if len(c.history) + 1 >= ALIKE:
            alike[*c.history, c.target].add(c.user_id)
    return {
        "cases": len(cases),
        "targets_trained_on": sum(trained[c.user_id, c.target] > c.history.count(c.target) for c in cases),
        "twins": sum(len(alike.get((*c.history, c.target), ())) > 1 for c in cases),
        "targets_had_before": sum(c.target in c.history for c in cases),
        "targets_never_trained": sum(c.target not in known for c in cases),
        "targets_sharing_a_term_id": sum(c.target in catalog and of_term_id[catalog.identifier(c.target)] > 1 for c in cases),
        "items": len(catalog),
        "items_sharing_a_term_id": sum(n for n in of_term_id.values() if n > 1),
    }


def audit_table(found: dict[str, Any]) -> str:
    """An `audit` as a Markdown table."""
    rows = [[f"cases {label}", f"{found[key]:,}", share(found[key], found["cases"])] for key, label in _ROWS.items()]
    shared = found["items_sharing_a_term_id"]
    rows.append(["items that share their Term ID with another", f"{shared:,}", share(shared, found["items"])])
    return table([f"of {found['cases']:,} cases and {found['items']:,} items", "number", "share"], rows)


def share(part: int, whole: int) -> str:
    """A percentage such as ``1.5 %``, with more digits where it would round to 0 or 100 without being it."""
    for digits in (1, 2, 3, 4):
        text = f"{100 * part / max(whole, 1):.{digits}f}"
        if part in (0, whole) or float(text) not in (0, 100):
            break
    return f"{text} %"
