"""A recipe's teacher: asked once, kept, and read by other students."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_priors_stage import PRIORS, shop
from toys import toy_catalog, toy_histories

from grlm_hf.evaluation.config import EvaluateConfig, RerankConfig, ZeroShotConfig
from grlm_hf.files import read_json
from grlm_hf.priors.fused import load_scorer
from grlm_hf.recipe import Recipe, TermsConfig
from grlm_hf.stages import run
from grlm_hf.training.config import DistillConfig, TrainConfig
from grlm_hf.training.label_store import LabelStore
from grlm_hf.training.scratch import ScratchConfig


def taught(tmp_path: Path, teacher: str, **more: Any) -> Recipe:
    data = tmp_path / "shop"
    if not data.exists():
        shop(data, toy_histories())
    train = TrainConfig(
        objective="trie", epochs=1, batch_size=8, validation_examples=0, distill=DistillConfig(weight=0.5, teacher=teacher),
        scratch=ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512),
    )  # fmt: skip
    methods = more.pop("methods", ["item_knn", "text_knn"])
    return Recipe(
        data=str(data), output=str(tmp_path / "out"), terms=TermsConfig(generator="file", resolver="rank"), train=train,
        priors=replace(PRIORS, methods=methods, combine=None, hybrids=[]), until="train", **more,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [e["train_loss"] for e in read_json(folder / "checkpoint" / "training_log.json") if "train_loss" in e]


def test_a_combination_teaches_and_its_answers_are_kept_for_other_students(tmp_path: Path) -> None:
    recipe = taught(tmp_path, "item_knn+text_knn")
    said: list[str] = []
    run(recipe, said.append)
    assert [line for line in said if line.startswith("teacher: ") and "questions answered" in line]
    labels = LabelStore.load(tmp_path / "out" / "labels.teacher")
    assert set(labels.item_ids) == {item.item_id for item in toy_catalog()}
    said = []
    run(replace(recipe, train=replace(recipe.train, learning_rate=1e-3)), said.append)
    assert "teacher: unchanged, kept" in said
    # another run reads them as they are
    other = taught(tmp_path, str(tmp_path / "out" / "labels.teacher"))
    said = []
    run(replace(other, output=str(tmp_path / "other")), said.append)
    assert not [line for line in said if line.startswith("teacher")]
    run(replace(recipe, output=str(tmp_path / "again")), lambda _: None)
    assert losses(tmp_path / "other") == losses(tmp_path / "again")


def test_a_teacher_that_is_not_there_is_refused_before_any_stage(tmp_path: Path) -> None:
    for teacher, said in (("no/such/folder", "no such file or folder"), (str(tmp_path / "x.teacher"), "no such file or folder")):
        with pytest.raises(ValueError, match=said):
            run(taught(tmp_path, teacher), lambda _: None)
        assert not (tmp_path / "out" / "neighbors.parquet").exists()
    with pytest.raises(ValueError, match=r"add sasrec to priors\.methods"):
        taught(tmp_path, "sasrec")
    with pytest.raises(ValueError, match=r"add it to priors\.combine"):
        taught(tmp_path, "text_knn+item_knn")
    strange = tmp_path / "strange.prior"
    strange.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="no file of grlm-hf, or it is broken; expected a recommender"):
        run(taught(tmp_path, str(strange)), lambda _: None)


@pytest.mark.parametrize("known", [True, False])
def test_answers_to_other_questions_are_refused(tmp_path: Path, known: bool) -> None:
    ids = tuple(item.item_id for item in toy_catalog()) if known else ("x", "y")
    store = LabelStore(ids, np.zeros(0, np.uint64), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float16))
    for name in ("x.teacher", "x"):  # answers are known by what is in the file
        store.save(tmp_path / name)
        with pytest.raises(ValueError, match="no answer after" if known else "knows none of the catalog's items"):
            run(taught(tmp_path, str(tmp_path / name)), lambda _: None)
    with pytest.raises(ValueError, match="x is a file of the kind 'labels'; expected a recommender of one of the kinds"):
        load_scorer(tmp_path / "x")


def test_a_checkpoint_is_there_with_its_log_and_card_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = taught(tmp_path, "item_knn")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("grlm_hf.stages.model.write_model_card", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, lambda _: None)
    assert not (tmp_path / "out" / "checkpoint").exists()
    run(recipe, lambda _: None)
    assert {"training_log.json", "README.md", "model.safetensors"} <= {p.name for p in (tmp_path / "out" / "checkpoint").iterdir()}
    assert not list((tmp_path / "out").glob(".checkpoint.work-*"))


def test_a_model_that_is_not_there_is_refused_before_any_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = taught(tmp_path, "item_knn")
    with pytest.raises(ValueError, match="no-such-model"):
        run(replace(recipe, train=replace(recipe.train, model=str(tmp_path / "no-such-model"))), lambda _: None)
    assert not (tmp_path / "out" / "neighbors.parquet").exists()


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (EvaluateConfig(zero_shot=ZeroShotConfig(model="no-such-model")), "no-such-model"),
        (EvaluateConfig(rerank=RerankConfig(retriever="item_knnn")), r"rerank\.retriever is 'item_knnn'; expected .*'item_knn'"),
    ],
)
def test_rows_that_a_report_cannot_have_are_refused_before_any_stage(
    evaluate: EvaluateConfig, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=said):
        run(replace(taught(tmp_path, "item_knn"), evaluate=evaluate, until="evaluate"), lambda _: None)
    assert not (tmp_path / "out" / "neighbors.parquet").exists()
