"""Random items, seeded by the history: what a ranking without any knowledge scores."""

from __future__ import annotations

import random
from collections.abc import Sequence

from grlm_hf.catalog import Catalog
from grlm_hf.evaluation.evaluate import Method, Rankings
from grlm_hf.evaluation.metrics import DEPTH


def chance(catalog: Catalog, exclude_seen: bool, seed: int = 0) -> Method:
    """A uniform sample of the catalog; the same for the same history and seed."""
    order = [i.item_id for i in catalog]

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        items = []
        pool = order if domain is None else [i.item_id for i in catalog.domain(domain)]
        for history in histories:
            seen = set(history) if exclude_seen else set()
            picked = random.Random(f"{seed}:{'|'.join(history)}").sample(pool, min(len(pool), DEPTH + len(seen)))
            items.append([i for i in picked if i not in seen][:DEPTH])
        return Rankings(items)

    return method
