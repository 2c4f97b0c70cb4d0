"""Items and their neighbours → Term IDs without a language model.

It mirrors what the paper's prompt for context-aware term generation asks of an LLM (GRLM, arXiv 2601.06798, section 3.1): product type
first, then what the item shares with its neighbours *in the same words*, then one or two words that tell it apart from them, the brand
last. Everything is counted on the catalog itself: no model, no download, no knowledge of a language but English stop words and plurals.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grlm_hf.catalog import Catalog, Item
from grlm_hf.identifiers.neighbors import Neighbors, embed, nearest
from grlm_hf.identifiers.terms import N_TERMS, TermID, normalise

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNITS = _set(
    "cc cm count ct dozen ea feet fl floz fluid foot ft gal gallon gm gr gram grams inch inches kg lb lbs liter liters litre mg milliliter "
    "ml mm ounce ounces oz ozs pc pcs piece pieces pk pkg pound pounds quart volt volts watt watts yard yards yd"
)
STOP_WORDS = UNITS | _set(  # they end a phrase and are never a term
    "a about above after all also am amp an and any approx approximately are as at away be been before being below between both but by "
    "can could de did do does down du each eight ein else et etc few five for four from get gets go had half has have he her here him his "
    "how i if in into is it it's its itself just la le les let like made make makes many may me more most much my nbsp never no nor not "
    "now of off on once one only or other our out over own per quot six so some such ten than that the their them then there these they "
    "this those three through to too twelve two under until up upon us use used uses using very via w was we were what when where which "
    "while who will with within without would you your yours"
)
WEAK_WORDS = _set(  # packaging and shop talk: a term only where it names the product or little else is left
    "add assorted authentic available bag best better bonus bottle box brand bulk bundle buy case choice collection deal description "
    "design discontinued edition exclusive extra free genuine good great guarantee guaranteed high ideal image include included including "
    "item jumbo kit large long lot low manufacturer mega mini money new offer original pack package packaging pair perfect please plus "
    "price pro product quality quantity refill regular sale sample sell series set ship shipping shop single size sized small special "
    "style super tall top total travel tube twin type ultimate ultra unique unit usa value variety various vary version want warranty well"
)
_AUDIENCE = _set("adult baby boy child children girl kid ladies lady man men unisex woman women")  # not types of product
_COMPANY = _set("beauty brands co company corp corporation cosmetics gmbh group inc international llc ltd products sa usa")
_FALLBACK = ("product", "item", "general", "other", "plain")
_FREQUENT = 5  # items that use a word before the catalog has settled on it
_LONGEST = 30  # letters of a word; longer ones are clauses of a script without spaces, or noise
_DESCRIPTION = 300  # characters read of a description; the paper reads 150
_IN_TITLE, _IN_LEAF, _ABOVE_LEAF, _IN_DESCRIPTION = 1.0, 1.0, 0.3, 0.2  # what a word weighs, by where it stands
_SPACED = str.maketrans(dict.fromkeys("_®™©", " "))
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc")) + "\u200c\u200d"
_WORD = re.compile(rf"(?:[^\W\d]\.){{2,}}[^\W\d]?(?!\w)|[\w{_MARKS}]+(?:(?:['’-]|(?<=\d)[.,](?=\d))[\w{_MARKS}]+)*")

Run = list[str]  # words with nothing but spaces between them


@functools.lru_cache(maxsize=1 << 17)
def _word(text: str) -> str:
    """One word in normal form, without the possessive and an abbreviation's last dot; "" if it cannot be a term."""
    term = normalise(normalise(text.replace("’", "'")).removesuffix("'s").rstrip("."))
    return term if normalise(term) == term else ""


def words(text: str) -> list[str]:
    """The words of a text in reading order, each a term in normal form; repeats, stop words and numbers included."""
    return [word for word in map(_word, _WORD.findall(text.translate(_SPACED))) if word]


def _runs(text: str, brand: tuple[str, ...] = ()) -> list[Run]:
    """A text as runs of words. Punctuation ends a run; so do the brand, stop words and what holds a digit, and they are left out."""
    text, end = text.translate(_SPACED), 0
    tokens: list[tuple[str, bool]] = []  # word, whether something but spaces stands before it
    for match in _WORD.finditer(text):
        tokens.append((_word(match.group()), bool(text[end : match.start()].strip())))
        end = match.end()
    found = tuple(word for word, _ in tokens)
    hidden = {at + i for at in range(len(found)) for i in range(len(brand)) if brand and found[at : at + len(brand)] == brand}
    if brand and not hidden and found[:1] == brand[:1]:
        hidden = {0}
    runs: list[Run] = [[]]
    for at, (word, apart) in enumerate(tokens):
        out = at in hidden or word in STOP_WORDS or not word or any(c.isdigit() for c in word) or (word.isascii() and len(word) == 1)
        out = out or len(word) > _LONGEST
        if out or apart:
            runs.append([])
        if not out:
            runs[-1].append(word)
    return [run for run in runs if run]


def _brand(text: str) -> tuple[str, ...]:
    """At most three words of a brand's name, without the kind of company."""
    brand = [word for word in words(text) if len(word) <= _LONGEST]
    while len(brand) > 1 and brand[-1] in _COMPANY:
        brand.pop()
    return tuple(brand[:3] if len(brand) < 3 or brand[2] not in STOP_WORDS else brand[:2])


def _brands(items: Sequence[Item]) -> list[tuple[str, ...]]:
    """The words of each item's brand, () if unknown. Where the field is empty, a brand of two other items that opens the title; or, if
    this catalog's titles open with brands, the word that opens it, where most titles that hold it do so and no category does."""
    brands = [_brand(item.brand) for item in items]
    titles = [words(item.title) for item in items]
    count = Counter(brand for brand in brands if brand)
    used, opening = Counter(word for title in titles for word in set(title)), Counter(title[0] for title in titles if title)
    opened = Counter(brand for brand, title in zip(brands, titles, strict=True) if brand and title[:1] == [brand[0]])
    openers: set[str] = set()
    if 2 * opened.total() > count.total():  # titles open with brands here
        known = STOP_WORDS | WEAK_WORDS | {word for item in items for category in item.categories for word in words(category)}
        openers = {word for word, n in opening.items() if n > 2 and 10 * n > 7 * used[word] and word.isalpha() and word not in known}
    longer = {brand[0]: brand for brand, n in opened.items() if 10 * n > 8 * opening[brand[0]]}  # ``L'Oreal Riche`` is L'Oreal Paris
    for at, title in enumerate(titles):
        if not brands[at] and title:
            opens = [tuple(title[:n]) for n in (3, 2, 1) if count[tuple(title[:n])] > 1]
            brands[at] = opens[0] if opens else longer.get(title[0], (title[0],)) if title[0] in openers else ()
    return brands


@dataclass(frozen=True, slots=True)
class _Fields:
    """One item's text as runs of words, plurals folded."""

    title: list[Run]
    categories: list[list[Run]]  # leaf first
    description: list[Run]

    def named(self) -> list[Run]:
        return [*self.title, *(run for runs in self.categories for run in runs)]


def _fields(items: Sequence[Item], brands: Sequence[tuple[str, ...]]) -> list[_Fields]:
    """Every item's words. A plural becomes its singular if the catalog uses that too."""
    whole = {tuple(words(category)) for item in items for category in item.categories}  # ``Eau de Parfum`` is one word
    whole = {name for name in whole if len(name) == 3 and name[1] in STOP_WORDS - {"and", "or"} and not {name[0], name[2]} & STOP_WORDS}
    names = re.compile(r"\b(?:" + "|".join(r"[\s-]+".join(map(re.escape, name)) for name in sorted(whole)) + r")\b", re.IGNORECASE)

    def read(text: str, brand: tuple[str, ...] = ()) -> list[Run]:
        return _runs(names.sub(lambda name: re.sub(r"[\s-]+", "-", name.group()), text) if whole else text, brand)

    raw = [
        _Fields(read(item.title, brand), [read(c) for c in reversed(item.categories)], read(item.description[:_DESCRIPTION], brand))
        for item, brand in zip(items, brands, strict=True)
    ]
    known = {word for fields in raw for run in (*fields.named(), *fields.description) for word in run}
    folded = {word: _singular(word, known) for word in known}

    def fold(runs: list[Run]) -> list[Run]:
        return [[folded[word] for word in run] for run in runs]

    return [_Fields(fold(f.title), [fold(runs) for runs in f.categories], fold(f.description)) for f in raw]


def _singular(word: str, known: set[str]) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        for ending, replacement in (("ies", "y"), ("s", ""), ("es", "")):
            if word.endswith(ending) and len(singular := word.removesuffix(ending) + replacement) > 2 and singular in known:
                return singular
    return word


@dataclass(frozen=True, slots=True)
class _Read:
    """What one item's text offers. A term is a word or a settled phrase of two, hyphenated."""

    weights: dict[str, float]  # term → the weight of the best field it stands in; in reading order
    types: dict[str, float]  # terms that may name the type of product → evidence for it in the item's own text
    brand: str  # "" if unknown


def _read(fields: Sequence[_Fields], brands: Sequence[tuple[str, ...]]) -> list[_Read]:
    """Every item's terms."""
    used = Counter(word for f in fields for word in {word for run in f.named() for word in run})
    pairs = Counter(pair for f in fields for pair in {pair for run in f.named() for pair in itertools.pairwise(run)})
    settled = {  # pairs of words that many items use, and that are a good part of either word's uses
        (a, b): n
        for (a, b), n in pairs.items()
        if n >= max(_FREQUENT, min(used[a], used[b]) / 20, max(used[a], used[b]) / 40)
        and a != b
        and not {a, b} & WEAK_WORDS
        and f"{a}-{b}".count("-") < 3
    }

    def terms(runs: Iterable[Run]) -> list[str]:
        """The words of runs, each settled phrase before its first word; of two phrases that overlap, the one more items use."""
        found: list[str] = []
        for run in runs:
            starts: set[int] = set()
            for _, at in sorted((-settled[pair], at) for at, pair in enumerate(itertools.pairwise(run)) if pair in settled):
                if not {at - 1, at + 1} & starts:
                    starts.add(at)
            for at, word in enumerate(run):
                found += [f"{word}-{run[at + 1]}", word] if at in starts else [word]
        return found

    def heads(runs: Iterable[Run]) -> set[str]:
        """The last word of each run, packaging aside, and the phrase that it ends."""
        found: set[str] = set()
        for run in runs:
            kept = list(itertools.dropwhile(WEAK_WORDS.__contains__, reversed(run)))[::-1] or run
            found |= {kept[-1]} | {term for term in terms([kept])[-3:] if term.endswith(f"-{kept[-1]}")}
        return found

    uses = {**used, **{f"{a}-{b}": n for (a, b), n in settled.items()}}
    named = Counter(head for f in fields for head in heads(itertools.chain(*f.categories[:1])))
    named = named or Counter(head for f in fields for head in heads(f.title[:1]) - WEAK_WORDS)
    kinds = {head for head, n in named.items() if n > 1 and 10 * n >= uses[head]}  # words that name types of product in this catalog

    reads = []
    for f, brand in zip(fields, brands, strict=True):
        weights: dict[str, float] = {}
        levels = [(runs, (_ABOVE_LEAF if level else _IN_LEAF) / max(1, len(runs))) for level, runs in enumerate(f.categories)]
        for runs, weight in [(f.title, _IN_TITLE), *levels, (f.description, _IN_DESCRIPTION)]:
            for term in terms(runs):
                weights[term] = max(weight, weights.get(term, 0))
        types: Counter[str] = Counter()
        types.update(dict.fromkeys(heads(f.title[:1]), 1.5))
        types.update(dict.fromkeys(heads(f.title[1:]), 0.5))
        types.update(dict.fromkeys(kinds.intersection(terms(f.title)), 3))
        for leaf in f.categories[:1]:
            types.update(dict.fromkeys(heads(leaf), 3 / max(1, len(leaf))))
        reads.append(_Read(weights, {t: v for t, v in types.items() if t not in _AUDIENCE}, "-".join(brand)))
    return reads


def _choose(read: _Read, near: Sequence[_Read], used: Mapping[str, int], n_items: int, n_terms: int) -> TermID:
    """The terms of one item, given its neighbours'."""
    order = {term: at for at, term in enumerate(read.weights)}
    shared = Counter(term for other in near for term in other.weights)  # term → neighbours that have it
    n_near = max(1, len(near))
    cap = max(math.log(2), math.log(n_items / _FREQUENT))  # of two settled words, the rarer is not the better one
    weak = {term: not WEAK_WORDS.isdisjoint(term.split("-")) for term in read.weights}
    value = {t: weight * min(cap, math.log(n_items / used[t])) * (0.1 if weak[t] else 1) for t, weight in read.weights.items()}
    brand = read.brand if n_terms > 1 else ""
    chosen: list[str] = []

    def take(scores: Mapping[str, float], most: int) -> None:
        """The best terms above zero that share no word with the brand or those chosen before; equal scores in reading order."""
        for term in sorted((t for t in scores if scores[t] > 0), key=lambda t: (-scores[t], order.get(t, 0), t)):
            if most > 0 and set(term.split("-")).isdisjoint(w for t in (brand, *chosen) for w in t.split("-")):
                chosen.append(term)
                most -= 1

    types = {t: v * (1 + shared[t] / n_near) * (0.3 if weak[t] else 1) for t, v in read.types.items()}
    take(types, 1)
    for word in chosen[:1]:  # nail-polish for polish, where most neighbours that have the one have the other
        phrases = [t for t in types if t.endswith(f"-{word}") and 2 * shared[t] + 1 > shared[word]]
        chosen[:] = sorted(phrases, key=lambda t: (-types[t], order[t]))[:1] or [word]
    take({t: shared[t] * v for t, v in value.items()}, n_terms // 2)
    own = {t: (1 - shared[t] / (n_near + 1)) * v * (0.4 if used[t] == 1 else 1) for t, v in value.items()}
    take(own, n_terms - len(chosen) - bool(brand))

    common = {t: n * math.log(n_items / used[t]) for t, n in shared.items() if n > 1 and 2 * n >= n_near}
    take(common, n_terms - len(chosen) - bool(brand))
    rest = [*read.weights, *_FALLBACK, *(f"other-{n}" for n in range(n_terms))]
    found = [t for t in dict.fromkeys([*chosen, *rest]) if t != brand][: n_terms - bool(brand)]
    return tuple([*found, brand] if brand else found)


def extract_terms(items: Sequence[Item], neighbors: Neighbors, n_terms: int = N_TERMS) -> list[TermID]:
    """One Term ID an item, in the items' order: `n_terms` different terms in normal form, most important first.

    1. The type of product: the last word (or two-word phrase) of the title's parts or of the leaf category, whichever the item's own
       text and its neighbours bear out best.
    2. `n_terms // 2` terms that its neighbours have too: score = neighbours with the term · rarity · weight of its field.
    3. Terms that its neighbours lack: score = (1 - neighbours with it / (k + 1)) · rarity · weight, lower for a word no other item has.
    4. The brand last, where known.

    Rarity is ln(n_items / items with the term), capped where 5 items have it, so that terms are words the catalog uses again. Too
    little text is filled up with terms of most of its neighbours, then what is left of it, then fixed words (`product`, `item`, …).

    Raises `ValueError` when `neighbors` is of other items or in another order, or `n_terms` < 1. Deterministic; the order of the items
    plays no part.
    """
    if n_terms < 1:
        raise ValueError(f"n_terms must be at least 1; found {n_terms}.")
    if neighbors.item_ids != tuple(item.item_id for item in items):
        raise ValueError(
            f"The neighbours are of {len(neighbors.item_ids)} items, which are not the {len(items)} items given, in their order. "
            "Call find_neighbors on the same items."
        )
    brands = _brands(items)
    reads = _read(_fields(items, brands), brands)
    used = Counter(term for read in reads for term in read.weights)
    return [_choose(read, [reads[j] for j in neighbors.of(at)], used, len(items), n_terms) for at, read in enumerate(reads)]


def extend_terms(
    catalog: Catalog, items: Sequence[Item], n_neighbors: int = 5, embedder: SentenceTransformer | str | None = None
) -> list[TermID]:
    """Term IDs for new items beside those of a catalog, whose own do not change: `extract_terms` on all of them, with words counted, and
    neighbours found, among old and new.

    Args:
        items: the new ones; ids that the catalog lacks.
        n_neighbors, embedder: as in `grlm_hf.identifiers.neighbors.find_neighbors`.

    Returns:
        One Term ID a new item, of as many terms as the catalog's longest.
    """
    if not items:
        return []
    everything = (*catalog.items, *items)
    new = range(len(catalog), len(everything))
    neighbors = Neighbors(tuple(i.item_id for i in everything), *nearest(embed(everything, embedder), n_neighbors, rows=new))
    return extract_terms(everything, neighbors, max(map(len, catalog.term_ids)))[len(catalog) :]
