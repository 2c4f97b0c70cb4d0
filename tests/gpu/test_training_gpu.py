"""A training step on CUDA. Oracles: a plain forward for each row on the CPU, in float64; the same training's figures on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import brute_force, legal_tokens, prompt_and_paths, toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import History, leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.dpo import DPOConfig, train_dpo
from grlm_hf.training.grpo import GRPOConfig, RewardWeights, train_grpo
from grlm_hf.training.objective import IGNORED
from grlm_hf.training.policy import follow_objective
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import train

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
OBJECTIVES = ["vocabulary", "trie"]
CATALOG = toy_catalog()
NEXT = "i11"
TRAIN = [History(f"u{n}", (item.item_id, NEXT)) for n, item in enumerate(CATALOG) if item.item_id != NEXT]
"""Whatever the history, one item comes next."""

LOSSES = {"vocabulary": [4.870832, 3.949618], "trie": [0.337164, 0.303583]}
"""Of the training from scratch on a CPU, at steps 10 and 12."""

each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def log_prob(grlm: GRLMForRecommendation, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log p of the completion, by a forward of its own; with a gradient."""
    logits = grlm.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    parts = []
    for i, (row, token) in enumerate(zip(logits, completion, strict=True)):
        over = list(legal_tokens(grlm.trie, completion[:i])) if grlm.config.objective == "trie" else slice(None)
        parts.append(row[token] - row[over].logsumexp(0))
    return torch.stack(parts).sum()


@each_objective
def test_log_probs_and_gradients_of_the_policy_equal_a_forward_for_each_row(objective: str) -> None:
    from trl.trainer.utils import add_fused_lm_head

    grlm, oracle = toy_grlm(objective), toy_grlm(objective)
    grlm.model.to(CUDA)
    oracle.model.double()
    rows = []
    for history, leaves in ((["i20"], [0, 3, 3]), (["i12", "i11", "i9"], [10, 4, 9, 1])):  # two share a prompt, and one is there twice
        prompt, paths = prompt_and_paths(grlm, history)
        rows += [(prompt, paths[leaf]) for leaf in leaves]
    longest = max(len(p) + len(c) for p, c in rows)
    padded = [
        (p + c + [0] * rest, [1] * len(p + c) + [0] * rest, [IGNORED] * len(p) + c + [IGNORED] * rest)
        for p, c in rows
        for rest in [longest - len(p + c)]
    ]
    ids, mask, labels = (torch.tensor(x, device=CUDA) for x in zip(*padded, strict=True))
    add_fused_lm_head(grlm.model, outputs=("log_probs", "entropy"))
    follow_objective(grlm.model, grlm.trie if objective == "trie" else None)
    found = grlm.model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs.sum(1)
    wanted = torch.stack([log_prob(oracle, p, c) for p, c in rows])
    torch.testing.assert_close(found.cpu().double(), wanted, atol=1e-4, rtol=0)
    weights = torch.arange(len(rows))
    gradients = []
    for scores, model in ((found, grlm.model), (wanted, oracle.model)):
        (gradient,) = torch.autograd.grad((weights.to(scores) * scores).sum(), model.get_input_embeddings().weight)
        gradients.append(gradient.cpu().double())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3 * float(gradients[1].abs().max()), rtol=0)


def mean_log_prob(grlm: GRLMForRecommendation) -> float:
    """Of the item that comes next."""
    return float(np.mean([brute_force(grlm, [h.items[0]])[CATALOG.term_id(NEXT)] for h in TRAIN]))


def check_step(grlm: GRLMForRecommendation, before: float, work: Path) -> list[dict[str, float]]:
    """The step was made on CUDA and made the next item likelier, and what it leaves is a checkpoint. Returns the log."""
    assert grlm.model.device.type == "cuda"
    grlm.save_pretrained(work / "checkpoint")
    on_cpu = GRLMForRecommendation.from_pretrained(work / "checkpoint")
    assert mean_log_prob(on_cpu) > before
    for answer, again in zip(grlm.recommend([["i20"], ["i9", "i9"]], 5), on_cpu.recommend([["i20"], ["i9", "i9"]], 5), strict=True):
        assert [r.log_prob for r in answer] == pytest.approx([r.log_prob for r in again], abs=1e-3)
    log = [e for e in json.loads((work / "log.json").read_text()) if "loss" in e]
    assert len(log) == 1
    # TRL has no entropy under the trie
    assert not any(np.isnan(v) for name, v in log[0].items() if "entropy" not in name)
    return log


@each_objective
@pytest.mark.parametrize("sampling", ["beams", "sampled"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_grpo_step(objective: str, sampling: str, bf16: bool, tmp_path: Path) -> None:
    grlm = toy_grlm(objective, seed=2)
    before = mean_log_prob(grlm)
    config = GRPOConfig(
        steps=1,
        prompts=11,
        rollouts=10,
        learning_rate=1e-3,
        warmup=0.0,
        bf16=bf16,
        sampling=sampling,
        rewards=RewardWeights(rank_aware=1.0),
    )
    log = check_step(train_grpo(grlm, TRAIN, tmp_path, config), before, tmp_path)
    assert log[0]["rewards/validity/mean"] == 1.0
    assert log[0]["rewards/exact_hit/mean"] == pytest.approx(1 / 10, abs=0.05)  # of ten rollouts of eleven identifiers, mostly


@each_objective
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_dpo_step(objective: str, bf16: bool, tmp_path: Path) -> None:
    grlm = toy_grlm(objective, seed=2)
    before = mean_log_prob(grlm)
    config = DPOConfig(prompts=11, negatives=4, epochs=1, batch_size=44, learning_rate=1e-3, warmup=0.0, bf16=bf16)
    log = check_step(train_dpo(grlm, TRAIN, tmp_path, config), before, tmp_path)
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-3 if not bf16 else 0.05)  # as likely as under the reference
    assert log[0]["logps/chosen"] == pytest.approx(before, rel=1e-3 if not bf16 else 0.02)


@each_objective
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_the_losses_of_a_training_from_scratch_are_those_of_the_cpu(objective: str, bf16: bool, tmp_path: Path) -> None:
    shape = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)
    config = TrainConfig(
        objective=objective, scratch=shape, max_steps=12, learning_rate=1e-2, batch_size=8, dropout=0.0, validation_examples=0, bf16=bf16
    )
    mixture = make_mixture(CATALOG, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3)).dataset
    grlm = train(CATALOG, mixture, tmp_path / "work", config, max_history=3)
    assert grlm is not None
    losses = [e["loss"] for e in json.loads((tmp_path / "work" / "log.json").read_text()) if "loss" in e]
    assert losses == pytest.approx(LOSSES[objective], rel=1e-3 if not bf16 else 0.01)
