"""Our own searches over a trie. All compute a prompt once a user, and score legal children only (`grlm_hf.engines.protocol`).

- `beam_search` keeps the beams that transformers' beam search keeps, token by token, so its items and scores are those of
  ``generate()`` with the processor and ``length_penalty=0.0``; but forced tokens are computed a run at a time.
- `edge_search` goes from choice to choice instead of from token to token: fewer forward passes, another (usually as good) set of beams.
  With ``exact=True`` it then continues best-first with the prefixes that it had dropped, until no prefix can lead to anything better. A
  prefix's log-probability bounds that of its completions (A* over the trie with an admissible bound; Hart, Nilsson and Raphael, 1968).

A request adds one number to each identifier, its score adjustment: ``-inf`` forbids it, ``λ log prior`` weighs it. A prefix is ranked by
its log-probability plus the greatest adjustment below it, a range maximum over the trie's leaf order. So beams go only where something is
allowed, and the bound of the exact search stays a bound. In a mixture the adjustment is a probability that is added to the prefix's own
(`grlm_hf.decoding.index.MixedMax`); that sum only rises with both, so it is a bound, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grlm_hf.decoding.nodes import Nodes
from grlm_hf.decoding.rules import SearchOptions
from grlm_hf.engines.protocol import Batch, Engine, Expansion, open_prefixes
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.walker import TrieWalker


@dataclass(frozen=True, eq=False)
class Found:
    """One user's identifiers, best first.

    Attributes:
        leaf: int64 [k]; which (`Trie`'s numbering of the paths given to it).
        log_prob: float64 [k]; natural-log probability of the identifier.
        score: float64 [k]; what they are ranked by: ``log_prob / tokens ** length_penalty + adjustment``.
        certified: nothing better exists. Always False after a beam search.
        gap: upper bound on the score of the best missing identifier minus the score of the last one found; 0 when certified, nan after a
            beam search.
        forwards: forward passes, shared with the users of the same batch.
    """

    leaf: np.ndarray
    log_prob: np.ndarray
    score: np.ndarray
    certified: bool
    gap: float
    forwards: int


class Ranking:
    """How identifiers and prefixes are ranked, for each user.

    Args:
        walker: the trie, as NumPy arrays.
        adjustments: for each user a `RangeMax` over float [n] by rank, or ``None``; users may share one.
        length_penalty: as in transformers: log-probabilities are divided by ``tokens ** length_penalty``.
    """

    def __init__(self, walker: TrieWalker, adjustments: Sequence[RangeMax | None], length_penalty: float = 0.0):
        self.length_penalty = length_penalty
        self._n_users = len(adjustments)
        self._shared: dict[int, tuple[RangeMax, list[int]]] = {}  # each adjustment once, and its users
        for user, one in enumerate(adjustments):
            if one is not None:
                self._shared.setdefault(id(one), (one, []))[1].append(user)
        if length_penalty:
            self._longest = RangeMax(walker.length(np.arange(walker.n)).astype(np.float32))

    def __call__(self, user: np.ndarray, logp: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """The score of identifiers, and for prefixes a bound on the score of all their completions. float64 [n]."""
        if self.length_penalty:
            logp = logp / self._longest(lo, hi).astype(np.float64) ** self.length_penalty
        if self._shared:
            logp = logp.copy()
        for adjustment, users in self._shared.values():
            mine = np.isin(user, users) if len(users) < self._n_users else slice(None)
            logp[mine] = adjustment.joined(logp[mine], lo[mine], hi[mine])
        return logp


def _best(user: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by user and, within one, by falling key; and each one's place in that order, from 0."""
    order = np.lexsort((-key, user))
    grouped = user[order]
    return order, np.arange(len(order)) - grouped.searchsorted(grouped)


class _Complete:
    """The best `k` complete identifiers of each user so far."""

    def __init__(self, n_users: int, k: int):
        self.k, self.n_users = k, n_users
        self.user, self.rank = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.logp, self.score = np.zeros(0), np.zeros(0)
        self.worst = np.full(n_users, -np.inf)

    def add(self, user: np.ndarray, rank: np.ndarray, logp: np.ndarray, score: np.ndarray) -> None:
        """Also updates `worst` [users]: the score that another one has to beat, -inf while there are fewer than `k`."""
        if not len(user):
            return
        together = [np.concatenate(x) for x in ((self.user, user), (self.rank, rank), (self.logp, logp), (self.score, score))]
        order, place = _best(together[0], together[3])
        order = order[place < self.k]
        self.user, self.rank, self.logp, self.score = (x[order] for x in together)
        full = np.bincount(self.user, minlength=self.n_users) == self.k
        ends = np.cumsum(np.bincount(self.user, minlength=self.n_users)) - 1
        self.worst = np.where(full, self.score[ends.clip(0)], -np.inf)

    def found(self, leaf: np.ndarray, forwards: int, gaps: np.ndarray) -> list[Found]:
        borders = np.searchsorted(self.user, np.arange(self.n_users + 1))
        return [
            Found(leaf[self.rank[a:b]].astype(np.int64), self.logp[a:b], self.score[a:b], bool(gap == 0), float(gap), forwards)
            for a, b, gap in zip(borders[:-1], borders[1:], gaps, strict=True)
        ]


def search(
    engine: Engine,
    batch: Batch,
    num_beams: int,
    options: SearchOptions,
    *,
    k: int,
    adjustments: Sequence[RangeMax | None],
    deadline: float | None = None,
) -> list[Found]:
    """The search that `options` state: `beam_search` or `edge_search`. `num_beams` is ``options.width(...)``, `deadline` is
    ``options.deadline(...)``."""
    penalty = options.length_penalty
    if options.exact:
        limit = options.max_forwards
        return edge_search(engine, batch, num_beams, adjustments, penalty, k=k, exact=True, deadline=deadline, max_forwards=limit)
    return (edge_search if options.edge_wise else beam_search)(engine, batch, num_beams, adjustments, penalty)


@torch.inference_mode()
def beam_search(
    engine: Engine,
    batch: Batch,
    num_beams: int,
    adjustments: Sequence[RangeMax | None] | None = None,
    length_penalty: float = 0.0,
) -> list[Found]:
    """The best identifiers of each prompt, `num_beams` at most, token by token as transformers' beam search goes.

    Live prefixes compete at equal length, and a complete identifier competes once more with the next tokens of the others before it
    is accepted.

    Args:
        batch: the prompts. Under the objective "trie" forced tokens have probability 1, so a beam with nothing left to choose needs no
            forward. `Batch.lookahead` changes the cost, not the result.
        adjustments, length_penalty: as in `Ranking`.

    Raises `ValueError` as `Engine.prefixes` does.
    """
    prefixes, walker, prompts, objective = open_prefixes(engine, batch), batch.walker, batch.prompts, batch.objective
    ranking = Ranking(walker, adjustments or [None] * len(prompts), length_penalty)
    complete = _Complete(len(prompts), num_beams)
    known = _Records(prefixes.root())
    # Live beams, all `depth` tokens long: user, log-probability, node; the record of what follows, -1 if there is none yet; and the end of
    # their computed part: its slot and number of tokens.
    user = np.arange(len(prompts))
    logp, record, slot, have = np.zeros(len(user)), user.copy(), user * 0 - 1, user * 0
    lo, hi, _ = walker.root(len(user))
    depth = 0
    while True:
        # 1. one forward for the beams that need to know what follows, and for those that soon will
        at = np.full(len(user), depth)
        ended = walker.ends(lo, hi, at)
        lacks = ~ended & ((record < 0) | (known.end[record] < depth))
        if objective == "trie":
            lacks &= hi - lo > 1
            urgent = lacks & (walker.choice_depth(lo, hi) == depth) if lacks.any() else lacks
        else:
            urgent = lacks
        if urgent.any():
            record[lacks] = known.add(prefixes.expand(user[lacks], slot[lacks], have[lacks], lo[lacks], hi[lacks]), have[lacks])
            lacks[:] = False
        # 2. candidates: the ends of identifiers, forced tokens, and children at a choice
        forced = ~ended & (lacks | (depth < known.end[record]) | ((hi - lo == 1) & (objective == "trie")))
        one = np.flatnonzero(ended | forced)
        gain = np.where(forced[one] & ~lacks[one], known.forced(record[one], depth), 0.0)
        beam, child_lo, child_hi, child_logp = known.children(np.flatnonzero(~ended & ~forced), record)
        source = np.concatenate((one, beam))
        chosen = np.arange(len(source)) >= len(one)
        next_lo, next_hi = np.concatenate((lo[one], child_lo)), np.concatenate((hi[one], child_hi))
        next_logp = logp[source] + np.concatenate((gain, child_logp))
        key = ranking(user[source], next_logp, next_lo, next_hi)
        # 3. the best 2 * width; a complete identifier among the first `width` is accepted
        legal = np.flatnonzero(key > -np.inf)
        order, place = _best(user[source[legal]], key[legal])
        pick = legal[order[place < 2 * num_beams]]
        place = place[place < 2 * num_beams]
        done = ended[source[pick]] & ~chosen[pick]
        accepted = pick[done & (place < num_beams)]
        complete.add(user[source[accepted]], next_lo[accepted], next_logp[accepted], key[accepted])
        # 4. the best others live on, unless no completion of them can still enter
        pick = pick[~done]
        order, place = _best(user[source[pick]], key[pick])
        pick = pick[order[place < num_beams]]
        pick = pick[key[pick] > complete.worst[user[source[pick]]]]
        if not len(pick):
            return complete.found(walker.trie.leaf, prefixes.forwards, np.full(len(prompts), np.nan))
        beam, fresh = source[pick], chosen[pick]
        slot = np.where(fresh, known.slot[record[beam]], slot[beam])
        have = np.where(fresh, depth, have[beam])
        user, logp, lo, hi = user[beam], next_logp[pick], next_lo[pick], next_hi[pick]
        record = np.where(fresh, -1, record[beam])
        depth += 1


class _Records:
    """The results of all forwards so far, a row a node (see `Expansion`)."""

    def __init__(self, root: Expansion):
        self.slot, self.end = root.slot, root.end
        self._from = root.end * 0  # depth of the first token in `_chain`
        self._chain = np.zeros((len(root.slot), 0))
        self._first = np.concatenate(([0], np.cumsum(np.bincount(root.row, minlength=len(root.slot)))))
        self._lo, self._hi, self._logp = root.lo, root.hi, root.logp

    def add(self, new: Expansion, have: np.ndarray) -> np.ndarray:
        """Adds the nodes of a forward; returns their rows."""
        before = len(self.slot)
        self.slot, self.end = np.concatenate((self.slot, new.slot)), np.concatenate((self.end, new.end))
        self._from = np.concatenate((self._from, have + 1))
        width = max(self._chain.shape[1], new.chain.shape[1])
        self._chain = np.concatenate([np.pad(c, ((0, 0), (0, width - c.shape[1]))) for c in (self._chain, new.chain)])
        count = np.bincount(new.row, minlength=len(new.slot))
        self._first = np.concatenate((self._first, self._first[-1] + np.cumsum(count)))
        self._lo, self._hi = np.concatenate((self._lo, new.lo)), np.concatenate((self._hi, new.hi))
        self._logp = np.concatenate((self._logp, new.logp))
        return np.arange(before, len(self.slot))

    def forced(self, record: np.ndarray, depth: int) -> np.ndarray:
        """Log-probability of the forced token at `depth`. Rows without a forced token return an arbitrary value; callers mask them."""
        if not self._chain.shape[1]:
            return np.zeros(len(record))
        return self._chain[record, (depth - self._from[record]).clip(0, self._chain.shape[1] - 1)]

    def children(self, beam: np.ndarray, record: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(beam, lo, hi, logp) of the children of these beams."""
        first, count = self._first[record[beam]], np.diff(self._first)[record[beam]]
        which = np.repeat(np.arange(len(beam)), count)
        at = np.arange(len(which)) + (first - (count.cumsum() - count))[which]
        return beam[which], self._lo[at], self._hi[at], self._logp[at]


@torch.inference_mode()
def edge_search(
    engine: Engine,
    batch: Batch,
    num_beams: int,
    adjustments: Sequence[RangeMax | None] | None = None,
    length_penalty: float = 0.0,
    *,
    k: int | None = None,
    exact: bool = False,
    deadline: float | None = None,
    max_forwards: int | None = None,
) -> list[Found]:
    """The best `k` identifiers of each prompt, from choice to choice.

    First a beam search from choice to choice: of all children of the last nodes, the best `num_beams` are expanded, each with its
    whole forced run. If `exact`, the search then expands the best `num_beams` of all prefixes that it knows, of any depth, until none
    can still beat the `k` found.

    Args:
        engine, batch, adjustments, length_penalty: as in `beam_search`; but if not `exact`, a run that `Batch.lookahead` cuts competes as
            a choice, and the result may differ.
        num_beams: nodes expanded at once.
        k: identifiers wanted, by default `num_beams`.
        exact: continue until the best `k` are certain.
        deadline: `time.perf_counter` value after which no further forward starts. One that runs is not stopped.
        max_forwards: the same as a number of forward passes.

    Where the search was stopped early, `Found.gap` bounds what is missing; ``inf`` if fewer than `k` were found.
    """
    k = k or num_beams
    prefixes, walker, prompts, objective = open_prefixes(engine, batch), batch.walker, batch.prompts, batch.objective
    ranking = Ranking(walker, adjustments or [None] * len(prompts), length_penalty)
    complete = _Complete(len(prompts), k)
    users = np.arange(len(prompts))
    front = Nodes.empty()
    found, logp = prefixes.root(), np.zeros(len(users))
    user = users
    diving = np.ones(len(users), bool)
    while True:
        row, child_logp = found.row, logp[found.row] + found.logp
        key = ranking(user[row], child_logp, found.lo, found.hi)
        new = Nodes(user[row], found.slot[row], found.end[row], found.lo, found.hi, child_logp, key)
        single = new.hi - new.lo == 1
        over = single if objective == "trie" else single & (new.have + 1 == walker.length(new.lo))
        legal = over & (key > -np.inf)
        complete.add(new.user[legal], new.lo[legal], new.logp[legal], key[legal])
        young = new[~over]
        front = Nodes.join(young, front)
        key = front.key
        open_ = (key > complete.worst[front.user]) & (key > -np.inf)
        fresh = np.arange(len(key)) < len(young.user)
        # While a user dives, only children of the last forward are expanded; the others wait, or are dropped.
        diving &= np.bincount(front.user[open_ & fresh], minlength=len(users)) > 0
        ready = open_ & (fresh | ~diving[front.user]) if exact else open_ & fresh
        order, place = _best(front.user[ready], key[ready])
        pick = np.flatnonzero(ready)[order[place < num_beams]]
        late = (deadline is not None and time.perf_counter() >= deadline) or (
            max_forwards is not None and prefixes.forwards >= max_forwards
        )
        if not len(pick) or late:
            gap = np.full(len(users), np.nan)
            if exact:
                best_left = np.full(len(users), -np.inf)
                np.maximum.at(best_left, front.user[open_], key[open_])
                gap = np.zeros(len(users))
                np.subtract(best_left, complete.worst, out=gap, where=best_left > -np.inf)
            return complete.found(walker.trie.leaf, prefixes.forwards, gap)
        chosen = front[pick]
        if exact:
            open_[pick] = False
            front = front[open_]
        else:
            front = Nodes.empty()
        found = prefixes.expand(chosen.user, chosen.slot, chosen.have, chosen.lo, chosen.hi)
        user, logp = chosen.user, chosen.logp + found.chain.sum(1)
