"""The words of an item's text: their boundaries, words that are never terms, plurals, and the brand. Extraction without a language model
reads texts with this module. It counts a catalog's items (`Brands.fit`, `Reader.fit`) and has no prior knowledge except English stop words
and plural endings."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import normalise
from grlm_hf.progress import progress
from grlm_hf.tables.cleaning import clean_text

_LISTS = json.loads((files("grlm_hf") / "indexing" / "words.json").read_text(encoding="utf-8"))


def word_list(name: str) -> list[str]:
    """The words of a list in ``words.json``."""
    return " ".join(_LISTS[name]).split()


UNITS = frozenset(word_list("units"))
STOP_WORDS = UNITS | frozenset(word_list("stop_words"))  # end a phrase and are never a term
WEAK_WORDS = frozenset(word_list("weak_words"))  # packaging and sales words: terms only if they name the product or little else is left
AUDIENCE = frozenset(word_list("audience"))  # not types of product
_COMPANY = frozenset(word_list("company"))
SAME_UNIT: dict[str, str] = _LISTS["same_unit"]
"""A unit → its other spellings."""
PROGRESS_FROM = 20_000  # items; fewer take too little time for a progress bar
FILLERS = ("product", "item", "general", "other", "plain", "standard", "basic", "common")  # terms that say nothing; up to 8
LONGEST = 30  # letters of a word; longer words are noise
_DESCRIPTION = 300  # characters read of a description; the paper reads 150
_SPACED = str.maketrans(dict.fromkeys("_®™©", " "))
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc")) + "\u200c\u200d"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han."""
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3005"
_HIRAGANA, _KATAKANA = "\u3040-\u309f", "\u30a0-\u30ff"
_SOUTHERN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_SCRIPT = re.compile(rf"[{_HAN}]+|[{_KATAKANA}]+|[{_HIRAGANA}]+|(?:[{_SOUTHERN}][{_MARKS}]*)+|[^{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_HAN_CHARACTER, _KATAKANA_CHARACTER = re.compile(f"[{_HAN}]"), re.compile(f"[{_KATAKANA}]")
_YEAR = re.compile(r"\((1[89]\d\d|20\d\d)\)")  # of a film or book
_CLUSTER = re.compile(rf".[{_MARKS}]*", re.DOTALL)
_WORD = re.compile(
    rf"(?:[^\W\d]\.){{2,}}[^\W\d]?(?!\w)|[^\W\d_](?:\+\+|#)(?!\w)|[^\W\d_]{{1,3}}&[^\W\d_]{{1,3}}(?!\w)"  # U.S.A., C++, C#, AT&T
    rf"|[\w{_MARKS}]+(?:(?:['’-]|(?<=\d)[.,](?=\d))[\w{_MARKS}]+)*"
)

MUCH_FILLED = 0.1
"""Share of items with `FILLERS` above which people are warned."""

Run = list[str]  # words separated by spaces only
Brand = tuple[str, ...]  # the words of a brand's name; () if unknown


@functools.lru_cache(maxsize=1 << 17)
def _word(text: str) -> str:
    """One word in normal form, without a possessive 's and the last dot of an abbreviation; "" if it cannot be a term."""
    term = normalise(normalise(text.replace("’", "'")).removesuffix("'s").rstrip("."))
    return term if normalise(term) == term else ""


def _plain(text: str) -> str:
    """The text without HTML, and without signs that part no words. Items made in Python may have both."""
    return (clean_text(text) if "<" in text or "&" in text else text).translate(_SPACED)


def _matches(text: str, parted: bool = True) -> Iterator[tuple[str, int, int, bool]]:
    """The words as written, with begin and end, and whether each is a part of a clause in a script without spaces.

    Where such words begin and end only a dictionary of the language knows. So a clause is parted where its script changes, and longer
    parts into overlapping pieces, as search engines do: two Han characters, three others, each with its marks. Not `parted`, a clause is
    one word.
    """
    for match in _WORD.finditer(text):
        if not (parted and _UNSPACED.search(match.group())):
            yield match.group(), *match.span(), False
            continue
        for part in _SCRIPT.finditer(text, *match.span()):
            clusters = [c.span() for c in _CLUSTER.finditer(text, *part.span())]
            first = part.group()[0]
            size = 2 if _HAN_CHARACTER.match(first) else 3 if _UNSPACED.match(first) else 0
            whole = 6 if _KATAKANA_CHARACTER.match(first) else size
            if not size or len(clusters) <= whole:
                yield part.group(), *part.span(), True
                continue
            for at in range(len(clusters) - size + 1):
                begin, end = clusters[at][0], clusters[at + size - 1][1]
                yield text[begin:end], begin, end, True


def words(text: str, parted: bool = True) -> list[str]:
    """The words of a text in reading order, each a term in normal form; repeats, stop words and numbers included.

    A clause in a script without spaces is `parted` into pieces; else it is one word.
    """
    return [word for word in (_word(found) for found, *_ in _matches(_plain(text), parted)) if word]


def _runs(text: str, brand: Brand = ()) -> list[Run]:
    """A text as runs of words. Punctuation ends a run. The brand, stop words and words with digits also end it, and are left out."""
    text, end, parted = _plain(text), 0, False
    tokens: list[tuple[str, bool]] = []  # word, whether it begins a run: anything but spaces precedes it, or it is a part of a clause
    for found, begin, stop, alone in _matches(text):
        tokens.append((_word(found), alone or parted or bool(text[end:begin].strip())))
        end, parted = stop, alone
    found_words = tuple(word for word, _ in tokens)
    hidden = {at + i for at in range(len(tokens)) for i in range(len(brand)) if brand and found_words[at : at + len(brand)] == brand}
    if brand and not hidden and found_words[:1] == brand[:1]:
        hidden = {0}
    runs: list[Run] = [[]]
    for at, (word, apart) in enumerate(tokens):
        out = at in hidden or word in STOP_WORDS or not word or any(c.isdigit() for c in word) or (word.isascii() and len(word) == 1)
        out = out or len(word) > LONGEST
        if out or apart:
            runs.append([])
        if not out:
            runs[-1].append(word)
    return [run for run in runs if run]


def filler_terms(item: Item, term_id: Sequence[str]) -> list[str]:
    """The terms of an item that say nothing and are not in its text."""
    fillers = [term for term in term_id if term in FILLERS]
    text = words(" \n".join((item.title, item.brand, item.description, *item.categories))) if fillers else []
    return [term for term in fillers if term not in text]


def brand_words(text: str) -> Brand:
    """Up to three words of a brand's name, without the legal form of the company."""
    brand = [word for word in words(text) if len(word) <= LONGEST]
    while len(brand) > 1 and brand[-1] in _COMPANY:
        brand.pop()
    return tuple(brand[:3] if len(brand) < 3 or brand[2] not in STOP_WORDS else brand[:2])


@dataclass(frozen=True, slots=True)
class Brands:
    """Statistics of a catalog's brands, to find the brand in a title when the brand field is empty."""

    count: Mapping[Brand, int]  # brand → number of items with it in their field
    longer: Mapping[str, Brand]  # first word → the brand of most titles that begin with it: ``L'Oreal Riche`` is L'Oreal Paris
    openers: frozenset[str]  # words that begin titles and are no brand in a field

    @classmethod
    def fit(cls, items: Sequence[Item]) -> Brands:
        brands = [brand_words(item.brand) for item in items]
        titles = [words(item.title) for item in items]
        count = Counter(brand for brand in brands if brand)
        used, opening = Counter(word for title in titles for word in set(title)), Counter(title[0] for title in titles if title)
        opened = Counter(brand for brand, title in zip(brands, titles, strict=True) if brand and title[:1] == [brand[0]])
        openers: set[str] = set()
        if 2 * opened.total() > count.total():  # titles begin with brands in this catalog
            categories = {category for item in items for category in item.categories}
            known = STOP_WORDS | WEAK_WORDS | {word for category in categories for word in words(category)}
            openers = {word for word, n in opening.items() if n > 2 and 10 * n > 7 * used[word] and word.isalpha() and word not in known}
        longer = {brand[0]: brand for brand, n in opened.items() if 10 * n > 8 * opening[brand[0]]}
        return cls(count, longer, frozenset(openers))

    def of(self, item: Item) -> Brand:
        """The words of the brand field. If it is empty: a brand of at least two items that begins the title; or, if titles in this catalog
        begin with brands, the first word, if most titles with it begin with it and no category has it."""
        brand = brand_words(item.brand)
        if brand or not (title := words(item.title)):
            return brand
        opens = [tuple(title[:n]) for n in (3, 2, 1) if self.count.get(tuple(title[:n]), 0) > 1]
        if opens:
            return opens[0]
        return self.longer.get(title[0], (title[0],)) if title[0] in self.openers else ()


@dataclass(frozen=True, slots=True)
class Fields:
    """One item's text as runs of words, with plurals replaced by singulars."""

    brand: Brand
    title: list[Run]
    categories: list[list[Run]]  # leaf first
    description: list[Run]
    year: str = ""  # in brackets in the title: ``Sabrina (1995)``

    def named(self) -> list[Run]:
        """The runs of title and categories."""
        return [*self.title, *(run for runs in self.categories for run in runs)]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads items by the conventions of the catalog it was fitted on."""

    brands: Brands
    names: re.Pattern[str] | None  # categories with a stop word in the middle count as one word: ``Eau de Parfum``
    known: Mapping[str, int]  # word → its occurrences in the catalog
    folded: dict[str, str]  # word → its singular, or itself

    @classmethod
    def fit(cls, items: Sequence[Item]) -> tuple[Reader, list[Fields]]:
        """A reader, and the fields of these items."""
        categories = {category for item in items for category in item.categories}
        whole = {name for name in (tuple(words(category)) for category in categories) if len(name) == 3}
        whole = {name for name in whole if name[1] in STOP_WORDS - {"and", "or"} and not {name[0], name[2]} & STOP_WORDS}
        names = "|".join(r"[\s-]+".join(map(re.escape, name)) for name in sorted(whole))
        known: Counter[str] = Counter()
        reader = cls(Brands.fit(items), re.compile(rf"\b(?:{names})\b", re.IGNORECASE) if whole else None, known, {})
        raw = [reader._raw(item) for item in progress(items, desc="reading texts", unit=" items", disable=len(items) < PROGRESS_FROM)]
        known.update(word for fields in raw for run in (*fields.named(), *fields.description) for word in run)
        return reader, [reader._fold(fields) for fields in raw]

    def read(self, item: Item) -> Fields:
        return self._fold(self._raw(item))

    def _raw(self, item: Item) -> Fields:
        def runs(text: str, brand: Brand = ()) -> list[Run]:
            return _runs(self.names.sub(lambda name: re.sub(r"[\s-]+", "-", name.group()), text) if self.names else text, brand)

        brand = self.brands.of(item)
        above = [runs(category) for category in reversed(item.categories)]
        year = (_YEAR.findall(item.title) or [""])[-1]
        return Fields(brand, runs(item.title, brand), above, runs(item.description[:_DESCRIPTION], brand), year)

    def _fold(self, raw: Fields) -> Fields:
        def fold(runs: list[Run]) -> list[Run]:
            return [[self._singular(word) for word in run] for run in runs]

        return Fields(raw.brand, fold(raw.title), [fold(runs) for runs in raw.categories], fold(raw.description), raw.year)

    def _singular(self, word: str) -> str:
        found = self.folded.get(word)
        if found is None:
            found = max((s for s in _singulars(word) if s in self.known), key=self.known.__getitem__, default=word)
            self.folded[word] = found
        return found


def _singulars(word: str) -> Iterator[str]:
    """Possible singulars of an English plural. The right one is more frequent in the catalog than a misspelt ``knive`` or ``boxe``."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        for ending, singular in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", "")):
            stem = word.removesuffix(ending)
            sounds = ending != "es" or stem.endswith(("s", "x", "z", "ch", "sh", "o"))
            if word.endswith(ending) and sounds and len(stem + singular) > 2:
                yield stem + singular
