"""Puts the measured goals into docs/decoding.md, from results/decoding-*.json.

python benchmarks/decoding/table.py
"""

from __future__ import annotations

import json
from pathlib import Path

from harness import RESULTS

DOC = Path(__file__).parents[2] / "docs" / "decoding.md"
FILES = ("mask", "recommend", "forwards", "trie")
BEGIN, END = "<!-- measured: benchmarks/decoding/table.py -->\n", "<!-- end -->\n"


def table() -> str:
    lines = ["| | measured | goal | |", "|---|--:|--:|---|"]
    for name in FILES:
        path = RESULTS / f"decoding-{name}.json"
        for r in json.loads(path.read_text()) if path.is_file() else []:
            if name == "mask" and r["target"] is None:
                continue
            goal = "" if r["target"] is None else f"{'≥' if r['better'] == 'higher' else '≤'} {r['target']:g}"
            verdict = "" if r["target"] is None else "met" if r["met"] else "**not met**"
            lines.append(f"| {r['name']} | {r['measured']:g} {r['unit']} | {goal} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    DOC.write_text(head + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1], encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
