"""Statistics of a dataset's tables, for its facts and its card, and a plot of its events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.files import replacing

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 10_000  # rows held at once where a column cannot be counted as a whole


@dataclass(frozen=True, eq=False)
class Events:
    """Counts of the ``interactions`` of all splits."""

    per_user: np.ndarray  # int64 [n_users]: number of events of each user with events
    per_item: np.ndarray  # int64 [n_items]: number of events of each item with events
    times: np.ndarray  # int64 [n_timed]: unix seconds of the events with a known time


def count_events(splits: dict[str, Dataset]) -> Events:
    """Counts the ``interactions`` table; its columns are read one at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def column(name: str) -> pa.ChunkedArray:
        parts = [rows.select_columns(name).with_format("arrow")[:].column(name) for rows in splits.values()]
        return pa.chunked_array([chunk for part in parts for chunk in part.cast(parts[0].type).chunks])  # no copy where the types agree

    def counted(name: str) -> np.ndarray:
        return pc.value_counts(column(name)).field("counts").to_numpy(zero_copy_only=False)

    times = column("timestamp").drop_null().cast(pa.int64()).to_numpy()
    return Events(counted("user_id"), counted("item_id"), times)


def dataset_statistics(tables: dict[str, dict[str, Dataset]], catalog: Catalog, events: Events | None) -> dict[str, Any]:
    """Statistics of the tables (config → split → rows) as JSON values, without those of absent or empty tables. `density` is events /
    (users · items). Quantiles are lower ones of integer counts. Times are days in UTC. `sft` has lengths in characters."""
    found: dict[str, Any] = {"rows": {config: {split: len(rows) for split, rows in splits.items()} for config, splits in tables.items()}}
    found["items"] = len(catalog)
    if domains := Counter(item.domain for item in catalog if item.domain):
        found["domains"] = dict(sorted(domains.items()))
    if events is not None and len(events.per_user):
        users, total = len(events.per_user), int(events.per_user.sum())
        ranked = np.sort(events.per_item)[::-1]
        found |= {
            "users": users,
            "events": total,
            "density": total / (users * len(catalog)),
            "items_with_events": len(ranked),
            "events_per_user": _quantiles(events.per_user),
            "events_per_item": _quantiles(events.per_item),
            "share_of_top_1_percent_items": float(ranked[: max(1, len(catalog) // 100)].sum() / total),
            "timed_events": len(events.times),
        }
        if len(events.times):
            found |= {"first_day": _day(int(events.times.min())), "last_day": _day(int(events.times.max()))}
    found["term_ids"] = _terms(catalog)
    examples = {split: _examples(rows) for split, rows in tables.get("sft", {}).items() if len(rows)}
    return found | ({"sft": examples} if any(examples.values()) else {})


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    named = {"min": 0, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}
    return {"mean": float(counts.mean()), **{n: int(np.percentile(counts, q, method="lower")) for n, q in named.items()}}


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
    except (OverflowError, ValueError, OSError):  # a year out of range
        return f"{seconds} s"


def _terms(catalog: Catalog) -> dict[str, Any]:
    used = Counter(term for tid in catalog.item_identifiers for term in tid)
    lengths = [len(tid) for tid in catalog.identifiers]
    return {
        "distinct": len(catalog.identifiers),
        "items_that_share_one": sum(len(group) for group in catalog.collisions.values()),
        "largest_shared_group": max((len(group) for group in catalog.collisions.values()), default=1),
        "terms_in_one": {"min": min(lengths), "max": max(lengths)},
        "distinct_terms": len(used),
        "terms_used_once": sum(count == 1 for count in used.values()),
        "distinct_prefixes": [len({tid[:n] for tid in catalog.identifiers}) for n in range(1, max(lengths) + 1)],
    }


def _examples(rows: Dataset) -> dict[str, dict[str, float]]:
    """For each task the number of examples, and the mean and maximum length of prompts and completions; empty for other columns."""
    if not {"task", "prompt", "completion"} <= set(rows.column_names):
        return {}
    import pandas as pd

    batches = rows.select_columns(["task", "prompt", "completion"]).with_format("arrow").iter(_BATCH)
    lengths = pd.concat(
        pd.DataFrame(
            {"task": [intern(str(t)) for t in b["task"].to_pylist()]} | {part: _lengths(b[part]) for part in ("prompt", "completion")}
        )
        for b in batches
    )
    found: dict[str, dict[str, float]] = {}
    for task, of_task in lengths.groupby("task"):
        found[str(task)] = {"examples": len(of_task)}
        for part in ("prompt", "completion"):
            found[str(task)] |= {f"{part}_mean": float(of_task[part].mean()), f"{part}_max": int(of_task[part].max())}
    return found


def _lengths(column: Any) -> np.ndarray:
    """The number of characters of each text, or of the contents of each list of messages {role, content}. `[n_rows]`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.utf8_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    content = pc.utf8_length(pc.struct_field(pc.list_flatten(column), "content")).fill_null(0)
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    return np.bincount(parents, content.to_numpy(zero_copy_only=False), minlength=len(column))


def plot_events(events: Events, path: str | Path) -> None:
    """History lengths, the long tail of item popularity and, where times are known, events over time, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    first, last = (int(events.times.min()), int(events.times.max())) if len(events.times) else (0, 0)
    timed = first < last and abs(first) < 2**35 and abs(last) < 2**35  # years that a plot can show
    figure = Figure(figsize=(12 if timed else 8.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    lengths, tail, *rest = figure.subplots(1, 3 if timed else 2)

    shortest, longest = int(events.per_user.min()), int(np.percentile(events.per_user, 99, method="higher"))
    width = -(-(longest - shortest + 1) // 40)  # whole numbers, the same in every bar
    bins = np.arange(shortest, longest + width + 1, width)
    last = int(bins[-2])
    more = f" (last bar: {last:,} or more)" if events.per_user.max() >= bins[-1] else ""
    lengths.hist(np.minimum(events.per_user, last), bins=bins - 0.5, color="C0", edgecolor="white", linewidth=0.3)
    lengths.set(xlabel=f"events of a user{more}", ylabel="users")
    lengths.set_title("History length", loc="left")

    ranked = np.sort(events.per_item)[::-1]
    tail.plot(np.arange(1, len(ranked) + 1), ranked, color="C1", marker="." if len(ranked) < 30 else None)
    tail.set(xscale="log", yscale="log", xlabel="items, most popular first", ylabel="events of the item")
    tail.set_title("Item popularity", loc="left")

    plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 or value == 0 else "")
    for axis in (lengths.xaxis, lengths.yaxis, tail.xaxis, tail.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    if timed:
        (when,) = rest
        counts, edges = np.histogram(events.times, bins=60)
        when.stairs(counts, edges.astype("datetime64[s]"), fill=True, color="C2")
        when.xaxis.set_major_locator(locator := AutoDateLocator(maxticks=6))
        when.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        when.yaxis.set_major_formatter(plain)
        when.set(xlabel="time (UTC)", ylabel="events")
        when.set_title("Events over time", loc="left")
    for axis in (lengths.xaxis, lengths.yaxis, *(axes.yaxis for axes in rest)):
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    for axes in (lengths, tail, *rest):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    with replacing(path) as new:
        figure.savefig(new, format="png", dpi=150, metadata={"Software": None})
