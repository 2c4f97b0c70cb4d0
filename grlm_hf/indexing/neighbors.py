"""Items → their nearest items by text: the context in which terms are chosen (GRLM, arXiv 2601.06798, section 3.1).

The paper embeds title, description and categories with Qwen3-Embedding-8B and keeps the five closest items by cosine. Here any
sentence-transformers model works (`embedding`), and the search is exact up to a million items (`index`). It masks the item itself by
position, so the closest true neighbour is kept even if it is an exact duplicate. The official code drops it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from grlm_hf.data.items import Item, check_unique
from grlm_hf.files import write_parquet
from grlm_hf.indexing.embedding import SHARD_SIZE, Shards, device_names, embed, item_text, load_embedder, prompt_text, tfidf_embedder
from grlm_hf.indexing.index import Index, IndexKind, build_index, search
from grlm_hf.indexing.vectors import joined, read_vectors
from grlm_hf.layout import Dtype
from grlm_hf.settings import Count, Limit, NotNegative, Range, Size, check_settings

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

NEIGHBORS_SCHEMA = 1
_FACTS_KEY = b"grlm_neighbors"


@dataclass(frozen=True)
class NeighborsConfig:
    """Settings of the search for similar items."""

    k: Count = 5
    """Number of similar items per item."""
    min_score: Annotated[float | None, Range(-1, 1)] = None
    """Items with a lower cosine similarity are not neighbours; null: no limit."""
    embedder: str = ""
    """Name or folder of a sentence-transformers model; empty: a TF-IDF embedder fitted on the catalog, which needs no download."""
    prompt: str = ""
    """Name of one of the embedder's prompts, or an instruction; empty: its prompt for documents, if it has one."""
    max_tokens: Limit = 0
    """Longer texts are truncated to this many tokens; 0: the embedder's own limit."""
    dtype: Dtype = "auto"
    """Number format of the embedder's weights: "auto" (as in its checkpoint), "float32", "bfloat16" or "float16"."""
    batch_size: Size = 128
    """Texts embedded at once."""
    devices: str = ""
    """Such as "cuda:0,cuda:1", with one process per device; empty: one device, by availability."""
    shard_size: Count = SHARD_SIZE
    """Items embedded between two writes; an interrupted run repeats at most this many."""
    index: IndexKind = "auto"
    """"exact"; "ivf" or "hnsw", approximate, with measured recall; "auto": exact up to a million items, then IVF, compressed if need be."""
    recall: Annotated[float, Range(above=0, most=1)] = 0.99
    """Required recall of an approximate index; it widens its search until it reaches it."""
    vectors: list[str] = field(default_factory=list)
    """Parquet files with vectors of your own (item_id, vector), of images, say: they count beside the texts."""
    weights: list[NotNegative] = field(default_factory=list)
    """Weight of each of these files, of the cosine; empty: 1 each. The texts have the weight 1."""
    texts: bool = True
    """Whether texts count; false: only the vectors of the files."""
    memory_gb: NotNegative = 0.0
    """Memory limit of the index in GB; 0: four fifths of the free memory."""

    def __post_init__(self) -> None:
        check_settings(self, "neighbors.")
        if self.weights and len(self.weights) != len(self.vectors):
            raise ValueError(f"neighbors.weights has {len(self.weights)} numbers for {len(self.vectors)} files of neighbors.vectors.")
        if not self.texts and not self.vectors:
            raise ValueError("neighbors.texts is false and neighbors.vectors names no file; expected something to compare items by.")


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The `k` nearest items of each item, closest first; equal scores in catalog order.

    Attributes:
        indices: int32 `[n_items, k]`, positions in `item_ids`, never the row's own; -1 where there are fewer than `k`.
        scores: float32 `[n_items, k]`, cosine similarity in [-1, 1], descending along a row; -inf where `indices` is -1.
        facts: how they were found, for a dataset card; JSON-ready.

    Raises `ValueError` for other shapes or dtypes.
    """

    item_ids: tuple[str, ...]
    indices: np.ndarray
    scores: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in (("indices", np.int32), ("scores", np.float32)):
            array = getattr(self, name)
            if array.ndim != 2 or len(array) != len(self.item_ids) or array.shape != self.indices.shape or array.dtype != dtype:
                raise ValueError(
                    f"Neighbors.{name} must be {np.dtype(dtype)} [{len(self.item_ids)} items, k]; found {array.dtype} {list(array.shape)}."
                )

    def check_items(self, items: Sequence[Item]) -> None:
        """Raises `ValueError` when the neighbours are of other items, or of these in another order."""
        if self.item_ids != tuple(item.item_id for item in items):
            raise ValueError(
                f"The neighbours are of {len(self.item_ids)} items that are not the {len(items)} given ones in their order. "
                "Call find_neighbors on the same items."
            )

    def of(self, position: int) -> list[int]:
        """Positions of one item's neighbours, closest first, without the missing ones."""
        return [int(i) for i in self.indices[position] if i >= 0]

    def to_dataset(self) -> Dataset:
        """Columns `item_id` (string), `neighbors` (list of item ids, closest first), `scores` (list of float32); one row per item."""
        import pyarrow as pa
        from datasets import Dataset, Features, List, Value

        there = self.indices >= 0
        ids, ends = pa.array(self.item_ids, pa.string()), np.concatenate([[0], there.sum(axis=1).cumsum()]).astype(np.int32)
        near, scores = (pa.ListArray.from_arrays(ends, part) for part in (ids.take(pa.array(self.indices[there])), self.scores[there]))
        features = Features({"item_id": Value("string"), "neighbors": List(Value("string")), "scores": List(Value("float32"))})
        return Dataset(pa.table([ids, near, scores], schema=features.arrow_schema))

    @classmethod
    def from_dataset(cls, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> Neighbors:
        """From rows with the columns of `to_dataset`, and the facts of their origin. Raises `ValueError` naming the first item with an
        invalid row: a repeated id, a neighbour that has no row or is the item itself, or unequal numbers of neighbours and scores."""
        facts = dict(facts or {})
        table = [(row["item_id"], row["neighbors"], row["scores"]) for row in rows]
        position = {item_id: at for at, (item_id, _, _) in enumerate(table)}
        k = max([int(facts.get("k", 0)), *(len(found) for _, found, _ in table)], default=0)
        indices = np.full((len(table), k), -1, dtype=np.int32)
        scores = np.full((len(table), k), -np.inf, dtype=np.float32)
        for at, (item_id, found, similar) in enumerate(table):
            strange = [other for other in found if other not in position or other == item_id]
            if position[item_id] != at or strange or len(found) != len(similar):
                raise ValueError(
                    f"The neighbours of item {item_id!r} (row {at}) are invalid: {len(found)} neighbours, {len(similar)} scores"
                    + (f", {strange[0]!r} is the item itself or has no row." if strange else ", or the id is repeated.")
                    + " Find them again on the same items."
                )
            indices[at, : len(found)] = [position[other] for other in found]
            scores[at, : len(found)] = similar
        return cls(tuple(position), indices, scores, facts)

    def save(self, path: str | Path) -> None:
        """Writes one parquet file atomically: the columns of `to_dataset`, with the facts in its metadata."""
        write_parquet(self.to_dataset(), path, {_FACTS_KEY: json.dumps({"schema": NEIGHBORS_SCHEMA, **self.facts}).encode()})

    @staticmethod
    def written(path: str | Path) -> bool:
        """Whether `save` wrote the file, by its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return _FACTS_KEY in (pq.read_schema(path).metadata or {})
        except (pa.ArrowException, OSError):
            return False

    @classmethod
    def load(cls, path: str | Path) -> Neighbors:
        """Reads what `save` wrote. Raises `ValueError` for any other file, one from a later grlm-hf, or one with invalid rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, columns=["item_id", "neighbors", "scores"])
        except (pa.ArrowException, OSError) as error:
            reason = "there is no such file." if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
            raise ValueError(f"{path} is no readable parquet file of neighbours: {reason}") from error
        stated = (table.schema.metadata or {}).get(_FACTS_KEY)
        if stated is None:
            raise ValueError(f"{path} was not written by Neighbors.save: its metadata state no schema. Find the neighbours again.")
        facts = json.loads(stated)
        if facts.pop("schema") > NEIGHBORS_SCHEMA:
            raise ValueError(f"{path} comes from a later grlm-hf; this one reads schema {NEIGHBORS_SCHEMA}: pip install -U grlm-hf")
        return cls.from_dataset((row for batch in table.to_batches() for row in batch.to_pylist()), facts)


def nearest(
    vectors: np.ndarray | Shards,
    k: int,
    min_score: float | None = None,
    rows: Sequence[int] | None = None,
    index: Index | str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Indices int32 `[n, k]` and scores float32 `[n, k]` of `Neighbors`, for float32 vectors `[n, d]` of length 1 or 0.

    Zero vectors have no neighbours and are neighbours of no item. `min_score` excludes less similar items. With `rows`, only these get
    neighbours. `index`: a kind as in `grlm_hf.indexing.index.choose_index`, or an index.

    Raises `ValueError` for `k` < 1 or an index that does not fit into memory.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}.")
    indices = np.full((len(vectors), k), -1, dtype=np.int32)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    built = build_index(vectors, k, index) if isinstance(index, str) else index
    wanted = built.rows if rows is None else np.intersect1d(built.rows, np.asarray(rows, dtype=np.int64))
    indices[wanted], scores[wanted] = search(built, vectors, wanted, k)
    if min_score is not None:
        far = ~(scores >= min_score)
        indices[far], scores[far] = -1, -np.inf
    return indices, scores


def find_neighbors(
    items: Sequence[Item],
    k: int | None = None,
    embedder: SentenceTransformer | str | None = None,
    min_score: float | None = None,
    *,
    config: NeighborsConfig | None = None,
    work: str | Path | None = None,
) -> Neighbors:
    """Each item's nearest other items by the cosine of their texts' embeddings.

    Args:
        k, embedder, min_score: override those of `config`. `embedder` may be a loaded `SentenceTransformer`; its own dtype and text
            length then apply.
        work: a folder for the embeddings. An interrupted run resumes from it (`embed`), and the embeddings need not fit into memory.

    Items that the embedder maps to zero have no neighbours. Raises `ValueError` for no items, a repeated item id, a setting out of range,
    an embedding that is not finite or an index that does not fit into memory; `ImportError` naming what to install.
    """
    given = {"k": k, "embedder": embedder if isinstance(embedder, str) else None, "min_score": min_score}
    config = replace(config or NeighborsConfig(), **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    item_ids = tuple(item.item_id for item in items)
    check_unique(item_ids)
    if not items:
        raise ValueError("There are no items to find neighbours of; pass at least one.")
    device_names(config.devices)  # before a model is loaded
    if not config.embedder and embedder is None:
        if config.prompt or config.max_tokens:
            raise ValueError("prompt and max_tokens need an embedder: give embedder too, or neither of them.")
        model, name = tfidf_embedder(map(item_text, items)), "tf-idf"
    elif embedder is None or isinstance(embedder, str):
        model = load_embedder(config.embedder, config.dtype, config.max_tokens, "cpu" if config.devices else None)
        name = Path(config.embedder).name if Path(config.embedder).is_dir() else config.embedder
    else:
        model, name = embedder, embedder.model_card_data.base_model or type(embedder).__name__
    how: dict[str, Any] = {"prompt": config.prompt, "devices": config.devices, "shard_size": config.shard_size, "work": work}
    vectors = embed(items, model, config.batch_size, **how) if config.texts else np.zeros((len(items), 0), np.float32)
    if config.vectors:
        own = [read_vectors(path, items) for path in config.vectors]
        vectors = joined([np.asarray(vectors), *own], [1.0, *(config.weights or [1.0] * len(own))])
        name = " + ".join([name] * config.texts + [Path(path).name for path in config.vectors])
    index = build_index(vectors, config.k, config.index, config.recall, int(config.memory_gb * 1e9))
    facts = {
        "n_items": len(items),
        "k": config.k,
        "min_score": config.min_score,
        "embedder": name,
        "revision": model.model_card_data.base_model_revision,
        "prompt": prompt_text(model, config.prompt),
        "max_tokens": model.max_seq_length if isinstance(model.max_seq_length, int) else None,
        "dim": vectors.shape[1],
        "without_text": len(items) - len(index.rows),
        **index.facts,
    }
    return Neighbors(item_ids, *nearest(vectors, config.k, config.min_score, index=index), facts)
