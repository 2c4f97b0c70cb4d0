"""Item-kNN: counts which items stand near each other in histories, and how near. Nothing is trained.

    W[a, b] = Σ over histories and pairs (1 if b stands after a, else ρ) · distance ** -p / ((count a + 1) ** s · (count b + 1) ** t)
    score(b | history) = Σ over its last items a of W[a, b] · age ** -γ, the age of the last one being 1

The scores of a history, over their sum, are its probabilities; a small share of them is spread over all items by their popularity, so
that each has some. A neighbourhood method in the line of Sarwar et al. (2001), with the order and distance of items in it.
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
from grlm_hf.priors.tensors import read_tensors, write_tensors
from grlm_hf.priors.tuning import Targets, coordinate_search
from grlm_hf.settings import Count, NotNegative, Range, check_settings

GRID = {
    "backwards": (0.1, 0.2, 0.4, 0.6),
    "age_power": (0.5, 0.7, 1.0, 1.3),
    "source_power": (0.0, 0.2, 0.35, 0.5),
    "target_power": (0.0, 0.1, 0.2, 0.3),
    "distance_power": (0.3, 0.5, 0.7),
}
"""What `tune_knn` tries."""


@dataclass(frozen=True)
class KNNConfig:
    """How pairs of items count."""

    backwards: NotNegative = 0.2
    """ρ: what a pair counts from the later item to the earlier one; from the earlier to the later it counts 1."""
    age_power: NotNegative = 1.0
    """γ: the older an item of the history, the less it says."""
    distance_power: NotNegative = 0.5
    """p: the farther apart two items, the less the pair counts."""
    max_distance: Count = 50
    """Pairs farther apart do not count; neighbours in a history have distance 1."""
    max_items: Count = 20
    """The last so many items of a history are read."""
    source_power: NotNegative = 0.35
    """s: how much a frequent item of the history is held back."""
    target_power: NotNegative = 0.1
    """t: how much a frequent item is held back as an answer."""
    spread: Annotated[float, Range(above=0, below=1)] = 0.1
    """Share of the probability that goes to all items by their popularity."""

    def __post_init__(self) -> None:
        check_settings(self, "item_knn.")


@dataclass(frozen=True, eq=False)
class _Pairs:
    """How often one item stands a distance before another: int64 arrays of one length, each (before, after, distance) once, rising."""

    before: np.ndarray
    after: np.ndarray
    distance: np.ndarray
    times: np.ndarray


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Make one with `fit`. Row `a` of W, as in a sparse matrix of compressed rows, lies at ``first[a] : first[a + 1]``.

    Attributes:
        item_ids: the order of rows and columns.
        counts: int64 `[n_items]`, events of each item in the training histories.
        first: int64 `[n_items + 1]`.
        items: int32, the columns of each row, rising.
        weights: float32, above 0.
        config: what it was made with.
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
        """Counts the pairs of the histories, which are to hold no held-out items. Their order does not matter.

        Raises ``ValueError`` for a repeated id, and for a history with an id that is none of them, or with the targets of its own split.
        """
        config, ids = config or KNNConfig(), tuple(item_ids)
        rows = training_rows(ids, list(histories))
        counts = np.bincount(np.fromiter((r for row in rows for r in row), np.int64), minlength=len(ids))
        return cls._weighed(ids, counts, _count_pairs(rows, len(ids), config.max_distance), config)

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
        there = value > 0  # not without pairs read backwards
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
        """float32 `[n, n_items]`: log p(next item | history); see `Scorer`. Where nothing is known, the log of an item's share of the
        training events, each item counted once more."""
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
        """Each item's `k` nearest items by W, equal ones in the order of `item_ids`; the scores are shares of its row. Items that
        training never saw have none and are nobody's."""
        if k < 1:
            raise ValueError(f"k must be at least 1; found {k}.")
        n = len(self.item_ids)
        row = np.repeat(np.arange(n), np.diff(self.first))
        order = np.lexsort((self.items, -self.weights, row))
        order = order[self.items[order] != row[order]]  # an item that a history repeats is near itself
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
        """Writes it as one file, in the safetensors format, atomically."""
        arrays = {"counts": self.counts, "first": self.first, "items": self.items, "weights": self.weights}
        write_tensors(path, self.kind, {"knn": arrays}, {"item_ids": list(self.item_ids), "config": asdict(self.config)})

    @classmethod
    def load(cls, path: str | Path) -> ItemKNN:
        """What `save` wrote. Raises ``ValueError`` when the file is missing, broken or something else."""
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
    """The settings of `GRID` with the best NDCG@10 on validation cases, found one setting after the other (`coordinate_search`).

    A sample of 2,000 cases is too few (on Amazon Sports it chose settings that lost .002 of recall@10): take ten thousand, or all. A try
    takes about as long as scoring the cases.
    """
    start, ids = start or KNNConfig(), tuple(item_ids)
    rows = training_rows(ids, list(histories))
    counts = np.bincount(np.fromiter((r for row in rows for r in row), np.int64), minlength=len(ids))
    pairs = _count_pairs(rows, len(ids), start.max_distance)
    targets = Targets(ids, cases, exclude_seen)
    return coordinate_search(start, GRID, lambda config: targets.measure(ItemKNN._weighed(ids, counts, pairs, config)))[0]


def _count_pairs(rows: Sequence[Sequence[int]], n: int, max_distance: int) -> _Pairs:
    flat = np.fromiter((r for row in rows for r in row), np.int64)
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    found = []
    for distance in range(1, min(max_distance + 1, max(map(len, rows), default=1))):
        same = user[distance:] == user[:-distance]
        cell, times = np.unique(flat[:-distance][same] * n + flat[distance:][same], return_counts=True)
        found.append((cell // n, cell % n, np.full(len(cell), distance), times))
    return _Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True))) if found else _Pairs(*[np.zeros(0, np.int64)] * 4)
