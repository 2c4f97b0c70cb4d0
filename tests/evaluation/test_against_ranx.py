"""Every ranking metric against ranx, an established library with definitions of its own."""

from __future__ import annotations

import random

import numpy as np
import pytest

from grlm_hf.evaluation.metrics import DEPTH, per_case, ranks

NOT_IN_RANX: set[str] = set()
"""Metrics of `per_case` that ranx does not have; `test_metrics.py` checks them against their definition."""


def test_metrics_equal_those_of_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # to compile its metrics takes ranx most of a minute
    ranx = pytest.importorskip("ranx", reason='the cross-check of the metrics needs ranx: pip install "grlm-hf[dev]"')
    rng = random.Random(0)
    items = [f"i{n:03d}" for n in range(60)]
    rankings = [rng.sample(items, rng.choice([1, 4, DEPTH, DEPTH])) for _ in range(400)]
    targets = [rng.choice(ranking if rng.random() < 0.7 else items) for ranking in rankings]
    values = per_case(ranks(rankings, targets))
    assert {v for v in values["mrr"] if v} > {1.0, 1 / DEPTH}  # hits at the top, at the end, and misses
    assert 0 in values["mrr"]

    qrels = ranx.Qrels({f"q{n:03d}": {target: 1} for n, target in enumerate(targets)})
    run = ranx.Run({f"q{n:03d}": {item: float(-place) for place, item in enumerate(r)} for n, r in enumerate(rankings)})
    theirs = {name: name if "@" in name else f"{name}@{DEPTH}" for name in values.keys() - NOT_IN_RANX}
    ranx.evaluate(qrels, run, list(theirs.values()))
    for name, said in theirs.items():
        by_case = [run.scores[said][f"q{n:03d}"] for n in range(len(targets))]
        assert np.abs(values[name] - by_case).max() < 1e-9, name
        if said.startswith("recall"):  # with one target, a hit rate
            assert np.mean(values[name]) == pytest.approx(ranx.evaluate(qrels, run, said.replace("recall", "hit_rate")), abs=1e-9)
