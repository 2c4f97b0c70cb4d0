"""Verbs for models: train, evaluate, recommend, explain, push."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from grlm_hf.cli.app import (
    DryRun,
    Json,
    License,
    LicenseLink,
    LicenseName,
    Public,
    RecipeFile,
    Settings,
    app,
    check_domain,
    check_items,
    explained,
    listing,
    quiet,
    say,
)
from grlm_hf.files import read_json


@app.command
def train(
    datasets: str,
    *,
    output: Path,
    recipe: RecipeFile = None,
    set_: Settings = None,
    finish: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Train a recommender on a dataset repository with TRL. After an interruption, run the same command again to resume.

    Example: `grlm train datasets --output checkpoint --set train.model=Qwen/Qwen3-4B-Instruct-2507 --set train.bf16=true`

    Parameters
    ----------
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        Folder that receives the checkpoint.
    finish
        Train no further: write the checkpoint of the last saved state of a training that was stopped, with the same other options.
    """
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_checkpoint

    r = load_recipe(recipe, set_ or [])
    quiet()
    started = time.monotonic()
    if make_checkpoint(datasets, output, r.train, seed=r.seed, finish=finish, exclude_seen=r.evaluate.exclude_seen) is None:
        return  # not the main process
    losses = [entry["loss"] for entry in read_json(output / "training_log.json") if "loss" in entry]
    told = f"loss {losses[-1]:.3f}, " if losses else ""
    say(f"checkpoint → {output} ({told}{(time.monotonic() - started) / 60:.1f} min)")
    say(f"Next: grlm evaluate {output} {datasets}")


@app.command
def evaluate(
    checkpoint: str,
    datasets: str,
    *,
    output: Path = Path("report.json"),
    part: Annotated[
        Literal["test", "validation"], Parameter(help="Held-out cases to evaluate; validation while choosing settings.")
    ] = "test",
    save_rankings: Annotated[bool, Parameter(negative=())] = False,
    zero_shot: str = "",
    shots: int | None = None,
    transfer: Annotated[bool, Parameter(negative=())] = False,
    recipe: RecipeFile = None,
    set_: Settings = None,
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint and the baselines on every held-out user, over the full catalog.

    Example: `grlm evaluate checkpoint datasets --output report.json`

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    datasets
        Folder of `grlm dataset`, or a dataset on the Hub.
    output
        File of the report; its pictures are written beside it.
    save_rankings
        Also write what each method recommended to each user, beside the report: for metrics of your own, and for tests between reports.
    zero_shot
        Also measure this chat model, a folder or Hub id, without training: it reads titles and writes titles of the catalog.
    shots
        Number of worked examples in its prompt; by default 3.
    transfer
        Rank the catalog of `datasets`, another shop, in place of the checkpoint's own: no training, no prior.
    """
    from grlm_hf.evaluation.processes import is_main
    from grlm_hf.evaluation.report import short_text
    from grlm_hf.recipe import load_recipe
    from grlm_hf.stages import make_report

    flags = {"save_rankings": "true" if save_rankings else "", "zero_shot.model": zero_shot, "zero_shot.shots": shots}
    r = load_recipe(recipe, [*(set_ or []), *(f"evaluate.{name}={value}" for name, value in flags.items() if value not in ("", None))])
    if shots is not None and not r.evaluate.zero_shot.model:
        raise ValueError("--shots is the number of worked examples of a chat model, and none is named; add --zero-shot MODEL.")
    quiet()
    report = make_report(checkpoint, datasets, output, r.evaluate, part=part, seed=r.seed, transfer=transfer)
    if not is_main():
        return
    print(_json(report.to_json()) if as_json else short_text(report))


@dataclass(frozen=True)
class _Allowed:
    prior: Literal["own", "none"] | None = None
    """own: the checkpoint's recommender without a language model counts, too; none: the language model alone. By default as the checkpoint
    was evaluated."""
    exclude_seen: bool | None = None
    """Leave out items of the history. By default as the checkpoint was evaluated."""
    domain: str = ""
    """Recommend only items of this domain."""
    allow: str = ""
    """Recommend only these item ids, separated by commas."""
    exclude: str = ""
    """Leave out these item ids."""
    ban_terms: str = ""
    """Leave out items with one of these terms in their Term ID."""
    unknown_items: Literal["error", "skip"] = "error"
    """"error", or "skip" ids that the catalog lacks, and say which."""


@dataclass(frozen=True)
class _Search:
    num_beams: int | None = None
    """Beam width; by default at least 20."""
    edge_wise: Annotated[bool, Parameter(negative=())] = False
    """Search from choice to choice: fewer forward passes, slightly other beams."""
    exact: Annotated[bool, Parameter(negative=())] = False
    """Find the true best and certify them."""
    deadline_ms: float | None = None
    """With --exact: stop after this many milliseconds, and say what may be missing."""
    length_penalty: float = 0.0
    """Rank by log p / tokens ** this; above 0 favours long Term IDs."""
    decode: bool = True
    """Search; --no-decode: one forward rates all items by their vectors."""


@app.command
def recommend(
    checkpoint: str,
    *,
    history: str,
    k: int | None = None,
    allowed: Annotated[_Allowed, Parameter(name="*")] = _Allowed(),
    search: Annotated[_Search, Parameter(name="*")] = _Search(),
    as_json: Json = False,
) -> None:
    """Recommend the next items after a history.

    Each item has a score, which ranks the items, and log p, the natural log of its probability under the language model. They differ
    where a prior or another adjustment is added: a prior adds weight · log p of each of its recommenders. Without a language model both
    are the log of the item's probability.

    Example: `grlm recommend grlm-quickstart/checkpoint --history B0001,B0042 --k 5 --json`

    The list is ranked by `score` (`log p` in the text): a natural logarithm, the log-probability of the Term ID after the history plus what
    the prior and the options add. It orders one list; between other histories or options compare `log_prob`, which --json also gives.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    history
        Item ids, oldest first, separated by commas; empty for a new user.
    k
        Number of items; by default 10, or all of a smaller catalog.
    """
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    quiet()
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    items, allow, exclude = _listed(history), _listed(allowed.allow), _listed(allowed.exclude)
    k = min(10, len(grlm.catalog)) if k is None else k
    if allowed.unknown_items == "error":
        check_items(grlm.catalog, [*items, *allow, *exclude])
    if allowed.domain:
        check_domain(grlm.catalog, allowed.domain)
    found = grlm.recommend(
        items, k, prior=allowed.prior, exclude_seen=allowed.exclude_seen, domain=allowed.domain or None,
        allow=allow if allowed.allow else None, exclude=exclude,
        banned_terms=_listed(allowed.ban_terms), unknown_items=allowed.unknown_items, **asdict(search),
    )  # fmt: skip
    if found.skipped:
        say(f"grlm: left out, since the catalog lacks them: {', '.join(found.skipped[:10])}{' …' if len(found.skipped) > 10 else ''}")
    if found.answered_by == "popularity":
        say("grlm: nothing is known of the history's items; these are the most popular items.")
    if found.answered_by == "catalog":
        say("grlm: nothing is known of the history's items, and no events were counted; these are the first items of the catalog.")
    if search.exact and not found.certified:
        missing = "" if found.gap == float("inf") else f" A missing item could score up to {found.gap:.3g} more than the last one."
        say(f"grlm: the deadline ended the search; found {len(found)} of {k} items so far.{missing}")
    print(_json([r.to_dict() for r in found]) if as_json else listing(found))


@app.command
def explain(
    checkpoint: str,
    *,
    history: str,
    item: str = "",
    exclude_seen: Annotated[bool, Parameter(negative=())] = False,
    as_json: Json = False,
) -> None:
    """Explain a recommendation: the log-probability of each of its terms, and the contribution of each item of the history.

    Example: `grlm explain grlm-quickstart/checkpoint --history B0001,B0042`

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    history
        Item ids, oldest first, separated by commas.
    item
        The item to explain; by default the best recommendation.
    exclude_seen
        Explain the best recommendation that is not in the history.
    """
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    if item and exclude_seen:
        raise ValueError("--exclude-seen chooses the recommendation to explain, --item names it; give one of the two.")
    quiet()
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    items = _listed(history)
    check_items(grlm.catalog, [*items, *([item] if item else [])])
    if not item:
        found = grlm.recommend(items, 1, exclude_seen=exclude_seen)
        if not found:
            raise ValueError("There is nothing to recommend; name an item with --item.")
        item = found[0].item_id
    explanation = grlm.explain(items, item)
    print(_json(asdict(explanation)) if as_json else explained(explanation, grlm.catalog))


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
    as_json: Json = False,
) -> None:
    """Publish a checkpoint, a dataset folder or a catalog on the Hub, in one commit.

    Example: `grlm push grlm-quickstart/checkpoint my-org/my-recommender --license apache-2.0`

    Parameters
    ----------
    folder
        Output folder of `grlm train`, `grlm dataset` or `grlm terms`.
    repo_id
        ORG/NAME; created if it does not exist.
    """
    from grlm_hf.publishing.publish import publish

    found = publish(
        folder, repo_id, license=license, license_name=license_name, license_link=license_link, private=not public, dry_run=dry_run
    )
    listing = {"would_upload": found.listing().splitlines()} if found.url is None else {"url": found.url}
    print(_json({"repo_id": repo_id, **listing}) if as_json else found.url or found.listing())


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
