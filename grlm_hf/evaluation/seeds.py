"""Runs of one recipe with several seeds: mean and standard deviation of every figure, and differences paired by seed and by user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.evaluation.report.table import Cell, Table
from grlm_hf.evaluation.report.tables import MAIN, comparisons_tables, measured_columns, protocol_words
from grlm_hf.evaluation.saved import Saved
from grlm_hf.evaluation.schema import Protocol, Report, check_comparable, parsed, plain
from grlm_hf.evaluation.significance import METRICS, Comparison, best_and, compare_pairs
from grlm_hf.evaluation.verdict import OF_OTHER_USERS
from grlm_hf.files import read_json, write_json, write_text
from grlm_hf.markdown import escaped

SEEDS_SCHEMA = "grlm.seeds/1"


@dataclass(frozen=True)
class Spread:
    """A figure of several runs."""

    mean: float
    sd: float | None  # sample standard deviation (n - 1); None of a single run
    values: tuple[float, ...]  # of each run


@dataclass(frozen=True)
class Difference:
    """`a` minus `b`, seed by seed."""

    a: str
    b: str
    metric: str
    spread: Spread
    wins: int  # seeds in which `a` is better


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What several seeds measured."""

    dataset: str
    protocol: Protocol  # of the first seed
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Spread]]  # those that all seeds have
    differences: tuple[Difference, ...] = ()  # the method with the best mean against each other one, and pairs that were stated
    comparisons: tuple[Comparison, ...] = ()  # the same by user, of each user's mean over the seeds, where all seeds have the same cases

    def to_json(self) -> dict[str, Any]:
        """The content of ``seeds.json``."""
        return {"schema": SEEDS_SCHEMA, **plain(self)}


def summarised(reports: Mapping[int, Report], saved: Mapping[int, Saved] | None = None, pairs: Sequence[tuple[str, str]] = ()) -> Summary:
    """The summary of reports by seed.

    Args:
        saved: the rankings of each seed, for the tests by user.
        pairs: more methods to compare, as (a, b).

    Raises:
        ValueError: no reports, or a pair of unknown methods.
    """
    if not reports:
        raise ValueError("There are no reports to summarise; expected one for each seed.")
    first, *others = reports.values()
    methods = {
        name: {metric: _spread([r.methods[name][metric].value for r in reports.values()]) for metric in _in_all(reports, name)}
        for name in first.methods
        if all(name in r.methods for r in others)
    }
    if unknown := [name for pair in pairs for name in pair if name not in methods]:
        raise ValueError(f"Cannot compare {unknown[0]!r}; expected two of the methods {tuple(methods)}.")
    own = sorted(set.intersection(*({m for values in one.own.values() for m in values} for one in saved.values()))) if saved else []
    differences = []
    for metric in (*METRICS, *own):
        means = {name: found[metric].mean for name, found in methods.items() if metric in found and name not in OF_OTHER_USERS}
        for a, b in best_and(means, pairs):
            each = [x - y for x, y in zip(methods[a][metric].values, methods[b][metric].values, strict=True)]
            differences.append(Difference(a, b, metric, _spread(each), sum(d > 0 for d in each)))
    wanted = [(d.a, d.b, d.metric) for d in differences]
    return Summary(
        dataset=first.dataset,
        protocol=first.protocol,
        seeds=tuple(reports),
        methods=methods,
        differences=tuple(differences),
        comparisons=_by_user(list(reports.values()), list(saved.values()), wanted) if saved else (),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, tuple(values))


def _in_all(reports: Mapping[int, Report], method: str) -> list[str]:
    first, *others = reports.values()
    return [metric for metric in first.methods[method] if all(metric in r.methods[method] for r in others)]


def _by_user(reports: Sequence[Report], saved: Sequence[Saved], wanted: Sequence[tuple[str, str, str]]) -> tuple[Comparison, ...]:
    """The comparisons of each case's mean over the seeds; none where seeds have other cases, as splits that draw items do."""
    try:
        for other in reports[1:]:
            check_comparable(reports[0], other)
    except ValueError:
        return ()
    values = [one.values() for one in saved]
    hits: dict[str, dict[str, np.ndarray]] = {}
    for name in set.intersection(*(set(one) for one in values)):
        measured = set.intersection(*(set(one[name]) for one in values))
        hits[name] = {metric: np.mean([one[name][metric] for one in values], axis=0) for metric in measured}
    tested = [(a, b, m) for a, b, m in wanted if m in hits.get(a, {}) and m in hits.get(b, {})]
    p = reports[0].protocol
    return compare_pairs(hits, saved[0].users, tested, p.resamples or 1000, seed=p.seed or 0)


def save_summary(summary: Summary, path: str | Path) -> None:
    """Writes ``seeds.json`` and, beside it, its tables as ``seeds.md``."""
    path = Path(path)
    said = [
        escaped(_said(summary)),
        *(t.markdown() for some in seed_tables(summary).values() for t in some),
    ]
    write_text(path.with_suffix(".md"), "\n\n".join(said) + "\n")
    write_json(path, summary.to_json())


def is_summary(path: str | Path) -> bool:
    """Whether a file is a summary of seeds, of any version."""
    found = None if Path(path).is_dir() else read_json(path)
    return isinstance(found, dict) and str(found.get("schema")).startswith("grlm.seeds/")


def load_summary(path: str | Path) -> Summary:
    """Reads ``seeds.json``. Raises ``ValueError`` if the file is no summary, of another schema, or lacks something."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SEEDS_SCHEMA:
        raise ValueError(f"{path} is no summary of seeds with schema {SEEDS_SCHEMA!r}.")
    try:
        return parsed(Summary, found, "the summary")
    except ValueError as error:
        raise ValueError(f"{path} is not a whole summary: {error}. Make it again: grlm run RECIPE --seeds N.") from error


def seed_tables(summary: Summary) -> dict[str, list[Table]]:
    """The tables of a summary: block → its tables."""
    columns = measured_columns(summary.methods, MAIN)
    rows = tuple((Cell(name), *(_cell(found.get(c)) for c in columns)) for name, found in summary.methods.items())
    found = {"methods": [Table("", ("method", *columns), rows, notes=("± is the standard deviation over seeds.",))]}
    n = len(summary.seeds)
    differences = [
        Table(
            f"{metric}: differences, paired by seed",
            ("a", "b", "a − b", "seeds with a > b"),
            tuple(
                (Cell(d.a), Cell(d.b), _cell(d.spread, "+"), Cell(f"{d.wins} of {n}", "", d.wins))
                for d in summary.differences
                if d.metric == metric
            ),
            2,
        )
        for metric in dict.fromkeys(d.metric for d in summary.differences)
    ]
    note = "Each user's mean over the seeds."
    tests = [Table(t.title, t.head, t.rows, t.labels, (*t.notes, note)) for t in comparisons_tables(summary.comparisons)]
    return {block: some for block, some in (found | {"differences": differences, "comparisons": tests}).items() if some}


def seed_text(summary: Summary, short: bool = False) -> str:
    """The tables for a terminal; of the tables of one kind only the first, which is of recall@10, if `short`."""
    found = [t.text() for some in seed_tables(summary).values() for t in (some[:1] if short else some)]
    return "\n\n".join([*found, _said(summary)])


def _said(s: Summary) -> str:
    return f"{s.dataset}: {protocol_words(s.protocol)}; {len(s.seeds)} seeds: {', '.join(map(str, s.seeds))}."


def _cell(spread: Spread | None, sign: str = "") -> Cell:
    if spread is None:
        return Cell("–")
    deviation = "" if spread.sd is None else f" ± {spread.sd:.4f}"
    return Cell(f"{spread.mean:{sign}.4f}{deviation}", "", spread.mean, {} if spread.sd is None else {"sd": spread.sd})
