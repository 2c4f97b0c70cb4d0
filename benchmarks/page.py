"""Writes docs/benchmarks.md from the files of results/.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grlm_hf.evaluation.report import load_report
from grlm_hf.evaluation.report.tables import methods_table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

QUALITY = {
    "quality-beauty": "Amazon Beauty",
    "quality-sports": "Amazon Sports",
    "quality-beauty-taught": "Amazon Beauty, a language model taught by the fused recommender",
    "quality-industrial": "Amazon Industrial, SmolLM2-135M",
    "beauty-cpu-extracted": "Amazon Beauty, the language model alone, extracted Term IDs",
    "beauty-cpu": "Amazon Beauty, the language model alone, official Term IDs",
    "quickstart": "The quickstart (a synthetic shop)",
}
"""Reports, the main ones first; others follow under their own names."""
MEASURED = {
    "decoding-recommend": "Recommending against transformers",
    "decoding-forwards": "Forwards of the model a recommendation",
    "decoding-dense": "Recommending without decoding",
    "decoding-mask": "One call of the logits processor",
    "decoding-trie": "The trie",
    "serving-": "Beams on vLLM and on transformers",
    "training-": "Training against TRL",
    "identifiers-": "Term IDs without a language model",
    "quality-": "What the quality figures rest on",
    "robustness": "Broken input, kills, and a service among strangers",
}
"""Records by the beginning of their files' names, a section each; others follow under their own names."""


ACCOUNTS = {"serving-load": "The service under load: its catalog is changed meanwhile, and at the end it is killed"}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def quality(name: str, title: str) -> list[str]:
    report = load_report(RESULTS / f"{name}.json")
    p = report.protocol
    about = f"users: {p.users}, candidates: {p.candidates}, split: {p.split}, seen items: {p.seen_items}"
    return [
        f"### {title}",
        "",
        f"{about} ([report](../benchmarks/results/{name}.json)).",
        "",
        methods_table(report).markdown(),
        "",
    ]


def measured(start: str, title: str) -> list[str]:
    lines = [f"### {title}", ""]
    for path in sorted(RESULTS.glob(f"{start}*.json")):
        records = load(path)
        if not isinstance(records, list) or not records:
            continue  # a report, or an account
        if path.stem == "decoding-mask":
            records = [r for r in records if r["target"] is not None]
        first = records[0]
        lines += [f"`{first['command']}`; {first['hardware']}, {first['date']} ([file](../benchmarks/results/{path.name}))", ""]
        lines += ["| | measured | goal | |", "|---|--:|--:|---|", *map(row, records), ""]
        if path.with_suffix(".png").is_file():
            lines += [f"![{title}](../benchmarks/results/{path.stem}.png)", ""]
    return lines if len(lines) > 2 else []


def account(name: str, title: str) -> list[str]:
    """A file of plain values, as one table."""
    found = load(RESULTS / f"{name}.json")
    shown = {k: ", ".join(f"{a}: {b}" for a, b in v.items()) if isinstance(v, dict) else v for k, v in found.items()}
    about = [f"### {title}", "", f"([file](../benchmarks/results/{name}.json))", "", "| | |", "|---|--:|"]
    return [*about, *(f"| {k.replace('_', ' ')} | {v} |" for k, v in shown.items()), ""]


def study(name: str) -> list[str]:
    """The kinds of identifier side by side: means over the seeds, the best first within a data set, teacher and budget."""
    rows = load(RESULTS / f"{name}.json")["rows"]
    setting = ("dataset", "teacher", "epochs")
    about = [
        "### Kinds of identifier under one recipe",
        "",
        f"`benchmarks/identifiers/study.py` ([file](../benchmarks/results/{name}.json))",
    ]
    for key in sorted({tuple(r[k] for k in setting) for r in rows}):
        mine = [r for r in rows if tuple(r[k] for k in setting) == key]
        slices = list(mine[0]["by target events"])
        heads = ["kind", "seeds", "recall@5", "recall@10", "ndcg@10", "coverage", f"{slices[0]} events", f"{slices[-1]}", "tokens"]
        lines = []
        for kind in sorted({r["kind"] for r in mine}):
            some = [r for r in mine if r["kind"] == kind]
            names = ("recall@5", "recall@10", "ndcg@10", "coverage")
            figures = [[*(r[n] for n in names), *(r["by target events"][part] for part in (slices[0], slices[-1]))] for r in some]
            means = [sum(column) / len(some) for column in zip(*figures, strict=True)]
            lines.append((means[1], f"| {kind} | {len(some)} | {' | '.join(f'{m:.4f}' for m in means)} | {some[0]['identifier_tokens']} |"))
        about += ["", f"{key[0]}, {key[1]} teacher, {key[2]} epochs, {mine[0]['users']:,} users:", "", f"| {' | '.join(heads)} |"]
        about += ["|---" * len(heads) + "|", *(line for _, line in sorted(lines, reverse=True))]
    return [*about, ""]


def row(r: dict[str, Any]) -> str:
    goal = "" if r["target"] is None else f"{'≥' if r['better'] == 'higher' else '≤'} {r['target']:g}"
    verdict = "" if r["target"] is None else "met" if r["met"] else "**not met**"
    name = r["name"].replace("|", "\\|")
    return f"| {name} | {r['measured']:g} {r['unit']} | {goal} | {verdict} |"


def page() -> str:
    lines = [
        "<!-- written by benchmarks/page.py; do not edit -->",
        "",
        "# Benchmarks",
        "",
        "Every figure comes from a file in `benchmarks/results`, which the command beside it makes; `python benchmarks/page.py` writes "
        "this page. Machines: two shared CPU cores unless a line states another, so ratios mean more than times.",
        "",
        "## Quality",
        "",
        "All users, the full catalog, ties in ascending order of item ids, settings chosen on validation users only: "
        "[evaluation](evaluation.md). Figures that others published on the splits of Beauty and Sports: "
        "[beside other systems](comparison.md#published-figures).",
        "",
    ]
    files = {path.stem: load(path) for path in sorted(RESULTS.glob("*.json"))}
    reports = {name: found["dataset"] for name, found in files.items() if isinstance(found, dict) and "methods" in found}
    for name, title in {
        **{n: t for n, t in QUALITY.items() if n in reports},
        **{n: t for n, t in reports.items() if n not in QUALITY},
    }.items():
        lines += quality(name, title)
    for name in (n for n, found in files.items() if isinstance(found, dict) and "rows" in found and "tests" in found):
        lines += study(name)
    lines += ["## Speed and memory", "", "A ratio against a peer counts as met only where the compared results were equal.", ""]
    others = {n: n for n, found in files.items() if isinstance(found, list) and not n.startswith(tuple(MEASURED))}
    for start, title in {**MEASURED, **others}.items():
        lines += measured(start, title)
    for name, found in files.items():
        if isinstance(found, dict) and not {"methods", "sets", "rows"} & found.keys():  # those of datasets.md and evaluation.md
            lines += account(name, ACCOUNTS.get(name, name))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}: {page().count(chr(10))} lines")
