"""EASE, a linear model of which items occur together in a history (Steck 2019, arXiv 1905.03375), in closed form.

    P = (XᵀX + λI)⁻¹,   W[a, b] = -P[a, b] / P[b, b] off the diagonal, 0 on it

X is the matrix of users and items, 1 where a user has an item. Only the largest positive weights of each item are kept, and a history is
scored as by item-kNN, so that recent items count more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grlm_hf.data.interactions import Case, History
from grlm_hf.priors.knn import ItemKNN, KNNConfig
from grlm_hf.priors.scores import training_rows
from grlm_hf.priors.tuning import Targets, coordinate_search

LARGEST = 40_000
"""Items of the largest catalog that `EASE.learn` takes: it inverts a dense float32 matrix of that many rows and columns, 6.4 GB."""
REGULARISATIONS = (50.0, 150.0, 500.0)
"""Candidate values of λ in `tune_ease`."""
_GRID = {"age_power": (0.0, 0.3, 0.7, 1.0), "spread": (0.05, 0.1, 0.2)}


@dataclass(frozen=True, eq=False)
class EASE(ItemKNN):
    """An item-kNN whose weights are those of EASE. `fit` of the base class counts pairs; use `learn`."""

    kind: ClassVar[str] = "ease"

    @classmethod
    def learn(
        cls,
        item_ids: Iterable[str],
        histories: Sequence[History],
        regularisation: float = 150.0,
        keep: int = 200,
        config: KNNConfig | None = None,
    ) -> EASE:
        """Solves for the weights; about 2 n³ operations.

        Args:
            regularisation: λ, above 0.
            keep: weights of each item that are kept.

        Raises:
            ValueError: a catalog above `LARGEST`, before anything is computed; and as `training_rows`.
        """
        ids = tuple(item_ids)
        n = len(ids)
        if n > LARGEST:
            raise ValueError(f"ease inverts a matrix of all items, and the catalog has {n:,}; expected at most {LARGEST:,}. Leave it out.")
        rows = training_rows(ids, histories)
        gram = np.zeros((n, n), np.float32)
        counts = np.zeros(n, np.int64)
        for row in rows:
            np.add.at(counts, row, 1)
            distinct = np.unique(row)
            gram[np.ix_(distinct, distinct)] += 1
        gram[np.arange(n), np.arange(n)] += np.float32(regularisation)
        inverse = np.linalg.inv(gram)
        del gram
        inverse /= -inverse.diagonal()[None, :]
        np.fill_diagonal(inverse, 0)
        inverse[counts == 0] = 0
        m = min(keep, n)
        columns = np.sort(np.argpartition(-inverse, m - 1, axis=1)[:, :m], axis=1)
        values = np.take_along_axis(inverse, columns, 1)
        kept = values > 0
        first = np.concatenate([[0], kept.sum(1).cumsum()])
        return cls(ids, counts, first, columns[kept].astype(np.int32), values[kept], config or KNNConfig(age_power=0.3))


def tune_ease(
    item_ids: Sequence[str], histories: Sequence[History], cases: Sequence[Case], *, exclude_seen: bool = True
) -> tuple[EASE, float]:
    """The EASE with the best NDCG@10 on validation cases, and its λ."""
    targets = Targets(item_ids, cases, exclude_seen)
    found: list[tuple[float, EASE, float]] = []
    for regularisation in REGULARISATIONS:
        ease = EASE.learn(item_ids, histories, regularisation)
        config, value = coordinate_search(ease.config, _GRID, lambda config, ease=ease: targets.measure(replace(ease, config=config)))  # type: ignore[misc]
        found.append((value, replace(ease, config=config), regularisation))
    _, best, regularisation = max(found, key=lambda f: f[0])
    return best, regularisation
