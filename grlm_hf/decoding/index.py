"""A catalog and its trie as one immutable value: what a search reads. A living catalog is a sequence of these.

It also turns what a request asks (allowed and excluded items, banned terms, priors) into the one number an identifier that the search
knows, its bonus, and identifiers back into items.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.identifiers.terms import normalise
from grlm_hf.tokens import identifier_tokens, tokenizer_hash
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.splice import add, remove
from grlm_hf.trie.walker import TrieWalker

SHARED = ("full", "equal", "prior")
"""How items that share a Term ID score: each its whole probability; an equal part of it, ``1 / items``; or a part in proportion to the
items' priors."""


@dataclass(frozen=True, eq=False)
class Bonus:
    """What a request adds to log-probabilities.

    Attributes:
        by_item: float64 [n_items]; ``-inf`` where the item may not be recommended. ``None``: nothing is asked.
        by_rank: the same of identifiers, each that of its best item, in the trie's leaf order.
    """

    by_item: np.ndarray | None
    by_rank: RangeMax | None


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """Make one with `build`; `updated` gives the next.

    Attributes:
        catalog: the items.
        trie: of ``catalog.identifiers``; leaf ``i`` is the ``i``-th.
        paths: int32 tokens of each identifier.
        version: 0, and one more with each update.
    """

    catalog: Catalog
    trie: Trie
    paths: Sequence[np.ndarray]
    version: int = 0
    walker: TrieWalker = field(init=False)
    _of_domain: dict[str, Bonus] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "walker", TrieWalker(self.trie))

    @classmethod
    def build(cls, catalog: Catalog, tokenizer: Any, trie: Trie | None = None) -> SearchIndex:
        """From scratch; or with the trie of these identifiers, as saved."""
        if trie is None:
            trie = catalog.trie(tokenizer)
        elif trie.tokenizer_hash != tokenizer_hash(tokenizer):
            raise ValueError(
                f"The trie was built with another tokenizer (hash {trie.tokenizer_hash}; this one has {tokenizer_hash(tokenizer)})."
            )
        elif len(trie) != len(catalog.identifiers):
            raise ValueError(
                f"The trie holds {len(trie)} identifiers, the catalog {len(catalog.identifiers)}: they do not belong together."
            )
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

    # --- identifiers and items -----------------------------------------------------------------------------------------------------

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
        return np.fromiter((number[tid] for tid in self.catalog.term_ids), np.int64, len(self.catalog))

    @cached_property
    def _group_size(self) -> np.ndarray:
        """Int64 [n_items]: the items that share each item's Term ID."""
        return np.bincount(self._leaf_of)[self._leaf_of]

    # --- what a request asks -------------------------------------------------------------------------------------------------------

    def bonuses(
        self,
        histories: Sequence[Sequence[str]],
        *,
        exclude_seen: bool,
        prior: Mapping[str, float] | np.ndarray | None,
        exclude: Iterable[str],
        **rules: Any,
    ) -> list[Bonus]:
        """`bonus` for each history; `prior` may have a row for each. What all have in common is made once."""
        exclude = _several(exclude, "exclude")  # iterators would be used up by the first history
        rules["banned_terms"] = _several(rules["banned_terms"], "banned_terms")
        if rules["allow"] is not None and not hasattr(rules["allow"], "__array__"):
            rules["allow"] = _several(rules["allow"], "allow")
        if prior is not None and not isinstance(prior, Mapping) and np.ndim(prior) == 2:
            prior = np.asarray(prior)
            if len(prior) != len(histories):
                raise ValueError(f"prior has {len(prior)} rows for {len(histories)} histories; expected one a history.")
            seen: Sequence[Sequence[str]] = histories if exclude_seen else [()] * len(histories)
            return [self.bonus(prior=row, exclude=(*exclude, *s), **rules) for row, s in zip(prior, seen, strict=True)]
        common = self.bonus(prior=prior, exclude=exclude, **rules)
        if not exclude_seen:
            return [common] * len(histories)
        found = []
        for history in histories:
            by_item = np.zeros(len(self.catalog)) if common.by_item is None else common.by_item.copy()
            by_item[[self.catalog.position(i) for i in history]] = -np.inf
            found.append(self._bonus(by_item))
        return found

    def bonus(
        self,
        *,
        allow: Collection[str] | np.ndarray | None = None,
        domain: str | None = None,
        exclude: Iterable[str] = (),
        banned_terms: Iterable[str] = (),
        prior: Mapping[str, float] | np.ndarray | None = None,
        prior_weight: float = 1.0,
        shared: str = "full",
    ) -> Bonus:
        """What is added to an item's log-probability: ``prior_weight · log prior``, its share of a Term ID, ``-inf`` if it may not be
        recommended.

        Args:
            allow: ids, or a bool mask over the catalog.
            domain: items of this domain only.
            exclude: ids.
            banned_terms: items with one of these in their Term ID are left out.
            prior: a non-negative weight for each item, or for some by id (the others have 1). Weight 0 leaves out.
            prior_weight: λ.
            shared: one of `SHARED`.

        Raises:
            ValueError: unknown ids, an unknown domain, a mask or prior of another length, a negative or non-finite weight, an unknown rule.
        """
        n = len(self.catalog)
        if shared not in SHARED:
            raise ValueError(f"shared is {shared!r}; expected one of {SHARED}.")
        if not np.isfinite(prior_weight) or prior_weight < 0:
            raise ValueError(f"prior_weight is {prior_weight}; expected a finite number of at least 0.")
        if shared == "prior" and prior is None:
            raise ValueError("shared='prior' splits a Term ID's probability by the items' priors; give prior=…, or choose 'equal'.")
        of_domain = None if domain is None else self.domain(domain)
        bonus = np.zeros(n) if of_domain is None else of_domain.by_item.copy()  # type: ignore[union-attr]
        asked = False
        if allow is not None:
            bonus[~self._mask(allow, "allow")] = -np.inf
            asked = True
        for item_id in _several(exclude, "exclude"):
            bonus[self.catalog.position(item_id)] = -np.inf
            asked = True
        for term in _several(banned_terms, "banned_terms"):
            if not (word := normalise(str(term))):
                raise ValueError(f"banned_terms holds {term!r}, which is no term: it has no letter or digit.")
            bonus[self._with_term.get(word, [])] = -np.inf
            asked = True
        if prior is not None:
            weight = self._weights(prior)
            with np.errstate(divide="ignore"):
                bonus += np.where(weight > 0, prior_weight * np.log(np.where(weight > 0, weight, 1.0)), -np.inf)
                if shared == "prior":
                    total = np.bincount(self._leaf_of, weight)[self._leaf_of]
                    bonus += np.log(np.divide(weight, total, out=np.zeros(n), where=total > 0))
            asked = True
        if shared == "equal" and len(self.trie) < n:
            bonus -= np.log(self._group_size)
            asked = True
        return self._bonus(bonus) if asked else of_domain or Bonus(None, None)

    def domain(self, name: str) -> Bonus:
        """What holds a search to the items of one domain: ``-inf`` for all others. Made once, and kept for this version of the catalog.

        Raises ``ValueError`` for an unknown domain.
        """
        positions = self.catalog.positions_in(name)
        if (found := self._of_domain.get(name)) is None:
            by_item = np.full(len(self.catalog), -np.inf)
            by_item[positions] = 0.0
            by_item.setflags(write=False)  # searches share it
            found = self._of_domain[name] = self._bonus(by_item)
        return found

    @cached_property
    def _with_term(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, tid in enumerate(self.catalog.term_ids):
            for term in set(tid):
                found.setdefault(term, []).append(position)
        return found

    def _mask(self, asked: Collection[str] | np.ndarray, name: str) -> np.ndarray:
        n = len(self.catalog)
        asked = np.asarray(asked) if hasattr(asked, "__array__") else _several(asked, name)
        if isinstance(asked, np.ndarray) or (asked and isinstance(next(iter(asked)), bool | np.bool_)):
            mask = np.asarray(asked)
            if mask.dtype != bool or mask.shape != (n,):
                raise ValueError(f"{name} is an array of {mask.dtype} {list(mask.shape)}; expected bool [{n}], one an item of the catalog.")
            return mask
        mask = np.zeros(n, bool)
        mask[[self.catalog.position(item_id) for item_id in asked]] = True
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

    def _bonus(self, by_item: np.ndarray) -> Bonus:
        items, first = self._groups
        return Bonus(by_item, RangeMax(np.maximum.reduceat(by_item[items], first[:-1])))

    def items(self, leaf: np.ndarray, score: np.ndarray, bonus: Bonus) -> list[tuple[int, float, int]]:
        """The items of ranked identifiers, best first: (position, score, index in `leaf`). Items of equal score within an identifier stand
        in ascending order of item_id.

        Args:
            leaf: int64 [k].
            score: float64 [k], log-probabilities with length penalty and without bonus.
            bonus: what the search was given; items at ``-inf`` are left out.
        """
        items, first = self._groups
        rank = self.trie.rank[leaf]
        found = [
            (int(p), float(s) + (0.0 if bonus.by_item is None else float(bonus.by_item[p])), i)
            for i, (r, s) in enumerate(zip(rank, score, strict=True))
            for p in items[first[r] : first[r + 1]]
        ]
        return sorted((f for f in found if f[1] > -np.inf), key=lambda f: -f[1])


def _several(values: Iterable[Any], name: str) -> list[Any]:
    if isinstance(values, str):
        raise ValueError(f"{name} is the string {values!r}; expected a list, such as [{values!r}].")
    return list(values)
