"""Items that share a Term ID, and words that tell them apart (GRLM, arXiv 2601.06798: 2–3 % of the items share one)."""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from grlm_hf.catalog import Item
from grlm_hf.identifiers.extract import STOP_WORDS, UNITS, WEAK_WORDS, words
from grlm_hf.identifiers.terms import TermID, normalise

logger = logging.getLogger(__name__)


def collisions(term_ids: Sequence[TermID]) -> list[tuple[int, ...]]:
    """The groups of positions that share a Term ID: positions rising within a group, groups in the order of their first."""
    groups: defaultdict[TermID, list[int]] = defaultdict(list)
    for at, term_id in enumerate(term_ids):
        groups[term_id].append(at)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def resolve(items: Sequence[Item], term_ids: Sequence[TermID], candidates: Sequence[Sequence[str]] | None = None) -> list[TermID]:
    """The Term IDs with collisions undone where the items' own texts differ.

    In a group that shares an identifier, the first item by `item_id` (as text) keeps it. In each other's, the last and least important
    term gives way to a word of the item's own text, if that makes an identifier that no item has or had: a word which as few others of
    the group as possible have, and not all of them; of equals the first in title, brand, description and categories (leaf first), with
    stop words left out, and packaging words and then numbers last. Items of a group whose texts hold the same words change together,
    so they keep sharing one identifier; as everywhere, ties between such items go by rising `item_id`.

    So two items share an identifier only if they did before, and one that was alone stays as it was. The order of `items` plays no
    part. Logs how many items still share one (`collisions` of the result says which).

    Args:
        items: one a Term ID; ids must be unique.
        term_ids: the identifiers, each of one term or more.
        candidates: for each item the terms to try, best first, in place of the words of its text; normalised here.

    Raises `ValueError` for lengths that differ, a repeated item id or an empty Term ID.
    """
    if not len(items) == len(term_ids) == len(items if candidates is None else candidates):
        found = f"{len(items)} items, {len(term_ids)} Term IDs" + ("" if candidates is None else f", {len(candidates)} candidates")
        raise ValueError(f"Items, Term IDs and candidates must be as many as each other; found {found}.")
    if repeated := [item_id for item_id, count in Counter(item.item_id for item in items).items() if count > 1]:
        raise ValueError(f"Item ids must be unique; {len(repeated)} are repeated, such as {repeated[0]!r}.")
    if not all(term_ids):
        raise ValueError(f"Item {items[list(map(bool, term_ids)).index(False)].item_id!r} has an empty Term ID; give it at least one term.")

    resolved = list(term_ids)
    taken = set(term_ids)
    for group in sorted(collisions(term_ids), key=lambda group: term_ids[group[0]]):
        term_id = term_ids[group[0]]
        alike: defaultdict[frozenset[str], list[int]] = defaultdict(list)  # the words of a text → the items with that text
        options: dict[frozenset[str], list[str]] = {}
        for at in sorted(group, key=lambda at: items[at].item_id):
            own = _own_words(items[at]) if candidates is None else [term for term in map(normalise, candidates[at]) if term]
            alike[frozenset(own)].append(at)
            options.setdefault(frozenset(own), own)
        holders = Counter(word for text in alike for word in text)  # word → different texts of the group that hold it
        for text, members in list(alike.items())[1:]:
            useful = [word for word in options[text] if holders[word] < len(alike) and word not in term_id]
            for word in sorted(useful, key=holders.__getitem__):  # stable: of equals, the first
                if (changed := (*term_id[:-1], word)) not in taken:
                    taken.add(changed)
                    for at in members:
                        resolved[at] = changed
                    break

    before, after = (sum(map(len, collisions(ids))) for ids in (term_ids, resolved))
    logger.info("Items that share a Term ID: %d of %d before, %d after.", before, len(items), after)
    return resolved


def _own_words(item: Item) -> list[str]:
    """The words of an item's text, best first; a number and its unit are one word (``8-ounce``)."""
    read = words(" \n".join((item.title, item.brand, item.description, *reversed(item.categories))))
    joined = [f"{a}-{b}" if a.replace(".", "").isdecimal() and b in UNITS else a for a, b in itertools.pairwise([*read, ""])]
    found = [word for word in dict.fromkeys(joined) if word not in STOP_WORDS and (len(word) > 1 or word.isdecimal() or not word.isascii())]
    return sorted(found, key=lambda word: (any(c.isdigit() for c in word), word in WEAK_WORDS))
