"""Quality of a set of Term IDs, measured before any training. Two identifier sets of the same items can be compared measure by measure.
Measures that depend on chance come with their chance level: terms shared with neighbours and with random items, terms found in the item's
own text and in another item's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.items import Item, check_unique
from grlm_hf.identifiers.terms import normalise
from grlm_hf.indexing.collisions import collisions
from grlm_hf.indexing.quality.codes import branching, count_shared, sort_rows, spearman, to_table, without_repeats
from grlm_hf.indexing.quality.text import alignment
from grlm_hf.indexing.words import filler_terms

if TYPE_CHECKING:
    from grlm_hf.indexing.neighbors import Neighbors

QUALITY_SCHEMA = "grlm.quality/1"
_GROUPS = 10  # largest groups of items that share a Term ID, reported one by one
_TITLES = 5  # reported titles per group
_EXAMPLES = 5  # reported illegal Term IDs
_BINS = 20  # bins of cosine similarity in [0, 1], each .05 wide


def measure(
    items: Sequence[Item],
    term_ids: Sequence[Sequence[str]],
    neighbors: Neighbors | None = None,
    *,
    paths: Sequence[Sequence[int]] | None = None,
    tokenizer: str = "",
    n_terms: int | None = None,
    shorter: bool = False,
    appended: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """All measures of one identifier set, JSON-ready; shares are in [0, 1], entropies in bits.

    Term IDs may be illegal: lists of any length with terms in any form.

    Args:
        neighbors: of these items in this order, for `agreement`.
        paths: each item's identifier as token ids (`grlm_hf.tokens.identifier_tokens`), for `tokens` and the trie of tokens.
        tokenizer: the name of the tokenizer of `paths`.
        n_terms: number of terms in a legal Term ID; None: the most frequent number here.
        shorter: whether fewer are legal too, as `grlm_hf.indexing.extract` takes from short texts.
        appended: whether one more term is legal too, as `grlm_hf.indexing.collisions.resolve` adds with "append".
        seed: for the random pairs and the shuffled Term IDs.

    Returns:
        - ``legality``: share of ``legal`` items; numbers of items with a wrong ``count`` of terms, a term not in normal ``form``, or a
          ``repeated`` term (an item may have several faults); ``examples``.
        - ``fillers``: number of items with a term that says nothing (`grlm_hf.indexing.words.FILLERS`) and is not in their text.
        - ``terms``: number of ``distinct`` terms and of those ``used_once``, mean ``per_item``, and the vocabulary of the ``positions``.
        - ``prefixes``: distinct prefixes of length 1, 2, … (a shorter Term ID counts whole).
        - ``collisions``: ``distinct`` Term IDs; ``groups`` of items that share one, their ``items``, ``share`` of all items, ``largest``,
          ``sizes`` as pairs (size, groups), and the ten largest as ``groups_shown``.
        - ``agreement`` (None without pairs): mean number of distinct terms that an item shares with a neighbour: over all pairs, by rank,
          by bins of cosine similarity; ``random``: with a random other item; ``spearman`` between cosine and shared terms over all pairs
          (None if one is constant).
        - ``alignment`` of a Term ID with the item's text (title, brand, categories, description) and with its title only: share of
          ``items`` with a word of a term in it, mean share of an item's ``terms`` with all their words in it; for their ``own`` Term IDs,
          and for Term IDs ``shuffled`` so that no item has its own. See `grlm_hf.indexing.quality.text`.
        - ``tokens`` (None without `paths`): identifier length in tokens: mean, median, percentiles, max, and pairs (length, items).
        - ``trie``: of ``terms`` and of ``tokens`` (None without `paths`), see `branching`.

    The order of the items does not matter. Raises `ValueError` for no items, a repeated item id, arguments of different lengths, a Term ID
    that is no sequence of texts, `n_terms` < 1, or neighbours of other items or in another order.
    """
    check_rows(items, term_ids, neighbors, paths, "Term IDs", n_terms)
    by_id = np.array(sorted(range(len(items)), key=lambda at: items[at].item_id))  # makes the result independent of the order of the items
    items, term_ids = [items[at] for at in by_id], [term_ids[at] for at in by_id]
    code: dict[str, int] = {}
    table = to_table([[code.setdefault(term, len(code)) for term in term_id] for term_id in term_ids])
    vocabulary = list(code)
    once = without_repeats(table)
    tokens = None if paths is None else to_table([paths[at] for at in by_id])

    lengths = np.count_nonzero(table, axis=1)
    wanted = n_terms or max(1, int(np.bincount(lengths).argmax()))
    common = sort_rows(table)[1]
    uses = np.bincount(table[table > 0], minlength=1)[1:]
    rng = np.random.default_rng(seed)
    aligned = alignment(items, vocabulary, once, strangers(len(items), rng))
    return {
        "items": len(items),
        "items_hash": hash_of(item.item_id for item in items),
        "n_terms": wanted,
        "seed": seed,
        "legality": _legality(items, term_ids, vocabulary, table, once, wanted, shorter, appended),
        "fillers": sum(map(bool, map(filler_terms, items, term_ids))),
        "terms": {
            "distinct": len(vocabulary),
            "used_once": int((uses == 1).sum()),
            "per_item": float(lengths.mean()),
            "positions": [_position(column) for column in table.T if column.any()],
        },
        "prefixes": [int((common < length).sum()) for length in range(1, int(lengths.max()) + 1)],
        "collisions": collided(items, term_ids),
        "agreement": None if neighbors is None else _agreement(once, neighbors, by_id, rng),
        "alignment": aligned,
        "tokens": None if tokens is None else token_lengths(tokens, tokenizer),
        "trie": {"terms": branching(table), "tokens": None if tokens is None else branching(tokens)},
    }


def compare(reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Reports of `measure` side by side: ``{schema, items, sets: {name: report}}``. Raises `ValueError` for no reports, or reports of
    different items, neighbours or tokenizers, whose figures are not comparable."""
    if not reports:
        raise ValueError("There is nothing to compare; pass at least one report of measure, by name.")
    first, one = next(iter(reports.items()))
    for name, report in reports.items():
        if (report["items"], report["items_hash"]) != (one["items"], one["items_hash"]):
            raise ValueError(
                f"{name!r} is measured on {report['items']} items, which are not the {one['items']} of {first!r}. Measure both on the same."
            )
    for part, what in (("agreement", "neighbors_hash"), ("behaviour", "neighbors_hash"), ("tokens", "tokenizer")):
        found = {name: report[part][what] for name, report in reports.items() if report.get(part)}
        if len(set(found.values())) > 1:
            raise ValueError(f"The sets' {part} are measured with different {what}: {found}. Measure all with the same.")
    return {"schema": QUALITY_SCHEMA, "items": one["items"], "sets": dict(reports)}


def check_rows(
    items: Sequence[Item], identifiers: Sequence[Any], neighbors: Neighbors | None, paths: Any, nouns: str, n_terms: int | None = None
) -> None:
    """Raises `ValueError` as `measure` does; `nouns`: what messages call several of the identifiers."""
    if not len(items):
        raise ValueError("There are no items to measure; pass at least one.")
    for name, rows in ((nouns, identifiers), ("token paths", paths)):
        if rows is not None and len(rows) != len(items):
            raise ValueError(f"Found {len(items)} items and {len(rows)} {name}; expected one per item.")
    check_unique(item.item_id for item in items)
    for item, parts in zip(items, identifiers, strict=True):
        if isinstance(parts, str) or not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
            one, part = nouns.removesuffix("s"), "term" if nouns == "Term IDs" else "part"
            raise ValueError(f"The {one} of item {item.item_id!r} is {parts!r}; expected a list of texts, one per {part}.")
    if n_terms is not None and n_terms < 1:
        raise ValueError(f"n_terms must be at least 1; found {n_terms}.")
    if neighbors is None:
        return
    neighbors.check_items(items)
    if not np.isfinite(neighbors.scores[neighbors.indices >= 0]).all():
        raise ValueError("Some neighbours have no finite score; expected cosine similarities. Find the neighbours again: find_neighbors.")


def hash_of(lines: Iterable[str]) -> str:
    """16 hexadecimal digits that name these lines."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:16]


def strangers(n: int, rng: np.random.Generator) -> np.ndarray | None:
    """int64 `[n]`: a random other item for each item, each drawn once; None for a single item."""
    if n < 2:
        return None
    cycle = rng.permutation(n)
    drawn = np.empty_like(cycle)
    drawn[cycle] = np.roll(cycle, -1)
    return drawn


# --- the measures ------------------------------------------------------------------------------------------------------------------


def _legality(
    items: Sequence[Item],
    term_ids: Sequence[Sequence[str]],
    vocabulary: Sequence[str],
    table: np.ndarray,
    once: np.ndarray,
    n_terms: int,
    shorter: bool,
    appended: bool,
) -> dict[str, Any]:
    malformed = np.array([False, *(not term or normalise(term) != term for term in vocabulary)])
    lengths = np.count_nonzero(table, axis=1)
    reasons = {
        "count": (lengths < (1 if shorter else n_terms)) | (lengths > n_terms + appended),
        "form": malformed[table].any(axis=1),
        "repeated": (once != table).any(axis=1),
    }
    illegal = np.any(list(reasons.values()), axis=0)
    examples = [
        {
            "item_id": items[at].item_id,
            "terms": [_shown(term) for term in term_ids[at][: 2 * n_terms]],
            "reasons": [reason for reason, wrong in reasons.items() if wrong[at]],
        }
        for at in np.flatnonzero(illegal)[:_EXAMPLES]
    ]
    counts = {reason: int(wrong.sum()) for reason, wrong in reasons.items()}
    return {"legal": float((~illegal).mean()), "illegal": int(illegal.sum()), **counts, "examples": examples}


def _shown(text: str) -> str:
    """At most one line of the text, in a form that any file can hold."""
    return text[:200].encode("utf-8", "replace").decode()


def _position(column: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(column[column > 0])
    shares = counts[counts > 0] / counts.sum()
    return {"items": int(counts.sum()), "distinct": len(shares), "entropy": max(0.0, float(-(shares * np.log2(shares)).sum()))}


def collided(items: Sequence[Item], term_ids: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The part ``collisions`` of a report."""
    found = collisions([tuple(term_id) for term_id in term_ids])
    groups = sorted(found, key=lambda group: (-len(group), tuple(term_ids[group[0]])))
    sharing = sum(map(len, groups))
    shown = []
    for group in groups[:_GROUPS]:
        titles = [_shown(items[at].title) for at in group[:_TITLES]]
        shown.append({"terms": list(map(_shown, term_ids[group[0]])), "items": len(group), "titles": titles})
    return {
        "distinct": len(items) - sharing + len(groups),
        "groups": len(groups),
        "items": sharing,
        "share": sharing / len(items),
        "largest": max(map(len, groups), default=1),
        "sizes": [list(pair) for pair in sorted(Counter(map(len, groups)).items())],
        "groups_shown": shown,
    }


def _agreement(once: np.ndarray, neighbors: Neighbors, by_id: np.ndarray, rng: np.random.Generator) -> dict[str, Any] | None:
    place = np.argsort(by_id)  # position in `neighbors` → row of `once`
    near = neighbors.indices[by_id]
    row, rank = np.nonzero(near >= 0)
    if not len(row):
        return None
    near = place[near[row, rank]]
    shared = count_shared(once, row, near)
    cosine = neighbors.scores[by_id][row, rank].astype(np.float64)
    drawn = [strangers(len(once), rng) for _ in range(neighbors.indices.shape[1])]
    random = np.mean([count_shared(once, np.arange(len(once)), s).mean() for s in drawn if s is not None])
    bins = np.clip(np.floor(cosine * _BINS + 1e-6), -_BINS, _BINS - 1).astype(int)  # .15 begins a bin, in float32 too
    return {
        "neighbors_hash": hashlib.sha256(np.stack([row, near]).tobytes()).hexdigest()[:16],
        "k": neighbors.indices.shape[1],
        "pairs": len(row),
        "similarity": float(cosine.mean()),
        "shared": float(shared.mean()),
        "random": float(random),
        "over_random": float(shared.mean() - random),
        "spearman": spearman(cosine, shared),
        "by_rank": [
            {"rank": int(r) + 1, "pairs": int((rank == r).sum()), "shared": float(shared[rank == r].mean())} for r in np.unique(rank)
        ],
        "by_similarity": [
            {
                "low": int(b) / _BINS,
                "high": (int(b) + 1) / _BINS,
                "pairs": int((bins == b).sum()),
                "similarity": float(cosine[bins == b].mean()),
                "shared": float(shared[bins == b].mean()),
            }
            for b in np.unique(bins)
        ],
    }


def token_lengths(table: np.ndarray, tokenizer: str) -> dict[str, Any]:
    """The part ``tokens`` of a report."""
    lengths = np.count_nonzero(table, axis=1)
    values, counts = np.unique(lengths, return_counts=True)
    p90, p99 = np.percentile(lengths, (90, 99), method="inverted_cdf").tolist()
    middle = {"mean": float(lengths.mean()), "median": float(np.median(lengths))}
    upper = {"p90": int(p90), "p99": int(p99), "max": int(lengths.max())}
    return {"tokenizer": tokenizer, **middle, **upper, "lengths": np.stack([values, counts], axis=1).tolist()}


def noun_of(reports: Sequence[dict[str, Any]]) -> str:
    """What one identifier of these sets is called."""
    nouns = {report.get("noun", "Term ID") for report in reports}
    return nouns.pop() if len(nouns) == 1 else "identifier"


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
