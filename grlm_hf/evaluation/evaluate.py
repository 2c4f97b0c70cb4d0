"""Every method, every case, the full catalog: one protocol for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation import collisions, diversity
from grlm_hf.evaluation.metrics import DEPTH, Interval, bootstrap, per_case, ranks
from grlm_hf.evaluation.processes import on_main
from grlm_hf.evaluation.rankings import Method, Rankings, ranked, ranked_by_domain
from grlm_hf.evaluation.significance import compare
from grlm_hf.evaluation.slices import sliced
from grlm_hf.layout import CANDIDATES

__all__ = ["RATES_AT", "REPORT_SCHEMA", "Method", "Rankings", "check_comparable", "evaluate"]

REPORT_SCHEMA = "grlm.report/1"
RATES_AT = 10
"""Outputs of each ranking that valid, direct-hit rate, coverage and diversity count, as in the paper."""
_SAME = ("split", "users", "cases", "cases_hash", "candidates", "candidates_of", "seen_items", "ties", "depth", "rates_at")
"""What two reports' protocols must agree in, so that their figures may be compared."""


def evaluate(
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    catalog: Catalog,
    *,
    dataset: str,
    split: str,
    seen: str,
    candidates: str = "all",
    seed: int = 0,
    resamples: int = 1000,
    counts: Mapping[str, int] | None = None,
    vectors: np.ndarray | None = None,
    unmasked: Mapping[str, Method] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    work: str | Path | None = None,
    key: str = "",
    chunk: int = 1024,
) -> dict[str, Any]:
    """The report of all methods on all cases: ``{schema, dataset, protocol, methods: {NAME: {METRIC: {value, low, high}}}}``, and

    domains      with a catalog of several domains, or candidates of the target's: ``{DOMAIN: {users, cases, candidates, methods}}``, the
                 same figures of the cases whose target is of that domain. `coverage` and `gini@10` there are of the domain's own items.
    slices       see `grlm_hf.evaluation.slices.sliced`.
    comparisons  of several methods: see `grlm_hf.evaluation.significance.compare`.
    collisions   of methods that rank by Term ID, where some items share one: ``{RULE: {NAME: {METRIC: {value, low, high}}}}``, see
                 `grlm_hf.evaluation.collisions`. The figures of `methods` are those of the rule "first".
    unmasked     ``{NAME: {METRIC: {value, low, high}}}`` of `unmasked`.

    In several processes, started by a launcher such as ``accelerate launch``, each answers a part of the cases and all return the report,
    which is exactly that of one process.

    Args:
        dataset: its name, for the report.
        split: how the cases were held out.
        seen: what `methods` do with items of the history, "left out" or "kept"; stated in the protocol.
        candidates: one of `grlm_hf.layout.CANDIDATES`.
        counts: item_id → how often it occurs in training; for popularity slices, `tail_share@10` and `novelty@10`.
        vectors: float [n_items, d], embeddings of the items' texts in the catalog's order, for `intra_list_diversity@10`; without them it
            is of the items' terms.
        unmasked: the same methods made to keep seen items, to be measured besides.
        pairs: methods to compare besides the best one with each other.
        work: a folder that keeps finished chunks, so that an interrupted evaluation goes on where it stopped.
        key: identifies the methods' checkpoint and settings: chunks in `work` that were kept under another key are not read.

    Raises:
        ValueError: no cases, or a method that answers with other than one ranking a history, with an item twice, or with an item that is
            no candidate; a target without a domain, where candidates are those of its domain; a pair of methods that are not there.
        RuntimeError: another process failed.
    """
    if candidates not in CANDIDATES:
        raise ValueError(f"candidates is {candidates!r}; expected one of {CANDIDATES}.")
    if not cases:
        raise ValueError("No cases to evaluate; the split holds nothing out. Evaluate another part, or choose another split.")
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
            "cases_hash": _cases_hash(cases),
            "intra_list_diversity": "1 - Jaccard of terms" if vectors is None else "1 - cosine of text embeddings",
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

    def answers(name: str, method: Method) -> Rankings:
        if candidates == "all":
            return ranked(name, method, cases, folder, chunk, key)
        return ranked_by_domain(name, method, cases, domains, asked, folder, chunk, key)

    found = {name: answers(name, method) for name, method in methods.items()}
    kept = {name: answers(f"{name}, seen items kept", method) for name, method in (unmasked or {}).items()}
    users = [c.user_id for c in cases]

    def measured() -> dict[str, Any]:
        hits = {}
        for name, rankings in found.items():
            values = _values(rankings, cases, catalog, pools, counts, vectors)
            hits[name] = values
            report["methods"][name] = _figures(values, rankings, range(len(cases)), users, catalog, resamples, seed)
            for domain, part in report.get("domains", {}).items():
                part["methods"][name] = _figures(values, rankings, asked[domain], users, domains[domain], resamples, seed)
        report["slices"] = sliced(hits, cases, catalog, counts, resamples, seed)
        if len(hits) > 1:
            report["comparisons"] = compare(hits, users, pairs, resamples=resamples, seed=seed)
        elif pairs:
            raise ValueError(f"Cannot compare {pairs[0]}; only {tuple(hits)} is measured.")
        for name, rankings in found.items() if catalog.collisions else ():
            if rankings.by_term_id:
                for rule, values in collisions.by_rule(rankings, cases, pools, seen == "kept").items():
                    report.setdefault("collisions", {}).setdefault(rule, {})[name] = bootstrap(values, users, resamples, seed)
        for name, rankings in kept.items():
            values = _values(rankings, cases, catalog, pools, counts, vectors)
            figures = _figures(values, rankings, range(len(cases)), users, catalog, resamples, seed)
            report.setdefault("unmasked", {})[name] = figures
        return report

    return on_main(measured)


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` where two reports were not made under one protocol: it lists what differs, with both values.

    What need not agree is what figures do not depend on, or only by chance: the seed, the number of resamples, the methods, and what a
    recipe calls its data. Reports of an older version, which do not state their `cases_hash`, must agree in that name instead.
    """
    both = [{"dataset": report.get("dataset"), **report.get("protocol", {})} for report in (a, b)]
    hashed = all("cases_hash" in p for p in both)
    keys = [k for k in ("dataset", *_SAME) if k != ("dataset" if hashed else "cases_hash")]
    differing = [f"{k}: {both[0].get(k)!r} and {both[1].get(k)!r}" for k in keys if both[0].get(k) != both[1].get(k)]
    if differing:
        raise ValueError(f"The reports have different protocols, so their figures cannot be compared. {'; '.join(differing)}.")


def _values(
    rankings: Rankings,
    cases: Sequence[Case],
    catalog: Catalog,
    pools: Sequence[Catalog],
    counts: Mapping[str, int] | None,
    vectors: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Metric → value for each case, float64 [cases]. `pools`: what could be recommended, by case."""
    values = per_case(ranks(rankings.items, [c.target for c in cases]))
    heads = [ranking[:RATES_AT] for ranking in rankings.items]
    # of the ten answers asked for, or of all there can be once the history is left out
    due = [min(RATES_AT, len(pool) - sum(i in pool for i in set(c.history))) for c, pool in zip(cases, pools, strict=True)]
    valid = [sum(i in pool for i in head) for head, pool in zip(heads, pools, strict=True)]
    values["valid_rate"] = np.array([v / max(d, len(head), 1) for v, d, head in zip(valid, due, heads, strict=True)])
    if rankings.direct_hits is not None:
        values["direct_hit_rate"] = np.array(rankings.direct_hits)
    shown = diversity.places(rankings.items, catalog, RATES_AT)
    if counts is not None:
        values |= {f"{name}@{RATES_AT}": value for name, value in diversity.popularity_of(shown, catalog, counts).items()}
    values[f"intra_list_diversity@{RATES_AT}"] = diversity.intra_list(shown, catalog, vectors)
    return values


def _figures(
    values: Mapping[str, np.ndarray],
    rankings: Rankings,
    at: Sequence[int],
    users: Sequence[str],
    catalog: Catalog,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """The means of the cases `at`, and what is true of their rankings together; `catalog`: what is to be covered."""
    measured = bootstrap({name: value[list(at)] for name, value in values.items()}, [users[i] for i in at], resamples, seed)
    together = diversity.exposure(diversity.places([rankings.items[i] for i in at], catalog, RATES_AT), len(catalog))
    # properties of this set of users and no means over them, so they have no bootstrap interval
    for name, value in (("coverage", together["coverage"]), (f"gini@{RATES_AT}", together["gini"])):
        measured[name] = {"value": value, "low": value, "high": value}
    return measured


def _cases_hash(cases: Sequence[Case]) -> str:
    """Identifies the questions and their answers, in whatever order."""
    asked = sorted((c.user_id, c.history, c.target) for c in cases)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
