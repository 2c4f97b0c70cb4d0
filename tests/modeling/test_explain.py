from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import brute_force, close, random_grlm, random_history, some_histories, toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.cli.app import app
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.modeling.explain import Explanation, log_probs
from grlm_hf.tokens import identifier_tokens, part_of_tokens

IDS = [i.item_id for i in toy_catalog()]
OBJECTIVES = ["vocabulary", "trie"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("history", ["term_ids", "both", "titles"])
def test_terms_sum_to_the_log_probability_of_the_recommendation(objective: str, history: str) -> None:
    grlm = toy_grlm(objective, history=history)
    for items in some_histories(6)[::9]:  # longer than max_history, too
        for r in grlm.recommend(items, len(IDS))[::3]:
            said = grlm.explain(items, r.item_id)
            assert (said.item_id, said.term_id) == (r.item_id, r.term_id)
            assert tuple(t.term for t in said.terms) == r.term_id
            assert close(sum(t.log_prob for t in said.terms), r.log_prob)
            assert close(said.log_prob, r.log_prob)
            assert all(t.log_prob <= 1e-6 for t in said.terms)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_term_has_its_own_tokens(objective: str) -> None:
    """Its part is that of a plain forward, cut where the text of the tokens says."""
    grlm = toy_grlm(objective)
    items, item = IDS[:3], IDS[4]
    tid = grlm.catalog.term_ids[grlm.catalog.position(item)]
    path = identifier_tokens(grlm.tokenizer, TERMS, [tid])[0]
    paths = identifier_tokens(grlm.tokenizer, TERMS, grlm.catalog.identifiers)
    prompt = grlm.prompt_tokens(items)[0].tolist()
    with torch.no_grad():
        logits = grlm.model(torch.tensor([[*prompt, *path]])).logits[0, len(prompt) - 1 : -1].double()
    want = [0.0] * len(tid)
    for i, token in enumerate(path):
        text = grlm.tokenizer.decode(path[: i + 1])
        # commas and the bracket at the end close a term: only then the next one begins
        term = max(0, text.rstrip(" ,").count(","))
        over = sorted({p[i] for p in paths if p[:i] == path[:i]}) if objective == "trie" else slice(None)
        want[term] += float(logits[i, token] - logits[i, over].logsumexp(0))
    got = [t.log_prob for t in grlm.explain(items, item).terms]
    assert np.allclose(got, want, atol=1e-4)
    assert min(want) < -0.1


def test_tokens_of_merged_and_of_split_characters() -> None:
    for vocab in (300, 380):
        tokenizer = toy_tokenizer(vocab)
        for tid in toy_catalog().identifiers:
            path = identifier_tokens(tokenizer, TERMS, [tid])[0]
            found = part_of_tokens(tokenizer, TERMS, tid)
            assert len(found) == len(path)
            assert sorted(set(found)) == list(range(len(tid)))
            assert (np.diff(found) >= 0).all()
            for number, term in enumerate(tid):
                text = tokenizer.decode([t for t, of in zip(path, found, strict=True) if of == number])
                assert text.strip("[], \n") == term


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_drops_equal_brute_force(objective: str) -> None:
    grlm = toy_grlm(objective, seed=1)
    for items in ([*IDS[:3]], [IDS[0], IDS[0], IDS[5]], IDS[:7], [IDS[8]]):
        said = grlm.explain(items, IDS[10])
        assert [h.item_id for h in said.history] == items
        full = brute_force(grlm, items)[said.term_id]
        for i, h in enumerate(said.history):
            left = items[:i] + items[i + 1 :]
            if not left:
                assert h.drop is None
            else:
                assert close(h.drop, full - brute_force(grlm, left)[said.term_id])


def test_what_is_too_old_to_be_read_has_no_part() -> None:
    drops = [h.drop for h in toy_grlm().explain(IDS[:7], IDS[10]).history]  # four are read
    assert drops[:3] == [0.0] * 3
    assert all(d != 0 for d in drops[3:])


def forwards_of(grlm: GRLMForRecommendation, history: list[str], item: str) -> tuple[Explanation, int]:
    """The explanation, and how many forwards of the model it took."""
    calls: list[int] = []
    handle = grlm.model.register_forward_hook(lambda *_: calls.append(1))
    found = grlm.explain(history, item)
    handle.remove()
    return found, len(calls)


def test_one_forward_for_the_item_and_all_that_is_left_out() -> None:
    assert forwards_of(toy_grlm(), IDS[:9], IDS[10])[1] == 1


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OBJECTIVES))
def test_any_catalog(seed: int, objective: str) -> None:
    rng = random.Random(seed)
    grlm = random_grlm(rng, objective)
    histories = [random_history(rng, grlm.catalog) for _ in range(3)]
    k = len(grlm.catalog)
    for history, found in zip(histories, grlm.recommend(histories, k, exact=True), strict=True):
        assert np.allclose(
            log_probs(grlm.prompter, grlm.shelf.index, [history] * k, [r.item_id for r in found]), [r.log_prob for r in found], atol=1e-4
        )
        said = grlm.explain(history, found[-1].item_id)
        assert close(sum(t.log_prob for t in said.terms), found[-1].log_prob)


def test_large_vocabularies_take_several_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    grlm = toy_grlm()
    whole, one = forwards_of(grlm, IDS[:4], IDS[10])
    monkeypatch.setattr("grlm_hf.modeling.explain.MAX_LOGITS", 1)
    parts, several = forwards_of(grlm, IDS[:4], IDS[10])
    assert (one, several) == (1, 5)  # with all four items, and without each of them
    assert np.allclose([h.drop for h in whole.history], [h.drop for h in parts.history], atol=1e-4)


def test_bad_calls() -> None:
    grlm = toy_grlm()
    for history, item, message in (
        ([], IDS[0], "history is empty"),
        (IDS[0], IDS[0], "expected a list of item ids"),
        (["gone"], IDS[0], "Item 'gone' is not in the catalog"),
        (IDS[:1], "gone", "Item 'gone' is not in the catalog"),
    ):
        with pytest.raises(ValueError, match=message):
            grlm.explain(history, item)
    assert log_probs(grlm.prompter, grlm.shelf.index, [], []).shape == (0,)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grlm = toy_grlm("trie")
    grlm.save_pretrained(tmp_path / "toy")

    def said(*args: str) -> str:
        app(["explain", str(tmp_path / "toy"), "--history", f"{IDS[0]}, {IDS[1]}", *args], result_action="return_value")
        return capsys.readouterr().out

    best = grlm.recommend(IDS[:2], 1)[0]
    want = grlm.explain(IDS[:2], best.item_id)
    found = json.loads(said("--json"))
    assert (found["item_id"], found["term_id"]) == (best.item_id, list(best.term_id))
    assert np.allclose([h["drop"] for h in found["history"]], [h.drop for h in want.history], atol=1e-4)
    text = said("--item", IDS[4])
    for h, drop in zip(IDS[:2], [h.drop for h in grlm.explain(IDS[:2], IDS[4]).history], strict=True):
        assert f"{-drop:+.2f}  {grlm.catalog[h].title}  ({h})" in text
    with pytest.raises(ValueError, match="give one of the two"):
        said("--item", IDS[4], "--exclude-seen")
