"""Every method, every case, the full catalog: one protocol for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation import collisions, diversity
from grlm_hf.evaluation.metrics import DEPTH, Estimate, bootstrap, per_case, ranks
from grlm_hf.evaluation.processes import on_main
from grlm_hf.evaluation.rankings import Chunks, Method, Rankings, ranked, ranked_by_domain
from grlm_hf.evaluation.schema import Domain, Methods, Protocol, Report
from grlm_hf.evaluation.significance import compare
from grlm_hf.evaluation.slices import sliced
from grlm_hf.layout import CANDIDATES

RATES_AT = 10
"""Length of the lists that valid rate, direct-hit rate, coverage and diversity are of, as in the paper."""


@dataclass(frozen=True)
class Setup:
    """What the caller decides of a protocol.

    Attributes:
        dataset: its name, for the report.
        split: how the cases were held out, and their part.
        seen: what the methods do with items of the history, "left out" or "kept".
        candidates: one of `grlm_hf.layout.CANDIDATES`.
        resamples: of the bootstrap.
    """

    dataset: str
    split: str
    seen: str
    candidates: str = "all"
    seed: int = 0
    resamples: int = 1000


def evaluate(
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    catalog: Catalog,
    setup: Setup,
    *,
    counts: Mapping[str, int] | None = None,
    vectors: np.ndarray | None = None,
    unmasked: Mapping[str, Method] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    chunks: Chunks | None = None,
) -> Report:
    """The report of all methods on all cases.

    In several processes, started by a launcher such as ``accelerate launch``, each ranks a part of the cases and all return the report,
    which is exactly that of one process.

    Args:
        counts: item_id → number of its training events; for popularity slices, `tail_share@10` and `novelty@10`.
        vectors: float [n_items, d], embeddings of the items' texts in the catalog's order, for `intra_list_diversity@10`; without them it
            is of the items' terms.
        unmasked: the same methods with seen items kept, measured too.
        pairs: methods to compare, besides the best one with each other.
        chunks: where finished rankings are kept, so that an interrupted evaluation is resumed.

    Raises:
        ValueError: no cases; a method that returns another number of rankings than histories, an item twice, or an item that is no
            candidate; a target without a domain, where candidates are those of its domain; a pair of unknown methods.
        RuntimeError: another process failed.
    """
    if setup.candidates not in CANDIDATES:
        raise ValueError(f"candidates is {setup.candidates!r}; expected one of {CANDIDATES}.")
    if not cases:
        raise ValueError("No cases to evaluate; the split holds nothing out. Evaluate another part, or choose another split.")
    q, chunks = _questions(cases, catalog, setup.candidates), chunks or Chunks()

    def rankings(name: str, method: Method) -> Rankings:
        if setup.candidates == "all":
            return ranked(name, method, cases, chunks)
        return ranked_by_domain(name, method, cases, q.domains, q.of_domain, chunks)

    found = {name: rankings(name, method) for name, method in methods.items()}
    kept = {name: rankings(f"{name}, seen items kept", method) for name, method in (unmasked or {}).items()}
    return on_main(partial(_report, q, setup, found, kept, counts, vectors, pairs))


@dataclass(frozen=True)
class _Questions:
    """The cases and what may be recommended to each.

    Attributes:
        domains: domain → its items.
        of_domain: domain → positions of the cases whose target is of it.
        pools: the candidates of each case.
    """

    cases: Sequence[Case]
    catalog: Catalog
    domains: Mapping[str, Catalog]
    of_domain: Mapping[str, Sequence[int]]
    pools: Sequence[Catalog]

    @property
    def users(self) -> list[str]:
        return [c.user_id for c in self.cases]


def _questions(cases: Sequence[Case], catalog: Catalog, candidates: str) -> _Questions:
    domains = {name: catalog.domain(name) for name in catalog.domains}
    of_domain: dict[str, list[int]] = {name: [] for name in domains}
    pools = [catalog] * len(cases)
    for i, case in enumerate(cases if domains or candidates == "domain" else ()):
        domain = catalog[case.target].domain if case.target in catalog else ""
        if domain:
            of_domain[domain].append(i)
        if candidates == "domain":
            if not domain:
                raise ValueError(
                    f"candidates='domain', but the target {case.target!r} has no domain in the catalog. Fill the items' `domain` column."
                )
            pools[i] = domains[domain]
    return _Questions(cases, catalog, domains, of_domain, pools)


def _report(
    q: _Questions,
    setup: Setup,
    found: Mapping[str, Rankings],
    kept: Mapping[str, Rankings],
    counts: Mapping[str, int] | None,
    vectors: np.ndarray | None,
    pairs: Sequence[tuple[str, str]],
) -> Report:
    values = {name: _values(rankings, q, counts, vectors) for name, rankings in found.items()}
    if len(found) < 2 and pairs:
        raise ValueError(f"Cannot compare {pairs[0]}; only {tuple(found)} is measured.")
    by_domain = len(q.domains) > 1 or setup.candidates == "domain"
    protocol = Protocol(
        split=setup.split,
        users=len(set(q.users)),
        cases=len(q.cases),
        candidates=len(q.catalog),
        seen_items=setup.seen,
        seed=setup.seed,
        ties="items that share a Term ID: ascending item_id; equal popularity: ascending item_id",
        depth=DEPTH,
        rates_at=RATES_AT,
        resamples=setup.resamples,
        cases_hash=_cases_hash(q.cases),
        intra_list_diversity="1 - Jaccard of terms" if vectors is None else "1 - cosine of text embeddings",
        candidates_of=("the whole catalog" if setup.candidates == "all" else "the target's domain") if by_domain else None,
    )
    return Report(
        setup.dataset,
        protocol,
        methods={name: _figures(values[name], rankings, q, setup) for name, rankings in found.items()},
        domains={
            domain: Domain(
                users=len({q.cases[i].user_id for i in at}),
                cases=len(at),
                candidates=len(q.pools[at[0]]),
                methods={name: _figures(values[name], rankings, q, setup, domain) for name, rankings in found.items()},
            )
            for domain, at in (q.of_domain.items() if by_domain else ())
            if at
        },
        slices=sliced(values, q.cases, q.catalog, counts, setup.resamples, setup.seed),
        comparisons=compare(values, q.users, pairs, resamples=setup.resamples, seed=setup.seed) if len(found) > 1 else (),
        collisions=_collisions(found, q, setup),
        unmasked={name: _figures(_values(rankings, q, counts, vectors), rankings, q, setup) for name, rankings in kept.items()},
    )


def _values(rankings: Rankings, q: _Questions, counts: Mapping[str, int] | None, vectors: np.ndarray | None) -> dict[str, np.ndarray]:
    """Metric → value for each case, float64 [cases]."""
    values = per_case(ranks(rankings.items, [c.target for c in q.cases]))
    heads = [ranking[:RATES_AT] for ranking in rankings.items]
    # the length of a full list: ten, or all candidates that the history leaves
    due = [min(RATES_AT, len(pool) - sum(i in pool for i in set(c.history))) for c, pool in zip(q.cases, q.pools, strict=True)]
    valid = [sum(i in pool for i in head) for head, pool in zip(heads, q.pools, strict=True)]
    values["valid_rate"] = np.array([v / max(d, len(head), 1) for v, d, head in zip(valid, due, heads, strict=True)])
    if rankings.direct_hits is not None:
        values["direct_hit_rate"] = np.array(rankings.direct_hits)
    shown = diversity.places(rankings.items, q.catalog, RATES_AT)
    if counts is not None:
        values |= {f"{name}@{RATES_AT}": value for name, value in diversity.popularity_of(shown, q.catalog, counts).items()}
    values[f"intra_list_diversity@{RATES_AT}"] = diversity.intra_list(shown, q.catalog, vectors)
    return values


def _figures(
    values: Mapping[str, np.ndarray], rankings: Rankings, q: _Questions, setup: Setup, domain: str | None = None
) -> dict[str, Estimate]:
    """The means over all cases, or those of a domain, and the figures of all their rankings together."""
    at, catalog = (range(len(q.cases)), q.catalog) if domain is None else (q.of_domain[domain], q.domains[domain])
    users = [q.cases[i].user_id for i in at]
    measured = bootstrap({name: value[list(at)] for name, value in values.items()}, users, setup.resamples, setup.seed)
    together = diversity.exposure(diversity.places([rankings.items[i] for i in at], catalog, RATES_AT), len(catalog))
    # of these users as a set and no means over them, so they have no bootstrap interval
    for name, value in (("coverage", together["coverage"]), (f"gini@{RATES_AT}", together["gini"])):
        measured[name] = Estimate(value, value, value)
    return measured


def _collisions(found: Mapping[str, Rankings], q: _Questions, setup: Setup) -> dict[str, Methods]:
    """Rule → figures, of the methods that rank by Term ID, where items share one."""
    by_rule: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, rankings in found.items() if q.catalog.collisions else ():
        if rankings.by_term_id:
            for rule, values in collisions.by_rule(rankings, q.cases, q.pools, setup.seen == "kept").items():
                by_rule.setdefault(rule, {})[name] = bootstrap(values, q.users, setup.resamples, setup.seed)
    return {**by_rule}


def _cases_hash(cases: Sequence[Case]) -> str:
    """Identifies the histories and targets, in any order."""
    ordered = sorted((c.user_id, c.history, c.target) for c in cases)
    return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16]
