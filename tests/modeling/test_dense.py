"""The dense half: recommend(decode=False), its vectors in a checkpoint, and as a part of a prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import toy_catalog, toy_grlm, toy_histories, toy_model

from grlm_hf import GRLMForRecommendation, Item
from grlm_hf.data.interactions import Case
from grlm_hf.layout import VECTORS_FILE
from grlm_hf.modeling.dense import TEMPERATURE
from grlm_hf.modeling.hybrid import tune_hybrid
from grlm_hf.priors.awaited import DENSE, Awaited
from grlm_hf.priors.fused import Fused, load_scorer
from grlm_hf.priors.popularity import Popularity
from grlm_hf.tasks.encoding import request_tokens
from grlm_hf.tasks.prompts import internalise_request

IDS = [i.item_id for i in toy_catalog()]
HISTORIES = [["i20"], ["i15", "i13", "i10"], ["i12", "i20"], ["i9", "i11", "i14", "i16", "i18"]]
NEW = Item("new", "Blue canoe", brand="River", description="A boat for two")


@torch.no_grad()
def by_hand(grlm: GRLMForRecommendation, history: list[str]) -> np.ndarray:
    """log p of each item: one plain forward for each text, no batch."""

    def state(ids: list[int]) -> torch.Tensor:
        hidden = grlm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        return hidden / hidden.norm()

    user = state(grlm.prompt_tokens(history)[0].tolist())
    items = torch.stack([state(ids) for ids in request_tokens(grlm.tokenizer, [internalise_request(i) for i in grlm.catalog])])
    return (items @ user / TEMPERATURE).log_softmax(0).numpy()


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_the_ranking_is_that_of_dot_products(objective: str) -> None:
    grlm = toy_grlm(objective)
    for history, found in zip(HISTORIES, grlm.recommend(HISTORIES, 12, decode=False), strict=True):
        expected = by_hand(grlm, history)
        assert found.answered_by == "dense"
        assert {r.item_id for r in found} == set(IDS)
        assert [r.log_prob for r in found] == pytest.approx(sorted(expected, reverse=True), abs=0.05)  # vectors are float16
        assert [r.log_prob for r in found] == pytest.approx([expected[grlm.catalog.position(r.item_id)] for r in found], abs=0.05)
        assert sum(np.exp(r.log_prob) for r in found) == pytest.approx(1, abs=1e-4)


def test_rules_and_priors_are_those_of_a_search() -> None:
    grlm = toy_grlm()
    weights = np.linspace(1, 3, len(IDS))
    scores = grlm.dense_on().scores(HISTORIES)
    for rules in (
        {"exclude_seen": True}, {"allow": ["i9", "i12", "i20"]}, {"exclude": ["i20", "i14"]}, {"banned_terms": ["camping"]},
        {"prior": weights, "prior_weight": 2.0}, {"prior": weights, "exclude_seen": True, "allow": IDS[:6]},
    ):  # fmt: skip
        beams = grlm.recommend(HISTORIES, 12, num_beams=11, **rules)
        for row, (history, found, searched) in enumerate(
            zip(HISTORIES, grlm.recommend(HISTORIES, 12, decode=False, **rules), beams, strict=True)
        ):
            assert {r.item_id for r in found} == {r.item_id for r in searched}, (rules, history)
            for r in found:
                at = grlm.catalog.position(r.item_id)
                assert r.log_prob == pytest.approx(scores[row, at], abs=1e-5)
                assert r.score == pytest.approx(r.log_prob + (2 * np.log(weights[at]) if "prior_weight" in rules else r.score - r.log_prob))
            assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    (first, second), alone = grlm.recommend(HISTORIES[:2], 3, decode=False), grlm.recommend(HISTORIES[1], 3, decode=False)
    assert len(first) == 3
    assert [r.item_id for r in second] == [r.item_id for r in alone]


def test_options_of_a_search_are_refused() -> None:
    for options in ({"num_beams": 5}, {"exact": True}, {"edge_wise": True}, {"length_penalty": 0.5}):
        with pytest.raises(ValueError, match=f"decode=False makes no search, so {next(iter(options))} has no effect"):
            toy_grlm().recommend(["i20"], 3, decode=False, **options)


def test_new_changed_and_removed_items_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    from grlm_hf.modeling import dense

    read: list[int] = []
    inner = dense.item_tokens
    monkeypatch.setattr(dense, "item_tokens", lambda tokenizer, items, limit: read.append(len(items)) or inner(tokenizer, items, limit))
    grlm = toy_grlm()
    grlm.recommend(["i20"], 3, decode=False)
    before = grlm.branch()
    grlm.add_items([NEW], [("canoe", "river", "two", "blue", "light")])
    found = grlm.recommend(["i20"], 13, decode=False)
    expected = by_hand(grlm, ["i20"])
    assert {r.item_id: r.log_prob for r in found}["new"] == pytest.approx(expected[grlm.catalog.position("new")], abs=0.05)
    assert grlm.recommend(["new"], 3, decode=False, exclude_seen=True)
    grlm.update_items([Item("i20", "Another title")])
    grlm.remove_items(["i19", "i18"])
    assert {r.item_id for r in grlm.recommend(["i20"], 11, decode=False)} == {*IDS, "new"} - {"i19", "i18"}
    assert read == [12, 1, 1]  # only what is new is read
    assert "new" not in {r.item_id for r in before.recommend(["i20"], 12, decode=False)}


def test_vectors_are_kept_in_the_checkpoint_and_foreign_ones_refused(tmp_path: Path) -> None:
    grlm = toy_grlm()
    grlm.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / VECTORS_FILE).exists()
    expected = grlm.recommend(HISTORIES, 5, decode=False)
    grlm.add_items([NEW], [("canoe", "river", "two", "blue", "light")])
    grlm.save_pretrained(tmp_path / "with")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "with")
    assert loaded.dense_half.vectors is not None
    assert set(loaded.dense_half.vectors.item_ids) == {*IDS, "new"}
    loaded.remove_items(["new"])
    assert [[r.item_id for r in found] for found in loaded.recommend(HISTORIES, 5, decode=False)] == [
        [r.item_id for r in found] for found in expected
    ]
    given = GRLMForRecommendation.from_pretrained(tmp_path / "with", model=toy_model(1))
    assert given.dense_half.vectors is not None
    assert not given.dense_half.vectors.item_ids  # those of the folder's own weights are not this model's
    toy_grlm(seed=3).model.save_pretrained(tmp_path / "with")
    with pytest.raises(ValueError, match=r"catalog\.vectors holds vectors of another model"):
        GRLMForRecommendation.from_pretrained(tmp_path / "with")


def test_it_is_a_part_of_a_prior(tmp_path: Path) -> None:
    grlm = toy_grlm("trie")
    histories = [list(h.items) for h in toy_histories(20)]
    popularity = Popularity.fit(IDS, toy_histories(20))
    grlm.prior = Fused({DENSE: (grlm.dense_on(), 0.7), "popularity": (popularity, 0.5)})
    expected = grlm.recommend(histories, 5, prior="own", num_beams=11)
    dense, counted = grlm.dense_on().scores(histories), popularity.scores(histories)
    for row, found in enumerate(expected):
        for r in found:
            at = grlm.catalog.position(r.item_id)
            others = grlm.prior.scores([histories[row]])[0, at]
            assert r.score == pytest.approx(r.log_prob + others, abs=1e-4)
            total = 0.7 * dense[row] + 0.5 * counted[row]
            assert others == pytest.approx(total[at] - np.log(np.exp(total).sum()), abs=1e-3)
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert [[r.item_id for r in f] for f in loaded.recommend(histories, 5, prior="own", num_beams=11)] == [
        [r.item_id for r in f] for f in expected
    ]
    loaded.add_items([NEW], [("canoe", "river", "two", "blue", "light")])
    assert "new" in {r.item_id for r in loaded.recommend(["i20"], 13, prior="own")}
    outside = load_scorer(tmp_path / "checkpoint" / "prior")
    assert isinstance(outside, Fused)
    assert isinstance(outside.components[DENSE][0], Awaited)
    with pytest.raises(ValueError, match="which is a language model's answer"):
        outside.scores(histories)
    with pytest.raises(ValueError, match="The part 'dense' of the prior needs a language model"):
        grlm.without_language_model(outside)


def test_it_is_weighed_beside_the_search(tmp_path: Path) -> None:
    grlm = toy_grlm("trie")
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in toy_histories(30)]
    tuned = tune_hybrid(grlm, Fused({DENSE: (grlm.dense_on(), 1.0), "popularity": (Popularity.fit(IDS, toy_histories(30)), 1.0)}), cases)
    assert set(tuned.weights) == {DENSE, "popularity"}
    assert tuned.ndcg >= tuned.alone.mean()
