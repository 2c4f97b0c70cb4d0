"""The vectorised moves in a trie that every decoder makes, on NumPy arrays or on the tensors of a device. A node is three int64 vectors
``lo, hi, depth`` of equal shape (`grlm_hf.trie.arrays`): an interval of ranks and the number of tokens read. ``lo == hi`` is a prefix that
has left the trie."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.ranges import RangeMax

Node = tuple[Any, Any, Any]


class TrieWalker:
    """A trie's arrays, shared and never changed, and the moves in it. `device`: where the vectors live, as tensors; ``None``: they are
    NumPy arrays, which is several times faster on a CPU where there are only a few."""

    def __init__(self, trie: Trie, device: torch.device | str | None = None):
        self.trie, self.device = trie, device
        self.n, self.vocab = len(trie), trie.vocab
        self.tokens, self.start, self.border = (self._put(a) for a in (trie.tokens, trie.start, trie.border))
        self._origin = self._put(trie.start[:-1] - trie.shared)  # where a path's tokens would begin, if it spelled out all of them
        self.where: Any = np.where if device is None else torch.where
        self._repeat: Any = np.repeat if device is None else torch.repeat_interleave

    @cached_property
    def border_key(self) -> Any:
        return self._put(self.trie.border_key)

    @cached_property
    def children_of_root(self) -> tuple[Any, Any, Any, Any]:
        """`children` of the root. They are shared; do not change them."""
        return self.children(*self.root(1))

    def _put(self, array: np.ndarray) -> Any:
        return array if self.device is None else torch.tensor(array, device=self.device)

    def _arange(self, n: int) -> Any:
        return np.arange(n) if self.device is None else torch.arange(n, device=self.device)

    def _search(self, row: Any, values: Any, side: str) -> Any:
        if self.device is None:
            return row.searchsorted(values.astype(row.dtype), side)
        return torch.searchsorted(row, values.to(row.dtype), side=side)

    def root(self, n: int) -> Node:
        """`n` times the node of the empty prefix."""
        zero = self._arange(n) * 0
        return zero, zero + self.n, zero + 0

    def length(self, lo: Any) -> Any:
        """Tokens of the path at rank `lo`."""
        return self.start[lo + 1] - self._origin[lo]

    def ends(self, lo: Any, hi: Any, depth: Any) -> Any:
        """Bool: the node is the end of an identifier, or off the trie. No path begins another, so no longer one hides behind `lo`."""
        return (depth >= self.length(lo)) | (hi <= lo)

    @cached_property
    def _fewest_shared(self) -> RangeMax:
        return RangeMax(-self.trie.shared.astype(np.float32))

    def choice_depth(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Int64 [n]: where the paths of a node part, or how long its only path is. NumPy arrays only."""
        parts = -self._fewest_shared(lo + 1, hi)
        single = hi - lo == 1
        return np.where(single, self.length(lo), np.where(single, 0, parts)).astype(np.int64)

    def borders(self, lo: Any, hi: Any, depth: Any) -> tuple[Any, Any]:
        """The slice of `border` that splits the node into its children; empty, or of negative length, where there is one child or none."""
        base = depth * self.n
        return self._search(self.border, base + lo, "right"), self._search(self.border, base + hi, "left")

    def children(self, lo: Any, hi: Any, depth: Any) -> tuple[Any, Any, Any, Any]:
        """The legal next tokens of nodes [n]: (row, token, lo, hi), each int64 [total]. Rows ascend, and tokens within a row. `depth` may
        be one number for all."""
        first, last = self.borders(lo, hi, depth)
        goes_on = ~self.ends(lo, hi, depth)
        if bool((last <= first).all()):  # nothing to choose anywhere, as at most steps
            row = goes_on.nonzero()[0] if self.device is None else goes_on.nonzero()[:, 0]
            lo = lo[row]
            return row, self.token(lo, depth[row] if np.ndim(depth) else depth), lo, hi[row]
        count = (last - first + 1) * goes_on
        row = self._repeat(self._arange(len(lo)), count)
        ends = count.cumsum(0)
        base, depth = (x[row] if np.ndim(x) else x for x in (depth * self.n, depth))
        at = self._arange(len(row)) + (first - ends + count)[row] - 1  # the border that opens the child; the first child has none
        child_lo = self._take(self.border, at) - base
        some = count > 0
        child_lo[(ends - count)[some]] = lo[some]
        child_hi = self._arange(len(row))
        child_hi[:-1] = child_lo[1:]
        child_hi[ends[some] - 1] = hi[some]
        return row, self.token(child_lo, depth), child_lo, child_hi

    def _take(self, array: Any, at: Any) -> Any:
        """`array` at these places as int64, anything at places outside."""
        if not len(array):
            return at * 0
        if self.device is None:
            return array.take(at, mode="clip").astype(np.int64)
        return array[at.clamp(0, len(array) - 1)].long()

    def children_padded(self, lo: Any, hi: Any, depth: Any) -> tuple[Any, Any, Any, Any]:
        """The same as (token, lo, hi, valid), each [n, width] with the width of the trie's widest node; where not valid, any numbers.
        Tensors only: the shape depends on no value, so no device is waited for."""
        first, last = self.borders(lo, hi, depth)
        count = ((last - first + 1) * ~self.ends(lo, hi, depth))[:, None]
        column = torch.arange(self.trie.widest, device=lo.device)
        valid = column < count
        at = first[:, None] + column - 1
        if depth.dim():
            depth = depth[:, None]
        lo, hi = lo[:, None].expand(valid.shape), hi[:, None].expand(valid.shape)
        if len(self.border):
            base = depth * self.n
            lo = torch.where(valid & (column > 0), self.border[torch.where(valid & (column > 0), at, 0)] - base, lo)
            inner = valid & (column < count - 1)
            hi = torch.where(inner, self.border[torch.where(inner, at + 1, 0)] - base, hi)
        safe = torch.where(valid, lo, 0)
        return self.token(safe, torch.where(valid, depth, 0)), lo, hi, valid

    def token(self, lo: Any, depth: Any) -> Any:
        """The token at `depth` of the path at rank `lo`, where a node of that depth or the next begins at `lo`."""
        found = self.tokens[self._origin[lo] + depth]
        return found.astype(np.int64) if self.device is None else found.long()

    def step(self, lo: Any, hi: Any, depth: Any, token: Any) -> Node:
        """The nodes behind `token`, all of equal shape; ``lo == hi`` where no identifier goes on so."""
        first, last = self.borders(lo, hi, depth)
        alive = ~self.ends(lo, hi, depth)
        base, safe = depth * self.n, self.where(alive, lo, 0)
        eldest = alive & (self.token(safe, self.where(alive, depth, 0)) == token)
        if len(self.border) == 0:
            hit, at = eldest & ~eldest, first
        else:
            key = first * self.vocab + token
            at = self._search(self.border_key, key, "left")
            at = self.where(at < len(self.border), at, 0)
            hit = alive & (self.border_key[at] == key) & (at < last) & (at >= first) & (token < self.vocab) & (token >= 0)
        following = self.where(hit, at + 1, first)
        inside = following < last
        edge = self.border[self.where(inside, following, 0)] - base if len(self.border) else hi
        new_hi = self.where(inside, edge, hi)
        new_lo = self.where(hit, self.border[self.where(hit, at, 0)] - base, lo) if len(self.border) else lo
        legal = eldest | hit
        return self.where(legal, new_lo, lo), self.where(legal, new_hi, lo), depth + 1


def segment_log_softmax(values: torch.Tensor, segment: torch.Tensor, n_segments: int) -> torch.Tensor:
    """Log-softmax of `values` [n] float within each segment; `segment` [n] int64 in [0, n_segments)."""
    top = values.new_full((n_segments,), -torch.inf).scatter_reduce(0, segment, values.detach(), "amax")
    shifted = values - top[segment]
    return shifted - values.new_zeros(n_segments).index_add(0, segment, shifted.exp()).log()[segment]
