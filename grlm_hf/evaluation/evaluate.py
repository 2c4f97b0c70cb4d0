"""Every method, every case, the full catalog: one protocol for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
CANDIDATES = ("all", "domain")
"""What is ranked: the whole catalog, or the items of the target's domain, which the question then gives away."""


@dataclass(frozen=True)
class Rankings:
    """What a method answers: for each history up to `DEPTH` item ids, best first. ``None`` stands for an output that names no item.

    `direct_hits`, of methods that write identifiers: the share of the first ten outputs that named an item exactly, without grounding.
    """

    items: Sequence[Sequence[str | None]]
    direct_hits: Sequence[float] | None = None


Method = Callable[..., Rankings]
"""A recommender as the evaluator knows it: histories (item ids, oldest first) → rankings. Where candidates are those of a domain it is
called with ``domain=NAME``, and ranks items of that domain only."""


def evaluate(
    methods: dict[str, Method],
    cases: Sequence[Case],
    catalog: Catalog,
    *,
    dataset: str,
    split: str,
    seen: str,
    candidates: str = "all",
    seed: int = 0,
    resamples: int = 1000,
    work: str | Path | None = None,
    chunk: int = 1024,
) -> dict[str, Any]:
    """The report of all methods on all cases: ``{schema, dataset, protocol, methods: {NAME: {METRIC: {value, low, high}}}}``.

    With a catalog of several domains, or candidates of the target's, also ``domains: {DOMAIN: {users, cases, candidates, methods}}``: the
    same figures of the cases whose target is of that domain. `coverage` there is the share of the domain's own items that are recommended.

    Args:
        dataset: its name, for the report.
        split: how the cases were held out.
        seen: whether methods leave out seen items; stated in the protocol.
        candidates: one of `CANDIDATES`.
        work: a folder that keeps finished chunks, so that an interrupted evaluation goes on where it stopped.

    Raises:
        ValueError: no cases, or a method that answers with other than one ranking a history, with an item twice, or with an item that is
            no candidate; a target without a domain, where candidates are those of its domain.
    """
    if candidates not in CANDIDATES:
        raise ValueError(f"candidates is {candidates!r}; expected one of {CANDIDATES}.")
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
    domains = {name: catalog.domain(name) for name in catalog.domains}
    asked: dict[str, list[int]] = {name: [] for name in domains}  # domain → the cases whose target is of it
    pools = [catalog] * len(cases)  # what may be recommended, by case
    for i, case in enumerate(cases if domains or candidates == "domain" else ()):
        domain = catalog[case.target].domain if case.target in catalog else ""
        if domain:
            asked[domain].append(i)
        if candidates == "domain":
            if not domain:
                raise ValueError(
                    f"candidates='domain', but the target {case.target!r} has no domain in the catalog. Fill the items' `domain` column."
                )
            pools[i] = domains[domain]
    if len(domains) > 1 or candidates == "domain":
        report["protocol"]["candidates_of"] = "the whole catalog" if candidates == "all" else "the target's domain"
        report["domains"] = {
            name: {
                "users": len({cases[i].user_id for i in at}),
                "cases": len(at),
                "candidates": len(pools[at[0]]),
                "methods": {},
            }
            for name, at in asked.items()
            if at
        }
    folder = Path(work) if work else None
    for name, method in methods.items():
        if candidates == "all":
            rankings = _ranked(name, method, cases, folder, chunk)
        else:
            rankings = _ranked_by_domain(name, method, cases, domains, asked, folder, chunk)
        report["methods"][name] = _measure(rankings, cases, catalog, pools, resamples, seed)
        for domain, part in report.get("domains", {}).items():
            at = asked[domain]
            part["methods"][name] = _measure(
                _some(rankings, at), [cases[i] for i in at], domains[domain], [pools[i] for i in at], resamples, seed
            )
    return report


def _some(rankings: Rankings, at: Sequence[int]) -> Rankings:
    direct = rankings.direct_hits
    return Rankings([rankings.items[i] for i in at], None if direct is None else [direct[i] for i in at])


def _measure(
    rankings: Rankings, cases: Sequence[Case], catalog: Catalog, pools: Sequence[Catalog], resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """`catalog`: what is to be covered; `pools`: what could be recommended, by case."""
    values = per_case(ranks(rankings.items, [c.target for c in cases]))
    heads = [ranking[:RATES_AT] for ranking in rankings.items]
    # of the ten answers asked for, or of all there can be once the history is left out
    due = [min(RATES_AT, len(pool) - sum(i in pool for i in set(c.history))) for c, pool in zip(cases, pools, strict=True)]
    valid = [sum(i in pool for i in head) for head, pool in zip(heads, pools, strict=True)]
    values["valid_rate"] = np.array([v / max(d, len(head), 1) for v, d, head in zip(valid, due, heads, strict=True)])
    if rankings.direct_hits is not None:
        values["direct_hit_rate"] = np.array(rankings.direct_hits)
    measured = bootstrap(values, [c.user_id for c in cases], resamples, seed)
    coverage = len({i for head in heads for i in head if i in catalog}) / len(catalog)
    # a property of this set of users and no mean over them, so it has no bootstrap interval
    measured["coverage"] = {"value": coverage, "low": coverage, "high": coverage}
    return measured


def _ranked_by_domain(
    name: str,
    method: Method,
    cases: Sequence[Case],
    domains: Mapping[str, Catalog],
    asked: Mapping[str, Sequence[int]],
    work: Path | None,
    chunk: int,
) -> Rankings:
    """Every case among the items of its target's domain."""
    items: list[Sequence[str | None]] = [()] * len(cases)
    direct: dict[int, float] = {}
    for domain, at in asked.items():
        found = _ranked(name, partial(method, domain=domain), [cases[i] for i in at], work, chunk, domain)
        for i, ranking in zip(at, found.items, strict=True):
            if stray := [item for item in ranking if item is not None and item not in domains[domain]]:
                raise ValueError(f"Method {name!r} ranks {stray[0]!r}, which is not in the domain {domain!r} that was asked for.")
            items[i] = ranking
        if found.direct_hits is not None:
            direct |= zip(at, found.direct_hits, strict=True)
    return Rankings(items, [direct[i] for i in range(len(cases))] if len(direct) == len(cases) else None)


def _ranked(name: str, method: Method, cases: Sequence[Case], work: Path | None, chunk: int, domain: str | None = None) -> Rankings:
    from tqdm.auto import tqdm

    items: list[Sequence[str | None]] = []
    direct: list[float] = []
    with tqdm(total=len(cases), desc=name, unit="user", disable=len(cases) < 200) as bar:
        for start in range(0, len(cases), chunk):
            histories = [c.history for c in cases[start : start + chunk]]
            asked = [name, histories] if domain is None else [name, histories, domain]
            digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
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
