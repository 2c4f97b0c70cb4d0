"""Rollouts for preference training: distinct identifiers of the catalog, from the constrained search.

Two ways to choose them:

- ``"beams"``: the best ones by beam search. With the rewards a group gives, a policy-gradient step is then a listwise ranking step over
  the very list that the recommender would show.
- ``"sampled"``: drawn from the policy without replacement, by stochastic beam search (Kool, van Hoof and Welling, 2019): the top of
  ``log p + Gumbel noise`` over all identifiers, found top-down by noise that is drawn conditionally on a node's own.

Neither can leave the catalog or repeat itself, so no rollout is wasted on what the recommender could never show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from grlm_hf.decoding.prefixes import Prefixes
from grlm_hf.decoding.search import edge_search
from grlm_hf.decoding.walker import RangeMax, TrieWalker
from grlm_hf.interactions import History

if TYPE_CHECKING:
    from grlm_hf.modeling import GRLMForRecommendation


@dataclass(frozen=True, eq=False)
class Rollouts:
    """The identifiers of one prompt, likeliest first.

    Attributes:
        prompt: int64; its tokens.
        leaf: int64 [n]; which of ``catalog.identifiers``.
        log_prob: float64 [n]; natural log, normalised as the checkpoint's objective says.
    """

    prompt: np.ndarray
    leaf: np.ndarray
    log_prob: np.ndarray


def positions(histories: Sequence[History], n: int, seed: int = 0, exclude_seen: bool = True) -> list[tuple[tuple[str, ...], str]]:
    """`n` questions from histories to learn from: (the items before some place, the item there). All places once, in a seeded order that
    does not depend on the order of the histories, then all of them again.

    Args:
        exclude_seen: leave out places whose item stands before them already.

    Raises:
        ValueError: there is no such place.
    """
    ordered = sorted(histories, key=lambda h: (h.user_id, h.items))
    places = [(i, t) for i, h in enumerate(ordered) for t in range(1, len(h.items)) if not (exclude_seen and h.items[t] in h.items[:t])]
    if not places:
        raise ValueError(f"None of the {len(ordered)} training histories has two items; there is nothing to ask for.")
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(places)) for _ in range(-(-n // len(places)))])[:n]
    return [(ordered[i].items[:t], ordered[i].items[t]) for i, t in (places[k] for k in order)]


def roll_out(
    grlm: GRLMForRecommendation,
    histories: Sequence[Sequence[str]],
    n: int,
    *,
    sampling: str = "beams",
    exclude_seen: bool = True,
    rng: np.random.Generator | None = None,
) -> list[Rollouts]:
    """`n` distinct identifiers after each history (item ids, oldest first), in one batch.

    Args:
        sampling: one of `grlm_hf.training.grpo.SAMPLINGS`.
        exclude_seen: none of an item of the history alone.
        rng: of the samples.

    Raises:
        ValueError: fewer than `n` identifiers are allowed after some history; or the model's scores are not finite.
    """
    index = grlm._index
    bonuses = index.bonuses(
        histories, exclude_seen=exclude_seen, prior=None, exclude=(), allow=None, domain=None, banned_terms=(), prior_weight=1.0,
        shared="full",
    )  # fmt: skip
    bonus = [b.by_rank for b in bonuses]
    fewest = min(len(index.trie) if b is None else int((b.values > -np.inf).sum()) for b in bonus)
    if fewest < n:
        raise ValueError(f"{n} Term IDs a prompt are wanted, but only {fewest} are allowed after some history; ask for fewer.")
    prompts = grlm._prompts(index, [[index.catalog.position(i) for i in h] for h in histories])
    common = {"bonus": bonus, "pad_token_id": grlm.tokenizer.pad_token_id}
    if sampling == "beams":
        found = edge_search(grlm.model, index.walker, prompts, n, grlm.config.objective, **common)  # type: ignore[arg-type]
        groups = [(f.leaf, f.log_prob) for f in found]
    else:
        groups = sample(grlm.model, index.walker, prompts, n, grlm.config.objective, rng or np.random.default_rng(), **common)  # type: ignore[arg-type]
    if any(len(leaf) < n or not np.isfinite(log_prob).all() for leaf, log_prob in groups):
        raise ValueError("The model's scores became NaN or infinite; lower the learning rate.")
    return [Rollouts(prompt, *group) for prompt, group in zip(prompts, groups, strict=True)]


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
    pad_token_id: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` identifiers a prompt, drawn without replacement from the policy over what is allowed; fewer where fewer are.

    What is drawn from are the model's log-probabilities renormalised at each node over its children that lead to something allowed. Under
    objective "trie", with everything allowed, these are the model's own.

    Args:
        model: a causal LM in eval mode.
        walker: the trie, as NumPy arrays.
        prompts: int64 token ids of each prompt.
        objective: what `log_prob` is normalised over (`grlm_hf.decoding.walker.OBJECTIVES`).
        bonus: ``-inf`` for what a user must not get, by rank (`grlm_hf.decoding.index.Bonus`); nothing else of it counts.

    Returns:
        For each prompt (leaf int64 [n], log_prob float64 [n]), likeliest first.
    """
    prefixes = Prefixes(model, walker, prompts, objective, pad_token_id)
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
        own = phi[row] + step - _by_row(np.logaddexp, step, row)
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
    """Nodes that a sample keeps: whose, what they continue (see `grlm_hf.decoding.prefixes`), and their three log-probabilities."""

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
