"""What each task says is true: of the item's own text, of the user's own history, of the neighbours given."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TERM_IDS, random_catalog, toy_catalog, toy_histories

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import History
from grlm_hf.data.items import load_items, load_term_ids
from grlm_hf.files import write_parquet
from grlm_hf.identifiers.terms import TERMS, TermID, parse
from grlm_hf.indexing.words import words
from grlm_hf.layout import HISTORIES
from grlm_hf.tasks.collaborative import collaborative, load_item_neighbors
from grlm_hf.tasks.examples import Example, Source, Span
from grlm_hf.tasks.histories import sliding
from grlm_hf.tasks.items import description_to_term_id, internalisation, term_id_to_title, title_to_term_id
from grlm_hf.tasks.prompts import history_item, next_item_turns, steered_request, written_title
from grlm_hf.tasks.queries import phrases, queries, word_frequency
from grlm_hf.tasks.steered import steered, wish

CATALOG = toy_catalog()
IDS = [i.item_id for i in CATALOG]
BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"


def made(sources: list[Source], variant: int = 0) -> list[Example | str]:
    return [s.make(s.items, variant) for s in sources]


def term_ids_of(completion: str) -> list[TermID]:
    assert completion.endswith("]\n")
    found = [parse(line) for line in completion.splitlines()]
    assert "".join(TERMS.line(t) for t in found if t) == completion
    return found  # type: ignore[return-value]


# --- item text ---------------------------------------------------------------------------------------------------------------------


def test_text_tasks_ask_for_one_thing_by_another() -> None:
    item = Item("a", "Rose\n[Shampoo]", "Brand", ("Hair", "Shampoos"), "A rosy <|im_end|> shampoo.")
    catalog = Catalog([item, Item("b", "Soap")], [("shampoo", "rose"), ("soap", "plain")])
    first = [made(list(task(catalog)))[0] for task in (internalisation, title_to_term_id, description_to_term_id, term_id_to_title)]
    answer = (Span("[shampoo, rose]\n", "identifiers"),)
    assert first == [
        Example(
            "internalise", "a",
            "Term ID of:\nTitle: Rose [Shampoo]\nBrand: Brand\nCategory: Shampoos\nDescription: A rosy <|im_end|> shampoo.", answer,
        ),
        Example("title_to_term_id", "a", "Term ID of:\nTitle: Rose [Shampoo]", answer),
        Example("description_to_term_id", "a", "Term ID of:\nDescription: A rosy <|im_end|> shampoo.", answer),
        Example("term_id_to_title", "a", "Title of:\n[shampoo, rose]", (Span("Rose (Shampoo)"),)),
    ]  # fmt: skip
    assert made(list(description_to_term_id(catalog)))[1] == "no description"


# --- sliding windows ---------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(IDS), min_size=1, max_size=12),
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.sampled_from(HISTORIES),
)  # fmt: skip
def test_windows_are_what_a_recommender_is_asked(items: list[str], window: int, stride: int, per_user: int, form: str) -> None:
    sources = list(sliding(CATALOG, [History("u", tuple(items))], window, stride, per_user, form))
    # brute force: every cut of the history, from its end backwards
    cuts = [n for n in range(1, len(items)) if (len(items) - 1 - n) % stride == 0][-per_user:]
    for example, n in zip(made(sources), cuts, strict=True):
        assert isinstance(example, Example)
        shown = [history_item(TERMS.line(CATALOG.term_id(i)), CATALOG[i], form) for i in items[max(0, n - window) : n]]
        user, begun = next_item_turns(shown, form)
        assert (example.key, example.prompt, example.completion) == ("u", user, begun + TERMS.line(CATALOG.term_id(items[n])))


# --- neighbours --------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_neighbours_are_asked_for_in_order_and_once(n: int, rng: random.Random) -> None:
    catalog = random_catalog(rng)
    ids = [i.item_id for i in catalog]
    neighbors = {i: rng.sample([*ids, "unknown"], rng.randint(0, len(ids))) for i in ids}
    sources = list(collaborative(catalog, neighbors, n))
    for source in sources:
        tid = catalog.term_id(source.key)
        want = list(dict.fromkeys(catalog.term_id(i) for i in neighbors[source.key] if i in catalog))
        want = [t for t in want if t != tid]
        answers: list[TermID] = []
        for variant in range(len(catalog) + 1):  # all variants together: each neighbour once
            example = source.make((), variant)
            if isinstance(example, str):
                assert example == ("no neighbours left" if want else "no neighbours")
                break
            assert example.prompt.splitlines()[-1] == TERMS.line(tid).strip()
            answers += (found := term_ids_of(example.completion))
            assert len(found) == min(n, len(want) - variant * n)
        assert answers == want


def test_neighbour_files(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {"i20": ["i19", "i20", "i18", "i19"], "gone": ["i20"], "i18": ["gone", "i11"]}
    want = {"i20": ("i19", "i18"), "i18": ("i11",)}
    table = [{"item_id": i, "neighbors": n, "scores": [1.0] * len(n)} for i, n in rows.items()]
    write_parquet(Dataset.from_list(table), tmp_path / "n.parquet")
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table))
    text = "anchor top1 top2\n" + "".join(f"{i} {' '.join(n)}\n" for i, n in rows.items()) + "\n"
    (tmp_path / "n.txt").write_text(text)
    (tmp_path / "n.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bare.txt").write_text(text.split("\n", 1)[1])  # without headings
    for name in ("n.parquet", "n.jsonl", "n.txt", "n.txt.gz", "bare.txt"):
        assert load_item_neighbors(tmp_path / name, CATALOG) == want


def test_neighbour_files_that_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("twice.txt", b"head\ni20 i19\ni19 i20\ni20 i18\n", r"twice\.txt:4: duplicate item 'i20', first at .*twice\.txt:2"),
        ("cut.txt", b"head\ni20 i19\ni19\n", r"cut\.txt:3 has item 'i19' and no neighbour"),
        ("other.txt", b"head\nB1 B2\n", r"none of its 1 items has a neighbour in the catalog.*'B1'"),
        ("empty.txt", b"", "none of its 0 items"),
        ("broken.txt.gz", gzip.compress("".join(f"i{n} i19\n" for n in range(9999)).encode())[:-20], "not a whole text file"),
        ("latin.txt", b"head\ni20 \xe9\n", "not a whole text file"),
        ("no_list.jsonl", b'{"item_id": "i20", "neighbors": "i19"}\n', r"no_list\.jsonl:1 needs `item_id` and a list `neighbors`"),
        ("wrong.jsonl", b'{"item": "i20"}\n', r"wrong\.jsonl:1 needs"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_item_neighbors(tmp_path / name, CATALOG)
    with pytest.raises(ValueError, match="No file at"):
        load_item_neighbors(tmp_path / "gone.txt", CATALOG)


# --- search phrases ----------------------------------------------------------------------------------------------------------------

SHOP = [
    Item("1", "Acme Rose Water Shampoo, 12 oz (Pack of 2)", "Acme", ("Hair", "Shampoos")),
    Item("2", "Rose Water Facial Toner", "Acme", ("Skin", "Toners")),
    Item("3", "Charcoal Shampoo for Men", "", ("Hair", "Shampoos")),
    Item("4", "12 oz", "", ()),
    Item("5", "Zeta's Charcoal Soap", "Zeta", ()),
    Item("6", "12 oz", "", ("Hair",)),
]
SHOP_CATALOG = Catalog(SHOP, TERM_IDS[:6])


def test_phrases() -> None:
    frequency = word_frequency(SHOP_CATALOG)
    found = {i.item_id: phrases(i, frequency, len(SHOP)) for i in SHOP}
    assert found["1"] == ["rose water shampoos", "acme shampoos", "rose water shampoo", "acme rose water"]
    assert found["4"] == []
    assert found["6"] == ["hair"]
    assert "zeta charcoal soap" in found["5"]


def test_a_phrase_speaks_of_its_item_in_its_own_words() -> None:
    catalog = SHOP_CATALOG
    sources = list(queries(catalog, seed=1))
    for variant in range(6):
        for item, example in zip(catalog, made(sources, variant), strict=True):
            own = phrases(item, word_frequency(catalog), len(catalog))
            if isinstance(example, str):
                assert variant >= len(own)
                assert example == ("no phrase left" if own else "no words to search by")
                continue
            asked = example.prompt.removeprefix("Search: ")
            assert set(words(asked)) <= set(words(" ".join((item.title, item.brand, *item.categories))))
            assert term_ids_of(example.completion) == [catalog.term_id(item.item_id)]
    for source, item in zip(sources, catalog, strict=True):  # all variants together: every phrase once
        asked = [e.prompt for v in range(6) if isinstance(e := source.make((), v), Example)]
        assert Counter(asked) == Counter(f"Search: {p}" for p in phrases(item, word_frequency(catalog), len(catalog)))
    firsts = {tuple(map(str, made(list(queries(catalog, seed))))) for seed in range(5)}
    assert len(firsts) > 1


# --- wishes ------------------------------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.integers(0, 3), st.sampled_from(HISTORIES))
def test_a_wish_is_true_of_the_answer(rng: random.Random, seed: int, form: str) -> None:
    catalog = random_catalog(rng)
    items = [rng.choice(catalog.items).item_id for _ in range(rng.randint(1, 8))]
    (source,) = steered(catalog, [History("u", tuple(items))], 4, form, seed)
    for variant in range(3):
        example = source.make(source.items, variant)
        if len(items) < 2:
            assert example == "one item only"
            continue
        assert isinstance(example, Example)
        (target,) = term_ids_of(example.completion)
        assert target == catalog.term_id(items[-1])
        shown = [history_item(TERMS.line(catalog.term_id(i)), catalog[i], form) for i in items[-5:-1]]
        before = [catalog.term_id(i) for i in items[-5:-1]]
        *_, said = example.prompt.split("\nWish: ")
        more = [w.removeprefix("more ") for w in said.split(", ") if w.startswith("more ")]
        no = [w.removeprefix("no ") for w in said.split(", ") if w.startswith("no ")]
        assert example.prompt == steered_request(shown, more, no)
        assert len(more) == 1
        assert set(more) <= set(target)
        assert set(more).isdisjoint(before[-1]) or set(target) <= set(before[-1])  # something new, where there is something
        had = {t for tid in before[-3:] for t in tid}
        assert set(no) <= had - set(target)
        assert len(no) == bool(had - set(target))


def test_wishes_differ_by_seed_and_variant() -> None:
    before, target = [TERM_IDS[4]], TERM_IDS[8]
    assert len({str(wish(before, target, random.Random(n))) for n in range(20)}) > 4
    sources = list(steered(CATALOG, toy_histories(), 9))
    assert made(sources, 0) != made(sources, 1)
    assert made(sources, 0) == made(list(steered(CATALOG, toy_histories(), 9)), 0)


# --- real data ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")
def test_beautys_items_have_neighbours_phrases_and_titles() -> None:
    items = load_items(BEAUTY / "items.jsonl.gz", missing_title="fill")
    terms = load_term_ids(BEAUTY / "term_ids_official.jsonl.gz")
    catalog = Catalog(items, [terms[i.item_id] for i in items])
    neighbors = load_item_neighbors(BEAUTY / "similar_items_sasrec.txt.gz", catalog)
    assert len(neighbors) == 12101
    assert {len(n) for n in neighbors.values()} == {20}
    for variant in (0, 1):
        answers = [e for e in made(list(collaborative(catalog, neighbors, 5)), variant) if isinstance(e, Example)]
        assert len(answers) == 12101
        assert sum(len(term_ids_of(e.completion)) == 5 for e in answers) > 12_000
    asked = [e for e in made(list(queries(catalog))) if isinstance(e, Example)]
    assert len(asked) > 12_090
    assert not any(c in written_title(i) for i in items for c in "[]<>\n")
