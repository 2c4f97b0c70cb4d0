"""A share of the users to train on, for learning curves."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from grlm_hf.data.interactions import Split


def with_train_users(split: Split, share: float, seed: int) -> Split:
    """The split with the training histories of a share of its users. Validation and test stay whole.

    The choice depends on the users' ids and the seed alone, and is nested: the users of a smaller share are among those of a larger one.

    Args:
        share: above 0 and at most 1; at least one user is kept.
    """

    def number(user_id: str) -> bytes:
        return hashlib.blake2b(f"{seed}\0{user_id}".encode(), digest_size=8).digest()

    users = sorted({h.user_id for h in split.train}, key=lambda user: (number(user), user))
    kept = set(users[: max(1, round(share * len(users)))])
    return replace(split, train=tuple(h for h in split.train if h.user_id in kept))
