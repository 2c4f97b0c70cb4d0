"""Items → Semantic IDs: their vectors' codes, with collisions resolved; and codes for new items, which leave the given ones as they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.codebook import DIGITS, Codebook
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.identifiers.symbols import ATOMIC, LEVELS, PIECES, code, numbers
from grlm_hf.indexing.embedding import needs
from grlm_hf.indexing.encoder import TextEncoder
from grlm_hf.indexing.pieces import to_codes, to_pieces
from grlm_hf.indexing.quantizers.config import QuantizerConfig
from grlm_hf.indexing.vectors import joined
from grlm_hf.settings import Count, NotNegative

CodeCollisions = Literal["reassign", "digit", "share"]
"""What happens to items with equal codes: another code of the last level, one more level, or they share the identifier."""


@dataclass(frozen=True)
class CodesConfig(QuantizerConfig):
    """Settings of Semantic IDs."""

    text: NotNegative = 1.0
    """Weight of the texts in an item's vector; 0: they are left out. The embedder is that of neighbors.embedder."""
    behaviour: NotNegative = 0.0
    """Weight of vectors of behaviour: items that the same users buy one after the other, in training only, are similar."""
    behaviour_dims: Count = 64
    """Dimensions of the vectors of behaviour."""
    collisions: CodeCollisions = "reassign"
    """What happens to items with equal codes: "reassign" (another code of the last level, at the least cost; if none is free, a digit),
    "digit" (one more level), or "share" (they keep them and are ranked by item id)."""
    domain: str = ""
    """Begins the symbols of this catalog, such as beauty; for models of several catalogs, whose codes must differ."""
    file: str = ""
    """A file of codes as LC-Rec, LETTER or MiniOneRec publish them, which are taken in place of a quantiser's (an index file), or a TSV
    with the columns item_id and codes. There is then no codebook: new items must be given identifiers. Empty: none."""
    numbers: str = ""
    """For an index file whose keys are not item ids: a file of two columns, item id and number. Empty: NAME.item2id beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z0-9-]*", self.domain):
            raise ValueError(f"identifier.codes.domain is {self.domain!r}; expected the characters a-z, 0-9 and hyphen.")

    @property
    def contrasted(self) -> bool:
        """Whether the quantiser's training compares codes with behaviour."""
        return self.quantizer == "rqvae" and self.rqvae.alpha > 0

    @property
    def needs_histories(self) -> bool:
        """Whether the codes depend on the training histories."""
        return self.contrasted or (self.behaviour > 0 and self.quantizer != "random")


def with_source(
    codebook: Codebook, encoder: TextEncoder | None, dims: Sequence[int], weights: Sequence[float], config: CodesConfig
) -> Codebook:
    """The codebook with what it needs to give codes to new items.

    Args:
        encoder: of the texts, which are the first part of the vectors. New items have only this part; the others count as missing.
        dims, weights: of the parts that were joined (`grlm_hf.indexing.vectors.joined`).
    """
    about: dict[str, Any] = {"dims": list(dims), "weights": list(weights), "text": encoder is not None}
    arrays: dict[str, np.ndarray] = {}
    if encoder is not None:
        about["embedder"] = encoder.embedder
        if encoder.rows is not None:
            arrays = {"rows": encoder.rows, "words": np.frombuffer(encoder.words.encode(), np.uint8)}
    return replace(
        codebook, source=arrays, facts={**codebook.facts, "vectors": about, "domain": config.domain, "collisions": config.collisions}
    )


@lru_cache(maxsize=4)
def encoder_of(codebook: Codebook) -> TextEncoder:
    """The frozen encoder of texts that a codebook carries. Kept, since reading its words takes longer than encoding an item."""
    rows, words = codebook.source.get("rows"), codebook.source.get("words")
    return TextEncoder(codebook.facts["vectors"]["embedder"], "" if words is None else words.tobytes().decode(), rows)


def identify(items: Sequence[Item], vectors: np.ndarray, codebook: Codebook, collisions: CodeCollisions = "reassign") -> list[Identifier]:
    """A Semantic ID for each item, from its vector float32 [n, d] (of which "random" codes need only the number).

    The result does not depend on the order of the items: of items with equal codes, the nearest to its code keeps it, ties by item id.
    """
    return _assigned(items, vectors, codebook, collisions, ())


def identify_new(catalog: Catalog, items: Sequence[Item]) -> list[Identifier]:
    """Semantic IDs for items that join `catalog`, by its frozen codebook: the nearest codes, and of the last level the nearest free one.
    No item of the catalog moves. Raises ``ValueError`` for a catalog without a codebook, or an item whose text gives no vector."""
    codebook = catalog.codebook
    if catalog.scheme is ATOMIC:
        raise ValueError("An atomic id is a token that the model has learnt: a new item gets one with the next training.")
    if codebook is None:
        raise ValueError(f"This catalog has no codebook to make a {catalog.scheme.noun} with; give the identifiers of new items.")
    taken: Sequence[Identifier] = catalog.identifiers
    if catalog.scheme is PIECES:
        taken = to_codes(codebook, taken)
    found = _assigned(items, vectors_of_new(codebook, items), codebook, codebook.facts.get("collisions", "reassign"), taken)
    return to_pieces(codebook, found) if catalog.scheme is PIECES else found


def vectors_of_new(codebook: Codebook, items: Sequence[Item]) -> np.ndarray:
    """float32 [n, d]: vectors of new items by the codebook's frozen encoder; parts that only its own items had are missing."""
    if codebook.structure == "random":
        return np.zeros((len(items), 1), np.float32)
    about = codebook.facts["vectors"]
    if not about["text"]:
        raise ValueError("These codes come from vectors that items' texts do not give; give the identifiers of new items.")
    text = encoder_of(codebook)(items)
    if len(empty := np.flatnonzero(~text.any(1))):
        raise ValueError(f"The text of item {items[empty[0]].item_id!r} has no word that the codes' encoder knows; give its identifier.")
    missing = [np.zeros((len(items), dim), np.float32) for dim in about["dims"][1:]]
    return joined([text, *missing], about["weights"])


def _assigned(
    items: Sequence[Item], vectors: np.ndarray, codebook: Codebook, how: CodeCollisions, given: Iterable[Identifier]
) -> list[Identifier]:
    """The identifiers of items, beside those that are `given` away already. Ties are in the order of the item ids."""
    is_random = codebook.structure == "random"
    codes = codebook.random_codes([item.item_id for item in items]) if is_random else codebook.codes(vectors)
    digits: dict[tuple[int, ...], int] = defaultdict(int)  # codes → the next digit behind them
    taken: dict[tuple[int, ...], set[int]] = defaultdict(set)  # prefix → codes of the last level in use
    for identifier in given if how != "share" else ():
        whole = tuple(numbers(identifier[: len(codebook.sizes)]))
        taken[whole[:-1]].add(whole[-1])
        digits[whole] = max(digits[whole], 1 + numbers(identifier)[-1] if len(identifier) > len(codebook.sizes) else 0)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in sorted(range(len(items)), key=lambda n: items[n].item_id):
        groups[tuple(codes[row, :-1].tolist())].append(row)
    extra: dict[int, int] = {}
    for prefix, rows in groups.items() if how != "share" else ():
        used = taken[prefix]
        if len(set(codes[rows, -1].tolist()) | used) == len(rows) + len(used):
            continue  # no collision
        costs = codebook.last_costs(vectors[rows], codes[rows])
        moved = _surplus(codes[rows, -1], costs, used)
        free = sorted(set(range(codebook.sizes[-1])) - used - {int(codes[row, -1]) for n, row in enumerate(rows) if n not in moved})
        settled = _matched(costs[moved][:, free]) if how == "reassign" and free else {}
        for n, row in enumerate(rows[m] for m in moved):
            if n in settled:
                codes[row, -1] = free[settled[n]]
            else:
                whole = tuple(codes[row].tolist())
                if digits[whole] < DIGITS:  # of more, the rest share the codes and are ranked
                    extra[row], digits[whole] = digits[whole], digits[whole] + 1
    if extra and len(codebook.sizes) == len(LEVELS):
        raise ValueError(f"{len(extra)} items need one more code than {len(LEVELS)} levels allow. Choose fewer.")
    found = [[*row, extra[n]] if n in extra else row for n, row in enumerate(codes.tolist())]
    return [tuple(code(level, number, codebook.domain) for level, number in enumerate(row)) for row in found]


def _surplus(last: np.ndarray, costs: np.ndarray, used: set[int]) -> list[int]:
    """Which of a prefix's items must move: all on a code in `used`; of several on another code, all but the nearest to it."""
    keeps: dict[int, int] = {}
    for n, number in enumerate(last.tolist()):
        if number not in used and (number not in keeps or costs[n, number] < costs[keeps[number], number]):
            keeps[number] = n
    return [n for n, number in enumerate(last.tolist()) if keeps.get(number) != n]


def _matched(costs: np.ndarray) -> dict[int, int]:
    """The assignment of rows to columns, each used once, with the lowest sum of costs (Kuhn, 1955); of too many rows, as many as fit."""
    rows, columns = needs("scipy.optimize").linear_sum_assignment(costs)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))
