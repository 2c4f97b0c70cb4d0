"""How the beams chose: the catalog's tree of terms, with the probability of the branches kept, given up and ruled out.

The search (`grlm_hf.decoding.search.edge_search`) goes from choice to choice of tokens. The nodes where it stopped, none of them below
another, are gathered here by terms. Under the trie objective their probabilities sum to 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from grlm_hf.decoding.rules import Rules
from grlm_hf.engines.protocol import open_prefixes
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.trie.ranges import RangeMax

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation

FATES = ("kept", "found", "given up", "ruled out")
"""A branch leads to a recommendation; was reached, but others rank higher; was replaced by better beams; is emptied by filters or bans."""


@dataclass(frozen=True)
class Reached:
    """A node where the search stopped: a complete identifier, or several.

    `terms` are the terms that all identifiers of the node begin with. `log_prob` is natural.
    """

    terms: Identifier
    log_prob: float
    complete: bool
    fate: str


@dataclass
class Branch:
    """A prefix of terms. `label` is its last term, or several where only one can follow; `probability` is that of all its identifiers."""

    label: Identifier
    probability: float
    fate: str
    place: int = 0
    """Place of the recommendation that ends here, from 1; 0: none ends here."""
    children: list[Branch] = field(default_factory=list)
    others: int = 0
    """Number of children that are not shown."""
    others_probability: float = 0.0


def walk(grlm: GRLMForRecommendation, history: Sequence[str], num_beams: int, rules: Rules) -> list[Reached]:
    """Repeats the search of ``recommend(history, rules=rules, num_beams=…, edge_wise=True)`` and returns all nodes where it stopped."""
    index = grlm.shelf.index
    walker, catalog = index.walker, index.catalog
    (adjustment,) = index.adjustments(rules, [history])
    by_rank = adjustment.by_rank or RangeMax(np.zeros(walker.n))
    identifiers = [catalog.identifiers[leaf] for leaf in index.trie.leaf]
    prompt = grlm.prompts(index, [[catalog.position(i) for i in history]])
    reached: list[Reached] = []
    with torch.inference_mode():
        prefixes = open_prefixes(grlm.engine, grlm.batch(index, prompt))
        expanded, log_prob = prefixes.root(), np.zeros(1)
        while True:
            child_log_prob = log_prob[expanded.row] + expanded.logp
            key = by_rank.joined(child_log_prob, expanded.lo, expanded.hi)
            single = expanded.hi - expanded.lo == 1
            have = expanded.end[expanded.row]
            over = single if grlm.config.objective == "trie" else single & (have + 1 == walker.length(expanded.lo))
            live = np.flatnonzero(~over & (key > -np.inf))
            chosen = live[np.argsort(-key[live], kind="stable")[:num_beams]]
            for i in sorted(set(range(len(key))) - set(chosen.tolist())):
                fate = "ruled out" if key[i] == -np.inf else "found" if over[i] else "given up"
                below = identifiers[expanded.lo[i] : expanded.hi[i]]
                shared = tuple(os.path.commonprefix(below))  # noqa: RUF071  of tuples it is the common prefix of terms
                reached.append(Reached(shared, float(child_log_prob[i]), bool(single[i]), fate))
            if not len(chosen):
                return reached
            slot, at = expanded.slot[expanded.row[chosen]], have[chosen]
            log_prob = child_log_prob[chosen]
            expanded = prefixes.expand(np.zeros(len(chosen), np.int64), slot, at, expanded.lo[chosen], expanded.hi[chosen])
            log_prob = log_prob + expanded.chain.sum(1)


def tree(reached: Sequence[Reached], recommended: Sequence[Identifier], dead_ends: int = 2) -> Branch:
    """The nodes where a search stopped, by terms; children by falling probability. Only branches to a recommendation have children.

    Args:
        recommended: Term IDs, best first.
        dead_ends: maximum number of children without a recommendation that are shown at each branch, the likeliest. The others are counted.
    """
    place = {term_id: n for n, term_id in reversed(list(enumerate(recommended, 1)))}
    below: dict[Identifier, list[Reached]] = {}
    for one in reached:
        for n in range(len(one.terms) + 1):
            below.setdefault(one.terms[:n], []).append(one)
    follow: dict[Identifier, list[Identifier]] = {}
    for prefix in below:
        if prefix:
            follow.setdefault(prefix[:-1], []).append(prefix)

    def fate_of(prefix: Identifier) -> str:
        here = below[prefix]
        if any(r.terms in place and r.complete and r.fate == "found" for r in here):
            return "kept"
        return next(fate for fate in FATES[1:] if any(r.fate == fate for r in here))

    def grown(prefix: Identifier, start: int) -> Branch:
        while prefix and len(follow.get(prefix, ())) == 1 and len(below[follow[prefix][0]]) == len(below[prefix]):
            (prefix,) = follow[prefix]  # all nodes continue with the same term
        probability = sum(math.exp(r.log_prob) for r in below[prefix])
        ends = [r for r in below[prefix] if r.complete and r.terms == prefix]  # an identifier may begin others
        branch = Branch(prefix[start:], probability, fate_of(prefix), place.get(prefix, 0) if any(r.fate == "found" for r in ends) else 0)
        if branch.fate != "kept":
            return branch
        following = sorted(follow.get(prefix, ()), key=lambda p: -sum(math.exp(r.log_prob) for r in below[p]))
        dead = [p for p in following if fate_of(p) != "kept"]
        shown = [p for p in following if p not in dead[dead_ends:]]
        branch.children = [grown(p, len(prefix)) for p in shown]
        branch.others = len(dead[dead_ends:])
        named = sum(math.exp(r.log_prob) for r in ends) + sum(c.probability for c in branch.children)
        branch.others_probability = max(0.0, probability - named)
        return branch

    return grown((), 0)
