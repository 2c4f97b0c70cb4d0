"""Item-kNN: counts pairs of items in histories by distance and order. Nothing is trained.

    W[a, b] = Σ over histories and pairs (1 if b comes after a, else ρ) · distance ** -p / ((count a + 1) ** s · (count b + 1) ** t)
    score(b | history) = Σ over its last items a of W[a, b] · age ** -γ, where the last item has age 1

The scores of a history divided by their sum are its probabilities; a small share of the probability goes to all items by popularity, so
that none is 0. A neighbourhood method after Sarwar et al. (2001) that uses the order and distance of items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from grlm_hf.data.interactions import Case, History
from grlm_hf.indexing.neighbors import Neighbors
from grlm_hf.priors.scores import training_rows
from grlm_hf.priors.tuning import Targets, coordinate_search
from grlm_hf.settings import Count, NotNegative, Range, check_settings
from grlm_hf.tensors import read_tensors, write_tensors

GRID = {
    "backwards": (0.1, 0.2, 0.4, 0.6),
    "age_power": (0.5, 0.7, 1.0, 1.3),
    "source_power": (0.0, 0.2, 0.35, 0.5),
    "target_power": (0.0, 0.1, 0.2, 0.3),
    "distance_power": (0.3, 0.5, 0.7),
}
"""Candidate values of `tune_knn`."""


@dataclass(frozen=True)
class KNNConfig:
    """Weights of pairs of items."""

    backwards: NotNegative = 0.2
    """ρ: weight of a pair from the later item to the earlier one; from the earlier to the later it is 1."""
    age_power: NotNegative = 1.0
    """γ: how fast the weight of an item of the history falls with its age."""
    distance_power: NotNegative = 0.5
    """p: how fast the weight of a pair falls with its distance."""
    max_distance: Count = 50
    """Pairs with a larger distance do not count; adjacent items have distance 1."""
    max_items: Count = 20
    """Number of last items of a history that are used."""
    source_power: NotNegative = 0.35
    """s: penalty for frequent items of the history."""
    target_power: NotNegative = 0.1
    """t: penalty for frequent items as recommendations."""
    spread: Annotated[float, Range(above=0, below=1)] = 0.1
    """Share of the probability that goes to all items by popularity."""

    def __post_init__(self) -> None:
        check_settings(self, "item_knn.")


@dataclass(frozen=True, eq=False)
class _Pairs:
    """How often one item precedes another at a distance: int64 arrays of one length, unique (before, after, distance), ascending."""

    before: np.ndarray
    after: np.ndarray
    distance: np.ndarray
    times: np.ndarray


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Made by `fit`. W is a sparse matrix of compressed rows: row `a` is at ``first[a] : first[a + 1]``.

    Attributes:
        counts: int64 `[n_items]`, events of each item in the training histories.
        first: int64 `[n_items + 1]`.
        items: int32, the columns of each row, ascending.
        weights: float32, above 0.
    """

    kind: ClassVar[str] = "knn"
    item_ids: tuple[str, ...]
    counts: np.ndarray
    first: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    config: KNNConfig

    @classmethod
    def fit(cls, item_ids: Iterable[str], histories: Iterable[History], config: KNNConfig | None = None) -> ItemKNN:
        """Counts the pairs of the histories, which must not have held-out items. Their order does not matter. Raises ``ValueError`` for a
        repeated id, and for a history with an unknown id or with the targets of its own split."""
        config, ids = config or KNNConfig(), tuple(item_ids)
        return cls._weighed(ids, *_counted(ids, histories, config.max_distance), config)

    @classmethod
    def _weighed(cls, ids: tuple[str, ...], counts: np.ndarray, pairs: _Pairs, config: KNNConfig) -> ItemKNN:
        n = len(ids)
        near = pairs.times * pairs.distance.astype(np.float64) ** -config.distance_power
        cell = np.concatenate([pairs.before * n + pairs.after, pairs.after * n + pairs.before])
        value = np.concatenate([near, config.backwards * near])
        order = np.argsort(cell, kind="stable")
        cell, value = cell[order], value[order]
        start = np.flatnonzero(np.diff(cell, prepend=-1))
        value = np.add.reduceat(value, start) if len(start) else value
        row, column = np.divmod(cell[start], n)
        value *= (counts[row] + 1.0) ** -config.source_power * (counts[column] + 1.0) ** -config.target_power
        there = value > 0  # zero where backwards is 0
        first = np.concatenate([[0], np.bincount(row[there], minlength=n).cumsum()])
        return cls(ids, counts, first, column[there].astype(np.int32), value[there].astype(np.float32), config)

    @cached_property
    def rows(self) -> dict[str, int]:
        """item_id → its row."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items of the training histories."""
        return self.counts > 0

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(next item | history); see `Scorer`. Without a known item in the history: the log of an item's share
        of the training events, plus one event per item."""
        config = self.config
        share = ((self.counts + 1) / (self.counts + 1).sum()).astype(np.float32)
        found = np.zeros((len(histories), len(self.item_ids)), np.float32)
        for row, history in zip(found, histories, strict=True):
            last = [r for item in history if (r := self.rows.get(item)) is not None][: -config.max_items - 1 : -1]
            for age, r in enumerate(last, 1):
                cells = slice(self.first[r], self.first[r + 1])
                row[self.items[cells]] += self.weights[cells] * np.float32(age**-config.age_power)
            if total := row.sum(dtype=np.float64):
                row *= (1 - config.spread) / total
                row += config.spread * share
            else:
                row[:] = share
        return np.log(found, out=found)

    def neighbors(self, k: int = 5) -> Neighbors:
        """Each item's `k` nearest items by W, ties in the order of `item_ids`; the scores are shares of its row. Items without training
        events have no neighbours and are neighbours of no item."""
        if k < 1:
            raise ValueError(f"k must be at least 1; found {k}.")
        n = len(self.item_ids)
        row = np.repeat(np.arange(n), np.diff(self.first))
        order = np.lexsort((self.items, -self.weights, row))
        order = order[self.items[order] != row[order]]  # an item repeated in a history is paired with itself
        row = row[order]
        sums = np.bincount(row, self.weights[order].astype(np.float64), n)
        place = np.arange(len(row)) - np.concatenate([[0], np.bincount(row, minlength=n).cumsum()])[row]
        order, row, place = order[place < k], row[place < k], place[place < k]
        indices = np.full((n, k), -1, np.int32)
        scores = np.full((n, k), -np.inf, np.float32)
        indices[row, place] = self.items[order]
        scores[row, place] = self.weights[order] / sums[row]
        facts = {"n_items": n, "k": k, "embedder": "item-kNN", "never_seen": int((self.counts == 0).sum())}
        return Neighbors(item_ids=self.item_ids, indices=indices, scores=scores, facts=facts)

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        arrays = {"counts": self.counts, "first": self.first, "items": self.items, "weights": self.weights}
        write_tensors(path, self.kind, {"knn": arrays}, {"item_ids": list(self.item_ids), "config": asdict(self.config)})

    @classmethod
    def load(cls, path: str | Path) -> ItemKNN:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            arrays = {name: tensor.numpy() for name, tensor in groups["knn"].items()}
            return cls(tuple(facts["item_ids"]), config=KNNConfig(**facts["config"]), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not an item-kNN that this grlm-hf reads ({error}). Make it again.") from error


def tune_knn(
    item_ids: Iterable[str],
    histories: Iterable[History],
    cases: Sequence[Case],
    start: KNNConfig | None = None,
    *,
    exclude_seen: bool = True,
) -> KNNConfig:
    """The settings of `GRID` with the best NDCG@10 on validation cases, by coordinate search (`coordinate_search`). Use ten thousand cases
    or all: 2,000 are too few (on Amazon Sports they chose settings that lost .002 of recall@10). Each candidate takes about as long as
    scoring the cases."""
    start, ids = start or KNNConfig(), tuple(item_ids)
    counts, pairs = _counted(ids, histories, start.max_distance)
    targets = Targets(ids, cases, exclude_seen)
    return coordinate_search(start, GRID, lambda config: targets.measure(ItemKNN._weighed(ids, counts, pairs, config)))[0]


def _counted(ids: tuple[str, ...], histories: Iterable[History], max_distance: int) -> tuple[np.ndarray, _Pairs]:
    """int64 `[n_items]` events of each item, and the pairs."""
    rows, n = training_rows(ids, list(histories)), len(ids)
    flat = np.fromiter((r for row in rows for r in row), np.int64)
    counts = np.bincount(flat, minlength=n)
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    found = []
    for distance in range(1, min(max_distance + 1, max(map(len, rows), default=1))):
        same = user[distance:] == user[:-distance]
        cell, times = np.unique(flat[:-distance][same] * n + flat[distance:][same], return_counts=True)
        found.append((cell // n, cell % n, np.full(len(cell), distance), times))
    found = found or [(np.zeros(0, np.int64),) * 4]
    return counts, _Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
