"""What a Term ID is: normalise, render, parse, validate.

A Term ID (TID) is an ordered tuple of ordinary words, most important first (GRLM, arXiv 2601.06798, section 3).
Its one written form, used in prompts, training labels and the decoding trie alike, is ``[shampoo, color, care, treated, preserve]``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from grlm_hf.identifiers.scheme import Identifier

TermID = Identifier

N_TERMS = 5
"""Terms in an identifier, as in the paper."""

# Brackets and separators of the written form, chat-template marks, controls; separators, stops and quotes of other scripts.
_RESERVED = re.compile(r"[\[\]{}()<>|\"`,;:\x00-\x1f\x7f،؛؟।॥、。〈〉《》「」『』【】“”„«»‹›…·•]+")
_SPACES = re.compile(r"[\s_]+")
_HYPHENS = re.compile(r"-{2,}")
_WRITTEN = re.compile(r"\[([^\[\]\n]*)\]")
_COMMAS = re.compile("[,，،、]")
_ALIKE = str.maketrans(dict.fromkeys("‘’", "'") | dict.fromkeys("‐‑‒–—―−", "-"))


def normalise(text: str) -> str:
    """One term from free text of any language: Unicode NFKC, lower case, phrases hyphenated (``Long  Lasting`` → ``long-lasting``).

    Letters, digits and their marks (vowel signs, accents) are kept in every script. Dropped are characters that the written form or a
    chat template reserves, emoji and other pictures, and marks without a letter or digit. A Turkish ``İ`` becomes ``i``; apostrophes
    and dashes become the plain ones. Returns ``""`` if, and only if, there is no letter or digit
    (after NFKC, which makes bare marks of a few signs that Unicode calls letters).
    """
    text = unicodedata.normalize("NFKC", text).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _plain(text.translate(_ALIKE)))  # again: what was lowered or moved together may compose
        text = unicodedata.normalize("NFKC", _DOTTED.sub("i", text))
    text = _RESERVED.sub(" ", text)
    term = _HYPHENS.sub("-", _SPACES.sub("-", text.strip())).strip("-'")
    if term.count(".") == 1:  # the end of a sentence, not of an abbreviation (``e.l.f.``)
        term = term.removesuffix(".").rstrip("-'")
    return term if any(c.isalnum() for c in term) else ""


_DOTTED = re.compile("i\u0307+")


def _plain(text: str) -> str:
    """Without invisible characters and without marks that follow no letter or digit; each picture becomes a space."""
    found: list[str] = []
    for c in text:
        kind = unicodedata.category(c)
        if kind in ("Cf", "Cs", "Co", "Cn", "Me") or "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef":  # selectors
            continue
        if kind == "So" or "\U0001f3fb" <= c <= "\U0001f3ff":  # pictures, and shades of skin
            c = " "
        elif kind[0] == "M" and not (found and (found[-1].isalnum() or unicodedata.category(found[-1])[0] == "M")):
            continue
        found.append(c)
    return "".join(found)


def validate(terms: Iterable[str], n_terms: int | None = None) -> TermID:
    """The terms as a Term ID. Raises ``ValueError`` when one is not in normal form or, given `n_terms`, when the count differs."""
    if isinstance(terms, str):
        raise ValueError(f"Found the text {terms!r}; expected a tuple of terms. Read a written Term ID with parse.")
    tid = tuple(terms)
    if not tid or (n_terms is not None and len(tid) != n_terms):
        raise ValueError(f"A Term ID needs {n_terms or 'one or more'} terms; found {len(tid)}: {list(tid)}.")
    for term in tid:
        if not isinstance(term, str) or not term or normalise(term) != term:
            raise ValueError(
                f"{term!r} in {list(tid)} is not a normalised term; expected {normalise(str(term))!r}. "
                "Pass every term through grlm_hf.identifiers.terms.normalise."
            )
    return tid


def render(term_id: TermID) -> str:
    """The written form: ``[hair, shampoo, color, care, treated]``."""
    return "[" + ", ".join(term_id) + "]"


def parse(text: str) -> TermID | None:
    """The first written Term ID in generated text, each term normalised; ``None`` if there is none.

    A missing bracket at either end is forgiven, since a length cut or a prompt that ends in ``[`` produces it; so are commas of another
    script.
    """
    found = _WRITTEN.search(text)
    body = found.group(1) if found else text.strip().split("\n", 1)[0].strip().strip("[]")
    terms = tuple(t for t in (normalise(part) for part in _COMMAS.split(body)) if t)
    return terms or None


class Terms:
    """Term IDs as a `grlm_hf.identifiers.scheme.Scheme`."""

    name = "terms"
    noun = "Term ID"
    readable = True
    from_text = True

    def validate(self, parts: Iterable[str]) -> TermID:
        return validate(parts)

    def part(self, text: str) -> str:
        return normalise(text)

    def write(self, identifier: TermID) -> str:
        return render(identifier)

    def parse(self, text: str) -> TermID | None:
        return parse(text)

    def line(self, identifier: TermID) -> str:
        return render(identifier) + "\n"

    def spans(self, identifier: TermID) -> list[tuple[int, int]]:
        found, end = [], -1
        for term in identifier:  # "[a, b]": one bracket before the first term, two characters between terms
            begin = end + 2
            end = begin + len(term)
            found.append((begin, end))
        return found

    def added_tokens(self, identifiers: Iterable[TermID]) -> list[str]:
        return []


TERMS = Terms()
