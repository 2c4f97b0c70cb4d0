"""What the codes of a Semantic ID mean: a fixed map from an item's vector to codes, and back. Only numpy is needed to apply it.

    latent = encoder(vector)                          # identity, a projection, or a small network
    residual: code_1 = nearest row of table_1 to latent;  code_2 = nearest row of table_2 to latent − table_1[code_1];  …
    product:  code_l = nearest row of table_l to the l-th block of latent

How a codebook is fitted: `grlm_hf.indexing.quantizers`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grlm_hf.identifiers.symbols import LEVELS, code
from grlm_hf.tensors import read_tensors, write_tensors

Structure = Literal["residual", "product", "random"]
Layers = tuple[tuple[np.ndarray, np.ndarray], ...]
"""Affine maps, weight float32 [out, in] and bias float32 [out], with ReLU between them."""
_KIND = "codes"
DIGITS = 64
"""Numbers of the additional level that separates items with equal codes."""
_ROWS = 8192  # vectors compared at once


@dataclass(frozen=True, eq=False)
class Codebook:
    """A fitted quantiser.

    Attributes:
        structure: "residual", "product", or "random": the codes are drawn from a hash of the item's id, and no vector is read.
        sizes: number of codes at each level.
        tables: one a level, float32 [sizes[level], d], d the latent's length or its block's; none for "random".
        encoder, decoder: vector → latent → vector; empty: the identity.
        source: how an item's vector is made, for new items (`grlm_hf.indexing.encoder`): arrays by name.
        facts: JSON-ready facts: quantiser and seed, the parts of a vector, the domain of the codes.
    """

    structure: Structure
    sizes: tuple[int, ...]
    tables: tuple[np.ndarray, ...] = ()
    encoder: Layers = ()
    decoder: Layers = ()
    source: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """Identifies the codes' meaning: what catalog and checkpoint state. 16 hexadecimal digits."""
        digest = hashlib.sha256(
            f"{self.structure} {self.sizes} {self.facts.get('seed')} {self.facts.get('domain')}{self.facts.get('pieces', '')}".encode()
        )
        for array in (*self.tables, *(a for layer in self.encoder for a in layer)):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:16]

    @property
    def domain(self) -> str:
        """What the symbols of these codes begin with, so that several codebooks share none; mostly empty."""
        return str(self.facts.get("domain", ""))

    def symbols(self) -> list[str]:
        """All parts that an identifier of this codebook may have, with `DIGITS` numbers for one more level."""
        levels = [*self.sizes, *([DIGITS] if len(self.sizes) < len(LEVELS) else [])]
        return [code(level, number, self.domain) for level, size in enumerate(levels) for number in range(size)]

    def written_symbols(self) -> list[str]:
        """All parts that identifiers are written with: `symbols`, or the pieces that are made of them (`grlm_hf.indexing.pieces`)."""
        if state := self.facts.get("pieces"):
            return [f"piece_{n}" for n in sorted(json.loads(state)["model"]["vocab"].values())]
        return self.symbols()

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, latent]."""
        return _through(self.encoder, vectors)

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """int32 [n, levels] of vectors float32 [n, d]."""
        found = np.zeros((len(vectors), len(self.sizes)), np.int32)
        for start in range(0, len(vectors), _ROWS):
            some = slice(start, start + _ROWS)
            rest = self.latents(vectors[some])
            for level, table in enumerate(self.tables):
                found[some, level] = distances(self._block(rest, level), table).argmin(1)
                if self.structure == "residual":
                    rest = rest - table[found[some, level]]
        return found

    def random_codes(self, item_ids: Sequence[str]) -> np.ndarray:
        """int32 [n, levels], drawn from a hash of each id: the control that knows nothing of an item."""
        found = np.zeros((len(item_ids), len(self.sizes)), np.int32)
        for row, item_id in enumerate(item_ids):
            digest = hashlib.blake2b(f"{self.facts.get('seed')} {item_id}".encode(), digest_size=32).digest()
            found[row] = np.random.default_rng(np.frombuffer(digest, np.uint64)).integers(self.sizes)
        return found

    def last_costs(self, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """float32 [n, sizes[-1]]: squared distance of what the levels before leave to each code of the last level; zeros for "random"."""
        if self.structure == "random":
            return np.zeros((len(codes), self.sizes[-1]), np.float32)
        rest = self.latents(vectors)
        if self.structure == "residual":
            for level, table in enumerate(self.tables[:-1]):
                rest = rest - table[codes[:, level]]
        return distances(self._block(rest, len(self.tables) - 1), self.tables[-1])

    def vectors(self, codes: np.ndarray) -> np.ndarray:
        """float32 [n, d]: the vectors that codes [n, levels or fewer] decode to. Fewer levels give the vector of a prefix, where the
        structure is "residual". Raises ``ValueError`` for "random"."""
        if self.structure == "random":
            raise ValueError("Random codes decode to no vector.")
        parts = [table[codes[:, level]] for level, table in enumerate(self.tables[: codes.shape[1]])]
        return _through(self.decoder, np.sum(parts, axis=0) if self.structure == "residual" else np.concatenate(parts, axis=1))

    def _block(self, latents: np.ndarray, level: int) -> np.ndarray:
        if self.structure == "residual":
            return latents
        begin = sum(table.shape[1] for table in self.tables[:level])
        return latents[:, begin : begin + self.tables[level].shape[1]]

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        groups: dict[str, dict[str, Any]] = {"tables": {str(n): t for n, t in enumerate(self.tables)}, "source": dict(self.source)}
        for name, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            groups[name] = {f"{n}.{part}": a for n, layer in enumerate(layers) for part, a in zip("wb", layer, strict=True)}
        facts = {"structure": self.structure, "sizes": list(self.sizes), "hash": self.hash, "about": dict(self.facts)}
        write_tensors(path, _KIND, groups, facts)

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken, of another kind, or not what its hash says."""
        groups, facts = read_tensors(path, _KIND)
        arrays = {group: {name: tensor.numpy() for name, tensor in named.items()} for group, named in groups.items()}
        tables = arrays.get("tables", {})
        try:
            layers = {
                name: tuple((arrays[name][f"{n}.w"], arrays[name][f"{n}.b"]) for n in range(len(arrays.get(name, {})) // 2))
                for name in ("encoder", "decoder")
            }
            found = cls(
                facts["structure"], tuple(facts["sizes"]), tuple(tables[str(n)] for n in range(len(tables))),
                source=arrays.get("source", {}), facts=facts["about"], **layers,
            )  # fmt: skip
            whole = found.hash == facts["hash"] and (not tables or [len(t) for t in found.tables] == list(found.sizes))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a codebook that this grlm-hf reads ({error}). Make the codes again.") from error
        if not whole:
            raise ValueError(f"{path} is not the codebook that its hash {facts['hash']!r} names: it was changed. Make the codes again.")
        return found


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances float32 [n, m]."""
    found = (a * a).sum(1)[:, None] - 2 * (a @ b.T) + (b * b).sum(1)
    return np.maximum(found, 0).astype(np.float32)


def _through(layers: Layers, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    for n, (weight, bias) in enumerate(layers):
        x = (np.maximum(x, 0) if n else x) @ weight.T + bias
    return x
