"""What is recommended, hit or not: how evenly items are recommended, how popular and how alike the items of a list are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grlm_hf.data.catalog import Catalog

HEAD = 0.2
"""Share of the training events that the items of the head hold; all other items are the tail."""
_ROWS = 1024  # lists that are compared at once


def places(rankings: Sequence[Sequence[str | None]], catalog: Catalog, k: int) -> np.ndarray:
    """Catalog positions of each ranking's first `k` outputs, int64 [cases, k]; -1 where there is none, or it names no item."""
    found = np.full((len(rankings), k), -1, np.int64)
    for row, ranking in zip(found, rankings, strict=True):
        for n, item in enumerate(ranking[:k]):
            if item is not None and item in catalog:
                row[n] = catalog.position(item)
    return found


def exposure(shown: np.ndarray, n_items: int) -> dict[str, float]:
    """`coverage`, the share of the items that are recommended at all, and `gini`, the inequality of how often items are recommended.

    Gini is Σ (2i - n - 1) x_i / (n Σ x) over the n items of the catalog in rising order of x, the number of lists that hold an item: 0 if
    all x are equal, (n - 1) / n if one item is in every list and no other is (Damgaard and Weiner 2000). 0 where nothing is recommended.

    Args:
        shown: from `places`.
    """
    x = np.sort(np.bincount(shown[shown >= 0], minlength=n_items)).astype(float)
    gini = float((2 * np.arange(1, n_items + 1) - n_items - 1) @ x / (n_items * x.sum())) if x.any() else 0.0
    return {"coverage": np.count_nonzero(x) / n_items, "gini": gini}


def head(counts: np.ndarray) -> np.ndarray:
    """The items of the head, bool [n_items]: the fewest that together hold `HEAD` of the training events, most popular first.

    Equally popular items are taken in the order of the catalog. Without any event there is no head.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    in_head = np.zeros(len(counts), bool)
    in_head[order] = before < HEAD * counts.sum()
    return in_head


def popularity_of(shown: np.ndarray, catalog: Catalog, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """`tail_share` and `novelty` of each list, float64 [cases]; 0 for an empty one.

    tail_share  the share of the list's items outside the `head`.
    novelty     mean self-information of its items in bits, -log2((count + 1) / (events + n_items)): add-one smoothing over the catalog, so
                that an item without a training event has a finite one (Vargas and Castells 2011, who do not smooth).

    Args:
        shown: from `places`.
        counts: item_id → number of its training events, by default 0.
    """
    of = np.array([counts.get(i.item_id, 0) for i in catalog], np.int64)
    tail = ~head(of)
    bits = -np.log2((of + 1) / (of.sum() + len(of)))
    real = shown >= 0
    n = np.maximum(real.sum(1), 1)
    return {"tail_share": (tail[shown] & real).sum(1) / n, "novelty": np.where(real, bits[shown], 0.0).sum(1) / n}


def intra_list(shown: np.ndarray, catalog: Catalog, vectors: np.ndarray | None = None) -> np.ndarray:
    """Mean distance over the pairs of a list's items, float64 [cases]; 0 for a list of fewer than two (Ziegler et al. 2005).

    The distance is 1 - cosine of the items' vectors, or without vectors 1 - Jaccard of their sets of terms.

    Args:
        shown: from `places`.
        vectors: float [n_items, d], in the catalog's order, of any norm; a zero vector has distance 1 to every other.
    """
    real = shown >= 0
    n = real.sum(1)
    pairs = n * (n - 1) / 2
    alike = np.zeros(len(shown))
    if vectors is not None:
        if len(vectors) != len(catalog):
            raise ValueError(f"Found {len(vectors)} vectors for {len(catalog)} items; expected one vector an item, in the catalog's order.")
        vectors = vectors.astype(np.float64)  # sums need it also where vectors are float16
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
        for at in range(0, len(shown), _ROWS):
            some = unit[shown[at : at + _ROWS]] * real[at : at + _ROWS, :, None]
            # the sum over pairs from the square of the sum: no matrix of pairs
            alike[at : at + _ROWS] = ((some.sum(1) ** 2).sum(1) - (some**2).sum((1, 2))) / 2
    else:
        terms, sizes = _terms(catalog)
        upper = np.triu(np.ones((shown.shape[1],) * 2, bool), 1)
        for at in range(0, len(shown), _ROWS):
            some, size = terms[shown[at : at + _ROWS]], sizes[shown[at : at + _ROWS]]
            both = np.zeros((len(some), *upper.shape))
            for a in range(terms.shape[1]):
                for b in range(terms.shape[1]):
                    left, right = some[:, :, None, a], some[:, None, :, b]
                    both += (left == right) & (left >= 0)
            pair = upper & real[at : at + _ROWS, :, None] & real[at : at + _ROWS, None, :]
            union = size[:, :, None] + size[:, None, :] - both
            alike[at : at + _ROWS] = np.where(pair, both / np.maximum(union, 1), 0.0).sum((1, 2))
    return np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), 0.0)


def _terms(catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Each item's distinct terms as numbers, int64 [n_items, longest], padded with -1; and their number, int64 [n_items]."""
    number: dict[str, int] = {}
    sets = [[number.setdefault(t, len(number)) for t in dict.fromkeys(tid)] for tid in catalog.item_identifiers]
    terms = np.full((len(sets), max(map(len, sets))), -1, np.int64)
    for row, some in zip(terms, sets, strict=True):
        row[: len(some)] = some
    return terms, np.array([len(s) for s in sets])
