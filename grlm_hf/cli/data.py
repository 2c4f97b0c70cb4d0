"""Verbs for data: neighbors, terms, quality, join, dataset and dataset push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from grlm_hf.cli.app import DryRun, Json, License, LicenseLink, LicenseName, Public, RecipeFile, Settings, app, quiet, say, show_quality
from grlm_hf.cli.model import push
from grlm_hf.layout import JoinOrder, KeepUsers, MissingTitle, UnknownItems


@app.command(name="import")
def import_(
    source: Path | None = None,
    *,
    items: Path | None = None,
    events: Annotated[Path | None, Parameter(name=["--events", "--interactions"])] = None,
    output: Path,
    column: Annotated[list[str] | None, Parameter(negative=())] = None,
    encoding: str = "",
    separator: str = "",
    category_separator: str = ">",
    min_rating: float | None = None,
    core: int = 0,
    dry_run: Annotated[bool, Parameter(negative=(), help="Show what would be read, and write nothing.")] = False,
) -> None:
    """Read your own tables, whatever their columns are called, and write a data folder with a recipe for `grlm run`.

    Columns are found by their usual names and shown. Every item and event that is left out, or read otherwise than it was written, is
    counted.

    Example: `grlm import --items products.tsv --events orders.tsv --column title=label --output my-shop`, then
    `grlm run my-shop/recipe.yaml`

    Parameters
    ----------
    source
        MovieLens, as a folder or zip (ml-100k, ml-latest, ml-20m to ml-32m), instead of --items and --events.
    items
        Table of the items, CSV, TSV, JSON lines (also .gz) or parquet: an id and a title; optionally brand, categories, description, price.
    events
        Table of the events: a user, an item, a time. May be the same file.
    output
        Folder to write.
    column
        OURS=YOURS, such as title=label or user_id=client; repeat for more. items.item_id=sku and events.item_id=product are for one of the
        two tables. With nothing after =, the column is not read.
    encoding
        Of text files, such as latin-1; by default UTF-8 or what their first bytes state.
    separator
        Of cells; by default found from the header.
    category_separator
        Of the categories in a text.
    min_rating
        Leave out events with a lower rating.
    core
        Keep only users and items with this many events each, as benchmarks do. By default all stay, unsold items too.
    """
    from grlm_hf.layout import RECIPE_FILE
    from grlm_hf.stages.importing import ImportConfig, import_tables

    columns = {}
    for text in column or []:
        ours, sign, theirs = text.partition("=")
        if not sign:
            raise ValueError(f"--column {text!r} is not of the form OURS=YOURS, such as title=label.")
        columns[ours.strip()] = theirs.strip()
    config = ImportConfig(columns, encoding, separator.replace("\\t", "\t"), category_separator, min_rating, core)
    found = import_tables(output, source, items=items, events=events, config=config, write=not dry_run)
    for name, mapping in found.columns.items():
        read = ", ".join(ours if ours == theirs else f"{ours} ← {theirs!r}" for ours, theirs in mapping.items())
        say(f"{name}: {read}" + (f"; not read: {', '.join(map(repr, found.unread[name]))}" if found.unread[name] else ""))
    for item in found.examples:
        say(f"  {item.item_id}: {item.title[:80]}")
    for line in found.lines:
        say(line)
    f = found.facts
    period = f", {f['times'][0]} to {f['times'][1]}" if f["times"] else ", no times: events are in the order of the file"
    print(f"{f['items']:,} items ({f['items_without_event']:,} without an event), {f['users']:,} users, {f['events']:,} events{period}")
    print("Nothing was written." if dry_run else f"Next: grlm run {output / RECIPE_FILE}")


@app.command
def neighbors(data: Path, *, output: Path = Path("neighbors.parquet"), recipe: RecipeFile = None, set_: Settings = None) -> None:
    """Find each item's most similar items by the embeddings of their texts. After an interruption, run the same command again to resume.

    Example: `grlm neighbors my-shop --set neighbors.embedder=Qwen/Qwen3-Embedding-0.6B --set neighbors.devices=cuda:0,cuda:1`

    Parameters
    ----------
    data
        Folder with items.csv, items.jsonl or items.parquet.
    output
        The parquet file to write: item_id, neighbors, scores.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_neighbors

    r = load_recipe(recipe, set_ or [])
    quiet()
    found = make_neighbors(data, output, r.neighbors, r.read)
    about = ", ".join(f"{name} {found.facts[name]}" for name in ("embedder", "index", "recall") if found.facts.get(name) is not None)
    say(f"neighbours of {len(found.item_ids)} items ({about}) → {output}")


@app.command
def terms(
    data: Path,
    *,
    output: Path,
    neighbors: Annotated[Path | None, Parameter(help="File of `grlm neighbors`; by default they are found first.")] = None,
    part: Annotated[str, Parameter(help="0/8 … 7/8: a language model answers for one part of the items; for several GPUs.")] = "",
    recipe: RecipeFile = None,
    set_: Settings = None,
) -> None:
    """Give every item of a data folder an identifier and write the catalog: a Term ID, or what identifier.kind says.

    Examples: `grlm terms my-shop --output catalog --set terms.generator=vllm --set terms.llm.model=Qwen/Qwen3-4B-Instruct-2507`,
    `grlm terms my-shop --output catalog --set identifier.kind=codes` (Semantic IDs)

    Parameters
    ----------
    data
        Folder with items.csv, items.jsonl or items.parquet: item_id and title, optionally brand, categories, description, price, domain.
    output
        Folder that receives catalog.parquet, its settings and statistics (terms.json) and the neighbours.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_identifiers

    r = load_recipe(recipe, [*(set_ or []), *([f"terms.llm.part={part}"] if part else [])])
    quiet()
    catalog = make_identifiers(data, output, r, neighbors=neighbors)
    say(f"{catalog!r} → {output}")


@app.command
def quality(
    catalog: Path,
    *more: Path,
    output: Path = Path("quality"),
    recipe: RecipeFile = None,
    set_: Settings = None,
    as_json: Json = False,
) -> None:
    """Measure the identifiers of a catalog, and compare other sets: collisions, use of terms or codes, agreement with neighbours and text.

    Example: `grlm quality catalog --set quality.compare=term_ids_official.jsonl.gz --set quality.compare_name=official`

    Example: `grlm quality run-a/catalog run-b/catalog shop.index.json`

    Parameters
    ----------
    catalog
        Output folder of `grlm terms`, or an index file of codes (NAME.index.json).
    more
        Further sets of the same items, side by side with it: catalogs, index files, files of Term IDs.
    output
        Folder that receives quality.json, quality.md and quality.png.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_quality

    if (output.parent / ".grlm" / "quality.json").is_file():
        raise ValueError(f"{output} belongs to the run in {output.parent}, which would train again. Choose another output folder.")
    r = load_recipe(recipe, set_ or [])
    report = make_quality(catalog, output, r.quality, name="" if more else "ours", more=more, read=r.read, seed=r.seed)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show_quality(report, output)


@app.command
def join(
    *domains: str,
    output: Path,
    users: Path | None = None,
    shared_users: Annotated[bool, Parameter(negative=())] = False,
    keep_users: KeepUsers = "all",
    order: JoinOrder = "auto",
    missing_title: MissingTitle = "error",
    unknown_items: UnknownItems = "error",
) -> None:
    """Join several data folders into one, each as a domain, for one catalog and histories across domains.

    Example: `grlm join beauty=shops/beauty sports=shops/sports --shared-users --output joined`

    Parameters
    ----------
    domains
        NAME=FOLDER of each domain; ties are in this order.
    output
        Data folder to write, for all other verbs.
    users
        Table with one row per person: user_id, and one column per domain with their id there.
    shared_users
        Treat equal user ids as one person.
    keep_users
        all users, or shared: those with events in at least two domains.
    order
        Order of a history. auto: by time if all times are known, else domain by domain; time; or concatenate.
    missing_title
        What to do with an item without a title: error, or fill it with brand and category.
    unknown_items
        What to do with events on items missing from the catalog: error, or drop.
    """
    from grlm_hf.data.domains import join_domains, parse_sources

    facts = join_domains(
        parse_sources(domains), output, users=users, shared_users=shared_users, keep_users=keep_users, order=order,
        missing_title=missing_title, unknown_items=unknown_items,
    )  # fmt: skip
    print(json.dumps(facts, indent=2, ensure_ascii=False))


dataset = App(name="dataset", help="Create a dataset repository, or publish one.", help_format="markdown")
app.command(dataset)


@dataset.default
def dataset_make(
    data: Path,
    *,
    catalog: Path,
    output: Path,
    quality: Annotated[Path | None, Parameter(help="Folder of `grlm quality`, for the card.")] = None,
    recipe: RecipeFile = None,
    set_: Settings = None,
) -> None:
    """Split the interactions, build the training mixture, and write all tables as a dataset repository.

    Example: `grlm dataset my-shop --catalog catalog --output datasets`, then `grlm dataset push my-org/my-shop --from datasets`

    Parameters
    ----------
    data
        Folder with interactions.* (user_id, item_id, optional timestamp; one row per event) or sequences.* (user_id, items).
    catalog
        Output folder of `grlm terms`.
    output
        Folder that receives the tables; `load_dataset(output, "sft")` reads it.
    """
    from grlm_hf.recipe import Recipe, load_recipe
    from grlm_hf.stages import make_dataset

    r = load_recipe(recipe, set_ or [])
    title = data.resolve().name if r.name == Recipe.name else r.name
    make_dataset(
        data, catalog, output, r.mixture, r.read,
        quality=quality, sequence_model=r.sequence_model, seed=r.seed, title=title, notice=r.notice,
    )  # fmt: skip
    say(f"dataset → {output}")


@dataset.command(name="push")
def dataset_push(
    repo_id: str,
    *,
    folder: Annotated[Path, Parameter(name=["--from"], help="Output folder of `grlm dataset`.")] = Path("datasets"),
    license: License = None,
    license_name: LicenseName = "",
    license_link: LicenseLink = "",
    public: Public = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a dataset repository on the Hub, in one commit. Run an interrupted push again to complete it.

    Example: `grlm dataset push my-org/my-shop --from datasets --license cc-by-4.0`

    Parameters
    ----------
    repo_id
        ORG/NAME; created if it does not exist.
    """
    from grlm_hf.data.repository import dataset_facts

    if not folder.is_dir():
        raise ValueError(f"No dataset folder at {folder}; name the output of `grlm dataset`: --from FOLDER.")
    dataset_facts(folder)  # raises if it is no dataset
    push(folder, repo_id, license=license, license_name=license_name, license_link=license_link, public=public, dry_run=dry_run,
         as_json=as_json)  # fmt: skip
