"""What an identifier is: the protocol `Scheme`, and one module a scheme. How items get one is `grlm_hf.indexing`."""

from __future__ import annotations

from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.identifiers.symbols import ATOMIC, CODES, PIECES
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.identifiers.titles import TITLES

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (TERMS, TITLES, CODES, ATOMIC, PIECES)}
"""All schemes by the name that catalogs and checkpoints state."""


def scheme_named(name: str, where: str) -> Scheme:
    """The scheme of this name. Raises ``ValueError`` for an unknown one; `where` is what states it."""
    if name not in SCHEMES:
        raise ValueError(
            f"{where} states the identifier scheme {name!r}; this grlm-hf knows {', '.join(SCHEMES)}. A newer version may: "
            "pip install -U grlm-hf"
        )
    return SCHEMES[name]
