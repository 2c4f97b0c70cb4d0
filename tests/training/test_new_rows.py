"""Tokens of identifiers in a given model: their rows start apart, are trained alone first if the settings say so, and with LoRA too."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import toy_catalog, toy_histories, toy_model, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.identifiers.symbols import CODES
from grlm_hf.recipe import load_recipe
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training import models
from grlm_hf.training.config import EarlyStoppingConfig, LoraConfig, NewRowsConfig, PhaseConfig, TrainConfig
from grlm_hf.training.models import load_trained
from grlm_hf.training.sft import train
from grlm_hf.training.trainer import TermIDTrainer
from grlm_hf.training.vocabulary import check_unsplit, extend, matrices, resize

TABLES = (np.array([[0, 0], [0, 0.1], [9, 9], [9, 8]], np.float32), np.array([[0, 1], [1, 0], [-1, 0]], np.float32))
BOOK = Codebook("residual", (4, 3), TABLES)
CATALOG = Catalog(toy_catalog().items, [(f"a_{n % 4}", f"b_{n // 4}") for n in range(12)], CODES, BOOK)
SPLIT = leave_one_out(toy_histories())
MIXTURE = make_mixture(CATALOG, SPLIT.train, MixtureConfig(max_history=3, title_to_term_id=1, term_id_to_title=1)).dataset
SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8, "max_steps": 6, "save_steps": 4, "dropout": 0.0, "weight_decay": 0.1}
PHASES: dict[str, Any] = {
    "new_rows": NewRowsConfig("titles", steps=5, learning_rate=1e-2),
    "phases": [PhaseConfig(["sequence", "internalise"], steps=3, learning_rate=1e-3)],
}
OLD = len(toy_tokenizer())


def given_model(tied: bool, padded: int = 0) -> Any:
    """The toy model; not `tied`: with an output layer of its own; `padded`: with that number of rows more than its tokenizer has tokens."""
    model = toy_model()
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(1).clone())
    if padded:
        model.resize_token_embeddings(OLD + padded, mean_resizing=False)
        for matrix in matrices(model):
            matrix.data[OLD:] = 0.0
    return model


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    given_model(request.param).save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def tokenizer() -> Any:
    """One of its own: the toys share theirs."""
    return copy.deepcopy(toy_tokenizer())


def run(folder: Path, **settings: Any) -> Any:
    return train(CATALOG, MIXTURE, folder / "work", TrainConfig(**SETTINGS | settings), max_history=3, seed=3, cases=SPLIT.validation)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(torch.arange(3, 60)[None]).logits


def same(a: Any, b: Any) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padded", [0, 10, 200])
@pytest.mark.parametrize("start", ["gaussian", "codebook", "titles"])
def test_new_rows_start_apart_and_old_logits_stay(tied: bool, padded: int, start: str) -> None:
    model, known = given_model(tied, padded), tokenizer()
    before, spread = logits(model)[..., :OLD], [m[:OLD].std(0).mean().item() for m in matrices(model)]
    rows = extend(model, known, CATALOG, TrainConfig(model="x", new_rows=NewRowsConfig(start)), 0)  # type: ignore[arg-type]
    assert rows == list(range(OLD, OLD + 4 + 3 + 64))
    assert len(known) == OLD + len(rows)
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == max(OLD + padded, OLD + len(rows))
    assert torch.equal(logits(model)[..., :OLD], before)
    assert len(matrices(model)) == 2 - tied
    for matrix, std in zip(matrices(model), spread, strict=True):
        new = matrix[rows].detach()
        gaps = torch.cdist(new, new) + torch.eye(len(rows)) * 99
        assert gaps.min() > 1e-2 * std
        if start == "gaussian":
            assert new.std(0).mean().item() == pytest.approx(std, rel=0.2)
    assert len(known("".join(CATALOG.added_tokens()))["input_ids"]) == len(rows)
    assert not any(known.added_tokens_decoder[row].special or known.added_tokens_decoder[row].normalized for row in rows)
    again, fresh = given_model(tied, padded), tokenizer()
    extend(again, fresh, CATALOG, TrainConfig(model="x", new_rows=NewRowsConfig(start)), 0)  # type: ignore[arg-type]
    assert same(model, again)
    assert extend(again, fresh, CATALOG, TrainConfig(model="x"), 1) == rows  # a model that has them keeps them
    assert same(model, again)


def test_near_codes_start_near_and_titles_at_their_words() -> None:
    model, known = given_model(True), tokenizer()
    extend(model, known, CATALOG, TrainConfig(model="x", new_rows=NewRowsConfig("codebook")), 0)
    a = model.get_input_embeddings().weight[known.convert_tokens_to_ids([f"<a_{n}>" for n in range(4)])]
    gaps = torch.cdist(a, a)
    assert gaps[0, 1] < gaps[0, 2] / 10
    assert gaps[2, 3] < gaps[1, 2] / 5
    model, known = given_model(True), tokenizer()
    extend(model, known, CATALOG, TrainConfig(model="x", new_rows=NewRowsConfig("titles")), 0)
    weight = model.get_input_embeddings().weight
    items = [item for item, code in zip(CATALOG.items, CATALOG.item_identifiers, strict=True) if code[0] == "a_1"]
    ids = [token for item in items for token in known(item.title)["input_ids"]]
    row = weight[known.convert_tokens_to_ids("<a_1>")]
    assert (row - weight[ids].mean(0)).norm() < 0.1 * weight[:OLD].std(0).norm()


def test_the_first_phase_changes_the_new_rows_only(base: str, tmp_path: Path) -> None:
    run(tmp_path, model=base, new_rows=NewRowsConfig(steps=5))
    (result,) = (tmp_path / "work").glob("phase-1-*/model")
    made, start = (AutoModelForCausalLM.from_pretrained(place) for place in (result, base))
    extend(start, tokenizer(), CATALOG, TrainConfig(model="x"), 3)
    before, after = start.state_dict(), made.state_dict()
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}
    for name in changed:
        assert torch.equal(before[name][:OLD], after[name][:OLD])
        assert (before[name][OLD : OLD + 7] - after[name][OLD : OLD + 7]).abs().max() > 1e-3
    assert not (result.parent / "training").exists()


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("steps", [0, 3])
def test_lora_trains_the_rows_and_ends_as_an_ordinary_model(base: str, objective: str, steps: int, tmp_path: Path) -> None:
    config = {"model": base, "lora": LoraConfig(rank=2), "objective": objective, "new_rows": NewRowsConfig(steps=steps)}
    grlm = run(tmp_path, **config, early_stopping=EarlyStoppingConfig("recall@10", users=5, every=3))
    assert type(grlm.model).__name__ == "Qwen3ForCausalLM"
    start = AutoModelForCausalLM.from_pretrained(base)
    extend(start, tokenizer(), CATALOG, TrainConfig(model="x"), 3)
    assert len(matrices(grlm.model)) == len(matrices(start))
    for before, after in zip(matrices(start), matrices(grlm.model), strict=True):
        assert torch.equal(before[:OLD], after[:OLD])
        assert ((before - after)[OLD : OLD + 7].abs().max(1).values > 1e-3).all()
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(logits(loaded), logits(grlm.model))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "checkpoint")) == OLD + 71
    again = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert [r.item_id for r in again.recommend(["i20"], 12)] == [r.item_id for r in grlm.recommend(["i20"], 12)]


def test_the_merged_model_answers_as_with_the_rows_beside_it(base: str, tmp_path: Path) -> None:
    from peft import PeftModel

    run(tmp_path, model=base, lora=LoraConfig(rank=2))
    config = TrainConfig(model=base, lora=LoraConfig(rank=2))
    start = AutoModelForCausalLM.from_pretrained(base)
    resize(start, OLD + 71)
    written = load_file(tmp_path / "work" / "final" / "adapter_model.safetensors")
    assert {tuple(value.shape) for name, value in written.items() if "lora_" not in name} == {(71, 32)}  # of the embeddings no other rows
    beside = PeftModel.from_pretrained(start, tmp_path / "work" / "final")
    assert torch.allclose(logits(load_trained(tmp_path / "work" / "final", config)), logits(beside), atol=1e-4)


@pytest.mark.parametrize(("base", "lora"), [(True, 2), (False, 0)], indirect=["base"], ids=["tied-lora", "untied"])
@pytest.mark.parametrize(("phase", "step"), [(0, 2), (0, 4), (1, 2), (2, 2), (2, 5)])
def test_a_resumed_run_goes_on_in_its_phase(base: str, lora: int, phase: int, step: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Killed in any phase, before or behind the first state that it wrote."""
    config = {"model": base, "lora": LoraConfig(rank=lora, dropout=0.1), **PHASES}
    whole = run(tmp_path / "whole", **config)
    seen: list[tuple[int, int]] = []
    inner, steps = TermIDTrainer.training_step, [5, 3, 6]

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        at = steps.index(self.args.max_steps), self.state.global_step
        seen.append(at)
        if at == (phase, step) and seen.count(at) == 1:
            raise KeyboardInterrupt
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(TermIDTrainer, "training_step", outer)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", **config)
    seen.append((-1, -1))
    assert same(run(tmp_path / "killed", **config).model, whole.model)
    again = seen[seen.index((-1, -1)) + 1 :]
    assert again[0] == (phase, 4 if step >= 4 else 0)
    assert {at[0] for at in again} == set(range(phase, 3))


def test_a_phase_with_other_settings_is_another_phase(base: str, tmp_path: Path) -> None:
    run(tmp_path, model=base, new_rows=NewRowsConfig(steps=2))
    with pytest.raises(ValueError, match=r"was another one: train\.new_rows\.steps: 2 → 3"):
        run(tmp_path, model=base, new_rows=NewRowsConfig(steps=3))
    assert len(list((tmp_path / "work").glob("phase-1-*"))) == 2


def test_a_run_with_phases_is_finished_early_only_behind_them(base: str, tmp_path: Path) -> None:
    config = TrainConfig(**SETTINGS | {"model": base, "new_rows": NewRowsConfig(steps=2)})
    with pytest.raises(ValueError, match="one of the 1 phases before it is not done"):
        train(CATALOG, MIXTURE, tmp_path / "work", config, max_history=3, finish=True)


def test_settings_of_a_recipe() -> None:
    found = load_recipe(settings=["train.phases=[{tasks: [sequence], steps: 7}]", "train.new_rows.start=titles", "train.new_rows.steps=2"])
    assert found.train.phases == [PhaseConfig(["sequence"], 7)]
    assert [phase.trains for phase in found.train.phases_before] == ["rows", "all"]
    with pytest.raises(ValueError, match=r"train\.phases\.steps is 0; expected at least 1"):
        load_recipe(settings=["train.phases=[{steps: 0}]"])


def test_settings_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_model(True).save_pretrained(base := str(tmp_path / "base"))
    toy_tokenizer().save_pretrained(base)
    for name, value in (
        ("new_rows.steps", NewRowsConfig(steps=2)),
        ("new_rows.start", NewRowsConfig("titles")),
        ("phases", [PhaseConfig()]),
    ):
        with pytest.raises(ValueError, match=rf"train\.{re.escape(name)} is for a given model"):
            run(tmp_path / "a", **{name.split(".")[0]: value})
    with pytest.raises(ValueError, match=r"names the unknown task 'sequenc'\. .*sequence"):
        run(tmp_path / "b", model=base, phases=[PhaseConfig(["sequenc"])])
    plain = make_mixture(CATALOG, SPLIT.train, MixtureConfig(max_history=3, internalise=0)).dataset
    with pytest.raises(ValueError, match=r"train\.new_rows\.steps trains on .* of sequence only\..*mixture\.internalise=1"):
        train(CATALOG, plain, tmp_path / "c", TrainConfig(model=base, new_rows=NewRowsConfig(steps=2)))
    with pytest.raises(ValueError, match="the rows of identifiers' tokens, and a Term ID is written in tokens"):
        train(toy_catalog(), MIXTURE, tmp_path / "d", TrainConfig(model=base, new_rows=NewRowsConfig(steps=2)))
    with pytest.raises(ValueError, match="names lm_head, whose rows"):
        models.lora_settings(TrainConfig(model="x", lora=LoraConfig(rank=2, targets="q_proj,lm_head")), given_model(False), [1])
    for book, said in ((None, "the catalog has none"), (Codebook("chance", (4, 3)), "has the structure 'chance'")):
        catalog = Catalog(CATALOG.items, CATALOG.item_identifiers, CODES, book)
        with pytest.raises(ValueError, match=said):
            extend(given_model(True), tokenizer(), catalog, TrainConfig(model="x", new_rows=NewRowsConfig("codebook")), 0)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="which FSDP and DeepSpeed split"):
        check_unsplit("x")


def test_models_that_cannot_be_extended() -> None:
    config, model = TrainConfig(model="x"), given_model(True)
    model.config.tie_word_embeddings = False
    with pytest.raises(ValueError, match="an output layer that is the input embeddings, and its config says tie_word_embeddings=False"):
        extend(model, tokenizer(), CATALOG, config, 0)
    model = given_model(False)
    model.lm_head = torch.nn.Linear(32, OLD - 1, bias=False)
    with pytest.raises(ValueError, match=rf"has {OLD} embeddings and an output layer for {OLD - 1} tokens"):
        extend(model, tokenizer(), CATALOG, config, 0)
    model = given_model(True)
    model.get_input_embeddings().weight = model.lm_head.weight = torch.nn.Parameter(torch.zeros(9, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"embeddings are torch\.uint8 \[9\]; expected floating-point"):
        extend(model, tokenizer(), CATALOG, config, 0)
    known = tokenizer()
    known.add_special_tokens({"additional_special_tokens": ["<a_1>"]})
    with pytest.raises(ValueError, match="has '<a_1>' as a special token"):
        extend(given_model(True), known, CATALOG, config, 0)

    class Splitting(type(tokenizer())):  # type: ignore[misc]
        def __call__(self, text: Any, **more: Any) -> Any:
            return super().__call__(
                text.replace("<a_2>", "<a_ 2>") if isinstance(text, str) else [t.replace("a_2", "a_ 2") for t in text], **more
            )

    known = tokenizer()
    known.__class__ = Splitting
    with pytest.raises(ValueError, match="splits '<a_2>', which was added to it"):
        extend(given_model(True), known, CATALOG, config, 0)
    biased = given_model(False)
    biased.lm_head = torch.nn.Linear(32, OLD)
    with pytest.raises(ValueError, match="has a bias"):
        models.lora_settings(replace(config, lora=LoraConfig(rank=2)), biased, [1])
