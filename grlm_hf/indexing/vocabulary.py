"""A vocabulary of terms held to a size: the most used terms stay, each rarer one gives way to the nearest of those.

The paper went from 54 k to 3 k terms and lost less than 1 % (GRLM, arXiv 2601.06798). Fewer terms mean more examples of each, and more
items that share one: `grlm_hf.indexing.collisions.resolve` comes after.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from grlm_hf.data.items import Item
from grlm_hf.files import read_rows, rows_to_dataset, write_parquet
from grlm_hf.identifiers.terms import TermID
from grlm_hf.indexing.embedding import embed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

VOCABULARY_SCHEMA = 1
_SCHEMA_KEY = b"grlm_vocabulary_schema"
_GRAMS = (2, 3, 4)  # letters of the pieces of a term that are compared
_SPARE = 8  # nearest terms kept of each, or as many as an item's terms, so that one is left that the item has not yet
_PROGRESS_FROM = 10_000  # terms; below that, it is over before a bar is read

Near = tuple[tuple[str, float], ...]
"""Kept terms with their similarity, nearest first; of equals the more used first."""


@dataclass(frozen=True)
class Vocabulary:
    """The terms that are kept, and where each other one goes. Made by `limit_vocabulary`.

    Attributes:
        kept: the terms kept, most used first; of equals the first by letters.
        uses: how many items have each of them.
        company: for each of them the other kept terms of its items → how many items have both.
        near: each term left out → the nearest kept ones.
        embedded: whether nearness is that of an embedder.
    """

    kept: tuple[str, ...]
    uses: tuple[int, ...]
    company: tuple[Mapping[str, int], ...]
    near: Mapping[str, Near]
    embedded: bool = False

    @property
    def mapping(self) -> dict[str, tuple[str, float]]:
        """Each term left out → the kept term that takes its place, and their similarity in [-1, 1]; the least similar first."""
        found = {term: near[0] for term, near in self.near.items()}
        return dict(sorted(found.items(), key=lambda pair: (pair[1][1], pair[0])))

    def apply(self, term_ids: Sequence[TermID], embedder: SentenceTransformer | str | None = None) -> list[TermID]:
        """Term IDs in kept terms only, each as long as before and in the same order.

        Kept terms stay. Each other one, the most important first, becomes the nearest kept term that the item has not yet: no
        term is put in twice. A term that
        the vocabulary has not seen is compared by the same rule, its company being that item's kept terms; so what becomes of a Term ID
        depends on it and on the vocabulary alone.

        Args:
            term_ids: of any items, terms in normal form.
            embedder: the one given to `limit_vocabulary`, needed for terms not seen there.

        Raises `ValueError` when a Term ID has more terms than are kept, or an embedder is missing.
        """
        kept = set(self.kept)
        for term_id in term_ids:
            if len(term_id) > len(kept):
                raise ValueError(f"{list(term_id)} has {len(term_id)} terms, the vocabulary {len(kept)}; keep more.")
        unseen = {term for term_id in term_ids for term in term_id} - kept - self.near.keys()
        found: dict[tuple[str, tuple[str, ...]], Near] = {}
        if unseen and self.embedded:
            if embedder is None:
                raise ValueError(
                    f"{len(unseen)} terms, such as {min(unseen)!r}, are new to this vocabulary, which compares by an embedder; pass it."
                )
            embedded = _nearest_embedded(sorted(unseen), self.kept, embedder, self._depth)
            found = {(term, ()): nearest for term, nearest in embedded.items()}

        def near(term: str, company: tuple[str, ...]) -> Near:
            if term in self.near:
                return self.near[term]
            key = (term, () if self.embedded else company)
            if key not in found:
                found[key] = self._space.nearest(term, Counter(company), self._depth)
            return found[key]

        limited = []
        for term_id in term_ids:
            company = tuple(term for term in term_id if term in kept)
            taken = set(company)
            terms = []
            for term in term_id:
                if term not in kept:
                    # Where all the nearest are taken, which takes a longer Term ID than any before, the most used.
                    term = next(t for t in itertools.chain((t for t, _ in near(term, company)), self.kept) if t not in taken)
                    taken.add(term)
                terms.append(term)
            limited.append(tuple(terms))
        return limited

    @property
    def _depth(self) -> int:
        return max((len(near) for near in self.near.values()), default=_SPARE)

    @cached_property
    def _space(self) -> _Space:
        return _Space(self.kept, self.uses, self.company)

    def save(self, path: str | Path) -> None:
        """Writes one parquet file (atomically), one row a term: `term`, `uses` (0 of those left out), `company`, `company_uses`,
        `near`, `similarity` (lists)."""
        if not str(path).endswith(".parquet"):
            raise ValueError(f"A vocabulary is saved as parquet; found {path}, expected a name that ends in .parquet.")
        from datasets import Features, List, Value

        text, texts = Value("string"), List(Value("string"))
        columns = {"term": text, "uses": Value("int64"), "company": texts, "company_uses": List(Value("int64"))}
        rows = [
            {"term": term, "uses": uses, "company": list(company), "company_uses": list(company.values()), "near": [], "similarity": []}
            for term, uses, company in zip(self.kept, self.uses, self.company, strict=True)
        ] + [
            {"term": term, "uses": 0, "company": [], "company_uses": [], "near": [t for t, _ in near], "similarity": [s for _, s in near]}
            for term, near in self.near.items()
        ]
        table = rows_to_dataset(rows, Features({**columns, "near": texts, "similarity": List(Value("float64"))}))
        write_parquet(table, path, {_SCHEMA_KEY: str(VOCABULARY_SCHEMA).encode(), b"grlm_embedded": str(self.embedded).encode()})

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Reads what `save` wrote. Raises `ValueError` for another file, or one of a newer grlm-hf."""
        rows = [row for _, row in read_rows(path)]
        import pyarrow.parquet as pq

        metadata = pq.read_schema(path).metadata or {} if str(path).endswith(".parquet") else {}
        version = metadata.get(_SCHEMA_KEY, b"").decode()
        if not version.isdigit():
            raise ValueError(f"{path} holds no vocabulary; write one with Vocabulary.save, as a .parquet file.")
        if int(version) > VOCABULARY_SCHEMA:
            raise ValueError(f"{path} has vocabulary schema {version}; this grlm-hf reads up to {VOCABULARY_SCHEMA}. Upgrade grlm-hf.")
        kept = [row for row in rows if row["uses"]]
        return cls(
            tuple(row["term"] for row in kept),
            tuple(row["uses"] for row in kept),
            tuple(dict(zip(row["company"], row["company_uses"], strict=True)) for row in kept),
            {row["term"]: tuple(zip(row["near"], row["similarity"], strict=True)) for row in rows if not row["uses"]},
            metadata.get(b"grlm_embedded") == b"True",
        )


@dataclass(frozen=True)
class Limited:
    """What `limit_vocabulary` made.

    Attributes:
        term_ids: one an item, in kept terms.
        vocabulary: the terms kept, and the mapping of the others.
        n_terms_before: different terms there were.
        n_changed: items with at least one other term than before.
        n_shared_before, n_shared: items that share their Term ID with another.
    """

    term_ids: list[TermID]
    vocabulary: Vocabulary
    n_terms_before: int
    n_changed: int
    n_shared_before: int
    n_shared: int

    @property
    def facts(self) -> dict[str, int | float]:
        """The counts as plain values, for JSON; `mean_similarity` is that of the terms left out to those that take their place."""
        similarities = [similarity for _, similarity in self.vocabulary.mapping.values()]
        return {
            "n_terms_before": self.n_terms_before,
            "n_terms": len(self.vocabulary.kept),
            "n_changed": self.n_changed,
            "n_shared_before": self.n_shared_before,
            "n_shared": self.n_shared,
            "mean_similarity": round(math.fsum(similarities) / max(1, len(similarities)), 6),
        }


def limit_vocabulary(term_ids: Sequence[TermID], size: int, embedder: SentenceTransformer | str | None = None) -> Limited:
    """Keeps the `size` terms that most items use and puts the nearest of them in the place of every other (`Vocabulary.apply`).

    Nearness of a term left out to one kept, in [0, 1]: half the cosine of their pieces of 2 to 4 letters (``^sham``, ``hamp``, …; rare
    pieces weigh more), half that of their company: the kept terms in the same items, ln(1 + items with both) · ln(1 + items / items
    with the company). With an embedder, the cosine of the terms' embeddings instead, hyphens read as spaces. The search is exact; equal
    ones by uses, then letters. Deterministic; the order of the items plays no part.

    Args:
        term_ids: one an item, terms in normal form.
        size: terms to keep, at least as many as a Term ID has; with as many as there are, nothing changes.
        embedder: a `SentenceTransformer`, or the name or folder of one.

    Raises `ValueError` for no Term IDs or too small a size.
    """
    if not term_ids:
        raise ValueError("There are no Term IDs; pass at least one.")
    longest = max(map(len, term_ids))
    if size < longest:
        raise ValueError(f"size is {size}; expected at least {longest}, the terms of one item.")
    counts = Counter(term for term_id in term_ids for term in set(term_id))
    ranked = sorted(counts, key=lambda term: (-counts[term], term))
    kept, rare = tuple(ranked[:size]), sorted(ranked[size:])
    known = set(kept)
    company: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for term_id in term_ids:
        for term in term_id:
            company[term].update(other for other in term_id if other in known and other != term)
    together = tuple(dict(sorted(company[term].items())) for term in kept)
    uses, depth = tuple(counts[term] for term in kept), min(size, max(_SPARE, longest))
    if embedder is not None:
        near = _nearest_embedded(rare, kept, embedder, depth)
    else:
        space = _Space(kept, uses, together)
        bar = tqdm(rare, desc="terms", unit="term", disable=len(rare) < _PROGRESS_FROM)
        near = {term: space.nearest(term, company[term], depth) for term in bar}
    vocabulary = Vocabulary(kept, uses, together, near, embedder is not None)
    limited = vocabulary.apply(term_ids)
    changed = sum(before != after for before, after in zip(term_ids, limited, strict=True))
    return Limited(limited, vocabulary, len(counts), changed, _shared(term_ids), _shared(limited))


def _shared(term_ids: Iterable[TermID]) -> int:
    return sum(n for n in Counter(term_ids).values() if n > 1)


class _Space:
    """The kept terms as sparse vectors of pieces and of company, indexed by what they hold."""

    def __init__(self, kept: Sequence[str], uses: Sequence[int], company: Sequence[Mapping[str, int]]):
        self.kept = kept
        held = Counter(gram for term in kept for gram in set(_grams(term)))
        self._rarity = {gram: math.log(1 + len(kept) / n) for gram, n in held.items()}
        total = sum(uses)
        self._weight = {term: math.log(1 + total / n) for term, n in zip(kept, uses, strict=True)}
        self._pieces = _index(self._of_pieces(term) for term in kept)
        self._company = _index(self._of_company(with_) for with_ in company)

    def _of_pieces(self, term: str) -> dict[str, float]:
        return _unit({gram: n * self._rarity.get(gram, math.log(1 + len(self.kept))) for gram, n in Counter(_grams(term)).items()})

    def _of_company(self, company: Mapping[str, int]) -> dict[str, float]:
        return _unit({term: math.log1p(company[term]) * self._weight[term] for term in sorted(company)})

    def nearest(self, term: str, company: Mapping[str, int], depth: int) -> Near:
        """The `depth` nearest kept terms."""
        scores = np.zeros(len(self.kept))
        for vector, index in ((self._of_pieces(term), self._pieces), (self._of_company(company), self._company)):
            for name, weight in vector.items():
                if name in index:
                    rows, weights = index[name]
                    scores[rows] += 0.5 * weight * weights
        return _best(scores, self.kept, depth)


def _grams(term: str) -> list[str]:
    """Its pieces of 2 to 4 letters, in reading order, with its ends marked."""
    text = f"^{term}$"
    return [text[at : at + n] for n in _GRAMS for at in range(len(text) - n + 1)]


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(math.fsum(value * value for value in vector.values()))
    return {name: value / length for name, value in vector.items()}


def _index(vectors: Iterable[Mapping[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What vectors hold → the rows that hold it, int64, and their values, float64."""
    found: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, vector in enumerate(vectors):
        for name, value in vector.items():
            found[name].append((row, value))
    return {name: (np.array([row for row, _ in held]), np.array([value for _, value in held])) for name, held in found.items()}


def _best(scores: np.ndarray, kept: Sequence[str], depth: int) -> Near:
    scores = np.round(scores, 6)  # what differs by rounding alone is equal, and falls in the order of `kept`
    return tuple((kept[at], float(scores[at])) for at in np.argsort(-scores, kind="stable")[:depth])


def _nearest_embedded(terms: Sequence[str], kept: Sequence[str], embedder: SentenceTransformer | str, depth: int) -> dict[str, Near]:
    if not terms:
        return {}
    vectors = np.asarray(embed([Item(term, term.replace("-", " ")) for term in (*kept, *terms)], embedder), dtype=np.float64)
    return {term: _best(vectors[: len(kept)] @ vector, kept, depth) for term, vector in zip(terms, vectors[len(kept) :], strict=True)}
