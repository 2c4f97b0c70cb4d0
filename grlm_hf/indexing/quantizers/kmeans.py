"""k-means of residuals, and (optimised) product quantisation, by faiss (Johnson et al., 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from grlm_hf.identifiers.codebook import Codebook, distances
from grlm_hf.indexing.embedding import needs
from grlm_hf.indexing.quantizers.config import QuantizerConfig

_ROUNDS = 25
"""Iterations of k-means."""


def fit_residual(vectors: np.ndarray, config: QuantizerConfig) -> Codebook:
    """Level by level, k-means of what the levels before leave (residual quantisation, Chen et al., 2010)."""
    rest, tables = vectors.astype(np.float32), []
    for level, size in enumerate(config.sizes):
        tables.append(centroids(rest, size, config.seed + level))
        rest = rest - tables[-1][distances(rest, tables[-1]).argmin(1)]
    return Codebook("residual", config.sizes, tuple(tables))


def fit_product(vectors: np.ndarray, config: QuantizerConfig) -> Codebook:
    """k-means of each block of the vectors; for "opq" after the rotation that leaves the least error (Ge et al., 2013)."""
    faiss, n_blocks = needs("faiss"), config.levels
    width = vectors.shape[1] - vectors.shape[1] % n_blocks
    if not width:
        raise ValueError(f"The vectors have {vectors.shape[1]} dimensions for {n_blocks} codes; a code needs one. Choose fewer levels.")
    rotation = np.eye(vectors.shape[1], dtype=np.float32)[:width]
    if config.quantizer == "opq":
        made = faiss.OPQMatrix(vectors.shape[1], n_blocks, width)
        made.pq = faiss.ProductQuantizer(width, n_blocks, max(1, int(np.ceil(np.log2(max(config.sizes))))))
        made.verbose, made.niter = False, 20
        made.pq.cp.seed, made.pq.cp.min_points_per_centroid = config.seed, 1
        made.train(np.ascontiguousarray(vectors, np.float32))
        rotation = faiss.vector_to_array(made.A).reshape(width, vectors.shape[1]).copy()
    turned = np.ascontiguousarray(vectors @ rotation.T, np.float32)
    blocks = np.split(turned, n_blocks, axis=1)
    tables = tuple(centroids(b, size, config.seed + level) for level, (b, size) in enumerate(zip(blocks, config.sizes, strict=True)))
    none = np.zeros(width, np.float32), np.zeros(vectors.shape[1], np.float32)
    return Codebook("product", config.sizes, tables, ((rotation, none[0]),), ((rotation.T.copy(), none[1]),))


def centroids(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    """float32 [k, d]: k-means, the same for the same vectors and seed. An empty cluster takes half of a large one."""
    kmeans: Any = needs("faiss").Kmeans(
        vectors.shape[1], k, niter=_ROUNDS, seed=seed, min_points_per_centroid=1, max_points_per_centroid=10**6, verbose=False
    )
    kmeans.train(np.ascontiguousarray(vectors, np.float32))
    return np.array(kmeans.centroids, np.float32)
