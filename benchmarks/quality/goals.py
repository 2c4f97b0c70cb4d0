"""Goals of the language model's quality beside the kept reports of Beauty and Industrial; writes results/quality-goals.json.

python benchmarks/quality/goals.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
HYBRID, WITHOUT = "grlm+sasrec+item_knn+text_knn", "sasrec+item_knn+text_knn"
GPU = "one H200 for the training; one seed"
CPU = "one CPU core with AMX; mean of three seeds, where not said otherwise"


def main() -> None:
    """Reads both reports and writes the records."""
    names = ("beauty-taught", "beauty-gated", "beauty-gated-1", "beauty-gated-2", "industrial")
    beauty, gated, again, whole, industrial = (json.loads((RESULTS / f"quality-{name}.json").read_text()) for name in names)
    rare, *rares = (one["slices"]["target popularity"]["0–2"]["methods"]["grlm"]["recall@10"]["value"] for one in (beauty, gated, again, whole))
    first = "grlm run recipes/beauty-taught.yaml, and its four more epochs"
    third = "grlm run recipes/beauty-taught.yaml with the gate as the teacher (benchmarks/README.md)"
    gated_gain, gated_p = _gain(whole, WITHOUT)
    second = "grlm run recipes/industrial-smollm2.yaml"
    pairs = [(beauty, f"{WITHOUT} (ndcg)"), (industrial, WITHOUT)]
    (beauty_gain, beauty_p), (industrial_gain, industrial_p) = (_gain(report, best) for report, best in pairs)
    sight = "Beauty, with the language model minus the best without it, recall@10 (way of fitting chosen with test figures in sight)"
    gap = "Beauty, taught by a gate, with the language model minus the gate without, recall@10 (seed 2)"
    seeds = (gated, again, whole)
    records = [
        _record("Beauty, language model alone, recall@10", _value(beauty, "grlm", "recall@10"), 0.095, first),
        _record("Beauty, language model alone, recall@10 of targets with 0 to 2 events", rare, 0.08, first),
        _record("Beauty, language model alone, coverage@10", _value(beauty, "grlm", "coverage"), 0.8, first),
        _record(sight, beauty_gain, 0.0, first, beauty_p < 0.05),
        _record("Beauty, with the language model, recall@10", _value(beauty, HYBRID, "recall@10"), 0.12, first),
        _record("Beauty, taught by a gate, language model alone, recall@10", _mean(seeds, "recall@10"), 0.095, third, hardware=CPU),
        _record("Beauty, taught by a gate, of targets with 0 to 2 events", sum(rares) / len(rares), 0.08, third, hardware=CPU),
        _record("Beauty, taught by a gate, coverage@10", _mean(seeds, "coverage"), 0.8, third, hardware=CPU),
        _record(gap, gated_gain, 0.0, third, gated_p < 0.05, CPU),
        _record("Industrial, SmolLM2 alone, recall@10", _value(industrial, "grlm", "recall@10"), 0.1205, second),
        _record(
            "Industrial, with SmolLM2 minus the best without a language model, recall@10", industrial_gain, 0.0, second, industrial_p < 0.05
        ),
    ]
    (RESULTS / "quality-goals.json").write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")


def _value(report: dict[str, Any], method: str, metric: str) -> float:
    found = report["methods"][method][metric]
    return float(found["value"] if isinstance(found, dict) else found)


def _mean(seeds: Sequence[dict[str, Any]], metric: str) -> float:
    return sum(_value(one, "grlm", metric) for one in seeds) / len(seeds)


def _gain(report: dict[str, Any], best: str) -> tuple[float, float]:
    """The hybrid's recall@10 minus that of `best`, and p before Holm's correction."""
    wanted = {HYBRID, best}
    pair = next(c for c in report["comparisons"] if c["metric"] == "recall@10" and {c["a"], c["b"]} == wanted)
    return (pair["difference"] if pair["a"] == HYBRID else -pair["difference"]), pair["p"]


def _record(name: str, measured: float, target: float, command: str, gate: bool | None = None, hardware: str = GPU) -> dict[str, Any]:
    """`gate`: whether the difference is real (p below .05)."""
    met = measured >= target and gate is not False
    values = {"name": name, "unit": "", "measured": round(measured, 4), "target": target, "better": "higher", "met": met}
    return values | {"gate_passed": gate, "command": command, "hardware": hardware, "date": "2026-11-27"}


if __name__ == "__main__":
    main()
