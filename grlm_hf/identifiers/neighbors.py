"""Items → their nearest items by text: the context in which terms are chosen (GRLM, arXiv 2601.06798, section 3.1).

The paper embeds title, description and categories with Qwen3-Embedding-8B and keeps the five closest items by cosine. Here any
sentence-transformers model does; without one, a TF-IDF model fitted on the catalog itself is used, which needs no download.

The search is exact, O(n² d). It masks the item itself by its position, so the closest true neighbour is never lost, not even when it
is an exact duplicate (the official code drops it).
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.catalog import Item

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

_PROGRESS_FROM = 5_000  # items; below that, embedding is over before a bar is read
_BLOCK = 1 << 24  # floats held at once while scores are recomputed
_FAISS_ERROR = 1e-5  # above the float32 rounding error of an inner product of unit vectors


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The `k` nearest items of each item, closest first; equal scores in catalog order.

    Attributes:
        item_ids: `n_items` ids, the order of the rows.
        indices: int32 `[n_items, k]`, positions in `item_ids`, never the row's own; -1 where there are fewer than `k`.
        scores: float32 `[n_items, k]`, cosine similarity in [-1, 1], falling along a row; -inf where `indices` is -1.

    Raises `ValueError` when shapes or dtypes differ from these.
    """

    item_ids: tuple[str, ...]
    indices: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("indices", np.int32), ("scores", np.float32)):
            array = getattr(self, name)
            if array.ndim != 2 or len(array) != len(self.item_ids) or array.shape != self.indices.shape or array.dtype != dtype:
                raise ValueError(
                    f"Neighbors.{name} must be {np.dtype(dtype)} [{len(self.item_ids)} items, k]; found {array.dtype} {list(array.shape)}."
                )

    def of(self, position: int) -> list[int]:
        """Positions of one item's neighbours, closest first, without the missing ones."""
        return [int(i) for i in self.indices[position] if i >= 0]

    def to_dataset(self) -> Dataset:
        """Columns `item_id` (string), `neighbors` (list of item ids, closest first), `scores` (list of float32); one row an item."""
        from datasets import Dataset, Features, List, Value

        found = [[self.item_ids[i] for i in self.of(row)] for row in range(len(self.item_ids))]
        scores = [row[: len(ids)].tolist() for row, ids in zip(self.scores, found, strict=True)]
        features = Features({"item_id": Value("string"), "neighbors": List(Value("string")), "scores": List(Value("float32"))})
        return Dataset.from_dict({"item_id": list(self.item_ids), "neighbors": found, "scores": scores}, features=features)


def item_text(item: Item) -> str:
    """The text that is embedded: title, brand, categories (root to leaf) and description, one a line, empty ones left out."""
    parts = (item.title, item.brand, " > ".join(item.categories), item.description)
    return "\n".join(part.strip() for part in parts if part.strip())


def tfidf_embedder(texts: Sequence[str], dim: int = 256, seed: int = 0) -> SentenceTransformer:
    """A `SentenceTransformer` fitted on `texts`: TF-IDF in `dim` dimensions, with no download.

    With at most `dim` words, cosines are those of TF-IDF; with more, a Gaussian random projection estimates them without bias, with a
    standard error of about dim ** -.5 (Johnson and Lindenstrauss, 1984). On product titles that finds better neighbours than as many
    dimensions of a truncated SVD, which flattens the items of one category into near ties.

    The model's one module is a `StaticEmbedding`: word w has the row idf(w) · R[w], and a text is the mean of its words' rows, which
    points in the direction of its TF-IDF vector times R. So it encodes tens of thousands of texts a second and is saved and loaded like
    any other. Words are runs of letters, marks and digits, lower-cased, with at least one letter; those in fewer than two texts link
    nothing and are left out (a text without any other gets the zero vector). idf(w) = ln((1 + n) / (1 + df(w))) + 1, as in
    scikit-learn. The order of `texts` does not matter. Raises `ValueError` for `dim` < 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1; found {dim}.")
    modules = _needs("sentence_transformers.sentence_transformer.modules")
    from sentence_transformers import SentenceTransformer
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}]+"), behavior="removed", invert=True)
    frequency: Counter[str] = Counter()
    for text in texts:
        frequency.update({word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    vocabulary = sorted(word for word, count in frequency.items() if count > 1 and any(c.isalpha() for c in word))
    idf = np.log((1 + len(texts)) / (1 + np.array([frequency[word] for word in vocabulary], dtype=np.float64))) + 1  # [n_words]
    if len(vocabulary) <= dim:
        axes = np.eye(len(vocabulary), max(1, len(vocabulary)))
    else:
        axes = np.random.default_rng(seed).standard_normal((len(vocabulary), dim)) / np.sqrt(dim)
    rows = np.concatenate([np.zeros((1, axes.shape[1])), idf[:, None] * axes])  # [1 + n_words, d]; the unknown word counts for nothing

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *vocabulary])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return SentenceTransformer(modules=[modules.StaticEmbedding(tokenizer, rows.astype(np.float32))], device="cpu")


def embed(items: Sequence[Item], embedder: SentenceTransformer | str | None = None, batch_size: int = 128) -> np.ndarray:
    """float32 `[n_items, d]`, each row of length 1, or all zero for a text in which the embedder finds nothing (an empty one).

    Args:
        items: at least one.
        embedder: a `SentenceTransformer`, the name or folder of one, or None for `tfidf_embedder` fitted on these items.
        batch_size: texts encoded at once.

    Raises `ValueError` when there are no items, or naming the items whose embedding is not finite.
    """
    if not items:
        raise ValueError("There are no items to embed; pass at least one.")
    texts = [item_text(item) for item in items]
    if embedder is None:
        model = tfidf_embedder(texts)
    else:
        model = _needs("sentence_transformers").SentenceTransformer(embedder) if isinstance(embedder, str) else embedder
    found = model.encode(texts, batch_size=batch_size, show_progress_bar=len(texts) > _PROGRESS_FROM, convert_to_numpy=True)
    vectors = np.asarray(found, dtype=np.float32)

    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        named = ", ".join(repr(items[i].item_id) for i in bad[:10])
        raise ValueError(
            f"{len(bad)} of {len(items)} embeddings hold NaN or infinity, of items {named}{', …' if len(bad) > 10 else ''}. "
            "Load the embedder in float32, or another one."
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    empty = norms <= 1e-6 * norms.max()
    return np.where(empty, 0, vectors / np.where(empty, 1, norms)).astype(np.float32)


def nearest(
    vectors: np.ndarray, k: int, min_score: float | None = None, rows: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices int32 `[n, k]` and scores float32 `[n, k]` of `Neighbors`, for float32 vectors `[n, d]` of length 1 or 0.

    faiss (`IndexFlatIP`, exact) proposes; the scores are recomputed in float64, where they depend on the two vectors alone, so that
    equal ones are equal and fall in catalog order. Rows whose k-th score may be tied beyond what was fetched fetch more. Zero vectors
    have no neighbours and are nobody's. `min_score` leaves out what is less similar. Only `rows` are searched for, if given; the
    others have no neighbours then.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}.")
    indices = np.full((len(vectors), k), -1, dtype=np.int32)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    live = np.flatnonzero(vectors.any(axis=1))
    kept = min(k, len(live) - 1)
    if kept < 1:
        return indices, scores

    points = np.ascontiguousarray(vectors[live], dtype=np.float32)
    index = _needs("faiss").IndexFlatIP(points.shape[1])
    index.add(points)
    pending = np.arange(len(live)) if rows is None else np.flatnonzero(np.isin(live, np.asarray(rows)))
    fetch = min(len(live), k + 1 + 8)
    while len(pending):
        unsettled = []
        step = max(1, _BLOCK // (fetch * points.shape[1]))
        for some in (pending[i : i + step] for i in range(0, len(pending), step)):
            proposed, found = index.search(points[some], fetch)
            exact = np.einsum("rd,rfd->rf", points[some].astype(np.float64), points[found].astype(np.float64)).astype(np.float32)
            exact[found == some[:, None]] = -np.inf  # the item itself, wherever it stands
            order = np.lexsort((found, -exact))[:, :kept]
            best, chosen = np.take_along_axis(exact, order, 1), np.take_along_axis(found, order, 1)
            settled = np.full(len(some), fetch == len(live)) | (proposed[:, -1] < best[:, -1] - _FAISS_ERROR)
            scores[live[some[settled]], :kept] = best[settled].clip(-1, 1)
            indices[live[some[settled]], :kept] = live[chosen[settled]]
            unsettled.append(some[~settled])
        pending, fetch = np.concatenate(unsettled), min(len(live), 2 * fetch)

    if min_score is not None:
        far = ~(scores >= min_score)
        indices[far], scores[far] = -1, -np.inf
    return indices, scores


def find_neighbors(
    items: Sequence[Item], k: int = 5, embedder: SentenceTransformer | str | None = None, min_score: float | None = None
) -> Neighbors:
    """Each item's `k` nearest other items by the cosine of their texts' embeddings.

    `embedder` as in `embed`. `min_score` leaves out neighbours that are less similar. Items whose text is empty to the embedder have no
    neighbours. Raises `ValueError` for no items, a repeated item id, `k` < 1 or an embedding that is not finite; `ImportError` naming
    what to install.
    """
    item_ids = tuple(item.item_id for item in items)
    repeated = [item_id for item_id, count in Counter(item_ids).items() if count > 1]
    if repeated:
        raise ValueError(f"Item ids must be unique; {len(repeated)} are repeated, such as {repeated[0]!r}.")
    return Neighbors(item_ids, *nearest(embed(items, embedder), k, min_score))


def _needs(module: str) -> ModuleType:
    """The module, or an ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'Neighbours need {module.split(".")[0]}, which failed to import: pip install "grlm-hf[terms]"') from error
