"""Dense retrieval: the items with the texts nearest to those of the last items. It uses no other users and can rate new items.

    p(b | history) = Σ over its last items a of age ** -γ · softmax over b of cos(a, b) / temperature, over Σ age ** -γ

Each item of the history has its own softmax: the mean vector of a user with two interests would be near neither. An item never follows
itself.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.data.items import Item
from grlm_hf.indexing.embedding import item_text
from grlm_hf.indexing.encoder import TextEncoder
from grlm_hf.priors.tuning import Targets, coordinate_search
from grlm_hf.settings import Count, NotNegative, Range, check_settings
from grlm_hf.tensors import read_tensors, write_tensors

GRID = {"temperature": (0.03, 0.05, 0.07, 0.1, 0.15, 0.2), "age_power": (0.5, 0.7, 1.0, 1.5)}
"""Candidate values of `tune_text`."""
_ROWS = 256  # items of the histories per block of comparisons
_LEAST = np.float32(1e-30)
TFIDF_DIM = 1024
"""Dimensions of the TF-IDF embedder, enough to separate the nearest of all items from thousands of others."""


@dataclass(frozen=True)
class TextConfig:
    """Settings of dense retrieval."""

    temperature: Annotated[float, Range(0.01)] = 0.1
    """Temperature of the softmax over cosines: the lower, the more the nearest items dominate."""
    age_power: NotNegative = 1.0
    """γ: how fast the weight of an item of the history falls with its age."""
    max_items: Count = 10
    """Number of last items of a history that are used."""

    def __post_init__(self) -> None:
        check_settings(self, "text_knn.")


@dataclass(frozen=True, eq=False)
class TextKNN:
    """Made by `fit`; `following` adapts it to a changed catalog.

    Attributes:
        vectors: float16 `[n_items, d]`, embeddings of length 1; zero for a text that the embedder maps to zero.
        digests: int64 `[n_items]`, hashes of the texts: an item is embedded again when its text changes.
        embedder: the name or folder of a sentence-transformers model; "" for a TF-IDF embedder with the tokenizer `words` (JSON) and the
            weights `rows`, float16 `[n_words, d]`.
    """

    kind: ClassVar[str] = "text"
    item_ids: tuple[str, ...]
    vectors: np.ndarray
    digests: np.ndarray
    config: TextConfig
    embedder: str = ""
    words: str = ""
    rows: np.ndarray | None = None

    @classmethod
    def fit(cls, items: Sequence[Item], embedder: str = "", config: TextConfig | None = None) -> TextKNN:
        """Embeds the items' texts with the sentence-transformers model of that name or folder, or else with TF-IDF fitted on these items
        (`grlm_hf.indexing.embedding.tfidf_embedder`), which is saved with the vectors. Raises ``ValueError`` for no items, a repeated id or
        an unreadable model; ``ImportError`` naming what to install."""
        if not items or len({i.item_id for i in items}) < len(items):
            raise ValueError(f"Found {len(items)} items with {len({i.item_id for i in items})} ids; expected at least one, and unique ids.")
        made = TextEncoder.fit(items, embedder, TFIDF_DIM)
        empty = cls((), np.zeros((0, 0), np.float16), np.zeros(0, np.int64), config or TextConfig(), embedder, made.words, made.rows)
        return empty.following(items)

    def following(self, items: Iterable[Item]) -> TextKNN:
        """The same for these items, in this order. Only new items and items with changed texts are embedded."""
        items = list(items)
        digests = np.fromiter((_digest(item_text(i)) for i in items), np.int64, len(items))
        row = {item: n for n, item in enumerate(self.item_ids)}
        at = np.fromiter((row.get(i.item_id, -1) for i in items), np.int64, len(items))
        old = np.zeros(len(items), bool)
        old[at >= 0] = self.digests[at[at >= 0]] == digests[at >= 0]
        if old.all() and len(items) == len(self.item_ids) and (at == np.arange(len(at))).all():
            return self
        new = np.flatnonzero(~old).tolist()
        made = self._embed([items[n] for n in new]) if len(new) else np.zeros((0, self.vectors.shape[1]), np.float16)
        vectors = np.zeros((len(items), made.shape[1]), np.float16)
        if old.any():
            vectors[old] = self.vectors[at[old]]
        vectors[new] = made
        return replace(self, item_ids=tuple(i.item_id for i in items), vectors=vectors, digests=digests)

    def _embed(self, items: Sequence[Item]) -> np.ndarray:
        return self._encoder(items).astype(np.float16)

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.embedder, self.words, self.rows)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def _wide(self) -> np.ndarray:
        return self.vectors.astype(np.float32)

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items with a non-zero vector."""
        return np.asarray(self.vectors.any(1))

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(next item | history); see `Scorer`. Uniform if the history has no item with a non-zero vector."""
        known, n = self.known, len(self.item_ids)
        found = np.zeros((len(histories), n), np.float32)
        item: list[int] = []
        user: list[int] = []
        weight: list[float] = []
        for number, history in enumerate(histories):
            last = [r for i in history if (r := self._row.get(i)) is not None and known[r]][: -self.config.max_items - 1 : -1]
            if not last or n == 1:
                found[number] = 1 / n
                continue
            age = np.arange(1, len(last) + 1) ** -self.config.age_power
            item += last
            user += [number] * len(last)
            weight += (age / age.sum()).tolist()
        distinct, place = np.unique(np.array(item, np.int64), return_inverse=True)
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(0, len(distinct) + _ROWS, _ROWS))
        for start, (first, end) in zip(range(0, len(distinct), _ROWS), itertools.pairwise(ends), strict=False):
            some = distinct[start : start + _ROWS]
            near = self._wide[some] @ self._wide.T  # [some, n_items]
            near[np.arange(len(some)), some] = -np.inf
            near -= near.max(1, keepdims=True)
            near /= self.config.temperature
            np.exp(near, out=near)
            near /= near.sum(1, keepdims=True)
            for at in order[first:end]:
                found[user[at]] += np.float32(weight[at]) * near[place[at] - start]
        return np.log(np.maximum(found, _LEAST, out=found), out=found)

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically. A named embedder is not copied."""
        arrays = {"vectors": self.vectors, "digests": self.digests, **({} if self.rows is None else {"rows": self.rows})}
        facts = {"item_ids": list(self.item_ids), "config": asdict(self.config), "embedder": self.embedder, "words": self.words}
        write_tensors(path, self.kind, {"text": arrays}, facts)

    @classmethod
    def load(cls, path: str | Path) -> TextKNN:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            arrays = {name: tensor.numpy() for name, tensor in groups["text"].items()}
            config = TextConfig(**facts["config"])
            return cls(tuple(facts["item_ids"]), config=config, embedder=facts["embedder"], words=facts["words"], **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a text-kNN that this grlm-hf reads ({error}). Make it again.") from error


def tune_text(text: TextKNN, cases: Sequence[Case], *, exclude_seen: bool = True) -> TextKNN:
    """With the settings of `GRID` that have the best NDCG@10 on validation cases, by coordinate search (`coordinate_search`)."""
    targets = Targets(text.item_ids, cases, exclude_seen)
    config, _ = coordinate_search(text.config, GRID, lambda config: targets.measure(replace(text, config=config)))
    return replace(text, config=config)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
