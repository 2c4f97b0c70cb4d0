"""What an identifier is. Everything else in the package knows identifiers only through a `Scheme`.

To add a scheme: one module beside `terms.py`, with an object that keeps this protocol, and its name in `SCHEMES`
(`grlm_hf/identifiers/__init__.py`).
``tests/identifiers/test_scheme.py`` then checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

Identifier = tuple[str, ...]
"""The parts of an identifier in the order in which they are written: words of a Term ID, one code a level, or a single id."""


class Scheme(Protocol):
    """A kind of identifier. Stateless: two catalogs of one scheme share the object.

    Attributes:
        name: stated by catalogs and checkpoints.
        noun: what messages and pages call one identifier, such as "Term ID".
        readable: people can read the parts, so that items can be banned, steered and explained by them.
        from_text: the terms that `grlm_hf.indexing.extract.TermExtender` takes from an item's text (in lower case) are legal parts, so
            `add_items` needs no identifiers. False for all other schemes.
    """

    name: str
    noun: str
    readable: bool
    from_text: bool

    def validate(self, parts: Iterable[str]) -> Identifier:
        """The parts as an identifier. Raises ``ValueError`` for parts that are not in normal form, or for none."""
        ...

    def part(self, text: str) -> str:
        """The normal form of one part that a person wrote; ``""`` where `text` is no part."""
        ...

    def write(self, identifier: Identifier) -> str:
        """The one written form, on one line. No written form is a prefix of another one followed by a newline."""
        ...

    def parse(self, text: str) -> Identifier | None:
        """The first identifier in generated text; ``None`` if there is none. ``parse(write(identifier)) == identifier``."""
        ...

    def line(self, identifier: Identifier) -> str:
        """The identifier as the assistant writes it: `write` and a newline. Training labels and trie paths are the tokens of this line."""
        ...

    def spans(self, identifier: Identifier) -> Sequence[tuple[int, int]]:
        """Where each part is in `line`: (begin, end) in characters, ascending and disjoint. Says which part a token belongs to."""
        ...

    def added_tokens(self, identifiers: Iterable[Identifier]) -> list[str]:
        """Tokens that a tokenizer must have to write these identifiers: ordinary ones (never special), sorted; none for words."""
        ...
