"""Every method, every case, the full catalog: one protocol for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation import collisions, diversity
from grlm_hf.evaluation.examples import examples
from grlm_hf.evaluation.metrics import Estimate, Measures, bootstrap, ranks
from grlm_hf.evaluation.processes import on_main
from grlm_hf.evaluation.rankings import Chunks, Method, Rankings, ranked, ranked_by_domain
from grlm_hf.evaluation.saved import cases_hash, save_rankings
from grlm_hf.evaluation.schema import Methods, Metrics, Part, Protocol, Report
from grlm_hf.evaluation.significance import METRICS, compare
from grlm_hf.evaluation.slices import sliced
from grlm_hf.evaluation.verdict import Choice, verdict
from grlm_hf.layout import CANDIDATES

RATES_AT = 10
"""Length of the lists that valid rate, direct-hit rate, coverage and diversity are of, as in the paper."""


@dataclass(frozen=True)
class Setup:
    """What the caller decides of a protocol."""

    dataset: str  # its name, for the report
    split: str  # how the cases were held out, and their part
    seen: str  # what the methods do with items of the history, "left out" or "kept"
    candidates: str = "all"  # one of `grlm_hf.layout.CANDIDATES`
    seed: int = 0
    resamples: int = 1000  # of the bootstrap
    measures: Measures = field(default_factory=Measures)  # metrics, and how long rankings are


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
    choice: Choice | None = None,
    save_to: Path | None = None,
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
        choice: of the method to ship, on validation users; the examples show what it recommends.
        save_to: a parquet file that receives the rankings of `methods` (`grlm_hf.evaluation.saved`).

    Raises:
        ValueError: no cases; a method that returns another number of rankings than histories, an item twice, or an item that is no
            candidate; a target without a domain, where candidates are those of its domain; a pair of unknown methods.
        RuntimeError: another process failed.
    """
    if setup.candidates not in CANDIDATES:
        raise ValueError(f"candidates is {setup.candidates!r}; expected one of {CANDIDATES}.")
    if not cases:
        raise ValueError("No cases to evaluate; the split holds nothing out. Evaluate another part, or choose another split.")
    measured = _Measured(cases, catalog, setup, counts, vectors)
    chunks = chunks or Chunks()

    def rankings(name: str, method: Method) -> Rankings:
        if setup.candidates == "all":
            return ranked(name, method, cases, chunks)
        return ranked_by_domain(name, method, cases, measured.domains, measured.of_domain, chunks)

    found = {name: rankings(name, method) for name, method in methods.items()}
    kept = {name: rankings(f"{name}, seen items kept", method) for name, method in (unmasked or {}).items()}

    def on_one() -> Report:
        report = measured.report(found, kept, pairs, choice)
        if save_to is not None:
            save_rankings(save_to, found, cases, setup.split, setup.measures)
        return report

    return on_main(on_one)


class _Measured:
    """The cases, what may be recommended to each, and the figures of rankings of them."""

    def __init__(self, cases: Sequence[Case], catalog: Catalog, setup: Setup, counts: Mapping[str, int] | None, vectors: np.ndarray | None):
        self.cases, self.catalog, self.setup, self.counts, self.vectors = cases, catalog, setup, counts, vectors
        self.users = [c.user_id for c in cases]
        self.domains = {name: catalog.domain(name) for name in catalog.domains}
        self.of_domain: dict[str, list[int]] = {name: [] for name in self.domains}  # positions of the cases with a target of the domain
        self.pools = [catalog] * len(cases)  # the candidates of each case
        for i, case in enumerate(cases):
            if domain := catalog[case.target].domain if case.target in catalog else "":
                self.of_domain[domain].append(i)
            if setup.candidates == "domain":
                if not domain:
                    raise ValueError(
                        f"candidates='domain', but the target {case.target!r} has no domain in the catalog. Fill the column `domain`."
                    )
                self.pools[i] = self.domains[domain]

    def report(
        self, found: Mapping[str, Rankings], kept: Mapping[str, Rankings], pairs: Sequence[tuple[str, str]], choice: Choice | None
    ) -> Report:
        """`kept`: rankings with seen items kept."""
        if len(found) < 2 and pairs:
            raise ValueError(f"Cannot compare {pairs[0]}; only {tuple(found)} is measured.")
        values = {name: self._values(rankings) for name, rankings in found.items()}
        s, by_domain = self.setup, len(self.domains) > 1 or self.setup.candidates == "domain"
        domains = {
            domain: Part(
                users=len({self.users[i] for i in at}),
                cases=len(at),
                candidates=len(self.pools[at[0]]),
                methods={name: self._figures(values[name], rankings, domain) for name, rankings in found.items()},
            )
            for domain, at in self.of_domain.items()
            if at and by_domain
        }
        report = Report(
            s.dataset,
            self._protocol(by_domain),
            methods={name: self._figures(values[name], rankings) for name, rankings in found.items()},
            domains=domains,
            slices=sliced(values, self.cases, self.catalog, self.counts, s.resamples, s.seed),
            comparisons=compare(values, self.users, pairs, (*METRICS, *s.measures.own), s.resamples, seed=s.seed) if len(found) > 1 else (),
            collisions=self._collisions(found),
            unmasked={name: self._figures(self._values(rankings), rankings) for name, rankings in kept.items()},
        )
        shown = dict.fromkeys(name for name in (verdict(report, choice).ship, "grlm") if name in found)
        rankings = {name: found[name].items for name in shown or list(found)[:1]}
        return replace(report, examples=examples(rankings, self.cases, self.catalog, s.seed, s.seen == "left out"))

    def _protocol(self, by_domain: bool) -> Protocol:
        s = self.setup
        return Protocol(
            split=s.split,
            users=len(set(self.users)),
            cases=len(self.cases),
            candidates=len(self.catalog),
            seen_items=s.seen,
            seed=s.seed,
            ties="items that share a Term ID: ascending item_id; equal popularity: ascending item_id",
            depth=s.measures.length,
            rates_at=RATES_AT,
            resamples=s.resamples,
            cases_hash=cases_hash(self.cases),
            intra_list_diversity="1 - Jaccard of terms" if self.vectors is None else "1 - cosine of text embeddings",
            unanswerable=sum(c.target in c.history for c in self.cases) if s.seen == "left out" else 0,
            candidates_of=("the whole catalog" if s.candidates == "all" else "the target's domain") if by_domain else None,
        )

    def _values(self, rankings: Rankings) -> dict[str, np.ndarray]:
        """Metric → value for each case, float64 [cases]."""
        measures = self.setup.measures
        values = measures.per_case(ranks(rankings.items, [c.target for c in self.cases], measures.length))
        heads = [ranking[:RATES_AT] for ranking in rankings.items]
        # the length of a full list: ten, or all candidates that the history leaves
        due = [min(RATES_AT, len(pool) - sum(i in pool for i in set(c.history))) for c, pool in zip(self.cases, self.pools, strict=True)]
        valid = [sum(i in pool for i in head) for head, pool in zip(heads, self.pools, strict=True)]
        values["valid_rate"] = np.array([v / max(d, len(head), 1) for v, d, head in zip(valid, due, heads, strict=True)])
        if rankings.direct_hits is not None:
            values["direct_hit_rate"] = np.array(rankings.direct_hits)
        shown = diversity.places(rankings.items, self.catalog, RATES_AT)
        if self.counts is not None:
            values |= {f"{name}@{RATES_AT}": value for name, value in diversity.popularity_of(shown, self.catalog, self.counts).items()}
        values[f"intra_list_diversity@{RATES_AT}"] = diversity.intra_list(shown, self.catalog, self.vectors)
        return values

    def _figures(self, values: Mapping[str, np.ndarray], rankings: Rankings, domain: str | None = None) -> dict[str, Estimate]:
        """The means over all cases, or those of a domain, and the figures of all their rankings together."""
        at = list(range(len(self.cases))) if domain is None else self.of_domain[domain]
        catalog = self.catalog if domain is None else self.domains[domain]
        figures = self._bootstrap({name: value[at] for name, value in values.items()}, [self.users[i] for i in at])
        together = diversity.exposure(diversity.places([rankings.items[i] for i in at], catalog, RATES_AT), len(catalog))
        # of these users as a set and no means over them, so they have no bootstrap interval
        for name, value in (("coverage", together["coverage"]), (f"gini@{RATES_AT}", together["gini"])):
            figures[name] = Estimate(value, value, value)
        return figures

    def _collisions(self, found: Mapping[str, Rankings]) -> dict[str, Methods]:
        """Rule → figures, of the methods that rank by Term ID, where items share one."""
        rules: dict[str, dict[str, Metrics]] = {}
        for name, rankings in found.items():
            if rankings.by_term_id and self.catalog.collisions:
                kept = self.setup.seen == "kept"
                for rule, values in collisions.by_rule(rankings, self.cases, self.pools, kept, self.setup.measures).items():
                    rules.setdefault(rule, {})[name] = self._bootstrap(values, self.users)
        return {**rules}

    def _bootstrap(self, values: Mapping[str, np.ndarray], users: Sequence[str]) -> dict[str, Estimate]:
        return bootstrap(values, users, self.setup.resamples, self.setup.seed)
