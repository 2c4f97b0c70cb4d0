"""Tables of codes: numpy statistics of the quality report for terms and tokens, fast enough for a million identifiers. A table is int32
`[n, width]`. A row is one identifier: its elements' codes, from 1 on, then zeros."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

_BLOCK = 1 << 24  # comparisons in memory at once


def to_table(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 `[n, longest row, at least 1]`: each code plus one, then zeros."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    table = np.zeros((len(rows), max(1, int(lengths.max()))), np.int32)
    flat = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    if flat.min(initial=0) < 0:
        raise ValueError(f"Found the code {flat.min()}; token ids are 0 or more.")
    table[np.arange(table.shape[1]) < lengths[:, None]] = flat + 1
    return table


def without_repeats(table: np.ndarray) -> np.ndarray:
    """The table with repeated codes in a row set to zero: the rows as sets."""
    once = table.copy()
    for column in range(1, table.shape[1]):
        once[(table[:, :column] == table[:, column, None]).any(axis=1), column] = 0
    return once


def sort_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in lexicographic order: their positions `[n]`, and how many leading columns each shares with the previous row (first: -1). So
    ``common < d`` marks one row of each distinct prefix of length d."""
    order = np.lexsort(table.T[::-1])
    differs = table[order[1:]] != table[order[:-1]]
    common = np.where(differs.any(axis=1), differs.argmax(axis=1), table.shape[1])
    return order, np.concatenate([[-1], common])


def count_shared(once: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 `[n_pairs]`: number of terms that the rows `left` and `right` of a table without repeats have in common."""
    found = np.zeros(len(left), np.int64)
    step = max(1, _BLOCK // once.shape[1] ** 2)
    for some in (slice(at, at + step) for at in range(0, len(left), step)):
        a = once[left[some]]
        found[some] = ((a[:, :, None] == once[right[some]][:, None, :]) & (a > 0)[:, :, None]).sum(axis=(1, 2))
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation in [-1, 1], ties at their mean rank (Spearman, 1904); None if a side is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return float(np.clip(np.corrcoef(ranks(a), ranks(b))[0, 1], -1, 1))


def branching(table: np.ndarray) -> dict[str, Any]:
    """Branching of the trie of a table's rows. An inner node is a prefix that a row continues; the end of another row there is a child.

    ``root_children``; ``inner_nodes``, their ``mean_children`` and share with a ``single_child``; per item the mean ``length`` of its row,
    its ``choices`` (nodes on its path with at least two children) and ``unique_after``, the number of elements after which no other row
    has the same prefix (its whole length if another row continues it); ``by_depth``.
    """
    order, common = sort_rows(table)
    heads = np.flatnonzero(common < table.shape[1])  # one row per identifier
    rows, common, items = table[order[heads]], common[heads], np.diff(np.append(heads, len(table)))
    lengths = np.count_nonzero(rows, axis=1)
    unique = np.minimum(np.maximum(common, np.append(common[1:], -1)) + 1, lengths)
    choices = np.zeros(len(rows), np.int64)
    levels: list[np.ndarray] = []  # children of each inner node, by depth
    for depth in range(int(lengths.max())):
        starts = np.flatnonzero(common < depth)
        children = np.add.reduceat(common < depth + 1, starts, dtype=np.int64)
        choices += np.repeat(children > 1, np.diff(np.append(starts, len(rows))))
        levels.append(children[np.maximum.reduceat(lengths, starts) > depth])
    every = np.concatenate([np.zeros(0, np.int64), *levels])

    def per_item(values: np.ndarray) -> float:
        return float((values * items).sum() / len(table))

    return {
        "identifiers": len(rows),
        "root_children": int(every[0]) if len(every) else 0,
        "inner_nodes": len(every),
        "mean_children": float(every.mean()) if len(every) else None,
        "single_child": float((every == 1).mean()) if len(every) else None,
        "length": per_item(lengths),
        "choices": per_item(choices),
        "unique_after": per_item(unique),
        "by_depth": [
            {"depth": depth, "inner_nodes": len(level), "mean_children": float(level.mean()), "single_child": float((level == 1).mean())}
            for depth, level in enumerate(levels)
        ],
    }
