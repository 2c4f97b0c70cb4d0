"""Checks of a catalog in a checkpoint, in a dataset or on its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.doctor.findings import Finding
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.identifiers.symbols import CODES
from grlm_hf.identifiers.terms import TERMS, normalise
from grlm_hf.indexing.words import MUCH_FILLED, filler_terms
from grlm_hf.layout import CATALOG_FILE, CODEBOOK_FILE
from grlm_hf.tables.rows import read_rows

CROWD = 20
"""With more items, one Term ID fills a whole list of recommendations."""
MUCH_SHARED = 0.25
MUCH_REPEATED = 0.05
FEW_USED, VERY_FEW_USED = 0.5, 0.1
"""Shares of a codebook's first level. Published files of RQ-VAE codes use a fifth of it or more."""
_COPY = "Copy both files together, or make the codes again and train again."


def examine_catalog(folder: Path) -> tuple[Catalog | None, list[Finding]]:
    """The catalog of a folder, if it is readable, and its findings."""
    path, remake = folder / CATALOG_FILE, "Make the catalog again: grlm terms DATA --output CATALOG."
    if not path.is_file():
        return None, [Finding("error", "missing-file", f"There is no {CATALOG_FILE}.", "It lists the items.", remake, str(folder))]
    try:
        scheme, codebook = Catalog.stated(path)
        rows = [row for _, row in read_rows(path)]
    except (ValueError, OSError) as error:
        return None, [Finding("error", "broken-file", str(error), "No item is known without it.", remake, str(path))]
    found = [*_rows(rows, scheme, str(path)), *_codebook_file(path, codebook)]
    try:
        catalog = Catalog.from_pretrained(folder)
    except Exception as error:
        if not found:
            found = [Finding("error", "broken-file", str(error), "No item is known without it.", remake, str(path))]
        return None, found
    return catalog, [
        *found,
        *_collisions(catalog, str(path)),
        *_used(catalog, str(path)),
        *_fillers(catalog, str(path)),
        *_same_items(catalog, str(path)),
    ]


def _rows(rows: list[dict[str, Any]], scheme: Scheme, where: str) -> Iterator[Finding]:
    ids = Counter(str(row.get("item_id")) for row in rows)
    if twice := [i for i, n in ids.items() if n > 1]:
        yield Finding("error", "duplicate-ids", f"{len(twice)} duplicate item ids, such as {twice[0]!r}.",
                      "An id must name one item; such a catalog does not load.",
                      "Keep one row per item in the items file, then: grlm terms.", where)  # fmt: skip
    if scheme is not TERMS:
        if wrong := [(row.get("item_id"), parts) for row in rows if not _valid(scheme, parts := row.get("identifier"))]:
            yield Finding("error", "illegal-identifiers",
                          f"{len(wrong)} of {len(rows)} items have no legal {scheme.noun}, such as {wrong[0][0]!r}: {wrong[0][1]!r}.",
                          "It cannot be written and read again.", "Make the catalog again: grlm terms.", where)  # fmt: skip
        return
    if illegal := [(row.get("item_id"), terms) for row in rows if not _legal(terms := row.get("terms"))]:
        item, terms = illegal[0]
        yield Finding("error", "illegal-term-ids",
                      f"{len(illegal)} of {len(rows)} items have an illegal Term ID, such as {item!r}: {terms!r}.",
                      "Terms are normalised (lower case, hyphens, no brackets or commas); other terms cannot be written and read again.",
                      "Pass each term through grlm_hf.identifiers.terms.normalise, or create them again: grlm terms.", where)  # fmt: skip


def _legal(terms: Any) -> bool:
    return isinstance(terms, list) and bool(terms) and all(isinstance(t, str) and t and normalise(t) == t for t in terms)


def _valid(scheme: Scheme, parts: Any) -> bool:
    try:
        return isinstance(parts, list) and bool(scheme.validate(parts))
    except ValueError:
        return False


def _codebook_file(path: Path, stated: str) -> Iterator[Finding]:
    """Whether the codebook that a catalog states is beside it."""
    beside = path.with_name(CODEBOOK_FILE)
    if not stated:
        return
    try:
        known = Codebook.load(beside).hash if beside.is_file() else ""
    except ValueError as error:
        yield Finding("error", "codebook", str(error), "The catalog does not load.", _COPY, str(beside))
        return
    if known != stated:
        said = f"{CODEBOOK_FILE} is the codebook {known}" if known else f"There is no {CODEBOOK_FILE}"
        yield Finding("error", "codebook", f"{said}; the catalog has codes of {stated}.",
                      "Codes of another codebook mean other items; the catalog does not load.", _COPY, str(beside))  # fmt: skip


def _used(catalog: Catalog, where: str) -> Iterator[Finding]:
    """Whether the items are spread over the codes of the first level."""
    if catalog.codebook is None or catalog.scheme is not CODES:
        return
    used, of = len({identifier[0] for identifier in catalog.identifiers}), min(catalog.codebook.sizes[0], len(catalog))
    if used < FEW_USED * of:
        yield Finding("warning" if used < VERY_FEW_USED * of else "info", "codes-used",
                      f"{used} of {of} codes of the first level are used ({used / of:.0%}).",
                      "Unused codes cost rows of the model, and items crowd under the others.",
                      "Take fewer codes or another quantiser: grlm terms --set identifier.codes.codes=[…]; grlm quality shows each level.",
                      where)  # fmt: skip


def _collisions(catalog: Catalog, where: str) -> Iterator[Finding]:
    if not catalog.collisions:
        return
    sharing = sum(map(len, catalog.collisions.values()))
    tid, worst = max(catalog.collisions.items(), key=lambda entry: len(entry[1]))
    share, noun = sharing / len(catalog), catalog.scheme.noun
    a = "an" if noun[0] in "aeiou" else "a"
    yield Finding("warning" if share > MUCH_SHARED or len(worst) > CROWD else "info", "collisions",
                  f"{sharing} of {len(catalog)} items ({share:.1%}) share {a} {noun}; at most {len(worst)} items have the same: "
                  f"{catalog.scheme.write(tid)}.",
                  f"The model cannot distinguish items with one {noun}; they are ranked by their ids.",
                  "Resolve them with grlm terms --set terms.resolver=term (or append, attribute); items with equal texts still share one."
                  if catalog.scheme is TERMS else "Resolve them: grlm terms --set identifier.codes.collisions=reassign (or digit).",
                  where)  # fmt: skip


def _fillers(catalog: Catalog, where: str) -> Iterator[Finding]:
    if catalog.scheme is not TERMS:
        return
    filled = [i.item_id for i, tid in zip(catalog.items, catalog.item_identifiers, strict=True) if filler_terms(i, tid)]
    if filled:
        yield Finding("warning" if len(filled) > MUCH_FILLED * len(catalog) else "info", "fillers",
                      f"{len(filled)} of {len(catalog)} items have terms that say nothing of them, such as {filled[0]!r}: "
                      f"[{', '.join(catalog.identifier(filled[0]))}].", "Such terms cost tokens and tell no items apart.",
                      "Give these items a brand, categories or a description, then: grlm terms.", where)  # fmt: skip


def _same_items(catalog: Catalog, where: str) -> Iterator[Finding]:
    groups: dict[Any, list[str]] = defaultdict(list)
    for i in catalog:
        groups[i.title, i.brand, i.categories, i.description, i.price, i.domain].append(i.item_id)
    if same := [ids for ids in groups.values() if len(ids) > 1]:
        extra = sum(map(len, same)) - len(same)
        yield Finding("warning" if extra > MUCH_REPEATED * len(catalog) else "info", "duplicate-items",
                      f"{extra} of {len(catalog)} items repeat all the text of another, such as {same[0][:2]}.",
                      "A repeated item splits the history of one product and takes a second place in the list.",
                      "Give variants of one product one item_id in items and interactions before grlm terms.", where)  # fmt: skip
