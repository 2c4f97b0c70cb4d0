"""A report's figures as tables, for a terminal, for Markdown and for the page; and several reports side by side.

A block that a report does not have makes no table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grlm_hf.markdown import escaped, one_line
from grlm_hf.markdown import table as markdown

COLUMNS = ("recall@1", "recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "valid_rate", "direct_hit_rate", "coverage")
MAIN = ("recall@5", "recall@10", "recall@20", "ndcg@10")
"""What runs are compared by, and what is drawn."""
SLICED = ("recall@10", "ndcg@10")
DIVERSITY = ("coverage", "gini@10", "tail_share@10", "novelty@10", "intra_list_diversity@10")
Metrics = Mapping[str, Mapping[str, float]]
"""Metric → ``{value, low, high}``."""


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
        text: what is shown, unescaped.
        note: its interval, shown small where there is room; or "".
        value: what it sorts by; ``None``: its text.
    """

    text: str
    note: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """Attributes:
    title: what it shows.
    head: names of the columns.
    rows: a cell each; the first `labels` of them are names, the others figures.
    labels: how many columns hold names.
    notes: sentences below it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1
    notes: tuple[str, ...] = ()

    def text(self, intervals: bool = False) -> str:
        """Aligned for a terminal, with its title above and its notes below."""
        lines = [[one_line(h) for h in self.head], *([one_line(_shown(c, intervals)) for c in row] for row in self.rows)]
        width = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(c.ljust(w) if i < self.labels else c.rjust(w) for i, (c, w) in enumerate(zip(line, width, strict=True))).rstrip()
            for line in lines
        ]
        return "\n".join([*filter(None, [one_line(self.title)]), *aligned, *map(one_line, self.notes)])

    def markdown(self, intervals: bool = False) -> str:
        """As Markdown, with its title in bold above and its notes below."""
        rows = ([escaped(c.text) if i < self.labels else _shown(c, intervals) for i, c in enumerate(row)] for row in self.rows)
        head = [h if re.fullmatch(r"[\w@ ()%−-]+", h) else escaped(h) for h in self.head]
        title = f"**{escaped(self.title)}**" if self.title else ""
        return "\n\n".join(filter(None, [title, markdown(head, rows), *map(escaped, self.notes)]))


def _shown(cell: Cell, intervals: bool) -> str:
    return f"{cell.text} {cell.note}" if intervals and cell.note else cell.text


# --- one report --------------------------------------------------------------------------------------------------------------------


def tables(report: Mapping[str, Any]) -> dict[str, list[Table]]:
    """All tables of a report: block → its tables. The first is ``methods``."""
    found = {
        "methods": [methods_table(report)],
        "comparisons": _comparisons(report.get("comparisons") or ()),
        "unseen": _unseen(report),
        "domains": _sliced("the target's domain", report.get("domains") or {}),
        "slices": [t for grouping, parts in (report.get("slices") or {}).items() for t in _sliced(grouping, parts)],
        "collisions": _collisions(report.get("collisions") or {}),
        "unmasked": _unmasked(report),
        "diversity": _diversity(report["methods"]),
    }
    return {block: some for block, some in found.items() if some}


def methods_table(report: Mapping[str, Any], with_domains: bool = False) -> Table:
    """Methods by metrics; `with_domains`: overall first and then each domain, by the domain of the target."""
    rows = list(report["methods"].items())
    if with_domains:
        rows += [(f"{name} ({domain})", m) for domain, part in report.get("domains", {}).items() for name, m in part["methods"].items()]
    return _by_method("", dict(rows), COLUMNS)


def protocol_note(report: Mapping[str, Any]) -> str:
    """The dataset and the protocol in a sentence."""
    return f"{report['dataset']}: {protocol_words(report['protocol'])}."


def protocol_words(p: Mapping[str, Any]) -> str:
    """The protocol in a few words."""
    return f"{p['split']}, {p['users']:,} users, {candidates(p)}, seen items {p['seen_items']}"


def candidates(protocol: Mapping[str, Any]) -> str:
    """What was ranked."""
    if protocol.get("candidates_of") == "the target's domain":
        return f"all items of the target's domain ranked (of {protocol['candidates']:,})"
    return f"all {protocol['candidates']:,} items ranked"


def _measured(metrics: Metrics, name: str) -> Cell:
    if name not in metrics:
        return Cell("–")
    m = metrics[name]
    note = f"[{m['low']:.4f}, {m['high']:.4f}]" if m["low"] != m["high"] else ""
    return Cell(f"{m['value']:.4f}", note, m["value"])


def _by_method(title: str, methods: Mapping[str, Metrics], columns: Sequence[str], notes: tuple[str, ...] = ()) -> Table:
    rows = tuple((Cell(name), *(_measured(metrics, c) for c in columns)) for name, metrics in methods.items())
    return Table(title, ("method", *columns), rows, notes=notes)


def _comparisons(entries: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table a metric."""
    found = []
    for metric in dict.fromkeys(e["metric"] for e in entries):
        some = [e for e in entries if e["metric"] == metric]
        head = ("a", "b", "a − b", "95 % interval", "p", *(["p (Holm)"] if any("p_holm" in e for e in some) else []))
        rows = tuple(
            (
                Cell(e["a"]),
                Cell(e["b"]),
                Cell(f"{e['difference']:+.4f}", "", e["difference"]),
                Cell(f"[{e['low']:+.4f}, {e['high']:+.4f}]", "", e["low"]),
                *(_p(e.get(key)) for key in ("p", "p_holm")[: len(head) - 4]),
            )
            for e in some
        )
        found.append(Table(f"{metric}: differences, paired by user", head, rows, 2, tuple(dict.fromkeys(e["test"] for e in some))))
    return found


def _p(p: float | None) -> Cell:
    if p is None:
        return Cell("–")
    return Cell(f"{p:.4f}", "", p)


def _sliced(grouping: str, parts: Mapping[str, Any]) -> list[Table]:
    """A table a metric: methods by slices, in the order of the report."""
    if not parts:
        return []
    methods = dict.fromkeys(name for part in parts.values() for name in part["methods"])
    head = ("method", *(f"{label} ({part['cases']:,} cases)" for label, part in parts.items()))
    return [
        Table(
            f"{metric} by {grouping}",
            head,
            tuple((Cell(name), *(_measured(part["methods"].get(name, {}), metric) for part in parts.values())) for name in methods),
        )
        for metric in SLICED
        if any(metric in m for part in parts.values() for m in part["methods"].values())
    ]


def _collisions(rules: Mapping[str, Mapping[str, Metrics]]) -> list[Table]:
    methods = dict.fromkeys(name for found in rules.values() for name in found)
    head = ("method", *(f"{metric}, {rule}" for metric in SLICED for rule in rules))
    rows = tuple((Cell(n), *(_measured(found.get(n, {}), metric) for metric in SLICED for found in rules.values())) for n in methods)
    said = "An item that shares its Term ID: first, at its place by ascending item_id; expected, the mean over all orders; any, all count."
    return [Table("Items that share a Term ID", head, rows, notes=(said,))] if rows else []


def _unseen(report: Mapping[str, Any]) -> list[Table]:
    block = report.get("unseen") or {}
    if not block or block["methods"] == report["methods"]:  # all cases ask for new items: the report says it already
        return []
    said = f"{block['items']:,} new items, {block['cases']:,} cases that ask for one, {block['candidates']:,} items ranked; "
    said += f"Term IDs {block['term_ids']}."
    columns = [c for c in COLUMNS if any(c in m for m in block["methods"].values())]
    compared = [replace(t, title=f"New items, {t.title}") for t in _comparisons(block.get("comparisons") or ())]
    return [_by_method("New items", block["methods"], columns, (said,)), *compared]


def _unmasked(report: Mapping[str, Any]) -> list[Table]:
    methods = report.get("unmasked") or {}
    columns = [c for c in COLUMNS if c.startswith(("recall", "ndcg", "mrr")) and any(c in m for m in methods.values())]
    return [_by_method("Seen items kept in the ranking", methods, columns)] if methods else []


def _diversity(methods: Mapping[str, Metrics]) -> list[Table]:
    columns = [c for c in DIVERSITY if any(c in m for m in methods.values())]
    if columns == ["coverage"] or not columns:  # which the first table has
        return []
    return [_by_method("What is recommended", methods, columns)]


# --- several reports ---------------------------------------------------------------------------------------------------------------


def comparison_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Methods and metrics by runs, each run after the first with its difference from the first.

    Args:
        reports: run → report, of one protocol (`grlm_hf.evaluation.evaluate.check_comparable`).
    """
    first, *others = reports
    methods = dict.fromkeys(name for report in reports.values() for name in report["methods"])
    rows = []
    for method in methods:
        for metric in MAIN:
            cells = {run: _measured(report["methods"].get(method, {}), metric) for run, report in reports.items()}
            if all(cell.value is None for cell in cells.values()):
                continue
            row = [Cell(method), Cell(metric), cells[first]]
            for run in others:
                row += [cells[run], _difference(cells[run].value, cells[first].value)]
            rows.append(tuple(row))
    head = ("method", "metric", first, *(h for run in others for h in (run, f"{run} − {first}")))
    said = "Differences are of the means; without both runs' rankings they have no paired test." if others else ""
    return Table("", head, tuple(rows), 2, (said,) if said else ())


def merged(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs as one report, for its picture: each method of each run is a method, those of one name together."""
    first = next(iter(reports.values()))
    names = dict.fromkeys(name for report in reports.values() for name in report["methods"])
    methods = {f"{n} · {run}": report["methods"][n] for n in names for run, report in reports.items() if n in report["methods"]}
    return {"schema": first["schema"], "dataset": first["dataset"], "protocol": first["protocol"], "methods": methods}


def _difference(value: float | None, other: float | None) -> Cell:
    return Cell("–") if value is None or other is None else Cell(f"{value - other:+.4f}", "", value - other)
