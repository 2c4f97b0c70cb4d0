"""What a method costs: tokens and forwards as the model sees them, parameters as they are, and times that are nobody's business but the
report's."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_toys import full_report
from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.evaluation.config import EvaluateConfig, RerankConfig
from grlm_hf.evaluation.costs import costs, stored_numbers
from grlm_hf.evaluation.generative import constrained, free, reranked
from grlm_hf.evaluation.rankings import Rankings
from grlm_hf.evaluation.report import all_tables, load_report
from grlm_hf.evaluation.report.page import page
from grlm_hf.evaluation.schema import Cost, Costs, Report, parsed
from grlm_hf.evaluation.scored import scored
from grlm_hf.files import read_json
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.ease import EASE
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.sequence import SequenceConfig, SequenceModel, make_network
from grlm_hf.priors.text import TextKNN
from grlm_hf.recipe import DataConfig
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_report
from grlm_hf.tasks.config import MixtureConfig

CATALOG = toy_catalog()
IDS = tuple(i.item_id for i in CATALOG)
TRAIN = leave_one_out(toy_histories()).train
HISTORIES = [list(IDS[n : n + 1 + n % 3]) for n in range(5)]


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_tokens_and_forwards_are_those_that_the_model_gets(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grlm = toy_grlm(objective)
    seen: list[int] = []
    forward = grlm.model.forward

    def counted(*args: Any, **inputs: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return forward(*args, **inputs)

    monkeypatch.setattr(grlm.model, "forward", counted)
    prior = Fused({"popularity": (Popularity.fit(IDS, TRAIN), 1.0)})
    methods = {"grlm": constrained(grlm, True), "grlm+popularity": constrained(grlm, True, prior=prior)}
    if objective == "vocabulary":
        methods["grlm_free"] = free(grlm, True, num_beams=2)
    size = sum(p.numel() for p in grlm.model.parameters())
    for name, method in methods.items():
        some = HISTORIES[:2] if name == "grlm_free" else HISTORIES
        method(HISTORIES[:1])
        uncounted = len(seen)  # forwards of the first call
        (cost,) = costs({name: method}, some, [grlm], {"grlm+popularity": 12}).methods.values()
        counted_ones = seen[2 * uncounted :]
        seen.clear()
        assert cost.forwards == len(counted_ones) / len(some)
        assert cost.flops == pytest.approx(2 * size * sum(counted_ones) / len(some))
        assert cost.prompt_tokens == pytest.approx(np.mean([grlm.prompt_tokens(h).shape[1] for h in some]))
        assert cost.parameters == size + (12 if "+" in name else 0)
    assert not grlm.model.get_input_embeddings()._forward_pre_hooks
    alone = [grlm.recommend(h, 12, exclude_seen=True).forwards for h in HISTORIES]
    assert costs({"grlm": methods["grlm"]}, HISTORIES, [grlm], {}).methods["grlm"].forwards == np.mean(alone)


def test_each_method_has_the_model_that_it_calls() -> None:
    one, other = toy_grlm("trie"), toy_grlm("vocabulary", seed=1)
    popular = scored(Popularity.fit(IDS, TRAIN), CATALOG, False)
    methods = {"grlm": constrained(one, True), "zero-shot": constrained(other, True), "popularity": popular}
    methods |= {"rerank(popularity)": reranked(one, popular, 3), "own": popular}
    other.model.resize_token_embeddings(len(other.tokenizer) + 5)
    found = costs(methods, HISTORIES, [one, other], {"popularity": 12, "own": None}).methods
    size = [sum(p.numel() for p in grlm.model.parameters()) for grlm in (one, other)]
    assert {name: cost.parameters for name, cost in found.items()} == {
        "grlm": size[0], "zero-shot": size[1], "popularity": 12, "rerank(popularity)": size[0] + 12, "own": None,
    }  # fmt: skip
    for name in ("popularity", "own"):
        assert (found[name].prompt_tokens, found[name].forwards, found[name].flops) == (None, None, None)


def test_times_are_of_single_users() -> None:
    waits = iter([9, 1, 1, 1, 1, 21])  # ms; the first call is not counted

    def slow(histories: Any) -> Rankings:
        assert len(histories) == 1
        time.sleep(next(waits) / 1000)
        return Rankings([[]])

    cost = costs({"slow": slow}, HISTORIES, [toy_grlm()], {}).methods["slow"]
    assert 1 <= cost.ms_p50 < 9
    assert cost.ms_p95 >= 0.2 * cost.ms_p50 + 0.8 * 17 - 1  # between the fourth and the fifth of five


def test_what_recommenders_hold() -> None:
    popular, knn, text = Popularity.fit(IDS, TRAIN), ItemKNN.fit(IDS, TRAIN), TextKNN.fit(CATALOG.items)
    shape = SequenceConfig(layers=1, width=16, heads=2)
    decoder = SequenceModel(IDS, np.ones(12, np.int64), make_network(12, shape, 0), shape)
    ease = EASE.fit(IDS, TRAIN)
    grlm = toy_grlm()
    dense = grlm.dense_on()
    assert stored_numbers(popular) == 12
    assert stored_numbers(knn) == len(knn.weights)
    assert stored_numbers(ease) == len(ease.weights)
    assert stored_numbers(text) == text.vectors.shape[0] * text.vectors.shape[1]
    assert stored_numbers(dense) == 12 * 32
    assert stored_numbers(decoder) == sum(p.numel() for p in decoder.net.parameters()) > 12 * 16
    fused = Fused({"item_knn": (knn, 0.5), "popularity": (popular, 0.0)})
    assert stored_numbers(fused) == len(knn.weights) + 12
    assert stored_numbers(Chance(IDS)) is None


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_shows_its_costs_and_one_without_them_is_read() -> None:
    measured = {
        "grlm": Cost(parameters=1_234_567, prompt_tokens=41.5, forwards=7.25, flops=3.21e9, ms_p50=12.3, ms_p95=45.6),
        "item_popularity": Cost(parameters=12, ms_p50=0.5, ms_p95=0.75),
    }
    report = full_report()
    with_costs = replace(report, costs=Costs(32, "a <toaster>", measured))
    assert "costs" not in report.to_json()
    assert parsed(Report, report.to_json(), "the report") == report
    assert parsed(Report, json.loads(json.dumps(with_costs.to_json())), "the report") == with_costs
    assert with_costs.to_json()["costs"]["methods"]["item_popularity"] == {"parameters": 12, "ms_p50": 0.5, "ms_p95": 0.75}
    for shown in (all_tables(with_costs), all_tables(with_costs, markdown=True)):
        assert "Costs" in shown
        assert "1,234,567" in shown
        assert "3.21e+09" in shown
        assert "32 users on a" in shown
    assert "Costs" not in all_tables(report)
    html = page(with_costs)
    assert "What it costs" in html
    assert "a &lt;toaster&gt;" in html
    assert "What it costs" not in page(report)


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_has_the_costs_of_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CATALOG.save_pretrained(tmp_path / "catalog")
    rows = [{"user_id": h.user_id, "items": list(h.items)} for h in toy_histories()]
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_dataset(tmp_path, tmp_path / "catalog", tmp_path / "d", MixtureConfig(max_history=3), DataConfig())
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    config = EvaluateConfig(resamples=10, timed_users=3, rerank=RerankConfig("popularity", 4))
    report = make_report(tmp_path / "checkpoint", tmp_path / "d", tmp_path / "report.json", config)
    assert load_report(tmp_path / "report.json") == report
    assert report.costs is not None
    assert report.costs.users == 3
    assert list(report.costs.methods) == list(report.methods)
    size = report.costs.methods["grlm"].parameters
    assert size is not None
    assert report.costs.methods["rerank(popularity)"].parameters == size + 12
    assert (report.costs.methods["popularity"].parameters, report.costs.methods["random"].parameters) == (12, 0)
    assert {"costs"} == read_json(tmp_path / "checkpoint/card/report.json").keys() - replace(report, costs=None).to_json().keys()
    without = make_report(tmp_path / "checkpoint", tmp_path / "d", tmp_path / "none.json", replace(config, timed_users=0))
    assert without == replace(report, costs=None)  # nothing else depends on them
