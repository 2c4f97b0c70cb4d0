"""The contrastive loss beside the generative one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_run
from toy_run import CATALOG, MIXTURE, SPLIT, toy_train
from toys import toy_model, toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.layout import VECTORS_FILE
from grlm_hf.modeling.dense import last_states
from grlm_hf.tasks.config import HISTORY_TASKS
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training import trainer
from grlm_hf.training.config import ContrastiveConfig, LoraConfig
from grlm_hf.training.contrastive import Contrastive, info_nce
from grlm_hf.training.labels import tokenize_mixture


def unit(*values: float) -> list[float]:
    return (np.array(values) / np.linalg.norm(values)).tolist()


def test_log_q_and_shared_positives_by_hand() -> None:
    users, items = [unit(1, 2), unit(3, 1), unit(1, -1)], [unit(1, 1), unit(2, -1)]
    label, share, temperature = [0, 0, 1], [0.7, 0.1], 0.5  # two users have the same next item
    expected = 0.0
    for user, own in zip(users, label, strict=True):
        scores = [
            math.exp(sum(u * i for u, i in zip(user, item, strict=True)) / temperature) / q for item, q in zip(items, share, strict=True)
        ]
        expected -= math.log(scores[own] / sum(scores)) / 3
    found = info_nce(torch.tensor(users), torch.tensor(items), torch.tensor(label), torch.tensor(share).log(), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_a_batch() -> None:
    tokenizer, model = toy_tokenizer(), toy_model()
    examples = tokenize_mixture(MIXTURE, tokenizer, CATALOG, answers=True)
    loss = Contrastive(ContrastiveConfig(1.0, 0.3), tokenizer, CATALOG, examples["answers"][:], 512)
    counts = np.zeros(len(CATALOG.identifiers))
    for row in examples["answers"]:
        for number, _ in row:
            counts[number] += 1
    assert loss.log_q.numpy() == pytest.approx(np.log(counts.clip(1) / counts.clip(1).sum()), abs=1e-5)
    lengths = [4, 6, 5, 3]
    prompts = [list(range(10, 10 + n)) for n in lengths]
    hidden = torch.zeros(4, 6, 32)
    for row, prompt in enumerate(prompts):
        hidden[row, : len(prompt)] = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
    answers: list[list[list[int]]] = [[[3, 4]], [], [[5, 2]], [[3, 3]]]  # the second row is no history; two have the same next item
    found = loss(model, hidden, answers)
    grlm = GRLMForRecommendation(model, tokenizer, CATALOG)
    items = torch.from_numpy(last_states(grlm.prompter, [loss.tokens[3], loss.tokens[5]]))
    users = torch.nn.functional.normalize(torch.stack([hidden[0, 3], hidden[2, 1], hidden[3, 2]]), dim=1)
    expected = info_nce(users, items, torch.tensor([0, 1, 0]), loss.log_q[[3, 5]], 0.3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss(model, hidden, [[]] * 4).item() == 0


def test_the_column_names_each_learnt_answer_and_its_place() -> None:
    tokenizer = toy_tokenizer()
    paths = identifier_tokens(tokenizer, CATALOG.scheme, CATALOG.identifiers)
    examples = tokenize_mixture(MIXTURE, tokenizer, CATALOG, answers=True)
    for task, row in zip(MIXTURE["task"], examples, strict=True):
        assert bool(row["answers"]) == (task in HISTORY_TASKS)
        learnt = []
        for number, at in row["answers"]:
            assert row["input_ids"][at : at + len(paths[number])] == paths[number]
            learnt += range(at, at + len(paths[number]))
        if row["answers"]:
            mask = np.flatnonzero(row["completion_mask"]).tolist()
            assert [n for n in mask if row["input_ids"][n] != tokenizer.eos_token_id] == learnt
    plain = tokenize_mixture(MIXTURE, tokenizer, CATALOG)
    assert "answers" not in plain.column_names
    assert plain["input_ids"][:] == examples["input_ids"][:]


def hit_rate(grlm: Any) -> float:
    found = grlm.recommend([list(c.history) for c in SPLIT.validation], 3, decode=False, exclude_seen=True)
    return float(np.mean([c.target in {r.item_id for r in row} for c, row in zip(SPLIT.validation, found, strict=True)]))


@pytest.mark.parametrize("way", ["trie", "vocabulary", "fused"])
def test_it_finds_more_next_items_without_decoding(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "fused":  # the loss of TRL, as on a GPU
        monkeypatch.setattr(trainer, "plain_head", lambda model: False)
    # Without the task "internalise" nothing else teaches the model where an item's text leads to.
    histories_only = make_mixture(CATALOG, SPLIT.train, MixtureConfig(max_history=3, internalise=0)).dataset
    monkeypatch.setattr(toy_run, "MIXTURE", histories_only)
    settings = {"objective": "trie", "epochs": 20} if way == "trie" else {"objective": "vocabulary", "epochs": 45}
    settings |= {"gradient_accumulation": 2, "batch_size": 4} if way == "vocabulary" else {}
    trained = toy_train(tmp_path / "with", contrastive=ContrastiveConfig(0.3, 0.3), **settings)
    assert hit_rate(trained) >= 0.75
    if way == "trie":  # the others take longer
        assert hit_rate(toy_train(tmp_path / "without", **settings)) <= 0.55
    trained.save_pretrained(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / VECTORS_FILE).is_file()
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert loaded.dense_half.vectors is not None
    assert loaded.dense_half.vectors.temperature == 0.3
    assert loaded.dense_half.vectors.item_ids == tuple(i.item_id for i in CATALOG)
    assert hit_rate(loaded) == pytest.approx(hit_rate(trained), abs=0.06)  # the vectors are float16


@pytest.mark.parametrize(("objective", "rank"), [("trie", 0), ("trie", 4), ("vocabulary", 4)])
def test_a_given_model_learns_it_too(objective: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model().save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    losses, inner = [], Contrastive.__call__

    def noted(self: Contrastive, *args: Any) -> torch.Tensor:
        losses.append(inner(self, *args))
        return losses[-1]

    monkeypatch.setattr(Contrastive, "__call__", noted)
    given = {"model": str(tmp_path / "base"), "lora": LoraConfig(rank=rank), "objective": objective, "learning_rate": 1e-2}
    grlm = toy_train(tmp_path / "run", contrastive=ContrastiveConfig(1.0, 0.5), epochs=25, **given)
    values = [float(value) for value in losses]
    assert all(value.requires_grad for value in losses)
    assert np.mean(values[-12:]) < np.mean(values[:12])
    assert grlm.recommend(["i20"], 3, decode=False).answered_by == "dense"
