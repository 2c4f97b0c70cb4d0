"""The same list for everyone: the most frequent items of the training histories, ties in ascending order of item_id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from grlm_hf.catalog import Catalog
from grlm_hf.evaluation.evaluate import Method, Rankings
from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.interactions import History


def popularity(catalog: Catalog, train: Iterable[History], exclude_seen: bool) -> Method:
    """Ranks the catalog by how often its items occur in `train`."""
    count = Counter(item for history in train for item in history.items)
    order = sorted((i.item_id for i in catalog), key=lambda item: (-count[item], item))

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        items = []
        ranked = order if domain is None else [i for i in order if catalog[i].domain == domain]
        for history in histories:
            seen = set(history) if exclude_seen else set()
            items.append([i for i in ranked[: DEPTH + len(seen)] if i not in seen][:DEPTH])
        return Rankings(items)

    return method
