"""A vocabulary held to a size: against the stated similarity in plain Python, and as properties of random Term IDs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.identifiers.terms import TermID
from grlm_hf.indexing.embedding import tfidf_embedder
from grlm_hf.indexing.vocabulary import Vocabulary, limit_vocabulary

TERMS = ("shampoo", "shampoos", "hair", "hairs", "moisture", "moisturizing", "moist", "gel", "gels", "洗发水", "洗发", "2-in-1")
term_ids = st.lists(st.sampled_from(TERMS), min_size=1, max_size=4, unique=True).map(tuple)
catalogs = st.lists(term_ids, min_size=1, max_size=15)


def similarity(term: str, kept: str, ids: list[TermID], vocabulary: Vocabulary) -> float:
    """As `limit_vocabulary` says it: half the cosine of pieces, half that of company."""

    def pieces(of: str) -> dict[str, float]:
        text = f"^{of}$"
        found = Counter(text[i:j] for i in range(len(text)) for j in range(i + 2, min(i + 4, len(text)) + 1))
        holders = {gram: sum(gram in f"^{k}$" for k in vocabulary.kept) for gram in found}
        return {gram: n * math.log(1 + len(vocabulary.kept) / (holders[gram] or 1)) for gram, n in found.items()}

    def company(of: str) -> dict[str, float]:
        found = Counter(other for tid in ids if of in tid for other in tid if other in vocabulary.kept and other != of)
        uses = {k: sum(k in tid for tid in ids) for k in vocabulary.kept}
        return {other: math.log(1 + n) * math.log(1 + sum(uses.values()) / uses[other]) for other, n in found.items()}

    def cosine(a: dict[str, float], b: dict[str, float]) -> float:
        norms = [math.sqrt(sum(v * v for v in x.values())) for x in (a, b)]
        return sum(v * b.get(name, 0) for name, v in a.items()) / math.prod(norms) if all(norms) else 0.0

    return (cosine(pieces(term), pieces(kept)) + cosine(company(term), company(kept))) / 2


@given(catalogs, st.integers(4, 12))
@settings(max_examples=150, deadline=None)
def test_every_rare_term_goes_to_the_nearest_kept_one(ids: list[TermID], size: int) -> None:
    vocabulary = limit_vocabulary(ids, size).vocabulary
    counts = Counter(term for tid in ids for term in tid)
    assert vocabulary.kept == tuple(sorted(counts, key=lambda term: (-counts[term], term))[:size])
    assert vocabulary.near.keys() == counts.keys() - set(vocabulary.kept)
    for term, near in vocabulary.near.items():
        wanted = {kept: similarity(term, kept, ids, vocabulary) for kept in vocabulary.kept}
        assert len(near) == min(len(vocabulary.kept), 8)
        assert all(math.isclose(value, wanted[kept], abs_tol=2e-6) for kept, value in near)
        assert [value for _, value in near] == sorted((value for _, value in near), reverse=True)
        assert min(value for _, value in near) >= max([0.0, *(wanted[k] for k in wanted.keys() - {k for k, _ in near})]) - 2e-6
        assert vocabulary.mapping[term] == near[0]
    assert list(vocabulary.mapping.values()) == sorted(vocabulary.mapping.values(), key=lambda pair: pair[1])


@given(catalogs, catalogs, st.integers(4, 12))
@settings(max_examples=150, deadline=None)
def test_only_kept_terms_in_their_order_and_none_twice(ids: list[TermID], more: list[TermID], size: int) -> None:
    limited = limit_vocabulary(ids, size)
    vocabulary = limited.vocabulary
    if len(vocabulary.kept) < 4:
        more = [tid[: len(vocabulary.kept)] for tid in more]
    for before, after in zip([*ids, *more], [*limited.term_ids, *vocabulary.apply(more)], strict=True):
        assert len(after) == len(set(after)) == len(before)
        assert set(after) <= set(vocabulary.kept)
        taken = {term for term in before if term in vocabulary.kept}
        for old, new in zip(before, after, strict=True):
            assert new == old if old in vocabulary.kept else new not in taken
            if old in vocabulary.near:  # the nearest that is free
                assert new == next(t for t, _ in vocabulary.near[old] if t not in taken)
            taken.add(new)
    assert limited.n_terms_before == len({term for tid in ids for term in tid})
    assert limited.n_changed == sum(a != b for a, b in zip(ids, limited.term_ids, strict=True))
    assert limited.n_shared_before == sum(ids.count(tid) > 1 for tid in ids)
    assert limited.n_shared == sum(limited.term_ids.count(tid) > 1 for tid in limited.term_ids)
    assert limited.facts["n_terms"] == len(vocabulary.kept)
    if size >= limited.n_terms_before:
        assert limited.facts["mean_similarity"] == limited.n_changed == 0
        assert limited.term_ids == ids


@given(catalogs, catalogs, st.integers(4, 8), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_the_other_new_items_play_a_part(ids: list[TermID], more: list[TermID], size: int, random) -> None:
    vocabulary = limit_vocabulary(ids, size).vocabulary
    assert limit_vocabulary(random.sample(ids, len(ids)), size).vocabulary == vocabulary
    more = [tid[: len(vocabulary.kept)] for tid in more]
    assert vocabulary.apply(more) == [vocabulary.apply([tid])[0] for tid in more]


def test_close_words_and_close_company() -> None:
    ids = [("shampoo", "color"), ("shampoo", "dry"), ("lamp", "led"), ("lamp", "desk"), ("shampoos", "color"), ("lantern", "led")]
    ids = [*ids, ("shampoo", "color"), ("lamp", "led")]
    vocabulary = limit_vocabulary(ids, 4).vocabulary
    assert vocabulary.kept == ("color", "lamp", "led", "shampoo")  # three items each
    assert vocabulary.mapping["shampoos"][0] == "shampoo"
    assert vocabulary.mapping["lantern"][0] == "lamp"
    assert vocabulary.apply([("shampooing", "color"), ("torch", "led")]) == [("shampoo", "color"), ("lamp", "led")]
    assert vocabulary.apply([("shampoos", "shampoo")])[0] == ("lamp", "shampoo")  # the nearest is taken; "amp" is next
    assert vocabulary.apply([("lamp", "lamp")]) == [("lamp", "lamp")]  # a term twice was twice before


def test_by_an_embedder(tmp_path: Path) -> None:
    model = tfidf_embedder(["soft hair", "soft gel", "hair", "gel", "hard gel", "hard"], dim=8)
    ids = [("hair", "gel"), ("hair", "gel"), ("soft", "hard"), ("soft", "hard"), ("soft-hair", "hard-gel")]
    vocabulary = limit_vocabulary(ids, 4, embedder=model).vocabulary
    found = model.encode(["soft hair", "hard gel", *vocabulary.kept]).astype(np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for row, term in enumerate(("soft-hair", "hard-gel")):
        wanted = dict(zip(vocabulary.kept, found[2:] @ found[row], strict=True))
        assert math.isclose(vocabulary.mapping[term][1], max(wanted.values()), abs_tol=1e-5)
        assert math.isclose(wanted[vocabulary.mapping[term][0]], max(wanted.values()), abs_tol=1e-5)
    vocabulary.save(tmp_path / "v.parquet")
    loaded = Vocabulary.load(tmp_path / "v.parquet")
    assert loaded == vocabulary
    assert loaded.apply(ids) == vocabulary.apply(ids)
    assert loaded.apply([("soft-gel",)], embedder=model)[0][0] in {"soft", "gel"}
    with pytest.raises(ValueError, match="1 terms, such as 'soft-gel', are new to this vocabulary"):
        loaded.apply([("soft-gel",)])


@given(catalogs, catalogs, st.integers(4, 12))
@settings(max_examples=10, deadline=None)
def test_saved_and_loaded_it_does_the_same(tmp_path_factory, ids: list[TermID], more: list[TermID], size: int) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "v.parquet"
    vocabulary = limit_vocabulary(ids, size).vocabulary
    vocabulary.save(path)
    first = path.read_bytes()
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    more = [tid[: len(vocabulary.kept)] for tid in more]
    assert loaded.apply(more) == vocabulary.apply(more)
    loaded.save(path)
    assert path.read_bytes() == first


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Term IDs"):
        limit_vocabulary([], 5)
    with pytest.raises(ValueError, match="size is 1; expected at least 2"):
        limit_vocabulary([("a", "b")], 1)
    vocabulary = limit_vocabulary([("a", "b")], 2).vocabulary
    with pytest.raises(ValueError, match="has 3 terms, the vocabulary 2; keep more"):
        vocabulary.apply([("a", "b", "c")])
    with pytest.raises(ValueError, match=r"ends in \.parquet"):
        vocabulary.save(tmp_path / "v.json")
    with pytest.raises(ValueError, match="No file"):
        Vocabulary.load(tmp_path / "none.parquet")
    (tmp_path / "other.csv").write_text("term\na\n")
    with pytest.raises(ValueError, match="is no vocabulary; write one with"):
        Vocabulary.load(tmp_path / "other.csv")
