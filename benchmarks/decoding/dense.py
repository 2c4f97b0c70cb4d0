"""Recommending without decoding beside the edge-wise search: users a second, and what it costs in recall.

    python benchmarks/decoding/dense.py CHECKPOINT DATASETS [--users 2000]

Validation users of a trained checkpoint, the language model alone, seen items left out. Without ``train.contrastive`` nothing has trained
the items' vectors, and a low recall is expected. Writes results/decoding-dense.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Results, interleaved

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.repository import load_cases, sample_cases

COMMAND = "python benchmarks/decoding/dense.py runs/beauty-taught/checkpoint runs/beauty-taught/datasets"
MODES: dict[str, dict[str, Any]] = {"edge-wise search, 20 beams": {"edge_wise": True}, "decode=False": {"decode": False}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--users", type=int, default=2000)
    args = parser.parse_args()
    results = Results("decoding-dense", COMMAND)
    grlm = GRLMForRecommendation.from_pretrained(args.checkpoint)
    cases = sample_cases(load_cases(args.datasets, "validation"), args.users, 0)
    histories = [list(c.history) for c in cases]
    start = time.perf_counter()
    trained = grlm.dense_half.vectors is not None
    grlm.dense_on()
    name = "contrastive loss" if trained else "no contrastive loss"
    results.add("vectors of all items, made once", "items/s", len(grlm.catalog) / (time.perf_counter() - start))
    common: dict[str, Any] = {"exclude_seen": True, "prior": "none", "batch_size": 64}
    some = histories[:256]
    seconds = interleaved({label: lambda o=o: grlm.recommend(some, 10, **common, **o) for label, o in MODES.items()}, 3)
    search, dense = (len(some) / seconds[label] for label in MODES)
    results.add(next(iter(MODES)), "users/s", search)
    results.add(list(MODES)[1], "users/s", dense)
    results.add("decode=False against the edge-wise search", "times faster", dense / search, 5)
    alone = histories[:48]
    seconds = interleaved({label: lambda o=o: [grlm.recommend(h, 10, **common, **o) for h in alone] for label, o in MODES.items()}, 3)
    for label in MODES:
        results.add(f"{label}, one user at a time", "ms", 1000 * seconds[label] / len(alone), better="lower")
    found = {label: grlm.recommend(histories, 10, **common, **options) for label, options in MODES.items()}
    lists = {label: [[r.item_id for r in row] for row in rows] for label, rows in found.items()}
    for label, rows in lists.items():
        hits = [c.target in row for c, row in zip(cases, rows, strict=True)]
        results.add(f"recall@10, {label}, {name}, {len(cases)} validation users", "of users", float(np.mean(hits)))
        results.add(f"items in any list, {label}, {name}", "of items", len({i for row in rows for i in row}) / len(grlm.catalog))
    one, other = lists.values()
    either = np.mean([c.target in {*a, *b} for c, a, b in zip(cases, one, other, strict=True)])
    results.add(f"target in either list of 10, {name}", "of users", float(either))
    results.save("Recommending without decoding", "users/s")


if __name__ == "__main__":
    main()
