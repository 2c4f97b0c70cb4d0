"""What a prior is: something that rates every item after a history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from grlm_hf.data.interactions import History


class Scorer(Protocol):
    """A recommender that gives each item a probability."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The items that it rates, in the order of the columns of `scores`."""

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items that it has learnt something of. What it says of the others means nothing."""

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(next item | history), natural log, finite; a row's probabilities sum to 1.

        Histories are item ids, oldest first; ids that it does not know are passed over, and an empty history is legal. Seen items are not
        left out. All rows are in memory at once: ask in chunks. The array is the caller's, to change as it likes.
        """


def training_rows(item_ids: Sequence[str], histories: Sequence[History]) -> list[list[int]]:
    """Each history as positions in `item_ids`.

    Raises ``ValueError`` for a repeated id, and for a history with an id that is none of them, or with its held-out items.
    """
    row = {item: n for n, item in enumerate(item_ids)}
    if len(row) < len(item_ids):
        some = next(item for item, n in Counter(item_ids).items() if n > 1)
        raise ValueError(f"Item ids must be unique; {len(item_ids) - len(row)} are repeated, such as {some!r}.")
    rows = []
    for history in histories:
        if history.n_valid or history.n_test:
            raise ValueError(
                f"The history of user {history.user_id!r} still holds its held-out items. Split first, and pass `split.train`."
            )
        try:
            rows.append([row[item] for item in history.items])
        except KeyError as error:
            unknown = f"User {history.user_id!r} has item {error.args[0]!r}, which is none of the {len(row)} item ids."
            raise ValueError(f"{unknown} Give its id too, or leave it out of the history.") from None
    return rows
