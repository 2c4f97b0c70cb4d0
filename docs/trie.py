"""Draws docs/trie.svg: the tree of terms that a search of the quickstart's checkpoint went through.

python docs/trie.py grlm-quickstart/checkpoint B0366,B0260
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from grlm_hf import GRLMForRecommendation, Rules
from grlm_hf.space.trie_view import Branch, tree, walk

PICTURE = Path(__file__).with_name("trie.svg")
ROW, CHAR, GAP, TOP = 26, 6.6, 46, 22
COLOURS = {"kept": "#0f766e", "found": "#64748b", "given up": "#94a3b8", "ruled out": "#b91c1c"}


def draw(branch: Branch, x: float, row: int, parts: list[str]) -> tuple[int, float]:
    """Adds a branch and all branches below it, beginning in line `row`. Returns the next free row and the right edge."""
    label = escape(", ".join(branch.label) or "history")
    place = f" → {branch.place}." if branch.place else ""
    text = f"{label} {branch.probability:.0%}{place}" if branch.label else label
    y, right = TOP + row * ROW, x + len(text) * CHAR
    weight = "600" if branch.fate == "kept" else "400"
    parts.append(f'<text x="{x:.0f}" y="{y + 4}" fill="{COLOURS[branch.fate]}" font-weight="{weight}">{text}</text>')
    edge, next_row = right, row
    for child in branch.children:
        cy, cx = TOP + next_row * ROW, right + GAP
        width = 1 + 5 * child.probability
        curve = f"M{right + 6:.0f},{y} C{right + GAP / 2:.0f},{y} {right + GAP / 2:.0f},{cy} {cx - 6:.0f},{cy}"
        parts.append(f'<path d="{curve}" fill="none" stroke="{COLOURS[child.fate]}" stroke-width="{width:.1f}" opacity=".6"/>')
        next_row, reached = draw(child, cx, next_row, parts)
        edge = max(edge, reached)
    if branch.others:
        cy = TOP + next_row * ROW
        note = f"{branch.others} more, {branch.others_probability:.0%}"
        parts.append(f'<text x="{right + GAP:.0f}" y="{cy + 4}" fill="{COLOURS["given up"]}" font-style="italic">{note}</text>')
        next_row, edge = next_row + 1, max(edge, right + GAP + len(note) * CHAR)
    return max(next_row, row + 1), edge


def main(checkpoint: str, history: str, output: Path = PICTURE) -> None:
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    items, beams = history.split(","), min(20, len(grlm.trie))
    best = grlm.recommend(items, k=6, num_beams=beams, edge_wise=True, prior="none", exclude_seen=False)
    root = tree(walk(grlm, items, beams, Rules()), [r.identifier for r in best], dead_ends=1)
    parts: list[str] = []
    rows, width = draw(root, 12, 0, parts)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 12:.0f} {TOP + rows * ROW}" font-family="monospace" font-size="11">'
    )
    back = '<rect width="100%" height="100%" rx="8" fill="#f8fafc"/>'
    output.write_text("\n".join([head, back, *parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
