"""Items → neighbours → Term IDs → what these are worth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item, load_items, load_term_ids
from grlm_hf.files import check_replaceable, clean, find_table, read_json, read_rows, replacing, write_json
from grlm_hf.identifiers.terms import TERMS, normalise
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE, DATASET_FACTS, NEIGHBORS_FILE, QUALITY_FILE, TERMS_FACTS
from grlm_hf.recipe import DataConfig, QualityConfig, TermsConfig

if TYPE_CHECKING:
    from grlm_hf.identifiers.terms import TermID
    from grlm_hf.indexing.neighbors import Neighbors, NeighborsConfig


def find_data(data: str | Path, *stems: str) -> Path:
    """The table of a data folder that has one of these names. Raises ``ValueError`` naming what the folder should hold."""
    folder = Path(data)
    if not str(data) or not folder.is_dir():
        raise ValueError(f"No data folder at {str(data)!r}; expected one with items.* and interactions.* (csv, jsonl or parquet).")
    for stem in stems:
        if (path := find_table(folder, stem)) is not None:
            return path
    hint = " Let them be made from the items' texts: terms.generator=extract." if "term_ids" in stems else ""
    raise ValueError(f"{folder} holds no {' or '.join(f'{s}.*' for s in stems)} (csv, jsonl or parquet, also .gz).{hint}")


def read_items(data: str | Path, read: DataConfig | None = None) -> list[Item]:
    """A data folder's items, as many as `DataConfig.limit` allows."""
    read = read or DataConfig()
    items = load_items(find_data(data, "items"), read.missing_title)
    return items[: read.limit] if read.limit else items


def make_neighbors(
    data: str | Path,
    output: str | Path,
    config: NeighborsConfig | None = None,
    read: DataConfig | None = None,
    *,
    work: str | Path | None = None,
) -> Neighbors:
    """Finds each item's similar items and writes them to `output`, a parquet file.

    Embeddings are kept in `work` while it runs, so a killed run goes on where it stopped; named by nobody, they stand beside `output`
    until it is whole.
    """
    from grlm_hf.indexing.neighbors import Neighbors, find_neighbors

    output = Path(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name the file that the neighbours are to be, such as {output / NEIGHBORS_FILE}.")
    if output.is_file() and not Neighbors.written(output):
        raise ValueError(f"{output} is no file of neighbours, and will not be replaced by one. Choose another name.")
    kept = Path(work) if work is not None else output.parent / f".{output.name}-embeddings"
    neighbors = find_neighbors(read_items(data, read), config=config, work=kept)
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
    """Gives every item a Term ID and writes the catalog to `output`: ``catalog.parquet``, how it was made (``terms.json``), the neighbours.

    Args:
        neighbors: file of `make_neighbors`; without it they are found here, with default settings, where terms are to be made.
        work: where a language model's answers are kept, so that a killed run goes on where it stopped; by default beside `output`.

    Raises:
        ValueError: what the settings refuse; neighbours of other items.
        Incomplete: only a part of a language model's answers was asked for (`LLMConfig.part`).
    """
    config, read, output = config or TermsConfig(), read or DataConfig(), Path(output)
    if config.llm.part and config.generator in ("extract", "file"):
        raise ValueError(
            f"Parts ({config.llm.part}) are of a language model's work, and terms.generator is {config.generator!r}: "
            "leave --part out, or name the generator: terms.generator=vllm."
        )
    check_replaceable(output, CATALOG_FILE, never=(CONFIG_FILE, DATASET_FACTS))
    items = read_items(data, read)
    kept = Path(work) if work is not None else output.parent / f".{output.name}-answers"
    found = _neighbors(items, neighbors, needed=config.generator != "file")
    facts: dict[str, Any] = {"generator": config.generator, "n_terms": config.n_terms}
    if config.generator == "file":
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
    if work is None and config.generator not in ("extract", "file"):  # which must not cost another run its answers
        shutil.rmtree(kept, ignore_errors=True)
    return catalog


def read_term_ids(path: str | Path, items: list[Item], hint: str = "let them be made: terms.generator=extract.") -> list[TermID]:
    """The items' Term IDs from a file, in their order. Raises ``ValueError``, with the hint, when an item has none."""
    given = load_term_ids(path)
    if missing := [i.item_id for i in items if i.item_id not in given]:
        raise ValueError(f"{len(missing)} of {len(items)} items have no Term ID in {path}, such as {missing[:3]}; {hint}")
    return [given[i.item_id] for i in items]


def _neighbors(items: list[Item], path: str | Path | None, needed: bool) -> Neighbors | None:
    if path is None and not needed:
        return None
    from grlm_hf.indexing.neighbors import Neighbors, find_neighbors

    if path is None:
        return find_neighbors(items)
    found = Neighbors.load(path)
    if found.item_ids != tuple(item.item_id for item in items):
        raise ValueError(
            f"{path} holds the neighbours of {len(found.item_ids)} items, which are not the {len(items)} items read, in their order. "
            "Find them again: grlm neighbors."
        )
    return found


def _finished(items: list[Item], term_ids: list[TermID], config: TermsConfig) -> tuple[Catalog, dict[str, Any]]:
    """The catalog after the controlled vocabulary and the resolver, and what they did."""
    from grlm_hf.indexing.collisions import collision_report, resolve

    facts: dict[str, Any] = {}
    allowed = None
    if config.vocabulary:
        from grlm_hf.indexing.vocabulary import limit_vocabulary

        limited = limit_vocabulary(term_ids, config.vocabulary)
        term_ids, allowed = limited.term_ids, set(limited.vocabulary.kept)  # what tells items apart is of the vocabulary, too
        facts["vocabulary"] = limited.facts
    before = collision_report(items, term_ids)
    term_ids = resolve(items, term_ids, how=config.resolver, allowed=allowed)
    after = collision_report(items, term_ids)
    facts["resolver"] = config.resolver
    facts["items_sharing"] = {"before": before.n_shared, "after": after.n_shared, "share_after": after.share}
    return Catalog(items, term_ids), facts


def make_quality(
    catalog_folder: str | Path, output: str | Path, config: QualityConfig | None = None, *, name: str = "ours"
) -> dict[str, Any]:
    """Measures the Term IDs of a catalog folder (`make_terms`), beside another set if given; writes quality.json, .md and .png to `output`.

    Neighbours are read from the catalog folder, and found anew where it has none.
    """
    from grlm_hf.indexing.neighbors import find_neighbors
    from grlm_hf.indexing.quality.measure import compare, measure
    from grlm_hf.indexing.quality.report import save_quality

    config = config or QualityConfig()
    check_replaceable(output, QUALITY_FILE)
    if not Path(catalog_folder).is_dir():
        raise ValueError(f"No catalog folder at {str(catalog_folder)!r}; name the one that `grlm terms` wrote.")
    catalog = Catalog.from_pretrained(catalog_folder)
    items = list(catalog.items)
    beside = Path(config.neighbors or Path(catalog_folder) / NEIGHBORS_FILE)
    near = _neighbors(items, beside, needed=True) if config.neighbors or beside.is_file() else find_neighbors(items)
    sets: dict[str, list[Any]] = {name: list(catalog.term_ids)}
    if config.compare:
        if config.compare_name == name:
            raise ValueError(f"Both sets are called {name!r}; give the other one another name: quality.compare_name.")
        sets[config.compare_name] = read_as_written(config.compare, items)
    made = read_json(facts) if (facts := Path(catalog_folder) / TERMS_FACTS).is_file() else {}
    n_terms, appended = made.get("n_terms"), made.get("resolver") == "append"
    reports = {}
    for called, term_ids in sets.items():
        paths = _token_paths(config.tokenizer, term_ids) if config.tokenizer else None
        form: dict[str, Any] = {"n_terms": n_terms, "appended": appended} if called == name else {}
        reports[called] = measure(items, term_ids, near, paths=paths, tokenizer=Path(config.tokenizer).name, **form)
    found = compare(reports)
    save_quality(found, output)
    return found


def read_as_written(path: str | Path, items: list[Item]) -> list[list[str]]:
    """Term IDs from a file without putting them into normal form: whether they are is one of the measures."""
    read_term_ids(path, items, "name a file of the same items, or compare with none: quality.compare=")  # says what is missing
    rows = {clean(row["item_id"]): row["terms"] for _, row in read_rows(path)}

    def terms(given: Any) -> list[str]:
        if isinstance(given, str):
            return [term.strip() for term in given.strip().strip("[]").split(",")]  # the spaces are those of the written form
        return [str(term) for term in given]

    return [terms(rows[item.item_id]) for item in items]


def _token_paths(tokenizer: str, term_ids: list[TermID]) -> list[list[int]]:
    from grlm_hf.tasks.mixture import load_tokenizer
    from grlm_hf.tokens import identifier_tokens

    return identifier_tokens(
        load_tokenizer(tokenizer, "quality.tokenizer"), TERMS, [tuple(map(normalise, term_id)) for term_id in term_ids]
    )
