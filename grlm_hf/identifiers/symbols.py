"""Identifiers of symbols: tokens of their own, written without separators, such as the Semantic ID ``<a_12><b_3><c_77>``.

A symbol is an ordinary added token, never a special one: special tokens are deleted from texts and left out of decoded ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from grlm_hf.identifiers.scheme import Identifier

LEVELS = "abcdefghijklmnopqrstuvwxyz"
"""The letter of each level: symbols with equal numbers at two levels differ."""
_SYMBOL = r"(?:[a-z0-9-]+\.)?[a-z]+_(?:0|[1-9][0-9]{0,8})"
_WRITTEN = re.compile(rf"<{_SYMBOL}>")
_RUN = re.compile(rf"(?:<{_SYMBOL}>)+")


def without_symbols(text: str) -> str:
    """The text with round brackets in place of those of symbols: free text must not be able to spell an item."""
    return _WRITTEN.sub(lambda found: f"({found[0][1:-1]})", text) if "<" in text else text


def code(level: int, number: int, domain: str = "") -> str:
    """One part of a Semantic ID: ``code(0, 12) == "a_12"``. `domain`: keeps the codes of several codebooks apart (``beauty.a_12``)."""
    return f"{domain}.{LEVELS[level]}_{number}" if domain else f"{LEVELS[level]}_{number}"


def numbers(identifier: Identifier) -> list[int]:
    """The number in each part of an identifier of symbols: ``numbers(("a_12", "b_3")) == [12, 3]``."""
    return [int(part.rpartition("_")[2]) for part in identifier]


class Symbols:
    """A kind of identifier of symbols, as a `grlm_hf.identifiers.scheme.Scheme`."""

    readable = from_text = False

    def __init__(self, name: str, noun: str, example: str, is_legal: Callable[[Identifier], bool]):
        self.name, self.noun, self._example, self._is_legal = name, noun, example, is_legal

    def validate(self, parts: Iterable[str]) -> Identifier:
        """The symbols as an identifier. Raises ``ValueError`` for others, or for none."""
        if isinstance(parts, str):
            raise ValueError(f"Found the text {parts!r}; expected a tuple of symbols. Read a written {self.noun} with parse.")
        found = tuple(parts)
        well_formed = found and all(isinstance(part, str) and re.fullmatch(_SYMBOL, part) for part in found)
        if not well_formed or not self._is_legal(found):
            raise ValueError(f"{str(found)[:200]} is not a {self.noun}; expected symbols such as those of {self._example}.")
        return found

    def part(self, text: str) -> str:
        found = text.strip().removeprefix("<").removesuffix(">")
        return found if re.fullmatch(_SYMBOL, found) else ""

    def write(self, identifier: Identifier) -> str:
        return "".join(f"<{part}>" for part in identifier)

    def parse(self, text: str) -> Identifier | None:
        for run in _RUN.findall(text):
            found = tuple(written[1:-1] for written in _WRITTEN.findall(run))
            if self._is_legal(found):
                return found
        return None

    def line(self, identifier: Identifier) -> str:
        return self.write(identifier) + "\n"

    def spans(self, identifier: Identifier) -> list[tuple[int, int]]:
        found, end = [], 0
        for part in identifier:
            found.append((end + 1, end + 1 + len(part)))
            end += len(part) + 2
        return found

    def added_tokens(self, identifiers: Iterable[Identifier]) -> list[str]:
        return sorted({f"<{part}>" for identifier in identifiers for part in identifier})


def _is_code(parts: Identifier) -> bool:
    """One code a level, from the first level on, all of one domain."""
    heads = [part.rpartition("_")[0] for part in parts]
    domain = heads[0][:-1]
    return len(parts) <= len(LEVELS) and heads == [domain + letter for letter in LEVELS[: len(parts)]]


CODES = Symbols("codes", "Semantic ID", "<a_12><b_3><c_77>, one code a level", _is_code)
ATOMIC = Symbols("atomic", "atomic id", "<item_12>, one symbol an item", lambda parts: len(parts) == 1 and parts[0].startswith("item_"))
PIECES = Symbols("pieces", "piece id", "<piece_901><piece_17>", lambda parts: all(part.startswith("piece_") for part in parts))
