"""The choices of one visitor of the Space, as an immutable value, and the checkpoints that all visitors share.

A visitor's own items are part of that value. A catalog with own items is derived from it, kept for the last few visitors and made again
when it is needed later: visitors cannot change each other's catalog, and memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.decoding.rules import PriorForm, Rules, SearchOptions
from grlm_hf.files import clean
from grlm_hf.identifiers.terms import normalise

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.modeling.results import Recommendations

K = 10
"""Items recommended."""
BEAMS = (10, 60)
"""Minimum and maximum beam width of a visitor's search."""
FACTOR = 8.0
"""For each term, "more" multiplies an item's score by it and "less" divides by it."""
STEER = ("more", "less", "ban")
LIMITS = {"history": 50, "own": 8, "steer": 24, "title": 200, "description": 2000, "query": 200}
"""Limits of a visitor's state: items, terms, characters."""
MAX_CHOICES = 300  # entries of a drop-down list
CATALOGS_KEPT = 16  # catalogs with a visitor's own items


@dataclass(frozen=True)
class Filters:
    """Which items may be recommended; empty or ``None``: all. A price limit excludes items without a price."""

    category: str = ""
    domain: str = ""
    least: float | None = None
    most: float | None = None
    seen: bool | None = None
    """Also the items of the history; ``None``: as the checkpoint was evaluated."""
    own: bool = False
    """Only the visitor's own items."""


@dataclass(frozen=True)
class Session:
    """One visitor.

    Attributes:
        history: ids, oldest first.
        steer: term → one of `STEER`.
        own: the visitor's own items.
        why: id of the recommendation that is explained.
        message: the error of the last action, in words.
    """

    history: tuple[str, ...] = ()
    steer: dict[str, str] = field(default_factory=dict)
    own: tuple[Item, ...] = ()
    filters: Filters = Filters()
    query: str = ""
    beams: int = 20
    why: str = ""
    message: str = ""


@dataclass(frozen=True)
class Answer:
    """The recommendations of one checkpoint after the items of the history that it has; `error` says in words why there are none."""

    name: str
    grlm: GRLMForRecommendation
    history: Sequence[str] = ()
    found: Recommendations | None = None
    rules: Rules = field(default_factory=Rules)
    error: str = ""


class Shop:
    """The checkpoints, one or two, shared by all visitors and never changed.

    Args:
        checkpoints: name → checkpoint; visitors search the catalog of the first.
    """

    def __init__(self, checkpoints: dict[str, GRLMForRecommendation]):
        self.checkpoints = checkpoints
        self._extended = lru_cache(CATALOGS_KEPT)(self._extend)
        self._titles = [item.title.casefold() for item in self.catalog]

    @property
    def catalog(self) -> Catalog:
        return next(iter(self.checkpoints.values())).catalog

    @property
    def excludes_seen(self) -> bool:
        """Whether the first checkpoint was evaluated without the items of the history."""
        return next(iter(self.checkpoints.values())).config.exclude_seen

    def grlms(self, session: Session) -> tuple[GRLMForRecommendation, ...]:
        """The checkpoints, with the visitor's own items in their catalogs."""
        return self._extended(session.own)

    def item(self, session: Session, item_id: str) -> Item:
        """Raises ``ValueError`` for an unknown id."""
        return next((item for item in session.own if item.item_id == item_id), None) or self.catalog[item_id]

    def warm(self) -> None:
        """Prepares the catalogs for the first own item, which otherwise takes some seconds."""
        with suppress(ImportError):  # adding an item says what to install
            for grlm in self.checkpoints.values():
                grlm.shelf.warm()

    def _extend(self, own: tuple[Item, ...]) -> tuple[GRLMForRecommendation, ...]:
        if not own:
            return tuple(self.checkpoints.values())
        found = []
        for shared, before in zip(self.checkpoints.values(), self._extended(own[:-1]), strict=True):
            grlm = before.branch()
            # Words are counted in the shared catalog, so that one visitor's words have no weight for another.
            identifiers = shared.shelf.new_identifiers(before.catalog, [own[-1]], beside=shared.catalog)
            grlm.add_items([own[-1]], identifiers)
            found.append(grlm)
        return tuple(found)

    # --- the page ----------------------------------------------------------------------------------------------------------------

    def search(self, session: Session, most: int = 8) -> tuple[list[Item], int]:
        """The first `most` items whose title has every word of the query, those that begin with it first; and the number of all."""
        query = session.query.casefold()
        words = query.split()
        if not words:
            return [], 0
        own = [item for item in session.own if all(word in item.title.casefold() for word in words)]
        hits = [p for p, title in enumerate(self._titles) if all(word in title for word in words)]
        hits.sort(key=lambda p: not self._titles[p].startswith(query.strip()))
        if not hits and not own and session.query.strip() in self.catalog:
            hits = [self.catalog.position(session.query.strip())]
        return [*own, *(self.catalog.items[p] for p in hits[:most])][:most], len(own) + len(hits)

    def categories(self) -> list[str]:
        """The commonest categories, sorted."""
        return sorted(name for name, _ in Counter(c for item in self.catalog for c in set(item.categories)).most_common(MAX_CHOICES))

    @property
    def priced(self) -> bool:
        return any(item.price is not None for item in self.catalog)

    def examples(self, n: int = 4, length: int = 3) -> dict[str, tuple[str, ...]]:
        """Label → history: items of one frequent category (or first term, without categories), of as many domains as possible."""
        groups: dict[str, list[Item]] = {}
        for item, tid in zip(self.catalog, self.catalog.item_identifiers, strict=True):
            if all(item.item_id in grlm.catalog for grlm in self.checkpoints.values()):
                groups.setdefault(item.categories[-1] if item.categories else tid[0], []).append(item)
        by_size = sorted(groups, key=lambda label: (-len(groups[label]), label))
        kind = {label: (items[0].domain, *items[0].categories[:2]) for label, items in groups.items()}
        first = {kind[label]: label for label in reversed(by_size)}.values()  # the largest of each kind
        chosen = sorted(by_size, key=lambda label: label not in first)[:n]
        return {label: tuple(i.item_id for i in groups[label][:: max(1, len(groups[label]) // length)][:length]) for label in chosen}

    def answers(self, session: Session) -> list[Answer]:
        """One answer a checkpoint; none without a history."""
        if not session.history:
            return []
        return [self._answer(session, name, grlm) for name, grlm in zip(self.checkpoints, self.grlms(session), strict=True)]

    def _answer(self, session: Session, name: str, grlm: GRLMForRecommendation) -> Answer:
        history = [i for i in session.history if i in grlm.catalog]
        if not history:
            return Answer(name, grlm, error="None of the items of the history is in this checkpoint's catalog.")
        try:
            given = rules(session, grlm, history)
            beams = min(session.beams, len(grlm.catalog.identifiers))
            found = grlm.recommend(
                history, min(K, len(grlm.catalog)), rules=given, search=SearchOptions(max(beams, min(K, beams)), edge_wise=True)
            )
        except ValueError as error:
            return Answer(name, grlm, history, error=str(error))
        return Answer(name, grlm, history, found, given)


def rules(session: Session, grlm: GRLMForRecommendation, history: Sequence[str]) -> Rules:
    """The visitor's filters and steering as rules of a request."""
    wanted, catalog = session.filters, grlm.catalog

    def items(test: Callable[[Item], bool]) -> np.ndarray:
        return np.fromiter(map(test, catalog), bool, len(catalog))

    allow = np.ones(len(catalog), bool)
    if wanted.category:
        allow &= items(lambda item: wanted.category in item.categories)
    if wanted.domain:
        allow &= items(lambda item: wanted.domain == item.domain)
    if wanted.least is not None or wanted.most is not None:
        low, high = wanted.least or 0, math.inf if wanted.most is None else wanted.most
        allow &= items(lambda item: item.price is not None and low <= item.price <= high)
    if wanted.own:
        own = {item.item_id for item in session.own}
        allow &= items(lambda item: item.item_id in own)
    banned = [term for term, how in session.steer.items() if how == "ban"]
    weight = np.ones(len(catalog))
    for term, how in session.steer.items():
        if how != "ban":
            has = np.fromiter((term in tid for tid in catalog.item_identifiers), bool, len(catalog))
            weight[has] *= FACTOR if how == "more" else 1 / FACTOR
    form: PriorForm = "product"
    if grlm.prior and grlm.config.own_prior:
        own_prior = grlm.prior_on(grlm.shelf.index).beside([history])
        weight, form = weight * own_prior["prior"][0], own_prior["prior_form"]
    return Rules(
        allow=None if allow.all() else allow,
        banned_terms=banned,
        exclude_seen=grlm.config.exclude_seen if wanted.seen is None else not wanted.seen,
        prior=None if (weight == 1).all() else weight,
        prior_form=form,
    )


def changed(shop: Shop, session: Session, do: str, what: str = "") -> Session:
    """The session after one action of the visitor. Raises ``ValueError``, in words for the page, if the action is impossible.

    Args:
        do: ``add``, ``remove``, ``earlier``, ``later``, ``clear`` (the history); ``example``; ``more``, ``less``, ``ban``, ``calm`` (a
            term), ``calm-all``; ``why`` (a recommendation); ``forget`` (an own item), ``only-own``.
        what: an id, a term or the label of an example. It comes from the browser, so it can be any text.
    """
    history, steer, own, filters, why = list(session.history), dict(session.steer), session.own, session.filters, ""
    if do in ("add", "remove", "earlier", "later", "forget", "why"):
        title = shop.item(session, what).title
    if do == "add":
        if what in history:
            raise ValueError(f"“{title}” is in the history already.")
        if len(history) >= LIMITS["history"]:
            raise ValueError(f"A history holds {LIMITS['history']} items here; remove one first.")
        history.append(what)
    elif do in ("remove", "earlier", "later"):
        if what not in history:
            raise ValueError(f"“{title}” is not in the history.")
        at = history.index(what)
        history.pop(at)
        if do != "remove":
            history.insert(max(0, at + (1 if do == "later" else -1)), what)
    elif do == "clear":
        history = []
    elif do == "example":
        examples = shop.examples()
        if what not in examples:
            raise ValueError(f"There is no example {what!r}.")
        history = list(examples[what])
    elif do in STEER or do == "calm":
        term = normalise(what[: LIMITS["title"]])
        if not term:
            raise ValueError(f"{what!r} is no term: it has no letter or digit.")
        steer.pop(term, None)
        if do != "calm":
            if len(steer) >= LIMITS["steer"]:
                raise ValueError(f"Up to {LIMITS['steer']} terms can be steered; let go of one first.")
            steer[term] = do
    elif do == "calm-all":
        steer = {}
    elif do == "why":
        why = "" if session.why == what else what
    elif do == "forget":
        own = tuple(item for item in own if item.item_id != what)
        history = [i for i in history if i != what]
        filters = replace(filters, own=filters.own and bool(own))
    elif do == "only-own":
        filters = replace(filters, own=not filters.own and bool(own))
    else:
        raise ValueError(f"There is no action {do!r}.")
    return replace(session, history=tuple(history), steer=steer, own=own, filters=filters, why=why, message="")


def with_own(shop: Shop, session: Session, title: str, description: str) -> Session:
    """The session with one more own item. Raises ``ValueError`` for a text without a Term ID, or too many items."""
    title, description = clean(title), clean(description)
    if not any(c.isalnum() for c in title):
        raise ValueError("A new item needs a title with at least one letter or digit.")
    for name, text in (("title", title), ("description", description)):
        if len(text) > LIMITS[name]:
            raise ValueError(f"The {name} has {len(text)} characters; up to {LIMITS[name]} are read here. Shorten it.")
    if len(session.own) >= LIMITS["own"]:
        raise ValueError(f"Up to {LIMITS['own']} own items can be kept here; forget one first.")
    taken: list[Container[str]] = [{item.item_id for item in session.own}, *(grlm.catalog for grlm in shop.checkpoints.values())]
    item_id = next(name for n in count(1) if not any((name := f"yours-{n}") in ids for ids in taken))
    return replace(session, own=(*session.own, Item(item_id, title, description=description)), message="", why=item_id)
