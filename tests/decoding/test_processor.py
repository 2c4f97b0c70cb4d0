from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import brute_force, close, scripted, toy_catalog, toy_grlm, toy_model, toy_tokenizer

from grlm_hf import GRLMForRecommendation, Trie, TrieConstrainedLogitsProcessor
from grlm_hf.identifiers.terms import TermID, parse

EOS = 9
TRIE = Trie([[1, 2], [1, 3], [4]], eos_token_id=EOS)
PROMPT = [7, 1, 2]  # tokens of the prompt never count, whatever they are


def call(processor: TrieConstrainedLogitsProcessor, rows: list[list[int]], vocab: int = 10) -> list[dict[int, float]]:
    scores = torch.cat([scripted({1: -0.5, 4: -1.5, 2: -0.25, EOS: -3.0}, vocab)] * len(rows))
    kept = scores.clone()
    out = processor(torch.tensor(rows), scores)
    assert torch.equal(scores, kept)  # the scores given are not changed
    return [{t: v for t, v in enumerate(row) if v > -torch.inf} for row in out.tolist()]


def test_masks_by_the_prefix_of_each_row() -> None:
    processor = TrieConstrainedLogitsProcessor(TRIE)
    assert call(processor, [PROMPT] * 3) == [{1: -0.5, 4: -1.5}] * 3
    assert call(processor, [[*PROMPT, 1], [*PROMPT, 4], [*PROMPT, 8]]) == [{2: -0.25, 3: -5.0}, {EOS: 0.0}, {EOS: 0.0}]
    # beams moved: state comes from the prefix, not from the row; behind EOS only EOS
    assert call(processor, [[*PROMPT, 4, EOS], [*PROMPT, 1, 3], [*PROMPT, 1, 7]]) == [{EOS: 0.0}] * 3


def test_trie_objective_renormalises_the_legal_tokens() -> None:
    (row,) = call(TrieConstrainedLogitsProcessor(TRIE, objective="trie"), [PROMPT])
    assert row.keys() == {1, 4}
    assert sum(torch.tensor(v).exp().item() for v in row.values()) == pytest.approx(1)
    assert row[1] - row[4] == pytest.approx(1.0)


def test_serves_one_generation_after_another() -> None:
    processor = TrieConstrainedLogitsProcessor(TRIE)
    for prompt in ([5], [5, 6], [5, 6, 1], [8, 8]):  # a longer prompt by one token is not taken for a continuation
        assert call(processor, [prompt]) == [{1: -0.5, 4: -1.5}]
        assert call(processor, [[*prompt, 1]]) == [{2: -0.25, 3: -5.0}]
    assert call(processor, [[5], [6]]) == [{1: -0.5, 4: -1.5}] * 2


def test_refuses_what_would_break_the_constraint() -> None:
    with pytest.raises(ValueError, match="EOS token 4 occurs inside"):
        TrieConstrainedLogitsProcessor(TRIE, eos_token_id=4)
    with pytest.raises(ValueError, match="expected the id of the token"):
        TrieConstrainedLogitsProcessor(Trie([[1]]))
    with pytest.raises(ValueError, match="objective"):
        TrieConstrainedLogitsProcessor(TRIE, objective="words")
    with pytest.raises(ValueError, match="another model's tokenizer"):
        TrieConstrainedLogitsProcessor(TRIE)(torch.tensor([PROMPT]), torch.zeros(1, 6))


def test_a_history_that_grew_by_the_last_answer_is_a_new_prompt() -> None:
    processor = TrieConstrainedLogitsProcessor(TRIE)
    for path in ([1, 2], [1, 3], [4]):
        for n in range(len(path) + 1):  # a greedy generation to its end: the last call sees the whole identifier
            call(processor, [[5, *path[:n]]])
        assert call(processor, [[5, *path]]) == [{1: -0.5, 4: -1.5}]  # ... which now is history


def test_a_generation_that_does_not_stop_at_eos_writes_nothing_more() -> None:
    processor = TrieConstrainedLogitsProcessor(TRIE)
    for tail in ([], [4], [4, EOS], [4, EOS, EOS]):
        found = call(processor, [[5, *tail]])
    assert found == [{EOS: 0.0}]


# --- in generate() -------------------------------------------------------------------------------------------------------------------


def generate(
    grlm: GRLMForRecommendation, histories: list[list[str]], num_beams: int, **options: Any
) -> list[list[tuple[TermID | None, float]]]:
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in histories]
    batch = grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    processor = TrieConstrainedLogitsProcessor(grlm.catalog.trie(grlm.tokenizer), objective=grlm.config.objective)
    out = grlm.model.generate(
        **batch,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=grlm.trie.depth + 1,
        do_sample=False,
        length_penalty=0.0,
        logits_processor=[processor],
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=grlm.tokenizer.pad_token_id,
        eos_token_id=grlm.tokenizer.eos_token_id,
        **options,
    )
    texts = grlm.tokenizer.batch_decode(out.sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    pairs = [(parse(t), s) for t, s in zip(texts, out.sequences_scores.tolist(), strict=True)]
    assert not any(s != s for _, s in pairs)  # no NaN
    return [[p for p in pairs[i : i + num_beams] if p[1] > -1e8] for i in range(0, len(pairs), num_beams)]


HISTORIES = [["i20"], ["i19", "i9", "i14"], ["i11", "i10"]]  # of different lengths: left padding


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_beam_search_over_all_items_equals_brute_force(objective: str) -> None:
    grlm = toy_grlm(objective)
    n = len(grlm.catalog.identifiers)
    for history, found in zip(HISTORIES, generate(grlm, HISTORIES, num_beams=n + 3), strict=True):  # more beams than identifiers
        want = sorted(brute_force(grlm, history).items(), key=lambda p: -p[1])
        distinct = list(dict.fromkeys(t for t, _ in found))
        assert distinct == [t for t, _ in want]
        scores = dict(reversed(found))
        assert all(close(scores[t], s) for t, s in want)


def test_recommend_equals_generate() -> None:
    for objective in ("vocabulary", "trie"):
        grlm = toy_grlm(objective, seed=1)
        for width in (2, 3, 5, 9):
            for history, found in zip(HISTORIES, generate(grlm, HISTORIES, num_beams=width), strict=True):
                got = grlm.recommend(history, 1, num_beams=width)
                assert got[0].term_id == found[0][0]
                assert close(got[0].score, found[0][1])
                want = [i.item_id for t, _ in found for i in grlm.catalog.items_of(t)][:width]
                assert [r.item_id for r in grlm.recommend(history, min(width, len(want)), num_beams=width)] == want


def test_renormalised_logits_do_not_turn_to_nan() -> None:
    grlm = toy_grlm()
    for found in generate(grlm, HISTORIES, num_beams=16, renormalize_logits=True):
        assert {t for t, _ in found} == set(grlm.catalog.identifiers)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 0}])
def test_greedy_and_sampling_write_only_identifiers(options: dict[str, Any]) -> None:
    model, tokenizer, catalog = toy_model(), toy_tokenizer(), toy_catalog()
    processor = TrieConstrainedLogitsProcessor(catalog.trie(tokenizer))
    torch.manual_seed(0)
    prompt = torch.tensor([tokenizer("Next items after:\n", add_special_tokens=False)["input_ids"]] * 16)
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=40,
        logits_processor=[processor],
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    texts = tokenizer.batch_decode(out[:, prompt.shape[1] :], skip_special_tokens=True)
    assert {parse(t) for t in texts} <= set(catalog.identifiers)
    assert all(t.endswith("]\n") for t in texts)
    if options:
        assert len(set(texts)) > 1
