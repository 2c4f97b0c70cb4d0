"""Which method won, by how much, whether the difference is real, and which one to ship: one sentence for every place that shows a report.

A language model costs more to train and to serve than counting does. So a method without it is shipped, unless one with it is shown to be
better. That choice is made on validation users where they were measured; a choice on the reported users themselves is said to be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grlm_hf.evaluation.metrics import user_sums
from grlm_hf.evaluation.schema import Report, Verdict
from grlm_hf.evaluation.significance import Comparison, sign_flip

MAIN = "recall@10"
LEVEL = 0.05
"""A difference with a p below it is called real."""
OF_OTHER_USERS = ("grlm_free", "zero-shot")
"""Methods that may be measured on some of the users only, so they are compared with no other one."""
_NO_CANDIDATES = (*OF_OTHER_USERS, "random")  # nothing that anybody would ship


def uses_language_model(method: str) -> bool:
    """Whether a method of a report is the checkpoint's language model, alone or with a prior, or its answer without decoding."""
    return re.fullmatch(r"grlm(\+.*|_free)?|dense", method, re.DOTALL) is not None


@dataclass(frozen=True)
class Choice:
    """The method to ship, chosen on validation users."""

    ship: str
    cases: int
    ndcg: Mapping[str, float]  # method → NDCG@10
    difference: float | None = None  # NDCG@10 of the best method with the language model minus that of the best without
    p: float | None = None  # of that difference, two-sided (`significance.sign_flip`)
    macro: bool = False  # NDCG@10 is a macro average over slices of the target's popularity


def choose(by_case: Mapping[str, np.ndarray], users: Sequence[str], seed: int = 0) -> Choice:
    """The best method with the language model, if it is really better than the best without; else the best without.

    Args:
        by_case: method → NDCG@10 of each validation case, float64 [cases].
        users: the user of each case.
    """
    mean = {name: float(values.mean()) for name, values in by_case.items()}
    ours, others = _best(mean, True), _best(mean, False)
    if not ours or not others:
        return Choice(ours or others, len(users), mean)
    difference = mean[ours] - mean[others]
    p = float(sign_flip(user_sums((by_case[ours] - by_case[others])[:, None], users), seed=seed)[0])
    return Choice(ours if difference > 0 and p < LEVEL else others, len(users), mean, difference, p)


def verdict(report: Report, choice: Choice | None = None) -> Verdict:
    """The verdict on a report.

    Args:
        choice: from `choose`. Without it, or if it names a method that the report lacks, the reported users themselves choose.
    """
    values = {name: m[MAIN].value for name, m in report.methods.items() if MAIN in m}
    found = {name: value for name, value in values.items() if name not in _NO_CANDIDATES and not name.startswith("rerank(")}
    if not found:
        return Verdict(text=f"Nothing can be concluded: {MAIN} was measured of no method.", best="", ship="")
    if report.protocol.unanswerable and report.protocol.unanswerable == report.protocol.cases:
        text = "Nothing can be concluded: every case asks for an item that the history has already, and seen items are left out"
        return Verdict(text=f"{text} (evaluate.exclude_seen=false keeps them).", best="", ship="")
    best = max(found, key=lambda name: (found[name], not uses_language_model(name)))
    if found[best] <= values.get("random", 0.0):
        text = f"No method finds more than chance does ({MAIN} {found[best]:.4f}), so there is nothing to ship."
        return Verdict(text=text, best=best, ship="")
    ours = uses_language_model(best)
    rival = _best(found, not ours) or max((name for name in found if name != best), key=found.__getitem__, default="")
    tested = next((e for e in report.comparisons if e.metric == MAIN and {e.a, e.b} == {best, rival}), None)
    side = "the next" if uses_language_model(rival) == ours else f"the best {'without' if ours else 'with'} the language model"
    if rival and f"{found[best] - found[rival]:.4f}" == "0.0000":
        text = f"{best} and {rival}, {side}, are equally good, with {MAIN} {found[best]:.4f}"
    else:
        text = f"{best} is best, with {MAIN} {found[best]:.4f}"
        text += f", {found[best] - found[rival]:+.4f} against {rival}, {side} ({_tested(tested)})" if rival else ""
    if choice is not None and choice.ship in found:
        ship, why, on = choice.ship, _why(choice), "validation"
    else:
        ship = rival if ours and rival and not uses_language_model(rival) and tested is not None and not _real(tested) else best
        why, on = "chosen on these users, as none of validation were measured", "the reported users"
        if report.protocol.split.endswith("validation"):
            why, on = "chosen on validation users", "validation"
    without = "" if uses_language_model(ship) else ", without the language model"
    unused = without_weight(report.weights.get(ship, {}))
    parts = f" In it, {weights_words(report.weights[ship])}." if unused else ""
    return Verdict(text=f"{text}; ship {ship}{without}: {why}.{parts}", best=best, ship=ship, chosen_on=on)


def stated(report: Report) -> Verdict:
    """The verdict that a report states; reports of older versions state none, and get one from their figures."""
    return report.verdict or verdict(report)


def without_weight(weights: Mapping[str, float]) -> list[str]:
    """The components of a fused method that got weight 0, so that they change nothing."""
    return [name for name, weight in weights.items() if not weight]


def weights_words(weights: Mapping[str, float]) -> str:
    """Which components of a fused method have weight, in words: "item_knn has weight 0.5, text_knn got 0"."""
    used = [f"{name} has weight {weight:g}" for name, weight in weights.items() if weight]
    unused = [f"{name} got {0 if used or n else 'weight 0'}" for n, name in enumerate(without_weight(weights))]
    return ", ".join([*used, *unused])


def explained(method: str, weights: Mapping[str, float] | None = None) -> str:
    """What a method of a report is, in a line.

    Args:
        weights: those of its components, where they are known.
    """
    if weights and without_weight(weights):
        return f"{explained(method)} ({weights_words(weights)})"
    known = {
        "grlm": "the language model alone, held to the catalog by its trie",
        "grlm_free": "the language model writing freely, grounded afterwards",
        "zero-shot": "another language model that was never trained on this catalog, held to its titles",
        "dense": "the language model without decoding: one forward, and the items' vectors",
        "item_knn": "counts which items follow each other; no language model",
        "text_knn": "compares the items' texts; no language model",
        "sasrec": "a small sequence network over item ids; no language model",
        "ease": "a linear model of which items occur together; no language model",
        "vae": "a variational autoencoder of which items occur together; no language model",
        "popularity": "the most frequent items, the same for everyone",
        "random": "items drawn by chance: the floor",
    }
    if method in known:
        return known[method]
    if method.startswith("rerank("):
        return f"the first items of {method[7:-1]}, reordered by the language model"
    parts = method.removeprefix("grlm+").split("+")
    if set(parts) <= known.keys() and method.startswith("grlm+"):
        return f"the language model together with {' and '.join(parts)}"
    return f"{' and '.join(parts)} together; no language model" if len(parts) > 1 and set(parts) <= known.keys() else "a method of your own"


def _best(values: Mapping[str, float], with_model: bool) -> str:
    """The first of the best methods with, or without, the language model; "" where there is none."""
    return max((name for name in values if uses_language_model(name) == with_model), key=values.__getitem__, default="")


def _p(entry: Comparison) -> float:
    return entry.p if entry.p_holm is None else entry.p_holm


def _real(entry: Comparison) -> bool:
    return _p(entry) < LEVEL


def _tested(entry: Comparison | None) -> str:
    if entry is None:
        return "not tested"
    after = "" if entry.p_holm is None else " after Holm's correction"
    return f"p = {_p(entry):.4f}{after}: {'a real difference' if _real(entry) else 'it could be chance'}"


def _why(choice: Choice) -> str:
    if choice.p is None or choice.difference is None:
        return "the best on validation users"
    found = f"{choice.difference:+.4f} {'macro ' * choice.macro}NDCG@10, p = {choice.p:.4f}"
    if uses_language_model(choice.ship):
        return f"the language model adds something on validation users ({found})"
    return f"the language model adds nothing that is shown on validation users ({found})"
