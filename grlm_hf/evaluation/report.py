"""A report as people meet it: JSON on disk, a table, a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grlm_hf.evaluation.evaluate import REPORT_SCHEMA
from grlm_hf.files import read_json, replacing, write_json
from grlm_hf.markdown import escaped

_COLUMNS = ("recall@1", "recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "valid_rate", "direct_hit_rate", "coverage")


def save_report(report: dict[str, Any], path: str | Path) -> None:
    """Writes ``report.json`` and, beside it, ``report.png``."""
    path = Path(path)
    plot(report, path.with_suffix(".png"))
    write_json(path, report)


def load_report(path: str | Path) -> dict[str, Any]:
    """Reads a report. Raises ``ValueError`` if the file is none, or of another schema."""
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema") != REPORT_SCHEMA:
        raise ValueError(f"{path} is no report with schema {REPORT_SCHEMA!r}.")
    return report


def _measured(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(label, metrics) of each method, and then of each method in each domain."""
    of_domains = [(f"{name} ({domain})", m) for domain, part in report.get("domains", {}).items() for name, m in part["methods"].items()]
    return [*report["methods"].items(), *of_domains]


def _rows(report: dict[str, Any]) -> list[list[str]]:
    return [[name, *(f"{metrics[c]['value']:.4f}" if c in metrics else "–" for c in _COLUMNS)] for name, metrics in _measured(report)]


def _ranked(protocol: dict[str, Any]) -> str:
    if protocol.get("candidates_of") == "the target's domain":
        return f"all items of the target's domain ranked (of {protocol['candidates']:,})"
    return f"all {protocol['candidates']:,} items ranked"


def markdown_table(report: dict[str, Any]) -> str:
    """Methods by metrics, as Markdown; of several domains, overall first and then each, by the domain of the target."""
    lines = [["method", *_COLUMNS], ["---", *("--:" for _ in _COLUMNS)], *([escaped(name), *row] for name, *row in _rows(report))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text_table(report: dict[str, Any]) -> str:
    """The rows of `markdown_table`, aligned for a terminal, with the 95 % interval of recall@10."""
    head = ["method", *(c.replace("_rate", "") for c in _COLUMNS), "recall@10 95 %"]
    rows = [
        [*row, f"[{m['recall@10']['low']:.4f}, {m['recall@10']['high']:.4f}]"]
        for row, (_, m) in zip(_rows(report), _measured(report), strict=True)
    ]
    width = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))] for line in (head, *rows)
    ]
    p = report["protocol"]
    note = f"{report['dataset']}: {p['split']}, {p['users']:,} users, {_ranked(p)}, seen items {p['seen_items']}."
    for domain, part in report.get("domains", {}).items():
        note += f"\n{domain}: {part['cases']:,} cases of {part['users']:,} users."
    return "\n".join([*("  ".join(line) for line in lines), note])


def plot(report: dict[str, Any], path: str | Path) -> None:
    """Recall and NDCG of each method with 95 % bootstrap intervals, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(4, 3))
    methods = report["methods"]
    bar = 0.8 / len(methods)
    for axis, names, title in (
        (left, ("recall@1", "recall@5", "recall@10", "recall@20"), "Recall"),
        (right, ("ndcg@5", "ndcg@10", "ndcg@20"), "NDCG"),
    ):
        for m, (method, metrics) in enumerate(methods.items()):
            value = [metrics[n]["value"] for n in names]
            error = [[metrics[n]["value"] - metrics[n]["low"] for n in names], [metrics[n]["high"] - metrics[n]["value"] for n in names]]
            place = [i + (m - (len(methods) - 1) / 2) * bar for i in range(len(names))]
            axis.bar(place, value, bar * 0.92, yerr=error, capsize=2, label=method, color=f"C{m}", error_kw={"lw": 1})
        axis.set_xticks(range(len(names)), [n.split("@")[1] for n in names])
        axis.set_xlabel("list length k")
        axis.set_title(f"{title}@k", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    left.legend(frameon=False)
    p = report["protocol"]
    said = f"{p['split']}, {p['users']:,} users, {_ranked(p)}; whiskers: 95 % bootstrap interval"
    figure.suptitle(f"{report['dataset']}\n{said}", fontsize=9)
    with replacing(path) as new:
        figure.savefig(new, format="png", dpi=150, metadata={"Software": None})
