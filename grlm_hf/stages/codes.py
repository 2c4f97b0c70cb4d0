"""Items → vectors → codes → a catalog of Semantic IDs; and catalogs of atomic ids and titles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item
from grlm_hf.identifiers.symbols import ATOMIC, CODES, PIECES
from grlm_hf.identifiers.titles import LONGEST, TITLES, written_title
from grlm_hf.indexing.codes import CodesConfig, identify, with_source
from grlm_hf.indexing.encoder import TextEncoder
from grlm_hf.indexing.index_file import read_index
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.indexing.pieces import to_pieces, with_pieces
from grlm_hf.indexing.quantizers.fit import fit_codebook
from grlm_hf.indexing.vectors import behaviour_vectors, joined, read_vectors


def codes_catalog(
    items: Sequence[Item],
    config: CodesConfig,
    neighbors: NeighborsConfig,
    histories: Sequence[History] = (),
    work: Path | None = None,
    pieces: int = 0,
) -> tuple[Catalog, dict[str, Any]]:
    """A catalog of Semantic IDs with its codebook, and facts about both.

    Args:
        neighbors: names the embedder of the texts, and files of vectors.
        histories: of training, for the vectors of behaviour (`CodesConfig.needs_histories`).
        work: keeps the state of a long training.
        pieces: above 0: the identifiers are piece ids, with this number of different pieces (`grlm_hf.indexing.pieces`).
    """
    given, items = items, sorted(items, key=lambda item: item.item_id)  # so that the codes do not depend on the items' order
    parts: list[np.ndarray] = []
    weights: list[float] = []
    names: list[str] = []
    encoder = None
    if config.text and neighbors.texts and config.quantizer != "random":
        encoder = TextEncoder.fit(items, neighbors.embedder)
        parts, weights, names = [encoder(items)], [config.text], [neighbors.embedder or "tf-idf"]
    for path, weight in zip(neighbors.vectors, neighbors.weights or [1.0] * len(neighbors.vectors), strict=True):
        parts, weights, names = [*parts, read_vectors(path, items)], [*weights, weight], [*names, Path(path).name]
    behaviour = behaviour_vectors(items, histories, config.behaviour_dims, config.seed) if config.needs_histories else None
    if behaviour is not None and config.behaviour:
        parts, weights, names = [*parts, behaviour], [*weights, config.behaviour], [*names, "behaviour"]
    if not parts and config.quantizer != "random":
        raise ValueError(
            "Nothing is left to make codes of: identifier.codes.text and behaviour are 0, and neighbors.vectors names no file."
        )
    vectors = joined(parts, weights) if parts else np.zeros((len(items), 1), np.float32)
    codebook = fit_codebook(vectors, config, work=work, **({"behaviour": behaviour} if config.contrasted else {}))
    codebook = with_source(codebook, encoder, [part.shape[1] for part in parts], weights, config)
    found, scheme = identify(items, vectors, codebook, config.collisions), CODES
    longer = sum(len(i) > config.levels for i in found)
    if pieces:
        codebook = with_pieces(codebook, found, pieces)
        found, scheme = to_pieces(codebook, found), PIECES
    catalog = Catalog(items, found, scheme, codebook).in_order_of(given)
    facts = {
        "generator": f"codes, {config.quantizer}",
        "codebook": codebook.hash,
        "levels": config.levels,
        "sizes": list(config.sizes),
        "vectors": [
            {"of": name, "weight": weight, "dims": part.shape[1]} for name, weight, part in zip(names, weights, parts, strict=True)
        ],
        "collisions": config.collisions,
        "items_with_a_digit": longer,
        "items_sharing": sum(map(len, catalog.collisions.values())),
        **{name: codebook.facts[name] for name in ("rqvae",) if name in codebook.facts},
    }
    return catalog, facts


def given_codes(items: Sequence[Item], config: CodesConfig) -> tuple[Catalog, dict[str, Any]]:
    """A catalog with the codes of the index file that the settings name, without a codebook, and facts."""
    catalog = Catalog(items, read_index(config.file, items, config.numbers).values(), CODES)
    levels = min(map(len, catalog.identifiers))
    facts = {
        "generator": "codes, file",
        "file": Path(config.file).name,
        "levels": levels,
        "items_with_a_digit": sum(len(identifier) > levels for identifier in catalog.item_identifiers),
        "items_sharing": sum(map(len, catalog.collisions.values())),
    }
    return catalog, facts


def atomic_catalog(items: Sequence[Item]) -> tuple[Catalog, dict[str, Any]]:
    """A catalog in which the n-th item has the identifier ``<item_n>``, and facts."""
    return Catalog(items, [(f"item_{n}",) for n in range(len(items))], ATOMIC), {"generator": "atomic"}


def titles_catalog(items: Sequence[Item]) -> tuple[Catalog, dict[str, Any]]:
    """A catalog in which each item is named by its title, and facts. Items with the same title are told apart by brand, last category or,
    where all of them are the same, a number in the order of their ids."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for item in sorted(items, key=lambda item: item.item_id):
        title, more = written_title(item.title), (item.brand, *reversed(item.categories))
        names = [title, *(written_title(f"{title} ({part})") for part in more if part)]
        number = 2
        while not (name := next((n for n in names if n not in taken), "")):
            names, number = [written_title(f"{title[: LONGEST - 10]} no. {number}")], number + 1
        found[item.item_id] = name
        taken.add(name)
    longer = sum(found[i.item_id] != written_title(i.title) for i in items)
    return Catalog(items, [(found[i.item_id],) for i in items], TITLES), {"generator": "titles", "titles_made_distinct": longer}
