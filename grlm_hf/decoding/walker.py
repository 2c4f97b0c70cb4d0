"""A trie on a device: the vectorised moves that every decoder makes."""

from __future__ import annotations

import torch

from grlm_hf.decoding.trie import Trie

OBJECTIVES = ("vocabulary", "trie")
"""What a token's probability is normalised over: the full vocabulary, or the legal children of the current trie node."""

DEAD = -1
"""The state of a prefix that has left the trie."""


class TrieWalker:
    """A trie's arrays as tensors on one device, and the two vectorised moves that decoding makes.

    Attributes are those of `Trie`, as tensors.
    """

    def __init__(self, trie: Trie, device: torch.device | str = "cpu"):
        self.vocab = trie.vocab
        self.first, self.token, self.leaf, self.key = (
            torch.tensor(a, dtype=torch.int64, device=device) for a in (trie.first, trie.token, trie.leaf, trie.key)
        )
        self.forced = torch.tensor(trie.forced, device=device)

    def step(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """The state after `token`, `DEAD` where no identifier goes on so. Any shape, int64."""
        key = state * self.vocab + token
        edge = torch.searchsorted(self.key, key).clamp_(max=len(self.key) - 1)
        legal = (self.key[edge] == key) & (state >= 0) & (token < self.vocab)
        return torch.where(legal, edge + 1, DEAD)

    def edges(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The legal children of `state` [n]: (row, edge), both int64 [total]; rows ascend, `DEAD` rows and leaves have none."""
        live = state.clamp(min=0)
        start = self.first[live]
        count = torch.where(state >= 0, self.first[live + 1] - start, 0)
        row = torch.repeat_interleave(torch.arange(len(state), device=state.device), count)
        offset = torch.arange(len(row), device=state.device) - (count.cumsum(0) - count)[row]
        return row, start[row] + offset


def segment_log_softmax(values: torch.Tensor, segment: torch.Tensor, n_segments: int) -> torch.Tensor:
    """Log-softmax of `values` [n] float within each segment; `segment` [n] int64 in [0, n_segments)."""
    top = values.new_full((n_segments,), -torch.inf).scatter_reduce(0, segment, values.detach(), "amax")
    shifted = values - top[segment]
    return shifted - values.new_zeros(n_segments).index_add(0, segment, shifted.exp()).log()[segment]
