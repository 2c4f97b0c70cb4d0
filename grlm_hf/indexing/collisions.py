"""Items that share a Term ID (collisions), and how to separate them (GRLM, arXiv 2601.06798: 2–3 % of the items share one). A collision is
no error: its items are ranked one after the other (`Catalog`: by ascending item id). But each takes a rank, so items with different texts
should get different identifiers."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item, check_unique
from grlm_hf.identifiers.terms import TermID, normalise
from grlm_hf.indexing.words import LONGEST, SAME_UNIT, STOP_WORDS, UNITS, WEAK_WORDS, brand_words, word_list, words
from grlm_hf.settings import check_value

logger = logging.getLogger(__name__)

Resolver = Literal["term", "attribute", "append", "rank"]
RESOLVERS: tuple[Resolver, ...] = get_args(Resolver)

_UNIT = {name: unit.split()[0] if more else name for unit, more in SAME_UNIT.items() for name in (*unit.split(), *more.split())}
_NUMBER = r"(?<![\w.,/-])(\d{1,2}[ -]\d{1,2}/\d{1,2}|\d{1,2}/\d{1,2}|\d+(?:[.,]\d+)?)"
_SIZE = re.compile(rf"{_NUMBER}(?:\s*-\s*|\s*)(?:fl\.?\s*|fluid\s+)?(?:({'|'.join(sorted(_UNIT, key=len, reverse=True))})\b|([\"”″]))")
_PACK = re.compile(r"\b(pack|set|box|case|lot|bag|bundle) of (\d+|two|three|four|five|six|eight|ten|twelve)\b")
_RATED = re.compile(r"\b(spf|size|no\.?|model|grade|level)\s*[#:]?\s*(\d[\w.+-]*)")
_LETTERED = re.compile(r"\b(xxs|xs|xxxl|xxl|xl|x-large|x-small|small|medium|large)\b")
_COLOUR = re.compile(rf"\b((?:{'|'.join(word_list('shades'))})[\s-]+)?({'|'.join(word_list('colours'))})\b")


@dataclass(frozen=True)
class CollisionReport:
    """Which items share a Term ID."""

    n_items: int
    groups: tuple[tuple[TermID, tuple[Item, ...]], ...]
    """The shared Term IDs, each with its items by ascending item id; the largest group first, then by Term ID."""

    @property
    def n_shared(self) -> int:
        """Items that share a Term ID."""
        return sum(len(items) for _, items in self.groups)

    @property
    def share(self) -> float:
        """`n_shared` / `n_items`."""
        return self.n_shared / self.n_items if self.n_items else 0.0

    @property
    def sizes(self) -> dict[int, int]:
        """Size of a group → number of groups of that size, by ascending size."""
        return dict(sorted(Counter(len(items) for _, items in self.groups).items()))


def collisions(term_ids: Sequence[TermID]) -> list[tuple[int, ...]]:
    """The groups of positions that share a Term ID: positions ascend within a group, groups are in the order of their first."""
    groups: defaultdict[TermID, list[int]] = defaultdict(list)
    for at, term_id in enumerate(term_ids):
        groups[term_id].append(at)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def collision_report(items: Sequence[Item], term_ids: Sequence[TermID]) -> CollisionReport:
    """Which of these items share a Term ID. Raises `ValueError` for unequal numbers of items and Term IDs."""
    if len(items) != len(term_ids):
        raise ValueError(f"Expected as many Term IDs as items; found {len(items)} items, {len(term_ids)} Term IDs.")
    groups = [(term_ids[g[0]], tuple(sorted((items[at] for at in g), key=lambda item: item.item_id))) for g in collisions(term_ids)]
    return CollisionReport(len(items), tuple(sorted(groups, key=lambda group: (-len(group[1]), group[0]))))


def resolve(
    items: Sequence[Item],
    term_ids: Sequence[TermID],
    candidates: Sequence[Sequence[str]] | None = None,
    how: str = "term",
    allowed: Collection[str] | None = None,
    catalog: Catalog | None = None,
) -> list[TermID]:
    """Resolves collisions between items whose own texts differ.

    In each group one item keeps the identifier: the first by `item_id` (as text), unless an item's text has nothing that the others lack;
    then that one. The other items get a new identifier, if there is one that no item has or had:

    - ``"term"`` replaces the last, least important term by a word of the item's text (no stop word; if none helps, an `attributes` term,
      then a single letter): the rarest in the group; of these the first in title, brand, description and categories (leaf first), but
      packaging words, then numbers (with their unit: ``8-oz``) last.
    - ``"attribute"`` replaces it by one of the item's `attributes`, the rarest in the group, of these the first; if none helps, by a word
      as in ``"term"``.
    - ``"append"`` adds a word as in ``"term"`` after the last term. As written, neither of ``[a, b, c]`` and ``[a, b]`` is a prefix of the
      other in a trie, so both stay legal; but an LLM that is held to exactly n terms cannot write the longer one.
    - ``"rank"`` changes nothing: the items are ranked one after the other, by ascending item id.

    Terms never repeat within an item, and only ``"append"`` changes their number. Items whose texts have the same words still share one
    identifier; an item without a collision does not change. The order of `items` does not matter. Logs how many items still share one.

    Args:
        items: one per Term ID, with unique ids.
        term_ids: the identifiers, each of at least one term.
        candidates: for each item the terms to try, best first, instead of the words of its text; normalised here.
        how: one of `RESOLVERS`.
        allowed: the only terms that may be inserted, such as those of a controlled vocabulary; None: any.
        catalog: whose identifiers count as taken and do not change (`resolve_new`).

    Raises `ValueError` for an unknown `how`, unequal lengths, a repeated item id or an empty Term ID.
    """
    check_value("how", how, Resolver)
    if not len(items) == len(term_ids) == len(items if candidates is None else candidates):
        found = f"{len(items)} items, {len(term_ids)} Term IDs" + ("" if candidates is None else f", {len(candidates)} candidates")
        raise ValueError(f"Expected equal numbers of items, Term IDs and candidates; found {found}.")
    check_unique(item.item_id for item in items)
    if not all(term_ids):
        raise ValueError(f"Item {items[list(map(bool, term_ids)).index(False)].item_id!r} has an empty Term ID; give it at least one term.")

    def old_items(term_id: TermID) -> tuple[Item, ...]:
        return () if catalog is None else catalog.items_of(term_id)

    resolved, taken = list(term_ids), set(term_ids)
    groups: defaultdict[TermID, list[int]] = defaultdict(list)
    for at in sorted(range(len(items)), key=lambda at: items[at].item_id):
        groups[term_ids[at]].append(at)
    shared = sorted(t for t, group in groups.items() if len(group) > 1 or old_items(t))
    for term_id in shared if how != "rank" else ():
        old = old_items(term_id)
        options: dict[frozenset[str], list[tuple[int, str]]] = {}  # the words of a text → its candidates, with their class
        alike: defaultdict[frozenset[str], list[int]] = defaultdict(list)  # the words of a text → the new items with that text
        for at in groups[term_id]:
            own = _options(items[at], how) if candidates is None else [(0, t) for t in map(normalise, candidates[at]) if t]
            text = frozenset(word for _, word in own)
            options.setdefault(text, own)
            alike[text].append(at)
        texts = {*alike, *(frozenset(word for _, word in _options(item, how)) for item in old)}
        holders = Counter(word for text in texts for word in text)  # word → number of different texts of the group with it
        helpful = {w for w, n in holders.items() if n < len(texts) and w not in term_id and (allowed is None or w in allowed)}
        useful = {  # a stable sort keeps the first of equals
            text: sorted((o for o in own if o[1] in helpful), key=lambda o: (o[0], holders[o[1]])) for text, own in options.items()
        }
        changing = list(alike)
        if not old:
            changing.remove(min(alike, key=lambda text: bool(useful[text])))  # it keeps the identifier; the first of equals
        for text in changing:
            for _, word in useful[text]:
                changed = (*term_id, word) if how == "append" else (*term_id[:-1], word)
                if changed not in taken and not old_items(changed):
                    taken.add(changed)
                    for at in alike[text]:
                        resolved[at] = changed
                    break
    before, after = (sum(n for t, n in Counter(ids).items() if n > 1 or old_items(t)) for ids in (term_ids, resolved))
    logger.debug("Items that share a Term ID: %d of %d before, %d after.", before, len(items), after)
    return resolved


def resolve_new(
    catalog: Catalog,
    items: Sequence[Item],
    term_ids: Sequence[TermID],
    candidates: Sequence[Sequence[str]] | None = None,
    how: str = "term",
) -> list[TermID]:
    """`resolve` for items that are added to a catalog. The catalog's own identifiers do not change: a new item with one of them gets
    another identifier, and shares it only if its text (or `candidates`) has no free term that distinguishes it. The cost does not grow with
    the catalog. Raises `ValueError` as `resolve` does, and for an item that is in the catalog already."""
    if known := [item.item_id for item in items if item.item_id in catalog]:
        raise ValueError(f"{len(known)} items are in the catalog already, such as {known[0]!r}; pass new ones only.")
    return resolve(items, term_ids, candidates, how, catalog=catalog)


def _options(item: Item, how: str) -> list[tuple[int, str]]:
    """Candidate terms from an item's text, best first, as (class, term). A lower class comes first, whatever the rarity."""
    own, named = _own_words(item), attributes(item)
    whole = [word for word in own if len(word) > 1 or word.isdecimal() or not word.isascii()]
    found: dict[str, int] = {}
    for kind, some in enumerate((named, whole, own) if how == "attribute" else (whole, named, own)):
        for word in some:
            found.setdefault(word, kind)
    return [(kind, word) for word, kind in found.items() if len(word) <= LONGEST]


def attributes(item: Item) -> list[str]:
    """Attributes that buyers choose between, as terms: colours, sizes, packs, ratings and the brand, in this order; each in reading order.
    They are read from title and description with English units and colours; the brand from its field."""
    text = f"{item.title}\n{item.description}".lower().replace("’", "'")
    colours = [" ".join(filter(None, match.groups())) for match in _COLOUR.finditer(text)]
    measured = [(number, _UNIT[unit] if unit else "inch") for number, unit, _ in _SIZE.findall(text)]
    sizes = [f"{number} {unit}" for number, unit in measured if unit != "pack"]
    packs = [f"pack of {number}" for number, unit in measured if unit == "pack"] + [f"{kind} of {n}" for kind, n in _PACK.findall(text)]
    rated = [" ".join(match) for match in _RATED.findall(text)]
    found = [*colours, *sizes, *_LETTERED.findall(text), *packs, *rated, " ".join(brand_words(item.brand))]
    return [term for term in dict.fromkeys(map(normalise, found)) if term and normalise(term) == term]


def _own_words(item: Item) -> list[str]:
    """The words of an item's text, best first. A number and its unit are one word (``8-ounce``)."""
    read = words(" \n".join((item.title, item.brand, item.description, *reversed(item.categories))))
    joined = [f"{a}-{b}" if a.replace(".", "").isdecimal() and b in UNITS else a for a, b in itertools.pairwise([*read, ""])]
    found = [word for word in dict.fromkeys(joined) if word not in STOP_WORDS]
    return sorted(found, key=lambda word: (any(c.isdigit() for c in word), word in WEAK_WORDS))
