"""Paired tests between methods of several runs, whose rankings were kept (`grlm_hf.evaluation.saved`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from grlm_hf.evaluation.report.tables import of_run
from grlm_hf.evaluation.saved import Saved, rankings_of, rankings_path
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.significance import METRICS, Comparison, compare_pairs
from grlm_hf.files import did_you_mean

_Values = Mapping[str, Mapping[str, np.ndarray]]
"""Method → metric → value for each case."""


def between_runs(reports: Mapping[str, Report], paths: Sequence[str | Path], pairs: Sequence[str] = ()) -> tuple[Comparison, ...]:
    """Tests the methods of each run against those of the first one, paired by user; Holm's correction is over all of them.

    Of two runs are compared: each method that both have and that differs; the best of both; and each method of one run alone with the best
    of the other. `pairs` are compared in their place.

    Args:
        reports: run → report, of one protocol (`grlm_hf.evaluation.schema.check_comparable`).
        paths: their files; rankings are read beside them.
        pairs: claims that were made beforehand, such as "markov > grlm"; RUN:METHOD where several runs have the method.

    Returns:
        The comparisons, of methods called ``METHOD · RUN``; none where a run has no rankings and there are no `pairs`.

    Raises:
        ValueError: rankings of other cases, or of another report; pairs, and a run without rankings; an unknown method in them.
    """
    saved: dict[str, Saved] = {}
    for (run, report), path in zip(reports.items(), paths, strict=True):
        if (found := rankings_of(path, report)) is not None:
            saved[run] = found
        elif pairs:
            raise ValueError(f"{run} has no rankings, at {rankings_path(path)}. Make its report again with evaluate.save_rankings=true.")
    if len(saved) < len(reports):
        return ()
    first, *others = saved
    for run in others:
        _check_cases(first, saved[first], run, saved[run])
    values = {run: one.values() for run, one in saved.items()}
    own = [set(metrics) for one in saved.values() for metrics in one.own.values()]
    metrics = [*METRICS, *sorted(set.intersection(*own))]
    if pairs:
        chosen = [[of_run(method, run) for run, method in (_named(name, values) for name in _two(pair))] for pair in pairs]
        wanted = [(a, b, metric) for metric in metrics for a, b in chosen]
    else:
        wanted = [
            (of_run(a, run), of_run(b, first), metric)
            for metric in metrics
            for run in others
            for a, b in _pairs(values[first], values[run], metric)
        ]
    hits = {of_run(method, run): found for run, one in values.items() for method, found in one.items()}
    p = reports[first].protocol
    return compare_pairs(hits, saved[first].users, list(dict.fromkeys(wanted)), p.resamples or 1000, seed=p.seed or 0)


def _pairs(first: _Values, other: _Values, metric: str) -> list[tuple[str, str]]:
    """Methods of the other run, each with one of the first."""
    best_a, best_b = (max(run, key=lambda name: float(run[name][metric].mean())) for run in (other, first))
    same = [(name, name) for name in other if name in first and not np.array_equal(other[name]["mrr"], first[name]["mrr"])]
    alone = [(name, best_b) for name in other if name not in first] + [(best_a, name) for name in first if name not in other]
    best = [(best_a, best_b)] if best_a != best_b or (best_a, best_b) in same else []
    return list(dict.fromkeys([*best, *same, *alone]))


def _check_cases(a: str, one: Saved, b: str, other: Saved) -> None:
    if one.cases_hash == other.cases_hash and (one.users, one.targets) == (other.users, other.targets):
        return
    mine, theirs = (dict(zip(s.users, s.targets, strict=True)) for s in (one, other))
    if alone := sorted(mine.keys() ^ theirs.keys()):
        found = f"user {alone[0]!r} is only in {a if alone[0] in mine else b}"
    else:
        user = next((u for u in mine if mine[u] != theirs[u]), None)
        found = "histories differ" if user is None else f"user {user!r} has the target {mine[user]!r} in {a} and {theirs[user]!r} in {b}"
    raise ValueError(
        f"The rankings of {a} and {b} are of other cases ({found}), so there is no paired test. Evaluate both on one dataset repository."
    )


def _two(pair: str) -> list[str]:
    names = [name.strip() for name in pair.split(">")]
    if len(names) != 2 or not all(names):
        raise ValueError(f"The pair is {pair!r}; expected two methods, such as 'markov > grlm'.")
    return names


def _named(name: str, runs: Mapping[str, Mapping[str, object]]) -> tuple[str, str]:
    """(run, method) of METHOD or RUN:METHOD."""
    run, _, method = name.rpartition(":")
    having = [r for r, methods in runs.items() if method in methods and run in ("", r)]
    if len(having) == 1:
        return having[0], method
    if having:
        raise ValueError(f"{' and '.join(having)} both have a method {method!r}; name the run, such as '{having[0]}:{method}'.")
    known = [f"{r}:{m}" for r, methods in runs.items() for m in methods]
    raise ValueError(f"There is no method {name!r}. {did_you_mean(name, known, f'Expected one of {known}.')}")
