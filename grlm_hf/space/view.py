"""The parts of the page as HTML, from values alone. The macros of ``view.html`` escape all text of a catalog or a visitor."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from grlm_hf.data.items import Item
from grlm_hf.modeling.results import Recommendation
from grlm_hf.space.session import FACTOR

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


def _macros() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.globals.update(STEERED=_STEERED, FACTOR=FACTOR)
    environment.filters.update(percent=percent, times=times, exp=math.exp, facts=_facts, place=_place)
    environment.filters["by_drop"] = partial(sorted, key=lambda h: -(h.drop or 0))
    source = (files("grlm_hf") / "space" / "view.html").read_text(encoding="utf-8")
    return environment.from_string(re.sub(r"\n\s*", "", source)).module


_MACROS = _macros()


def render(part: str, *values: Any, **options: Any) -> str:
    """The HTML of a part of the page: of the macro `part` of ``view.html``, which names the values."""
    return str(getattr(_MACROS, part)(*values, **options))
