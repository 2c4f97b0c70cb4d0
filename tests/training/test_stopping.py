"""Early stopping on what the constrained search finds for validation users."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_run import SPLIT, STOPPING, toy_train
from toys import toy_grlm

from grlm_hf.evaluation.metrics import per_case
from grlm_hf.training.callbacks import ranks_metrics, stopping_state, target_ranks
from grlm_hf.training.config import EarlyStoppingConfig


@given(st.lists(st.none() | st.integers(0, 30), min_size=1, max_size=20))
def test_metrics_are_those_of_the_evaluation(found: list[int | None]) -> None:
    each = per_case(np.array([0 if rank is None else rank + 1 for rank in found]))
    assert ranks_metrics(found) == pytest.approx({name: each[name].mean() for name in ("recall@10", "ndcg@10")}, abs=1e-12)


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 4), st.sampled_from([0.0, 0.15]))
def test_patience_counts_askings_without_a_gain(values: list[int], patience: int, min_gain: float) -> None:
    config = EarlyStoppingConfig("recall@10", patience=patience, min_gain=min_gain)
    log = [{"loss": 1.0, "step": 0}] + [{"eval_recall@10": v / 10, "step": 7 * n} for n, v in enumerate(values)]
    best, over = stopping_state(log, config)
    if not values:
        assert (best, over) == (None, False)
        return
    held = [0]  # brute force: walk through the askings
    for n in range(1, len(values)):
        if values[n] / 10 > values[held[-1]] / 10 + min_gain:
            held.append(n)
    assert best == 7 * held[-1]
    assert over == (len(values) - 1 - held[-1] >= patience)


def test_places_are_those_of_the_target_among_the_recommended() -> None:
    grlm = toy_grlm("trie")
    for case, place in zip(SPLIT.validation, target_ranks(grlm, SPLIT.validation), strict=True):
        listed = [r.item_id for r in grlm.recommend(case.history, 10, exclude_seen=True)]
        assert place == (listed.index(case.target) if case.target in listed else None)
    assert target_ranks(grlm, []) == []


def test_seen_items_are_kept_where_the_evaluation_keeps_them(tmp_path: Path) -> None:
    seen = [replace(case, target=case.history[-1]) for case in SPLIT.validation]
    grlm = toy_grlm("trie")
    assert set(target_ranks(grlm, seen)) == {None}
    assert {rank is None for rank in target_ranks(grlm, seen, exclude_seen=False)} == {True, False}
    stopping = EarlyStoppingConfig("recall@10", users=30)
    settings: dict[str, Any] = {"early_stopping": stopping, "epochs": 1, "max_steps": 6, "validation_examples": 0}
    log = []
    for exclude_seen in (True, False):
        with mock.patch("toy_run.SPLIT", replace(SPLIT, validation=tuple(seen))):
            toy_train(tmp_path / str(exclude_seen), exclude_seen=exclude_seen, **settings)
        entries = json.loads((tmp_path / str(exclude_seen) / "work" / "log.json").read_text())
        log.append([e["eval_recall@10"] for e in entries if "eval_recall@10" in e])
    assert log[0] == [0.0]
    assert log[1][0] > 0


def test_it_stops_and_keeps_the_best_weights(tmp_path: Path) -> None:
    stopping = EarlyStoppingConfig("ndcg@10", users=30, every=3, patience=3)
    grlm = toy_train(tmp_path, objective="trie", early_stopping=stopping, dropout=0.3, learning_rate=0.1, validation_examples=0, epochs=20)
    log = json.loads((tmp_path / "work" / "log.json").read_text())
    asked = {e["step"]: e["eval_ndcg@10"] for e in log if "eval_ndcg@10" in e}
    best = max(asked, key=lambda step: (asked[step], -step))
    assert list(asked) == list(range(3, best + 10, 3))  # three more, and no step behind them
    assert max(e["step"] for e in log) == best + 9 < 120
    assert [p.name for p in (tmp_path / "work").glob("best-*")] == [f"best-{best}"]
    cases = SPLIT.validation
    chosen = random.Random(3).sample(list(cases), 30)
    assert ranks_metrics(target_ranks(grlm, chosen))["ndcg@10"] == pytest.approx(asked[best], abs=1e-12)


def test_each_epoch_by_default(tmp_path: Path) -> None:
    toy_train(tmp_path, early_stopping=EarlyStoppingConfig("recall@10", users=5), epochs=2, max_steps=8)
    log = json.loads((tmp_path / "work" / "log.json").read_text())
    assert [e["step"] for e in log if "eval_recall@10" in e] == [6]
    assert [e["step"] for e in log if "eval_loss" in e] == [6, 8]


def test_no_validation_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy_run.SPLIT", replace(SPLIT, validation=()))
    with pytest.raises(ValueError, match=r"ndcg@10 needs validation users, and there are none.*read\.split"):
        toy_train(tmp_path, early_stopping=STOPPING)
