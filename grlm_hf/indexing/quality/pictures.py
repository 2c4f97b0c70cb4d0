"""The picture of a quality report: small multiples, one per measure with one colour per set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import replacing
from grlm_hf.indexing.quality.measure import noun_of, with_article

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_FEWEST = 0.002  # share of the pairs in a bin of similarity below which it is not drawn: its mean is noise
_LONGEST = 60  # characters of a set's name in the legend
_DPI = 150


def plot(comparison: dict[str, Any], path: str | Path, note: str) -> None:
    """Small multiples, one per measure with one colour per set, as a PNG 1,600 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    reports = list(comparison["sets"].values())
    panels: list[Callable[..., None]] = [_prefixes, _positions, _entropy, _groups, _alignment]
    if any("scheme" in r for r in reports):
        panels = [_prefixes, _groups, _used, _perplexity]
        panels += [partial(_same, part=part) for part in ("agreement", "behaviour") if any(r.get(part) for r in reports)]
        panels += [_reconstruction] if any(r.get("reconstruction") for r in reports) else []
    elif any(r["agreement"] for r in reports):
        panels += [_by_similarity, _by_rank]
    if any(r["tokens"] for r in reports):
        panels += [_tokens, _children]
    columns = 4 if len(panels) == 7 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1600 / _DPI, 0.7 + 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns).flat)
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, reports)
        axis.set_title(axis.get_title(), loc="center", fontsize=9)
        axis.xaxis.label.set_fontsize(8)
        axis.yaxis.label.set_fontsize(8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in comparison["sets"]]
    handles = [Line2D([], [], color=f"C{at}", lw=5) for at in range(len(names))]
    abreast = max(1, min(len(names), 100 // max(map(len, names))))
    figure.legend(handles, [n.replace("$", r"\$") for n in names], loc="outside upper center", ncols=abreast, frameon=False, fontsize=10)
    figure.supxlabel(note.replace("$", r"\$"), fontsize=8, color="0.3")
    with replacing(path) as new:
        figure.savefig(new, format="png", dpi=_DPI, metadata={"Software": None})


def _bars(axis: Axes, groups: Sequence[str], values: Sequence[Sequence[float]], behind: Sequence[Sequence[float]] = ()) -> None:
    """Bars side by side, `values` [set][group], with a hatched outline in front for the chance level."""
    width = 0.8 / len(values)
    for at, heights in enumerate(values):
        place = [group + (at - (len(values) - 1) / 2) * width for group in range(len(heights))]
        axis.bar(place, heights, width * 0.92, color=f"C{at}")
        if behind:
            axis.bar(place, behind[at], width * 0.92, color="none", edgecolor="black", hatch="/////", lw=0.8)
    axis.set_xticks(range(len(groups)), groups)


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def _prefixes(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    _lines(axis, [(range(1, len(r["prefixes"]) + 1), r["prefixes"]) for r in reports])
    _mark(axis, [reports[0]["items"]], "items", "0.4")
    _counts(axis)
    _whole_ticks(axis.xaxis)
    _label(axis, "Distinct prefixes", f"length, {'parts' if any('scheme' in r for r in reports) else 'terms'}", "prefixes")


def _by_position(reports: Sequence[dict[str, Any]], what: str) -> tuple[list[str], list[list[float]]]:
    longest = max(len(r["terms"]["positions"]) for r in reports)
    return [str(n + 1) for n in range(longest)], [[p[what] for p in r["terms"]["positions"]] for r in reports]


def _positions(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    _bars(axis, *_by_position(reports, "distinct"))
    _counts(axis)
    _label(axis, "Vocabulary by position", "position of the term", "distinct terms")


def _by_level(reports: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> tuple[list[str], list[list[float]]]:
    values = [[value(level) for level in r.get("levels", ())] for r in reports]
    return [str(n + 1) for n in range(max(map(len, values)))], values


def _used(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    _bars(axis, *_by_level(reports, lambda level: 100 * level["used"] / level["of"]))
    axis.set_ylim(0, 100)
    _label(axis, "Codes in use", "level", "share of the level's codes, %")


def _perplexity(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    _bars(axis, *_by_level(reports, lambda level: level["perplexity"]))
    _counts(axis)
    _label(axis, "Perplexity of the codes", "level", "codes as if used alike")


def _same(axis: Axes, reports: Sequence[dict[str, Any]], part: str) -> None:
    found = [r[part] if "scheme" in r and r[part] else None for r in reports]
    for kind, style in (("same", "o-"), ("random", ":")):
        for at, near in enumerate(found):
            if near:
                axis.plot(range(1, len(near[kind]) + 1), [100 * share for share in near[kind]], f"C{at}{style}", lw=1.8, ms=4)
    axis.set_ylim(bottom=0)
    _whole_ticks(axis.xaxis)
    _label(axis, f"As a neighbour by {'text' if part == 'agreement' else part} (dotted: random)", "first codes", "pairs with the same, %")


def _reconstruction(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    found = [r.get("reconstruction") for r in reports]
    ends = [len(r.get("levels", ())) if v and len(v) == 1 else len(v or ()) for r, v in zip(reports, found, strict=True)]
    _lines(axis, [v and (range(end - len(v) + 1, end + 1), [100 * x for x in v]) for v, end in zip(found, ends, strict=True)])
    axis.set_ylim(bottom=0)
    _whole_ticks(axis.xaxis)
    _label(axis, "What the codes leave of a vector", "first codes", "variance not explained, %")


def _entropy(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    _bars(axis, *_by_position(reports, "entropy"))
    axis.set_ylim(0, max(1.0, axis.get_ylim()[1]))
    _label(axis, "Entropy by position", "position of the term", "bits")


def _groups(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    classes = {"2": (2, 2), "3": (3, 3), "4": (4, 4), "5–9": (5, 9), "10+": (10, math.inf)}
    sizes = [report["collisions"]["sizes"] for report in reports]
    _bars(axis, list(classes), [[sum(s * n for s, n in pairs if low <= s <= high) for low, high in classes.values()] for pairs in sizes])
    _counts(axis)
    if not any(sizes):
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, color="dimgray")
    _label(axis, f"Items that share {with_article(noun_of(reports))}", "items in the group that shares it", "items")


def _alignment(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    kinds = [("text", "items"), ("text", "terms"), ("title", "items"), ("title", "terms")]
    own, shuffled = (
        [[0.0 if r["alignment"][whose] is None else 100 * r["alignment"][whose][field][what] for field, what in kinds] for r in reports]
        for whose in ("own", "shuffled")
    )
    _bars(axis, ["items\nin text", "terms\nin text", "items\nin title", "terms\nin title"], own, shuffled)
    axis.set_ylim(0, 100)
    _label(axis, "In the item's text (hatched: shuffled)", "", "share, %")


def _lines(axis: Axes, curves: Sequence[tuple[Sequence[float], Sequence[float]] | None]) -> None:
    """One line per set, each narrower than the previous one, so that equal lines stay visible."""
    for at, curve in enumerate(curves):
        if curve is not None:
            axis.plot(*curve, f"C{at}o-", lw=1.5 + 1.5 * (len(curves) - 1 - at) / max(1, len(curves) - 1), ms=4)


def _mark(axis: Axes, levels: Sequence[float | None], name: str, color: str = "") -> None:
    """Horizontal dotted lines, one per set in its colour or in `color`, with a name above the highest."""
    for at, level in enumerate(levels):
        if level is not None:
            axis.axhline(level, color=color or f"C{at}", ls=":", lw=1.2)
    top = max(level for level in levels if level is not None)
    axis.annotate(name, (1, top), (-2, 2), axis.get_yaxis_transform(), "offset points", ha="right", fontsize=8, color="0.3")


def _whole_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _counts(axis: Axes) -> None:
    """Makes the vertical axis one of counts from 0; call it after drawing."""
    axis.set_ylim(0, max(1, axis.get_ylim()[1]))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    _whole_ticks(axis.yaxis)


def _by_similarity(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    found = [r["agreement"] for r in reports]
    bins = [a and [b for b in a["by_similarity"] if b["pairs"] >= _FEWEST * a["pairs"]] for a in found]
    _lines(axis, [([x["similarity"] for x in b], [x["shared"] for x in b]) if b else None for b in bins])
    _mark(axis, [a and a["random"] for a in found], "random items")
    axis.set_ylim(bottom=0)
    _label(axis, "Terms shared with a neighbour", "cosine similarity of the two", "shared terms, mean")


def _by_rank(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    found = [r["agreement"] for r in reports]
    _lines(axis, [a and ([x["rank"] for x in a["by_rank"]], [x["shared"] for x in a["by_rank"]]) for a in found])
    _mark(axis, [a and a["random"] for a in found], "random items")
    axis.set_ylim(bottom=0)
    _whole_ticks(axis.xaxis)
    _label(axis, "Terms shared with a neighbour", "rank of the neighbour", "shared terms, mean")


def _tokens(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    found = [r["tokens"] for r in reports]
    _lines(axis, [t and ([x for x, _ in t["lengths"]], [100 * n / reports[0]["items"] for _, n in t["lengths"]]) for t in found])
    axis.set_ylim(bottom=0)
    _whole_ticks(axis.xaxis)
    _label(axis, "Length in tokens", f"tokens of the {noun_of(reports)}", "% of items")


def _children(axis: Axes, reports: Sequence[dict[str, Any]]) -> None:
    levels = [r["trie"]["tokens"] and r["trie"]["tokens"]["by_depth"] for r in reports]
    _lines(axis, [some and ([x["depth"] for x in some], [x["mean_children"] for x in some]) for some in levels])
    if any(levels):
        axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:,g}")
    _whole_ticks(axis.xaxis)
    _label(axis, "Trie of tokens: children", "depth, tokens", "children of an inner node, mean")
