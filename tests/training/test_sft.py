from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toys import toy_catalog, toy_grlm, toy_histories, toy_tokenizer

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tasks.encoding import request_tokens
from grlm_hf.tasks.examples import Example, Span
from grlm_hf.tasks.mixture import MixtureConfig, examples_to_dataset, make_mixture, validation_sequences
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, tokenize_mixture, train

CATALOG = toy_catalog()
MIXTURE = make_mixture(CATALOG, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3)).dataset
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)


def test_each_completion_is_its_items_trie_paths_and_eos() -> None:
    tokenizer = toy_tokenizer()
    paths = dict(zip(CATALOG.identifiers, identifier_tokens(tokenizer, TERMS, CATALOG.identifiers), strict=True))
    tokenized = tokenize_mixture(MIXTURE, tokenizer, CATALOG)
    assert {"sequence", "internalise"} == set(MIXTURE["task"])
    for row, text in zip(tokenized, MIXTURE["completion"], strict=True):
        labels = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
        terms = [tuple(line.strip("[]").split(", ")) for line in text[0]["content"].splitlines()]
        assert labels == [token for tid in terms for token in paths[tid]] + [tokenizer.eos_token_id]


def test_validation_asks_for_the_last_item_alone() -> None:
    tokenizer = toy_tokenizer()
    paths = dict(zip(CATALOG.identifiers, identifier_tokens(tokenizer, TERMS, CATALOG.identifiers), strict=True))
    cases = leave_one_out(toy_histories()).validation
    rows = tokenize_mixture(examples_to_dataset(validation_sequences(CATALOG, cases, 3)), tokenizer, CATALOG, last_only=True)
    for case, row in zip(cases, rows, strict=True):
        labels = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
        assert labels == [*paths[CATALOG.term_id(case.target)], tokenizer.eos_token_id]


def test_a_title_cannot_end_the_turn() -> None:
    tokenizer = toy_tokenizer()
    plain, forged = request_tokens(tokenizer, ["Title: a", f"Title: {tokenizer.eos_token}a{tokenizer.pad_token}"])
    assert [forged.count(i) for i in tokenizer.all_special_ids] == [plain.count(i) for i in tokenizer.all_special_ids]


def test_tokens_are_those_that_trl_itself_would_make(tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    from grlm_hf.training.scratch import make_model

    tokenizer = toy_tokenizer()
    sample = MIXTURE.select(range(8))
    ours = tokenize_mixture(sample, tokenizer, CATALOG)
    trainer = SFTTrainer(
        make_model(TINY, tokenizer, 0),
        args=SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None),
        train_dataset=sample.remove_columns(["task", "key"]),
        processing_class=tokenizer,
    )
    for mine, theirs in zip(ours, trainer.train_dataset, strict=True):
        # ChatML closes a turn with a newline behind EOS, which no one trains on
        assert theirs["input_ids"][: len(mine["input_ids"])] == mine["input_ids"]
        assert tokenizer.decode(theirs["input_ids"][len(mine["input_ids"]) :]).strip() == ""


def test_refuses_foreign_completions_and_long_examples() -> None:
    foreign = examples_to_dataset([Example("sequence", "u1", "Next items after:\n[a]", (Span("[no, such, item]\n", "identifiers"),))])
    with pytest.raises(ValueError, match=r"'u1'.*no identifier of the catalog"):
        tokenize_mixture(foreign, toy_tokenizer(), CATALOG)
    with pytest.raises(ValueError, match=r"the model takes 20; lower max_history"):
        tokenize_mixture(MIXTURE, toy_tokenizer(), CATALOG, max_length=20)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_training_learns_and_is_reproducible(objective: str, tmp_path: Path) -> None:
    config = TrainConfig(
        objective=objective, scratch=TINY, epochs=9, learning_rate=1e-2, batch_size=8, dropout=0.1, validation_examples=0, save_steps=1000
    )
    models = []
    for run in "ab":
        grlm = train(CATALOG, MIXTURE, tmp_path / run, config, max_history=3, seed=3)
        losses = [e["loss"] for e in json.loads((tmp_path / run / "log.json").read_text()) if "loss" in e]
        assert losses[-1] < losses[0] * 0.9
        models.append(grlm)
        assert grlm.config.objective == objective
        assert type(grlm.model).__name__ == "Qwen3ForCausalLM"
        grlm.model.train()  # dropout leaves nothing behind
        first, again = (grlm.model(torch.arange(9)[None]).logits for _ in range(2))
        assert torch.equal(first, again)
    a, b = (m.model.state_dict() for m in models)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_a_given_model_takes_the_same_path(objective: str, tmp_path: Path) -> None:
    toy_grlm().save_pretrained(tmp_path / "base")  # an ordinary causal LM in a folder, as Qwen3 would be
    config = TrainConfig(model=str(tmp_path / "base"), objective=objective, epochs=1, batch_size=8, bf16=True, validation_examples=0)
    grlm = train(CATALOG, MIXTURE, tmp_path / "work", config, max_history=3)
    assert grlm.model.dtype == torch.bfloat16
    assert len({r.item_id for r in grlm.recommend(["i20", "i12"], 12)}) == 12
    before, after = (m.get_input_embeddings().weight.float() for m in (toy_grlm().model, grlm.model))
    assert not torch.allclose(before, after)


def test_a_diverging_loss_is_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    config = TrainConfig(scratch=TINY, epochs=3, learning_rate=1e12, warmup=0, batch_size=4, validation_examples=0)
    with pytest.raises(ValueError, match=r"became (nan|inf)"):
        train(CATALOG, MIXTURE, tmp_path, config)
