"""The protocol of priors: recommenders that rate every item after a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.data.items import check_unique


class Scorer(Protocol):
    """A recommender that gives each item a probability."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The rated items, in the order of the columns of `scores`."""

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items with information from training. Scores of other items have no meaning."""

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(next item | history), natural log, finite; a row's probabilities sum to 1. Histories are item ids,
        oldest first; unknown ids are ignored, and an empty history is legal. Seen items are not left out. All rows are in memory at once,
        so call it in chunks. The caller may change the array."""


@runtime_checkable
class Counted(Protocol):
    """A recommender that counted the events of each item."""

    @property
    def item_ids(self) -> tuple[str, ...]: ...

    @property
    def counts(self) -> np.ndarray:
        """int64 `[n_items]`, events of each item in the training histories."""


@runtime_checkable
class Following(Protocol):
    """A recommender that can rate the items of another catalog by their texts."""

    def following(self, catalog: Any) -> Any:
        """The same for the items of a catalog, in its order; itself where nothing changes."""


def log_shares(counts: np.ndarray) -> np.ndarray:
    """float64 `[n_items]`: the log of each item's share of the events, plus one event per item. It is what is left to say after a history
    of which nothing is known."""
    return np.log((counts + 1) / (counts + 1).sum())


def training_rows(item_ids: Sequence[str], histories: Sequence[History]) -> list[list[int]]:
    """Each history as positions in `item_ids`. Raises ``ValueError`` for a repeated id, and for a history with an unknown id or with its
    held-out items."""
    check_unique(item_ids)
    row = {item: n for n, item in enumerate(item_ids)}
    rows = []
    for history in histories:
        if history.n_valid or history.n_test:
            raise ValueError(f"The history of user {history.user_id!r} still has its held-out items. Split first, and pass `split.train`.")
        try:
            rows.append([row[item] for item in history.items])
        except KeyError as error:
            unknown = f"User {history.user_id!r} has item {error.args[0]!r}, which is not among the {len(row)} item ids."
            raise ValueError(f"{unknown} Add its id, or remove it from the history.") from None
    return rows
