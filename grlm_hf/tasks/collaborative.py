"""The collaborative task: an item → the Term IDs of the items that the same people choose, as another recommender found them.

GRLM's official code trains on the neighbours of SASRec; the paper does not describe the task.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.files import clean
from grlm_hf.tables.rows import read_rows
from grlm_hf.tasks.examples import Example, Source, Span, shown_item
from grlm_hf.tasks.prompts import collaborative_request
from grlm_hf.tasks.task import Inputs, Task


def collaborative(catalog: Catalog, neighbors: Mapping[str, Sequence[str]], n: int, history: str = "term_ids") -> Iterator[Source]:
    """An item → the identifiers of its `n` collaborative neighbours, nearest first. Variant 1: of the next `n`, and so on.

    Neighbours that share an identifier count once. Those with the item's own identifier do not count.

    Args:
        neighbors: item_id → ids, nearest first; ids that the catalog lacks are passed over.
        history: how the item is shown, one of `HISTORIES`.
    """
    for item in catalog.items:

        def make(_items: tuple[str, ...], variant: int, item_id: str = item.item_id) -> Example | str:
            own = catalog.identifier(item_id)
            found = dict.fromkeys(catalog.identifier(i) for i in neighbors.get(item_id, ()) if i in catalog)
            distinct = [tid for tid in found if tid != own]
            chosen = distinct[variant * n : (variant + 1) * n]
            if not chosen:
                return "no neighbours left" if distinct else "no neighbours"
            request = collaborative_request(shown_item(catalog, item_id, history))
            return Example("collaborative", item_id, request, (Span("".join(map(catalog.scheme.line, chosen)), "identifiers"),))

        yield Source(item.item_id, make)


def load_item_neighbors(path: str | Path, catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """item_id → ids of its neighbours, nearest first, without the item itself.

    Args:
        path: a table (parquet or jsonl) of `item_id` and the list `neighbors`, one row an item. Or a file ``.txt`` or ``.txt.gz`` as GRLM's
            official code writes it: lines of an item and its neighbours, separated by spaces, and perhaps a heading.
        catalog: items and neighbours that it lacks are left out.

    Raises:
        ValueError: a row without these columns, a duplicate item, or a file without any item of the catalog.
    """
    path, found = Path(path), {}
    first: dict[str, str] = {}
    for where, item_id, others in _lines(path, catalog) if path.name.endswith((".txt", ".txt.gz")) else _rows(path):
        if item_id in first:
            raise ValueError(f"{where}: duplicate item {item_id!r}, first at {first[item_id]}; expected one row an item.")
        first[item_id] = where
        if item_id in catalog:
            found[item_id] = tuple(i for i in dict.fromkeys(others) if i in catalog and i != item_id)
    if not any(found.values()):
        some = ", ".join(repr(i.item_id) for i in catalog.items[:3])
        raise ValueError(
            f"{path}: none of its {len(first)} items has a neighbour in the catalog. The catalog's ids look like {some}, the file's like "
            f"{', '.join(map(repr, list(first)[:3]))}. Name the file that belongs to this catalog."
        )
    return found


def _rows(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for where, row in read_rows(path):
        if not clean(row.get("item_id")) or not isinstance(row.get("neighbors"), list):
            raise ValueError(f"{where} needs `item_id` and a list `neighbors`; found {str(row)[:200]}.")
        yield where, clean(row["item_id"]), [clean(i) for i in row["neighbors"]]


def _lines(path: Path, catalog: Catalog) -> Iterator[tuple[str, str, list[str]]]:
    if not path.is_file():
        raise ValueError(f"No file at {path}.")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                item_id, *others = line.split() or [""]
                if item_id and (number > 1 or item_id in catalog):
                    if not others:
                        raise ValueError(f"{path}:{number} has item {item_id!r} and no neighbour; the file may be truncated.")
                    yield f"{path}:{number}", item_id, others
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole text file: {error}.") from error


def _sources(given: Inputs) -> Iterator[Source]:
    neighbors, settings = given.neighbors, given.settings
    if neighbors is None:
        if not settings.neighbors:
            raise ValueError("mixture.collaborative needs neighbours; name their file: mixture.neighbors=FILE.")
        neighbors = load_item_neighbors(settings.neighbors, given.catalog)
    return collaborative(given.catalog, neighbors, settings.neighbors_per_item, given.prompts.history)


COLLABORATIVE = Task(
    "collaborative", "an item → the Term IDs of its neighbours in the file `neighbors`, or as `neighbors_from` finds them.", _sources
)
