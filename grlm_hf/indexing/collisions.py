"""Items that share a Term ID, and what tells them apart (GRLM, arXiv 2601.06798: 2–3 % of the items share one).

A shared identifier is no error: the items under it are ranked one after the other (`Catalog`: by rising item id). But each of them
spends a rank, so those whose texts differ are better told apart.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import TermID, normalise
from grlm_hf.indexing.words import LONGEST, STOP_WORDS, UNITS, WEAK_WORDS, brand_words, words

logger = logging.getLogger(__name__)

Resolver = Literal["term", "attribute", "append", "rank"]
RESOLVERS: tuple[Resolver, ...] = get_args(Resolver)
"""The ways of `resolve`."""

_SAME_UNIT = {
    "ounce": "oz ozs ounces floz",
    "gram": "g gm gr gms grams",
    "ml": "milliliter milliliters millilitre millilitres",
    "liter": "l liters litre litres",
    "pound": "lb lbs pounds",
    "inch": "inches",
    "foot": "ft feet",
    "yard": "yd yds yards",
    "gallon": "gal gallons",
    "watt": "w watts",
    "volt": "v volts",
    "count": "ct counts",
    "piece": "pc pcs pieces pce",
    "pack": "pk packs",
    "kg": "kgs",
    "mg cm mm cc quart pint gauge mah gb tb hz": "",
}
_UNIT = {name: unit.split()[0] if more else name for unit, more in _SAME_UNIT.items() for name in (*unit.split(), *more.split())}
_NUMBER = r"(?<![\w.,/-])(\d{1,2}[ -]\d{1,2}/\d{1,2}|\d{1,2}/\d{1,2}|\d+(?:[.,]\d+)?)"
_SIZE = re.compile(rf"{_NUMBER}(?:\s*-\s*|\s*)(?:fl\.?\s*|fluid\s+)?(?:({'|'.join(sorted(_UNIT, key=len, reverse=True))})\b|([\"”″]))")
_PACK = re.compile(r"\b(pack|set|box|case|lot|bag|bundle) of (\d+|two|three|four|five|six|eight|ten|twelve)\b")
_RATED = re.compile(r"\b(spf|size|no\.?|model|grade|level)\s*[#:]?\s*(\d[\w.+-]*)")
_LETTERED = re.compile(r"\b(xxs|xs|xxxl|xxl|xl|x-large|x-small|small|medium|large)\b")
_COLOURS = (
    "amber aqua beige black blonde blue bronze brown brunette burgundy camel champagne charcoal chrome clear copper coral crimson cyan "
    "ebony emerald fuchsia gold golden gray green grey indigo ivory jade khaki lavender lilac lime magenta maroon mauve mint mocha mustard "
    "navy nude ochre olive orange peach pearl pink plum purple red rose ruby rust sand sapphire scarlet silver tan taupe teal turquoise "
    "violet walnut white wine yellow"
)
_SHADES = "light dark deep pale bright hot soft medium matte metallic neon pastel royal sky navy baby forest ash dusty rose lime off jet"
_COLOUR = re.compile(rf"\b((?:{'|'.join(_SHADES.split())})[\s-]+)?({'|'.join(_COLOURS.split())})\b")


@dataclass(frozen=True)
class CollisionReport:
    """Which items share a Term ID.

    Attributes:
        n_items: items looked at.
        groups: the shared Term IDs, each with the items that carry it by rising item id; the largest group first, then by Term ID.
    """

    n_items: int
    groups: tuple[tuple[TermID, tuple[Item, ...]], ...]

    @property
    def n_shared(self) -> int:
        """Items that share a Term ID."""
        return sum(len(items) for _, items in self.groups)

    @property
    def share(self) -> float:
        """`n_shared` of `n_items`."""
        return self.n_shared / self.n_items if self.n_items else 0.0

    @property
    def sizes(self) -> dict[int, int]:
        """Items in a group → groups of that size, by rising size."""
        return dict(sorted(Counter(len(items) for _, items in self.groups).items()))


def collisions(term_ids: Sequence[TermID]) -> list[tuple[int, ...]]:
    """The groups of positions that share a Term ID: positions rising within a group, groups in the order of their first."""
    groups: defaultdict[TermID, list[int]] = defaultdict(list)
    for at, term_id in enumerate(term_ids):
        groups[term_id].append(at)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def collision_report(items: Sequence[Item], term_ids: Sequence[TermID]) -> CollisionReport:
    """Which of these items share a Term ID. Raises `ValueError` when items and Term IDs are not as many as each other."""
    if len(items) != len(term_ids):
        raise ValueError(f"Items and Term IDs must be as many as each other; found {len(items)} items, {len(term_ids)} Term IDs.")
    groups = [(term_ids[g[0]], tuple(sorted((items[at] for at in g), key=lambda item: item.item_id))) for g in collisions(term_ids)]
    return CollisionReport(len(items), tuple(sorted(groups, key=lambda group: (-len(group[1]), group[0]))))


def resolve(
    items: Sequence[Item],
    term_ids: Sequence[TermID],
    candidates: Sequence[Sequence[str]] | None = None,
    how: str = "term",
    allowed: Collection[str] | None = None,
) -> list[TermID]:
    """The Term IDs with collisions undone where the items' own texts differ.

    In a group that shares an identifier, one item keeps it: the first by `item_id` (as text), but before it one whose text has nothing
    that the others lack. Each other's changes, if that makes an identifier that no item has or had:

    - ``"term"``: the last and least important term gives way to a word of the item's own text, which as few others of the group as
      possible have, and not all of them; of equals the first in title, brand, description and categories (leaf first), with stop words
      left out, and packaging words, then numbers (with their unit: ``8-oz``) last. Where no word helps, to an `attributes` term, and at
      last to a single letter.
    - ``"attribute"``: the last term gives way to what buyers choose between: a colour (``navy-blue``), a size (``8-ounce``, ``2-inch``,
      ``x-large``), a pack (``pack-of-2``), a rating (``spf-30``) or the brand (`attributes`): of these again the rarest in the group,
      then the first in this order. Where none helps, to a word as above. Colours and units are English ones.
    - ``"append"``: a word as in ``"term"``, behind all terms. Such an item has one term more than the others. In the written form its
      identifier goes on where the other ends (``[a, b, c]`` beside ``[a, b]``), so neither is the beginning of the other in a trie, and
      both stay legal; but what holds an LLM to exactly n terms cannot write it.
    - ``"rank"``: nothing changes. The items are ranked one after the other, by rising item id.

    Terms never repeat within an item, and but for ``"append"`` their number stays. Items of a group whose texts hold the same words
    change together, so they keep sharing one identifier. So two items share an identifier only if they did before, and one that was
    alone stays as it was. The order of `items` plays no part. Logs how many items still share one (`collision_report` says which).

    Args:
        items: one a Term ID; ids must be unique.
        term_ids: the identifiers, each of one term or more.
        candidates: for each item the terms to try, best first, in place of the words of its text; normalised here.
        how: one of `RESOLVERS`.
        allowed: the only terms that may be put in, such as those of a controlled vocabulary; None: any.

    Raises `ValueError` for an unknown `how`, lengths that differ, a repeated item id or an empty Term ID.
    """
    return _resolve(items, term_ids, candidates, how, None, allowed)


def resolve_new(
    catalog: Catalog,
    items: Sequence[Item],
    term_ids: Sequence[TermID],
    candidates: Sequence[Sequence[str]] | None = None,
    how: str = "term",
) -> list[TermID]:
    """The Term IDs of items that join a catalog, told apart from its own and from each other as `resolve` does.

    The catalog's identifiers stay as they are: where an item of its own has one, a new item with the same gives way, and shares it only
    when its text (or `candidates`) offers nothing that is free and that all the others of the group have not. Its cost does not grow
    with the catalog.

    Raises `ValueError` as `resolve` does, and for an item that the catalog has already.
    """
    if known := [item.item_id for item in items if item.item_id in catalog]:
        raise ValueError(f"{len(known)} items are in the catalog already, such as {known[0]!r}; pass new ones only.")
    return _resolve(items, term_ids, candidates, how, catalog)


def _resolve(
    items: Sequence[Item],
    term_ids: Sequence[TermID],
    candidates: Sequence[Sequence[str]] | None,
    how: str,
    catalog: Catalog | None,
    allowed: Collection[str] | None = None,
) -> list[TermID]:
    if how not in RESOLVERS:
        raise ValueError(f"how is {how!r}; expected one of {', '.join(RESOLVERS)}.")
    if not len(items) == len(term_ids) == len(items if candidates is None else candidates):
        found = f"{len(items)} items, {len(term_ids)} Term IDs" + ("" if candidates is None else f", {len(candidates)} candidates")
        raise ValueError(f"Items, Term IDs and candidates must be as many as each other; found {found}.")
    if repeated := [item_id for item_id, count in Counter(item.item_id for item in items).items() if count > 1]:
        raise ValueError(f"Item ids must be unique; {len(repeated)} are repeated, such as {repeated[0]!r}.")
    if not all(term_ids):
        raise ValueError(f"Item {items[list(map(bool, term_ids)).index(False)].item_id!r} has an empty Term ID; give it at least one term.")

    resolved, taken = list(term_ids), set(term_ids)
    groups: defaultdict[TermID, list[int]] = defaultdict(list)
    for at in sorted(range(len(items)), key=lambda at: items[at].item_id):
        groups[term_ids[at]].append(at)
    shared = sorted(t for t, group in groups.items() if len(group) > 1 or (catalog is not None and catalog.positions_of(t)))
    for term_id in shared if how != "rank" else ():
        old = catalog.items_of(term_id) if catalog is not None else ()
        options: dict[frozenset[str], list[tuple[int, str]]] = {}  # the words of a text → those that it offers, with their class
        alike: defaultdict[frozenset[str], list[int]] = defaultdict(list)  # the words of a text → the new items with that text
        for at in groups[term_id]:
            own = _options(items[at], how) if candidates is None else [(0, t) for t in map(normalise, candidates[at]) if t]
            text = frozenset(word for _, word in own)
            options.setdefault(text, own)
            alike[text].append(at)
        texts = {*alike, *(frozenset(word for _, word in _options(item, how)) for item in old)}
        holders = Counter(word for text in texts for word in text)  # word → different texts of the group that hold it
        useful = {
            text: sorted(  # stable: of equals, the first
                (
                    (kind, word)
                    for kind, word in options[text]
                    if holders[word] < len(texts) and word not in term_id and (allowed is None or word in allowed)
                ),
                key=lambda option: (option[0], holders[option[1]]),
            )
            for text in alike
        }
        changing = list(alike)
        if not old:
            changing.remove(min(alike, key=lambda text: bool(useful[text])))  # keeps it; of equals, the first item's
        for text in changing:
            for _, word in useful[text]:
                changed = (*term_id, word) if how == "append" else (*term_id[:-1], word)
                if changed not in taken and not (catalog is not None and catalog.positions_of(changed)):
                    taken.add(changed)
                    for at in alike[text]:
                        resolved[at] = changed
                    break

    def sharing(ids: Sequence[TermID]) -> int:
        return sum(n for t, n in Counter(ids).items() if n > 1 or (catalog is not None and catalog.positions_of(t)))

    logger.info("Items that share a Term ID: %d of %d before, %d after.", sharing(term_ids), len(items), sharing(resolved))
    return resolved


def _options(item: Item, how: str) -> list[tuple[int, str]]:
    """What an item's text offers to tell it apart by, best first, each with its class: a lower class goes before rarity."""
    own, named = _own_words(item), attributes(item)
    whole = [word for word in own if len(word) > 1 or word.isdecimal() or not word.isascii()]
    found: dict[str, int] = {}
    for kind, some in enumerate((named, whole, own) if how == "attribute" else (whole, named, own)):
        for word in some:
            found.setdefault(word, kind)
    return [(kind, word) for word, kind in found.items() if len(word) <= LONGEST]


def attributes(item: Item) -> list[str]:
    """What buyers choose between, as terms: colours, sizes, packs, ratings and the brand, in this order; each kind in reading order.

    Read from title and description with English units and colours; the brand from its field.
    """
    text = f"{item.title}\n{item.description}".lower().replace("’", "'")
    colours = [" ".join(filter(None, match.groups())) for match in _COLOUR.finditer(text)]
    measured = [(number, _UNIT[unit] if unit else "inch") for number, unit, _ in _SIZE.findall(text)]
    sizes = [f"{number} {unit}" for number, unit in measured if unit != "pack"]
    packs = [f"pack of {number}" for number, unit in measured if unit == "pack"] + [f"{kind} of {n}" for kind, n in _PACK.findall(text)]
    rated = [" ".join(match) for match in _RATED.findall(text)]
    found = [*colours, *sizes, *_LETTERED.findall(text), *packs, *rated, " ".join(brand_words(item.brand))]
    return [term for term in dict.fromkeys(map(normalise, found)) if term and normalise(term) == term]


def _own_words(item: Item) -> list[str]:
    """The words of an item's text, best first; a number and its unit are one word (``8-ounce``)."""
    read = words(" \n".join((item.title, item.brand, item.description, *reversed(item.categories))))
    joined = [f"{a}-{b}" if a.replace(".", "").isdecimal() and b in UNITS else a for a, b in itertools.pairwise([*read, ""])]
    found = [word for word in dict.fromkeys(joined) if word not in STOP_WORDS]
    return sorted(found, key=lambda word: (any(c.isdigit() for c in word), word in WEAK_WORDS))
