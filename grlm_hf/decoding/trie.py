"""All identifiers as one immutable trie over token ids, in flat arrays.

States are numbered level by level from the root, 0. An edge ends in a state that no other edge enters, so edges can share the numbers
of the states they end in: edge ``e`` ends in state ``e + 1``, the children of state ``s`` are the edges ``first[s]:first[s + 1]``, and
the key ``state * vocab + token`` ascends with the edge number. A transition is then one binary search, vectorised over any number of
states. (The numbered-array style follows STATIC, arXiv 2602.22647; its table is dense, this one is not.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from grlm_hf.catalog import Catalog


class Trie:
    """Immutable; safe to share between threads and requests.

    Args:
        paths: token ids of each identifier; leaf ``i`` is ``paths[i]``.
        eos_token_id: what ends a generation behind an identifier, if known.
        tokenizer_hash: `grlm_hf.tasks.prompts.tokenizer_hash` of the tokenizer that made the paths, or ``""`` if unknown.

    Attributes:
        first: int64 [n_states + 1]; the children of state ``s`` are the edges ``first[s]:first[s + 1]``.
        token: int64 [n_edges]; the token of each edge, ascending within a state. Edge ``e`` ends in state ``e + 1``.
        leaf: int64 [n_states]; which path ends in the state, else -1.
        key: int64 [n_edges]; ``parent * vocab + token``, ascending.
        forced: bool [n_states]; nothing is left to choose: the state has one leaf below it, or is one.
        vocab: one more than the largest token id.
        depth: tokens of the longest path.

    Raises:
        ValueError: no paths, an empty path, a negative token id, two equal paths, or one path that begins another.
    """

    def __init__(self, paths: Sequence[Sequence[int]], eos_token_id: int | None = None, tokenizer_hash: str = ""):
        self.eos_token_id = eos_token_id
        self.tokenizer_hash = tokenizer_hash
        if not len(paths):
            raise ValueError("A trie needs at least one identifier; found none.")
        lengths = np.fromiter((len(p) for p in paths), np.int64, len(paths))
        if not lengths.all():
            raise ValueError(f"Identifier {int(np.argmin(lengths))} has no tokens.")
        self.depth = int(lengths.max())
        # 1. rows [n, depth], -1 behind the end of a path; sorted
        rows = np.full((len(paths), self.depth), -1, np.int64)
        rows[np.arange(self.depth) < lengths[:, None]] = np.fromiter((t for p in paths for t in p), np.int64, int(lengths.sum()))
        if (rows < -1).any() or (rows[np.arange(self.depth) < lengths[:, None]] < 0).any():
            raise ValueError("Token ids must not be negative.")
        self.vocab = int(rows.max()) + 1
        order = np.lexsort(rows.T[::-1])
        rows, lengths = rows[order], lengths[order]
        # 2. shared[i]: tokens that row i has in common with row i - 1
        differs = rows[1:] != rows[:-1]
        shared = np.where(differs.any(1), differs.argmax(1), self.depth)
        for kind, bad in (("equal", shared >= np.maximum(lengths[1:], lengths[:-1])), ("begin one another", shared >= lengths[:-1])):
            if bad.any():
                i = int(np.argmax(bad))
                a, b = sorted((int(order[i]), int(order[i + 1])))
                raise ValueError(
                    f"Identifiers {a} and {b} {'are ' if kind == 'equal' else ''}{kind} in tokens {list(paths[a])}, {list(paths[b])}."
                )
        shared = np.concatenate(([0], shared))
        # 3. level by level: a row opens a new edge at a level that it does not share with the row before it
        parents, tokens = [], []
        leaf = [np.full(1, -1, np.int64)]
        state = np.zeros(len(paths), np.int64)  # of each row at this level
        n_states = 1
        for level in range(self.depth):
            alive = lengths > level
            opens = alive & (shared <= level)
            parents.append(state[opens])
            tokens.append(rows[opens, level])
            state = np.where(alive, n_states + np.cumsum(opens) - 1, state)
            leaf.append(np.where(lengths[opens] == level + 1, order[opens], -1))
            n_states += int(opens.sum())
        parent = np.concatenate(parents)
        self.token = np.concatenate(tokens)
        self.leaf = np.concatenate(leaf)
        self.key = parent * self.vocab + self.token
        self.first = np.searchsorted(parent, np.arange(n_states + 1))
        # 4. leaves below each state, from the last state up: a parent has a smaller number than its children
        below = (self.leaf >= 0).astype(np.int64)
        end = n_states
        for parent in reversed(parents):
            np.add.at(below, parent, below[end - len(parent) : end])
            end -= len(parent)
        self.forced = below == 1
        for array in (self.first, self.token, self.leaf, self.key, self.forced):
            array.setflags(write=False)

    @classmethod
    def from_catalog(cls, catalog: Catalog, tokenizer: Any) -> Trie:
        """The trie of ``catalog.identifiers``; its paths are the label tokens of training."""
        from grlm_hf.tasks.prompts import identifier_tokens, tokenizer_hash

        return cls(identifier_tokens(tokenizer, catalog.identifiers), tokenizer.eos_token_id, tokenizer_hash(tokenizer))

    @property
    def n_states(self) -> int:
        return len(self.leaf)

    def __len__(self) -> int:
        """The number of identifiers."""
        return int((self.leaf >= 0).sum())

    def __repr__(self) -> str:
        return f"Trie({len(self)} identifiers, {self.n_states} states, depth {self.depth})"

    def children(self, state: int) -> dict[int, int]:
        """Token → next state of one state; for looking at a trie, not for decoding."""
        edges = range(int(self.first[state]), int(self.first[state + 1]))
        return {int(self.token[e]): e + 1 for e in edges}
