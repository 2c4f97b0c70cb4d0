"""A frozen encoder of item texts: it embeds new items as it embedded those that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.items import Item
from grlm_hf.indexing.embedding import embed, item_text, load_embedder, tfidf_embedder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Texts → unit vectors.

    Attributes:
        embedder: the name or folder of a sentence-transformers model; "" for a TF-IDF embedder with the tokenizer `words` (JSON) and the
            weights `rows`, float16 [n_words, d].
    """

    embedder: str = ""
    words: str = ""
    rows: np.ndarray | None = None

    @classmethod
    def fit(cls, items: Sequence[Item], embedder: str = "", dim: int = 1024) -> TextEncoder:
        """The named sentence-transformers model, or else TF-IDF fitted on these items (`grlm_hf.indexing.embedding.tfidf_embedder`)."""
        if embedder:
            return cls(embedder)
        module: Any = tfidf_embedder(map(item_text, items), dim)[0]
        return cls("", module.tokenizer.to_str(), module.embedding.weight.detach().cpu().numpy().astype(np.float16))

    def __call__(self, items: Sequence[Item]) -> np.ndarray:
        """float32 [n, d]: rows of length 1, or zero for a text without a known word. Raises ``ValueError`` for an unreadable model;
        ``ImportError`` naming what to install."""
        if self.rows is None:
            return np.asarray(embed(items, self._model))
        # as StaticEmbedding of sentence-transformers: the mean of the words' rows. So `recommend` does not need that library
        vectors = np.zeros((len(items), self.rows.shape[1]), np.float32)
        texts = self._tokenizer.encode_batch([item_text(i) for i in items], add_special_tokens=False)
        for vector, found in zip(vectors, texts, strict=True):
            if found.ids:
                vector[:] = self.rows[found.ids].mean(0, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(norms > 0, norms, 1)

    @cached_property
    def _model(self) -> SentenceTransformer:
        return load_embedder(self.embedder)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.words)
