"""Overlap of Term IDs with their items' own texts, and with other items' texts as the chance level. Words are split at hyphens and lose
English plurals; in scripts without spaces any part of the text counts."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import normalise
from grlm_hf.indexing.words import UNSPACED, words
from grlm_hf.progress import progress

_PROGRESS_FROM = 100_000  # items; fewer take too little time for a progress bar
_UNSPACED = re.compile(f"[{UNSPACED}]")


@functools.lru_cache(maxsize=1 << 17)
def _base(word: str) -> str:
    """A word without an English plural ending, as in ``brush`` for ``brushes``. Both sides of a comparison pass through it."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]


def _read(text: str) -> frozenset[str]:
    """The words of a text or a term, split at hyphens."""
    return frozenset(_base(part) for word in words(text) for part in word.split("-") if part)


def alignment(items: Sequence[Item], vocabulary: Sequence[str], once: np.ndarray, strangers: np.ndarray | None) -> dict[str, Any]:
    """Shares of items and of their terms found in the items' texts and titles; see `grlm_hf.indexing.quality.measure`.

    Args:
        vocabulary: the distinct terms; code c is ``vocabulary[c - 1]``.
        once: codes of each item's terms, int `[n_items, width]`, without repeats; zeros are padding.
        strangers: for each item the one whose Term ID it gets when shuffled; None: no shuffled shares.
    """
    read = [frozenset(), *map(_read, vocabulary)]
    unspaced = [frozenset(filter(_UNSPACED.search, term)) for term in read]
    some_unspaced = {code for code, parts in enumerate(unspaced) if parts}
    places = progress(range(len(items)), desc="text alignment", unit=" items", disable=len(items) < _PROGRESS_FROM)
    codes = [[code for code in row if code] for row in once.tolist()]
    total = np.zeros((2, 2, 2))  # [own or shuffled, text or title, items or terms]
    for at in places:
        item = items[at]
        title = _read(item.title)
        rest = "\n".join((item.brand, *item.categories, item.description))
        texts = ((title | _read(rest), f"{item.title}\n{rest}"), (title, item.title))
        for whose, owner in enumerate((at,) if strangers is None else (at, strangers[at])):
            terms = codes[owner]
            for field, (known, raw) in enumerate(texts):
                hits = [len(read[code] & known) for code in terms]
                if not some_unspaced.isdisjoint(terms):
                    unbroken = normalise(raw)
                    hits = [hit + sum(part in unbroken for part in unspaced[code] - known) for hit, code in zip(hits, terms, strict=True)]
                found = sum(0 < len(read[code]) == hit for hit, code in zip(hits, terms, strict=True))
                total[whose, field] += any(hits), found / max(1, len(terms))

    def shares(whose: int) -> dict[str, Any]:
        items_share, terms_share = (total[whose] / len(items)).T.tolist()
        return {field: {"items": items_share[f], "terms": terms_share[f]} for f, field in enumerate(("text", "title"))}

    return {"own": shares(0), "shuffled": None if strangers is None else shares(1)}
