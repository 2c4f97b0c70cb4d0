"""`make_report`: from a checkpoint and a dataset folder to the report, killed and changed on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation, Item
from grlm_hf.data.interactions import History, hold_out_items
from grlm_hf.data.repository import load_table
from grlm_hf.evaluation import report as report_module
from grlm_hf.evaluation.metrics import per_case, ranks
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.scored import scored
from grlm_hf.files import read_json
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.text import TextKNN
from grlm_hf.recipe import DataConfig, EvaluateConfig
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
TOY = toy_catalog()
EIGHT = [Item(f"n{n}", f"Blue {item.title}", description=f"{item.description} blue") for n, item in enumerate(TOY.items[:8])]
CATALOG = TOY.add(EIGHT, [(*tid[:4], "blue") for tid in TOY.term_ids[:8]])
HISTORIES = [*toy_histories(), *(History(f"n{n}", tuple(EIGHT[(n + s) % 8].item_id for s in range(4))) for n in range(16))]
QUICK = EvaluateConfig(resamples=10, timed_users=0)


def datasets(folder: Path, split: str) -> Path:
    CATALOG.save_pretrained(folder / "catalog")
    rows = [{"user_id": h.user_id, "items": list(h.items)} for h in HISTORIES]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_dataset(folder, folder / "catalog", folder / "d", MixtureConfig(max_history=3), DataConfig(split=split))
    return folder / "d"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return datasets(tmp_path_factory.mktemp("shop"), "leave-one-out")


def test_a_killed_evaluation_goes_on_but_not_with_another_checkpoint(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        grlm = toy_grlm("trie", seed)
        grlm.add_items(EIGHT, CATALOG.term_ids[12:])
        grlm.save_pretrained(tmp_path / f"seed-{seed}")
    shutil.copytree(tmp_path / "seed-0", tmp_path / "checkpoint")
    asked = []
    recommend = GRLMForRecommendation.recommend

    def counted(self: GRLMForRecommendation, history: Any, *args: Any, **options: Any) -> Any:
        asked.append(len(history))
        return recommend(self, history, *args, **options)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GRLMForRecommendation, "recommend", counted)

    def made(name: str = "checkpoint", output: str = "out") -> Report:
        return make_report(tmp_path / name, shop, tmp_path / output / "report.json", QUICK)

    with monkeypatch.context() as patch:
        patch.setattr(report_module, "save_report", killed)
        with pytest.raises(KeyboardInterrupt):
            made()
    assert asked == [56]
    assert [p.name.startswith(".report.json-evaluation-") for p in (tmp_path / "out").iterdir()] == [True]
    first = made()
    assert asked == [56]  # it was all there
    assert read_json(tmp_path / "out" / "report.json") == first.to_json()
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]

    with monkeypatch.context() as patch:
        patch.setattr(report_module, "save_report", killed)
        with pytest.raises(KeyboardInterrupt):
            made()
    shutil.rmtree(tmp_path / "checkpoint")
    shutil.copytree(tmp_path / "seed-1", tmp_path / "checkpoint")
    changed = made()
    assert changed.methods["grlm"] == made("seed-1", "other").methods["grlm"] != first.methods["grlm"]
    assert changed.methods["popularity"] == first.methods["popularity"]
    assert {"tail_share@10", "novelty@10"} <= first.methods["grlm"].keys()
    assert list(first.slices) == ["history length", "target popularity", "target"]
    assert first.comparisons
    assert list(first.collisions["any"]) == ["grlm"]


def test_held_out_items_are_new_to_the_checkpoint_and_are_added(tmp_path: Path) -> None:
    folder = datasets(tmp_path, "unseen-items")
    shape = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)
    config = TrainConfig(objective="trie", scratch=shape, max_steps=2, batch_size=8)
    made = make_checkpoint(folder, tmp_path / "checkpoint", config)
    split = hold_out_items(HISTORIES)  # as the stage does
    held = {c.target for c in (*split.validation, *split.test)}
    assert {i.item_id for i in made.catalog} == {i.item_id for i in CATALOG} - held
    report = make_report(tmp_path / "checkpoint", folder, tmp_path / "report.json", QUICK)
    assert report.unseen.items == len(held) == report.protocol.candidates - len(made.catalog)
    assert report.unseen.methods == report.methods
    assert report.methods["grlm"]["recall@20"].value == 1  # fewer items than places: the new ones are among them
    assert list(report.slices["target"]) == ["cold"]
    assert "term" in report.protocol.intra_list_diversity
    # a prior follows: neighbours by text know the new items, and give diversity its vectors
    made.prior = Fused({"text_knn": (TextKNN.fit(made.catalog.items), 1.0)}, tuple(i.item_id for i in made.catalog))
    made.save_pretrained(tmp_path / "with-prior")
    richer = make_report(tmp_path / "with-prior", folder, tmp_path / "richer.json", QUICK)
    assert {"grlm", "text_knn", "grlm+text_knn"} < set(richer.unseen.methods)
    cases = load_table(folder, "cases", "test")
    own = scored(TextKNN.fit(made.catalog.items).following([*made.catalog, *(i for i in CATALOG if i.item_id in held)]), CATALOG, True)
    found = per_case(ranks(own(cases["history"]).items, cases["target"]))["mrr"].mean()
    assert richer.methods["text_knn"]["mrr"].value == pytest.approx(found)
    assert "cosine" in richer.protocol.intra_list_diversity
    assert {i.item_id for i in GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint").catalog}.isdisjoint(held)


def test_a_part_without_cases_is_refused(shop: Path, tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    shutil.copytree(shop, tmp_path / "d")
    card = tmp_path / "d" / "README.md"  # where a split without rows is not named
    card.write_text(card.read_text().replace("  - split: validation\n    path: cases/validation-*-of-00001.parquet\n", ""))
    for part in ("validation", "tset"):
        with pytest.raises(ValueError, match=f"no table 'cases' with a split '{part}'"):
            make_report(tmp_path / "checkpoint", tmp_path / "d", tmp_path / "report.json", QUICK, part=part)
    assert not list(tmp_path.glob("*report*"))
