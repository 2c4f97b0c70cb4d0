"""A report with every block, measured on the toys."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf import Catalog
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained
from grlm_hf.evaluation.rankings import Method
from grlm_hf.evaluation.schema import Methods, Report
from grlm_hf.evaluation.scored import scored
from grlm_hf.evaluation.unseen import unseen_block
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.popularity import Popularity

HOSTILE = "</title><script>alert(1)</script> <img src=x onerror=\"alert('2')\"> $x_{1$ & `a` | **b** -->\n\u202e]]> 水"


def with_figure(methods: Methods, name: str, metric: str, **changed: float) -> Methods:
    """Methods with one figure changed: `value`, `low` or `high`."""
    return {**methods, name: {**methods[name], metric: replace(methods[name][metric], **changed)}}


@functools.cache
def full_report() -> Report:
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

    setup = Setup("toy", "leave-one-out, test", "left out", resamples=50)
    report = evaluate(methods(True), split.test, catalog, setup, unmasked=methods(False), counts=counts)
    new = evaluate(methods(True), split.test[:9], catalog, setup, counts=counts)
    log = [{"epoch": e / 2, "step": e, "loss": 3 / (e + 1)} for e in range(8)]
    log += [{"epoch": float(e), "eval_loss": 2 / e, "eval_recall@10": e / 9} for e in range(1, 4)]
    return replace(report, unseen=unseen_block(new, 3, extracted=True), training=tuple(log))
