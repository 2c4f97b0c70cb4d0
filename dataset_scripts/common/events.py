"""Events as columns of integers, and filters that select them."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from common.options import Settings
from common.raw import RawFile
from grlm_hf.tables.cleaning import clean_id, clean_time


class Events:
    """All events as columns of integers, in the order of `add`."""

    def __init__(self, settings: Settings, timed: bool = True, per_second: int = 1):
        self.min_rating, self.timed, self.per_second = settings.min_rating, timed, per_second
        self.user_codes: dict[str, int] = {}
        self.item_codes: dict[str, int] = {}
        self.users, self.items, self.times = array("i"), array("i"), array("q")

    def add(self, file: RawFile, user: Any, item: Any, time: Any, rating: Any = None) -> None:
        """Adds the event of the current line of `file`, or counts there the reason for leaving it out."""
        if not (user := clean_id(user)):
            return file.drop("no user")
        if not (item := clean_id(item)):
            return file.drop("no item")
        seconds = clean_time(time, self.per_second) if self.timed else 0
        if seconds is None:
            return file.drop("no time" if time in (None, "") else "no number or ISO 8601 time between 1970 and 2200")
        if self.min_rating is not None:
            try:
                low = not float(rating) >= self.min_rating
            except (TypeError, ValueError):
                return file.drop("no rating")
            if low:
                return file.drop("rating too low", bad=False)
        self.users.append(self.user_codes.setdefault(user, len(self.user_codes)))
        self.items.append(self.item_codes.setdefault(item, len(self.item_codes)))
        self.times.append(seconds)


def without_duplicates(users: np.ndarray, items: np.ndarray, times: np.ndarray, duplicates: str) -> np.ndarray:
    """Mask of kept events, bool [events]: of each user's events with one item the earliest, or with ``"exact"`` one per time."""
    stays = np.ones(len(users), bool)
    if duplicates != "keep":
        order = np.lexsort((times, items, users))  # stable: file order at equal times
        same = (np.diff(users[order]) == 0) & (np.diff(items[order]) == 0)
        if duplicates == "exact":
            same &= np.diff(times[order]) == 0
        stays[order[1:][same]] = False
    return stays


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Mask of kept events, bool [events]: the largest set in which each user and each item has at least `k` events."""
    stays = np.arange(len(users))
    while len(stays):
        u, i = users[stays], items[stays]
        enough = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if enough.all():
            break
        stays = stays[enough]
    mask = np.zeros(len(users), bool)
    mask[stays] = True
    return mask
