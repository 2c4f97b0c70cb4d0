"""Term extraction without a language model: legality on any text, shared and distinguishing words, independence of any order."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.terms import TermID, normalise, parse, render
from grlm_hf.indexing.collisions import resolve
from grlm_hf.indexing.embedding import embed, item_text, tfidf_embedder
from grlm_hf.indexing.extract import Extractor, TermExtender, extract_terms
from grlm_hf.indexing.neighbors import Neighbors, find_neighbors
from grlm_hf.indexing.quality.measure import measure
from grlm_hf.indexing.words import FILLERS, STOP_WORDS, filler_terms, words

HAIR, NAILS = ("Beauty", "Hair Care", "Shampoos"), ("Beauty", "Makeup", "Nails", "Nail Polish")
SCENTS = ("Lavender", "Mint", "Coconut", "Rose", "Argan", "Honey")
ITEMS = [
    *(Item(f"s{n}", f"Acme Shampoo with Keratin, {scent}, {8 + n} oz (Pack of 2)", "Acme Inc.", HAIR) for n, scent in enumerate(SCENTS)),
    *(Item(f"n{n}", f"{scent} Glow Nail Polish, Glossy 0.{n} Fl Oz", "", NAILS) for n, scent in enumerate(SCENTS)),
]


def neighbors_by_words(items: Sequence[Item], k: int = 5) -> Neighbors:
    """The neighbours by shared title and category words, brute force; equal ones by item id."""
    texts = [set(words(" ".join((item.title, *item.categories)))) for item in items]
    indices = np.full((len(items), k), -1, np.int32)
    for row, text in enumerate(texts):
        ranked = sorted((-len(text & texts[at]), items[at].item_id, at) for at in range(len(items)) if at != row)
        best = [at for overlap, _, at in ranked if overlap < 0][:k]
        indices[row, : len(best)] = best
    return Neighbors(tuple(item.item_id for item in items), indices, np.where(indices < 0, -np.inf, 0.5).astype(np.float32))


def extract(items: Sequence[Item], n_terms: int = 5) -> list[TermID]:
    return extract_terms(items, neighbors_by_words(items), n_terms)


def assert_legal(term_ids: Sequence[TermID], n_terms: int = 5) -> None:
    for term_id in term_ids:
        assert 1 <= len(term_id) == len(set(term_id)) <= n_terms, term_id  # as many as the text gives
        assert all(term and normalise(term) == term for term in term_id), term_id
        assert parse(render(term_id)) == term_id


def test_type_first_shared_words_then_what_tells_apart_and_the_brand_last() -> None:
    term_ids = extract(ITEMS)
    assert_legal(term_ids)
    for term_id, scent in zip(term_ids, (*SCENTS, *SCENTS), strict=True):
        assert scent.lower() in term_id[2:]
    assert {term_id[0] for term_id in term_ids[:6]} == {"shampoo"}
    assert {term_id[0] for term_id in term_ids[6:]} == {"nail-polish"}
    assert all("keratin" in term_id[1:3] and term_id[-1] == "acme" for term_id in term_ids[:6])
    assert all({"glow", "glossy"} & {*term_id[1:3]} and "acme" not in term_id for term_id in term_ids[6:])
    assert len(set(term_ids)) == len(ITEMS)


def test_no_stop_words_units_or_numbers() -> None:
    term_ids = extract(ITEMS)
    found = {word for term_id in term_ids for term in term_id for word in term.split("-")}
    assert not found & STOP_WORDS
    assert not any(c.isdigit() for word in found for c in word)
    assert {"with", "oz", "of"} <= {word for item in ITEMS for word in words(item.title)}  # they were there to be taken
    assert "beauty" not in found  # in every item, so it says nothing


def test_neighbours_share_more_words_than_strangers() -> None:
    term_ids = extract(ITEMS)
    same = [len({*a} & {*b}) for half in (term_ids[:6], term_ids[6:]) for a in half for b in half if a is not b]
    other = [len({*a} & {*b}) for a in term_ids[:6] for b in term_ids[6:]]
    assert min(same) >= 2 > max(other)


def test_after_the_shared_words_come_those_that_the_neighbours_lack() -> None:
    soaps = [Item(f"s{n}", f"Soap, Zesty, Bright, Vivid, Bold, {scent}") for n, scent in enumerate(SCENTS[:5])]
    candles = [Item(f"c{n}", f"Candle, {scent}") for n, scent in enumerate(SCENTS[:5])]
    items = [*soaps, *candles]
    for term_id, scent in zip(extract_terms(items, neighbors_by_words(items, k=4))[:5], SCENTS, strict=False):
        assert term_id[:3] == ("soap", "zesty", "bright")
        assert term_id[3] == scent.lower()


def test_a_word_that_no_other_item_has_stands_back() -> None:
    items = [*ITEMS, Item("x1", "Nail Polish Zzyzx, Coral", "", NAILS), Item("x2", "Coral Comb"), Item("x3", "Coral Towel")]
    found = extract(items)[12]
    assert found.index("coral") < found.index("zzyzx")


def test_for_whom_is_no_type_of_product() -> None:
    items = [Item(str(n), f"Perfume for Women, {scent}", categories=("Fragrance", "Women's")) for n, scent in enumerate(SCENTS)]
    assert {term_id[0] for term_id in extract(items)} == {"perfume"}


def test_plurals_become_the_singular_that_the_catalog_uses() -> None:
    titles = ("Soft Brush", "Soft Brushes", "Glass Brush", "Soft Lashes", "Soft Lens")
    first, second, glass, lashes, lens = extract([Item(str(n), title) for n, title in enumerate(titles)])
    assert first[0] == second[0] == "brush"
    assert "lashes" in lashes
    assert "glass" in glass
    assert "lens" in lens


def test_of_several_singulars_the_one_that_is_used_most() -> None:
    titles = (
        "Fixed Knives",
        "Fold Knife",
        "Kitchen Knife",
        "Paper Knive",
        "Ammo Boxes",
        "Tool Box",
        "Lunch Box",
        "Tackle Boxe",
        "Stripes",
        "Strip",
    )
    found = extract([Item(str(n), title) for n, title in enumerate(titles)])
    assert "knife" in found[0]
    assert "box" in found[4]
    assert "stripes" in found[8]  # not the plural of strip


def test_a_brand_is_found_in_the_title_where_the_field_is_empty() -> None:
    titles = [f"Zara Home {scent} Candle" for scent in SCENTS[:4]]
    items = [Item(f"z{n}", title, "Zara Home" if n < 2 else "") for n, title in enumerate(titles)]
    openers = [Item(f"o{n}", f"Lumo {scent} Soap Bar") for n, scent in enumerate(SCENTS)]
    found = extract([*items, *openers])
    assert [term_id[-1] for term_id in found] == ["zara-home"] * 4 + ["lumo"] * 6
    assert all("zara" not in term_id and "home" not in term_id for term_id in found)


def test_a_short_name_stands_for_a_brand_only_where_few_others_open_with_it() -> None:
    items = [
        *(Item(f"l{n}", f"Lumo {scent} Soap", "Lumo Paris" if n else "") for n, scent in enumerate(SCENTS)),
        *(Item(f"s{n}", f"Saint {scent} Soap", "Saint Ives" if n < 2 else "") for n, scent in enumerate(SCENTS)),
    ]
    found = extract(items)
    assert found[0][-1] == "lumo-paris"
    assert {term_id[-1] for term_id in found[6:8]} == {"saint-ives"} != {term_id[-1] for term_id in found[8:]} == {"saint"}


def test_a_category_with_a_stop_word_in_its_name_is_one_word() -> None:
    items = [Item(str(n), f"{scent} Eau De Parfum Spray", categories=("Fragrance", "Eau de Parfum")) for n, scent in enumerate(SCENTS)]
    assert all("eau-de-parfum" in term_id and "eau" not in term_id for term_id in extract(items))


def test_possessives_abbreviations_and_symbols() -> None:
    assert words("Burt’s Bees® e.l.f. M.A.C Men's anti-aging 1.7 oz. snake_case") == [
        *("burt", "bees", "e.l.f", "m.a.c", "men", "anti-aging", "1.7", "oz", "snake", "case")
    ]
    assert words("हिन्दी शैम्पू") == ["हिन्दी", "शैम्पू"]  # combining marks belong to their word
    assert words("Crème brûlée ШАМПУНЬ") == ["crème", "brûlée", "шампунь"]


@pytest.mark.parametrize(
    "clause", ["智能无线蓝牙耳机运动跑步入耳式降噪超长待机适用于苹果华为小米手机通用款", "หูฟังบลูทูธไร้สายสำหรับออกกำลังกายกันน้ำ"]
)
def test_a_long_clause_of_a_script_without_spaces_is_cut_and_not_lost(clause: str) -> None:
    items = [Item("a", clause), Item("b", clause[::-1]), Item("c", clause + clause[:9])]
    assert all(len(word) <= 12 and word in normalise(clause) for word in words(clause))  # overlapping pieces
    assert words(clause)[0][0] == normalise(clause)[0]
    assert words(clause)[-1][-1] == normalise(clause)[-1]
    assert words(clause, parted=False) == [normalise(clause)]
    term_ids = extract(items)
    assert_legal(term_ids)
    assert len(set(resolve(items, term_ids))) == 3


def test_too_little_text_is_filled_up_with_neighbours_terms_and_never_with_fixed_words() -> None:
    items = [*ITEMS, Item("bare", "Shampoo"), Item("empty", "")]
    *_, bare, empty = found = extract(items)
    assert_legal(found)
    assert bare[0] == "shampoo"
    assert "keratin" in bare
    assert empty == ("product",)


@pytest.mark.parametrize("n_terms", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_other_lengths(n_terms: int) -> None:
    found = extract([*ITEMS, Item("empty", "")], n_terms)
    assert_legal(found, n_terms)
    assert {term_id[0] for term_id in found[:6]} == {"shampoo"}


texts = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(("red", "Nail-Polish", "POLISH", "[soap],", "für", "洗发水", "1.7oz", "<|im_end|>", "e.l.f.", "the", "İ")),
        max_size=8,
    ).map(" ".join),
)
any_items = st.lists(st.builds(Item, st.just(""), texts, texts, st.lists(texts, max_size=3).map(tuple), texts), min_size=1, max_size=8).map(
    lambda items: [Item(str(n), i.title, i.brand, i.categories, i.description) for n, i in enumerate(items)]
)


@given(any_items, any_items, st.integers(1, 8), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_fit_and_apply(items: list[Item], others: list[Item], n_terms: int, random) -> None:
    neighbors = neighbors_by_words(items)
    extractor = Extractor.fit(items)
    near = [[items[j] for j in neighbors.of(at)] for at in range(len(items))]
    assert extractor.terms(items, near, n_terms) == extract_terms(items, neighbors, n_terms)
    # What an item gets depends on the fit, on itself and on its neighbours: not on the items beside it.
    near = [random.sample(items, min(len(items), random.randint(0, 5))) for _ in others]
    found = extractor.terms(others, near, n_terms)
    assert_legal(found, n_terms)
    assert found == [extractor.terms([item], [n], n_terms)[0] for item, n in zip(others, near, strict=True)]
    assert Extractor.fit(items[::-1]).terms(others, near, n_terms) == found


def nearest_by_hand(vectors: np.ndarray, row: int, k: int) -> list[int]:
    """Positions of the nearest rows by float64 cosine; of equals the first."""
    scores = np.round(vectors.astype(np.float64) @ vectors[row].astype(np.float64), 5)
    ranked = [int(at) for at in np.argsort(-scores, kind="stable") if at != row and vectors[at].any()]
    return ranked[:k] if vectors[row].any() else []


def test_terms_of_items_that_join_a_catalog_are_those_of_fit_and_apply() -> None:
    shop = [Item(f"{n}-{item.item_id}", f"{item.title} {n}", item.brand, item.categories) for n in range(3) for item in ITEMS]
    catalog = Catalog(shop, extract(shop))
    new = [Item("new-1", "Acme Shampoo with Keratin, Vetiver", "", HAIR), Item("new-2", "Vetiver Glow Nail Polish", "", NAILS)]
    model = tfidf_embedder([item_text(item) for item in shop])
    vectors = np.concatenate([embed(shop, model), embed(new, model)])
    everything = [*shop, *new]
    near = [[everything[at] for at in nearest_by_hand(vectors, len(shop) + n, 5)] for n in range(2)]
    wanted = Extractor.fit(shop).terms(new, near)
    assert TermExtender()(catalog, new) == wanted
    assert_legal(wanted)
    assert wanted[0][0] == "shampoo"
    assert wanted[0][-1] == "acme"
    assert wanted[1][0] == "nail-polish"
    assert TermExtender()(catalog, []) == []
    assert all(
        len(term_id) == 4
        for term_id in TermExtender()(Catalog(shop, [t[:4] for t in catalog.term_ids[1:]] + [("one", "more", "than", "most", "have")]), new)
    )


class Counted:
    """An embedder that notes how many texts it has embedded."""

    def __init__(self, model):
        self.model, self.texts = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def encode_document(self, texts, **options):
        self.texts += len(texts)
        return self.model.encode_document(texts, **options)


@given(st.lists(st.tuples(st.sampled_from("arc"), st.integers(0, 40)), min_size=1, max_size=8), st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_changing_catalog_is_followed(changes: list[tuple[str, int]], given_one: bool) -> None:
    """What is kept from call to call equals what is made anew for each catalog, up to the words that were counted before."""
    shop = [Item(f"{n:02}-{item.item_id}", f"{item.title} {n}", item.brand, item.categories) for n in range(4) for item in ITEMS]
    catalog = Catalog(shop, extract(shop))
    model = tfidf_embedder([item_text(item) for item in shop])
    extender = TermExtender(embedder=model if given_one else None)
    new = Item("new", "Acme Shampoo with Keratin, Vetiver", "", HAIR)
    extender(catalog, [new])
    for n, (kind, which) in enumerate(changes):
        item = catalog.items[which % len(catalog)]
        if kind == "a":
            catalog = catalog.add([Item(f"a{n}", f"{item.title} Balm {n}", item.brand, item.categories)], [("balm", *"abcd")])
        elif kind == "r":
            catalog = catalog.remove([item.item_id])
        else:
            catalog = catalog.update([Item(item.item_id, f"Other Soap {n}", item.brand)])
        found = extender(catalog, [new])
        extractor, vectors = extender._follow(catalog)
        np.testing.assert_allclose(vectors, embed(catalog.items, extender._model), atol=1e-6)
        assert 10 * abs(extractor.n_items - len(catalog)) <= len(catalog)  # counted anew before it is too old
        everything = [*catalog.items, new]
        at_hand = nearest_by_hand(np.concatenate([vectors, embed([new], extender._model)]), len(catalog), 5)
        assert found == extractor.terms([new], [[everything[at] for at in at_hand]])


def test_a_second_call_embeds_what_is_new_only() -> None:
    shop = [Item(f"{n}-{item.item_id}", f"{item.title} {n}", item.brand, item.categories) for n in range(3) for item in ITEMS]
    catalog = Catalog(shop, extract(shop))
    model = Counted(tfidf_embedder([item_text(item) for item in shop]))
    extender = TermExtender(embedder=model)  # type: ignore[arg-type]
    new = [Item("new-1", "Vetiver Shampoo"), Item("new-2", "Vetiver Polish")]
    first = extender(catalog, new)
    assert model.texts == len(shop) + 2
    assert extender(catalog, new) == first
    assert model.texts == len(shop) + 4
    extender(catalog.add(new[:1], first[:1]), new[1:])
    assert model.texts == len(shop) + 6
    many = [Item(f"m{n}", f"Vetiver Candle {n}", "Vela") for n in range(20)]  # more than a tenth: counted along
    assert {(term_id[0], term_id[-1]) for term_id in extender(catalog, many)} == {("vetiver-candle", "vela")}


@given(any_items, st.integers(1, 8), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_legal_terms_whatever_the_order_of_the_items(items: list[Item], n_terms: int, random) -> None:
    found = extract(items, n_terms)
    assert_legal(found, n_terms)
    order = random.sample(range(len(items)), len(items))
    assert extract([items[at] for at in order], n_terms) == [found[at] for at in order]


def test_the_hash_seed_plays_no_part() -> None:
    code = "from test_extract import ITEMS, extract; print(extract(ITEMS))"
    folder = os.path.dirname(__file__)
    path = os.pathsep.join([folder, *sys.path])
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{extract(ITEMS)}\n"


def test_neighbours_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not the 11 given ones"):
        extract_terms(ITEMS[1:], neighbors_by_words(ITEMS))
    with pytest.raises(ValueError, match="in their order"):
        extract_terms(ITEMS[::-1], neighbors_by_words(ITEMS))
    with pytest.raises(ValueError, match="n_terms must be at least 1"):
        extract(ITEMS, 0)
    with pytest.raises(ValueError, match="n_terms must be at least 1"):
        Extractor.fit(ITEMS).terms(ITEMS[:1], [[]], 0)
    with pytest.raises(ValueError, match="Found 2 items and the neighbours of 1"):
        Extractor.fit(ITEMS).terms(ITEMS[:2], [[]])


# --- short texts, and scripts without spaces ---------------------------------------------------------------------------------------


def test_a_short_text_gives_as_many_terms_as_it_has() -> None:
    films = [("Swingers (1996)", "Comedy", "Drama"), ("Paris Is Burning (1990)", "Documentary"), ("Switchback (1997)", "Thriller")]
    items = [Item(str(n), title, categories=tuple(genres)) for n, (title, *genres) in enumerate(films)]
    found = extract(items)
    assert_legal(found)
    assert not {term for term_id in found for term in term_id} & set(FILLERS)
    assert set(found[0]) - {"swinger"} <= {"swingers", "comedy", "drama", "1996"}
    report = measure(items, found, n_terms=5, shorter=True)
    assert report["legality"]["legal"] == 1
    assert report["fillers"] == 0
    assert measure(items, found, n_terms=5)["legality"]["count"] == 3  # a language model is asked for exactly five
    filled = [(*term_id, "product", "item")[:5] for term_id in found]
    assert measure(items, filled, n_terms=5)["fillers"] == 3
    assert not filler_terms(Item("x", "Cleaning product"), ("cleaning", "product"))  # its text says so


def unspaced() -> list[Item]:
    """48 products with Chinese, Japanese and Thai titles, as shops write them."""
    parts = {
        "zh": (("小米", "华为", "美的", "海尔"), ("轻薄", "无线", "智能", "便携"), ("吸尘器", "电饭煲", "耳机"), ("红色", "白色", "黑色")),
        "ja": (("象印", "パナソニック", "東芝"), ("コードレス", "軽量", "防水"), ("掃除機", "炊飯器", "電気ケトル"), ("赤", "白", "黒")),
        "th": (("พานาโซนิค", "ชาร์ป", "โตชิบา"), ("ไร้สาย", "ดิจิตอล"), ("หม้อหุงข้าว", "เครื่องดูดฝุ่น", "หูฟัง"), ("สีขาว", "สีดำ")),
    }
    titles = []
    for kinds in parts.values():
        combined = list(itertools.product(*kinds))
        titles += ["".join(combined[n * 7 % len(combined)]) + str(100 + n) for n in range(16)]
    return [Item(str(n), title) for n, title in enumerate(titles)]


def test_scripts_without_spaces_have_terms_that_items_share() -> None:
    items = unspaced()
    term_ids = resolve(items, extract_terms(items, find_neighbors(items)))
    assert_legal(term_ids)
    assert not {term for term_id in term_ids for term in term_id} & set(FILLERS)
    assert len(set(term_ids)) == 48
    trie = measure(items, term_ids, n_terms=5, shorter=True)["trie"]["terms"]
    uses = Counter(term for term_id in term_ids for term in term_id)
    assert sum(n > 1 for n in uses.values()) > 30  # terms are shared, as words are
    assert len({term_id[0] for term_id in term_ids}) < 40
    assert trie["choices"] > 2
    shop = Catalog(items, term_ids)
    more = [Item("new-zh", "小米便携电饭煲黑色900"), Item("new-th", "โตชิบาดิจิตอลหูฟังสีดำ901")]
    for item, term_id in zip(more, TermExtender()(shop, more), strict=True):
        assert len(term_id) > 2
        assert not filler_terms(item, term_id)
        assert set(term_id) & set(uses)  # in the catalog's vocabulary


def test_the_year_of_a_short_title_tells_remakes_apart() -> None:
    films = [("Sabrina (1954)", "Comedy"), ("Sabrina (1995)", "Comedy"), ("Psycho (1960)", "Horror"), ("Psycho (1998)", "Horror")]
    items = [Item(str(n), title, categories=(genre,)) for n, (title, genre) in enumerate(films)]
    found = extract(items)
    assert len(set(found)) == 4
    assert [year in term_id for year, term_id in zip(("1954", "1995", "1960", "1998"), found, strict=True)] == [True] * 4
    long = [Item("a", "Glossy Nail Polish Coral Shimmer Sparkling Velvet (1995)"), Item("b", "Glossy Nail Polish Coral Shimmer")]
    assert "1995" not in extract(long)[0]  # its words suffice
    assert "1954" not in extract([Item("c", "Model 1954 Lamp")])[0]  # no year


def test_a_catalog_of_many_lengths_takes_new_items() -> None:
    items = [Item(str(n), f"Thing {n}") for n in range(24)]
    catalog = Catalog(items, [(*(f"w{k}" for k in range(n // 2)), f"x{n}") for n in range(24)])
    assert TermExtender()(catalog, [Item("new", "Rose balm")]) == [("balm", "rose")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("小米轻薄吸尘器红色102", ["小米", "米轻", "轻薄", "薄吸", "吸尘", "尘器", "器红", "红色", "102"]),
        ("電気ケトル黒", ["電気", "ケトル", "黒"]),
        ("コードレス掃除機", ["コードレス", "掃除", "除機"]),
        ("สีขาว", ["สีขา", "ขาว"]),
        ("Xiaomi小米13 Pro", ["xiaomi", "小米", "13", "pro"]),
        ("C++ and C# for C", ["c++", "and", "c#", "for", "c"]),
        ("Rose<br/>Balm &amp; Oil &nbsp;<b>x</b>", ["rose", "balm", "oil", "x"]),
        ("AC<DC> adapter", ["ac", "dc", "adapter"]),
        ("AT&T phone, R&B, salt & pepper", ["at&t", "phone", "r&b", "salt", "pepper"]),
    ],
)
def test_words_of_many_scripts(text: str, found: list[str]) -> None:
    assert words(text) == found
