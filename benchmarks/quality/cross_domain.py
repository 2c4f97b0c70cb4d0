"""One model for two domains beside one for each: the reports of ``recipes/cross-domain-cpu.yaml``, in one table.

    python benchmarks/quality/cross_domain.py runs/cross-domain        # joint/, beauty/ and sports/, each with its report.json

Both have the same cases, the users' last items of a domain, and rank the items of that domain. Writes results/cross-domain.json and prints
the table of docs/evaluation.md.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.report import load_report
from grlm_hf.files import read_json, write_json
from grlm_hf.markdown import escaped, table

RESULTS = Path(__file__).parents[1] / "results" / "cross-domain.json"
METHODS = ("grlm", "sasrec", "item_knn", "sasrec+item_knn")
METRICS = ("recall@10", "ndcg@10")


def collected(folder: Path) -> list[dict[str, Any]]:
    joint = load_report(folder / "joint" / "report.json")
    rows = []
    for domain in ("beauty", "sports"):
        alone, both = load_report(folder / domain / "report.json"), joint.domains[domain]
        if alone.protocol.cases != both.cases:
            raise ValueError(f"{domain}: {alone.protocol.cases} questions alone, {both.cases} in the joint report; expected the same.")
        for method in METHODS:
            found = {where: {m: asdict(part.methods[method][m]) for m in METRICS} for where, part in (("alone", alone), ("together", both))}
            rows.append({"domain": domain, "method": method, "cases": both.cases, "candidates": both.candidates, **found})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    head = ["domain", "method", *(f"{m}, {where}" for m in METRICS for where in ("one model a domain", "one for both"))]

    def cell(row: dict[str, Any], metric: str, where: str) -> str:
        value = row[where][metric]
        return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"

    cells = [[r["domain"], escaped(r["method"]), *(cell(r, m, w) for m in METRICS for w in ("alone", "together"))] for r in rows]
    return table(head, cells)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_json(RESULTS, {"recipe": "recipes/cross-domain-cpu.yaml", "rows": collected(Path(sys.argv[1]))})
    print(markdown(read_json(RESULTS)["rows"]))
