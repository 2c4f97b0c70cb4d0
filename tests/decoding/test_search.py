"""The searches against a plain scoring of every identifier, and against transformers' beam search with a trie of nested dicts."""

from __future__ import annotations

import copy
import itertools
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toys import brute_force, close, fast_brute_force, prompt_and_paths, random_grlm, random_history, shared_model
from transformers import LogitsProcessor, LogitsProcessorList

from grlm_hf import Trie
from grlm_hf.decoding.search import Found, beam_search, edge_search
from grlm_hf.engines.choose import engine_of
from grlm_hf.engines.protocol import Batch
from grlm_hf.layout import OBJECTIVES
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.walker import TrieWalker

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # NumPy's, where infinities meet

randoms = st.randoms(use_true_random=False)
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_search = pytest.mark.parametrize("search", ["beam", "edge", "exact"])


def few(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None)


class Case:
    """A random catalog, a random model, and one to three histories of different lengths."""

    def __init__(self, rng: random.Random, objective: str, double: bool = False):
        self.grlm = random_grlm(rng, objective, double=double)
        self.objective, self.model = objective, self.grlm.model
        self.histories = [random_history(rng, self.grlm.catalog) for _ in range(rng.randint(1, 3))]
        found = [prompt_and_paths(self.grlm, h) for h in self.histories]
        self.prompts = [np.array(prompt) for prompt, _ in found]
        self.use(found[0][1])

    def use(self, paths: list[list[int]]) -> None:
        """Searches these paths, by default those of the catalog."""
        self.paths, self.n = paths, len(paths)
        self.trie = Trie(paths, self.grlm.tokenizer.eos_token_id)
        self.walker = TrieWalker(self.trie)

    @cached_property
    def log_probs(self) -> np.ndarray:
        """float64 [users, n], by brute force."""
        return np.array([fast_brute_force(self.grlm, h) for h in self.histories])

    def run(self, search: str, num_beams: int, **options: Any) -> list[Found]:
        batch = Batch(self.walker, self.prompts, self.objective, lookahead=options.pop("lookahead", None))
        asked = engine_of(self.model), batch, num_beams
        if search == "beam":
            return beam_search(*asked, **options)
        return edge_search(*asked, exact=search == "exact", **options)

    def random_width(self, rng: random.Random) -> int:
        return rng.choice([1, 2, 3, 5, 8, self.n, self.n + 3])

    def random_adjustments(self, rng: random.Random) -> tuple[list[RangeMax | None], np.ndarray]:
        """As the search takes it, and as float [users, n] by leaf: some users have none, some identifiers are forbidden."""
        values = np.zeros((len(self.prompts), self.n))
        adjustments: list[RangeMax | None] = [None] * len(self.prompts)
        for user in range(len(self.prompts)):
            if rng.random() < 0.8:
                values[user] = [-math.inf if rng.random() < 0.3 else rng.uniform(-9, 9) for _ in range(self.n)]
                adjustments[user] = RangeMax(values[user][self.trie.leaf])
        return adjustments, values

    def scores(self, length_penalty: float = 0.0, added: np.ndarray | float = 0.0) -> np.ndarray:
        """float64 [users, n]: what identifiers are to be ranked by."""
        return self.log_probs / np.array([len(p) for p in self.paths]) ** length_penalty + added


def check_true(found: Found, log_probs: np.ndarray, scores: np.ndarray) -> None:
    """Distinct identifiers, none forbidden, each with its own numbers, best first."""
    assert len(set(found.leaf.tolist())) == len(found.leaf)
    assert np.isfinite(scores[found.leaf]).all()
    np.testing.assert_allclose(found.log_prob, log_probs[found.leaf], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.score, scores[found.leaf], rtol=0, atol=1e-4)
    assert (np.diff(found.score) <= 0).all()


def check_best(found: Found, log_probs: np.ndarray, scores: np.ndarray, k: int) -> None:
    """The best `k` of all that is allowed. Where two scores tie within rounding, either order will do."""
    check_true(found, log_probs, scores)
    best = np.sort(scores[np.isfinite(scores)])[::-1][:k]
    assert len(found.leaf) == len(best)
    np.testing.assert_allclose(scores[found.leaf], best, rtol=0, atol=1e-4)


def same(one: list[Found], other: list[Found]) -> bool:
    return len(one) == len(other) and all(
        a.leaf.tolist() == b.leaf.tolist() and np.allclose(a.log_prob, b.log_prob, rtol=0, atol=1e-4)
        for a, b in zip(one, other, strict=True)
    )


@few(20)
@given(randoms, st.sampled_from(OBJECTIVES))
def test_the_oracle_equals_a_forward_for_each_identifier(rng: random.Random, objective: str) -> None:
    grlm = random_grlm(rng, objective)
    history = random_history(rng, grlm.catalog)
    assert fast_brute_force(grlm, history) == pytest.approx(list(brute_force(grlm, history).values()), rel=0, abs=1e-4)


# --- token by token ----------------------------------------------------------------------------------------------------------------


class DictTrie(LogitsProcessor):
    """The constraint in nested dicts: ending an identifier costs nothing.

    Attributes:
        margin: the least difference between a beam that was kept and one that was not. Below the rounding errors, two right searches may
            keep different ones.
    """

    def __init__(self, paths: list[list[int]], eos: int, objective: str, prompt_length: int, num_beams: int):
        self.root: dict[int, Any] = {}
        for path in paths:
            node = self.root
            for token in path:
                node = node.setdefault(token, {})
        self.ends = {tuple(p) for p in paths}
        self.eos, self.objective, self.prompt_length, self.num_beams = eos, objective, prompt_length, num_beams
        self.log_prob: dict[tuple[int, ...], float] = {}
        self.margin = math.inf

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores = scores.log_softmax(-1)  # done already under a beam search, not under greedy
        out = torch.full_like(scores, -math.inf)
        candidates: dict[int, dict[tuple[int, ...], float]] = {}
        for row, prefix in enumerate(input_ids[:, self.prompt_length :].tolist()):
            node = self.root
            for token in prefix:
                node = node.get(token, {})
            if node:
                legal = sorted(node)
                values = scores[row, legal]
                out[row, legal] = values.log_softmax(0) if self.objective == "trie" else values
            else:
                legal = [self.eos]
                out[row, self.eos] = 0.0
            if node or tuple(prefix) in self.ends:
                user = row // self.num_beams
                for token in legal:
                    value = self.log_prob.get((user, *prefix), 0.0) + float(out[row, token])
                    self.log_prob[(user, *prefix, token)] = candidates.setdefault(user, {})[(*prefix, token)] = value
        for values in candidates.values():
            ordered = sorted(values.values(), reverse=True)
            for width in (self.num_beams, 2 * self.num_beams):
                if len(ordered) > width:
                    self.margin = min(self.margin, ordered[width - 1] - ordered[width])
        return out


def generated(case: Case, num_beams: int) -> tuple[list[dict[int, float]], DictTrie]:
    """Of each user what transformers writes, leaf → score, in its order; and the constraint, which knows all prefixes' scores."""
    tokenizer, leaf_of = case.grlm.tokenizer, {tuple(p): leaf for leaf, p in enumerate(case.paths)}
    batch = tokenizer.pad({"input_ids": [p.tolist() for p in case.prompts]}, padding_side="left", return_tensors="pt")
    length = batch["input_ids"].shape[1]
    processor = DictTrie(case.paths, tokenizer.eos_token_id, case.objective, length, num_beams)
    out = case.model.generate(
        **batch,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=max(map(len, case.paths)) + 1,
        do_sample=False,
        length_penalty=0.0 if num_beams > 1 else None,
        logits_processor=LogitsProcessorList([processor]),
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    written = [tuple(row[: row.index(tokenizer.eos_token_id)]) for row in out.sequences[:, length:].tolist()]
    if num_beams == 1:  # greedy: it states no sum
        return [{leaf_of[path]: processor.log_prob[(user, *path)]} for user, path in enumerate(written)], processor
    scores = out.sequences_scores.tolist()
    found: list[dict[int, float]] = [{} for _ in case.prompts]
    for row, (path, score) in enumerate(zip(written, scores, strict=True)):
        if score > -1e8:  # else a beam more than there are identifiers
            user = row // num_beams
            assert leaf_of[path] not in found[user]
            found[user][leaf_of[path]] = score
    return found, processor


@each_objective
@few(30)
@given(randoms)
def test_beam_search_is_that_of_transformers(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    width = case.random_width(rng)
    want, plain = generated(case, width)
    assume(plain.margin > 1e-4)
    for found, theirs in zip(case.run("beam", width), want, strict=True):
        mine = dict(zip(found.leaf.tolist(), found.log_prob.tolist(), strict=True))
        assert mine.keys() == theirs.keys()
        assert all(close(mine[leaf], theirs[leaf]) for leaf in mine)
        assert all(close(theirs[a], theirs[b]) for a, b in zip(mine, theirs, strict=True))  # the same order, but for ties
        assert np.array_equal(found.score, found.log_prob)
        assert (found.certified, math.isnan(found.gap)) == (False, True)


@each_objective
@few(20)
@given(randoms)
def test_beam_search_is_that_of_transformers_with_more_beams_than_first_tokens(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    width = len({p[0] for p in case.paths}) + rng.randint(1, 3)
    want, plain = generated(case, width)
    assume(plain.margin > 1e-4)
    for found, theirs in zip(case.run("beam", width), want, strict=True):
        assert set(found.leaf.tolist()) == theirs.keys()
        assert all(close(value, theirs[leaf]) for leaf, value in zip(found.leaf.tolist(), found.log_prob.tolist(), strict=True))


@each_objective
def test_an_identifier_that_ends_behind_better_prefixes_is_dropped_as_transformers_drops_it(objective: str) -> None:
    dropped = 0
    for seed in range(40):
        rng = random.Random(seed)
        case = Case(rng, objective)
        case.prompts = case.prompts[:1]
        with torch.no_grad():
            likely = case.model(torch.tensor(case.prompts[0])[None]).logits[0, -1].argsort(descending=True).tolist()
        short = likely[rng.randint(3, 100)]  # one token, or a likely one and three more
        case.use([[short], *([likely[0], *rest] for rest in itertools.product(likely[:3], repeat=3))])
        (theirs,), plain = generated(case, 3)
        if plain.margin > 1e-4:
            assert set(case.run("beam", 3)[0].leaf.tolist()) == theirs.keys()
            lived, score = (0, short, plain.eos) in plain.log_prob, plain.log_prob[0, short]
            dropped += lived and 0 not in theirs and score > min(theirs.values()) + 1e-4  # though the better one
    assert dropped


@each_objective
@few(25)
@given(randoms)
def test_with_a_beam_for_each_identifier_any_search_equals_brute_force(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    adjustments, values = case.random_adjustments(rng)
    length_penalty = rng.choice([0.0, 0.0, 0.5, 1.0])
    scores = case.scores(length_penalty, values)
    for search in ("beam", "edge", "exact"):
        for width in (case.n, case.n + 4):
            found = case.run(search, width, adjustments=adjustments, length_penalty=length_penalty)
            for user, one in enumerate(found):
                check_best(one, case.log_probs[user], scores[user], case.n)


@pytest.mark.parametrize("search", ["beam", "exact"])
@few(20)
@given(randoms, st.sampled_from(OBJECTIVES))
def test_lookahead_does_not_change_the_result(search: str, rng: random.Random, objective: str) -> None:
    case = Case(rng, objective, double=True)
    width, (adjustments, _) = case.random_width(rng), case.random_adjustments(rng)
    found = {ahead: case.run(search, width, adjustments=adjustments, lookahead=ahead) for ahead in (1, 2, 3, None)}
    assert all(same(found[ahead], found[None]) for ahead in (1, 2, 3))


@each_objective
@few(20)
@given(randoms)
def test_beam_search_makes_at_most_a_forward_a_token_and_fewer_with_lookahead(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective, double=True)
    width = case.random_width(rng)
    cost = {ahead: case.run("beam", width, lookahead=ahead)[0].forwards for ahead in (1, 2, None)}
    assert cost[None] <= cost[2] <= cost[1] <= case.trie.depth


# --- from choice to choice ---------------------------------------------------------------------------------------------------------


@each_objective
@few(30)
@given(randoms)
def test_exact_search_equals_brute_force_and_says_so(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    adjustments, values = case.random_adjustments(rng) if rng.random() < 0.5 else (None, 0.0)
    scores = case.scores(0.0, values)
    k = rng.randint(1, case.n + 2)
    for width in (1, 2, 5, case.n):
        for user, found in enumerate(case.run("exact", width, k=k, adjustments=adjustments)):
            check_best(found, case.log_probs[user], scores[user], k)
            assert (found.certified, found.gap) == (True, 0)


@each_objective
@few(25)
@given(randoms)
def test_exact_search_with_a_length_penalty_equals_brute_force(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    adjustments, values = case.random_adjustments(rng) if rng.random() < 0.5 else (None, 0.0)
    k = rng.randint(1, case.n)
    for length_penalty in (0.3, 1.0, 2.0):
        scores = case.scores(length_penalty, values)
        for width in (1, 4):
            for user, found in enumerate(case.run("exact", width, k=k, adjustments=adjustments, length_penalty=length_penalty)):
                check_best(found, case.log_probs[user], scores[user], k)
                assert (found.certified, found.gap) == (True, 0)


@each_objective
@few(25)
@given(randoms)
def test_a_search_that_is_stopped_early_says_how_far_off_it_may_be(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    adjustments, values = case.random_adjustments(rng)
    length_penalty = rng.choice([0.0, 0.0, 1.0])
    scores = case.scores(length_penalty, values)
    k, width = rng.randint(1, case.n + 1), rng.choice([1, 2, 4])
    before = [math.inf] * len(case.prompts)
    for max_forwards in range(1, 60):
        result = case.run("exact", width, k=k, adjustments=adjustments, length_penalty=length_penalty, max_forwards=max_forwards)
        for user, found in enumerate(result):
            check_true(found, case.log_probs[user], scores[user])
            assert found.forwards <= max_forwards
            missing = np.setdiff1d(np.flatnonzero(np.isfinite(scores[user])), found.leaf)
            if found.certified:
                assert found.gap == 0
                check_best(found, case.log_probs[user], scores[user], k)
            else:
                assert found.gap > 0
            if len(missing) and len(found.leaf) < k:
                assert found.gap == math.inf
            elif len(missing):
                assert scores[user][missing].max() - found.score[-1] <= found.gap + 1e-4
            assert found.gap <= before[user] + 1e-4  # more time does no harm
            before[user] = found.gap
        if all(found.certified for found in result):
            break
    else:
        pytest.fail("60 forwards certified nothing")


@each_objective
def test_a_deadline_that_has_passed_ends_the_search_after_the_prompt(objective: str) -> None:
    case = Case(random.Random(3), objective)
    for found in case.run("exact", 4, k=2, deadline=time.perf_counter() - 1):
        assert found.forwards == 1
        check_true(found, case.log_probs[0], case.log_probs[0])
        assert not found.certified
        assert found.gap > 0


@few(20)
@given(randoms, st.sampled_from(OBJECTIVES), st.floats(0, 0.02))
def test_whatever_the_deadline_the_answer_is_true(rng: random.Random, objective: str, seconds: float) -> None:
    case = Case(rng, objective)
    k = rng.randint(1, case.n)
    for user, found in enumerate(case.run("exact", 2, k=k, deadline=time.perf_counter() + seconds)):
        check_true(found, case.log_probs[user], case.log_probs[user])
        if found.certified:
            check_best(found, case.log_probs[user], case.log_probs[user], k)


@each_objective
@few(25)
@given(randoms)
def test_an_edge_wise_search_finds_true_identifiers_only(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    adjustments, values = case.random_adjustments(rng)
    scores = case.scores(0.0, values)
    width = case.random_width(rng)
    k = rng.choice([None, 1, case.n])
    for user, found in enumerate(case.run("edge", width, k=k, adjustments=adjustments)):
        check_true(found, case.log_probs[user], scores[user])
        assert min(1, np.isfinite(scores[user]).sum()) <= len(found.leaf) <= (k or width)
        assert (found.certified, math.isnan(found.gap)) == (False, True)


# --- all of them -------------------------------------------------------------------------------------------------------------------


@each_search
@few(15)
@given(randoms, st.sampled_from(OBJECTIVES))
def test_an_answer_does_not_depend_on_who_shares_the_batch(search: str, rng: random.Random, objective: str) -> None:
    case = Case(rng, objective, double=True)
    width, (adjustments, _) = case.random_width(rng), case.random_adjustments(rng)
    together = case.run(search, width, adjustments=adjustments)
    prompts = case.prompts
    for user, prompt in enumerate(prompts):
        case.prompts = [prompt]
        assert same(case.run(search, width, adjustments=[adjustments[user]]), [together[user]])
    case.prompts = prompts[::-1]
    assert same(case.run(search, width, adjustments=adjustments[::-1]), together[::-1])


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Holds the number of query positions of each forward made within."""
    calls: list[int] = []
    hook = model.register_forward_hook(lambda _, args, kwargs, out: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@each_search
@each_objective
@few(15)
@given(randoms)
def test_forwards_are_counted_and_the_prompt_is_computed_once(search: str, objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    with counted(case.model) as calls:
        found = case.run(search, case.random_width(rng))
    assert {one.forwards for one in found} == {len(calls)}
    assert calls[0] == max(map(len, case.prompts))
    if case.n == 1 and objective == "trie":
        assert len(calls) == 1  # there is nothing to choose


@each_objective
@few(20)
@given(randoms)
def test_no_edge_of_the_trie_is_computed_twice(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective)
    case.prompts = case.prompts[:1]
    for search in ("edge", "exact"):
        with counted(case.model) as calls:
            case.run(search, case.n)
        assert sum(calls[1:]) <= len(case.trie.tokens)


@each_search
def test_models_that_do_not_see_the_whole_context_are_refused(search: str) -> None:
    case = Case(random.Random(0), "trie")
    whole, sliding, mixed, flash = (copy.deepcopy(shared_model(0)) for _ in range(4))
    case.model = whole
    assert case.run(search, 1)[0].forwards > 0
    sliding.config.sliding_window, sliding.config.use_sliding_window = 4, True
    mixed.config.layer_types = ["full_attention", "sliding_attention"]
    for model in (sliding, mixed):
        case.model = model
        with pytest.raises(ValueError, match=r"do not attend to the whole context \(full_attention.*generate\(\) with Trie"):
            case.run(search, 1)
    flash.config._attn_implementation = "flash_attention_2"
    case.model = flash
    with pytest.raises(
        ValueError, match=r"'flash_attention_2' attention, which takes no 4-D mask; load it with attn_implementation='sdpa'"
    ):
        case.run(search, 1)
