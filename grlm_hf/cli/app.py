"""What the verbs share: the app, their common parameters, and what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

import grlm_hf

if TYPE_CHECKING:
    from grlm_hf.catalog import Catalog
    from grlm_hf.explain import Explanation

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


def quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def listing(found: list[Any]) -> str:
    return "\n".join(
        f"{n:>3}. {r.title}  ({r.item_id})\n     [{', '.join(r.term_id)}]  log p {r.score:.2f}" for n, r in enumerate(found, 1)
    )


def explained(said: Explanation, catalog: Catalog) -> str:
    """An explanation for a terminal: titles beside ids, drops with a sign."""
    width = max(len(t.term) for t in said.terms)
    lines = [f"{catalog[said.item_id].title}  ({said.item_id})  log p {said.log_prob:.2f}", "\nIts terms, each after those before it:"]
    lines += [f"     {t.term.ljust(width)}  log p {t.log_prob:7.2f}" for t in said.terms]
    lines.append("\nIf an item were not in the history, oldest first, log p would change by:")
    for h in said.history:
        lines.append(f"     {'–' if h.drop is None else f'{0 - h.drop:+.2f}':>7}  {catalog[h.item_id].title}  ({h.item_id})")
    return "\n".join(lines)


def show_quality(report: dict[str, Any], folder: Path) -> None:
    from grlm_hf.identifiers.quality.report import text_table

    print(f"{text_table(report)}\n\nPlots: {folder / 'quality.png'}")
