"""What people would call the items below a prefix of an identifier that they cannot read: their category, and words of their titles."""

from __future__ import annotations

import math
from collections import Counter

from grlm_hf.data.catalog import Catalog
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.indexing.words import STOP_WORDS, words

_READ = 2000  # items of a prefix and of the catalog that are read: enough for a name
_WORDS = 3
_CHARACTERS = 60


def prefix_name(catalog: Catalog, prefix: Identifier) -> str:
    """Such as ``Hair Care: shampoo, color``: the last category of most of the items below the prefix, and the words that their titles have
    more often than other titles. A single item has its title. ``""`` where nothing is below it."""
    below = [p for p, identifier in enumerate(catalog.item_identifiers) if identifier[: len(prefix)] == prefix]
    if len(below) < 2:
        return catalog.items[below[0]].title[:_CHARACTERS] if below else ""
    items = [catalog.items[p] for p in below[:: -(-len(below) // _READ)]]
    others = catalog.items[:: -(-len(catalog) // _READ)]
    categories = Counter(item.categories[-1] for item in items if item.categories)
    category, number = categories.most_common(1)[0] if categories else ("", 0)
    inside, everywhere = (Counter(w for i in some for w in set(words(i.title)) if w not in STOP_WORDS) for some in (items, others))

    def gain(word: str) -> float:
        share = inside[word] / len(items)
        return share * math.log(share / ((everywhere[word] + 1) / (len(others) + 1)))

    telling = sorted((w for w in inside if inside[w] > 1 and any(c.isalpha() for c in w)), key=lambda w: (-gain(w), w))[:_WORDS]
    parts = [category if 2 * number >= len(items) else "", ", ".join(w for w in telling if gain(w) > 0)]
    return ": ".join(part for part in parts if part)[:_CHARACTERS] or items[0].title[:_CHARACTERS]
