"""Items → neighbours → Term IDs or other identifiers."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item, load_term_ids
from grlm_hf.files import alone, check_replaceable, replacing, write_json
from grlm_hf.identifiers.terms import normalise
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE, DATASET_FACTS, NEIGHBORS_FILE, TERMS_FACTS
from grlm_hf.plugins import load_plugin, stated
from grlm_hf.recipe import DataConfig, Recipe, TermsConfig
from grlm_hf.stages.reading import find_data, read_items, read_split, tell
from grlm_hf.tables.tally import Tally

if TYPE_CHECKING:
    from grlm_hf.identifiers.terms import TermID
    from grlm_hf.indexing.neighbors import Neighbors, NeighborsConfig


log = logging.getLogger("grlm_hf")


@alone
def make_neighbors(
    data: str | Path,
    output: str | Path,
    config: NeighborsConfig | None = None,
    read: DataConfig | None = None,
    *,
    work: str | Path | None = None,
    tally: Tally | None = None,
) -> Neighbors:
    """Finds each item's similar items and writes them to `output`, a parquet file.

    Args:
        tally: counts what was read otherwise than it was written; None: that is logged.
        work: keeps finished embeddings, so that a killed run is resumed; by default beside `output`, until that is written.

    Raises:
        ValueError: `output` is a folder or another file; data that cannot be used.
    """
    from grlm_hf.indexing.neighbors import Neighbors, find_neighbors

    output = Path(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file for the neighbours, such as {output / NEIGHBORS_FILE}.")
    if output.is_file() and not Neighbors.written(output):
        raise ValueError(f"{output} is no file of neighbours, and will not be replaced by one. Choose another name.")
    kept = Path(work) if work is not None else output.parent / f".{output.name}-embeddings"
    counted = Tally() if tally is None else tally
    items = read_items(data, read, counted)
    if tally is None:
        tell(counted)
    neighbors = find_neighbors(items, config=config, work=kept)
    neighbors.save(output)
    if work is None:
        shutil.rmtree(kept, ignore_errors=True)
    return neighbors


def make_terms(
    data: str | Path,
    output: str | Path,
    config: TermsConfig | None = None,
    read: DataConfig | None = None,
    *,
    neighbors: str | Path | None = None,
    work: str | Path | None = None,
) -> Catalog:
    """Gives every item a Term ID and writes the catalog to `output`: ``catalog.parquet``, its settings (``terms.json``), the neighbours.

    Args:
        neighbors: file of `make_neighbors`; by default they are found here, with default settings, where the generator needs them.
        work: keeps a language model's answers, so that a killed run is resumed; by default beside `output`.

    Raises:
        ValueError: settings that do not go together; neighbours of other items.
        Incomplete: the settings name a part of a language model's work (`LLMConfig.part`), and other parts are missing.
    """
    config, read, output = config or TermsConfig(), read or DataConfig(), Path(output)
    if config.llm.part and config.origin in ("extract", "file", "function"):
        raise ValueError(
            f"Only a language model's work has parts ({config.llm.part}), and the terms come from {config.origin!r}: "
            "leave --part out, or name the generator: terms.generator=vllm."
        )
    check_replaceable(output, CATALOG_FILE, never=(CONFIG_FILE, DATASET_FACTS))
    tally = Tally()
    items = read_items(data, read, tally)
    tell(tally)
    kept = Path(work) if work is not None else output.parent / f".{output.name}-answers"
    found = known_neighbors(items, neighbors, needed=config.origin not in ("file", "function"))
    facts: dict[str, Any] = {"generator": config.origin, "n_terms": config.n_terms}
    if counted := tally.lines(examples=False):
        facts["reading"] = counted
    if config.function:
        term_ids = own_term_ids(config.function, items)
        facts |= {"function": stated(config.function), "n_terms": max(map(len, term_ids))}
    elif config.generator == "file":
        path = Path(config.file) if config.file else find_data(data, "term_ids", "term_ids_official")
        term_ids = read_term_ids(path, items)
        facts |= {"file": path.name, "n_terms": max(map(len, term_ids))}
    elif config.generator == "extract":
        from grlm_hf.indexing.extract import extract_terms

        assert found is not None
        term_ids = extract_terms(items, found, config.n_terms)
    else:
        from grlm_hf.indexing.generate import generate_terms
        from grlm_hf.llms.writers import make_writer

        assert found is not None
        c = config.llm
        writer = make_writer(
            config.generator, c.model, dtype=c.dtype, batch_size=c.batch_size, tensor_parallel=c.tensor_parallel,
            max_model_len=c.max_model_len, eager=c.eager,
        )  # fmt: skip
        made = generate_terms(items, found, writer, kept, config.n_terms, c)
        term_ids = made.term_ids
        facts |= made.facts
    catalog, more = _finished(items, term_ids, config)
    with replacing(output) as new:
        catalog.save_pretrained(new)
        write_json(new / TERMS_FACTS, facts | more)
        if found is not None:
            found.save(new / NEIGHBORS_FILE)
    if work is None and config.origin not in ("extract", "file", "function"):  # those two must not remove another run's answers
        shutil.rmtree(kept, ignore_errors=True)
    return catalog


def make_identifiers(
    data: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    neighbors: str | Path | None = None,
    work: str | Path | None = None,
) -> Catalog:
    """Gives every item an identifier of the kind that ``recipe.identifier`` states, and writes the catalog to `output`, with facts about
    its making and the neighbours. Term IDs are `make_terms`, whose arguments and errors these are."""
    kind, output = recipe.identifier.kind, Path(output)
    if kind == "terms":
        return make_terms(data, output, recipe.terms, recipe.read, neighbors=neighbors, work=work)
    from grlm_hf.indexing.codes import identify_new
    from grlm_hf.stages.codes import atomic_catalog, codes_catalog, given_codes, titles_catalog

    check_replaceable(output, CATALOG_FILE, never=(CONFIG_FILE, DATASET_FACTS))
    tally = Tally()
    items = read_items(data, recipe.read, tally)
    tell(tally)
    if kind == "codes" and recipe.identifier.codes.file:
        catalog, facts = given_codes(items, recipe.identifier.codes)
    elif kind in ("codes", "pieces"):
        config = recipe.identifier.codes
        pieces = recipe.identifier.pieces if kind == "pieces" else 0
        unseen = recipe.read.split == "unseen-items"
        histories = read_split(data, items, recipe.read, recipe.seed)[1].train if config.needs_histories or unseen else ()
        known = {item for history in histories for item in history.items}
        old = [item for item in items if item.item_id in known] if unseen else items
        catalog, facts = codes_catalog(old, config, recipe.neighbors, histories, Path(work) if work else None, pieces)
        if unseen:  # the held-out items get their codes as new items do: not even their texts are read before
            rest = [item for item in items if item.item_id not in known]
            catalog = catalog.add(rest, identify_new(catalog, rest)).in_order_of(items)
    else:
        catalog, facts = (atomic_catalog if kind == "atomic" else titles_catalog)(items)
    if counted := tally.lines(examples=False):
        facts["reading"] = counted
    found = known_neighbors(items, neighbors, needed=False)
    with replacing(output) as new:
        catalog.save_pretrained(new)
        write_json(new / TERMS_FACTS, facts)
        if found is not None:
            found.save(new / NEIGHBORS_FILE)
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    return catalog


def read_term_ids(path: str | Path, items: list[Item], hint: str = "let them be made: terms.generator=extract.") -> list[TermID]:
    """The items' Term IDs from a file, in the order of the items. Raises ``ValueError``, with the hint, where an item has none."""
    given = load_term_ids(path)
    if missing := [i.item_id for i in items if i.item_id not in given]:
        raise ValueError(f"{len(missing)} of {len(items)} items have no Term ID in {path}, such as {missing[:3]}; {hint}")
    return [given[i.item_id] for i in items]


def own_term_ids(function: str, items: list[Item]) -> list[TermID]:
    """The items' Term IDs from a function of the user: a list of items → a dict of item_id → list of terms. Terms are normalised.

    Raises:
        ValueError: an answer of another form, an item without terms, a term without a letter or digit; and as `load_plugin`.
    """
    plugin = load_plugin("terms.function", function)
    found = plugin(list(items))
    if not isinstance(found, Mapping):
        raise plugin.wrong(type(found).__name__, "a dict of item_id → list of terms")
    term_ids = []
    for item in items:
        terms = found.get(item.item_id)
        if not isinstance(terms, list | tuple) or not terms:
            raise plugin.wrong(f"{terms!r} for the item {item.item_id!r}", "a list of terms for each item")
        term_ids.append(tuple(normalise(str(term)) for term in terms))
        if not all(term_ids[-1]):
            raise plugin.wrong(f"{list(terms)} for the item {item.item_id!r}", "terms with a letter or a digit")
    return term_ids


def known_neighbors(items: list[Item], path: str | Path | None, needed: bool) -> Neighbors | None:
    """The neighbours of the file, of these items in their order; without one those that are found here, if `needed`."""
    if path is None and not needed:
        return None
    from grlm_hf.indexing.neighbors import Neighbors, find_neighbors

    if path is None:
        return find_neighbors(items)
    found = Neighbors.load(path)
    if found.item_ids != tuple(item.item_id for item in items):
        raise ValueError(
            f"{path} holds the neighbours of {len(found.item_ids)} items; expected those of the {len(items)} items read, in their order. "
            "Find them again: grlm neighbors."
        )
    return found


def _finished(items: list[Item], term_ids: list[TermID], config: TermsConfig) -> tuple[Catalog, dict[str, Any]]:
    """The catalog after the controlled vocabulary and the resolver, and facts about both."""
    from grlm_hf.indexing.collisions import collision_report, resolve
    from grlm_hf.indexing.words import MUCH_FILLED, filler_terms

    facts: dict[str, Any] = {}
    allowed = None
    if config.vocabulary:
        from grlm_hf.indexing.vocabulary import limit_vocabulary

        limited = limit_vocabulary(term_ids, config.vocabulary)
        term_ids, allowed = limited.term_ids, set(limited.vocabulary.kept)  # the resolver takes words of the vocabulary only
        facts["vocabulary"] = limited.facts
    before = collision_report(items, term_ids)
    term_ids = resolve(items, term_ids, how=config.resolver, allowed=allowed)
    after = collision_report(items, term_ids)
    lengths = Counter(map(len, term_ids))
    if len(lengths) > 1:
        facts["lengths"] = {str(n): lengths[n] for n in sorted(lengths)}
    if len(lengths) > 1 and config.origin in ("file", "function"):
        log.warning(
            "The given Term IDs differ in their number of terms: %s.",
            ", ".join(f"{lengths[n]:,} items have {n}" for n in sorted(lengths)),
        )
    fillers = [item.item_id for item, term_id in zip(items, term_ids, strict=True) if filler_terms(item, term_id)]
    if fillers:
        facts["fillers"] = len(fillers)
    if MUCH_FILLED * len(items) < len(fillers):
        log.warning(
            "%d of %d items (%.0f %%) have terms that say nothing of them, such as %r: their texts are too short. Add brand, categories "
            "or a description.", len(fillers), len(items), 100 * len(fillers) / len(items), fillers[0],
        )  # fmt: skip
    facts["resolver"] = config.resolver
    facts["items_sharing"] = {"before": before.n_shared, "after": after.n_shared, "share_after": after.share}
    return Catalog(items, term_ids), facts
