from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Tree, brute_force, close, scripted, toy_catalog, toy_grlm, toy_model, toy_tokenizer, tree_of
from transformers import LogitsProcessor

from grlm_hf import GRLMForRecommendation, Trie, TrieConstrainedLogitsProcessor
from grlm_hf.decoding.processor import _DeviceRows
from grlm_hf.identifiers.terms import TERMS, TermID, parse
from grlm_hf.tokens import identifier_tokens
from grlm_hf.trie.walker import TrieWalker

EOS = 9
TRIE = Trie([[1, 2], [1, 3], [4]], eos_token_id=EOS)
PROMPT = [7, 1, 2]  # tokens of the prompt never count, whatever they are


def call(processor: TrieConstrainedLogitsProcessor, rows: list[list[int]], vocab: int = 10) -> list[dict[int, float]]:
    scores = torch.cat([scripted({1: -0.5, 4: -1.5, 2: -0.25, EOS: -3.0}, vocab)] * len(rows))
    kept = scores.clone()
    out = processor(torch.tensor(rows), scores)
    assert torch.equal(scores, kept)  # the scores given are not changed
    return [{t: v for t, v in enumerate(row) if v > -torch.inf} for row in out.tolist()]


def on_host(trie: Trie, **options: Any) -> TrieConstrainedLogitsProcessor:
    return TrieConstrainedLogitsProcessor(trie, **options)


def on_device(trie: Trie, **options: Any) -> TrieConstrainedLogitsProcessor:
    """What runs on an accelerator, on the tensors of a CPU."""
    processor = TrieConstrainedLogitsProcessor(trie, **options)
    processor._rows = _DeviceRows(trie, processor.eos_token_id, processor.prompt_length, torch.device("cpu"))
    return processor


either = pytest.mark.parametrize("make", [on_host, on_device])
Make = Callable[..., TrieConstrainedLogitsProcessor]


@either
def test_masks_by_the_prefix_of_each_row(make: Make) -> None:
    processor = make(TRIE)
    assert call(processor, [PROMPT] * 3) == [{1: -0.5, 4: -1.5}] * 3
    assert call(processor, [[*PROMPT, 1], [*PROMPT, 4], [*PROMPT, 8]]) == [{2: -0.25, 3: -5.0}, {EOS: 0.0}, {EOS: 0.0}]
    # beams moved: state comes from the prefix, not from the row; behind EOS only EOS
    assert call(processor, [[*PROMPT, 4, EOS], [*PROMPT, 1, 3], [*PROMPT, 1, 7]]) == [{EOS: 0.0}] * 3


@either
def test_trie_objective_renormalises_the_legal_tokens(make: Make) -> None:
    (row,) = call(make(TRIE, objective="trie"), [PROMPT])
    assert row.keys() == {1, 4}
    assert sum(torch.tensor(v).exp().item() for v in row.values()) == pytest.approx(1)
    assert row[1] - row[4] == pytest.approx(1.0)


@either
def test_serves_one_generation_after_another(make: Make) -> None:
    processor = make(TRIE)
    for prompt in ([5], [5, 6], [5, 6, 1], [8, 8]):  # a longer prompt by one token is not taken for a continuation
        assert call(processor, [prompt]) == [{1: -0.5, 4: -1.5}]
        assert call(processor, [[*prompt, 1]]) == [{2: -0.25, 3: -5.0}]
    assert call(processor, [[5], [6]]) == [{1: -0.5, 4: -1.5}] * 2


def test_refuses_what_would_break_the_constraint() -> None:
    with pytest.raises(ValueError, match="EOS token 4 occurs inside"):
        TrieConstrainedLogitsProcessor(TRIE, eos_token_id=4)
    with pytest.raises(ValueError, match="expected the id of the token"):
        TrieConstrainedLogitsProcessor(Trie([[1]]))
    with pytest.raises(ValueError, match="expected the id of the token"):
        TrieConstrainedLogitsProcessor(TRIE, eos_token_id=-1)
    with pytest.raises(ValueError, match="objective"):
        TrieConstrainedLogitsProcessor(TRIE, objective="words")
    for vocab in (4, 6, EOS):  # too few for the identifiers, or for EOS alone
        with pytest.raises(ValueError, match="another model's tokenizer"):
            TrieConstrainedLogitsProcessor(TRIE)(torch.tensor([PROMPT]), torch.zeros(1, vocab))


@pytest.mark.parametrize(("ids", "scores"), [((2, 3), (1, 10)), ((1, 3), (2, 10)), ((3,), (3, 10)), ((1, 3), (10,)), ((1, 3), (1, 3, 10))])
def test_refuses_rows_of_ids_that_are_not_rows_of_scores(ids: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected one row of scores for each row of ids"):
        TrieConstrainedLogitsProcessor(TRIE)(torch.ones(ids, dtype=torch.int64), torch.zeros(scores))


def test_refuses_a_tokenizer_that_did_not_make_the_trie() -> None:
    trie = toy_catalog().trie(toy_tokenizer())
    TrieConstrainedLogitsProcessor(trie, tokenizer=toy_tokenizer())
    with pytest.raises(ValueError, match="another tokenizer"):
        TrieConstrainedLogitsProcessor(trie, tokenizer=toy_tokenizer(380))
    with pytest.raises(ValueError, match="hash unknown"):
        TrieConstrainedLogitsProcessor(TRIE, tokenizer=toy_tokenizer())


@either
def test_a_history_that_grew_by_the_last_answer_is_a_new_prompt(make: Make) -> None:
    processor = make(TRIE)
    for path in ([1, 2], [1, 3], [4]):
        for n in range(len(path) + 1):  # a greedy generation to its end: the last call sees the whole identifier
            call(processor, [[5, *path[:n]]])
        assert call(processor, [[5, *path]]) == [{1: -0.5, 4: -1.5}]  # ... which now is history
    for token in (1, 6):  # ... or the answer and one token more
        call(processor, [[5]] * 2)
        call(processor, [[5, 4]] * 2)
        assert call(processor, [[5, 4, token]] * 2) == [{1: -0.5, 4: -1.5}] * 2


@either
def test_a_generation_that_does_not_stop_at_eos_writes_nothing_more(make: Make) -> None:
    processor = make(TRIE)
    for tail in ([], [4], [4, EOS], [4, EOS, EOS]):
        found = call(processor, [[5, *tail]])
    assert found == [{EOS: 0.0}]


# --- against a dictionary ------------------------------------------------------------------------------------------------------------

TREE = tree_of([[1, 2], [1, 3], [4]])


def legal_after(tree: Tree, written: list[int]) -> list[int]:
    for token in written:
        tree = tree.get(token, {})
    return sorted(tree)


def masked(tree: Tree, rows: list[list[int]], start: int, scores: torch.Tensor, objective: str) -> torch.Tensor:
    """What the processor is to return, if the prompts end at `start`."""
    out = torch.full_like(scores, -torch.inf)
    for r, row in enumerate(rows):
        legal = legal_after(tree, row[start:])
        out[r, legal] = scores[r, legal].log_softmax(0) if objective == "trie" else scores[r, legal]
        if not legal:
            out[r, EOS] = 0
    return out


def same(got: torch.Tensor, want: torch.Tensor, objective: str) -> bool:
    return torch.equal(got, want) if objective == "vocabulary" else torch.allclose(got, want, atol=1e-6)


@st.composite
def path_sets(draw: st.DrawFn) -> list[list[int]]:
    found = draw(st.sets(st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple), min_size=1, max_size=25))
    return [list(p) for p in sorted(found) if not any(p != q and q[: len(p)] == p for q in found)]


def next_rows(tree: Tree, rows: list[list[int]], start: int, rng: random.Random) -> list[list[int]]:
    """As a beam search or sampling goes on: each row continues some row, mostly by a legal token. If all came to their end, sometimes
    none by EOS."""
    found = []
    if rng.random() < 0.5 and not any(legal_after(tree, row[start:]) for row in rows):
        return [[*row, rng.randrange(EOS)] for row in rows]
    for _ in rows:
        row = rng.choice(rows)
        legal = legal_after(tree, row[start:]) or [EOS]
        found.append([*row, rng.choice(legal) if rng.random() < 0.8 else rng.choice([EOS, rng.randrange(12)])])
    return found


@either
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@settings(max_examples=80, deadline=None)
@given(paths=path_sets(), n=st.integers(1, 6), steps=st.integers(1, 8), known=st.booleans(), rng=st.randoms(use_true_random=False))
def test_every_step_of_any_generation_equals_the_dictionary_mask(
    make: Make, objective: str, paths: list[list[int]], n: int, steps: int, known: bool, rng: random.Random
) -> None:
    """Whatever rows move where, and whether callers keep what they got, let it go, or write into it first."""
    tree, length = tree_of(paths), rng.randrange(1, 5)
    processor = make(Trie(paths), eos_token_id=EOS, objective=objective, prompt_length=length if known else None)
    draw = torch.Generator().manual_seed(rng.randrange(2**31))
    kept = []
    for generation in (10, 11):  # with the same processor; prompts begin by another token, so that neither continues the other
        start = length if known else rng.randrange(1, 5)
        rows = [[generation, *(rng.randrange(12) for _ in range(start - 1))] for _ in range(rng.randrange(1, n + 1))]
        rows = [list(rng.choice(rows)) for _ in range(n)]  # some of them equal
        if known and generation == 10:  # the first call may come later
            for _ in range(rng.randrange(3)):
                rows = next_rows(tree, rows, start, rng)
        for _ in range(steps):
            scores = torch.randn(n, 12, generator=draw)
            given_scores = scores.clone()
            got = processor(torch.tensor(rows), scores)
            want = masked(tree, rows, start, scores, objective)
            assert same(got, want, objective)
            assert torch.equal(scores, given_scores)
            match rng.randrange(3):
                case 0:
                    kept.append((got, want))
                case 1:
                    got[:, rng.randrange(12)] = 5.0
            del got
            over = not any(legal_after(tree, row[start:]) for row in rows)
            rows = next_rows(tree, rows, start, rng)
            if over and not known and not any(row[-1] == EOS for row in rows):
                start = len(rows[0])  # by then all had ended: this is another prompt
    assert all(same(got, want, objective) for got, want in kept)


@either
@pytest.mark.parametrize("prompt", [60, 63, 64, 65, 70])
def test_long_prompts_and_long_generations_keep_their_state(make: Make, prompt: int) -> None:
    """Across 64 and 128 tokens, with rows in any order and prompts that differ anywhere."""
    rng = random.Random(prompt)
    stems = [[rng.randrange(6) for _ in range(80)] for _ in range(3)]
    paths = [stem[:cut] + [6 + k] * (80 - cut) for stem in stems for k, cut in enumerate((3, 40, 79))]
    tree = tree_of(paths)
    processor = make(Trie(paths), eos_token_id=EOS)
    rows = [[rng.randrange(12) for _ in range(prompt)] for _ in range(4)]
    rows.append(list(rows[0]))
    for _ in range(81):
        scores = torch.randn(5, 12)
        assert torch.equal(processor(torch.tensor(rows), scores), masked(tree, rows, prompt, scores, "vocabulary"))
        rows = [[*row, rng.choice(legal_after(tree, row[prompt:]) or [EOS])] for row in rng.choices(rows, k=5)]
    assert len(rows[0]) > 128


@either
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_keep_their_type(make: Make, objective: str, dtype: torch.dtype) -> None:
    processor, scores = make(TRIE, objective=objective), torch.randn(2, 10).to(dtype)
    for rows in ([PROMPT] * 2, [[*PROMPT, 1], [*PROMPT, 4]]):
        got, want = processor(torch.tensor(rows), scores), masked(TREE, rows, 3, scores.double(), objective)
        assert got.dtype == dtype
        assert torch.allclose(got.double(), want, atol=0 if objective == "vocabulary" else 16 * torch.finfo(dtype).eps)


@either
def test_takes_scores_and_ids_of_any_strides(make: Make) -> None:
    """As a slice of the model's logits [rows, positions, vocabulary] is."""
    sliced, transposed = make(TRIE), make(TRIE)
    for rows in ([PROMPT] * 2, [[*PROMPT, 1], [*PROMPT, 4]]):
        scores = torch.randn(2, 3, 10)[:, -1]
        want = masked(TREE, rows, 3, scores, "vocabulary")
        assert torch.equal(sliced(torch.tensor(rows), scores), want)
        assert torch.equal(transposed(torch.tensor(rows).T.contiguous().T, scores.T.contiguous().T), want)


# --- the tensors handed out ----------------------------------------------------------------------------------------------------------


def two_steps(n: int) -> Iterator[list[list[int]]]:
    """Ids of `n` calls, two to a generation."""
    for i in range(n):
        yield [[i // 2 % 9, *([1] if i % 2 else [])]] * 2


KEEP: dict[str, Callable[[torch.Tensor], Any]] = {
    "itself": lambda out: out,
    "list": lambda out: [out],
    "row": lambda out: out[0],
    "slice": lambda out: out[1:, 2:5],
    "view": lambda out: out.view(-1),
    "transposed": lambda out: out.T,
    "detached": lambda out: out.detach(),
    "numpy": lambda out: out.numpy(),
    "slice of numpy": lambda out: out[1].numpy()[3:],
    "unbound": lambda out: out.unbind(0)[1],
}


@either
@pytest.mark.parametrize("how", KEEP)
def test_what_a_caller_keeps_is_never_overwritten(make: Make, how: str) -> None:
    processor, kept = make(TRIE), []
    for i, rows in enumerate(two_steps(9)):
        out = processor(torch.tensor(rows), torch.full((2, 10), float(i)))
        kept.append((KEEP[how](out), KEEP[how](out.clone())))
        del out
    for one, copy in kept:
        for a, b in zip(one, copy, strict=True) if isinstance(one, list) else [(one, copy)]:
            assert (torch.as_tensor(a) == torch.as_tensor(b)).all()


SPOIL: dict[str, Callable[[torch.Tensor], Any]] = {
    "all": lambda out: out.fill_(3.0),
    "row": lambda out: out[0].zero_(),
    "slice of a view": lambda out: out.view(-1)[3:5].fill_(1.0),
    "detached": lambda out: out.detach().exp_(),
    "masked": lambda out: out.masked_fill_(out == -torch.inf, 0.0),
    "resized": lambda out: out.resize_(1, 5),
    "transposed": lambda out: out.t_(),
    "made a leaf": lambda out: out.requires_grad_(),
}


@either
@pytest.mark.parametrize("how", SPOIL)
def test_what_a_caller_writes_into_its_result_stays_there(make: Make, how: str) -> None:
    processor = make(TRIE)
    for i, rows in enumerate(two_steps(8)):
        scores = torch.full((2, 10), float(i))
        out = processor(torch.tensor(rows), scores)
        assert torch.equal(out, masked(TREE, rows, 1, scores, "vocabulary"))
        SPOIL[how](out)
        del out


@either
def test_a_tensor_that_nobody_holds_is_used_again(make: Make) -> None:
    processor, scores = make(TRIE), torch.zeros(2, 50_000)
    places, filler = set(), []
    for rows in two_steps(8):
        places.add(processor(torch.tensor(rows), scores).data_ptr())
        filler.append(torch.zeros_like(scores))  # takes memory that was given back
    assert len(places) == 1
    held = [processor(torch.tensor(rows), scores) for rows in two_steps(4)]
    assert len({out.data_ptr() for out in held}) == 4


@either
def test_shapes_and_types_may_change_between_generations(make: Make) -> None:
    processor = make(TRIE)
    for n, vocab, dtype in [(2, 10, torch.float32), (2, 12, torch.float32), (3, 10, torch.float32), (3, 10, torch.bfloat16)] * 2:
        for rows in ([[5, 5]] * n, [[5, 5, 1]] * n):
            scores = torch.randn(n, vocab).to(dtype)
            assert torch.equal(processor(torch.tensor(rows), scores), masked(TREE, rows, 2, scores, "vocabulary"))


@either
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_modes_of_autograd_may_change_between_calls(make: Make, objective: str) -> None:
    """Results made in inference mode, without it, and without gradients; some written into, some kept."""
    processor = make(TRIE, objective=objective)
    rng, kept = random.Random(0), []
    for i, rows in enumerate(two_steps(60)):
        with rng.choice([torch.inference_mode, torch.no_grad, torch.enable_grad])():
            scores = torch.full((2, 10), float(i))
            out = processor(torch.tensor(rows), scores)
            want = masked(TREE, rows, 1, scores, objective)
            assert same(out, want, objective)
            match rng.randrange(3):
                case 0:
                    kept.append((out, want))
                case 1:
                    out.fill_(7.0)
            del out
    assert all(same(out, want, objective) for out, want in kept)


@either
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_gradients_reach_the_scores_and_nothing_else_is_remembered(make: Make, objective: str) -> None:
    processor, before = make(TRIE, objective=objective), []
    for rows in two_steps(6):
        assert not [ref for ref in before if ref() is not None]  # no call holds on to the graph of one before
        scores = torch.zeros(2, 10, requires_grad=True)
        out = processor(torch.tensor(rows), scores * 2)
        legal = out > -torch.inf
        (out[legal] * torch.arange(1.0, 1 + int(legal.sum()))).sum().backward()
        assert ((scores.grad != 0) == legal).all()
        before.append(weakref.ref(scores))
        del scores, out, legal
        gc.collect()


def test_no_call_waits_for_an_accelerator() -> None:
    """Tensors of device "meta" have shapes and no values: what asks for a value, as `item`, `nonzero` or an `if` do, raises."""
    walker = TrieWalker(TRIE, "meta")
    with pytest.raises((RuntimeError, NotImplementedError)):  # as here
        walker.children(*walker.root(2))
    for objective in ("vocabulary", "trie"):
        for prompt_length in (None, 2):
            processor = TrieConstrainedLogitsProcessor(TRIE, objective=objective, prompt_length=prompt_length)
            for length in (3, 4, 5, 6, 3, 4, 66, 130, 131):  # beyond 64 and 128, where tables grow
                ids = torch.zeros(2, length, dtype=torch.int64, device="meta")
                out = processor(ids, torch.zeros(2, 10, dtype=torch.bfloat16, device="meta"))
                assert (out.shape, out.dtype, out.device.type) == ((2, 10), torch.bfloat16, "meta")


# --- in generate() -------------------------------------------------------------------------------------------------------------------


def generate(
    grlm: GRLMForRecommendation, histories: list[list[str]], num_beams: int, **options: Any
) -> list[list[tuple[TermID | None, float]]]:
    processor = TrieConstrainedLogitsProcessor(grlm.catalog.trie(grlm.tokenizer), objective=grlm.config.objective)
    width, out = raw_generate(
        grlm,
        histories,
        processor,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        do_sample=False,
        length_penalty=0.0,
        **options,
    )
    texts = grlm.tokenizer.batch_decode(out.sequences[:, width:], skip_special_tokens=True)
    pairs = [(parse(t), s) for t, s in zip(texts, out.sequences_scores.tolist(), strict=True)]
    assert not any(s != s for _, s in pairs)  # no NaN
    return [[p for p in pairs[i : i + num_beams] if p[1] > -1e8] for i in range(0, len(pairs), num_beams)]


def raw_generate(
    grlm: GRLMForRecommendation, histories: list[list[str]], processor: TrieConstrainedLogitsProcessor, **options: Any
) -> tuple[int, Any]:
    """The (left-padded) prompts' width, and what ``generate()`` returns for these histories."""
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in histories]
    batch = grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    out = grlm.model.generate(
        **batch,
        max_new_tokens=grlm.trie.depth + 1,
        logits_processor=[processor],
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=grlm.tokenizer.pad_token_id,
        eos_token_id=grlm.tokenizer.eos_token_id,
        **options,
    )
    return batch["input_ids"].shape[1], out


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


@torch.no_grad()
def greedy_path(grlm: GRLMForRecommendation, history: list[str]) -> list[int]:
    """One plain forward a token, no cache, no batch, no padding."""
    tree, written = tree_of(identifier_tokens(grlm.tokenizer, TERMS, grlm.catalog.identifiers)), []
    while legal := legal_after(tree, written):
        logits = grlm.model(torch.tensor([[*grlm.prompt_tokens(history)[0].tolist(), *written]])).logits[0, -1]
        written.append(max(legal, key=lambda t: float(logits[t])))
    return written


@either
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_greedy_search_over_padded_prompts_equals_brute_force(make: Make, objective: str) -> None:
    grlm = toy_grlm(objective)
    processor = make(grlm.trie, objective=objective)
    for _ in range(2):  # one processor, two calls
        width, out = raw_generate(grlm, HISTORIES, processor, do_sample=False)
        for history, row in zip(HISTORIES, out.sequences[:, width:].tolist(), strict=True):
            want = greedy_path(grlm, history)
            assert row[: len(want)] == want
            assert set(row[len(want) :]) <= {grlm.tokenizer.eos_token_id, grlm.tokenizer.pad_token_id}


@either
@pytest.mark.parametrize("options", [{"do_sample": True, "top_k": 0}, {"do_sample": False}])
def test_scores_that_generate_returns_are_minus_infinity_exactly_off_the_trie(make: Make, options: dict[str, Any]) -> None:
    """`generate` keeps each step's tensor: none may be used again while it does."""
    grlm = toy_grlm()
    eos, tree = grlm.tokenizer.eos_token_id, tree_of(identifier_tokens(grlm.tokenizer, TERMS, grlm.catalog.identifiers))
    torch.manual_seed(0)
    width, out = raw_generate(grlm, HISTORIES * 4, make(grlm.trie), **options)
    assert len(out.scores) > 3
    for step, scores in enumerate(out.scores):
        for row, kept in zip(out.sequences[:, width:].tolist(), scores, strict=True):
            legal = legal_after(tree, row[:step]) or [eos]
            assert (kept > -torch.inf).nonzero().flatten().tolist() == legal
            if step < len(row) and eos not in row[:step]:
                assert row[step] in legal
    written = {tuple(t for t in row if t not in (eos, grlm.tokenizer.pad_token_id)) for row in out.sequences[:, width:].tolist()}
    assert all(not legal_after(tree, [*path]) and legal_after(tree, [*path[:-1]]) for path in written)
    assert len(written) > 1


MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_static_cache_changes_nothing(mode: str) -> None:
    grlm = toy_grlm()
    found = []
    for options in ({}, {"cache_implementation": "static"}):
        torch.manual_seed(0)
        found.append(raw_generate(grlm, HISTORIES, on_host(grlm.trie), **MODES[mode], **options)[1])
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found[0].scores, found[1].scores, strict=True))


@pytest.mark.parametrize("mode", ["sampling", "beams"])
def test_a_compiled_model_changes_nothing(mode: str) -> None:
    grlm = toy_grlm()
    torch.manual_seed(0)
    want = raw_generate(grlm, HISTORIES, on_host(grlm.trie), **MODES[mode])[1]
    torch.compiler.reset()
    grlm.model.forward = torch.compile(grlm.model.forward, backend="eager")
    torch.manual_seed(0)
    got = raw_generate(grlm, HISTORIES, on_host(grlm.trie), **MODES[mode])[1]
    assert torch.equal(got.sequences, want.sequences)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(got.scores, want.scores, strict=True))


@either
def test_prompts_given_as_embeddings_have_no_ids(make: Make) -> None:
    grlm = toy_grlm()
    ids = torch.tensor([grlm.prompt_tokens(HISTORIES[1])[0].tolist()] * 2)
    out = grlm.model.generate(
        inputs_embeds=grlm.model.get_input_embeddings()(ids).detach(),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=grlm.trie.depth + 1,
        do_sample=False,
        logits_processor=[make(grlm.trie)],
        pad_token_id=grlm.tokenizer.pad_token_id,
        eos_token_id=grlm.tokenizer.eos_token_id,
    )
    want = greedy_path(grlm, HISTORIES[1])
    assert [row[: len(want)] for row in out.tolist()] == [want] * 2


def test_of_ten_thousand_sampled_answers_all_are_items() -> None:
    model, tokenizer, catalog = toy_model(), toy_tokenizer(), toy_catalog()
    prompt = torch.tensor([tokenizer("Next items after:\n", add_special_tokens=False)["input_ids"]] * 2500)
    torch.manual_seed(0)
    found: Counter[str] = Counter()
    processor = TrieConstrainedLogitsProcessor(catalog.trie(tokenizer))
    for _ in range(4):
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            logits_processor=[processor],
            pad_token_id=tokenizer.pad_token_id,
            do_sample=True,
            temperature=3.0,
            top_k=0,
        )
        found.update(tokenizer.batch_decode(out[:, prompt.shape[1] :], skip_special_tokens=True))
    assert found.total() == 10_000
    assert {parse(text) for text in found} == set(catalog.identifiers)
    assert all(text.endswith("]\n") for text in found)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_free_text_up_to_a_trigger_then_identifiers(objective: str) -> None:
    """Behind the trigger the scores are those of the same row without the free text before it; before it only the end is forbidden."""
    torch.manual_seed(0)
    paths = [[1, 2, 3], [1, 2, 4], [1, 5], [6]]
    trigger, prompt = (0, 8), [7, 7]
    rows = [
        ([0, 1, 8], None),  # no trigger yet
        ([0, 8], []),
        ([1, 0, 8, 1], [1]),
        ([0, 8, 1, 2], [1, 2]),
        ([6, 0, 8, 6], [6]),  # complete: it may only end
        ([0, 8, 0, 8], [0, 8]),  # a second trigger is no identifier
    ]
    processor = TrieConstrainedLogitsProcessor(Trie(paths), EOS, objective, prompt_length=len(prompt), after=trigger)
    for written, constrained in rows:
        scores = torch.randn(1, 12).log_softmax(1)
        found = processor(torch.tensor([[*prompt, *written]]), scores.clone())
        if constrained is None:
            want = scores.clone()
            want[0, EOS] = -torch.inf
        else:
            plain = TrieConstrainedLogitsProcessor(Trie(paths), EOS, objective, prompt_length=len(prompt))
            want = plain(torch.tensor([[*prompt, *constrained]]), scores.clone())
        assert torch.allclose(found, want), written


def test_a_trigger_needs_the_length_of_the_prompt() -> None:
    with pytest.raises(ValueError, match="give the prompt's tokens as prompt_length"):
        TrieConstrainedLogitsProcessor(Trie([[1]]), 0, after=(9,))


def test_what_is_generated_behind_a_trigger_is_an_item() -> None:
    grlm = toy_grlm("trie")
    prompt, trigger = grlm.prompt_tokens(["i20"]), grlm.tokenizer("\n", add_special_tokens=False)["input_ids"]

    class Thinks(LogitsProcessor):
        """The free text: three tokens, then the trigger."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            step = input_ids.shape[1] - prompt.shape[1]
            if step < 4:
                token = trigger[0] if step == 3 else 5 + step
                scores = torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([token]), 0.0)
            return scores

    constrained = TrieConstrainedLogitsProcessor(grlm.trie, objective="trie", prompt_length=prompt.shape[1], after=trigger)
    out = grlm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), logits_processor=[constrained, Thinks()], max_new_tokens=60, do_sample=False
    )
    text = grlm.tokenizer.decode(out[0, prompt.shape[1] + 4 :], skip_special_tokens=True)
    assert grlm.catalog.items_of(grlm.catalog.scheme.parse(text) or ())
