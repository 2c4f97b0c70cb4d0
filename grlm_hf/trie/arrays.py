"""All identifiers as one immutable trie over token ids: the sorted paths, front-coded, in flat arrays.

A node is an interval of the sorted paths and a depth: the paths ``lo … hi - 1`` share their first ``depth`` tokens. So a node's leaves
are contiguous: what holds below it (the best prior, whether anything allowed is left) is a range query over leaf order, and the empty
interval is a prefix that no identifier has. `shared[i]` is what path ``i`` has in common with the path before it (the LCP array of
suffix arrays: Manber and Myers, 1993). The children of a node begin at `lo` and wherever ``shared == depth`` inside the interval; with
these borders sorted by (depth, row) they are one slice, found by two binary searches. Tokens are stored once an edge. (For the flat
arrays of a decoding trie see also STATIC, arXiv 2602.22647; its table has a row a state, this one a row an identifier.)
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.files import replacing

FORMAT = 1
_ARRAYS = ("tokens", "start", "shared", "leaf", "border")
_METADATA = "grlm_trie"
_FACTS = ("vocab", "tokenizer_hash", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, eq=False)
class FrontCoded:
    """Paths in lexical order, each without the tokens that it shares with the one before it.

    Attributes:
        tokens: int32 [n_edges]; what each path does not share, one path behind the other.
        own_lengths: int64 [n]; how many of `tokens` are of each path.
        shared: int [n]; tokens that each path has in common with the one before it; 0 for the first.
        leaf: int [n]; the number of each path in the order in which they were given.
        vocab: one more than the largest token id.
    """

    tokens: np.ndarray
    own_lengths: np.ndarray
    shared: np.ndarray
    leaf: np.ndarray
    vocab: int

    @classmethod
    def of(cls, tokens: np.ndarray, lengths: np.ndarray, numbered_from: int = 0) -> FrontCoded:
        """Sorts and checks paths: `tokens` int [total], `lengths` int64 [n]. Errors number the paths from `numbered_from` on. Raises
        ``ValueError`` as `Trie` does."""
        n = len(lengths)
        if not n:
            raise ValueError("A trie needs at least one identifier; found none.")
        if not (lengths > 0).all():
            raise ValueError(f"Identifier {int(np.argmin(lengths)) + numbered_from} has no tokens.")
        if len(tokens) != lengths.sum():
            raise ValueError(f"Found {len(tokens)} tokens for lengths that sum to {int(lengths.sum())}.")
        if int(tokens.min()) < 0 or int(tokens.max()) >= 2**31 - 1:
            raise ValueError("Token ids must not be negative or above 2**31 - 2.")
        depth = int(lengths.max())
        if depth >= 2**16:
            raise ValueError(f"An identifier has {depth} tokens; expected fewer than {2**16}.")
        # 1. rows [n, depth], 0 behind the end of a path, else token + 1; sorted
        column = np.arange(depth, dtype=np.uint16)
        rows = np.zeros((n, depth), np.int32)
        rows[column < lengths[:, None]] = tokens.astype(np.int32, copy=False) + np.int32(1)
        order = _lexical_order(rows)
        rows, lengths = rows[order], lengths[order]
        # 2. what each row shares with the one before it
        shared: Any = np.zeros(n, np.uint16)
        if n > 1:
            differs = rows[1:] != rows[:-1]
            shared[1:] = np.where(differs.any(1), differs.argmax(1), depth)
        _check_prefix_free(shared, lengths, order + numbered_from, rows)
        # 3. what is left of each row, in one array
        own = (column >= shared[:, None]) & (column < lengths[:, None])
        return cls(rows[own] - 1, lengths - shared, shared, order, int(tokens.max()) + 1)


class Trie:
    """Immutable; safe to share between threads and requests.

    Args:
        paths: token ids of each identifier, sequences of int; leaf ``i`` is ``paths[i]``.
        eos_token_id: what ends a generation behind an identifier, if known.
        tokenizer_hash: `grlm_hf.tokens.tokenizer_hash` of the tokenizer that made the paths, or ``""`` if unknown.
        pad_token_id: what fills up shorter rows, if known.

    Attributes (`n` identifiers, numbered by rank, that is in the lexical order of their paths):
        tokens: int32 [n_edges]; of each path what it does not share with the one before: the edges of the trie in depth-first order.
        start: int [n + 1]; ``tokens[start[i]:start[i + 1]]`` are those of rank ``i``.
        shared: uint8 or uint16 [n]; tokens that rank ``i`` has in common with rank ``i - 1``; 0 for the first.
        leaf: int32 [n]; which of `paths` has rank ``i``.
        border: int [n - 1]; ``shared[i] * n + i`` for all ranks but the first, ascending.
        vocab: one more than the largest token id.
        depth: tokens of the longest path.

    Raises `ValueError` for no paths, an empty path, a negative token id, two equal paths, one path that begins another, or EOS or the pad
    token inside a path.
    """

    tokens: np.ndarray
    start: np.ndarray
    shared: np.ndarray
    leaf: np.ndarray
    border: np.ndarray
    of: str = ""

    def __init__(self, paths: Sequence[Any], eos_token_id: int | None = None, tokenizer_hash: str = "", pad_token_id: int | None = None):
        self._set(FrontCoded.of(*flat(paths)), eos_token_id, tokenizer_hash, pad_token_id)

    @classmethod
    def from_flat(
        cls,
        tokens: np.ndarray,
        lengths: np.ndarray,
        eos_token_id: int | None = None,
        tokenizer_hash: str = "",
        pad_token_id: int | None = None,
    ) -> Trie:
        """The same from arrays, for millions of identifiers: `tokens` int [total], all paths one behind the other; `lengths` int [n]."""
        rows = FrontCoded.of(np.asarray(tokens), np.asarray(lengths, np.int64))
        return cls.from_front_coded(rows, eos_token_id, tokenizer_hash, pad_token_id)

    @classmethod
    def from_front_coded(cls, rows: FrontCoded, eos_token_id: int | None, tokenizer_hash: str, pad_token_id: int | None) -> Trie:
        """The same from paths that are sorted, checked and front-coded already. Raises ``ValueError`` for EOS or pad inside a path."""
        trie = cls.__new__(cls)
        trie._set(rows, eos_token_id, tokenizer_hash, pad_token_id)
        return trie

    def _set(self, rows: FrontCoded, eos: int | None, tokenizer_hash: str, pad: int | None) -> None:
        n, shared = len(rows.shared), rows.shared
        self.shared = shared.astype(np.uint8 if int(shared.max()) < 256 else np.uint16, copy=False)
        self.tokens, self.leaf, self.vocab = rows.tokens, rows.leaf.astype(np.int32, copy=False), rows.vocab
        self.start = np.zeros(n + 1, np.int32 if len(rows.tokens) < 2**31 else np.int64)
        np.cumsum(rows.own_lengths, out=self.start[1:])
        row = np.argsort(shared[1:], kind="stable") + 1  # a radix sort
        self.border = shared[row].astype(np.int32 if (int(shared.max()) + 2) * n < 2**31 else np.int64)
        self.border *= n
        self.border += row
        self.eos_token_id, self.tokenizer_hash, self.pad_token_id = eos, tokenizer_hash, pad
        for name, special in (("EOS", eos), ("Pad", pad)):
            if special is not None and 0 <= special < rows.vocab and (rows.tokens == special).any():
                raise ValueError(f"{name} token {special} occurs inside identifiers; generation would stop or be cut in the middle of one.")
        for name in _ARRAYS:
            getattr(self, name).setflags(write=False)

    def __len__(self) -> int:
        """The number of identifiers."""
        return len(self.leaf)

    def __repr__(self) -> str:
        return f"Trie({len(self)} identifiers, {len(self.tokens)} edges, depth {self.depth})"

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each path, by rank."""
        lengths = np.diff(self.start).astype(np.int64) + self.shared
        lengths.setflags(write=False)
        return lengths

    @cached_property
    def depth(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def rank(self) -> np.ndarray:
        """int32 [n]: the rank of each leaf."""
        rank = np.empty(len(self), np.int32)
        rank[self.leaf] = np.arange(len(self), dtype=np.int32)
        rank.setflags(write=False)
        return rank

    @cached_property
    def border_key(self) -> np.ndarray:
        """int64 [n - 1], ascending: for each border the index of its node's first border, times `vocab`, plus the token behind it. One
        binary search in it finds a node's child by token."""
        n = len(self)
        shared = np.append(self.shared.astype(np.int32), -1)  # row -1, before the first
        # before[i]: the last row that shares less than row i does; jumps double, so there are few rounds
        before = np.arange(-1, n)
        going = np.flatnonzero(shared[before[:n]] >= shared[:n])
        while len(going):
            before[going] = before[before[going]]
            going = going[shared[before[going]] >= shared[going]]
        depth, row = np.divmod(self.border.astype(np.int64), n)
        index = np.arange(n - 1)
        opens = np.ones(n - 1, bool)
        opens[1:] = (depth[1:] != depth[:-1]) | (before[row[1:]] >= row[:-1])
        key = np.maximum.accumulate(np.where(opens, index, 0)) * self.vocab + self.tokens[self.start[row]]
        key.setflags(write=False)
        return key

    @cached_property
    def widest(self) -> int:
        """The most children that a node has."""
        if len(self) == 1:
            return 1
        first = self.border_key // self.vocab
        return 1 + int(np.diff(np.append(np.flatnonzero(np.diff(first, prepend=-1)), len(first))).max())

    def rows(self) -> np.ndarray:
        """int32 [n, depth]: each path by rank, whatever behind its end."""
        column, index = np.arange(self.depth, dtype=np.uint16), np.arange(len(self))
        rows = np.zeros((len(self), self.depth), np.int32)
        rows[(column >= self.shared[:, None]) & (column < self.lengths[:, None])] = self.tokens
        for d in range(self.depth):  # a row shares its tokens with the last row before it that spells them out
            rows[:, d] = rows[np.maximum.accumulate(np.where(self.shared <= d, index, 0)), d]
        return rows

    def paths(self) -> list[np.ndarray]:
        """int32 token ids of each identifier, as given to the constructor."""
        return [row[:length] for row, length in zip(self.rows()[self.rank], self.lengths[self.rank].tolist(), strict=True)]

    def save(self, path: str | Path, of: str = "") -> None:
        """Writes one file in the safetensors format (atomically), with a format version and a checksum; `load` maps it into memory. `of` is
        any text, such as the hash of what the identifiers are; the loaded trie has it as an attribute."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        facts = {"format": str(FORMAT), "of": of} | {name: str(getattr(self, name)) for name in _FACTS}
        facts["sha256"] = _checksum(arrays, facts)
        data = save(arrays, metadata={_METADATA: json.dumps(facts)})  # one entry: the format keeps no order among several
        with replacing(Path(path)) as new:
            new.write_bytes(data)

    @classmethod
    def load(cls, path: str | Path) -> Trie:
        """Maps a trie that `save` wrote: its pages are shared by all processes that load it. Raises `ValueError` if the file is missing,
        truncated, corrupted, no trie, or of a newer version."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"No trie at {path}; write one with Trie.save.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
                arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a readable trie file; it may be truncated ({error}). Save the trie again.") from error
        if not isinstance(facts, dict):
            facts = {}
        version, checksum = str(facts.get("format", "")), facts.pop("sha256", "")
        if version.isdecimal() and int(version) > FORMAT:
            raise ValueError(f"{path} has trie format {version}; this grlm-hf reads up to {FORMAT}. pip install -U grlm-hf")
        if not version.isdecimal() or arrays.keys() != set(_ARRAYS):
            raise ValueError(f"{path} holds {sorted(arrays)} and no trie format; it was not written by Trie.save.")
        if checksum != _checksum(arrays, facts):
            raise ValueError(f"{path} is corrupted: its checksum does not match. Save the trie again.")
        trie = cls.__new__(cls)
        for name, array in arrays.items():
            array.setflags(write=False)
            setattr(trie, name, array)
        try:
            trie.vocab, trie.tokenizer_hash, trie.of = int(facts["vocab"]), facts["tokenizer_hash"], facts["of"]
            trie.eos_token_id, trie.pad_token_id = (None if facts[k] == "None" else int(facts[k]) for k in ("eos_token_id", "pad_token_id"))
            trie._check()
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise ValueError(f"{path} is no trie ({type(error).__name__}: {error}). Save the trie again.") from error
        return trie

    def _check(self) -> None:
        """Raises ``ValueError`` where arrays from a file are not those of a trie: a checksum says that they are whole, not that they are
        right."""
        n = len(self.leaf)
        for name in _ARRAYS:
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
        sizes = {"start": n + 1, "shared": n, "border": n - 1, "tokens": int(self.start[-1]) if len(self.start) else -1}
        for name, size in sizes.items():
            if not n or len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} identifiers")
        own, shared = np.diff(self.start.astype(np.int64)), self.shared.astype(np.int64)
        if self.start[0] != 0 or (own <= 0).any() or shared[0] != 0 or (shared[1:] >= (shared + own)[:-1]).any():
            raise ValueError("start and shared are no paths of which none begins another")
        if not (np.sort(self.leaf) == np.arange(n)).all():
            raise ValueError("leaf does not number each identifier once")
        if not 0 < self.vocab < 2**31 or self.tokens.min() < 0 or self.tokens.max() != self.vocab - 1:
            raise ValueError("tokens are not within the vocabulary")
        row = np.argsort(shared[1:], kind="stable") + 1
        if not (self.border == shared[row] * n + row).all():
            raise ValueError("border is not that of shared")
        rows, later = self.rows(), np.arange(1, n)
        if (rows[later - 1, shared[1:]] >= self.tokens[self.start[1:-1]]).any():
            raise ValueError("its paths are not in lexical order")
        for special in (self.eos_token_id, self.pad_token_id):
            if special is not None and (self.tokens == special).any():
                raise ValueError(f"the special token {special} occurs inside identifiers")


def flat(paths: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(p) for p in paths), np.int64, len(paths))
    return np.fromiter(itertools.chain.from_iterable(paths), np.int64, int(lengths.sum())), lengths


def _checksum(arrays: dict[str, np.ndarray], facts: dict[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name in _ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _lexical_order(rows: np.ndarray) -> np.ndarray:
    """int64 [n]: the order that sorts `rows`, non-negative int32 [n, columns]. As many columns at a time as a 64-bit key holds; then
    only those rows go on that are still tied."""
    n, columns = rows.shape
    bits = max(1, int(rows.max()).bit_length())
    order = np.arange(n)
    tied, group, column = np.arange(n), np.zeros(n, np.int64), 0
    while len(tied) and column < columns:
        take = min(columns - column, (63 - int(group[-1]).bit_length()) // bits)
        key = group
        for c in range(column, column + take):
            key = (key << bits) | rows[order[tied], c]
        column += take
        by_key = np.argsort(key)
        order[tied] = order[tied[by_key]]
        key = key[by_key]
        opens = np.ones(len(key), bool)
        opens[1:] = key[1:] != key[:-1]
        group = np.cumsum(opens) - 1
        still = np.bincount(group)[group] > 1
        tied, group = tied[still], group[still]
        group = np.cumsum(np.diff(group, prepend=group[:1]) > 0)
    return order


def _check_prefix_free(shared: np.ndarray, lengths: np.ndarray, order: np.ndarray, rows: np.ndarray) -> None:
    bad = np.flatnonzero(shared[1:] >= lengths[:-1])
    if len(bad):
        i = int(bad[0])
        (a, one), (b, other) = sorted((int(order[j]), (rows[j, : lengths[j]] - 1).tolist()) for j in (i, i + 1))
        raise ValueError(f"Identifiers {a} and {b} {'are equal' if one == other else 'begin one another'} in tokens {one}, {other}.")
