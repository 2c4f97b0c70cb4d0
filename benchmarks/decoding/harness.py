"""What the decoding benchmarks share: interleaved timing, records, and the peers that we measure against."""

from __future__ import annotations

import gc
import platform
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from grlm_hf.files import write_json

RESULTS = Path(__file__).parent.parent / "results"


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} CPU threads"


class Results:
    """The records of one benchmark: printed as they are made, kept in ``results/NAME.json``, a plot beside it."""

    def __init__(self, name: str, command: str):
        self.name, self.command = name, command
        self.records: list[dict[str, Any]] = []

    def add(
        self, name: str, unit: str, measured: float, target: float | None = None, *, better: str = "higher", gate: bool | None = None
    ) -> None:
        """`gate`: whether the compared results were found equal; ``None`` where there is nothing to compare."""
        reached = target is None or (measured >= target if better == "higher" else measured <= target)
        met = bool(reached and gate is not False)
        goal = "" if target is None else f"   goal {'≥' if better == 'higher' else '≤'} {target:g}: {'met' if met else 'NOT MET'}"
        print(f"{name}: {measured:.4g} {unit}{goal}{'   GATE FAILED' if gate is False else ''}", flush=True)
        self.records.append(
            {
                "name": name, "unit": unit, "measured": float(f"{measured:.4g}"), "target": target, "better": better, "met": met,
                "gate_passed": gate if gate is None else bool(gate), "command": self.command, "hardware": hardware(),
                "date": date.today().isoformat(),
            }
        )  # fmt: skip

    def save(self, title: str, unit: str | None = None) -> None:
        """Writes the records, and a bar for each in this unit beside its goal."""
        write_json(RESULTS / f"{self.name}.json", self.records)
        _plot(self.name, title, [r for r in self.records if unit is None or r["unit"] == unit])


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of `rounds` calls of each, taken in turn so that a busy moment meets all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _plot(name: str, title: str, records: Sequence[dict[str, Any]]) -> None:
    """A bar a record, beside its goal."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [textwrap.fill(r["name"], 58) for r in records]
    figure, axes = plt.subplots(figsize=(9.5, 0.34 * len(records) + 0.12 * "".join(names).count("\n") + 1.3), layout="constrained")
    values = [r["measured"] for r in records]
    axes.barh(range(len(records)), values, color="#4878a8", height=0.6)
    for i, r in enumerate(records):
        if r["target"] is not None:
            axes.plot([r["target"]] * 2, [i - 0.4, i + 0.4], color="#c44e52", lw=2.5)
        unit = r["unit"].replace("times faster", "×")
        text = axes.annotate(f" {r['measured']:g} {unit}", (r["measured"], i), va="center", fontsize=8)
        text.set_bbox({"facecolor": "white", "alpha": 0.8, "pad": 0.5, "edgecolor": "none"})
    if max(values) > 30 * min(v for v in values if v > 0):
        axes.set_xscale("log")
    axes.set_yticks(range(len(records)), names, fontsize=8)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_title(f"{title}; red: the goal", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


# --- peers -------------------------------------------------------------------------------------------------------------------------


def nested_dict(paths: Sequence[Sequence[int]]) -> dict[int, Any]:
    """A trie as the GENRE family keeps it."""
    root: dict[int, Any] = {}
    for path in paths:
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def dict_trie_fn(root: dict[int, Any], prompt_length: int, eos: int) -> Callable[[int, torch.Tensor], list[int]]:
    """For transformers' ``prefix_allowed_tokens_fn``."""

    def allowed(_: int, sent: torch.Tensor) -> list[int]:
        node: Any = root
        for token in sent[prompt_length:].tolist():
            node = node.get(token)
            if node is None:
                return [eos]
        return list(node) or [eos]

    return allowed


def hash_dict_fn(paths: Sequence[Sequence[int]], prompt_length: int, eos: int) -> Callable[[int, torch.Tensor], list[int]]:
    """The same with a dictionary from the written-out prefix to the legal tokens, as MiniOneRec keeps it."""
    table: dict[str, Any] = {}
    for path in paths:
        for d in range(len(path)):
            table.setdefault("-".join(map(str, path[:d])), {})[path[d]] = None

    def allowed(_: int, sent: torch.Tensor) -> list[int]:
        return list(table.get("-".join(map(str, sent[prompt_length:].tolist())), [eos]))

    return allowed


class PaddedGather:
    """In the manner of STATIC (arXiv 2602.22647): a row of padded children a state, states carried along by the caller's reordering, which
    it gets for nothing here."""

    def __init__(self, paths: Sequence[Sequence[int]], eos: int):
        edges: dict[tuple[int, int], int] = {}
        children: list[dict[int, int]] = [{}]
        self.depth_of = [0]
        for path in paths:
            state = 0
            for token in path:
                if (state, token) not in edges:
                    edges[state, token] = len(children)
                    children[state][token] = len(children)
                    self.depth_of.append(self.depth_of[state] + 1)
                    children.append({})
                state = edges[state, token]
        self.eos = eos
        self.first = torch.zeros(len(children) + 1, dtype=torch.int64)
        self.first[1:] = torch.tensor([len(c) for c in children]).cumsum(0)
        self.token = torch.tensor([t for c in children for t in c] or [0])
        self.next = torch.tensor([s for c in children for s in c.values()] or [0])
        depth = max(self.depth_of)
        self.width = [0] * (depth + 1)
        for c, d in zip(children, self.depth_of, strict=True):
            self.width[d] = max(self.width[d], len(c))

    def gather(self, state: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        column = torch.arange(max(self.width[depth], 1))
        first = self.first[state][:, None]
        valid = column < (self.first[state + 1][:, None] - first)
        at = torch.where(valid, first + column, 0)
        return self.token[at], self.next[at], valid

    def advance(self, state: torch.Tensor, depth: int, token: torch.Tensor) -> torch.Tensor:
        child, after, valid = self.gather(state, depth)
        hit = (child == token[:, None]) & valid
        return (after * hit).sum(1)

    def mask(self, state: torch.Tensor, depth: int, scores: torch.Tensor) -> torch.Tensor:
        token, _, valid = self.gather(state, depth)
        out = torch.full_like(scores, -torch.inf)
        token = torch.where(valid, token, torch.where(valid[:, :1], token[:, :1], self.eos))
        return out.scatter_(1, token, scores.gather(1, token))
