"""Search phrases made from titles, brands and categories, so that the model also answers a search with an item.

Every word of a phrase is in the item's own text. So the item is a true answer, although seldom the only one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.indexing.words import STOP_WORDS, WEAK_WORDS, words
from grlm_hf.tasks.examples import Example, Source, Span
from grlm_hf.tasks.prompts import one_line, query_request
from grlm_hf.tasks.task import Task

_LONGEST = 30  # letters of a word; longer ones are clauses of a script without spaces, or noise
_CATEGORY = 60  # characters


def queries(catalog: Catalog, seed: int = 0) -> Iterator[Source]:
    """A search phrase → the identifier of an item that it describes. The variants are the item's `phrases`, in an order drawn by `seed`."""
    frequency = word_frequency(catalog)
    for item, identifier in zip(catalog.items, catalog.item_identifiers, strict=True):

        def make(_items: tuple[str, ...], variant: int, item: Item = item, answer: str = catalog.scheme.line(identifier)) -> Example | str:
            found = phrases(item, frequency, len(catalog))
            if variant >= len(found):
                return "no phrase left" if found else "no words to search by"
            random.Random(f"{seed} {item.item_id}").shuffle(found)
            return Example("query", item.item_id, query_request(found[variant]), (Span(answer, "identifiers"),))

        yield Source(item.item_id, make)


def word_frequency(catalog: Catalog) -> Counter[str]:
    """Word → number of titles with it."""
    return Counter(word for item in catalog.items for word in set(words(item.title, parted=False)))


def phrases(item: Item, frequency: Counter[str], n_items: int) -> list[str]:
    """Lower-case search phrases for an item, distinct, of the parts that are known:

    1. its two most informative title words and its category
    2. its brand and its category
    3. its three most informative title words
    4. its brand and the two words

    Without any of these: its category alone, or its brand alone, or nothing. A word is the more informative, the fewer titles have it
    (ln n/df). A word of one title only counts half: few people would search by it.
    """
    category = one_line(item.categories[-1], _CATEGORY).lower() if item.categories else ""
    brand = one_line(item.brand, _CATEGORY).lower()
    known = set(words(category, parted=False)) | set(words(brand, parted=False))
    titled = [w for w in dict.fromkeys(words(item.title, parted=False)) if _is_informative(w) and w not in known]
    weight = {w: math.log(max(n_items, 2) / max(frequency[w], 1)) * (0.5 if frequency[w] < 2 else 1) for w in titled}
    ranked = sorted(titled, key=lambda w: -weight[w])  # stable: reading order among equals

    def best(n: int) -> str:
        return " ".join(w for w in titled if w in ranked[:n])  # as the title orders them

    found = [(best(2), category), (brand, category), (best(3),), (brand, best(2))]
    return list(dict.fromkeys(" ".join(parts) for parts in found if all(parts))) or [part for part in (category, brand) if part][:1]


def _is_informative(word: str) -> bool:
    return word not in STOP_WORDS and word not in WEAK_WORDS and len(word) <= _LONGEST and not any(c.isdigit() for c in word)


QUERY = Task(
    "query",
    "a search phrase made of an item's category, brand and title → its Term ID.",
    lambda given: queries(given.catalog, given.seed),
)
