"""Quality of identifiers of symbols (Semantic IDs, atomic ids, pieces) and of titles: collisions, use of the codes, agreement of the first
codes with neighbours, what the codes keep of a vector. None of these predicts how well a model recommends; they show what went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.items import Item
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.identifiers.symbols import CODES, PIECES, numbers
from grlm_hf.indexing.codes import encoder_of
from grlm_hf.indexing.quality.codes import branching, sort_rows, spearman, to_table
from grlm_hf.indexing.quality.measure import check_rows, collided, hash_of, strangers, token_lengths
from grlm_hf.indexing.vectors import joined

if TYPE_CHECKING:
    from grlm_hf.indexing.neighbors import Neighbors


def measure_symbols(
    items: Sequence[Item],
    identifiers: Sequence[Identifier],
    neighbors: Neighbors | None = None,
    *,
    scheme: Scheme = CODES,
    codebook: Codebook | None = None,
    behaviour: Neighbors | None = None,
    paths: Sequence[Sequence[int]] | None = None,
    tokenizer: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """All measures of one set of identifiers, JSON-ready, for `grlm_hf.indexing.quality.measure.compare` beside reports of `measure`.

    Args:
        neighbors: of these items in this order by text, for `agreement`.
        codebook: states the number of codes at each level, and gives `reconstruction`.
        behaviour: as `neighbors`, by what people take together.
        paths: each item's identifier as token ids, for `tokens` and the trie of tokens; `tokenizer`: its name.
        seed: for the random pairs.

    Returns:
        - ``scheme`` and ``noun``: the kind of identifier.
        - ``collisions``: as in `measure`, and the ``rate`` (items − distinct identifiers) / items.
        - ``levels`` (empty for titles and atomic ids): for each level the number of ``items`` that have it, the codes ``used``, ``of`` how
          many (by the codebook; without one the highest number + 1), ``dead`` ones,
          ``perplexity`` (2 to the entropy in bits, at most ``of``), and
          ``gini`` of the use of all codes in [0, 1] (0: all alike).
        - ``prefixes``: distinct prefixes of length 1, 2, … (a shorter identifier counts whole).
        - ``agreement`` and ``behaviour`` (None without pairs): share of the pairs of an item and a neighbour with the ``same`` first 1, 2,
          … parts, and of ``random`` pairs; ``spearman`` between cosine and length of the common prefix (None if one is constant).
        - ``reconstruction`` (None without a codebook that encodes texts by TF-IDF, and for vectors that are not of the text alone):
          squared error of the vectors that the first 1, 2, … codes decode to, relative to the variance (1: they say nothing of an item);
          codes that describe parts of a vector have one figure, of all codes.
        - ``tokens`` and ``trie`` (of the ``parts`` and of the ``tokens``): as in `measure`.

    The order of the items does not matter. Raises ``ValueError`` as `measure` does.
    """
    for near in (neighbors, behaviour):
        check_rows(items, identifiers, near, paths, f"{scheme.noun}s")
    codebook = codebook if scheme is CODES else None
    by_id = np.array(sorted(range(len(items)), key=lambda at: items[at].item_id))
    items, identifiers = [items[at] for at in by_id], [tuple(identifiers[at]) for at in by_id]
    code: dict[str, int] = {}
    table = to_table([[code.setdefault(part, len(code)) for part in identifier] for identifier in identifiers])
    tokens = None if paths is None else to_table([paths[at] for at in by_id])
    rng = np.random.default_rng(seed)
    common, longest = sort_rows(table)[1], int(np.count_nonzero(table, axis=1).max())
    shared = collided(items, identifiers)
    return {
        "items": len(items),
        "items_hash": hash_of(item.item_id for item in items),
        "scheme": scheme.name,
        "noun": scheme.noun,
        "seed": seed,
        "collisions": {**shared, "rate": 1 - shared["distinct"] / len(items)},
        "levels": _levels(identifiers, codebook) if scheme in (CODES, PIECES) else [],
        "prefixes": [int((common < length).sum()) for length in range(1, longest + 1)],
        "agreement": None if neighbors is None else _agreement(table, neighbors, by_id, rng),
        "behaviour": None if behaviour is None else _agreement(table, behaviour, by_id, rng),
        "reconstruction": None if codebook is None else reconstruction(codebook, items, identifiers),
        "tokens": None if tokens is None else token_lengths(tokens, tokenizer),
        "trie": {"parts": branching(table), "tokens": None if tokens is None else branching(tokens)},
    }


def _levels(identifiers: Sequence[Identifier], codebook: Codebook | None) -> list[dict[str, Any]]:
    found = []
    table = to_table([numbers(identifier) for identifier in identifiers])
    sizes = dict(enumerate(codebook.sizes)) if codebook else {}
    for level, column in enumerate(table.T):
        uses = np.bincount(column[column > 0] - 1)
        of = max(sizes.get(level, 0), len(uses))
        shares = uses[uses > 0] / uses.sum()
        found.append({
            "level": level + 1, "items": int(uses.sum()), "used": len(shares), "of": of, "dead": of - len(shares),
            "perplexity": float(np.exp(-(shares * np.log(shares)).sum())), "gini": _gini(np.pad(uses, (0, of - len(uses)))),
        })  # fmt: skip
    return found


def _gini(uses: np.ndarray) -> float:
    """The Gini coefficient of counts that are not all zero: the mean difference of two of them relative to twice their mean."""
    ranks = np.arange(1, len(uses) + 1)
    return float(((2 * ranks - len(uses) - 1) * np.sort(uses)).sum() / (len(uses) * uses.sum()))


def _agreement(table: np.ndarray, near: Neighbors, by_id: np.ndarray, rng: np.random.Generator) -> dict[str, Any] | None:
    row, rank = np.nonzero(near.indices[by_id] >= 0)
    if not len(row):
        return None
    other = np.argsort(by_id)[near.indices[by_id][row, rank]]
    cosine = near.scores[by_id][row, rank].astype(np.float64)
    prefix = _common(table, row, other)
    drawn = [s for _ in range(near.indices.shape[1]) if (s := strangers(len(table), rng)) is not None]
    by_chance = np.concatenate([_common(table, np.arange(len(table)), s) for s in drawn])
    lengths = range(1, table.shape[1] + 1)
    return {
        "neighbors_hash": hashlib.sha256(np.stack([row, other]).tobytes()).hexdigest()[:16],
        "k": near.indices.shape[1],
        "pairs": len(row),
        "similarity": float(cosine.mean()),
        "same": [float((prefix >= length).mean()) for length in lengths],
        "random": [float((by_chance >= length).mean()) for length in lengths],
        "spearman": spearman(cosine, prefix),
    }


def _common(table: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 `[n_pairs]`: the number of first codes that two rows share."""
    same = (table[left] == table[right]) & (table[left] > 0)
    return np.cumprod(same, axis=1, dtype=np.int64).sum(axis=1)


def reconstruction(codebook: Codebook, items: Sequence[Item], identifiers: Sequence[Identifier]) -> list[float] | None:
    """The relative squared errors of `measure_symbols`, or None. The text encoder is the codebook's own; a language model's embeddings are
    not computed again for this."""
    about, rows = codebook.facts.get("vectors") or {}, codebook.source.get("rows")
    if codebook.structure == "random" or rows is None or len(about.get("dims", ())) != 1:
        return None
    vectors = joined([encoder_of(codebook)(items)], about["weights"])
    codes = np.array([numbers(identifier[: len(codebook.sizes)]) for identifier in identifiers])
    variance = float(((vectors - vectors.mean(0)) ** 2).sum())
    lengths = range(1, len(codebook.sizes) + 1) if codebook.structure == "residual" else [len(codebook.sizes)]
    return [float(((codebook.vectors(codes[:, :n]) - vectors) ** 2).sum() / variance) for n in lengths] if variance else None


def stability(sets: Mapping[str, tuple[Sequence[Identifier], Codebook | None]]) -> list[dict[str, Any]]:
    """How alike two codebooks of the same settings group the items: for each pair of `sets`, Semantic IDs of the same items in the same
    order, with as many codes a level, the adjusted Rand indices ``same`` of the groups by the first 1, 2, … codes, but not by all
    (1: the same groups, 0: as by chance)."""
    found, names = [], list(sets)
    for n, one in enumerate(names):
        for two in names[n + 1 :]:
            (a, first), (b, second) = sets[one], sets[two]
            known = first.sizes == second.sizes if first and second else max(map(len, a)) == max(map(len, b))
            if known:
                depth = min(max(map(len, a)), max(map(len, b)))
                found.append({"sets": [one, two], "same": [adjusted_rand(_groups(a, k), _groups(b, k)) for k in range(1, max(2, depth))]})
    return found


def _groups(identifiers: Sequence[Identifier], length: int) -> np.ndarray:
    group: dict[Identifier, int] = {}
    return np.array([group.setdefault(tuple(identifier[:length]), len(group)) for identifier in identifiers])


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two groupings int `[n]` of the same items on which pairs are together, corrected for chance (Hubert and Arabie, 1985):
    1 for equal groupings, 0 on average for independent ones."""

    def pairs(counts: np.ndarray) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    both = np.unique(np.stack([a, b]), axis=1, return_counts=True)[1]
    together, in_a, in_b = pairs(both), pairs(np.bincount(a)), pairs(np.bincount(b))
    by_chance = in_a * in_b / max(1.0, len(a) * (len(a) - 1) / 2)
    most = (in_a + in_b) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)
