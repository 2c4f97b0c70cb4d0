"""Every method, every case, the full catalog: one protocol for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.catalog import Catalog
from grlm_hf.evaluation.metrics import DEPTH, bootstrap, per_case, ranks
from grlm_hf.files import read_json, write_json
from grlm_hf.interactions import Case

REPORT_SCHEMA = "grlm.report/1"
RATES_AT = 10
"""Outputs of each ranking that valid, direct-hit rate and coverage count, as in the paper."""


@dataclass(frozen=True)
class Rankings:
    """What a method answers: for each history up to `DEPTH` item ids, best first. ``None`` stands for an output that names no item.

    `direct_hits`, of methods that write identifiers: the share of the first ten outputs that named an item exactly, without grounding.
    """

    items: Sequence[Sequence[str | None]]
    direct_hits: Sequence[float] | None = None


Method = Callable[[Sequence[Sequence[str]]], Rankings]
"""A recommender as the evaluator knows it: histories (item ids, oldest first) → rankings."""


def evaluate(
    methods: dict[str, Method],
    cases: Sequence[Case],
    catalog: Catalog,
    *,
    dataset: str,
    split: str,
    seen: str,
    seed: int = 0,
    resamples: int = 1000,
    work: str | Path | None = None,
    chunk: int = 1024,
) -> dict[str, Any]:
    """The report of all methods on all cases: ``{schema, dataset, protocol, methods: {NAME: {METRIC: {value, low, high}}}}``.

    Args:
        dataset: its name, for the report.
        split: how the cases were held out.
        seen: whether methods leave out seen items; stated in the protocol.
        work: a folder that keeps finished chunks, so that an interrupted evaluation goes on where it stopped.

    Raises:
        ValueError: no cases, or a method that answers with other than one ranking a history, or with an item twice.
    """
    if not cases:
        raise ValueError("No cases to evaluate; the split holds nothing out.")
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "dataset": dataset,
        "protocol": {
            "split": split,
            "users": len({c.user_id for c in cases}),
            "cases": len(cases),
            "candidates": len(catalog),
            "seen_items": seen,
            "seed": seed,
            "ties": "items that share a Term ID: ascending item_id; equal popularity: ascending item_id",
            "depth": DEPTH,
            "rates_at": RATES_AT,
            "resamples": resamples,
        },
        "methods": {},
    }
    for name, method in methods.items():
        rankings = _ranked(name, method, cases, Path(work) if work else None, chunk)
        report["methods"][name] = _measure(rankings, cases, catalog, resamples, seed)
    return report


def _measure(rankings: Rankings, cases: Sequence[Case], catalog: Catalog, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    values = per_case(ranks(rankings.items, [c.target for c in cases]))
    heads = [ranking[:RATES_AT] for ranking in rankings.items]
    # of the ten answers asked for, or of all there can be once the history is left out
    due = [min(RATES_AT, len(catalog) - len(set(c.history))) for c in cases]
    values["valid_rate"] = np.array([sum(i in catalog for i in head) / max(d, len(head), 1) for head, d in zip(heads, due, strict=True)])
    if rankings.direct_hits is not None:
        values["direct_hit_rate"] = np.array(rankings.direct_hits)
    measured = bootstrap(values, [c.user_id for c in cases], resamples, seed)
    coverage = len({i for head in heads for i in head if i in catalog}) / len(catalog)
    # a property of this set of users and no mean over them, so it has no bootstrap interval
    measured["coverage"] = {"value": coverage, "low": coverage, "high": coverage}
    return measured


def _ranked(name: str, method: Method, cases: Sequence[Case], work: Path | None, chunk: int) -> Rankings:
    from tqdm.auto import tqdm

    items: list[Sequence[str | None]] = []
    direct: list[float] = []
    with tqdm(total=len(cases), desc=name, unit="user", disable=len(cases) < 200) as bar:
        for start in range(0, len(cases), chunk):
            histories = [c.history for c in cases[start : start + chunk]]
            digest = hashlib.sha256(json.dumps([name, histories]).encode()).hexdigest()[:16]
            part = work / f"{name}-{start:09d}-{digest}.json" if work else None
            if part and part.is_file():
                saved = read_json(part)
                answer = Rankings(saved["items"], saved["direct_hits"])
            else:
                answer = method(histories)
                _check(name, answer, histories)
                if part:
                    write_json(part, {"items": answer.items, "direct_hits": answer.direct_hits})
            items += answer.items
            direct += answer.direct_hits or []
            bar.update(len(histories))
    return Rankings(items, direct if len(direct) == len(items) else None)


def _check(name: str, answer: Rankings, histories: Sequence[Sequence[str]]) -> None:
    if len(answer.items) != len(histories):
        raise ValueError(f"Method {name!r} answered {len(histories)} histories with {len(answer.items)} rankings.")
    for ranking in answer.items:
        named = [i for i in ranking if i is not None]
        if len(set(named)) != len(named):
            raise ValueError(f"Method {name!r} ranks an item twice: {ranking}.")
