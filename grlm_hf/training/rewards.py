"""Rewards of preference training: plain functions of a group of rollouts, and their form for TRL.

A reward gets a whole `Group`, so it may depend on a rollout's place among the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tasks.examples import is_identifier

if TYPE_CHECKING:
    from grlm_hf.priors.scores import Scorer


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt.

    Attributes:
        history: item ids, oldest first.
        target: identifier of the item that came next.
        found: the policy's identifiers, likeliest first; ``None`` for a text without one.
    """

    history: tuple[str, ...]
    target: Identifier
    found: tuple[Identifier | None, ...]


Reward = Callable[[Group], list[float]]
"""One number a rollout of the group."""


def exact_hit(group: Group) -> list[float]:
    """1 for the target, 0 for anything else."""
    return [float(tid == group.target) for tid in group.found]


def prefix(group: Group) -> list[float]:
    """Share of the target's parts that agree, counted from the first one up to the first difference: 1 for the target."""
    return [_in_common(tid, group.target) / len(group.target) for tid in group.found]


def _in_common(tid: Identifier | None, target: Identifier) -> int:
    n = 0
    for a, b in zip(tid or (), target, strict=False):
        if a != b:
            break
        n += 1
    return n


def rank_aware(group: Group) -> list[float]:
    """1 for the target. The others share a penalty of 1 in proportion to ``1 / log2(r + 1)``, the weight of place r in NDCG. All 0 if the
    target is missing or alone. (A ranking reward as in MiniOneRec, arXiv 2510.24431, which penalises hard negatives by their generation
    rank; the shares here are our own choice.)
    """
    others = [i for i, tid in enumerate(group.found) if tid != group.target]
    if len(others) in (0, len(group.found)):
        return [0.0] * len(group.found)
    gain = [1 / math.log2(place + 2) for place in range(len(group.found))]
    total = sum(gain[i] for i in others)
    return [1.0 if tid == group.target else -g / total for tid, g in zip(group.found, gain, strict=True)]


def validity(catalog: Catalog) -> Reward:
    """1 for an identifier of the catalog, 0 for anything else; for rollouts without a trie."""
    return lambda group: [float(tid is not None and bool(catalog.positions_of(tid))) for tid in group.found]


def collaborative(catalog: Catalog, scorer: Scorer, floor: float = -20.0) -> Reward:
    """How likely the item is under another recommender: 1 for its best item, falling linearly with log p to 0 at `floor` below that
    (natural log). Of items that share an identifier the best counts; 0 for what is no identifier of the catalog."""
    column = {item: i for i, item in enumerate(scorer.item_ids)}

    def reward(group: Group) -> list[float]:
        (log_p,) = scorer.scores([list(group.history)])
        best = float(log_p.max())

        def value(tid: Identifier | None) -> float:
            items = [catalog.items[p].item_id for p in catalog.positions_of(tid)] if tid else []
            rated = [float(log_p[column[i]]) - best for i in items if i in column]
            return max(0.0, 1 - max(rated) / floor) if rated else 0.0

        return [value(tid) for tid in group.found]

    return reward


def combined(rewards: Mapping[Reward, float]) -> Reward:
    """The weighted sum of rewards."""

    def reward(group: Group) -> list[float]:
        parts = [[weight * value for value in one(group)] for one, weight in rewards.items()]
        return [sum(values) for values in zip(*parts, strict=True)]

    return reward


def for_trl(reward: Reward, name: str, scheme: Scheme = TERMS) -> Callable[..., list[float]]:
    """A reward as TRL's `GRPOTrainer` takes it: ``f(prompts, completions, completion_ids, **columns) -> list[float]``.

    The dataset needs the column `target`, a list of terms. The history, a list of item ids, is the column `history`, or else the prompt.
    TRL keeps the rollouts of a prompt together, so neighbouring rows with equal history and target are a group. With a column `place`, each
    0 in it begins a group.

    Args:
        name: of the reward in TRL's log.
        scheme: what an identifier is in the completions.
    """

    def f(prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any) -> list[float]:
        found = groups(completions, columns.get("history", prompts), columns["target"], columns.get("place"), scheme)
        return [value for group in found for value in reward(group)]

    f.__name__ = name
    return f


def groups(
    completions: Sequence[Any],
    histories: Sequence[Any],
    targets: Sequence[Sequence[str]],
    places: Sequence[int] | None = None,
    scheme: Scheme = TERMS,
) -> Iterator[Group]:
    """Rows of TRL as groups; see `for_trl`. Completions are texts or lists of messages."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    start = 0
    for at in range(1, len(texts) + 1):
        if at < len(texts) and (
            places[at] > 0 if places is not None else (histories[at], targets[at]) == (histories[start], targets[start])
        ):
            continue
        yield Group(tuple(histories[start]), tuple(targets[start]), tuple(_answer(text, scheme) for text in texts[start:at]))
        start = at


def _answer(text: str, scheme: Scheme) -> Identifier | None:
    """The first identifier of the run that ends a text, so that a thought before it may name others; without such a run the first one in
    the text."""
    lines = [f"{line}\n" for line in text.rstrip().splitlines()]
    run = list(itertools.takewhile(lambda line: is_identifier(line, scheme), reversed(lines)))  # type: ignore[arg-type]
    return scheme.parse(run[-1] if run else text)
