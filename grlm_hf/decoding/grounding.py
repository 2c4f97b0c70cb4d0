"""Elastic Identifier Grounding (EIG): text that a model wrote without a trie → items that exist.

An exact Term ID names its items. Anything else goes to the identifier with the greatest position-weighted overlap, weight ``1 / i``
for the term in place ``i``. Two forms are in use:

- ``"paper"`` (GRLM, arXiv 2601.06798, section 3.4): terms are compared place by place, equal or not.
- ``"code"`` (the authors' released program): a term counts at any place of the identifier, and with .8 of its weight where one of
  the two words contains the other.

The weight is that of the place in the generated text. Of equal overlaps the identifier that comes first in the catalog wins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.scheme import Identifier

_PARTIAL = 0.8


@dataclass(frozen=True, slots=True)
class Grounded:
    """The closest identifier: its `items` in tie order, and its `overlap` in [0, 1], which is 1 for an `exact` match."""

    items: tuple[Item, ...]
    term_id: Identifier
    overlap: float
    exact: bool


class Grounder:
    """Grounds Term IDs onto one catalog. `form` is ``"paper"`` or ``"code"``, see the module; raises `ValueError` for another."""

    def __init__(self, catalog: Catalog, form: str = "paper"):
        if form not in ("paper", "code"):
            raise ValueError(f"form is {form!r}; expected 'paper' (terms place by place) or 'code' (terms in any place, substrings at .8).")
        self.catalog, self.form = catalog, form
        at: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, tid in enumerate(catalog.identifiers):
            for place, term in enumerate(tid):
                at[term, place if form == "paper" else -1].append(i)
        # which identifiers hold a term (in one place, or in any)
        self._holders = {key: np.unique(ids) for key, ids in at.items()}
        self._words = sorted({term for term, _ in at}) if form == "code" else []

    def ground(self, terms: Identifier) -> Grounded | None:
        """The closest identifier and its items; ``None`` when no term overlaps at all."""
        if items := self.catalog.items_of(terms):
            return Grounded(items, tuple(terms), 1.0, True)
        score = np.zeros(len(self.catalog.identifiers))
        total = 0.0
        for place, term in enumerate(terms):
            weight = 1.0 / (place + 1)
            total += weight
            score += weight * self._match(term, place)
        best = int(score.argmax())
        if not score[best] > 0:
            return None
        tid = self.catalog.identifiers[best]
        return Grounded(self.catalog.items_of(tid), tid, float(score[best] / total), False)

    def _match(self, term: str, place: int) -> np.ndarray:
        match = np.zeros(len(self.catalog.identifiers))
        if self.form == "paper":
            match[self._holders.get((term, place), [])] = 1.0
            return match
        for word in self._words:
            if word in term or term in word:
                ids = self._holders[word, -1]
                match[ids] = np.maximum(match[ids], 1.0 if word == term else _PARTIAL)
        return match
