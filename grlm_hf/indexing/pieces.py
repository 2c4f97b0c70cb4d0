"""Piece ids: Semantic IDs whose frequent runs of codes are one token, as byte pair encoding makes words of letters (Singh et al., 2023,
section 3.3, arXiv 2306.08121). Each code is a character and each item a word, so no piece crosses the border of an item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.scheme import Identifier

_FIRST = 0xF0000  # of the Unicode characters for private use, more than 65,000 in a row
_MOST = 65_000


def with_pieces(codebook: Codebook, identifiers: Iterable[Identifier], size: int) -> Codebook:
    """The codebook with at most `size` pieces, learnt from the Semantic IDs of its items; the same for the same identifiers in any order.

    Raises ``ValueError`` for fewer pieces than there are codes, since each code must remain writable alone, or too many codes.
    """
    from tokenizers import Tokenizer, models, trainers

    letters = _letters(codebook)
    if not len(letters) <= size:
        raise ValueError(f"identifier.pieces is {size:,}; expected at least {len(letters):,}, the number of codes, which are pieces too.")
    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=sorted(letters.values()), show_progress=False)
    bpe.train_from_iterator(sorted("".join(letters[part] for part in identifier) for identifier in identifiers), trainer)
    return replace(codebook, facts={**codebook.facts, "pieces": bpe.to_str()})


def to_pieces(codebook: Codebook, identifiers: Sequence[Identifier]) -> list[Identifier]:
    """Semantic IDs → piece ids, one and the same way to write each."""
    letters, bpe = _letters(codebook), _bpe(codebook.facts["pieces"])
    encoded = bpe.encode_batch(["".join(letters[part] for part in identifier) for identifier in identifiers])
    return [tuple(f"piece_{n}" for n in found.ids) for found in encoded]


def to_codes(codebook: Codebook, identifiers: Sequence[Identifier]) -> list[Identifier]:
    """Piece ids → Semantic IDs."""
    parts = {letter: part for part, letter in _letters(codebook).items()}
    bpe = _bpe(codebook.facts["pieces"])
    return [
        tuple(parts[letter] for piece in identifier for letter in bpe.id_to_token(int(piece.removeprefix("piece_"))))
        for identifier in identifiers
    ]


def _letters(codebook: Codebook) -> dict[str, str]:
    """Code → its character."""
    codes = codebook.symbols()
    if len(codes) > _MOST:
        raise ValueError(f"Pieces are made of up to {_MOST:,} codes; found {len(codes):,}. Choose fewer codes: identifier.codes.codes.")
    return {part: chr(_FIRST + n) for n, part in enumerate(codes)}


@lru_cache(maxsize=8)
def _bpe(state: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(state)
