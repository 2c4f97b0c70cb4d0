"""A report's figures as pictures. The same report makes the same bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.evaluation.metrics import Estimate
from grlm_hf.evaluation.report.tables import MAIN, candidates
from grlm_hf.evaluation.scaling import Scaling
from grlm_hf.evaluation.schema import Part, Report
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.files import replacing
from grlm_hf.markdown import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 48  # characters of a name beside its row
_DPI = 150
_STYLE = {"font.size": 9, "text.parse_math": False, "svg.hashsalt": "grlm", "svg.fonttype": "path"}
# Letters as wide at every resolution, so that one layout fits what is drawn and what is traced.
_STYLE |= {"figure.dpi": _DPI, "text.hinting": "none"}
_COLORS = ("#1f77b4", "#e8720c", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#d75fb3", "#7f7f7f", "#8f8f1e", "#17a2b0")
"""Of middling lightness: visible on a light ground and, inverted, on a dark one."""
_MARKERS = "osD^vP*Xph"
_ORDERED = ("history length", "target popularity")
"""Groupings whose slices have an order, so that lines may connect them."""


def figures(report: Report) -> dict[str, Figure]:
    """The pictures of the blocks that a report has: ``metrics``, ``comparisons``, ``slices``, ``training``."""
    with _style():
        drawn = {
            "metrics": _metrics(report),
            "comparisons": _comparisons(report.comparisons),
            "slices": _slices(report),
            "training": _training(report.training),
        }
        found = {name: figure for name, figure in drawn.items() if figure is not None}
        for figure in found.values():  # laid out once, for every file format
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
    return found


def save_png(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, atomically."""
    with replacing(path) as new:
        new.write_bytes(_bytes(figure, "png", dpi=_DPI, metadata={"Software": None}))


def svg(figure: Figure) -> bytes:
    """A figure as SVG, its ground transparent."""
    return _bytes(figure, "svg", transparent=True, metadata={"Date": None, "Creator": None})


@contextmanager
def _style() -> Iterator[None]:
    """Our own style, independent of the user's matplotlibrc."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box
        yield


def _bytes(figure: Figure, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    with _style():
        figure.savefig(out, format=form, **options)
    return out.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bare(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right", *(["left"] if grid == "x" else [])]].set_visible(False)
    axis.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    if grid == "x":
        axis.tick_params(axis="y", length=0)


def _label(name: str, longest: int = _LONGEST) -> str:
    name = one_line(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _whisker(m: Estimate) -> list[list[float]]:
    """Distances from the value to the ends of its interval, in matplotlib's form; rounding could make them negative, which it refuses."""
    return [[max(0.0, m.value - m.low)], [max(0.0, m.high - m.value)]]


def _metrics(report: Report) -> Figure | None:
    """A row a method, a panel a metric: a point at the value and a whisker over its interval."""
    methods = report.methods
    names = [n for n in MAIN if any(n in m for m in methods.values())]
    if not names:
        return None
    figure = _figure(2.3 * len(names) + 1.6, 1.3 + 0.3 * len(methods))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(panels, names, strict=True):
        highest = max(m[name].high for m in methods.values() if name in m)
        for row, metrics in enumerate(methods.values()):
            if name not in metrics:
                continue
            m = metrics[name]
            axis.errorbar(m.value, row, xerr=_whisker(m), fmt="o", ms=4.5, capsize=2.5, lw=1.4, color=_COLORS[row % len(_COLORS)])
            axis.annotate(f"{m.value:.4f}", (m.high, row), (5, 0), textcoords="offset points", va="center", fontsize=7.5)
        axis.set_xlim(0, highest * 1.3 or 1)  # room for the figure beside the whisker
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(name, loc="left")
        _bare(axis, "x")
    panels[0].set_yticks(range(len(methods)), [_label(n) for n in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    p = report.protocol
    caption = f"{p.split}, {p.users:,} users, {candidates(p)}; whiskers: 95 % bootstrap interval"
    figure.suptitle(f"{one_line(report.dataset)}\n{one_line(caption)}", fontsize=9)
    return figure


def _comparisons(entries: Sequence[Comparison]) -> Figure | None:
    """A forest: a row a pair, the difference and its interval, hollow where the interval holds 0; a panel a metric."""
    metrics = list(dict.fromkeys(e.metric for e in entries))
    if not metrics:
        return None
    groups = [[e for e in entries if e.metric == metric] for metric in metrics]
    figure = _figure(9, sum(0.7 + 0.27 * len(g) for g in groups) + 0.5)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(g) + 1 for g in groups])[:, 0]
    for axis, metric, some in zip(panels, metrics, groups, strict=True):
        for row, e in enumerate(some):
            color, filled = ("C0", "C0") if e.low > 0 or e.high < 0 else ("0.5", "none")
            whisker = _whisker(Estimate(e.difference, e.low, e.high))
            axis.errorbar(e.difference, row, xerr=whisker, fmt="o", ms=5, mfc=filled, capsize=2.5, lw=1.4, color=color)
        axis.axvline(0, color="0.5", lw=1, zorder=0.5)
        axis.set_yticks(range(len(some)), [f"{_label(e.a, 28)} − {_label(e.b, 28)}" for e in some])
        axis.set_ylim(len(some) - 0.5, -0.5)
        axis.set_title(f"{_label(metric)}: a − b, paired by user", loc="left")
        beside = axis.twinx()
        texts = [f"{e.difference:+.4f}, p = {e.p:.4f}" + (f", Holm {e.p_holm:.4f}" if e.p_holm is not None else "") for e in some]
        beside.set_yticks(range(len(some)), texts, fontsize=7.5)
        beside.set_ylim(axis.get_ylim())
        beside.set_frame_on(False)
        beside.tick_params(axis="y", length=0)
        _bare(axis, "x")
    return figure


def _slices(report: Report) -> Figure | None:
    """recall@10 by slice: a panel a grouping; the domains of the targets are one."""
    groupings: dict[str, Mapping[str, Part]] = {"the target's domain": report.domains, **report.slices}
    groupings = {name: parts for name, parts in groupings.items() if parts}
    if not groupings:
        return None
    methods = list(report.methods)
    figure = _figure(9, 2.7 * len(groupings) + 0.3)
    panels = figure.subplots(len(groupings), 1, squeeze=False)[:, 0]
    for axis, (grouping, parts) in zip(panels, groupings.items(), strict=True):
        for row, method in enumerate(methods):
            shift = (row - (len(methods) - 1) / 2) * 0.6 / len(methods)
            found = [part.methods.get(method, {}).get("recall@10") for part in parts.values()]
            at = [(i + shift, m) for i, m in enumerate(found) if m]
            if not at:
                continue
            places, heights = [x for x, _ in at], [m.value for _, m in at]
            error = [[e[0] for e in side] for side in zip(*(_whisker(m) for _, m in at), strict=True)]
            look = {"color": _COLORS[row % len(_COLORS)], "ms": 3.5, "lw": 0.9, "ls": "-" if grouping in _ORDERED else "none"}
            marker = _MARKERS[(row + row // len(_COLORS)) % len(_MARKERS)]
            axis.errorbar(places, heights, error, fmt=marker, elinewidth=0.8, label=_label(method), **look)
        axis.set_xticks(range(len(parts)), [f"{_label(label)}\n{part.cases:,}" for label, part in parts.items()])
        axis.set_xlim(-0.6, len(parts) - 0.4)
        axis.set_ylim(0)
        axis.set_title(f"recall@10 by {_label(grouping)}, with the number of cases", loc="left")
        _bare(axis, "y")
    handles, labels = max((axis.get_legend_handles_labels() for axis in panels), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _training(log: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Losses by epoch, and beside them the metrics on validation users."""
    left = {"loss": "training loss", "eval_loss": "validation loss"}
    beside = sorted({k for entry in log for k in entry if k.startswith(("eval_recall@", "eval_ndcg@", "eval_mrr"))})
    curves = {key: _curve(log, key) for key in (*left, *beside)}
    if not any(curves.values()):
        return None
    beside = [key for key in beside if curves[key]]
    figure = _figure(9 if beside else 6, 3)
    panels = figure.subplots(1, 2 if beside else 1, squeeze=False)[0]
    for axis, some in zip(panels, (list(left), beside), strict=False):
        for key in some:
            if curves[key]:
                marker = "o" if key.startswith("eval") else ""
                axis.plot(*zip(*curves[key], strict=True), marker=marker, ms=3, lw=1.3, label=left.get(key, key.removeprefix("eval_")))
        axis.set_xlabel("epoch")
        axis.legend(frameon=False)
        _bare(axis, "y")
    panels[0].set_title("loss (nats)", loc="left")
    if beside:
        panels[1].set_title("validation users", loc="left")
    return figure


def scaling_figure(found: Scaling) -> Figure:
    """Losses by parameters, the law through all but the largest size, and what it predicts there."""
    with _style():
        figure = _figure(6, 3.6)
        axis, law, last = figure.subplots(), found.law, found.sizes[-1]
        sizes = [s.parameters for s in found.sizes]
        for s in found.sizes:
            filled = "none" if s is last else _COLORS[0]
            axis.errorbar(s.parameters, s.loss.value, _whisker(s.loss), fmt="o", mfc=filled, capsize=2.5, color=_COLORS[0])
        line = [sizes[0] * (sizes[-1] / sizes[0]) ** (n / 100) for n in range(101)]
        label = f"{law.a.value:.3g} · N^-{law.alpha.value:.3f} + {law.b.value:.2f}"
        axis.plot(line, [law.a.value * n**-law.alpha.value + law.b.value for n in line], lw=1.3, color=_COLORS[1], label=label)
        predicted = f"predicted for {last.name}, which the fit does not know"
        axis.errorbar(sizes[-1], found.predicted.value, _whisker(found.predicted), fmt="_", capsize=5, color=_COLORS[1], label=predicted)
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_xticks(sizes, [f"{n / 1e6:.3g}M" for n in sizes])
        axis.set_xlabel("parameters")
        axis.set_title(f"{_label(found.name)}: validation loss (nats), {found.users:,} users", loc="left")
        axis.legend(frameon=False)
        _bare(axis, "y")
    return figure


def _curve(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of the entries that have both as finite numbers."""
    found = [(entry.get("epoch"), entry.get(key)) for entry in log]
    return [(x, y) for x, y in found if all(isinstance(v, int | float) and abs(v) < float("inf") for v in (x, y))]  # type: ignore[misc]
