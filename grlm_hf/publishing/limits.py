"""What the figures of a checkpoint's card do not prove, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grlm_hf.evaluation.diversity import HEAD
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.verdict import MAIN, uses_language_model
from grlm_hf.markdown import escaped, number
from grlm_hf.publishing.audit import share


def checkpoint_limits(training: dict[str, Any] | None, facts: dict[str, Any] | None, report: Report | None) -> Iterator[str]:
    """Sentences on what the record of a checkpoint (`grlm_hf.publishing.record`) does not prove."""
    if report is None:
        yield "Nothing was measured; see Results."
    else:
        yield from _of_report(report)
    if facts and (found := facts.get("audit")) and (n := found["items_sharing_a_term_id"]):
        yield f"{n:,} items ({share(n, found['items'])}) share their Term ID with another: the model itself cannot tell them apart."
    if training is None:
        yield "Its training was not recorded, so it cannot be repeated from this card."
    yield "It has learnt what the people in its data chose, with their habits and biases; who is not among them may be served worse."


def _of_report(report: Report) -> Iterator[str]:
    p, grlm = report.protocol, report.methods.get("grlm", {})
    yield (
        f"One training and one evaluation with seed {number(p.seed)}: the intervals are over users, and say nothing of how much "
        "another training run would differ."
    )
    yield (
        f"Offline, on {escaped(p.split)}: one event that did happen is to be found again. What people would have liked but never saw "
        "counts as a miss, and nothing is said of clicks, sales or contentment."
    )
    if p.seen_items == "left out":
        yield "Items of the history are never recommended; what people come back for is not measured."
    cold = report.slices.get("target", {}).get("cold")
    if cold and (m := cold.methods.get("grlm", {}).get(MAIN)):
        cases = p.users if p.cases is None else p.cases
        yield (
            f"{cold.cases:,} of {cases:,} cases ({share(cold.cases, cases)}) ask for an item without a training event; there "
            f"{MAIN} of grlm is {m.value:.4f} [{m.low:.4f}, {m.high:.4f}]."
        )
    for grouping in ("history length", "target popularity"):
        slices = {label: part.methods.get("grlm", {}) for label, part in report.slices.get(grouping, {}).items()}
        parts = {label: metrics[MAIN].value for label, metrics in slices.items() if MAIN in metrics}
        if len(parts) > 1:
            low, high = min(parts, key=parts.__getitem__), max(parts, key=parts.__getitem__)
            yield (
                f"By {grouping} {MAIN} of grlm lies between {parts[low]:.4f} (at {escaped(low)}) and {parts[high]:.4f} "
                f"(at {escaped(high)}): the mean hides that."
            )
    if "coverage" in grlm:
        reached = share(round(grlm["coverage"].value * p.candidates), p.candidates)
        text = f"Of the catalog, {reached} of the items are among anyone's first {10 if p.rates_at is None else p.rates_at}"
        if (tail := grlm.get("tail_share@10")) is not None:
            text += f"; {100 * tail.value:.1f} % of what is recommended is of the tail, outside the most popular items that hold "
            text += f"{HEAD:.0%} of the training events".replace("%", " %")
        yield text + "."
    others = {n: m[MAIN].value for n, m in report.methods.items() if not uses_language_model(n) and MAIN in m}
    if MAIN in grlm and (better := [n for n, value in others.items() if value > grlm[MAIN].value]):
        yield f"Alone it is below {', '.join(map(escaped, better))} in mean {MAIN}."
