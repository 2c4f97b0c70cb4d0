"""Shared by all verbs: the app, common parameters, and output for terminals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import grlm_hf
from grlm_hf.files import did_you_mean

if TYPE_CHECKING:
    from grlm_hf.data.catalog import Catalog
    from grlm_hf.modeling.explain import Explanation

app = App(
    name="grlm",
    version=grlm_hf.__version__,
    help="Generative recommendation with Term IDs: from a catalog and logs to a recommender.\n\nStart with `grlm quickstart`.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` names the next step
)
app.register_install_completion_command(help="Install completion of verbs and flags for your shell (bash, zsh or fish), then exit.")

Json = Annotated[bool, Parameter(name=["--json"], negative=(), help="Print JSON.")]
Settings = Annotated[list[str] | None, Parameter(name=["--set"], negative=(), help="Change one setting, as key=value; repeat for more.")]
License = Annotated[
    str | None, Parameter(help="Id of a licence on the Hub, such as cc-by-4.0, or other. Required unless the card has one.")
]
LicenseName = Annotated[str, Parameter(help="With --license other: a name, such as shop-data-1.0.")]
LicenseLink = Annotated[str, Parameter(help="With --license other: a link, or LICENSE, a file in the folder.")]
Public = Annotated[bool, Parameter(negative=(), help="Create the repository public; by default it is private.")]
DryRun = Annotated[bool, Parameter(negative=(), help="Only list what would be uploaded.")]
RecipeFile = Annotated[Path | None, Parameter(name=["--recipe"], help="Read settings from this recipe (YAML).")]


def mistake(error: CycloptsError, hint: str = "") -> str:
    """An error of the command line as one line with the next step, like all others; `hint` stands before that."""
    verb = [name for name in error.command_chain or () if name != "grlm"]
    return " ".join(filter(None, [*str(error).split(), hint, "See:", "grlm", *verb, "--help"]))


def check_items(catalog: Catalog, item_ids: Iterable[str]) -> None:
    """Raises ``ValueError`` for an id that is not in the catalog, with the nearest one."""
    for item_id in item_ids:
        if item_id not in catalog:
            raise ValueError(catalog.unknown(item_id))


def check_domain(catalog: Catalog, domain: str) -> None:
    """Raises ``ValueError`` for a domain that the catalog does not have, with the nearest one."""
    try:
        catalog.positions_in(domain)
    except ValueError as error:
        raise ValueError(f"{error} {did_you_mean(domain, catalog.domains)}".rstrip()) from None


def quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def coloured() -> bool:
    """Whether stdout is a terminal that shows colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


LOG_P = "log p is the natural log of the item's probability"
SCORE = f"{LOG_P} under the language model; the score, which ranks the items, adds the prior and other adjustments"


def listing(found: list[Any]) -> str:
    """Recommendations for a terminal; the last line says what the numbers are."""
    scored = any(abs(r.score - r.log_prob) >= 0.005 for r in found)
    numbers = [f"score {r.score:.2f}  log p {r.log_prob:.2f}" if scored else f"log p {r.log_prob:.2f}" for r in found]
    lines = [
        f"{n:>3}. {r.title}  ({r.item_id})\n     [{', '.join(r.term_id)}]  {said}"
        for n, (r, said) in enumerate(zip(found, numbers, strict=True), 1)
    ]
    return "\n".join([*lines, f"     ({SCORE if scored else LOG_P})"]) if lines else "(nothing: no item is allowed by these rules)"


def explained(why: Explanation, catalog: Catalog) -> str:
    """An explanation for a terminal, with titles and signed changes."""
    width = max(len(t.term) for t in why.terms)
    lines = [f"{catalog[why.item_id].title}  ({why.item_id})  log p {why.log_prob:.2f}", "\nIts terms, each after those before it:"]
    lines += [f"     {t.term.ljust(width)}  log p {t.log_prob:7.2f}{f'  {t.name}' if t.name else ''}" for t in why.terms]
    lines.append("\nIf an item were not in the history, oldest first, log p would change by:")
    for h in why.history:
        lines.append(f"     {'–' if h.drop is None else f'{0 - h.drop:+.2f}':>7}  {catalog[h.item_id].title}  ({h.item_id})")
    return "\n".join(lines)


def show_quality(report: dict[str, Any], folder: Path) -> None:
    from grlm_hf.indexing.quality.report import text_table

    print(f"{text_table(report)}\n\nPlots: {folder / 'quality.png'}")
