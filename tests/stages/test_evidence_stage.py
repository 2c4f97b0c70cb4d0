"""`mixture.evidence` from the tables of a shop to an evaluated checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys import toy_catalog

from grlm_hf import GRLMForRecommendation, Item
from grlm_hf.data.interactions import History, leave_one_out
from grlm_hf.data.repository import dataset_facts, load_table
from grlm_hf.doctor.checkpoint import examine_checkpoint
from grlm_hf.doctor.dataset import examine_dataset
from grlm_hf.layout import EVIDENCE_FILE
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.recipe import DataConfig, EvaluateConfig
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.training.config import DistillConfig, EarlyStoppingConfig, TrainConfig
from grlm_hf.training.scratch import ScratchConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
TOY = toy_catalog()
EIGHT = [Item(f"n{n}", f"Blue {item.title}", description=f"{item.description} blue") for n, item in enumerate(TOY.items[:8])]
CATALOG = TOY.add(EIGHT, [(*tid[:4], "blue") for tid in TOY.term_ids[:8]])
IDS = [item.item_id for item in CATALOG]
HISTORIES = [History(f"u{n}", tuple(IDS[(n + s * (1 + n % 2)) % 20] for s in range(5))) for n in range(40)]


@pytest.mark.parametrize("split", ["leave-one-out", "unseen-items"])
def test_a_taught_training_with_evidence_is_served_with_it(split: str, tmp_path: Path) -> None:
    CATALOG.save_pretrained(tmp_path / "catalog")
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps({"user_id": h.user_id, "items": h.items}) + "\n" for h in HISTORIES))
    mixture = MixtureConfig(max_history=3, evidence=2, internalise=0.0, sliding=1.0, sequence=0.0)
    make_dataset(tmp_path, tmp_path / "catalog", tmp_path / "d", mixture, DataConfig(split=split))
    assert dataset_facts(tmp_path / "d")["evidence"] == 2
    assert load_table(tmp_path / "d", "sft", "train").column_names == load_table(tmp_path / "d", "sft", "validation").column_names
    train = [History(h.user_id, h.items[:-2]) for h in HISTORIES]
    ItemKNN.fit(IDS, train).save(tmp_path / "item_knn.prior")
    shape = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)
    stopping = EarlyStoppingConfig(metric="recall@10" if split == "leave-one-out" else "", users=4)
    teacher = DistillConfig(teacher=str(tmp_path / "item_knn.prior"), weight=0.5, sampled=1.0)
    config = TrainConfig(objective="trie", scratch=shape, max_steps=2, batch_size=8, distill=teacher, early_stopping=stopping)
    made = make_checkpoint(tmp_path / "d", tmp_path / "checkpoint", config)
    assert made is not None
    assert made.config.evidence == 2
    assert (tmp_path / "checkpoint" / EVIDENCE_FILE).is_file()
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    text = loaded.tokenizer.decode(loaded.prompt_tokens([made.catalog.items[0].item_id])[0])
    assert text.count("[") == 3  # two lines of evidence and the item
    report = make_report(tmp_path / "checkpoint", tmp_path / "d", tmp_path / "report.json", EvaluateConfig(resamples=10))
    assert report.methods["grlm"]["recall@20"].value == 1  # all items
    if split == "leave-one-out":
        counts = ItemKNN.fit(IDS, leave_one_out(HISTORIES).train)
        np.testing.assert_array_equal(loaded.prompter.evidence.knn.counts, counts.counts)  # type: ignore[union-attr]
        other = loaded.with_catalog(CATALOG.remove(IDS[:2]), HISTORIES[:0])
        assert other.tokenizer.decode(other.prompt_tokens([IDS[5]])[0]).count("[") == 1
        second = loaded.with_catalog(CATALOG, train)
        assert second.prompt_tokens([IDS[5]]).tolist() == loaded.prompt_tokens([IDS[5]]).tolist()
        (_, found), (_, of_data) = examine_checkpoint(tmp_path / "checkpoint"), examine_dataset(tmp_path / "d")
        assert not [f for f in [*found, *of_data] if f.level == "error" or f.check == "prompt-drift"]
        (tmp_path / "checkpoint" / EVIDENCE_FILE).write_bytes(b"broken")
        assert ("broken-file", EVIDENCE_FILE) in {(f.check, f.found.split()[0]) for f in examine_checkpoint(tmp_path / "checkpoint")[1]}
