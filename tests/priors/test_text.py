from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from toys import toy_catalog

from grlm_hf import Item
from grlm_hf.data.interactions import Case
from grlm_hf.indexing.embedding import embed, item_text, tfidf_embedder
from grlm_hf.priors.text import TFIDF_DIM, TextConfig, TextKNN, tune_text

CATALOG = toy_catalog()
ITEMS = [*CATALOG.items, Item("mute", "?!")]  # a text in which the embedder finds no word
IDS = [i.item_id for i in ITEMS]


@pytest.fixture(scope="module")
def text() -> TextKNN:
    return TextKNN.fit(ITEMS, config=TextConfig(temperature=0.2, max_items=3))


def test_scores_are_those_of_the_formula(text: TextKNN) -> None:
    vectors = text.vectors.astype(np.float64)
    histories = [[IDS[0]], [IDS[3], "unknown", IDS[1], "mute", IDS[3]], IDS[:6], ["mute"], []]
    scores = text.scores(histories)
    assert scores.dtype == np.float32
    assert np.allclose(np.exp(scores.astype(float)).sum(1), 1, atol=1e-5)
    for history, row in zip(histories, scores, strict=True):
        last = [IDS.index(i) for i in reversed(history) if i in IDS[:-1]][:3]
        expected, ages = np.zeros(len(IDS)), np.arange(1.0, len(last) + 1) ** -1
        for a, weight in zip(last, ages / ages.sum(), strict=True):
            near = np.exp(vectors @ vectors[a] / 0.2)
            near[a] = 0
            expected += weight * near / near.sum()
        assert np.allclose(np.exp(row), expected if last else 1 / len(IDS), atol=1e-5)
    assert text.known.tolist() == [True] * 12 + [False]


def test_it_embeds_as_sentence_transformers_does(text: TextKNN) -> None:
    expected = embed(ITEMS, tfidf_embedder(map(item_text, ITEMS), TFIDF_DIM))
    assert np.allclose(text.vectors.astype(np.float32), expected, atol=2e-3)


def test_it_follows_a_catalog_and_embeds_only_what_is_new(text: TextKNN, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    embed_ = TextKNN._embed

    def counted(self: TextKNN, items: list[Item]) -> np.ndarray:
        asked.extend(i.item_id for i in items)
        return embed_(self, items)

    monkeypatch.setattr(TextKNN, "_embed", counted)
    assert text.following(ITEMS) is text
    changed = dataclasses.replace(ITEMS[2], description="a steel lamp for the kitchen")
    new = Item("new", "Gas stove", description="camping gas steel")
    now = [ITEMS[5], changed, new, *ITEMS[7:9]]
    found = text.following(now)
    assert asked == [changed.item_id, "new"]
    assert found.item_ids == tuple(i.item_id for i in now)
    assert np.array_equal(found.vectors[[0, 3, 4]], text.vectors[[5, 7, 8]])
    assert not np.array_equal(found.vectors[1], text.vectors[2])
    # the text of the new item is nearest to that of the stove
    everything = text.following([*ITEMS, new])
    (row,) = everything.scores([["new"]])
    assert "stove" in ITEMS[int(np.argmax(row))].title
    assert np.array_equal(everything.following(ITEMS).vectors, text.vectors)


def test_a_saved_one_answers_the_same_also_of_new_items(text: TextKNN, tmp_path: Path) -> None:
    text.save(tmp_path / "text")
    again = TextKNN.load(tmp_path / "text")
    histories = [[IDS[0], IDS[4]], []]
    assert np.array_equal(again.scores(histories), text.scores(histories))
    more = [*ITEMS, Item("new", "Title 3 tent", description="light camping")]
    assert np.array_equal(again.following(more).vectors, text.following(more).vectors)
    assert again.following(ITEMS) is again


def test_a_named_embedder_is_loaded_when_something_is_new(tmp_path: Path) -> None:
    tfidf_embedder(map(item_text, ITEMS)).save(str(tmp_path / "embedder"))
    text = TextKNN.fit(ITEMS, str(tmp_path / "embedder"))
    text.save(tmp_path / "text")
    more = [*ITEMS, Item("new", "Title 3 tent", description="light camping")]
    assert np.array_equal(TextKNN.load(tmp_path / "text").following(more).vectors, text.following(more).vectors)


def test_tuning_takes_the_temperature_that_finds_the_targets(text: TextKNN) -> None:
    cases = [Case("u", (IDS[n], IDS[(n + 5) % 12]), IDS[n + 1]) for n in range(11)]
    tuned = tune_text(text, cases)
    assert tuned.config == tune_text(text, cases).config
    assert np.array_equal(tuned.vectors, text.vectors)


def test_far_texts_and_single_items_have_finite_scores() -> None:
    few = TextKNN.fit([Item("a", "red tent"), Item("b", "red lamp"), Item("c", "blue mug"), Item("d", "blue cup")], config=TextConfig(0.01))
    assert np.isfinite(few.scores([["a"], ["c", "a"]])).all()
    assert np.array_equal(TextKNN.fit([Item("a", "red tent")]).scores([["a"]]), [[0.0]])


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one, and unique ids"):
        TextKNN.fit([])
    with pytest.raises(ValueError, match="at least one, and unique ids"):
        TextKNN.fit([ITEMS[0], ITEMS[0]])
    with pytest.raises(ValueError, match="No text model at"):
        TextKNN.load(tmp_path / "none")
    for name, value in (("temperature", 0.0), ("max_items", 0), ("age_power", -1.0)):
        with pytest.raises(ValueError, match=f"text_knn.{name} is {value}"):
            dataclasses.replace(TextConfig(), **{name: value})
