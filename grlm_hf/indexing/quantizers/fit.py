"""The quantiser that the settings name, fitted to vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.identifiers.codebook import Codebook, Layers
from grlm_hf.indexing.quantizers.config import QuantizerConfig


def fit_codebook(vectors: np.ndarray, config: QuantizerConfig, *, work: str | Path | None = None, **more: Any) -> Codebook:
    """Fits the quantiser that `config` names to vectors float32 [n, d].

    Args:
        work: a folder for the state of a long training, from which a killed run is resumed.
        more: for `grlm_hf.indexing.quantizers.rqvae`, such as `behaviour`.

    Raises:
        ValueError: fewer vectors than codes of a level, or settings that do not suit the vectors.
        ImportError: naming what to install.
    """
    if config.quantizer != "random" and len(vectors) < max(config.sizes):
        raise ValueError(
            f"Found {len(vectors):,} items for {max(config.sizes):,} codes of a level; k-means needs an item a code. Choose fewer codes: "
            "identifier.codes.codes."
        )
    facts = {"quantizer": config.quantizer, "seed": config.seed}
    if config.quantizer == "random":
        return Codebook("random", config.sizes, facts=facts)
    if config.quantizer == "rqvae":  # it has a network in place of the projection
        from grlm_hf.indexing.quantizers.rqvae import fit_rqvae

        found = fit_rqvae(vectors, config, work=work, **more)
    else:
        from grlm_hf.indexing.quantizers.kmeans import fit_product, fit_residual

        fit: Callable[..., Codebook] = fit_residual if config.quantizer == "residual-kmeans" else fit_product
        before, after = principal_components(vectors, config.dims)
        projected = vectors if not before else (vectors @ before[0][0].T + before[0][1]).astype(np.float32)
        found = fit(projected, config)
        if before:  # a product quantiser has a rotation of its own behind the projection
            encoder, decoder = _chained(before, found.encoder), _chained(found.decoder, after)
            found = replace(found, encoder=encoder, decoder=decoder)
    return replace(found, facts=facts | dict(found.facts))


def principal_components(vectors: np.ndarray, dims: int) -> tuple[Layers, Layers]:
    """The projection to the first principal components and the way back, as one layer each; nothing if the vectors have no more than
    `dims` dimensions, or `dims` is 0."""
    if not 0 < dims < vectors.shape[1]:
        return (), ()
    mean = vectors.mean(0, dtype=np.float64)
    centred = vectors - mean.astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, ::-1][:, :dims].T
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]  # an axis and its opposite are equally good
    weight = axes.astype(np.float32)
    return ((weight, -(weight @ mean).astype(np.float32)),), ((weight.T.copy(), mean.astype(np.float32)),)


def _chained(first: Layers, second: Layers) -> Layers:
    """Two affine maps as one."""
    if not first or not second:
        return first or second
    ((w, b),), ((v, c),) = first, second
    return ((v @ w, v @ b + c),)
