"""Titles as identifiers: each item is named by its title, so that any language model can write it without training."""

from __future__ import annotations

import re
from collections.abc import Iterable

from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.identifiers.symbols import without_symbols

LONGEST = 200
"""Characters of a written title."""
MAX_TEXT = 1000
"""Characters of other texts."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_MARKS = str.maketrans("[]<>", "()  ")


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Free text as one line of at most `limit` characters, cut at a word; without control characters, halves of characters and
    symbols of identifiers."""
    text = without_symbols(" ".join(CONTROL.sub(" ", text).split()))
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0] or text[:limit]


def written_title(title: str) -> str:
    """A title as one line, without the brackets of Term IDs and of special tokens; ``"untitled"`` where nothing is left."""
    return one_line(without_symbols(title).translate(_MARKS), LONGEST) or "untitled"


class Titles:
    """Titles as a `grlm_hf.identifiers.scheme.Scheme`: one part, the whole `written_title`. Items with the same one share an identifier."""

    name = "titles"
    noun = "title"
    readable = from_text = False  # nothing smaller than a title can be banned or steered by

    def validate(self, parts: Iterable[str]) -> Identifier:
        """The title as an identifier. Raises ``ValueError`` for another form than `written_title` has, or for several parts."""
        found = (parts,) if isinstance(parts, str) else tuple(parts)
        if len(found) != 1 or not isinstance(found[0], str) or written_title(found[0]) != found[0]:
            raise ValueError(f"Found {found}; expected one title in the form of grlm_hf.identifiers.titles.written_title.")
        return found

    def part(self, text: str) -> str:
        return ""

    def write(self, identifier: Identifier) -> str:
        return identifier[0]

    def parse(self, text: str) -> Identifier | None:
        line = text.strip().split("\n", 1)[0].strip()
        return (written_title(line),) if line else None

    def line(self, identifier: Identifier) -> str:
        return identifier[0] + "\n"

    def spans(self, identifier: Identifier) -> list[tuple[int, int]]:
        return [(0, len(identifier[0]))]

    def added_tokens(self, identifiers: Iterable[Identifier]) -> list[str]:
        return []


TITLES = Titles()
