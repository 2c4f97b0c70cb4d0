"""The command line: every verb is a thin call of one public function."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import re
import sys
import textwrap
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import grlm_hf
from grlm_hf.files import Incomplete

app = App(
    name="grlm",
    version=grlm_hf.__version__,
    help="Generative recommendation with Term IDs: from a catalog and logs to a recommender.\n\nStart with `grlm quickstart`.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)

Settings = Annotated[list[str] | None, Parameter(name=["--set"], negative=(), help="Change one setting, as key=value; repeat for more.")]
License = Annotated[
    str | None, Parameter(help="Id of a licence on the Hub, such as cc-by-4.0, or other. Needed unless the card names one.")
]
LicenseName = Annotated[str, Parameter(help="With --license other: a name, such as shop-data-1.0.")]
LicenseLink = Annotated[str, Parameter(help="With --license other: a link, or LICENSE, a file in the folder.")]
Public = Annotated[bool, Parameter(negative=(), help="Create the repository public; by default it is private.")]
DryRun = Annotated[bool, Parameter(negative=(), help="Only list what would be uploaded.")]
RecipeFile = Annotated[Path | None, Parameter(name=["--recipe"], help="Take the settings from this recipe (YAML).")]


@app.command
def quickstart(*, output: Path = Path("grlm-quickstart"), set_: Settings = None) -> None:
    """Run the whole path on the embedded synthetic shop: Term IDs, dataset, training, evaluation. About three minutes.

    Parameters
    ----------
    output
        Folder that receives data/, catalog/, datasets/, checkpoint/, report.json and report.png.
    """
    from grlm_hf.quickstart import quickstart_recipe
    from grlm_hf.stages import run

    _quiet()
    report = run(quickstart_recipe(output, set_ or []), _say)
    _show(report, output)


@app.command(name="run")
def run_(recipe: Path, *, data: Path | None = None, output: Path | None = None, set_: Settings = None) -> None:
    """Run a recipe's stages: neighbors, terms, quality, dataset, train, evaluate. Finished stages with unchanged inputs are kept.

    Example: `grlm run recipes/beauty-cpu.yaml --data my-shop --output runs/my-shop --set terms.generator=extract`

    Parameters
    ----------
    recipe
        YAML file, such as recipes/beauty-cpu.yaml.
    data
        Another data folder than the recipe's: items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz).
    output
        Another output folder than the recipe's.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import run

    loaded = load_recipe(recipe, set_ or [])
    _quiet()
    if data is not None:  # the recipe's name and notice speak of its own data
        loaded = replace(loaded, data=str(data), name=data.resolve().name, notice="")
    loaded = replace(loaded, output=str(output or loaded.output or f"runs/{recipe.stem}"))
    report, folder = run(loaded, _say), Path(loaded.output)
    if loaded.until == "evaluate":
        _show(report, folder)
    elif loaded.until == "quality":
        _show_quality(report, folder / "quality")
    else:
        _say(f"{loaded.until} → {folder}")


@app.command
def neighbors(data: Path, *, output: Path = Path("neighbors.parquet"), recipe: RecipeFile = None, set_: Settings = None) -> None:
    """Find each item's most similar items by the embeddings of their texts. Run again after an interruption, it goes on where it was.

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
    _quiet()
    found = make_neighbors(data, output, r.neighbors, r.read)
    about = ", ".join(f"{name} {found.facts[name]}" for name in ("embedder", "index", "recall") if found.facts.get(name) is not None)
    _say(f"neighbours of {len(found.item_ids)} items ({about}) → {output}")


@app.command
def terms(
    data: Path,
    *,
    output: Path,
    neighbors: Annotated[Path | None, Parameter(help="File of `grlm neighbors`; without it they are found here.")] = None,
    part: Annotated[str, Parameter(help="0/8 … 7/8: a language model answers for this part of the items only; for several GPUs.")] = "",
    recipe: RecipeFile = None,
    set_: Settings = None,
) -> None:
    """Give every item of a data folder a Term ID and write the catalog.

    Example: `grlm terms my-shop --output catalog --set terms.generator=vllm --set terms.llm.model=Qwen/Qwen3-4B-Instruct-2507`

    Parameters
    ----------
    data
        Folder with items.csv, items.jsonl or items.parquet: item_id and title, optionally brand, categories, description, price, domain.
    output
        Folder that receives catalog.parquet, how it was made (terms.json) and the neighbours.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_terms

    r = load_recipe(recipe, [*(set_ or []), *([f"terms.llm.part={part}"] if part else [])])
    _quiet()
    catalog = make_terms(data, output, r.terms, r.read, neighbors=neighbors)
    _say(f"{catalog!r} → {output}")


@app.command
def quality(
    catalog: Path,
    *,
    output: Path = Path("quality"),
    recipe: RecipeFile = None,
    set_: Settings = None,
    as_json: Annotated[bool, Parameter(name=["--json"], negative=(), help="Print the report as JSON.")] = False,
) -> None:
    """Measure the Term IDs of a catalog, beside another set if one is given: legality, collisions, agreement with neighbours and text.

    Example: `grlm quality catalog --set quality.compare=term_ids_official.jsonl.gz --set quality.compare_name=official`

    Parameters
    ----------
    catalog
        Folder that `grlm terms` wrote.
    output
        Folder that receives quality.json, quality.md and quality.png.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_quality

    report = make_quality(catalog, output, load_recipe(recipe, set_ or []).quality)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _show_quality(report, output)


@app.command
def join(
    *domains: str,
    output: Path,
    users: Path | None = None,
    shared_users: Annotated[bool, Parameter(negative=())] = False,
    keep_users: str = "all",
    order: str = "auto",
    missing_title: str = "error",
    unknown_items: str = "error",
) -> None:
    """Join several data folders into one with a domain for each, for a catalog of all and histories across them.

    Example: `grlm join beauty=shops/beauty sports=shops/sports --shared-users --output joined`

    Parameters
    ----------
    domains
        NAME=FOLDER of each domain; the order decides ties.
    output
        Data folder to write, which every other verb reads.
    users
        Table of who is the same person: user_id, and a column for each domain with their id there.
    shared_users
        Equal user ids are one person.
    keep_users
        all, or shared: only those with events in two domains or more.
    order
        auto: by time where all times are known, else one domain after the other; time; or concatenate.
    missing_title
        error, or fill with brand and category.
    unknown_items
        error, or drop events on items that a catalog lacks.
    """
    from grlm_hf.domains import join_domains, parse_sources

    facts = join_domains(
        parse_sources(domains), output, users=users, shared_users=shared_users, keep_users=keep_users, order=order,
        missing_title=missing_title, unknown_items=unknown_items,
    )  # fmt: skip
    print(json.dumps(facts, indent=2, ensure_ascii=False))


dataset = App(name="dataset", help="Make a dataset repository, or publish one.", help_format="markdown")
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
        Folder with interactions.* (user_id, item_id, optional timestamp; one row an event) or sequences.* (user_id, items).
    catalog
        Folder that `grlm terms` wrote.
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
    _say(f"dataset → {output}")


@dataset.command(name="push")
def dataset_push(
    repo_id: str,
    *,
    folder: Annotated[Path, Parameter(name=["--from"], help="What `grlm dataset` wrote.")] = Path("datasets"),
    license: License = None,
    license_name: LicenseName = "",
    license_link: LicenseLink = "",
    public: Public = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a dataset repository on the Hub, in one commit. A push that died is completed by the next.

    Example: `grlm dataset push my-org/my-shop --from datasets --license cc-by-4.0`

    Parameters
    ----------
    repo_id
        ORG/NAME; created if need be.
    """
    from grlm_hf.hub import dataset_facts

    if not folder.is_dir():
        raise ValueError(f"No dataset folder at {folder}; name the one that `grlm dataset` wrote: --from FOLDER.")
    dataset_facts(folder)  # says so where it is none
    push(folder, repo_id, license=license, license_name=license_name, license_link=license_link, public=public, dry_run=dry_run)


@app.command
def train(datasets: str, *, output: Path, recipe: RecipeFile = None, set_: Settings = None) -> None:
    """Train a recommender on a dataset repository with TRL. Run again after an interruption, it goes on from its last checkpoint.

    Example: `grlm train datasets --output checkpoint --set train.model=Qwen/Qwen3-4B-Instruct-2507 --set train.bf16=true`

    Parameters
    ----------
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        Folder that receives the checkpoint.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_checkpoint

    r = load_recipe(recipe, set_ or [])
    _quiet()
    make_checkpoint(datasets, output, r.train, seed=r.seed)
    _say(f"checkpoint → {output}")


@app.command
def evaluate(
    checkpoint: str,
    datasets: str,
    *,
    output: Path = Path("report.json"),
    part: Annotated[str, Parameter(help="test, or validation while choosing settings.")] = "test",
    recipe: RecipeFile = None,
    set_: Settings = None,
    as_json: Annotated[bool, Parameter(name=["--json"], negative=(), help="Print the report as JSON.")] = False,
) -> None:
    """Measure a checkpoint and the baselines on every held-out user, over the full catalog.

    Example: `grlm evaluate checkpoint datasets --output report.json`

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        The report; a plot is written beside it.
    """
    from grlm_hf.evaluation.report import text_table
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_report

    r = load_recipe(recipe, set_ or [])
    _quiet()
    report = make_report(checkpoint, datasets, output, r.evaluate, part=part, seed=r.seed)
    print(json.dumps(report, indent=2) if as_json else text_table(report))


@app.command
def recommend(
    checkpoint: str,
    *,
    history: str,
    k: int = 10,
    exclude_seen: Annotated[bool, Parameter(negative=())] = False,
    domain: str = "",
    allow: str = "",
    exclude: str = "",
    ban_terms: str = "",
    num_beams: int | None = None,
    edge_wise: Annotated[bool, Parameter(negative=())] = False,
    exact: Annotated[bool, Parameter(negative=())] = False,
    deadline_ms: float | None = None,
    length_penalty: float = 0.0,
    as_json: Annotated[bool, Parameter(name=["--json"], negative=(), help="Print JSON.")] = False,
) -> None:
    """Recommend the next items after a history.

    Example: `grlm recommend grlm-quickstart/checkpoint --history B0001,B0042 --k 5 --json`

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    history
        Item ids, oldest first, separated by commas.
    k
        How many items.
    exclude_seen
        Leave out items of the history.
    domain
        Recommend only items of this domain.
    allow
        Recommend only these item ids, separated by commas.
    exclude
        Never these item ids.
    ban_terms
        No item whose Term ID has one of these terms.
    num_beams
        Width of the search; by default at least 20.
    edge_wise
        Search from choice to choice: fewer forward passes, slightly other beams.
    exact
        Find the true best and certify them.
    deadline_ms
        With --exact: the best found in so many milliseconds, and what may be missing.
    length_penalty
        Rank by log p / tokens ** this; above 0 favours long Term IDs.
    """
    from grlm_hf.modeling import GRLMForRecommendation

    _quiet()
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)

    def listed(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    found = grlm.recommend(
        listed(history), k, exclude_seen=exclude_seen, domain=domain or None, allow=listed(allow) if allow else None,
        exclude=listed(exclude), banned_terms=listed(ban_terms), num_beams=num_beams, edge_wise=edge_wise, exact=exact,
        deadline_ms=deadline_ms, length_penalty=length_penalty,
    )  # fmt: skip
    if exact and not found.certified:
        missing = "" if found.gap == float("inf") else f" A missing item could score up to {found.gap:.3g} more than the last one."
        _say(f"grlm: the deadline came first; found {len(found)} of {k} so far.{missing}")
    print(json.dumps([asdict(r) for r in found], indent=2, ensure_ascii=False) if as_json else _listing(found))


@app.command
def push(
    folder: Path,
    repo_id: str,
    *,
    license: License = None,
    license_name: LicenseName = "",
    license_link: LicenseLink = "",
    public: Public = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a checkpoint, a dataset folder or a catalog on the Hub, in one commit.

    Example: `grlm push grlm-quickstart/checkpoint my-org/my-recommender --license apache-2.0`

    Parameters
    ----------
    folder
        What `grlm train`, `grlm dataset` or `grlm terms` wrote.
    repo_id
        ORG/NAME; created if need be.
    """
    from grlm_hf.hub import publish

    said = publish(
        folder, repo_id, license=license, license_name=license_name, license_link=license_link, private=not public, dry_run=dry_run
    )
    print(said)


# --- talk --------------------------------------------------------------------------------------------------------------------------


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _listing(found: list[Any]) -> str:
    return "\n".join(
        f"{n:>3}. {r.title}  ({r.item_id})\n     [{', '.join(r.term_id)}]  log p {r.score:.2f}" for n, r in enumerate(found, 1)
    )


def _show(report: dict[str, Any], output: Path) -> None:
    from grlm_hf.evaluation.report import text_table
    from grlm_hf.hub import load_table
    from grlm_hf.modeling import GRLMForRecommendation

    grlm = GRLMForRecommendation.from_pretrained(output / "checkpoint")
    case = load_table(output / "datasets", "cases", "test")[0]
    history = case["history"][-3:]
    print(f"\n{text_table(report)}\n\nUser {case['user_id']} had, last:")
    for item in history:
        print(f"     {grlm.catalog[item].title}  ({item})")
    print("and is recommended:")
    print(_listing(grlm.recommend(case["history"], min(5, len(grlm.catalog)), exclude_seen=True)))
    print(f"\nPlot: {output / 'report.png'}\nNext: grlm recommend {output / 'checkpoint'} --history {','.join(history)} --k 5 --json")


def _show_quality(report: dict[str, Any], folder: Path) -> None:
    from grlm_hf.identifiers.quality.report import text_table

    print(f"{text_table(report)}\n\nPlots: {folder / 'quality.png'}")


def _settings_help(*sections: tuple[str, Any]) -> str:
    """A list of settings with their defaults and what the dataclasses say of them."""
    lines = ["Settings (`--set KEY=VALUE`, or the same keys in a recipe):", ""]
    for prefix, value in sections:
        said = _field_docs(type(value))
        for f in fields(value):
            default = getattr(value, f.name)
            if is_dataclass(default):
                lines += _settings_help((f"{prefix}{f.name}.", default)).splitlines()[2:]
            else:
                lines.append(f"- `{prefix}{f.name}={json.dumps(default)}` {said.get(f.name, '')}")
    return "\n".join(lines)


def _field_docs(owner: type) -> dict[str, str]:
    said: dict[str, str] = {}
    name = ""
    for line in ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body:  # type: ignore[attr-defined]
        if isinstance(line, ast.AnnAssign):
            name = ast.unparse(line.target)
        elif isinstance(line, ast.Expr) and name:  # the string below a field
            said[name] = " ".join(str(ast.literal_eval(line.value)).split())
    return said


def _add_settings_help() -> None:
    from grlm_hf.recipe import Recipe

    r = Recipe()
    read, mix = ("read.", r.read), ("mixture.", r.mixture)
    of: dict[str, list[tuple[str, Any]]] = {
        "neighbors": [("neighbors.", r.neighbors), read],
        "terms": [("terms.", r.terms), read],
        "quality": [("quality.", r.quality)],
        "dataset": [mix, ("sequence_model.", r.sequence_model), read],
        "train": [("train.", r.train)],
        "evaluate": [("evaluate.", r.evaluate)],
        "run": [("", r)],
    }
    for verb, sections in of.items():
        app[verb].help_epilogue = _settings_help(*sections)
    dataset["push"].help_epilogue = ""  # else that of `dataset`


def main() -> None:
    """Entry point of `grlm`: exit status 0, 2 for a mistake in the call or the input, 130 after Ctrl-C."""
    if "--help" in sys.argv or "-h" in sys.argv:
        _add_settings_help()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # one bar a stage is ours; theirs are many and short
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(
            _fail(
                "Interrupted. Run the same command again: what was finished is kept, and long work goes on from where it last wrote.", 130
            )
        )
    except Incomplete as rest:
        _say(f"grlm: {rest}")
    except (ValueError, ImportError) as error:
        sys.exit(_fail(str(error)))
    except Exception as error:
        if _disk_full(error):
            where = getattr(error, "filename", None) or getattr(error, "strerror", None) or error
            sys.exit(_fail(f"The disk is full ({where}). What was written before is intact; free some space and run again."))
        if isinstance(error, OSError):
            sys.exit(_fail(str(error)))
        raise


def _disk_full(error: Exception) -> bool:
    rust = re.search(r"os error (\d+)", str(error))  # safetensors raises an error of its own, whose text has the number
    number = int(rust[1]) if rust else getattr(error, "errno", None)
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):  # torch.save, whose error has no number
        return True
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _fail(message: str, status: int = 2) -> int:
    print(f"grlm: {message}", file=sys.stderr)
    return status
