"""Distinct identifiers drawn at random: stochastic beam search (Kool, van Hoof and Welling, 2019). The top of ``log p + Gumbel noise`` over
all identifiers is a sample without replacement. It is found top-down, by noise for each child that is drawn conditionally on its parent's;
so every prefix is computed once, however many samples go through it, and none is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grlm_hf.decoding.nodes import Nodes
from grlm_hf.engines.protocol import Batch, Engine, open_prefixes
from grlm_hf.trie.ranges import RangeMax


@torch.inference_mode()
def sample(
    engine: Engine,
    batch: Batch,
    n: int,
    rng: np.random.Generator,
    adjustments: Sequence[RangeMax | None] | None = None,
    temperature: float | Sequence[float] = 1.0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws `n` identifiers a prompt without replacement, from the policy over what is allowed; fewer where fewer are allowed.

    At each node the model's log-probabilities are renormalised over the children that lead to something allowed. Under objective "trie",
    with everything allowed, these are the model's own.

    Args:
        temperature: divides the log-probabilities of children before they are renormalised; one for all tokens of an identifier, or one
            for each, of which the last also holds for all behind it.
        adjustments: for each user by rank (`grlm_hf.decoding.index.ScoreAdjustment`): ``-inf`` forbids; other values do not matter.

    Returns for each prompt (leaf int64 [n], log_prob float64 [n]), likeliest first.
    """
    prefixes, walker, prompts, objective = open_prefixes(engine, batch), batch.walker, batch.prompts, batch.objective
    users, temperatures = np.arange(len(prompts)), np.atleast_1d(np.asarray(temperature, np.float64))
    found = prefixes.root()
    user, logp, drawn, key = users, np.zeros(len(users)), np.zeros(len(users)), np.zeros(len(users))
    done = _SampledNodes.empty()
    while True:
        # 1. the children of all expanded nodes, with noise
        row, single = found.row, found.hi - found.lo == 1
        allowed = np.ones(len(row), bool)
        for number, one in enumerate(adjustments or ()):
            if one is not None:
                mine = np.flatnonzero(user[row] == number)
                allowed[mine] = one(found.lo[mine], found.hi[mine]) > -np.inf
        row, lo, hi, step, single = (x[allowed] for x in (row, found.lo, found.hi, found.logp, single))
        tempered = step / temperatures[np.minimum(found.end[row], len(temperatures) - 1)]
        own = key[row] + tempered - _by_row(np.logaddexp, tempered, row)
        noise = _gumbels_below(drawn[row], own, row, rng)
        children = _SampledNodes(user[row], found.slot[row], found.end[row], lo, hi, logp[row] + step, own, noise)
        # 2. the best n of each user, complete ones included; a node's noise is the greatest below it, so none of the n is lost
        nodes = _SampledNodes.join(done, children)
        order = np.lexsort((-nodes.drawn, nodes.user))
        place = np.arange(len(order)) - nodes.user[order].searchsorted(nodes.user[order])
        nodes = nodes[np.sort(order[place < n])]
        over = (nodes.hi - nodes.lo == 1) & ((objective == "trie") | (nodes.have + 1 >= walker.length(nodes.lo)))
        done, going = nodes[over], nodes[~over]
        if not len(going.user):
            break
        found = prefixes.expand(going.user, going.slot, going.have, going.lo, going.hi)
        user, key, drawn, logp = going.user, going.key, going.drawn, going.logp + found.chain.sum(1)
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


def _gumbels_below(top: np.ndarray, key: np.ndarray, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gumbels of location `key` for the children of nodes, given that the greatest of a node is `top` (Kool et al., appendix B.3)."""
    g = key + rng.gumbel(size=len(key))
    below = g - _by_row(np.maximum, g, row)  # 0 for the greatest, which becomes `top` itself
    with np.errstate(divide="ignore"):
        v = top - g + np.log1p(-np.exp(below))
    return top - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))


@dataclass(frozen=True, eq=False)
class _SampledNodes(Nodes):
    """`logp` is the score. `key` float64 [n] is the log-probability that the sample draws from, `drawn` float64 [n] is `key` with noise."""

    drawn: np.ndarray
