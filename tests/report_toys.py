"""A report with every block, measured on the toys."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from dataclasses import replace
from typing import Any

from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf import Catalog
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.evaluation.evaluate import evaluate
from grlm_hf.evaluation.generative import constrained
from grlm_hf.evaluation.rankings import Method
from grlm_hf.evaluation.scored import scored
from grlm_hf.evaluation.unseen import unseen_block
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.popularity import Popularity

HOSTILE = "</title><script>alert(1)</script> <img src=x onerror=\"alert('2')\"> $x_{1$ & `a` | **b** -->\n\u202e]]> 水"


def full_report() -> dict[str, Any]:
    """A copy of its own."""
    return copy.deepcopy(_report())


@functools.cache
def _report() -> dict[str, Any]:
    toys = toy_catalog()
    catalog = Catalog([replace(i, domain="camp" if n < 6 else "home") for n, i in enumerate(toys)], toys.term_ids)
    split = leave_one_out(toy_histories())
    ids = tuple(i.item_id for i in catalog)
    counts = Counter(item for h in split.train for item in h.items)
    grlm = toy_grlm()

    def methods(exclude_seen: bool) -> dict[str, Method]:
        return {
            "grlm": constrained(grlm, exclude_seen),
            "item_popularity": scored(Popularity.fit(ids, split.train), catalog, exclude_seen),
            "random": scored(Chance(ids), catalog, exclude_seen),
        }

    about: dict[str, Any] = {"dataset": "toy", "split": "leave-one-out, test", "seen": "left out", "resamples": 50, "counts": counts}
    report = evaluate(methods(True), split.test, catalog, unmasked=methods(False), **about)
    report["unseen"] = unseen_block(evaluate(methods(True), split.test[:9], catalog, **about), 3, extracted=True)
    report["training"] = [{"epoch": e / 2, "step": e, "loss": 3 / (e + 1)} for e in range(8)]
    report["training"] += [{"epoch": float(e), "eval_loss": 2 / e, "eval_recall@10": e / 9} for e in range(1, 4)]
    return report
