"""`GRLMForRecommendation.score`: what an exact `recommend` says of given items."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import brute_force, random_grlm, random_history, toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity

IDS = tuple(i.item_id for i in toy_catalog())


def counting() -> Fused:
    return Fused({"item_knn": (ItemKNN.fit(IDS, toy_histories()), 1.0)}, IDS).with_counts(Popularity.fit(IDS, toy_histories()))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["vocabulary", "trie"]))
def test_any_items_of_any_catalog_have_the_log_probability_of_an_exact_search(seed: int, objective: str) -> None:
    rng = random.Random(seed)
    grlm = random_grlm(rng, objective)
    histories = [random_history(rng, grlm.catalog) for _ in range(4)]
    m = rng.randint(1, len(grlm.catalog))
    items = [[rng.choice(grlm.catalog.items).item_id for _ in range(m)] for _ in histories]  # with repetitions
    exact = grlm.recommend(histories, len(grlm.catalog), exact=True)
    want = np.array([[{r.item_id: r.log_prob for r in all_}[i] for i in row] for all_, row in zip(exact, items, strict=True)])
    found = grlm.score(histories, items, batch_size=rng.randint(1, 5))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, want, atol=1e-4)
    np.testing.assert_allclose(grlm.score(histories, [row[0] for row in items]), want[:, 0], atol=1e-4)
    np.testing.assert_allclose(grlm.score(histories[0], items[0]), want[0], atol=1e-4)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_seen_items_priors_and_filters_of_the_checkpoint_change_nothing(objective: str) -> None:
    grlm = toy_grlm(objective, exclude_seen=True, own_prior=True)
    grlm.prior = counting()
    history = list(IDS[:3])
    want = brute_force(grlm, history)
    found = grlm.score(history, IDS)
    assert found == pytest.approx([want[grlm.catalog.identifier(i)] for i in IDS], abs=1e-4)
    assert len(set(found.round(3))) > 6  # they do differ


def test_without_a_language_model_it_is_the_priors_probability() -> None:
    grlm = toy_grlm().without_language_model(counting())
    histories = [list(IDS[:2]), [IDS[4]], []]
    found = grlm.score(histories, [IDS] * 3)
    for history, row in zip(histories, found, strict=True):
        said = {r.item_id: r.log_prob for r in grlm.recommend(history, len(IDS), exclude_seen=False)}
        assert row == pytest.approx([said[i] for i in IDS])
    assert found[0] == pytest.approx(np.log(grlm.prior_on(grlm.shelf.index).probabilities(histories[:1])[0]))
    assert np.exp(found).sum(1) == pytest.approx([1, 1, 1])


def test_each_history_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grlm, asked = toy_grlm(), []
    recommend = GRLMForRecommendation.recommend

    def counted(self: GRLMForRecommendation, history: list[list[str]], k: int, **more: object) -> object:
        asked.append((len(history), k))
        return recommend(self, history, k, **more)

    monkeypatch.setattr(GRLMForRecommendation, "recommend", counted)
    assert grlm.score([IDS[:2]] * 5 + [IDS[1:2]], IDS[:6]).shape == (6,)
    assert asked == [(2, 5)]
    assert grlm.score([IDS[:2], IDS[:1]], [[], []]).shape == (2, 0)
    assert len(asked) == 1


def test_bad_calls() -> None:
    grlm = toy_grlm()
    for histories, items, message in (
        (IDS[0], [IDS[0]], "expected a list of item ids"),
        ([IDS[:1]], IDS[0], "items is the string 'i20'; expected a list"),
        ([IDS[:1], IDS[:2]], IDS[:3], "2 histories and items for 3; expected one item, or one list of items, a history"),
        ([IDS[:1], IDS[:2]], [IDS[:1], IDS[:2]], r"have \[1, 2\] ids; expected lists of one length"),
        ([IDS[:1]], ["gone"], "Item 'gone' is not in the catalog"),
        (["gone"], IDS[:1], "Item 'gone' is not in the catalog"),
        ([[]], IDS[:1], "history is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            grlm.score(histories, items)
    with pytest.raises(ValueError, match="batch_size=0"):
        grlm.score([IDS[:1]], IDS[:1], batch_size=0)
