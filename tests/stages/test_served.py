"""What was measured is what is served: a run's checkpoint, and its recommender without a language model, answer as they were evaluated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_toys import running
from test_priors_stage import shop
from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.cli import main
from grlm_hf.data.interactions import Case
from grlm_hf.data.items import Item
from grlm_hf.data.repository import load_cases
from grlm_hf.decoding.rules import Rules
from grlm_hf.doctor.checkpoint import examine_checkpoint
from grlm_hf.files import read_json
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.priors.fused import Fused, fit_temperature
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.text import TextKNN
from grlm_hf.publishing.publish import publish
from grlm_hf.recipe import EvaluateConfig, Recipe, TermsConfig
from grlm_hf.serving import ServeOptions
from grlm_hf.serving.service import Service
from grlm_hf.space.app import load
from grlm_hf.space.session import Session
from grlm_hf.stages import make_report, run
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.scratch import ScratchConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
TRAIN = TrainConfig(
    objective="trie", epochs=1, batch_size=8, validation_examples=0,
    scratch=ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512),
)  # fmt: skip


def recipe(folder: Path, exclude_seen: bool = True) -> Recipe:
    return Recipe(
        data=str(folder / "shop"), output=str(folder / "out"), terms=TermsConfig(generator="file", resolver="rank"), train=TRAIN,
        evaluate=EvaluateConfig(exclude_seen=exclude_seen, resamples=20),
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    shop(folder / "shop", toy_histories())
    run(recipe(folder), lambda _: None)
    return folder / "out"


def post(r: Any, route: str, body: dict[str, Any]) -> Any:
    answer = r.client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(found: Any) -> list[str]:
    return [r.item_id for r in found]


def said_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    monkeypatch.setattr("sys.argv", ["grlm", *args, "--json"])
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
    return json.loads(capsys.readouterr().out)


def test_every_way_to_ask_gives_what_was_evaluated(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = GRLMConfig.load(out / "checkpoint" / "grlm_config.json")
    assert (config.exclude_seen, config.own_prior) == (True, True)
    grlm = GRLMForRecommendation.from_pretrained(out / "checkpoint")
    history = list(load_cases(out / "datasets", "test")[0].history)
    want = grlm.recommend(history, 5, prior="own", exclude_seen=True)
    other = grlm.recommend(history, 5, prior="none", exclude_seen=False)
    assert [r.score for r in want] != [r.score for r in other]
    assert [(r.item_id, r.score) for r in grlm.recommend(history, 5)] == [(r.item_id, r.score) for r in want]
    assert grlm.recommend(history, 5, rules=Rules(domain=None)) == want
    asked = ["recommend", str(out / "checkpoint"), "--history", ",".join(history), "--k", "5"]
    assert ids_of_json(said_by(monkeypatch, capsys, *asked)) == ids(want)
    found = said_by(monkeypatch, capsys, *asked, "--prior", "none", "--no-exclude-seen")
    assert ids_of_json(found) == ids(other)
    page = load(str(out / "checkpoint"))
    (answer,) = page.answers(Session(history=tuple(history)))
    assert answer.found is not None
    assert ids(answer.found)[:5] == ids(want)


def ids_of_json(found: list[dict[str, Any]]) -> list[str]:
    return [r["item_id"] for r in found]


def test_over_http(out: Path, tmp_path: Path) -> None:
    reference = GRLMForRecommendation.from_pretrained(out / "checkpoint")
    history = list(load_cases(out / "datasets", "test")[0].history)
    for options, how in (
        ({}, {"prior": "own", "exclude_seen": True}),
        ({"prior": "none"}, {"prior": "none", "exclude_seen": True}),
        ({"exclude_seen": False}, {"prior": "own", "exclude_seen": False}),
    ):
        with running(ServeOptions(**options), grlm=GRLMForRecommendation.from_pretrained(out / "checkpoint")) as r:
            plain = post(r, "/recommend", {"history": history, "k": 4})
            assert ids_of_json(plain["results"][0]["items"]) == ids(reference.recommend(history, 4, **how))  # type: ignore[arg-type]
            stated = post(r, "/recommend", {"history": history, "k": 4, "prior": "none", "exclude_seen": False})
            assert ids_of_json(stated["results"][0]["items"]) == ids(reference.recommend(history, 4, prior="none", exclude_seen=False))


def test_a_service_with_a_prior_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no prior"):
        Service(toy_grlm(), ServeOptions(prior="own"))


def test_repeat_buyers(tmp_path: Path) -> None:
    shop(tmp_path / "shop", toy_histories())
    run(recipe(tmp_path, exclude_seen=False), lambda _: None)
    for name in ("checkpoint", "counting"):
        assert not GRLMForRecommendation.from_pretrained(tmp_path / "out" / name).config.exclude_seen
    said: list[str] = []
    run(recipe(tmp_path, exclude_seen=False), said.append)
    assert all("unchanged" in line for line in said)
    said.clear()
    run(recipe(tmp_path), said.append)  # the weights depend on it, too
    assert [line.split(":")[0] for line in said if ": → " in line] == ["priors", "hybrid", "evaluate"]
    assert GRLMForRecommendation.from_pretrained(tmp_path / "out" / "checkpoint").config.exclude_seen


def test_older_checkpoints_answer_as_before(tmp_path: Path) -> None:
    grlm = toy_grlm("trie")
    grlm.prior = Fused({"item_knn": (ItemKNN.fit([i.item_id for i in grlm.catalog], toy_histories()), 1.0)})
    grlm.save_pretrained(tmp_path / "c")
    stated = read_json(tmp_path / "c" / "grlm_config.json")
    assert stated["schema"] == 1
    assert not stated.keys() & {"exclude_seen", "own_prior", "language_model"}
    history = ["i20", "i19"]
    assert grlm.recommend(history, 4) == grlm.recommend(history, 4, prior="none", exclude_seen=False)


# --- without a language model --------------------------------------------------------------------------------------------------------


def test_counting_is_saved_and_ranks_as_it_was_evaluated(out: Path) -> None:
    assert read_json(out / "hybrids.json")["counting"]["method"] in ("item_knn", "text_knn", "item_knn+text_knn")
    counting = GRLMForRecommendation.from_pretrained(out / "counting")
    cases = load_cases(out / "datasets", "test")[:8]
    for case in cases:
        found = counting.recommend(list(case.history), 5)
        scores = Fused.load(out / "counting" / "prior").following(counting.catalog).scores([case.history])[0]
        seen = [counting.catalog.position(i) for i in case.history]
        scores[seen] = -np.inf
        best = np.sort(scores)[::-1][:5]
        np.testing.assert_allclose([r.score for r in found], best, rtol=1e-5)
        assert not set(ids(found)) & set(case.history)
        assert found.answered_by == "counting"
    assert "no language model" in str(refusal(lambda: counting.recommend(["i20"], prior="none")))


def refusal(call: Any) -> ValueError:
    with pytest.raises(ValueError, match="language model") as raised:
        call()
    return raised.value


def test_counting_has_rules_and_a_living_catalog(out: Path, tmp_path: Path) -> None:
    counting = GRLMForRecommendation.from_pretrained(out / "counting")
    first = counting.recommend(["i20"], 3)
    assert ids(counting.recommend(["i20"], 3, exclude=[first[0].item_id]))[0] != first[0].item_id
    assert ids(counting.recommend(["i20"], 3, allow=[first[2].item_id])) == [first[2].item_id]
    assert counting.recommend([], 2).answered_by == "popularity"
    found = counting.recommend([["i20"], ["nowhere"]], 2, unknown_items="skip")
    assert [f.answered_by for f in found] == ["counting", "popularity"]
    counting.add_items([Item("new", counting.catalog["i20"].title + " new")])
    assert len(counting.recommend(["new"], 3)) == 3
    counting.save_pretrained(tmp_path / "again")
    assert ids(GRLMForRecommendation.from_pretrained(tmp_path / "again").recommend(["i20"], 3)) == ids(counting.recommend(["i20"], 3))


def counting_by_text(*, counts: bool) -> GRLMForRecommendation:
    """A recommender that compares texts alone; with counts of events, or as an older version saved it."""
    ids_ = [i.item_id for i in toy_catalog()]
    prior = Fused({"text_knn": (TextKNN.fit(toy_catalog().items), 1.0)}, ids_)
    return toy_grlm().without_language_model(prior.with_counts(Popularity.fit(ids_, toy_histories())) if counts else prior)


def test_what_knows_nothing_of_a_history_has_no_opinion(tmp_path: Path) -> None:
    """A uniform score is the order of the catalog, and is not called popularity."""
    counted, plain = counting_by_text(counts=True), counting_by_text(counts=False)
    count = Counter(item for h in toy_histories() for item in h.items)
    order = sorted((i.item_id for i in counted.catalog), key=lambda i: -count[i])
    counted.save_pretrained(tmp_path / "c")
    for grlm in (counted, GRLMForRecommendation.from_pretrained(tmp_path / "c")):
        found = grlm.recommend([], 4)
        assert (ids(found), found.answered_by) == (order[:4], "popularity")
        np.testing.assert_allclose([r.score for r in found], [np.log((count[i] + 1) / (count.total() + 12)) for i in order[:4]])
        assert ids(grlm.recommend([], 3, exclude=order[:1])) == order[1:4]
    found = plain.recommend([], 4)
    assert (ids(found), found.answered_by) == ([i.item_id for i in plain.catalog][:4], "catalog")
    assert len({r.score for r in found}) == 1
    for grlm in (counted, plain):
        grlm.add_items([Item("blank", "…")], [("blank",)])  # a text without a word, and no events
        assert [f.answered_by for f in grlm.recommend([["i20"], ["blank"], ["blank", "i20"]], 2)] == [
            "counting", "popularity" if grlm is counted else "catalog", "counting",
        ]  # fmt: skip
    assert ids(counted.recommend(["i20"], 4)) == ids(plain.recommend(["i20"], 4))


def test_equal_scores_are_in_order_of_popularity() -> None:
    ids_ = [i.item_id for i in toy_catalog()]

    @dataclass(frozen=True)
    class Steps:
        """Rates the last item of the catalog highest, and all others alike."""

        item_ids: tuple[str, ...] = tuple(ids_)

        @property
        def known(self) -> np.ndarray:
            return np.ones(len(ids_), bool)

        def scores(self, histories: Any) -> np.ndarray:
            row = np.zeros(len(ids_), np.float32)
            row[-1] = 1
            return np.tile(row - np.log(np.exp(row).sum()), (len(histories), 1))

    counts = Popularity(tuple(ids_), np.arange(len(ids_)))
    grlm = toy_grlm().without_language_model(Fused({"steps": (Steps(), 1.0)}, ids_).with_counts(counts))
    found = grlm.recommend(ids_[:1], 4)
    assert (ids(found), found.answered_by) == ([ids_[-1], *ids_[-2:-5:-1]], "counting")
    found = grlm.recommend(ids_[-1:], 3)  # all others are alike
    assert found.answered_by == "popularity"


def test_what_needs_a_language_model_is_refused_by_name(out: Path) -> None:
    counting = GRLMForRecommendation.from_pretrained(out / "counting")
    for call in (
        lambda: counting.explain(["i20"], "i19"),
        lambda: counting.sample(["i20"], 2),
        lambda: counting.model,
        lambda: make_report(out / "counting", out / "datasets", out / "r.json"),
        lambda: load(str(out / "counting")),
        lambda: GRLMForRecommendation.from_pretrained(out / "counting", backend="vllm"),
    ):
        assert "without a language model" in str(refusal(call))


def test_counting_is_served_examined_and_published(out: Path, hub: Any) -> None:
    with running(grlm=GRLMForRecommendation.from_pretrained(out / "counting")) as r:
        added = post(r, "/items", {"items": [{"item_id": "new-1", "title": "Green tea kettle of steel"}]})
        assert added["added"]["new-1"]
        answer = post(r, "/recommend", {"history": ["i20", "new-1"], "k": 3})["results"][0]
        assert answer["answered_by"] == "counting"
        assert len(answer["items"]) == 3
    assert not [f for f in examine_checkpoint(out / "counting")[1] if f.level == "error"]
    card = (out / "counting" / "README.md").read_text(encoding="utf-8")
    assert "| recall@10 |" in card
    published = publish(out / "counting", "org/counting", license="mit")
    assert published.url
    fetched = GRLMForRecommendation.from_pretrained("org/counting")
    assert ids(fetched.recommend(["i20"], 3)) == ids(GRLMForRecommendation.from_pretrained(out / "counting").recommend(["i20"], 3))


def test_a_temperature_makes_probabilities_honest_and_changes_no_ranking(tmp_path: Path) -> None:
    histories = toy_histories()
    items = [i.item_id for i in toy_grlm().catalog]
    knn = ItemKNN.fit(items, histories)
    prior = Fused({"item_knn": (knn, 3.0)}, items)  # three times too sure
    cases = [Case(h.user_id, h.items[:-1], items[n % len(items)]) for n, h in enumerate(histories)]  # what nobody can foresee
    temperature, before, after = fit_temperature(prior, cases)
    assert after < before
    assert temperature > 1
    cool = Fused(prior.components, items, temperature)
    some = [c.history for c in cases[:5]]
    scores = cool.scores(some)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-4)
    assert (np.argsort(-scores, 1, kind="stable")[:, :3] == np.argsort(-prior.scores(some), 1, kind="stable")[:, :3]).all()
    loss = -np.mean([cool.scores([c.history])[0][items.index(c.target)] for c in cases])
    assert loss == pytest.approx(after, rel=1e-4)
    assert fit_temperature(cool, cases) == pytest.approx((temperature, before, after), rel=1e-3)
    cool.save(tmp_path / "prior")
    assert Fused.load(tmp_path / "prior").temperature == temperature
    assert cool.following(toy_grlm().catalog).temperature == temperature
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            Fused(prior.components, items, wrong)
