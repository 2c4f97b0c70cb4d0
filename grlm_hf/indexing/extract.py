"""Items and their neighbours → Term IDs without a language model.

The order of terms follows the paper's prompt for context-aware term generation (GRLM, arXiv 2601.06798, section 3.1): the product type,
then what the item shares with its neighbours *in the same words*, then words that distinguish it from them, then the brand. All statistics
are counted on the catalog (`Extractor.fit`) and also apply to items added later (`Extractor.terms`, `TermExtender`). There is no model, no
download and no knowledge of a language except English stop words and plurals.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import N_TERMS, TermID
from grlm_hf.indexing.embedding import embed, item_text, load_embedder, tfidf_embedder
from grlm_hf.indexing.neighbors import Neighbors, nearest
from grlm_hf.indexing.words import AUDIENCE, FILLERS, PROGRESS_FROM, WEAK_WORDS, Fields, Reader, Run
from grlm_hf.progress import progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FREQUENT = 5  # items that must use a word before it counts as established in the catalog
_IN_TITLE, _IN_LEAF, _ABOVE_LEAF, _IN_DESCRIPTION = 1.0, 1.0, 0.3, 0.2  # weight of a word by its field


@dataclass(frozen=True, slots=True)
class _Offer:
    """Candidate terms of one item's text. A term is a word, or an established phrase of two words with a hyphen."""

    weights: dict[str, float]  # term → the highest weight of a field with it; in reading order
    types: dict[str, float]  # terms that may name the product type → evidence in the item's own text
    brand: str  # "" if unknown
    year: str  # of a title such as ``Sabrina (1995)``; "" for others


@dataclass(frozen=True, slots=True)
class Extractor:
    """Statistics of a catalog's items, made by `fit` and immutable, and the terms of any item by them."""

    reader: Reader
    settled: Mapping[tuple[str, str], int]  # pairs of words that form one term → number of items with the pair
    kinds: frozenset[str]  # words that name product types
    used: Mapping[str, int]  # candidate term → number of items
    n_items: int

    @classmethod
    def fit(cls, items: Sequence[Item]) -> Extractor:
        """Counts brands, plurals, phrases, product types and the uses of every term. The order of the items does not matter."""
        return cls._fit(items)[0]

    @classmethod
    def _fit(cls, items: Sequence[Item]) -> tuple[Extractor, list[_Offer]]:
        """The extractor, and the candidates of these items, which are read only once."""
        reader, fields = Reader.fit(items)
        used = Counter(word for f in fields for word in {word for run in f.named() for word in run})
        pairs = Counter(pair for f in fields for pair in {pair for run in f.named() for pair in itertools.pairwise(run)})
        settled = {  # pairs in many items that are a large part of both words' uses
            (a, b): n
            for (a, b), n in pairs.items()
            if n >= max(_FREQUENT, min(used[a], used[b]) / 20, max(used[a], used[b]) / 40)
            and a != b
            and not {a, b} & WEAK_WORDS
            and f"{a}-{b}".count("-") < 3
        }
        uses = {**used, **{f"{a}-{b}": n for (a, b), n in settled.items()}}
        named = Counter(head for f in fields for head in _heads(itertools.chain(*f.categories[:1]), settled))
        named = named or Counter(head for f in fields for head in _heads(f.title[:1], settled) - WEAK_WORDS)
        kinds = frozenset(head for head, n in named.items() if n > 1 and 10 * n >= uses[head])
        offers = [_offer(f, settled, kinds) for f in fields]
        return cls(reader, settled, kinds, Counter(term for offer in offers for term in offer.weights), len(items)), offers

    def terms(self, items: Sequence[Item], near: Sequence[Sequence[Item]], n_terms: int = N_TERMS) -> list[TermID]:
        """One Term ID per item, by the rules of `extract_terms`. It depends only on the item, its neighbours and the fit.

        Args:
            items: any items. A word outside the fit counts as a word of a single item.
            near: the neighbours of each item, closest first.

        Raises `ValueError` when `near` does not have one sequence per item, or `n_terms` < 1.
        """
        if len(near) != len(items):
            raise ValueError(f"Found {len(items)} items and the neighbours of {len(near)}; expected one sequence of neighbours per item.")
        distinct = dict.fromkeys(itertools.chain(items, *near))
        offers = {item: _offer(self.reader.read(item), self.settled, self.kinds) for item in distinct}
        return [self._choose(offers[item], [offers[other] for other in n], n_terms) for item, n in zip(items, near, strict=True)]

    def _choose(self, offer: _Offer, near: Sequence[_Offer], n_terms: int) -> TermID:
        """The terms of one item, given the candidates of its neighbours."""
        if n_terms < 1:
            raise ValueError(f"n_terms must be at least 1; found {n_terms}.")
        order = {term: at for at, term in enumerate(offer.weights)}
        shared = Counter(term for other in near for term in other.weights)  # term → number of neighbours with it
        n_near = max(1, len(near))
        used = {term: self.used.get(term, 1) for term in (*offer.weights, *shared)}
        cap = max(math.log(2), math.log(self.n_items / _FREQUENT))  # among established words, rarer is not better
        rarity = {term: math.log(self.n_items / n) for term, n in used.items()}
        weak = {term: not WEAK_WORDS.isdisjoint(term.split("-")) for term in offer.weights}
        value = {t: weight * min(cap, rarity[t]) * (0.1 if weak[t] else 1) for t, weight in offer.weights.items()}
        brand = offer.brand if n_terms > 1 else ""
        chosen: list[str] = []

        def take(scores: Mapping[str, float], most: int) -> None:
            """Chooses the best terms above zero that share no word with the brand or chosen terms; ties in reading order."""
            for term in sorted((t for t in scores if scores[t] > 0), key=lambda t: (-scores[t], order.get(t, 0), t)):
                if most > 0 and set(term.split("-")).isdisjoint(w for t in (brand, *chosen) for w in t.split("-")):
                    chosen.append(term)
                    most -= 1

        types = {t: v * (1 + shared[t] / n_near) * (0.3 if weak[t] else 1) for t, v in offer.types.items()}
        take(types, 1)
        for word in chosen[:1]:  # nail-polish for polish, if most neighbours with one have the other
            phrases = [t for t in types if t.endswith(f"-{word}") and 2 * shared[t] + 1 > shared[word]]
            chosen[:] = sorted(phrases, key=lambda t: (-types[t], order[t]))[:1] or [word]
        take({t: shared[t] * v for t, v in value.items()}, n_terms // 2)
        own = {t: (1 - shared[t] / (n_near + 1)) * v * (0.4 if used[t] == 1 else 1) for t, v in value.items()}
        take(own, n_terms - len(chosen) - bool(brand))

        if offer.year and len({*chosen, *offer.weights} - {brand}) + bool(brand) < n_terms:
            chosen.append(offer.year)  # of a short text: it tells remakes apart
        common = {t: n * rarity[t] for t, n in shared.items() if n > 1 and 2 * n >= n_near}
        take(common, n_terms - len(chosen) - bool(brand))
        found = [t for t in dict.fromkeys([*chosen, *offer.weights]) if t != brand][: n_terms - bool(brand)]
        return tuple([*found, brand] if brand else found or FILLERS[:1])


def _split(runs: Iterable[Run], settled: Mapping[tuple[str, str], int]) -> list[str]:
    """The words of runs, with established phrases before their first word. Of overlapping phrases the one with more items counts."""
    found: list[str] = []
    for run in runs:
        starts: set[int] = set()
        for _, at in sorted((-settled[pair], at) for at, pair in enumerate(itertools.pairwise(run)) if pair in settled):
            if not {at - 1, at + 1} & starts:
                starts.add(at)
        for at, word in enumerate(run):
            found += [f"{word}-{run[at + 1]}", word] if at in starts else [word]
    return found


def _heads(runs: Iterable[Run], settled: Mapping[tuple[str, str], int]) -> set[str]:
    """The last word of each run, ignoring packaging words, and the phrase that ends with it."""
    found: set[str] = set()
    for run in runs:
        kept = list(itertools.dropwhile(WEAK_WORDS.__contains__, reversed(run)))[::-1] or run
        found |= {kept[-1]} | {term for term in _split([kept], settled)[-3:] if term.endswith(f"-{kept[-1]}")}
    return found


def _offer(fields: Fields, settled: Mapping[tuple[str, str], int], kinds: frozenset[str]) -> _Offer:
    levels = [(runs, (_ABOVE_LEAF if level else _IN_LEAF) / max(1, len(runs))) for level, runs in enumerate(fields.categories)]
    in_title = _split(fields.title, settled)
    weights = dict.fromkeys(in_title, _IN_TITLE)
    for runs, weight in [*levels, (fields.description, _IN_DESCRIPTION)]:
        for term in _split(runs, settled):
            weights[term] = max(weight, weights.get(term, 0))
    evidence = [(_heads(fields.title[:1], settled), 1.5), (_heads(fields.title[1:], settled), 0.5), (kinds.intersection(in_title), 3.0)]
    evidence += [(_heads(leaf, settled), 3 / max(1, len(leaf))) for leaf in fields.categories[:1]]
    types: defaultdict[str, float] = defaultdict(float)
    for terms, value in evidence:
        for term in terms:
            types[term] += value
    return _Offer(weights, {t: v for t, v in types.items() if t not in AUDIENCE}, "-".join(fields.brand), fields.year)


def extract_terms(items: Sequence[Item], neighbors: Neighbors, n_terms: int = N_TERMS) -> list[TermID]:
    """One Term ID per item, in order: up to `n_terms` different terms in normal form, most important first.

    1. The product type: the last word (or two-word phrase) of the title's parts or of the leaf category that has most support in the item's
       own text and its neighbours.
    2. `n_terms // 2` terms shared with neighbours: score = neighbours with the term · rarity · weight of its field.
    3. Terms that neighbours lack: score = (1 - neighbours with it / (k + 1)) · rarity · weight, lower for a word of this item only.
    4. The year in a title such as ``Sabrina (1995)``, if its text has too few words.
    5. The brand, if known.

    Rarity is ln(n_items / items with the term), capped at the value for 5 items, so that terms are words that recur in the catalog. If a
    text has too few terms, terms of most neighbours follow, then its remaining words. A short text gives fewer than `n_terms` terms, and
    one without any usable word the term ``product``.

    Equals ``Extractor.fit(items).terms(items, …)``, but reads each item once. Deterministic; the order of the items does not matter.

    Raises `ValueError` when `neighbors` is of other items or in another order, or `n_terms` < 1.
    """
    if n_terms < 1:
        raise ValueError(f"n_terms must be at least 1; found {n_terms}.")
    neighbors.check_items(items)
    extractor, offers = Extractor._fit(items)
    bar = progress(enumerate(offers), desc="choosing terms", unit=" items", total=len(offers), disable=len(offers) < PROGRESS_FROM)
    return [extractor._choose(offer, [offers[j] for j in neighbors.of(at)], n_terms) for at, offer in bar]


class TermExtender:
    """Term IDs for items that are added to a catalog. Counts and embeddings are kept between calls.

    Words are counted on the catalog; neighbours are found among old and new items; the catalog's own Term IDs do not change. The catalog
    may change between calls: an item is embedded when first seen, and words are counted again when more than a tenth of the catalog was
    added or removed. New items are counted too if they are more than a tenth of the catalog. Threads may share one.

    Args:
        n_neighbors: number of similar items considered for a new item's terms.
        embedder: a `SentenceTransformer`, the name or folder of one, or None for `tfidf_embedder`, fitted when words are counted.
    """

    def __init__(self, n_neighbors: int = 5, embedder: SentenceTransformer | str | None = None):
        self.n_neighbors, self.embedder = n_neighbors, embedder
        self._lock = threading.Lock()
        self._extractor: Extractor | None = None
        self._model: SentenceTransformer | None = None  # the given one, or fitted when words were counted
        self._rows: dict[Item, int] = {}
        self._vectors = np.zeros((0, 0), dtype=np.float32)
        self._uncounted = 0  # items embedded since the last count of words

    def __call__(self, catalog: Catalog, items: Sequence[Item]) -> list[TermID]:
        """One Term ID per new item, of as many terms as a tenth of the catalog's have, or fewer where its text gives fewer."""
        if not items:
            return []
        everything = (*catalog.items, *items)
        with self._lock:
            if isinstance(self.embedder, str):
                self.embedder = load_embedder(self.embedder)
            if 10 * len(items) > len(catalog):
                extractor, vectors = Extractor.fit(everything), np.asarray(embed(everything, self.embedder))
            else:
                extractor, known = self._follow(catalog)
                vectors = np.concatenate([known, np.asarray(embed(items, self._model))])
        new = range(len(catalog), len(everything))
        indices, _ = nearest(vectors, self.n_neighbors, rows=new, index="exact")  # for a few rows
        lengths = Counter(map(len, catalog.item_identifiers))
        frequent = [length for length, n in lengths.items() if 10 * n >= len(catalog)]
        n_terms = max(frequent or lengths)  # a file of Term IDs may have more than ten lengths
        return extractor.terms(items, [[everything[j] for j in indices[row] if j >= 0] for row in new], n_terms)

    def _follow(self, catalog: Catalog) -> tuple[Extractor, np.ndarray]:
        """The extractor, and the vectors of the catalog's items in order. Embeds new items, and counts words again when due."""
        fresh = [item for item in catalog if item not in self._rows]
        gone = len(self._rows) + len(fresh) - len(catalog)
        if self._extractor is None or 10 * (self._uncounted + len(fresh) + gone) > len(catalog):
            kept = [] if self.embedder is None else [item for item in catalog if item in self._rows]  # a new TF-IDF has other vectors
            self._vectors = self._vectors[[self._rows[item] for item in kept]]
            self._rows = {item: row for row, item in enumerate(kept)}
            fresh = [item for item in catalog if item not in self._rows]
            self._model = tfidf_embedder(map(item_text, catalog)) if self.embedder is None else self.embedder  # type: ignore[assignment]
            self._extractor, self._uncounted = Extractor.fit(catalog.items), -len(fresh)
        if fresh:
            added = np.asarray(embed(fresh, self._model))
            self._vectors = np.concatenate([self._vectors, added]) if self._rows else added
            self._rows |= {item: row for row, item in enumerate(fresh, len(self._rows))}
            self._uncounted += len(fresh)
        return self._extractor, self._vectors[[self._rows[item] for item in catalog]]
