from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys import toy_catalog, toy_histories, toy_tokenizer

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training import head as head_module
from grlm_hf.training.head import plain_head, vocabulary_nll
from grlm_hf.training.objective import IGNORED
from grlm_hf.training.scratch import ScratchConfig, make_model
from grlm_hf.training.sft import tokenize_mixture
from grlm_hf.training.trainer import TermIDTrainer

TOKENIZER, CATALOG = toy_tokenizer(), toy_catalog()
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_all_logits(rows_at_once: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=bias)
    hidden, label = torch.randn(7, 5), torch.randint(0, 11, (7,))
    monkeypatch.setattr(head_module, "_CHUNK", rows_at_once * 11)
    found = []
    for loss_of in (vocabulary_nll, lambda h, linear, y: F.cross_entropy(linear(h), y, reduction="sum")):
        h = hidden.clone().requires_grad_()
        loss = loss_of(h, head, label)
        found.append([loss, *torch.autograd.grad(3 * loss, [h, *head.parameters()])])
    for ours, whole in zip(*found, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)


def test_without_labels_the_loss_is_0_and_has_a_gradient() -> None:
    hidden = torch.randn(4, 5, requires_grad=True)
    loss = vocabulary_nll(hidden[torch.zeros(4, dtype=torch.bool)], torch.nn.Linear(5, 11), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_in_bfloat16_the_value_is_not_rounded_and_the_gradients_are_full_precision_sums() -> None:
    torch.manual_seed(0)
    hidden, head, label = torch.randn(500, 16, requires_grad=True), torch.nn.Linear(16, 900, bias=False), torch.randint(0, 900, (500,))
    found = []
    for loss_of in (vocabulary_nll, lambda h, linear, y: F.cross_entropy(linear(h).float(), y, reduction="sum")):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(hidden, head, label)
        assert loss.dtype == torch.float32
        found.append([loss / 500, *torch.autograd.grad(loss, [hidden, head.weight])])
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    for ours, whole in zip(found[0][1:], found[1][1:], strict=True):
        assert ours.dtype == torch.float32
        assert (ours - whole).norm() < 0.01 * whole.norm()


def test_a_frozen_head_costs_no_gradient_and_evaluation_none_at_all() -> None:
    hidden, head = torch.randn(4, 5, requires_grad=True), torch.nn.Linear(5, 11).requires_grad_(False)
    vocabulary_nll(hidden, head, torch.tensor([1, 2, 3, 4])).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        assert not vocabulary_nll(hidden, head, torch.tensor([1, 2, 3, 4])).requires_grad


def test_a_nan_is_not_hidden() -> None:
    hidden = torch.full((2, 5), torch.nan)
    assert vocabulary_nll(hidden, torch.nn.Linear(5, 11), torch.tensor([1, 2])).isnan()


def test_heads_that_do_more_are_left_to_trl() -> None:
    model = make_model(TINY, TOKENIZER, 0)
    assert plain_head(model)
    model.config.final_logit_softcapping = 30.0
    assert not plain_head(model)
    model.config.final_logit_softcapping = None
    model.lm_head = torch.nn.Sequential(model.lm_head)  # as LoRA on the head wraps it
    assert not plain_head(model)


def trainer(folder: Path, **settings: Any) -> TermIDTrainer:
    from trl import SFTConfig

    mixture = make_mixture(CATALOG, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3)).dataset.select(range(12))
    settings = {"bf16": False, "gradient_checkpointing": False} | settings
    args = SFTConfig(output_dir=str(folder), report_to="none", use_cpu=True, max_length=None, disable_tqdm=True, **settings)
    examples = tokenize_mixture(mixture, TOKENIZER, CATALOG)
    return TermIDTrainer(make_model(TINY, TOKENIZER, 0), trie=None, args=args, train_dataset=examples, processing_class=TOKENIZER)


@pytest.mark.parametrize("num_items", [None, 57])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainers_loss_and_gradients_are_trls_own(num_items: int | None, checkpointing: bool, tmp_path: Path) -> None:
    made = trainer(tmp_path, gradient_checkpointing=checkpointing)
    batch = made.data_collator([made.train_dataset[i] for i in range(12)])
    assert (batch["attention_mask"] == 0).any()
    assert (batch["labels"] == IGNORED).any()
    found = []
    for loss_of in (made.compute_loss, super(TermIDTrainer, made).compute_loss):
        made.model.zero_grad()
        loss = loss_of(made.model, dict(batch), num_items_in_batch=num_items)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in made.model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_logits_are_made_for_labels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    batch = made.data_collator([made.train_dataset[i] for i in range(12)])
    labels = int((batch["labels"][:, 1:] != IGNORED).sum())
    vocabulary = made.model.config.vocab_size
    rows: list[int] = []
    linear = F.linear

    def counting(x: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(weight) == vocabulary:
            rows.append(x.numel() // x.shape[-1])
        return linear(x, weight, *more)

    monkeypatch.setattr(F, "linear", counting)
    monkeypatch.setattr(head_module, "_CHUNK", 10 * vocabulary)
    made.compute_loss(made.model, dict(batch))
    one = [12]  # the one position of each example that transformers insists on
    assert rows == [*one, *[10] * (labels // 10), *([labels % 10] if labels % 10 else [])]
