"""Vectors of items from several sources, joined so that a cosine is the weighted mean of the sources' cosines: texts, files of your own
(images, audio, a shop's embeddings), and behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item
from grlm_hf.indexing.embedding import needs

_WINDOW = 5  # events between two items of a history that count as used together
_MOST_MISSING = 3  # ids named in an error


def read_vectors(path: str | Path, items: Sequence[Item]) -> np.ndarray:
    """float32 [n_items, d], rows of length 1 (a zero row stays zero), from a parquet file with the columns ``item_id`` and ``vector`` (a
    list of numbers). Rows of other items are ignored.

    Raises:
        ValueError: no such file, other columns, an item without a row or with two, vectors of unequal lengths, NaN or infinity.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["item_id", "vector"])
    except (pa.ArrowException, OSError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise ValueError(f"{path} is no parquet file with the columns item_id and vector: {reason}.") from error
    ids = [str(item_id) for item_id in table["item_id"].to_pylist()]
    row = {item_id: n for n, item_id in enumerate(ids)}
    wanted = {item.item_id for item in items}
    if len(row) < len(ids) and (twice := wanted & {item_id for n, item_id in enumerate(ids) if row[item_id] != n}):
        raise ValueError(f"{path} has several rows for the item {min(twice)!r}; expected one an item.")
    if missing := [item.item_id for item in items if item.item_id not in row]:
        raise ValueError(
            f"{path} has no vector for {len(missing):,} of {len(items):,} items, such as {missing[:_MOST_MISSING]}. Each item needs a row; "
            "one without an image, say, may have a vector of zeros."
        )
    column = table["vector"].combine_chunks().take(pa.array([row[item.item_id] for item in items]))
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise ValueError(f"{path}: the column vector has the type {column.type}; expected lists of numbers.")
    lengths = {len(vector) if vector.is_valid else None for vector in column}
    if len(lengths) > 1 or lengths & {None, 0}:
        raise ValueError(f"{path}: vectors have {sorted(map(str, lengths))} numbers; expected the same number, one or more, in each row.")
    try:
        found = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(items), -1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the vectors are of {column.type.value_type}; expected numbers.") from error
    if len(bad := np.flatnonzero(~np.isfinite(found).all(1))):
        raise ValueError(f"{path}: {len(bad):,} vectors have NaN or infinity, the first of the item {items[bad[0]].item_id!r}.")
    return unit(found)


def behaviour_vectors(items: Sequence[Item], histories: Iterable[History], dims: int = 64, seed: int = 0) -> np.ndarray:
    """float32 [n_items, dims]: items that the same users bought within a few events of each other have similar vectors.

    The left singular vectors of the items' positive pointwise mutual information, scaled by the square root of the singular values (Levy
    and Goldberg, 2014, section 7), rows of length 1. An item without training events, or beside no other, has a zero row. A given number of
    `dims` is cut to what the items allow. `histories`: of training only.
    """
    sparse = needs("scipy.sparse")
    svds = needs("scipy.sparse.linalg").svds

    position = {item.item_id: n for n, item in enumerate(items)}
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for history in histories:
        at = np.fromiter((position[i] for i in history.items if i in position), np.int64)
        for apart in range(1, min(_WINDOW, len(at) - 1) + 1):
            left.append(at[:-apart])
            right.append(at[apart:])
    n, dims = len(items), min(dims, len(items) - 1)
    a, b = (np.concatenate(side) if side else np.zeros(0, np.int64) for side in (left, right))
    pairs = sparse.coo_matrix((np.ones(2 * len(a)), (np.concatenate([a, b]), np.concatenate([b, a]))), (n, n)).tocsr()
    pairs.setdiag(0)
    pairs.eliminate_zeros()
    if dims < 1 or not pairs.nnz:
        return np.zeros((n, max(dims, 1)), np.float32)
    totals, coo = np.asarray(pairs.sum(1)).ravel(), pairs.tocoo()
    coo.data = np.maximum(np.log(coo.data * totals.sum() / (totals[coo.row] * totals[coo.col])), 0)
    u, s, _ = svds(coo.tocsr(), k=dims, v0=np.random.default_rng(seed).standard_normal(n))
    return unit((u * np.sqrt(s)).astype(np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, float32; a zero row stays zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 1e-12, norms, np.inf)).astype(np.float32)


def joined(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """float32 [n, Σ d]: unit rows whose cosines are the weighted mean of the parts' cosines where both items have all parts; a part that
    an item lacks (a zero row) does not count for it."""
    return unit(np.concatenate([np.sqrt(weight) * part for part, weight in zip(parts, weights, strict=True)], axis=1))
