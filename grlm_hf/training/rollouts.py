"""Rollouts for preference training: distinct identifiers of the catalog, from the constrained search.

Two ways to choose them:

- ``"beams"``: the best ones by beam search. With the rewards a group gives, a policy-gradient step is then a listwise ranking step over
  the very list that the recommender would show.
- ``"sampled"``: drawn from the policy without replacement (`grlm_hf.decoding.sampling`).

Both give only distinct identifiers of the catalog, so no rollout is wasted on what the recommender could never show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.decoding.rules import Rules
from grlm_hf.decoding.sampling import sample
from grlm_hf.decoding.search import edge_search

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation


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
    """`n` questions from training histories: (the items before a place, the item there). All places come once, in a seeded order that does
    not depend on the order of the histories, then all of them again.

    Args:
        exclude_seen: leave out places whose item is in the history before them.

    Raises:
        ValueError: no such place exists.
    """
    ordered = sorted(histories, key=lambda h: (h.user_id, h.items))
    places = [(i, t) for i, h in enumerate(ordered) for t in range(1, len(h.items)) if not (exclude_seen and h.items[t] in h.items[:t])]
    if not places:
        raise ValueError(f"None of the {len(ordered)} training histories has two different items; expected one at least.")
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
        sampling: "beams" or "sampled", as `grlm_hf.training.grpo.GRPOConfig` describes them.
        exclude_seen: leave out identifiers whose items are all in the history.
        rng: draws the samples.

    Raises:
        ValueError: fewer than `n` identifiers are allowed after some history; or the model's scores are not finite.
    """
    index = grlm.shelf.index
    adjustments = [a.by_rank for a in index.adjustments(Rules(exclude_seen=exclude_seen), histories)]
    fewest = min(len(index.trie) if a is None else int((a.values > -np.inf).sum()) for a in adjustments)
    if fewest < n:
        raise ValueError(f"{n} identifiers a prompt are needed, but after some history only {fewest} are allowed; lower the number.")
    prompts = grlm.prompts(index, [[index.catalog.position(i) for i in h] for h in histories])
    batch = grlm.batch(index, prompts)
    if sampling == "beams":
        groups = [(found.leaf, found.log_prob) for found in edge_search(grlm.engine, batch, n, adjustments)]
    else:
        groups = sample(grlm.engine, batch, n, rng or np.random.default_rng(), adjustments)
    if any(len(leaf) < n or not np.isfinite(log_prob).all() for leaf, log_prob in groups):
        raise ValueError("The model's scores became NaN or infinite; lower grpo.learning_rate.")
    return [Rollouts(prompt, *group) for prompt, group in zip(prompts, groups, strict=True)]
