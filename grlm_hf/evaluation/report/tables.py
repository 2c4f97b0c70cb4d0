"""A report's figures as tables, for a terminal, for Markdown and for the page; and several reports side by side.

Blocks that a report does not have make no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from grlm_hf.evaluation.report.table import Cell, Table
from grlm_hf.evaluation.schema import Costs, Methods, Metrics, Part, Protocol, Report
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.evaluation.verdict import MAIN as MAIN_METRIC
from grlm_hf.evaluation.verdict import explained, stated, weights_words, without_weight

COLUMNS = ("recall@1", "recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "valid_rate", "direct_hit_rate", "coverage")
MAIN = ("recall@5", "recall@10", "recall@20", "ndcg@10")
"""Metrics of the comparison of runs, and of the picture."""
SHORT = ("recall@10", "ndcg@10", "coverage")
"""Metrics of the short table."""
_ROWS = 6  # of the short table, the language model alone and the method to ship always among them
SLICED = ("recall@10", "ndcg@10")
_USUAL = {
    *(f"recall@{k}" for k in (1, 5, 10, 20)), *(f"ndcg@{k}" for k in (5, 10, 20)), "mrr", "valid_rate", "direct_hit_rate", "coverage",
    *(f"{name}@10" for name in ("gini", "tail_share", "novelty", "intra_list_diversity")),
}  # fmt: skip
"""Metrics of every report."""
DIVERSITY = ("coverage", "gini@10", "tail_share@10", "novelty@10", "intra_list_diversity@10")


# --- one report --------------------------------------------------------------------------------------------------------------------


def tables(report: Report) -> dict[str, list[Table]]:
    """All tables of a report: block → its tables. The first is ``methods``."""
    found = {
        "methods": [methods_table(report)],
        "comparisons": comparisons_tables(report.comparisons),
        "unseen": _unseen(report),
        "domains": _sliced("the target's domain", report.domains),
        "slices": [t for grouping, parts in report.slices.items() for t in _sliced(grouping, parts)],
        "collisions": _collisions(report.collisions),
        "unmasked": _unmasked(report.unmasked),
        "diversity": _diversity(report.methods),
        "costs": _costs(report.costs),
    }
    return {block: some for block, some in found.items() if some}


def methods_table(report: Report, with_domains: bool = False) -> Table:
    """Methods by those metrics of `COLUMNS` that one of them has; `with_domains`: overall first and then by the domain of the target."""
    rows = dict(report.methods)
    if with_domains:
        rows |= {f"{name} ({domain})": m for domain, part in report.domains.items() for name, m in part.methods.items()}
    return _by_method("", rows, measured_columns(report.methods, COLUMNS), _weights_notes(report, report.methods))


def short_table(report: Report, with_words: bool = False) -> Table:
    """The best methods by recall@10, best first, in few columns.

    Args:
        with_words: a column that says what each method is.
    """
    ordered = sorted(report.methods, key=lambda name: -m.value if (m := report.methods[name].get(MAIN_METRIC)) else 0.0)
    always = {name for name in ("grlm", stated(report).ship) if name in report.methods}
    best = [name for name in ordered if name not in always][: _ROWS - len(always)]
    kept = [name for name in ordered if name in always or name in best]
    columns = _present(report.methods, SHORT)
    words = {name: [Cell(explained(name, report.weights.get(name)))] if with_words else [] for name in kept}
    rows = tuple((Cell(name), *words[name], *(_measured(report.methods[name], c) for c in columns)) for name in kept)
    notes = () if with_words else _weights_notes(report, kept)
    return Table("", ("method", *(["what it is"] if with_words else []), *columns), rows, 2 if with_words else 1, notes)


def _weights_notes(report: Report, methods: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each of the methods that has a component without weight."""
    weights = {name: report.weights.get(name, {}) for name in methods}
    return tuple(f"In {name}, {weights_words(found)}." for name, found in weights.items() if without_weight(found))


def protocol_note(report: Report) -> str:
    """The dataset and the protocol in a sentence."""
    return f"{report.dataset}: {protocol_words(report.protocol)}."


def unanswerable_note(p: Protocol) -> str:
    """How many cases nothing can answer, and what to do; "" for none."""
    if not p.unanswerable or not p.cases:
        return ""
    share = p.unanswerable / p.cases
    return (
        f"{p.unanswerable:,} of {p.cases:,} cases ({share:.0%}) ask for an item that the history has already. Seen items are left out, so "
        "no method can find it, and every figure is that much lower. Where people take things again, set evaluate.exclude_seen=false."
    )


def protocol_words(p: Protocol) -> str:
    """The protocol in a few words."""
    return f"{p.split}, {p.users:,} users, {candidates(p)}, seen items {p.seen_items}"


def candidates(p: Protocol) -> str:
    """Which items were ranked, in words."""
    if p.candidates_of == "the target's domain":
        return f"all items of the target's domain ranked (of {p.candidates:,})"
    return f"all {p.candidates:,} items ranked"


def _measured(metrics: Metrics, name: str) -> Cell:
    if name not in metrics:
        return Cell("–")
    m = metrics[name]
    if m.low == m.high:
        return Cell(f"{m.value:.4f}", "", m.value)
    return Cell(f"{m.value:.4f}", f"[{m.low:.4f}, {m.high:.4f}]", m.value, {"low": m.low, "high": m.high})


def _by_method(title: str, methods: Methods, columns: Sequence[str], notes: tuple[str, ...] = ()) -> Table:
    rows = tuple((Cell(name), *(_measured(metrics, c) for c in columns)) for name, metrics in methods.items())
    return Table(title, ("method", *columns), rows, notes=notes)


def measured_columns(methods: Mapping[str, Mapping[str, object]], columns: Sequence[str]) -> list[str]:
    """The columns that a method has a figure for; before the rates also the user's metrics and cut-offs that are none of the usual ones."""
    found = list(dict.fromkeys(name for metrics in methods.values() for name in metrics))
    more = [name for name in found if name not in _USUAL]
    shown = [name for name in columns if name in found] + more
    kinds = ("recall@", "ndcg@", "mrr")

    def order(name: str) -> tuple[int, int]:
        kind = next((n for n, kind in enumerate(kinds) if name.startswith(kind)), len(kinds) + (name not in more))
        return kind, int(name.partition("@")[2]) if kind < 2 and name.partition("@")[2].isdigit() else 0

    return sorted(shown, key=order)


def _present(methods: Methods, columns: Sequence[str]) -> list[str]:
    """The columns that a method has a figure for."""
    return [c for c in columns if any(c in metrics for metrics in methods.values())]


def comparisons_tables(entries: Sequence[Comparison]) -> list[Table]:
    """A table a metric."""
    found = []
    for metric in dict.fromkeys(e.metric for e in entries):
        some = [e for e in entries if e.metric == metric]
        corrected = any(e.p_holm is not None for e in some)
        head = ("a", "b", "a − b", "95 % interval", "p", *(["p (Holm)"] if corrected else []))
        rows = tuple(
            (
                Cell(e.a),
                Cell(e.b),
                Cell(f"{e.difference:+.4f}", "", e.difference),
                Cell(f"[{e.low:+.4f}, {e.high:+.4f}]", "", e.low, {"low": e.low, "high": e.high}),
                _p(e.p),
                *([_p(e.p_holm)] if corrected else []),
            )
            for e in some
        )
        found.append(Table(f"{metric}: differences, paired by user", head, rows, 2, tuple(dict.fromkeys(e.test for e in some))))
    return found


def _p(p: float | None) -> Cell:
    return Cell("–") if p is None else Cell(f"{p:.4f}", "", p)


def _sliced(grouping: str, parts: Mapping[str, Part]) -> list[Table]:
    """A table a metric: methods by slices, in the order of the report."""
    methods = dict.fromkeys(name for part in parts.values() for name in part.methods)
    head = ("method", *(f"{label} ({part.cases:,} cases)" for label, part in parts.items()))
    return [
        Table(
            f"{metric} by {grouping}",
            head,
            tuple((Cell(name), *(_measured(part.methods.get(name, {}), metric) for part in parts.values())) for name in methods),
        )
        for metric in SLICED
        if any(metric in m for part in parts.values() for m in part.methods.values())
    ]


def _collisions(rules: Mapping[str, Methods]) -> list[Table]:
    methods = dict.fromkeys(name for found in rules.values() for name in found)
    head = ("method", *(f"{metric}, {rule}" for metric in SLICED for rule in rules))
    rows = tuple((Cell(n), *(_measured(found.get(n, {}), metric) for metric in SLICED for found in rules.values())) for n in methods)
    note = "An item that shares its Term ID: first, at its place by ascending item_id; expected, the mean over all orders; any, all count."
    return [Table("Items that share a Term ID", head, rows, notes=(note,))] if rows else []


def _unseen(report: Report) -> list[Table]:
    block = report.unseen
    if block is None or block.methods == report.methods:  # where all targets are new items, the first table has these figures
        return []
    note = f"{block.items:,} new items, {block.cases:,} cases that ask for one, {block.candidates:,} items ranked; "
    note += f"Term IDs {block.term_ids}."
    differences = [replace(t, title=f"New items, {t.title}") for t in comparisons_tables(block.comparisons)]
    return [_by_method("New items", block.methods, _present(block.methods, COLUMNS), (note,)), *differences]


def _unmasked(methods: Methods) -> list[Table]:
    columns = [c for c in _present(methods, COLUMNS) if c.startswith(("recall", "ndcg", "mrr"))]
    return [_by_method("Seen items kept in the ranking", methods, columns)] if methods else []


def _diversity(methods: Methods) -> list[Table]:
    columns = _present(methods, DIVERSITY)
    if columns == ["coverage"] or not columns:  # the first table has the coverage
        return []
    return [_by_method("What is recommended", methods, columns)]


def _costs(costs: Costs | None) -> list[Table]:
    if costs is None:
        return []
    columns = {
        "parameters": ",.0f", "prompt_tokens": ",.1f", "forwards": ",.1f", "flops": ".2e", "ms_p50": ",.2f", "ms_p95": ",.2f"
    }  # fmt: skip
    rows = tuple(
        (Cell(name), *(Cell("–" if (x := getattr(cost, c)) is None else f"{x:{form}}", "", x) for c, form in columns.items()))
        for name, cost in costs.methods.items()
    )
    head = ("method", "parameters", "prompt tokens", "forwards", "FLOPs", "ms p50", "ms p95")
    note = (
        f"For one user at a time: means, and the 50th and 95th percentile, of {costs.users:,} users on {costs.device}. FLOPs are those of "
        "the language model, by the usual estimate: 2 · its parameters · tokens of prompt and search. Parameters are all numbers "
        "that were learnt or counted; of neighbours by text, the items' vectors."
    )
    return [Table("Costs", head, rows, notes=(note,))]


# --- several reports ---------------------------------------------------------------------------------------------------------------


def comparison_table(reports: Mapping[str, Report], tested: bool = False) -> Table:
    """Methods and metrics by runs, each run after the first with its difference from the first.

    Args:
        reports: run → report, of one protocol (`grlm_hf.evaluation.schema.check_comparable`).
        tested: tables of paired tests are beside it (`grlm_hf.evaluation.paired`).
    """
    first, *others = reports
    rows = []
    for method in _all_methods(reports):
        for metric in measured_columns({n: m for r in reports.values() for n, m in r.methods.items()}, MAIN):
            cells = {run: _measured(report.methods.get(method, {}), metric) for run, report in reports.items()}
            if all(cell.value is None for cell in cells.values()):
                continue
            row = [Cell(method), Cell(metric), cells[first]]
            for run in others:
                row += [cells[run], _difference(cells[run].value, cells[first].value)]
            rows.append(tuple(row))
    head = ("method", "metric", first, *(h for run in others for h in (run, f"{run} − {first}")))
    note = "Differences are of the means; without both runs' rankings (evaluate.save_rankings) they have no paired test."
    return Table("", head, tuple(rows), 2, (note,) if others and not tested else ())


def merged(reports: Mapping[str, Report]) -> Report:
    """Several runs as one report, for its picture: each method of each run is a method, methods of one name together."""
    first = next(iter(reports.values()))
    methods = {of_run(n, run): r.methods[n] for n in _all_methods(reports) for run, r in reports.items() if n in r.methods}
    return Report(first.dataset, first.protocol, methods)


def of_run(method: str, run: str) -> str:
    """How a method of one of several runs is called."""
    return f"{method} · {run}"


def _all_methods(reports: Mapping[str, Report]) -> list[str]:
    return list(dict.fromkeys(name for report in reports.values() for name in report.methods))


def _difference(value: float | None, other: float | None) -> Cell:
    return Cell("–") if value is None or other is None else Cell(f"{value - other:+.4f}", "", value - other)
