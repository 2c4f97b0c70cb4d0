"""A vocabulary of terms with a limited size: the most frequent terms stay, each rarer one is replaced by the nearest of them. The paper
went from 54 k to 3 k terms and lost less than 1 % (GRLM, arXiv 2601.06798). Fewer terms mean more examples per term, and more items that
share an identifier, which `grlm_hf.indexing.collisions.resolve` then separates."""

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

from grlm_hf.data.items import Item
from grlm_hf.files import rows_to_dataset, write_parquet
from grlm_hf.identifiers.terms import TermID
from grlm_hf.indexing.embedding import embed
from grlm_hf.progress import progress
from grlm_hf.tables.rows import read_rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

VOCABULARY_SCHEMA = 1
_SCHEMA_KEY = b"grlm_vocabulary_schema"
_GRAMS = (2, 3, 4)  # lengths of the compared letter n-grams
_SPARE = 8  # nearest terms stored per term (at least an item's terms), so that the item lacks one of them
_PROGRESS_FROM = 10_000  # terms; fewer take too little time for a progress bar

Near = tuple[tuple[str, float], ...]
"""Kept terms with their similarity, nearest first; ties by frequency."""


@dataclass(frozen=True)
class Vocabulary:
    """The kept terms, and the replacements of all others. Made by `limit_vocabulary`."""

    kept: tuple[str, ...]  # most frequent first; ties in alphabetical order
    uses: tuple[int, ...]  # number of items with each kept term
    company: tuple[Mapping[str, int], ...]  # for each kept term the other kept terms of its items → number of items with both
    near: Mapping[str, Near]  # each removed term → the nearest kept terms
    embedded: bool = False  # whether an embedder measured the similarity

    @property
    def mapping(self) -> dict[str, tuple[str, float]]:
        """Each removed term → the kept term that replaces it, and their similarity in [-1, 1]; the least similar first."""
        found = {term: near[0] for term, near in self.near.items()}
        return dict(sorted(found.items(), key=lambda pair: (pair[1][1], pair[0])))

    def apply(self, term_ids: Sequence[TermID], embedder: SentenceTransformer | str | None = None) -> list[TermID]:
        """Term IDs with kept terms only, each of the same length.

        Kept terms stay. Each other term, the most important first, is replaced by the nearest kept term that the item does not have yet.
        A term unknown to the vocabulary is compared by the same rule, with that item's kept terms as its company, and needs the embedder
        given to `limit_vocabulary`, if any. So the result depends only on the Term ID and the vocabulary.

        Raises `ValueError` when a Term ID has more terms than the vocabulary, or an embedder is missing.
        """
        kept = set(self.kept)
        for term_id in term_ids:
            if len(term_id) > len(kept):
                raise ValueError(f"{list(term_id)} has {len(term_id)} terms, the vocabulary {len(kept)}; keep more terms.")
        unseen = {term for term_id in term_ids for term in term_id} - kept - self.near.keys()
        found: dict[tuple[str, tuple[str, ...]], Near] = {}
        if unseen and self.embedded:
            if embedder is None:
                raise ValueError(
                    f"{len(unseen)} terms, such as {min(unseen)!r}, are new to this vocabulary, which needs its embedder for them; pass it."
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
                    # If all the nearest are taken (by a longer Term ID than any before), the most frequent free term.
                    term = next(t for t in itertools.chain((t for t, _ in near(term, company)), self.kept) if t not in taken)
                    taken.add(term)
                terms.append(term)
            limited.append(tuple(terms))
        return limited

    @property
    def _depth(self) -> int:
        return max(map(len, self.near.values()), default=_SPARE)

    @cached_property
    def _space(self) -> _Space:
        return _Space(self.kept, self.uses, self.company)

    def save(self, path: str | Path) -> None:
        """Writes one parquet file atomically, one row per term: `term`, `uses` (0 for removed terms), and the lists `company`,
        `company_uses`, `near`, `similarity`."""
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
        """Reads what `save` wrote. Raises `ValueError` for any other file, or one from a newer grlm-hf."""
        rows = [row for _, row in read_rows(path)]
        import pyarrow.parquet as pq

        metadata = pq.read_schema(path).metadata or {} if str(path).endswith(".parquet") else {}
        version = metadata.get(_SCHEMA_KEY, b"").decode()
        if not version.isdigit():
            raise ValueError(f"{path} is no vocabulary; write one with Vocabulary.save, as a .parquet file.")
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
    """The result of `limit_vocabulary`."""

    term_ids: list[TermID]  # with kept terms only
    vocabulary: Vocabulary
    n_terms_before: int  # different terms
    n_changed: int  # items with at least one replaced term
    n_shared_before: int  # items that share their Term ID with another item
    n_shared: int

    @property
    def facts(self) -> dict[str, int | float]:
        """The counts as plain values, for JSON. `mean_similarity`: of removed terms to their replacements."""
        similarities = [similarity for _, similarity in self.vocabulary.mapping.values()]
        counts = {"n_terms_before": self.n_terms_before, "n_terms": len(self.vocabulary.kept), "n_changed": self.n_changed}
        shared = {"n_shared_before": self.n_shared_before, "n_shared": self.n_shared}
        return {**counts, **shared, "mean_similarity": round(math.fsum(similarities) / max(1, len(similarities)), 6)}


def limit_vocabulary(term_ids: Sequence[TermID], size: int, embedder: SentenceTransformer | str | None = None) -> Limited:
    """Keeps the `size` most frequent terms and replaces every other term by the nearest of them (`Vocabulary.apply`).

    The similarity of a removed term to a kept one, in [0, 1], is the mean of two cosines: of their letter n-grams of length 2 to 4
    (``^sham``, ``hamp``, …; rare ones weigh more), and of their company, the kept terms in the same items, weighted by
    ln(1 + items with both) · ln(1 + items / items with the company). With an embedder it is the cosine of the terms' embeddings, with
    hyphens read as spaces. The search is exact; ties by frequency, then alphabet. Deterministic; the order of the items does not matter.

    Raises `ValueError` for no Term IDs, or a size below the length of a Term ID.
    """
    if not term_ids:
        raise ValueError("There are no Term IDs; pass at least one.")
    longest = max(map(len, term_ids))
    if size < longest:
        raise ValueError(f"size is {size}; expected at least {longest}, the length of one Term ID.")
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
        bar = progress(rare, desc="terms", unit="term", disable=len(rare) < _PROGRESS_FROM)
        near = {term: space.nearest(term, company[term], depth) for term in bar}
    vocabulary = Vocabulary(kept, uses, together, near, embedder is not None)
    limited = vocabulary.apply(term_ids)
    changed = sum(before != after for before, after in zip(term_ids, limited, strict=True))
    return Limited(limited, vocabulary, len(counts), changed, _shared(term_ids), _shared(limited))


def _shared(term_ids: Iterable[TermID]) -> int:
    return sum(n for n in Counter(term_ids).values() if n > 1)


class _Space:
    """Inverted index of the kept terms' sparse vectors: letter n-grams and company."""

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
    """Letter n-grams of length 2 to 4, with both ends marked."""
    text = f"^{term}$"
    return [text[at : at + n] for n in _GRAMS for at in range(len(text) - n + 1)]


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(math.fsum(value * value for value in vector.values()))
    return {name: value / length for name, value in vector.items()}


def _index(vectors: Iterable[Mapping[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Feature → the rows with it, int64, and their values, float64."""
    found: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, vector in enumerate(vectors):
        for name, value in vector.items():
            found[name].append((row, value))
    return {name: (np.array([row for row, _ in held]), np.array([value for _, value in held])) for name, held in found.items()}


def _best(scores: np.ndarray, kept: Sequence[str], depth: int) -> Near:
    scores = np.round(scores, 6)  # values that differ by rounding only are ties, in the order of `kept`
    return tuple((kept[at], float(scores[at])) for at in np.argsort(-scores, kind="stable")[:depth])


def _nearest_embedded(terms: Sequence[str], kept: Sequence[str], embedder: SentenceTransformer | str, depth: int) -> dict[str, Near]:
    if not terms:
        return {}
    vectors = np.asarray(embed([Item(term, term.replace("-", " ")) for term in (*kept, *terms)], embedder), dtype=np.float64)
    return {term: _best(vectors[: len(kept)] @ vector, kept, depth) for term, vector in zip(terms, vectors[len(kept) :], strict=True)}
