"""The promise "nothing but identifiers" when somebody else interferes: other processors, decodings that propose several tokens at once,
scores that are no numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import toy_catalog, toy_grlm, toy_model
from transformers import LogitsProcessor

from grlm_hf import TrieConstrainedLogitsProcessor
from grlm_hf.decoding import processor as module

CATALOG = toy_catalog()
GRLM = toy_grlm("vocabulary")
TRIE = CATALOG.trie(GRLM.tokenizer)


def prompt(*history: str) -> torch.Tensor:
    return GRLM.prompt_tokens(list(history) or ["i20", "i9"])


def written(out: torch.Tensor, length: int) -> list[tuple[int, ...]]:
    eos = GRLM.tokenizer.eos_token_id
    rows = [row[length:].tolist() for row in out]
    return [tuple(row[: row.index(eos)] if eos in row else row) for row in rows]


PATHS = {tuple(path.tolist()) for path in TRIE.paths()}
FIRST = sorted({path[0] for path in PATHS})


def generate(**options: Any) -> list[tuple[int, ...]]:
    ids = prompt()
    with torch.no_grad():
        more = {"max_new_tokens": 60, "do_sample": False, "logits_processor": [TrieConstrainedLogitsProcessor(TRIE)]} | options
        out = GRLM.model.generate(ids, attention_mask=torch.ones_like(ids), **more)
    return written(out, ids.shape[1])


class Forbid(LogitsProcessor):
    """Somebody's processor."""

    def __init__(self, tokens: list[int], value: float = -torch.inf):
        self.tokens, self.value = tokens, value

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores = scores.clone()
        scores[:, self.tokens] = self.value
        return scores


@pytest.mark.parametrize("num_beams", [1, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[t] for t in FIRST]},
        {"suppress_tokens": FIRST},
        {"begin_suppress_tokens": FIRST},
        {"sequence_bias": [[[t], float("-inf")] for t in FIRST]},
        {"min_new_tokens": 50},
        {"min_length": 500},
        {"forced_eos_token_id": 3},
        {"repetition_penalty": 5.0},
        {"encoder_no_repeat_ngram_size": 1},
        {"logits_processor": [Forbid(FIRST), TrieConstrainedLogitsProcessor(TRIE)]},
        {"logits_processor": [Forbid(list(range(GRLM.model.config.vocab_size))), TrieConstrainedLogitsProcessor(TRIE)]},
    ],
)
def test_other_rules_leave_an_item_or_an_error_that_names_the_cause(options: dict[str, Any], num_beams: int) -> None:
    try:
        found = generate(num_beams=num_beams, num_return_sequences=num_beams, **options)
    except ValueError as error:
        assert "nothing left to write" in str(error) or "EOS" in str(error)  # noqa: PT017
        return
    assert set(found) <= PATHS


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 0.9}, {"typical_p": 0.1}, {"epsilon_cutoff": 0.5},
                                     {"eta_cutoff": 0.5}, {"temperature": 1e-3}, {"temperature": 50.0}])  # fmt: skip
@pytest.mark.parametrize("num_beams", [1, 3])
def test_samplers_behind_the_constraint(options: dict[str, Any], num_beams: int) -> None:
    torch.manual_seed(0)
    found = generate(do_sample=True, num_beams=num_beams, num_return_sequences=num_beams, **options)
    assert set(found) <= PATHS


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("kind", ["host", "device"])
@pytest.mark.parametrize("decoding", ["an assistant", "prompt lookup", "an assistant that guesses badly"])
def test_decodings_that_propose_several_tokens_at_once(monkeypatch: pytest.MonkeyPatch, decoding: str, kind: str, objective: str) -> None:
    if kind == "device":  # the accelerator's code, on the CPU
        monkeypatch.setattr(module, "_HostRows", module._DeviceRows)
    for history in (["i20", "i9"], ["i13"], ["i20", "i20", "i9", "i13", "i9"]):
        ids = prompt(*history)
        options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        want = GRLM.model.generate(ids, logits_processor=[TrieConstrainedLogitsProcessor(TRIE, objective=objective)], **options)
        if decoding == "prompt lookup":
            options |= {"prompt_lookup_num_tokens": 3}
        else:
            options |= {"assistant_model": toy_model(0 if decoding == "an assistant" else 7)}
        one = TrieConstrainedLogitsProcessor(TRIE, objective=objective, prompt_length=ids.shape[1])
        for _ in range(2):
            got = GRLM.model.generate(ids, logits_processor=[one], **options)
            assert written(got, ids.shape[1]) == written(want, ids.shape[1])
        with pytest.raises(ValueError, match="prompt_length=input_ids"):
            GRLM.model.generate(ids, logits_processor=[TrieConstrainedLogitsProcessor(TRIE)], **options)


@pytest.mark.parametrize("kind", ["host", "device"])
def test_a_new_prompt_that_continues_the_old_one_is_a_new_prompt(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "device":
        monkeypatch.setattr(module, "_HostRows", module._DeviceRows)
    one = TrieConstrainedLogitsProcessor(TRIE)
    ids = prompt("i20")
    whole = GRLM.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False, logits_processor=[one])
    for n in (2, 5):  # the conversation goes on behind the answer
        longer = torch.cat((whole, prompt("i9")[:, :n]), 1)
        got = GRLM.model.generate(
            longer, attention_mask=torch.ones_like(longer), max_new_tokens=60, do_sample=False, logits_processor=[one]
        )
        assert set(written(got, longer.shape[1])) <= PATHS


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_scores_that_are_no_numbers(objective: str) -> None:
    scores = torch.full((2, GRLM.model.config.vocab_size), float("nan"))
    with pytest.raises(ValueError, match="not numbers"):
        TrieConstrainedLogitsProcessor(TRIE, objective=objective)(prompt().repeat(2, 1), scores)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_on_an_accelerator_a_row_without_choice_still_writes_an_item(monkeypatch: pytest.MonkeyPatch, objective: str, value: float) -> None:
    monkeypatch.setattr(module, "_HostRows", module._DeviceRows)
    scores = torch.full((1, GRLM.model.config.vocab_size), value)
    got = TrieConstrainedLogitsProcessor(TRIE, objective=objective)(prompt(), scores)
    assert set(np.flatnonzero(torch.isfinite(got[0]).numpy())) == set(FIRST)
