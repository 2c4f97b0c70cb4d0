"""What a search asks of a model, whichever engine runs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grlm_hf.trie.walker import TrieWalker


@dataclass(frozen=True, eq=False)
class Expansion:
    """What is known of `n` nodes after a forward.

    Attributes:
        slot: int64 [n]; where each node's last computed token stands, for what continues it.
        end: int64 [n]; tokens computed: the depth at which the node has a choice, or where the run was cut.
        chain: float64 [n, longest]; natural-log probabilities of the forced tokens on the way there, from the second token of the run
            on; 0 behind the last.
        row, lo, hi: int64 [children]; the children at `end`: of which node, and their intervals.
        logp: float64 [children]; natural-log probability of each child's token.
    """

    slot: np.ndarray
    end: np.ndarray
    chain: np.ndarray
    row: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    logp: np.ndarray


def run_end(walker: TrieWalker, have: np.ndarray, lo: np.ndarray, hi: np.ndarray, lookahead: int | None) -> np.ndarray:
    """Int64 [n]: how far a forward goes that computes nodes from token `have` on: to their next choice, or `lookahead` tokens."""
    choice = walker.choice_depth(lo, hi)
    end = np.where(hi - lo == 1, choice - 1, choice)  # nothing follows the last token of an identifier
    return end if lookahead is None else np.minimum(end, have + lookahead)


def among_children(logp: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [children], normalised anew over the children of each node; `row` int64 [children], ascending."""
    if not len(row):
        return logp
    opens = np.diff(row, prepend=-1) > 0
    first, which = np.flatnonzero(opens), np.cumsum(opens) - 1
    logp = logp - np.maximum.reduceat(logp, first)[which]
    return logp - np.log(np.add.reduceat(np.exp(logp), first))[which]
