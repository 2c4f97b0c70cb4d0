"""Evidence in a prompt: items that people with like histories chose (CoRAL, Wu et al. 2024, arXiv 2403.06447).

Item-kNN (`grlm_hf.priors.knn`) counts them in the training histories. In a training example the counts are those without its user, so that
no answer is among them only because the user chose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.priors.knn import ItemKNN, KNNConfig

_NOTHING = 1e-6  # what float32 leaves of a count that is taken away


@dataclass(frozen=True, eq=False)
class Evidence:
    """Chooses the items that a prompt shows as evidence.

    Attributes:
        knn: the counts; its `max_items` last items of a history decide.
        number: of lines at most.
        own: user → training history, whose counts are left out of the user's own examples; {} outside of training.
    """

    knn: ItemKNN
    number: int
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def fit(cls, catalog: Catalog, histories: Iterable[History], max_history: int, number: int) -> Evidence:
        """Counts training histories."""
        histories = list(histories)
        knn = ItemKNN.fit([item.item_id for item in catalog], histories, KNNConfig(max_items=max_history))
        return cls(knn, number, {h.user_id: h.items for h in histories})

    def lines(self, catalog: Catalog, history: Sequence[str], user: str = "") -> list[str]:
        """The identifiers of the items that came most often with those of a history, as lines, the strongest first. Items of the history,
        and items that `catalog` lacks, are none of them.

        Args:
            history: item ids, oldest first; none of it is unknown to `catalog`.
            user: whose own events do not count.
        """
        score, found = self.scores(history, user), dict[str, None]()
        score[[row for item in history if (row := self.knn.rows.get(item)) is not None]] = 0
        rows = np.flatnonzero(score > _NOTHING)
        for row in rows[np.lexsort((rows, -score[rows]))]:
            if len(found) == self.number:
                break
            if (item := self.knn.item_ids[row]) in catalog:
                found[catalog.scheme.line(catalog.identifier(item))] = None
        return list(found)

    def scores(self, history: Sequence[str], user: str = "") -> np.ndarray:
        """float64 `[n_items]`: the sums of `ItemKNN`, with the counts of all training users but `user`."""
        knn, c = self.knn, self.knn.config
        last = [row for item in history if (row := knn.rows.get(item)) is not None][: -c.max_items - 1 : -1]
        own = np.array([row for item in self.own.get(user, ()) if (row := knn.rows.get(item)) is not None], np.int64)
        others = {row: n - np.count_nonzero(own == row) for row in {*last, *own.tolist()} for n in [knn.counts[row]]}
        score = np.zeros(len(knn.item_ids))
        for age, row in enumerate(last, 1):
            weight = age**-c.age_power * (others[row] + 1) ** -c.source_power
            cells = slice(knn.first[row], knn.first[row + 1])
            score[knn.items[cells]] += weight * (knn.counts[row] + 1) ** c.source_power * knn.weights[cells]
            for place in np.flatnonzero(own == row):
                after = np.arange(len(own)) - place
                near = (after != 0) & (abs(after) <= c.max_distance)
                pair = np.where(after > 0, 1, c.backwards)[near] * abs(after[near]) ** -c.distance_power
                np.subtract.at(score, own[near], weight * pair * (knn.counts[own[near]] + 1) ** -c.target_power)
        for row in set(own.tolist()):
            score[row] *= ((knn.counts[row] + 1) / (others[row] + 1)) ** c.target_power
        return score
