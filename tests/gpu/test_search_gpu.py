"""The processor and every search on CUDA. Oracle: each identifier scored by a plain forward on the CPU, in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from toys import brute_force, some_histories, toy_catalog, toy_grlm, tree_of

from grlm_hf import GRLMForRecommendation, Recommendation, Trie, TrieConstrainedLogitsProcessor
from grlm_hf.identifiers.terms import TermID, parse

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
OBJECTIVES = ["vocabulary", "trie"]
HISTORIES = some_histories(6)[::4]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2}
"""Of the log-probability of an identifier: several times what a CPU's results differ by."""
EOS, VOCABULARY = 9, 12

each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def on_cuda(objective: str, dtype: torch.dtype) -> tuple[GRLMForRecommendation, GRLMForRecommendation]:
    """A recommender on CUDA, and the same weights in float64 on the CPU."""
    grlm, oracle = toy_grlm(objective), toy_grlm(objective)
    grlm.model.to(CUDA, dtype)
    oracle.model.load_state_dict(grlm.model.state_dict())
    oracle.model.double()
    return grlm, oracle


def check_best(found: list[tuple[TermID, float]], scores: dict[TermID, float], tolerance: float) -> None:
    """The identifiers found are distinct, have their own scores, and none left out is better."""
    assert len({tid for tid, _ in found}) == len(found)
    for tid, score in found:
        assert score == pytest.approx(scores[tid], abs=tolerance)
    best = sorted(scores.values(), reverse=True)[: len(found)]
    assert [scores[tid] for tid, _ in found] == pytest.approx(best, abs=2 * tolerance)


# --- the processor -----------------------------------------------------------------------------------------------------------------


def legal_after(tree: dict[int, Any], written: list[int]) -> list[int]:
    for token in written:
        tree = tree.get(token, {})
    return sorted(tree)


@each_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_every_step_of_a_generation_equals_the_dictionary_mask(objective: str, dtype: torch.dtype, seed: int) -> None:
    """Rows end, move, and leave the trie; the second generation has prompts of another length."""
    rng, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    paths = sorted({tuple(rng.randrange(6) for _ in range(4)) for _ in range(40)})
    tree = tree_of([list(p) for p in paths])
    processor = TrieConstrainedLogitsProcessor(Trie([list(p) for p in paths]), eos_token_id=EOS, objective=objective)
    for start in (3, 5):
        rows = [[10 + start % 2, *(rng.randrange(VOCABULARY) for _ in range(start - 1))] for _ in range(7)]
        for _ in range(7):
            scores = torch.randn(len(rows), VOCABULARY, generator=draw).to(dtype)
            got = processor(torch.tensor(rows, device=CUDA), scores.to(CUDA))
            assert (got.device.type, got.dtype) == ("cuda", dtype)
            want = torch.full_like(scores, -torch.inf, dtype=torch.float64)
            for r, row in enumerate(rows):
                legal = legal_after(tree, row[start:])
                want[r, legal or [EOS]] = scores[r, legal].double() if legal else 0
                if legal and objective == "trie":
                    want[r, legal] = want[r, legal].log_softmax(0)
            atol = 0 if objective == "vocabulary" else 16 * torch.finfo(dtype).eps
            torch.testing.assert_close(got.cpu().double(), want, atol=atol, rtol=0)
            chosen = rng.choices(rows, k=len(rows))
            rows = [[*r, rng.choice((legal_after(tree, r[start:]) or [EOS]) if rng.random() < 0.8 else [EOS, 7])] for r in chosen]


def generate(grlm: GRLMForRecommendation, **options: Any) -> tuple[list[str], Any]:
    """The answers after the histories, whose prompts have different lengths, and all that ``generate()`` returns."""
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in HISTORIES]
    batch = grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(CUDA)
    processor = TrieConstrainedLogitsProcessor(grlm.trie, objective=grlm.config.objective)
    out = grlm.model.generate(
        **batch, max_new_tokens=grlm.trie.depth + 1, logits_processor=[processor], return_dict_in_generate=True, output_scores=True,
        pad_token_id=grlm.tokenizer.pad_token_id, eos_token_id=grlm.tokenizer.eos_token_id, **options,
    )  # fmt: skip
    return grlm.tokenizer.batch_decode(out.sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True), out


@each_objective
@each_dtype
def test_beam_search_of_generate_equals_brute_force(objective: str, dtype: torch.dtype) -> None:
    grlm, oracle = on_cuda(objective, dtype)
    width = len(grlm.catalog.identifiers) + 3  # more beams than identifiers
    texts, out = generate(grlm, num_beams=width, num_return_sequences=width, do_sample=False, length_penalty=0.0)
    for n, history in enumerate(HISTORIES):
        answers = slice(n * width, (n + 1) * width)
        found = [(parse(t), s) for t, s in zip(texts[answers], out.sequences_scores[answers].tolist(), strict=True) if s > -1e8]
        found = list({tid: (tid, score) for tid, score in reversed(found)}.values())[::-1]  # a beam that had ended may come twice
        scores = brute_force(oracle, history)
        assert {tid for tid, _ in found} == scores.keys()
        check_best(found, scores, TOLERANCE[dtype])


@each_dtype
def test_all_sampled_answers_are_items(dtype: torch.dtype) -> None:
    grlm, _ = on_cuda("vocabulary", dtype)
    torch.manual_seed(0)
    texts, out = generate(grlm, do_sample=True, top_k=0, temperature=3.0, num_return_sequences=100)
    assert {parse(t) for t in texts} == set(grlm.catalog.identifiers)
    assert all(t.endswith("]\n") for t in texts)
    assert not torch.isnan(torch.stack(out.scores)).any()


# --- recommend ---------------------------------------------------------------------------------------------------------------------


@each_objective
@each_dtype
@pytest.mark.parametrize("search", [{}, {"edge_wise": True}, {"exact": True}], ids=["beams", "edges", "exact"])
def test_recommend_equals_brute_force(objective: str, dtype: torch.dtype, search: dict[str, bool]) -> None:
    grlm, oracle = on_cuda(objective, dtype)
    for history, answer in zip(HISTORIES, grlm.recommend(HISTORIES, len(grlm.catalog), **search), strict=True):
        scores = brute_force(oracle, history)
        assert sorted(r.item_id for r in answer) == sorted(i.item_id for i in grlm.catalog)
        check_best(by_identifier(answer), scores, TOLERANCE[dtype])
        if search.get("exact"):
            assert answer.certified


def by_identifier(answer: list[Recommendation]) -> list[tuple[TermID, float]]:
    """Items that share a Term ID counted once."""
    return list({r.term_id: (r.term_id, r.log_prob) for r in answer}.values())


@each_objective
@each_dtype
@pytest.mark.parametrize("search", [{}, {"edge_wise": True}, {"exact": True}], ids=["beams", "edges", "exact"])
def test_the_best_three_under_rules(objective: str, dtype: torch.dtype, search: dict[str, bool]) -> None:
    grlm, oracle = on_cuda(objective, dtype)
    rules = {"exclude_seen": True, "banned_terms": ["desk"], "exclude": ["i11"]}
    for history, answer in zip(HISTORIES, grlm.recommend(HISTORIES, 3, **rules, **search), strict=True):
        allowed = [i for i in toy_catalog() if i.item_id not in {*history, "i11"} and "desk" not in grlm.catalog.term_id(i.item_id)]
        every = brute_force(oracle, history)
        scores = {grlm.catalog.term_id(i.item_id): every[grlm.catalog.term_id(i.item_id)] for i in allowed}
        assert {r.item_id for r in answer} <= {i.item_id for i in allowed}
        assert len({r.item_id for r in answer}) == 3
        if search.get("exact") or not search:  # as many beams as identifiers
            check_best(by_identifier(answer), scores, TOLERANCE[dtype])


@each_objective
def test_an_explanation_sums_to_the_log_probability(objective: str) -> None:
    grlm, oracle = on_cuda(objective, torch.float32)
    for history in HISTORIES[:3]:
        found = grlm.explain(history, "i20")
        assert sum(t.log_prob for t in found.terms) == pytest.approx(
            brute_force(oracle, history)[found.term_id], abs=TOLERANCE[torch.float32]
        )
