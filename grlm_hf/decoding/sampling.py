"""Distinct identifiers drawn at random: stochastic beam search (Kool, van Hoof and Welling, 2019).

The top of ``log p + Gumbel noise`` over all identifiers is a sample without replacement. It is found top-down, by noise for each child that
is drawn conditionally on its parent's; so every prefix is computed once, however many samples go through it, and none is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from grlm_hf.engines.choose import prefixes_of
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.walker import TrieWalker


@torch.inference_mode()
def sample(
    model: Any,
    walker: TrieWalker,
    prompts: Sequence[np.ndarray],
    n: int,
    objective: str,
    rng: np.random.Generator,
    *,
    bonus: Sequence[RangeMax | None] | None = None,
    temperature: float = 1.0,
    pad_token_id: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` identifiers a prompt, drawn without replacement from the policy over what is allowed; fewer where fewer are.

    What is drawn from are the model's log-probabilities renormalised at each node over its children that lead to something allowed. Under
    objective "trie", with everything allowed, these are the model's own.

    Args:
        model: a causal LM in eval mode, or another engine's (`grlm_hf.engines.choose.prefixes_of`).
        walker: the trie, as NumPy arrays.
        prompts: int64 token ids of each prompt.
        objective: what `log_prob` is normalised over (`grlm_hf.layout.OBJECTIVES`).
        temperature: divides a child's log-probability before they are renormalised.
        bonus: ``-inf`` for what a user must not get, by rank (`grlm_hf.decoding.index.Bonus`); nothing else of it counts.

    Returns:
        For each prompt (leaf int64 [n], log_prob float64 [n]), likeliest first.
    """
    prefixes = prefixes_of(model, walker, prompts, objective, pad_token_id)
    users = np.arange(len(prompts))
    found = prefixes.root()
    user, logp, drawn, phi = users, np.zeros(len(users)), np.zeros(len(users)), np.zeros(len(users))
    done = _Nodes.empty()
    while True:
        # 1. the children of all expanded nodes: `logp` is the score, `phi` the log-probability drawn from, `drawn` phi and its noise
        row, single = found.row, found.hi - found.lo == 1
        allowed = np.ones(len(row), bool)
        for number, one in enumerate(bonus or ()):
            if one is not None:
                mine = np.flatnonzero(user[row] == number)
                allowed[mine] = one(found.lo[mine], found.hi[mine]) > -np.inf
        row, lo, hi, step, single = (x[allowed] for x in (row, found.lo, found.hi, found.logp, single))
        tempered = step / temperature
        own = phi[row] + tempered - _by_row(np.logaddexp, tempered, row)
        noise = _gumbels_below(drawn[row], own, row, rng)
        children = _Nodes(user[row], found.slot[row], found.end[row], lo, hi, logp[row] + step, own, noise)
        # 2. of them and of the complete ones the best n of each user; as a node's noise is the greatest below it, none of the n is lost
        nodes = _Nodes.join(done, children)
        order = np.lexsort((-nodes.drawn, nodes.user))
        place = np.arange(len(order)) - nodes.user[order].searchsorted(nodes.user[order])
        nodes = nodes[np.sort(order[place < n])]
        over = (nodes.hi - nodes.lo == 1) & ((objective == "trie") | (nodes.have + 1 >= walker.length(nodes.lo)))
        done, going = nodes[over], nodes[~over]
        if not len(going.user):
            break
        found = prefixes.expand(going.user, going.slot, going.have, going.lo, going.hi)
        user, phi, drawn, logp = going.user, going.phi, going.drawn, going.logp + found.chain.sum(1)
    groups = []
    for number in range(len(users)):
        mine = np.flatnonzero(done.user == number)
        mine = mine[np.argsort(-done.logp[mine], kind="stable")]
        groups.append((walker.trie.leaf[done.lo[mine]].astype(np.int64), done.logp[mine]))
    return groups


def _by_row(operation: np.ufunc, values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """`values` float64 [m] reduced over each run of equal `row`, and repeated for its members."""
    opens = np.diff(row, prepend=-1) > 0
    return operation.reduceat(values, np.flatnonzero(opens))[np.cumsum(opens) - 1] if len(row) else values


def _gumbels_below(top: np.ndarray, phi: np.ndarray, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gumbels of location `phi` for the children of nodes, given that the greatest of a node's is `top` (Kool et al., appendix B.3)."""
    g = phi + rng.gumbel(size=len(phi))
    below = g - _by_row(np.maximum, g, row)  # 0 for the greatest, which becomes `top` itself
    with np.errstate(divide="ignore"):
        v = top - g + np.log1p(-np.exp(below))
    return top - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Nodes that a sample keeps: whose, what they continue (see `grlm_hf.engines.causal`), and their three log-probabilities."""

    user: np.ndarray
    slot: np.ndarray
    have: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    logp: np.ndarray
    phi: np.ndarray
    drawn: np.ndarray

    @classmethod
    def empty(cls) -> _Nodes:
        none = np.zeros(0, np.int64)
        return cls(none, none, none, none, none, np.zeros(0), np.zeros(0), np.zeros(0))

    def __getitem__(self, at: np.ndarray) -> _Nodes:
        return _Nodes(*(getattr(self, f.name)[at] for f in fields(self)))

    @classmethod
    def join(cls, one: _Nodes, other: _Nodes) -> _Nodes:
        return cls(*(np.concatenate((getattr(one, f.name), getattr(other, f.name))) for f in fields(cls)))
