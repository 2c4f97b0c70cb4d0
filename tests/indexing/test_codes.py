"""Semantic IDs from vectors: quantisers, collisions, new items, vectors of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import History
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.symbols import ATOMIC, CODES, code, numbers, without_symbols
from grlm_hf.identifiers.titles import one_line, written_title
from grlm_hf.indexing.codes import CodesConfig, identify, identify_new
from grlm_hf.indexing.neighbors import NeighborsConfig, find_neighbors
from grlm_hf.indexing.pieces import to_codes
from grlm_hf.indexing.quantizers.fit import fit_codebook
from grlm_hf.indexing.vectors import behaviour_vectors, joined, read_vectors, unit
from grlm_hf.layout import CODEBOOK_FILE
from grlm_hf.modeling.naming import prefix_name
from grlm_hf.stages.codes import codes_catalog, titles_catalog

WORDS = ["lamp", "tent", "soap", "comb", "rope", "boot"]
ITEMS = [Item(f"i{n:03d}", f"{WORDS[n % 6]} {WORDS[n % 6]} model {n % 9} of {WORDS[(n // 6) % 6]}") for n in range(120)]
SMALL = CodesConfig(codes=[8], levels=3, dims=16)


def made(config: CodesConfig = SMALL, items: list[Item] = ITEMS) -> Catalog:
    return codes_catalog(items, config, NeighborsConfig())[0]


def clusters(n: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((8, 12))[np.arange(n) % 8] * 4 + rng.standard_normal((n, 12))).astype(np.float32)


class TestQuantizers:
    @pytest.mark.parametrize("quantizer", ["residual-kmeans", "opq", "pq"])
    def test_codes_name_the_vectors_that_they_came_from(self, quantizer: str) -> None:
        vectors = clusters()
        book = fit_codebook(vectors, CodesConfig(quantizer=quantizer, codes=[16], levels=3, dims=0))  # type: ignore[arg-type]
        codes = book.codes(vectors)
        assert codes.shape == (400, 3)
        assert [len(np.unique(codes[:, level])) for level in range(3)] == [16, 16, 16]
        error = ((book.vectors(codes) - vectors) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()
        assert error < 0.2
        again = fit_codebook(vectors, CodesConfig(quantizer=quantizer, codes=[16], levels=3, dims=0))  # type: ignore[arg-type]
        assert again.hash == book.hash

    def test_each_level_of_residual_codes_leaves_less(self) -> None:
        vectors = clusters()
        book = fit_codebook(vectors, replace(SMALL, dims=0))
        left = [((book.vectors(book.codes(vectors)[:, : n + 1]) - vectors) ** 2).sum() for n in range(3)]
        assert left[0] > left[1] > left[2]

    def test_a_projection_is_part_of_the_codebook(self) -> None:
        vectors = clusters()
        book = fit_codebook(vectors, replace(SMALL, dims=4))
        assert book.tables[0].shape == (8, 4)
        assert book.vectors(book.codes(vectors)).shape == vectors.shape

    def test_random_codes_depend_on_the_id_alone(self) -> None:
        a, b = made(replace(SMALL, quantizer="random")), made(replace(SMALL, quantizer="random"), ITEMS[::-1])
        assert {i.item_id: a.identifier(i.item_id) for i in a} == {i.item_id: b.identifier(i.item_id) for i in b}
        other = made(replace(SMALL, quantizer="random", seed=1))
        assert other.codebook_hash != a.codebook_hash
        assert sum(a.identifier(i.item_id) == other.identifier(i.item_id) for i in ITEMS) < 10

    def test_levels_may_have_their_own_sizes(self) -> None:
        catalog = made(replace(SMALL, codes=[16, 4, 8]))
        assert max(numbers(i)[1] for i in catalog.item_identifiers) < 4
        with pytest.raises(ValueError, match="2 sizes for 3 levels"):
            CodesConfig(codes=[16, 4])
        with pytest.raises(ValueError, match=r"Found 120 items for 256 codes.*Choose fewer codes"):
            made(CodesConfig())

    def test_saved_and_read(self, tmp_path: Path) -> None:
        catalog = made()
        catalog.save_pretrained(tmp_path)
        again = Catalog.from_pretrained(tmp_path)
        assert again == catalog
        assert again.codebook is not None
        assert again.added_tokens() == catalog.added_tokens()
        assert len(again.added_tokens()) == 3 * 8 + 64
        (tmp_path / CODEBOOK_FILE).unlink()
        with pytest.raises(ValueError, match=r"codes of the codebook [0-9a-f]{16}, and there is no catalog.codes beside it"):
            Catalog.from_pretrained(tmp_path)
        made(replace(SMALL, seed=7)).codebook.save(tmp_path / CODEBOOK_FILE)  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="they do not belong together"):
            Catalog.from_pretrained(tmp_path)

    def test_a_changed_codebook_is_refused(self, tmp_path: Path) -> None:
        book = made().codebook
        assert book is not None
        tables = (book.tables[0] + 1, *book.tables[1:])
        object.__setattr__(book, "tables", tables)  # its hash was computed before
        book.save(tmp_path / "x.codes")
        with pytest.raises(ValueError, match="it was changed"):
            Codebook.load(tmp_path / "x.codes")


class TestCollisions:
    def book(self, size: int = 4) -> tuple[Codebook, np.ndarray, list[Item]]:
        """Two levels; all items have the first code 0 and are near the last code 0."""
        first, last = np.zeros((1, 2), np.float32), np.array([[n, 0.0] for n in range(size)], np.float32)
        items = [Item(f"i{n}", "x") for n in range(5)]
        vectors = np.array([[0.1 * n, 0.0] for n in range(5)], np.float32)
        return Codebook("residual", (1, size), (first, last)), vectors, items

    def test_the_nearest_keeps_its_code_and_the_others_move_at_least_cost(self) -> None:
        book, vectors, items = self.book(8)
        found = identify(items, vectors, book)
        assert found[0] == ("a_0", "b_0")
        assert sorted(numbers(i)[1] for i in found) == [0, 1, 2, 3, 4]
        assert [numbers(i)[1] for i in found] == [0, 4, 3, 2, 1] or len(set(found)) == 5

    def test_what_finds_no_free_code_gets_a_digit(self) -> None:
        book, vectors, items = self.book(4)
        found = identify(items, vectors, book)
        assert len(set(found)) == 5
        assert sorted(map(len, found)) == [2, 2, 2, 2, 3]

    def test_digits_and_shared_codes(self) -> None:
        book, vectors, items = self.book(4)
        assert sorted(identify(items, vectors, book, "digit")) == [
            ("a_0", "b_0"), *[("a_0", "b_0", f"c_{n}") for n in range(4)],
        ]  # fmt: skip
        assert set(identify(items, vectors, book, "share")) == {("a_0", "b_0")}

    def test_the_order_of_the_items_does_not_matter(self) -> None:
        a, b = made(), made(items=ITEMS[::-1])
        assert {i.item_id: a.identifier(i.item_id) for i in a} == {i.item_id: b.identifier(i.item_id) for i in b}
        assert len(a.identifiers) == len(a)


class TestNewItems:
    def test_a_new_item_gets_the_codes_of_its_text_and_nobody_moves(self) -> None:

        catalog = made()
        before = dict(zip((i.item_id for i in catalog), catalog.item_identifiers, strict=True))
        new = [Item(f"n{n}", f"{WORDS[n % 6]} {WORDS[n % 6]} model {n % 9} of {WORDS[n % 5]}") for n in range(60)]
        grown = catalog.add(new, identify_new(catalog, new))
        assert {i: grown.identifier(i) for i in before} == before
        assert len(grown.identifiers) == len(grown)
        twin = Item("z", ITEMS[7].title)
        assert identify_new(catalog, [twin])[0][:2] == catalog.identifier(ITEMS[7].item_id)[:2]
        alone = {item.item_id: identify_new(grown, [item])[0] for item in [Item("q", "rope rope lamp")]}
        assert identify_new(grown, [Item("q", "rope rope lamp")])[0] == alone["q"]
        assert grown.remove(i.item_id for i in new) == catalog

    def test_what_gives_no_vector_is_named(self) -> None:

        with pytest.raises(ValueError, match="The text of item 'x' has no word that the codes' encoder knows"):
            identify_new(made(), [Item("x", "zzz")])
        with pytest.raises(
            ValueError, match=r"An atomic id is a token that the model has learnt: a new item gets one with the next training"
        ):
            identify_new(Catalog([Item("a", "a")], [("item_0",)], ATOMIC), [Item("x", "lamp")])


class TestVectors:
    def write(self, path: Path, ids: list[str], vectors: list[object]) -> Path:
        pq.write_table(pa.table({"item_id": ids, "vector": vectors}), path)
        return path

    def test_read_in_the_order_of_the_items_and_of_length_one(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "v.parquet", ["b", "a", "other"], [[0.0, 2.0], [3.0, 4.0], [1.0, 1.0]])
        found = read_vectors(path, [Item("a", "A"), Item("b", "B")])
        assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 1.0]]

    @pytest.mark.parametrize(
        ("ids", "vectors", "message"),
        [
            (["a"], [[1.0]], r"no vector for 1 of 2 items, such as \['b'\]"),
            (["a", "b", "b"], [[1.0], [1.0], [2.0]], "several rows for the item 'b'"),
            (["a", "b"], [[1.0], [1.0, 2.0]], "the same number"),
            (["a", "b"], [[1.0], [float("nan")]], "NaN or infinity, the first of the item 'b'"),
            (["a", "b"], ["x", "y"], "lists of numbers"),
            (["a", "b"], [["x"], ["y"]], "expected numbers"),
            (["a", "b"], [[1.0], None], "the same number"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, ids: list[str], vectors: list[object], message: str) -> None:
        path = self.write(tmp_path / "v.parquet", ids, vectors)
        with pytest.raises(ValueError, match=message):
            read_vectors(path, [Item("a", "A"), Item("b", "B")])

    def test_no_such_file_and_other_columns(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="there is no such file"):
            read_vectors(tmp_path / "no.parquet", [Item("a", "A")])
        pq.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match="columns item_id and vector"):
            read_vectors(tmp_path / "x.parquet", [Item("a", "A")])

    def test_a_cosine_is_the_weighted_mean_of_the_parts(self) -> None:
        rng = np.random.default_rng(0)
        a, b = unit(rng.standard_normal((5, 3))), unit(rng.standard_normal((5, 4)))
        both = joined([a, b], [1.0, 3.0])
        assert both @ both.T == pytest.approx((a @ a.T + 3 * (b @ b.T)) / 4, abs=1e-5)

    def test_items_that_are_bought_together_have_similar_vectors(self) -> None:
        items = [Item(f"i{n}", "x") for n in range(12)]
        rng = np.random.default_rng(0)
        histories = [History(f"u{u}", tuple(f"i{n}" for n in rng.permutation(5) + 5 * (u % 2))) for u in range(40)]
        found = behaviour_vectors(items, histories, 4)
        same, other = found[0] @ found[4], found[0] @ found[5]
        assert same > 0.5 > abs(other)
        assert not found[10:].any()  # never bought

    def test_neighbours_by_vectors_of_ones_own(self, tmp_path: Path) -> None:
        items = [Item(f"i{n}", title) for n, title in enumerate(["red lamp", "red tent", "blue lamp", "blue tent"])]
        path = self.write(tmp_path / "v.parquet", [i.item_id for i in items], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
        alone = find_neighbors(items, 1, config=NeighborsConfig(vectors=[str(path)], texts=False))
        assert [alone.of(n) for n in range(4)] == [[2], [3], [0], [1]]
        assert alone.facts["embedder"] == "v.parquet"
        with pytest.raises(ValueError, match=r"neighbors\.weights has 1 numbers for 0 files"):
            NeighborsConfig(weights=[1.0])
        with pytest.raises(ValueError, match=r"neighbors.texts is false and neighbors.vectors names no file"):
            NeighborsConfig(texts=False)


def test_text_cannot_spell_a_symbol() -> None:
    assert without_symbols("a <b_12><beauty.a_3> < 3 <b>") == "a (b_12)(beauty.a_3) < 3 <b>"
    assert one_line("x <item_3>") == "x (item_3)"
    assert written_title("<a_1> soap") == "(a_1) soap"


def test_codes_of_a_domain_share_no_symbol_with_others() -> None:
    own = made(replace(SMALL, domain="beauty"))
    assert own.item_identifiers[0][0].startswith("beauty.a_")
    assert not set(own.added_tokens()) & set(made().added_tokens())
    with pytest.raises(ValueError, match=r"codes\.domain is 'A B'"):
        CodesConfig(domain="A B")


@pytest.mark.parametrize("parts", [("a_1", "a_2"), ("b_1",), ("a_1", "beauty.b_2"), ("a_01",), ("a_-1",), ("a_1 b_2",), (code(0, 1), "")])
def test_illegal_codes(parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is not a Semantic ID; expected symbols such as those of <a_12><b_3><c_77>"):
        CODES.validate(parts)


def test_titles_are_made_distinct() -> None:
    items = [Item("b", "Soap", "Acme"), Item("a", "Soap", "Best"), Item("c", "Soap", "Acme"), Item("d", "Comb"), Item("e", "Comb")]
    catalog, facts = titles_catalog(items)
    assert [i[0] for i in catalog.item_identifiers] == ["Soap (Acme)", "Soap", "Soap no. 2", "Comb", "Comb no. 2"]
    assert facts["titles_made_distinct"] == 3


def test_of_too_many_items_with_equal_texts_the_rest_share_their_codes() -> None:
    catalog, _ = codes_catalog([Item(f"i{n:03d}", "lamp lamp") for n in range(150)], SMALL, NeighborsConfig())
    assert len(catalog.identifiers) == 8 + 64  # the codes of the last level, and the digits behind one of them
    assert len(catalog.collisions) == 1


def test_a_prefix_is_named_by_category_and_words() -> None:
    items = [Item(f"a{n}", f"Red camping lamp {n}", categories=("Outdoor", "Lamps")) for n in range(6)]
    items += [Item(f"b{n}", f"Red soap {n}", categories=("Beauty",)) for n in range(6)]
    catalog = Catalog(items, [("a_0", f"b_{n}") for n in range(6)] + [("a_1", f"b_{n}") for n in range(6)], CODES)
    assert prefix_name(catalog, ("a_0",)) == "Lamps: camping, lamp"
    assert prefix_name(catalog, ("a_1",)) == "Beauty: soap"
    assert prefix_name(catalog, ("a_1", "b_3")) == "Red soap 3"
    assert prefix_name(catalog, ("a_9",)) == ""


def test_pieces_are_runs_of_codes_and_lead_back_to_them() -> None:
    codes = made()
    catalog, _ = codes_catalog(ITEMS, SMALL, NeighborsConfig(), pieces=130)
    assert catalog.codebook is not None
    assert to_codes(catalog.codebook, catalog.item_identifiers) == list(codes.item_identifiers)
    lengths = [len(i) for i in catalog.item_identifiers]
    assert min(lengths) < 3 == max(lengths)
    assert len(catalog.identifiers) == len(catalog)
    assert set(catalog.scheme.added_tokens(catalog.identifiers)) <= set(catalog.added_tokens())
    new = [Item(f"n{n}", f"{WORDS[n % 6]} {WORDS[n % 5]} model {n}") for n in range(30)]
    grown = catalog.add(new, identify_new(catalog, new))
    assert grown.item_identifiers[: len(catalog)] == catalog.item_identifiers
    assert len(grown.identifiers) == len(grown)
    assert to_codes(catalog.codebook, identify_new(catalog, new)) == identify_new(codes, new)
    assert codes_catalog(ITEMS[::-1], SMALL, NeighborsConfig(), pieces=130)[0].codebook_hash == catalog.codebook_hash != codes.codebook_hash
    with pytest.raises(ValueError, match=r"identifier\.pieces is 50; expected at least 88"):
        codes_catalog(ITEMS, SMALL, NeighborsConfig(), pieces=50)
