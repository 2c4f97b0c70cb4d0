"""Identifiers → their quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.files import check_replaceable, clean, read_json
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.identifiers.symbols import CODES
from grlm_hf.identifiers.terms import TERMS, normalise
from grlm_hf.layout import NEIGHBORS_FILE, QUALITY_FILE, TERMS_FACTS
from grlm_hf.recipe import DataConfig, QualityConfig
from grlm_hf.stages.identify import known_neighbors, read_term_ids
from grlm_hf.stages.reading import read_split
from grlm_hf.tables.rows import read_rows

if TYPE_CHECKING:
    from grlm_hf.indexing.neighbors import Neighbors

_K = 10  # neighbours by behaviour


@dataclass(frozen=True)
class _Set:
    """Identifiers of the measured items, in their order; Term IDs as they are written."""

    identifiers: Sequence[Any]
    scheme: Scheme = TERMS
    codebook: Codebook | None = None
    form: dict[str, Any] = field(default_factory=dict)  # of legal Term IDs, as arguments of `measure`


def make_quality(
    catalog_folder: str | Path,
    output: str | Path,
    config: QualityConfig | None = None,
    *,
    name: str = "ours",
    more: Sequence[str | Path] = (),
    read: DataConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures the identifiers of a catalog folder (`make_identifiers`), of `more` and of `config.compare`; writes quality.json, .md and
    .png to `output`.

    The items are those of the first catalog, and neighbours are read from its folder, or found here where it has none. Index files of
    codes (`grlm_hf.indexing.index_file`) need no catalog; without one there are no texts and no neighbours.

    Args:
        name: of the first set in the result, if it is not called by its path as those of `more` are: as much of it as tells them apart.
        more: further sets of the same items: catalog folders, index files, files of Term IDs.
        read, seed: how `config.behaviour` is split.

    Raises:
        ValueError: no catalog folder and no index file; `output` holds other files; identifiers of other items; two sets of one name.
    """
    from grlm_hf.indexing.index_file import is_index, read_index
    from grlm_hf.indexing.neighbors import find_neighbors
    from grlm_hf.indexing.quality.measure import compare, measure
    from grlm_hf.indexing.quality.report import save_quality
    from grlm_hf.indexing.quality.symbols import measure_symbols, stability

    config = config or QualityConfig()
    check_replaceable(output, QUALITY_FILE)
    names = _names([Path(catalog_folder), *map(Path, more)])
    name = name or names[0]
    places = {name: Path(catalog_folder)}
    others = zip([*names[1:], config.compare_name], [*more, config.compare], strict=True)
    for called, place in list(others) if config.compare else list(others)[:-1]:
        if called in places:
            raise ValueError(f"Both sets are called {called!r}; give the other one another name: quality.compare_name.")
        places[called] = Path(place)
    folder = next((place for place in places.values() if place.is_dir()), None)
    first = places[name]
    if folder is None and not (first.is_file() and is_index(first)):
        raise ValueError(f"No catalog folder at {str(catalog_folder)!r}; name the one that `grlm terms` wrote, or an index file of codes.")
    items = list(Catalog.from_pretrained(folder)) if folder else [Item(key, key) for key in read_index(first)]
    near: Neighbors | None = None
    if folder or config.neighbors:
        beside = Path(config.neighbors or folder / NEIGHBORS_FILE)  # type: ignore[operator]
        near = known_neighbors(items, beside, needed=True) if config.neighbors or beside.is_file() else find_neighbors(items)
    together = _by_behaviour(config.behaviour, items, read, seed) if config.behaviour else None
    sets = {called: _read_set(place, items) for called, place in places.items()}
    reports = {}
    for called, one in sets.items():
        paths = _token_paths(config.tokenizer, one) if config.tokenizer else None
        shared: dict[str, Any] = {"paths": paths, "tokenizer": Path(config.tokenizer).name}
        if one.scheme is TERMS:
            reports[called] = measure(items, one.identifiers, near, **shared, **(one.form if called == name else {}))
        else:
            kind: dict[str, Any] = {"scheme": one.scheme, "codebook": one.codebook, "behaviour": together}
            reports[called] = measure_symbols(items, one.identifiers, near, **shared, **kind)
    found = compare(reports)
    if pairs := stability({called: (one.identifiers, one.codebook) for called, one in sets.items() if one.scheme is CODES}):
        found["stability"] = pairs
    save_quality(found, output)
    return found


def _names(places: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as differ."""
    longest = max(len(place.parts) for place in places)
    for n in range(1, longest):
        names = ["/".join(place.parts[-n:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _read_set(place: Path, items: list[Item]) -> _Set:
    from grlm_hf.indexing.index_file import is_index, read_index

    if not place.is_dir():
        if place.is_file() and is_index(place):
            return _Set(list(read_index(place, items).values()), CODES)
        return _Set(read_as_written(place, items))
    catalog = Catalog.from_pretrained(place)
    if missing := [item.item_id for item in items if item.item_id not in catalog]:
        raise ValueError(
            f"{place} is a catalog of {len(catalog)} items without {len(missing)} of the {len(items)} measured ones, such as "
            f"{missing[:3]}. Compare catalogs of the same items."
        )
    made = read_json(facts) if (facts := place / TERMS_FACTS).is_file() else {}
    shorter = made.get("generator", "file") not in ("file", "function")  # made here: as many as a text gives
    form = {"n_terms": made.get("n_terms"), "shorter": shorter, "appended": made.get("resolver") == "append"}
    return _Set([catalog.identifier(item.item_id) for item in items], catalog.scheme, catalog.codebook, form)


def _by_behaviour(data: str, items: list[Item], read: DataConfig | None, seed: int) -> Neighbors:
    from grlm_hf.priors.knn import ItemKNN

    histories = read_split(data, items, read or DataConfig(), seed)[1].train
    return ItemKNN.fit([item.item_id for item in items], histories).neighbors(_K)


def read_as_written(path: str | Path, items: list[Item]) -> list[list[str]]:
    """Term IDs from a file as written, since one measure counts those that are in normal form."""
    read_term_ids(path, items, "name a file of the same items, or compare with none: quality.compare=")  # checks that none is missing
    rows = {clean(row["item_id"]): row["terms"] for _, row in read_rows(path)}

    def terms(given: Any) -> list[str]:
        if isinstance(given, str):
            return [term.strip() for term in given.strip().strip("[]").split(",")]  # the spaces are those of the written form
        return [str(term) for term in given]

    return [terms(rows[item.item_id]) for item in items]


def _token_paths(tokenizer: str, one: _Set) -> list[list[int]]:
    """Token ids of the identifiers, for which symbols are tokens of their own."""
    from tokenizers import AddedToken

    from grlm_hf.tasks.mixture import load_tokenizer
    from grlm_hf.tokens import identifier_tokens

    identifiers: list[Identifier] = [tuple(map(normalise, i)) for i in one.identifiers] if one.scheme is TERMS else list(one.identifiers)
    loaded = load_tokenizer(tokenizer, "quality.tokenizer")
    loaded.add_tokens([AddedToken(symbol, special=False, normalized=False) for symbol in one.scheme.added_tokens(identifiers)])
    return identifier_tokens(loaded, one.scheme, identifiers)
