"""Why is the validation item easier than the test item? Item-kNN, which is refitted in seconds, takes the question apart.

    OMP_NUM_THREADS=1 python benchmarks/quality/gap.py        # reads $GRLM_DATA, by default ../shared/data

All users, full catalog, seen items left out, settings of `KNNConfig`. Writes results/quality-gap.json.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
from harness import Results

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case, History, leave_one_out, load_histories
from grlm_hf.data.items import load_items
from grlm_hf.evaluation.metrics import per_case, ranks
from grlm_hf.evaluation.scored import scored
from grlm_hf.identifiers.terms import TermID
from grlm_hf.priors.knn import ItemKNN

DATA = Path(os.environ.get("GRLM_DATA", "../shared/data"))


def recall(train: list[History], cases: list[Case], catalog: Catalog, ids: list[str]) -> np.ndarray:
    rankings = scored(ItemKNN.fit(ids, train), catalog, True)([c.history for c in cases])
    return per_case(ranks(rankings.items, [c.target for c in cases]))["recall@10"]


def main() -> None:
    if not DATA.is_dir():
        sys.exit(f"No data at {DATA}; set GRLM_DATA.")
    results = Results("quality-gap", "python benchmarks/quality/gap.py")
    for name in ("beauty", "sports"):
        folder = DATA / f"amazon-{name}"
        items = load_items(folder / "items.jsonl.gz", "fill")
        ids = [i.item_id for i in items]
        nothing: list[TermID] = [(f"item-{n}", "of", name) for n in range(len(items))]
        catalog = Catalog(items, nothing)
        split = leave_one_out(load_histories(folder / "sequences.jsonl.gz", set(ids)))
        train, validation, test = list(split.train), list(split.validation), list(split.test)
        last = {c.user_id: c.target for c in validation}
        longer = [History(h.user_id, (*h.items, last[h.user_id])) for h in train]
        short = [replace(c, history=c.history[:-1]) for c in test]
        counts = Counter(i for h in train for i in h.items)
        for what, cases in (("validation", validation), ("test", test)):
            seen = np.array([counts[c.target] for c in cases])
            results.add(f"{name}: {what} targets never in training", "share", float((seen == 0).mean()))
            results.add(f"{name}: {what} targets at most twice in training", "share", float((seen <= 2).mean()))
            results.add(f"{name}: median training events of {what} targets", "events", float(np.median(seen)))
        of_validation = recall(train, validation, catalog, ids)
        of_test = recall(train, test, catalog, ids)
        results.add(f"{name}: validation target after the training items", "recall@10", of_validation.mean())
        results.add(f"{name}: test target after the training items alone (without the validation item)", "recall@10",
                    recall(train, short, catalog, ids).mean())  # fmt: skip
        results.add(f"{name}: test target after all items before it", "recall@10", of_test.mean())
        results.add(f"{name}: the same, counted also from the validation items", "recall@10", recall(longer, test, catalog, ids).mean())
        for what, low, high in (("0", 0, 0), ("1–5", 1, 5), ("6–20", 6, 20), ("more than 20", 21, 10**9)):
            for part, cases, hits in (("validation", validation, of_validation), ("test", test, of_test)):
                some = np.array([low <= counts[c.target] <= high for c in cases])
                share = f"{some.mean():.1%} of them"
                results.add(f"{name}: {part} targets with {what} training events ({share})", "recall@10", hits[some].mean())
    results.save("Recall@10 of item-kNN, on validation and test", "recall@10")


if __name__ == "__main__":
    main()
