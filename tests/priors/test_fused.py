"""Scorers together, and as the prior of a checkpoint."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from toys import close, some_histories, toy_catalog, toy_grlm, toy_histories

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import Case, History
from grlm_hf.layout import PRIOR_FOLDER
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.scores import Scorer
from grlm_hf.priors.sequence import SequenceConfig, SequenceModel, make_network
from grlm_hf.priors.text import TextKNN
from grlm_hf.priors.tuning import WEIGHTS, Targets, tune_weights

CATALOG = toy_catalog()
IDS = [i.item_id for i in CATALOG]
TRAIN = [History(h.user_id, h.items[:-1]) for h in toy_histories() if IDS[0] not in h.items[:-1]]  # the first item is never seen
CONFIG = SequenceConfig(layers=1, width=8, heads=1)
NEW = Item("i99", "Title 99 stove", description="stove kitchen gas steel")


def scorers() -> dict[str, Scorer]:
    knn = ItemKNN.fit(IDS, TRAIN)
    return {
        "sasrec": SequenceModel(tuple(IDS), knn.counts, make_network(len(IDS), CONFIG, 1).eval(), CONFIG),
        "item_knn": knn,
        "text_knn": TextKNN.fit(CATALOG.items),
        "popularity": Popularity.fit(IDS, TRAIN),
        "random": Chance(tuple(IDS)),
    }


ALL = scorers()
SHIPPED = {name: scorer for name, scorer in ALL.items() if name != "random"}


def fused(**weights: float) -> Fused:
    return Fused({name: (ALL[name], weight) for name, weight in weights.items()})


def grlm_with(prior: Fused) -> GRLMForRecommendation:
    grlm = toy_grlm()
    grlm.prior = prior
    return grlm


def by_hand(prior: Fused, catalog: Catalog, history: list[str]) -> dict[str, float]:
    """Σ weight · log p by item id; medians where a scorer knows nothing."""
    total = dict.fromkeys((i.item_id for i in catalog), 0.0)
    for scorer, weight in prior.components.values():
        now = scorer.following(catalog.items) if isinstance(scorer, TextKNN) else scorer
        row = now.scores([history])[0].astype(float)
        known = {i: s for i, s, k in zip(now.item_ids, row, now.known, strict=True) if k}
        for item in total:
            total[item] += weight * known.get(item, float(np.median(list(known.values()))))
    return total


# --- every scorer -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_scorer_keeps_to_the_protocol(name: str) -> None:
    scorer, histories = ALL[name], [[], ["unknown"], *some_histories(4)]
    scores = scorer.scores(histories)
    assert scores.dtype == np.float32
    assert scores.shape == (len(histories), len(IDS))
    assert np.isfinite(scores).all()
    assert np.allclose(np.exp(scores.astype(float)).sum(1), 1, atol=1e-4)
    scores[:] = 0  # the caller's own
    again = scorer.scores(histories)
    assert np.allclose(again[2:5], scorer.scores(histories[2:5]), atol=1e-5)
    assert np.allclose(again[5], scorer.scores([[*histories[5][:1], "unknown", *histories[5][1:]]])[0], atol=1e-5) or name == "random"
    assert (scorer.item_ids, scorer.known.dtype, scorer.known.shape) == (tuple(IDS), bool, (12,))
    assert scorer.scores([]).shape == (0, 12)


# --- together -----------------------------------------------------------------------------------------------------------------------


def test_a_fused_row_is_the_weighted_sum_normalised() -> None:
    prior = fused(sasrec=0.7, item_knn=2.0, text_knn=0.5)
    for history in some_histories(3):
        expected = np.array(list(by_hand(prior, CATALOG, history).values()))
        row = prior.scores([history])[0]
        assert np.allclose(row, expected - np.log(np.exp(expected).sum()), atol=1e-4)
        assert np.allclose(prior.probabilities([history])[0], np.exp(row.astype(float)))
    assert np.allclose(fused(item_knn=1.0).scores([IDS[:2]])[0][1:], ALL["item_knn"].scores([IDS[:2]])[0][1:], atol=0.2)
    assert prior.known.all()  # by its text
    assert fused(sasrec=1.0, item_knn=1.0).known.tolist() == [False] + [True] * 11
    assert prior.weighted({"item_knn": 3.0}).weights == {"item_knn": 3.0}


def test_it_follows_a_catalog() -> None:
    prior = fused(sasrec=1.0, item_knn=2.0, text_knn=0.5)
    assert prior.following(CATALOG) is prior
    changed = CATALOG.add([NEW], [("stove", "new")]).remove([IDS[3], IDS[4]])
    now = prior.following(changed)
    assert now.item_ids == tuple(i.item_id for i in changed)
    for history in ([NEW.item_id], [IDS[5], NEW.item_id], IDS[1:4]):
        expected = np.array(list(by_hand(prior, changed, history).values()))
        assert np.allclose(now.scores([history])[0], expected - np.log(np.exp(expected).sum()), atol=1e-4)
    back = now.following(CATALOG)
    assert np.allclose(back.scores(some_histories(2)), prior.scores(some_histories(2)), atol=1e-6)


def test_a_saved_one_answers_the_same(tmp_path: Path) -> None:
    prior = Fused({name: (scorer, 0.5 + n) for n, (name, scorer) in enumerate(SHIPPED.items())})
    prior.save(tmp_path / "prior")
    prior.save(tmp_path / "prior")  # takes its own place
    again = Fused.load(tmp_path / "prior")
    assert again.weights == prior.weights
    assert np.array_equal(again.scores(some_histories(3)), prior.scores(some_histories(3)))


def test_a_broken_folder_is_refused(tmp_path: Path) -> None:
    prior = fused(item_knn=1.0, popularity=1.0)
    prior.save(tmp_path / "prior")
    stated = (tmp_path / "prior" / "prior.json").read_text()
    for found, said in (
        ({"schema": 99}, "schema 99"),
        ({"components": []}, "states no schema"),
        ({"schema": 1, "components": [{"name": "x", "kind": "magic"}]}, "magic"),
        ({"schema": 1, "components": [{"name": "../x", "kind": "knn"}]}, "is called '../x'"),
        ({"schema": 1, "components": [{**json.loads(stated)["components"][0], "items": "other"}]}, "has other items than"),
        ({"schema": 1, "components": []}, "at least one component"),
    ):
        (tmp_path / "prior" / "prior.json").write_text(json.dumps(found))
        with pytest.raises(ValueError, match=said):
            Fused.load(tmp_path / "prior")
    (tmp_path / "prior" / "prior.json").write_text(stated)
    (tmp_path / "prior" / "item_knn.prior").unlink()
    with pytest.raises(ValueError, match="No knn model"):
        Fused.load(tmp_path / "prior")
    with pytest.raises(ValueError, match="not a readable JSON file"):
        Fused.load(tmp_path / "none")
    with pytest.raises(ValueError, match="is a Chance, which has no file"):
        fused(random=1.0).save(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    with pytest.raises(ValueError, match="will not replace it"):
        prior.save(tmp_path / "mine")


def test_refuses_what_cannot_be_fused() -> None:
    with pytest.raises(ValueError, match="at least one component"):
        Fused({})
    with pytest.raises(ValueError, match="is called 'a/b'"):
        Fused({"a/b": (ALL["random"], 1.0)})
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="The weight of 'random' is"):
            fused(random=weight)
    with pytest.raises(ValueError, match="no component 'grlm'"):
        fused(random=1.0).weighted({"grlm": 1.0})


# --- weights ------------------------------------------------------------------------------------------------------------------------


def test_weights_are_the_best_of_the_grid() -> None:
    """Of two parts, against trying all; the same every time."""
    rng = np.random.default_rng(1)
    many = [f"n{n}" for n in range(60)]
    cases = [Case(f"u{n}", (many[n % 60],), many[int(t)]) for n, t in enumerate(rng.integers(0, 60, 150))]
    parts = {name: rng.normal(size=(150, 60)).astype(np.float32) for name in ("a", "b")}
    for n, case in enumerate(cases):  # `b` knows something of the target, `a` less
        parts["a"][n, many.index(case.target)] += 0.8
        parts["b"][n, many.index(case.target)] += 1.5
    targets = Targets(many, cases)
    tried = {w: targets.ndcg(parts["a"] + np.float32(w) * parts["b"]).mean() for w in WEIGHTS}
    weights, best = tune_weights(parts, cases, many)
    assert (weights["a"], best) == (1.0, max(tried.values()))
    assert tried[weights["b"]] == best > max(tried[0.0], targets.ndcg(parts["b"].copy()).mean())
    assert tune_weights(parts, cases, many) == (weights, best)
    assert tune_weights({**parts, "c": np.zeros_like(parts["a"])}, cases, many)[0]["c"] == 0  # what says nothing counts nothing
    with pytest.raises(ValueError, match=r"expected \[150 cases, 60 items\]"):
        tune_weights({"a": parts["a"][1:]}, cases, many)
    with pytest.raises(ValueError, match="no scorers"):
        tune_weights({}, cases, many)
    with pytest.raises(ValueError, match="no validation cases"):
        tune_weights({"a": parts["a"][:0]}, [], many)


# --- in a checkpoint ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"exact": True}, {"exclude_seen": True, "prior_weight": 0.3}])
def test_the_own_prior_is_the_matrix_of_its_probabilities(how: dict[str, object]) -> None:
    prior = fused(sasrec=0.5, item_knn=1.0, text_knn=0.5)
    grlm, histories = grlm_with(prior), some_histories(3)
    matrix = np.array([list(by_hand(prior, CATALOG, h).values()) for h in histories])
    matrix = np.exp(matrix - np.log(np.exp(matrix).sum(1, keepdims=True)))
    own, given = (grlm.recommend(histories, k=9, prior=p, **how) for p in ("own", matrix))
    plain = grlm.recommend(histories, k=9, **{n: v for n, v in how.items() if n != "prior_weight"})
    for one, other in zip(own, given, strict=True):
        assert [r.item_id for r in one] == [r.item_id for r in other]
        assert all(close(a.score, b.score, 1e-3) for a, b in zip(one, other, strict=True))
    assert [[r.item_id for r in one] for one in own] != [[r.item_id for r in one] for one in plain]
    assert [r.item_id for r in grlm.recommend(histories[0], k=9, prior="own", **how)] == [r.item_id for r in own[0]]


def test_the_own_prior_follows_the_catalog(tmp_path: Path) -> None:
    prior = fused(sasrec=0.5, item_knn=1.0, text_knn=1.0)
    grlm = grlm_with(prior)
    histories = [[IDS[5]], [IDS[4], IDS[6]]]
    before = grlm.recommend(histories, prior="own")
    changes = (
        lambda: grlm.add_items([NEW], [("stove", "kitchen", "new")]),
        lambda: grlm.remove_items([IDS[3], IDS[7]]),
        lambda: grlm.update_items([Item(IDS[1], "Another title", description="mug green kitchen")]),
    )
    for change in changes:
        change()
        catalog = grlm.catalog
        matrix = np.exp(np.array([list(by_hand(prior, catalog, h).values()) for h in histories]))
        for one, other in zip(*(grlm.recommend(histories, prior=p) for p in ("own", matrix)), strict=True):
            assert [r.item_id for r in one] == [r.item_id for r in other]
    assert NEW.item_id in {r.item_id for r in grlm.recommend([IDS[5]], k=11, prior="own")}
    assert grlm.recommend([NEW.item_id], prior="own")
    grlm.save_pretrained(tmp_path / "checkpoint")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert again.recommend(histories, prior="own") == grlm.recommend(histories, prior="own")
    grlm.remove_items([NEW.item_id])
    grlm.add_items([i for i in CATALOG if i.item_id in (IDS[3], IDS[7])], [CATALOG.term_id(IDS[3]), CATALOG.term_id(IDS[7])])
    grlm.update_items([CATALOG[IDS[1]]])
    for one, other in zip(grlm.recommend(histories, prior="own"), before, strict=True):
        assert {(r.item_id, round(r.score, 3)) for r in one if r.score > other[-1].score} == {
            (r.item_id, round(r.score, 3)) for r in other[:-1]
        }


def test_a_prior_comes_and_goes_with_its_checkpoint(tmp_path: Path) -> None:
    grlm = toy_grlm()
    with pytest.raises(ValueError, match="this checkpoint has no prior"):
        grlm.recommend([IDS[0]], prior="own")
    with pytest.raises(ValueError, match="prior is 'other'; expected 'own'"):
        grlm.recommend([IDS[0]], prior="other")
    grlm.save_pretrained(tmp_path / "checkpoint")
    assert GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint").prior is None
    grlm.prior = fused(item_knn=1.0)
    one = grlm.recommend([IDS[2]], prior="own")
    grlm.prior = fused(popularity=3.0)
    assert grlm.recommend([IDS[2]], prior="own") != one
    grlm.save_pretrained(tmp_path / "checkpoint")
    assert sorted(p.name for p in (tmp_path / "checkpoint" / PRIOR_FOLDER).iterdir()) == ["popularity.prior", "prior.json"]
    assert GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint").prior.weights == {"popularity": 3.0}
    grlm.prior = None
    grlm.save_pretrained(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / PRIOR_FOLDER).exists()


def test_readers_see_one_version_of_catalog_and_prior() -> None:
    grlm, stop, failed = grlm_with(fused(item_knn=1.0, text_knn=1.0)), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                grlm.recommend([IDS[5]], k=5, prior="own")
            except Exception as error:
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        grlm.add_items([NEW], [("stove", "kitchen", "new")])
        grlm.remove_items([NEW.item_id])
    stop.set()
    reader.join()
    assert not failed


def test_it_is_pushed_with_its_checkpoint(hub: object) -> None:
    grlm = grlm_with(fused(item_knn=1.0, text_knn=0.5))
    grlm.push_to_hub("tester/with-prior")
    again = GRLMForRecommendation.from_pretrained("tester/with-prior")
    assert again.recommend([IDS[2]], prior="own") == grlm.recommend([IDS[2]], prior="own")
    grlm.prior = None
    grlm.push_to_hub("tester/with-prior")
    assert GRLMForRecommendation.from_pretrained("tester/with-prior").prior is None
