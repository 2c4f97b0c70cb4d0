"""Range maxima over the leaf order of a trie."""

from __future__ import annotations

import numpy as np


class RangeMax:
    """The greatest value in any interval of an array, for many intervals at once: blocks of 32, and a sparse table over their maxima
    (Bender and Farach-Colton, 2000). `values`: float [n]."""

    BLOCK = 32

    def __init__(self, values: np.ndarray):
        n = len(values)
        self.values = np.full(-(-n // self.BLOCK) * self.BLOCK, -np.inf, values.dtype if values.dtype.kind == "f" else np.float32)
        self.values[:n] = values
        level = self.values.reshape(-1, self.BLOCK).max(1)
        self.levels = [level]
        while 1 << len(self.levels) <= len(self.levels[0]):
            half = 1 << (len(self.levels) - 1)
            level = np.maximum(level[:-half], level[half:])
            self.levels.append(level)

    def __call__(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Maximum of ``values[lo:hi]``, -inf for empty intervals; `lo`, `hi` int [m] → float [m]."""
        step = np.arange(self.BLOCK)
        first, last = -(-lo // self.BLOCK), hi // self.BLOCK  # whole blocks inside: first … last - 1
        found = np.full(len(lo), -np.inf, self.values.dtype)
        for begin, end in ((lo, np.minimum(hi, first * self.BLOCK)), (np.maximum(lo, last * self.BLOCK), hi)):
            at = begin[:, None] + step
            inside = at < end[:, None]
            found = np.maximum(found, np.where(inside, self.values[np.where(inside, at, 0)], -np.inf).max(1, initial=-np.inf))
        whole = np.flatnonzero(last > first)
        if len(whole):
            count = (last - first)[whole]
            level = np.frexp(count)[1] - 1  # floor(log2)
            for k in np.unique(level):
                rows = whole[level == k]
                table = self.levels[k]
                found[rows] = np.maximum(found[rows], np.maximum(table[first[rows]], table[last[rows] - (1 << int(k))]))
        return found

    def joined(self, log_prob: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """`log_prob` plus the maximum of each interval, float64 [m]."""
        return log_prob + self(lo, hi)
