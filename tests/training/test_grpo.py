from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import (
    TERM_IDS,
    brute_force,
    fast_brute_force,
    legal_tokens,
    prompt_and_paths,
    random_grlm,
    random_history,
    toy_catalog,
    toy_grlm,
    toy_histories,
)
from trl.trainer.utils import add_fused_lm_head

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import History, leave_one_out
from grlm_hf.decoding.sampling import _gumbels_below
from grlm_hf.training.grpo import GRPOConfig, RewardWeights, train_grpo
from grlm_hf.training.objective import IGNORED
from grlm_hf.training.policy import follow_objective, pack
from grlm_hf.training.rollouts import positions, roll_out

CATALOG = toy_catalog()
TRAIN = leave_one_out(toy_histories()).train
OBJECTIVES = ["vocabulary", "trie"]


# --- log-probabilities in the loss -------------------------------------------------------------------------------------------------


def batch(prompts: list[list[int]], completions: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """As TRL's trainers make them: GRPO pads prompts on the left and completions on the right, DPO all on the right."""
    n, m = max(map(len, prompts)), max(map(len, completions))
    rows = []
    for p, c in zip(prompts, completions, strict=True):
        left = n - len(p) if side == "left" else 0
        real = [0] * left + [1] * (len(p) + len(c))
        ids, labels = [0] * left + p + c, [IGNORED] * (left + len(p)) + c
        rest = n + m - len(real)
        rows.append((ids + [0] * rest, real + [0] * rest, labels + [IGNORED] * rest))
    return dict(zip(("input_ids", "attention_mask", "labels"), (torch.tensor(x) for x in zip(*rows, strict=True)), strict=True))


def some_rows(grlm: GRLMForRecommendation, thoughts: bool = False) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Rows of three prompts, in no order, one of them once only; one completion twice. The numbers say where its identifier begins."""
    rows = []
    for history, leaves in ((["i20"], [0, 3, 3]), (["i12", "i11", "i9"], [10, 4, 9, 1]), (["i13"], [6])):
        prompt, paths = prompt_and_paths(grlm, history)
        for n, leaf in enumerate(leaves):
            text = f"Thought {n}, of {'very ' * n}much.\n" if thoughts and n != 1 else ""
            thought = grlm.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            rows.append((prompt, [*thought, *paths[leaf]], len(thought)))
    random.Random(0).shuffle(rows)
    return tuple(map(list, zip(*rows, strict=True)))  # type: ignore[return-value]


def plain(grlm: GRLMForRecommendation, prompt: list[int], completion: list[int], begin: int = 0) -> torch.Tensor:
    """Log p of each token of the completion, by a forward of its own. From `begin` on it is an identifier, before it free text."""
    logits = grlm.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
    found = []
    for i, (row, token) in enumerate(zip(logits, completion, strict=True)):
        held = grlm.config.objective == "trie" and i >= begin
        legal = list(legal_tokens(grlm.trie, completion[begin:i])) if held else slice(None)
        found.append(row[token] - row[legal].logsumexp(0))
    return torch.stack(found)


@pytest.mark.parametrize("thoughts", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_log_probs_and_gradients_equal_a_forward_for_each_row(objective: str, side: str, attention: str, thoughts: bool) -> None:
    grlm = toy_grlm(objective)
    grlm.model.set_attn_implementation(attention)
    prompts, completions, begins = some_rows(grlm, thoughts)
    expected = [plain(grlm, *row) for row in zip(prompts, completions, begins, strict=True)]
    weight = grlm.model.get_input_embeddings().weight
    (wanted,) = torch.autograd.grad(sum(i * x.sum() for i, x in enumerate(expected)), weight)
    add_fused_lm_head(grlm.model, outputs=("log_probs", "entropy"))
    follow_objective(grlm.model, grlm.trie if objective == "trie" else None)
    inputs = batch(prompts, completions, side)
    out = grlm.model(**inputs, fused_lm_head=True)
    asked = inputs["labels"][:, 1:] != IGNORED
    assert (out.log_probs[~asked] == 0).all()
    for row, mask, one in zip(out.log_probs, asked, expected, strict=True):
        assert torch.allclose(row[mask].double(), one, atol=2e-4)
    (found,) = torch.autograd.grad(sum(i * x.sum() for i, x in enumerate(out.log_probs)), weight)
    assert torch.allclose(found, wanted.float(), atol=2e-3 * float(wanted.abs().max()))
    assert out.log_probs.shape == out.entropy.shape == (len(prompts), inputs["input_ids"].shape[1] - 1)


def test_a_prompt_stands_once() -> None:
    grlm = toy_grlm()
    prompts, completions, _ = some_rows(grlm)
    packed = pack(**batch(prompts, completions, "left"))
    assert packed.ids.shape[0] == len({tuple(p) for p in prompts})
    computed = int((packed.branch >= 0).sum())
    assert computed == sum(len(p) - 1 for p in {tuple(p) for p in prompts}) + sum(map(len, completions))


def test_a_row_without_a_prompt_is_refused_and_so_is_what_is_no_identifier() -> None:
    grlm = toy_grlm("trie")
    prompts, completions, _ = some_rows(grlm)
    with pytest.raises(ValueError, match="no prompt or no completion"):
        pack(**batch([[], *prompts[1:]], completions, "right"))
    add_fused_lm_head(grlm.model)
    follow_objective(grlm.model, grlm.trie)
    with pytest.raises(ValueError, match="no identifier"):
        grlm.model(**batch(prompts, [[*c[:-1], c[0]] for c in completions], "left"), fused_lm_head=True)


# --- rollouts ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["beams", "sampled"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(6))
def test_rollouts_are_distinct_valid_unseen_and_rightly_scored(seed: int, objective: str, sampling: str) -> None:
    rng = random.Random(seed)
    grlm = random_grlm(rng, objective)
    histories = [random_history(rng, grlm.catalog) for _ in range(4)]
    unseen = [[t for t in grlm.catalog.identifiers if not {i.item_id for i in grlm.catalog.items_of(t)} <= set(h)] for h in histories]
    n = min(map(len, unseen))
    assert n, "a history holds every item: choose another seed"
    found = roll_out(grlm, histories, rng.randint(1, n), sampling=sampling, rng=np.random.default_rng(seed))
    for history, allowed, group in zip(histories, unseen, found, strict=True):
        tids = [grlm.catalog.identifiers[leaf] for leaf in group.leaf]
        assert len(set(tids)) == len(tids)
        assert set(tids) <= set(allowed)
        truth = fast_brute_force(grlm, history)
        assert group.log_prob == pytest.approx([truth[leaf] for leaf in group.leaf], abs=1e-4)
        assert list(group.log_prob) == sorted(group.log_prob, reverse=True)
        assert group.prompt.tolist() == prompt_and_paths(grlm, history)[0]
    with pytest.raises(ValueError, match="are allowed"):
        roll_out(grlm, histories, n + 1, sampling=sampling)


@pytest.mark.parametrize("n", [1, 2])
def test_samples_are_draws_without_replacement(n: int) -> None:
    """Frequencies against the probabilities of ordered draws, computed by brute force; every bin within five standard deviations."""
    grlm = toy_grlm("trie", seed=1)
    draws, history = 3000, ["i12"]
    p = np.exp(list(brute_force(grlm, history).values()))
    assert p.sum() == pytest.approx(1, abs=1e-4)
    rng = np.random.default_rng(5)
    count = np.zeros(len(p))
    for _ in range(draws // 500):
        for group in roll_out(grlm, [history] * 500, n, sampling="sampled", exclude_seen=False, rng=rng):
            count[group.leaf] += 1
    wanted = p.copy()
    if n == 2:  # first another one, then this one
        wanted += [sum(p[j] * p[i] / (1 - p[j]) for j in range(len(p)) if j != i) for i in range(len(p))]
    assert (np.abs(count / draws - wanted) < 5 * np.sqrt(wanted * (1 - wanted).clip(1e-4) / draws) + 1e-3).all()


@given(
    st.lists(st.tuples(st.floats(-30, 5), st.lists(st.floats(-30, 0), min_size=1, max_size=5)), min_size=1, max_size=4), st.integers(0, 99)
)
@settings(deadline=None, max_examples=60)
def test_the_noise_below_a_node_is_its_own_at_most(nodes: list[tuple[float, list[float]]], seed: int) -> None:
    row = np.array([i for i, (_, phi) in enumerate(nodes) for _ in phi])
    top = np.array([t for t, phi in nodes for _ in phi])
    g = _gumbels_below(top, np.array([x for _, phi in nodes for x in phi]), row, np.random.default_rng(seed))
    assert not np.isnan(g).any()
    for i, (t, _) in enumerate(nodes):
        assert g[row == i].max() == pytest.approx(t, abs=1e-9)


def test_positions_are_all_places_once_before_any_comes_again() -> None:
    histories = [History("b", ("x", "y", "x", "z")), History("a", ("y",)), History("c", ("z", "y"))]
    places = [(("x",), "y"), (("x", "y"), "x"), (("x", "y", "x"), "z"), (("z",), "y")]
    assert sorted(positions(histories, 8, 0, exclude_seen=False)) == sorted(places * 2)
    found = positions(histories, 3, 0)
    assert sorted(found) == sorted(p for p in places if p[1] not in p[0])
    assert positions(histories[::-1], 3, 0) == found
    assert len({tuple(positions(histories, 3, seed)) for seed in range(9)}) > 1
    with pytest.raises(ValueError, match="has two different items; expected one at least"):
        positions([History("a", ("y",))], 3)


# --- the whole training --------------------------------------------------------------------------------------------------------------

SMALL = {"steps": 4, "prompts": 4, "rollouts": 6, "save_steps": 2, "learning_rate": 1e-3}


def weights(grlm: GRLMForRecommendation) -> dict[str, torch.Tensor]:
    return {name: w.clone() for name, w in grlm.model.state_dict().items()}


def log_of(work: Path) -> list[dict[str, Any]]:
    return [e for e in json.loads((work / "log.json").read_text()) if "loss" in e]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_reward_rises_and_every_rollout_is_valid(objective: str, tmp_path: Path) -> None:
    # whatever the history, one item comes next
    train = [History(f"u{n}", (a, "i11")) for n, a in enumerate(i.item_id for i in CATALOG if i.item_id != "i11")]
    grlm = toy_grlm(objective, seed=2)
    before = np.mean([brute_force(grlm, [h.items[0]])[CATALOG.term_id("i11")] for h in train])
    config = GRPOConfig(steps=12, prompts=6, rollouts=8, learning_rate=3e-3, rewards=RewardWeights(rank_aware=1.0), sampling="sampled")
    assert train_grpo(grlm, train, tmp_path, config) is grlm
    after = np.mean([brute_force(grlm, [h.items[0]])[CATALOG.term_id("i11")] for h in train])
    assert after > before + 1
    log = log_of(tmp_path)
    assert len(log) == 12
    assert {e["rewards/validity/mean"] for e in log} == {1.0}
    assert not any(np.isnan(v) for e in log for v in e.values())
    assert log[-1]["rewards/exact_hit/mean"] == pytest.approx(1 / 8)  # in every group, at last
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config == grlm.config
    assert [r.item_id for r in loaded.recommend(["i20"], 5)] == [r.item_id for r in grlm.recommend(["i20"], 5)]
    assert loaded.recommend(["i20"], 1)[0].item_id == "i11"


@pytest.mark.parametrize("sampling", ["beams", "sampled"])
def test_a_resumed_run_ends_like_a_whole_one(sampling: str, tmp_path: Path) -> None:
    config = GRPOConfig(**SMALL, sampling=sampling, iterations=2, rewards=RewardWeights(prefix=1.0))
    whole = weights(train_grpo(toy_grlm("trie"), TRAIN, tmp_path, config, seed=3))
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "log.json").unlink()
    resumed = weights(train_grpo(toy_grlm("trie"), TRAIN, tmp_path, config, seed=3))
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-6) for name in whole)
    start = weights(toy_grlm("trie"))
    assert not all(torch.allclose(whole[name], start[name], atol=1e-4) for name in whole)


def test_a_step_in_parts_is_the_same_step(tmp_path: Path) -> None:
    ends = []
    for parts in (1, 3):
        config = GRPOConfig(**SMALL | {"steps": 2}, gradient_accumulation=parts, rewards=RewardWeights(prefix=1.0))
        ends.append(weights(train_grpo(toy_grlm("trie"), TRAIN, tmp_path / str(parts), config)))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-4) for name in ends[0])


def test_a_strong_pull_to_the_start_keeps_the_policy_there(tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "start")
    moved = []
    for beta in (0.0, 50.0):
        grlm = GRLMForRecommendation.from_pretrained(tmp_path / "start")
        config = GRPOConfig(**SMALL | {"steps": 8}, beta=beta, rewards=RewardWeights(prefix=1.0))
        train_grpo(grlm, TRAIN, tmp_path / f"work-{beta}", config)
        start, end = brute_force(toy_grlm("trie"), ["i20"]), brute_force(grlm, ["i20"])
        moved.append(sum(np.exp(start[t]) * (start[t] - end[t]) for t in start))
    assert "kl" in log_of(tmp_path / "work-50.0")[0]
    assert 0 <= moved[1] < moved[0]


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    grlm = toy_grlm("trie")
    with pytest.raises(ValueError, match=r"became .*; lower grpo\.learning_rate"):
        train_grpo(grlm, TRAIN, tmp_path, GRPOConfig(**SMALL | {"learning_rate": 1e30, "steps": 8}))
    assert not (tmp_path / "log.json").exists()
    assert "forward" not in grlm.model.__dict__  # the model goes on without the training's patches
    assert not grlm.model.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": 1}, "at least 2"),
        ({"sampling": "nucleus"}, "beams"),
        ({"rewards": RewardWeights(exact_hit=0)}, "nothing to train on"),
        ({"save_steps": 3, "iterations": 2}, "multiple"),
        ({"prompts": 3, "rollouts": 4, "gradient_accumulation": 5}, "divisor"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPOConfig(**settings)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        train_grpo(toy_grlm(), TRAIN, tmp_path, GRPOConfig(**SMALL | {"rollouts": len(TERM_IDS)}))
    with pytest.raises(ValueError, match="needs a scorer"):
        train_grpo(toy_grlm(), TRAIN, tmp_path, GRPOConfig(**SMALL, rewards=RewardWeights(collaborative=1)))
