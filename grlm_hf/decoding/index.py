"""A catalog and its trie as one immutable value: what a search reads. A living catalog is a sequence of these. It compiles a request's
rules into one number an identifier, and turns identifiers back into items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.decoding.rules import Rules
from grlm_hf.tokens import identifier_tokens, line_tokens, tokenizer_hash
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.splice import add, remove
from grlm_hf.trie.walker import TrieWalker


class MixedMax(RangeMax):
    """Range maxima of log-probabilities that a mixture adds to the model's own as probabilities."""

    def joined(self, log_prob: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """``log(p + exp(maximum))``, -inf where the maximum is; float64 [m]."""
        return _mixed(log_prob, self(lo, hi))


def _mixed(log_prob: np.ndarray, added: np.ndarray) -> np.ndarray:
    return np.where(added > -np.inf, np.logaddexp(log_prob, added), -np.inf)


@dataclass(frozen=True, eq=False)
class ScoreAdjustment:
    """What a request adds to the model's log-probabilities; in a mixture, natural logs of what it adds to the probabilities.

    Attributes:
        by_item: float64 [n_items]; ``-inf`` where the item may not be recommended. ``None``: nothing is added.
        by_rank: the same for identifiers, each that of its best item, in the trie's leaf order; of a mixture a `MixedMax`.
    """

    by_item: np.ndarray | None = None
    by_rank: RangeMax | None = None

    def joined(self, log_prob: np.ndarray, position: Any = slice(None)) -> np.ndarray:
        """The scores of the items at these positions of the catalog, by default of all, from log-probabilities, float64 [n]."""
        if self.by_item is None:
            return log_prob
        added: np.ndarray = self.by_item[position]
        return _mixed(log_prob, added) if isinstance(self.by_rank, MixedMax) else log_prob + added


class RankedItem(NamedTuple):
    """An item of a ranking: its position in the catalog, its score, and the row of its identifier among the search's results."""

    position: int
    score: float
    row: int


_LEAST = 1e-300  # of a mixture's prior; its log is finite, so that it forbids nothing
_COMPARED = 20_000
"""Identifiers of a saved trie that are compared with the tokenizer's own tokens; of more, a random sample of this size."""


def _of_these(trie: Trie, catalog: Catalog, tokenizer: Any) -> bool:
    """Whether a trie's paths are those of the catalog's identifiers."""
    n = len(trie)
    some = np.arange(n) if n <= _COMPARED else np.random.default_rng().choice(n, _COMPARED, replace=False)
    paths = trie.paths()
    lines = [catalog.scheme.line(catalog.identifiers[i]) for i in some]
    return all(np.array_equal(paths[i], path) for i, path in zip(some, line_tokens(tokenizer, lines), strict=True))


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """Make one with `build`; `updated` gives the next.

    Attributes:
        trie: of ``catalog.identifiers``; leaf ``i`` is the ``i``-th.
        paths: int32 tokens of each identifier.
        version: 0, and one more with each update.
    """

    catalog: Catalog
    trie: Trie
    paths: Sequence[np.ndarray]
    version: int = 0
    walker: TrieWalker = field(init=False)
    _of_domain: dict[str, ScoreAdjustment] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "walker", TrieWalker(self.trie))

    @classmethod
    def build(cls, catalog: Catalog, tokenizer: Any, trie: Trie | None = None) -> SearchIndex:
        """From scratch; or with the trie of these identifiers, as saved."""
        if trie is None:
            return cls(catalog, trie := catalog.trie(tokenizer), trie.paths())
        if trie.tokenizer_hash != tokenizer_hash(tokenizer):
            raise ValueError(
                f"The trie was built with another tokenizer (hash {trie.tokenizer_hash}; this one has {tokenizer_hash(tokenizer)})."
            )
        if len(trie) != len(catalog.identifiers):
            raise ValueError(
                f"The trie holds {len(trie)} identifiers, the catalog {len(catalog.identifiers)}: they do not belong together."
            )
        if not _of_these(trie, catalog, tokenizer):
            trie = catalog.trie(tokenizer)  # a file may claim anything: what it says must be what these identifiers are written with
        return cls(catalog, trie, trie.paths())

    def updated(self, catalog: Catalog, tokenizer: Any) -> SearchIndex:
        """The next version, for a catalog that shares most identifiers with this one: only what differs is tokenized and spliced."""
        old = self.catalog.identifiers
        number = {tid: i for i, tid in enumerate(catalog.identifiers)}
        new = [tid for tid in catalog.identifiers if not self.catalog.positions_of(tid)]
        added = [np.array(path, np.int32) for path in identifier_tokens(tokenizer, catalog.scheme, new)]
        to = np.fromiter((number.get(tid, -1) for tid in (*old, *new)), np.int32, len(old) + len(new))
        trie = remove(add(self.trie, added), np.flatnonzero(to < 0), to)
        before = (*self.paths, *added)
        return SearchIndex(catalog, trie, [before[i] for i in np.argsort(to, kind="stable")[(to < 0).sum() :]], self.version + 1)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Item positions by rank, in tie order within one, int64 [n_items]; and where each rank's begin, int64 [n + 1]."""
        groups = [self.catalog.positions_of(self.catalog.identifiers[leaf]) for leaf in self.trie.leaf]
        first = np.zeros(len(groups) + 1, np.int64)
        np.cumsum([len(g) for g in groups], out=first[1:])
        return np.fromiter((p for g in groups for p in g), np.int64, len(self.catalog)), first

    def path(self, position: int) -> np.ndarray:
        """Int32 tokens of the item at a position of the catalog."""
        return self.paths[self._leaf_of[position]]

    @cached_property
    def _leaf_of(self) -> np.ndarray:
        """Int64 [n_items]: the leaf of each position of the catalog."""
        number = {tid: i for i, tid in enumerate(self.catalog.identifiers)}
        return np.fromiter((number[tid] for tid in self.catalog.item_identifiers), np.int64, len(self.catalog))

    @cached_property
    def _group_size(self) -> np.ndarray:
        """Int64 [n_items]: the items that share each item's identifier."""
        return np.bincount(self._leaf_of)[self._leaf_of]

    def adjustments(self, rules: Rules, histories: Sequence[Sequence[str]]) -> list[ScoreAdjustment]:
        """What the rules add to an item's log-probability after each history: ``prior_weight · log prior``, its share of a shared
        identifier, ``-inf`` if it may not be recommended. What all histories have in common is computed once.

        Raises `ValueError` for unknown ids, an unknown domain, a mask or prior of another shape, a negative or non-finite weight, banned
        terms where identifiers have no terms, or ``prior="own"``, which the recommender resolves.
        """
        if isinstance(rules.prior, str) and rules.prior == "none":
            rules = replace(rules, prior=None)
        prior = rules.prior
        if prior is not None and not isinstance(prior, Mapping) and np.ndim(prior) == 2:
            rows = np.asarray(prior)
            if len(rows) != len(histories):
                raise ValueError(f"prior has {len(rows)} rows for {len(histories)} histories; expected one a history.")
            seen: Sequence[Sequence[str]] = histories if rules.exclude_seen else [()] * len(histories)
            return [
                self.adjustment(replace(rules, prior=row, exclude=(*rules.exclude, *items))) for row, items in zip(rows, seen, strict=True)
            ]
        common = self.adjustment(rules)
        if not rules.exclude_seen:
            return [common] * len(histories)
        found = []
        for history in histories:
            by_item = np.zeros(len(self.catalog)) if common.by_item is None else common.by_item.copy()
            by_item[[self.catalog.position(i) for i in history]] = -np.inf
            found.append(self._adjustment(by_item, isinstance(common.by_rank, MixedMax)))
        return found

    def adjustment(self, rules: Rules) -> ScoreAdjustment:
        """`adjustments` of the rules that depend on no history."""
        if isinstance(rules.prior, str):
            raise ValueError("prior='own' needs a checkpoint with a prior; give weights of items.")
        n = len(self.catalog)
        of_domain = None if rules.domain is None else self.domain(rules.domain)
        total = np.zeros(n) if of_domain is None else of_domain.by_item.copy()  # type: ignore[union-attr]
        changed = False
        if rules.allow is not None:
            total[~self._allowed(rules.allow)] = -np.inf
            changed = True
        for item_id in rules.exclude:
            total[self.catalog.position(item_id)] = -np.inf
            changed = True
        for term in rules.banned_terms:
            total[self._with_term.get(self.term(term, "banned_terms"), [])] = -np.inf
            changed = True
        mixed = rules.prior is not None and rules.prior_form == "mixture"
        if mixed:
            if rules.shared != "full":
                raise ValueError(f"shared={rules.shared!r} splits a log-probability, which a mixture does not add up; leave it out.")
            total += np.log(np.maximum(rules.prior_weight * self._weights(rules.prior), _LEAST))
            changed = True
        elif rules.prior is not None:
            weight = self._weights(rules.prior)
            with np.errstate(divide="ignore"):
                total += np.where(weight > 0, rules.prior_weight * np.log(np.where(weight > 0, weight, 1.0)), -np.inf)
                if rules.shared == "prior":
                    of_group = np.bincount(self._leaf_of, weight)[self._leaf_of]
                    total += np.log(np.divide(weight, of_group, out=np.zeros(n), where=of_group > 0))
            changed = True
        if rules.shared == "equal" and len(self.trie) < n:
            total -= np.log(self._group_size)
            changed = True
        return self._adjustment(total, mixed) if changed else of_domain or ScoreAdjustment()

    def domain(self, name: str) -> ScoreAdjustment:
        """Keeps a search to the items of one domain: ``-inf`` for all others. Computed once for this version of the catalog. Raises
        ``ValueError`` for an unknown domain."""
        positions = self.catalog.positions_in(name)
        if (found := self._of_domain.get(name)) is None:
            by_item = np.full(len(self.catalog), -np.inf)
            by_item[positions] = 0.0
            by_item.setflags(write=False)  # searches share it
            found = self._of_domain[name] = self._adjustment(by_item)
        return found

    def term(self, text: str, where: str) -> str:
        """The normal form of a term that a person wrote. Raises ``ValueError`` for a text that is no term, or where people cannot read the
        identifiers; `where` names the argument."""
        scheme = self.catalog.scheme
        if not scheme.readable:
            raise ValueError(f"{where} names parts of identifiers, but a {scheme.noun} has no words; name items by id instead (exclude).")
        if not (term := scheme.part(str(text))):
            raise ValueError(f"{where} holds {text!r}, which is no term: it has no letter or digit.")
        return term

    @cached_property
    def _with_term(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, identifier in enumerate(self.catalog.item_identifiers):
            for term in set(identifier):
                found.setdefault(term, []).append(position)
        return found

    def _allowed(self, allow: tuple[str, ...] | np.ndarray) -> np.ndarray:
        n = len(self.catalog)
        if not isinstance(allow, tuple):
            mask = np.asarray(allow)
            if mask.dtype != bool or mask.shape != (n,):
                raise ValueError(f"allow is an array of {mask.dtype} {list(mask.shape)}; expected bool [{n}], one an item of the catalog.")
            return mask
        mask = np.zeros(n, bool)
        mask[[self.catalog.position(item_id) for item_id in allow]] = True
        return mask

    def _weights(self, prior: Mapping[str, float] | np.ndarray) -> np.ndarray:
        n = len(self.catalog)
        if isinstance(prior, Mapping):
            weight = np.ones(n)
            weight[[self.catalog.position(item_id) for item_id in prior]] = list(prior.values())
        else:
            weight = np.asarray(prior, np.float64)
        if weight.shape != (n,):
            raise ValueError(f"prior has shape {list(weight.shape)}; expected [{n}], one weight an item of the catalog.")
        if not (np.isfinite(weight) & (weight >= 0)).all():
            bad = int(np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))[0])
            raise ValueError(f"prior is {weight[bad]} for item {self.catalog.items[bad].item_id!r}; expected finite weights of at least 0.")
        return weight

    def _adjustment(self, by_item: np.ndarray, mixed: bool = False) -> ScoreAdjustment:
        items, first = self._groups
        return ScoreAdjustment(by_item, (MixedMax if mixed else RangeMax)(np.maximum.reduceat(by_item[items], first[:-1])))

    def items(self, leaf: np.ndarray, score: np.ndarray, adjustment: ScoreAdjustment) -> list[RankedItem]:
        """The items of ranked identifiers, best first. Items of equal score within an identifier are in ascending order of item_id.

        Args:
            leaf: int64 [k].
            score: float64 [k]; log-probabilities with length penalty and without adjustment.
            adjustment: as the search had it; items at ``-inf`` are left out.
        """
        items, first = self._groups
        rank = self.trie.rank[leaf]
        counts = np.diff(first)[rank]
        row = np.repeat(np.arange(len(rank)), counts)
        position = items[np.arange(len(row)) + np.repeat(first[rank] - (counts.cumsum() - counts), counts)]
        scores = adjustment.joined(np.asarray(score, np.float64)[row], position)
        found = [RankedItem(int(p), float(s), int(r)) for p, s, r in zip(position, scores, row, strict=True)]
        return sorted((item for item in found if item.score > -np.inf), key=lambda item: -item.score)
