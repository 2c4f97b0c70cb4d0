"""The page's parts as HTML, from values alone. ``view.html`` holds the macros; they escape all text of a catalog or a visitor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.modeling.explain import Explanation, HistoryScore
from grlm_hf.modeling.results import Recommendation
from grlm_hf.space.session import FACTOR, Answer, Session
from grlm_hf.space.trie_view import Branch

_STEERED = {"more": ("▲", "more of"), "less": ("▼", "less of"), "ban": ("✕", "none with")}


def percent(probability: float) -> str:
    """``12 %``, ``3.4 %``, ``<0.01 %``."""
    value = 100 * probability
    if value >= 10 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2f} %" if value >= 0.01 else "<0.01 %"


def times(log_factor: float) -> str:
    """A factor in words: ``3.2 ×``; below 1, ``÷ 3.2``."""
    size = math.exp(min(abs(log_factor), 100))
    number = f"{size:.2g}" if size < 100 else f"{size:,.0f}" if size < 1e6 else "over a million"
    return f"{number} ×" if log_factor >= 0 else f"÷ {number}"


def _facts(item: Item) -> str:
    """Domain, category and price in one line."""
    price = "" if item.price is None else f"{item.price:,.2f}"
    return " · ".join(filter(None, (item.domain, item.categories[-1] if item.categories else "", price)))


def _place(found: Sequence[Recommendation] | None, item_id: str) -> int:
    """The place of an item among recommendations, from 1; 0: it is not there."""
    return next((n for n, r in enumerate(found or (), 1) if r.item_id == item_id), 0)


def _by_drop(history: Sequence[HistoryScore]) -> list[HistoryScore]:
    return sorted(history, key=lambda h: -(h.drop or 0))


def _macros() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.globals.update(STEERED=_STEERED, FACTOR=FACTOR)
    environment.filters.update(percent=percent, times=times, exp=math.exp, facts=_facts, place=_place, by_drop=_by_drop)
    source = (files("grlm_hf") / "space" / "view.html").read_text(encoding="utf-8")
    return environment.from_string(re.sub(r"\n\s*", "", source)).module


_MACROS = _macros()


def button(do: str, what: str, text: str, label: str = "", **options: Any) -> str:
    """A button that sends the action `do` with `what` to `grlm_hf.space.app`. `label` is for screen readers, where `text` is only a sign."""
    return str(_MACROS.button(do, what, text, label, **options))


def search_results(found: Sequence[Item], total: int, session: Session) -> str:
    return str(_MACROS.search_results(found, total, session))


def history(items: Sequence[Item], examples: Mapping[str, Sequence[str]]) -> str:
    return str(_MACROS.history(items, examples))


def steering(session: Session) -> str:
    return str(_MACROS.steering(session))


def own_items(session: Session, answers: Sequence[Answer], catalog: Catalog, explained: Mapping[str, Explanation]) -> str:
    """The visitor's own items, their Term IDs, and how likely each is now.

    Args:
        catalog: with those items in it.
        explained: item_id → explanation after the history, where there is one.
    """
    return str(_MACROS.own_items(session, answers[0].found if answers else None, catalog, explained))


def recommendations(session: Session, answers: Sequence[Answer], why: Mapping[str, Explanation]) -> str:
    """One column a checkpoint.

    Args:
        why: name of a checkpoint → explanation of `session.why` after the history.
    """
    common = ""
    if len(answers) == 2 and all(a.found for a in answers):
        ids = [{r.item_id for r in a.found or ()} for a in answers]
        common = f"{len(ids[0] & ids[1])} of {max(map(len, ids))} recommendations are in both lists."
    return str(_MACROS.recommendations(session, answers, why, common))


def explanation(why: Explanation, catalog: Catalog) -> str:
    """What each term and each item of the history contributes."""
    return str(_MACROS.explanation(why, catalog))


def trie(root: Branch, titles: Sequence[str], name: str = "") -> str:
    """The tree of terms: left to right where there is room, indented on a phone.

    Args:
        titles: of the recommended Term IDs, best first.
    """
    return str(_MACROS.trie(root, titles, name))
