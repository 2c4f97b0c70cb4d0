"""What counting and texts reach on the real Beauty files, all users; skipped, saying so, where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from grlm_hf.data.interactions import Case, leave_one_out, load_histories
from grlm_hf.data.items import load_items
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.scores import Scorer
from grlm_hf.priors.text import TextKNN
from grlm_hf.priors.tuning import Targets

BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")]


def ndcg_and_recall(scorer: Scorer, cases: tuple[Case, ...]) -> tuple[float, float]:
    targets = Targets(scorer.item_ids, cases)
    values = np.concatenate([targets.ndcg(scorer.scores(targets.histories[s : s + 2000]), s) for s in range(0, len(cases), 2000)])
    return float(values.mean()), float((values > 0).mean())


def test_item_knn_and_texts_reach_what_the_lab_notes_say() -> None:
    items = load_items(BEAUTY / "items.jsonl.gz", missing_title="fill")
    ids = [i.item_id for i in items]
    split = leave_one_out(load_histories(BEAUTY / "sequences.jsonl.gz", set(ids)))
    knn = ItemKNN.fit(ids, split.train)
    ndcg, recall = ndcg_and_recall(knn, split.test)
    assert (round(ndcg, 3), round(recall, 3)) == (0.054, 0.085)
    ndcg, recall = ndcg_and_recall(Fused({"item_knn": (knn, 1.0), "text_knn": (TextKNN.fit(items), 0.3)}), split.test)
    assert (round(ndcg, 3), round(recall, 3)) == (0.062, 0.102)
