from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, toy_catalog, toy_tokenizer

from grlm_hf import Trie
from grlm_hf.decoding.walker import DEAD, TrieWalker, segment_log_softmax
from grlm_hf.tasks.prompts import identifier_tokens, item_line


def prefix_free(paths: set[tuple[int, ...]]) -> list[list[int]]:
    return [list(p) for p in paths if not any(p != q and q[: len(p)] == p for q in paths)]


paths_of = st.sets(st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=40).map(prefix_free)


def dict_trie(paths: list[list[int]]) -> dict:
    root: dict = {}
    for leaf, path in enumerate(paths):
        node = root
        for token in path[:-1]:
            node = node.setdefault(token, {})
        node[path[-1]] = leaf
    return root


def leaves_below(node: dict | int) -> int:
    return 1 if isinstance(node, int) else sum(map(leaves_below, node.values()))


@settings(max_examples=200, deadline=None)
@given(paths_of)
def test_equals_a_dictionary_trie(paths: list[list[int]]) -> None:
    trie = Trie(paths)
    assert len(trie) == len(paths)
    stack: list[tuple[int, dict | int]] = [(0, dict_trie(paths))]
    states = 0
    while stack:
        state, node = stack.pop()
        states += 1
        assert bool(trie.forced[state]) == (leaves_below(node) == 1)
        if isinstance(node, int):
            assert trie.leaf[state] == node
            assert not trie.children(state)
            continue
        assert trie.leaf[state] == -1
        assert trie.children(state).keys() == node.keys()
        stack += [(trie.children(state)[t], child) for t, child in node.items()]
    assert states == trie.n_states
    assert (np.diff(trie.key) > 0).all()


@settings(max_examples=100, deadline=None)
@given(paths_of, st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=8))
def test_walker_steps_as_the_dictionary_does(paths: list[list[int]], walks: list[list[int]]) -> None:
    trie = Trie(paths)
    walker = TrieWalker(trie)
    for walk in walks:
        state, node = torch.zeros(1, dtype=torch.int64), dict_trie(paths)
        for token in walk:
            state = walker.step(state, torch.tensor([token]))
            node = node.get(token) if isinstance(node, dict) else None
            assert (state.item() == DEAD) == (node is None)
            if node is None:
                assert walker.step(state, torch.tensor([token])).item() == DEAD  # once dead, dead for good
                break
            rows, edges = walker.edges(torch.tensor([DEAD, state.item(), state.item()]))
            legal = sorted(node) if isinstance(node, dict) else []
            assert walker.token[edges].tolist() == legal * 2
            assert rows.tolist() == [1] * len(legal) + [2] * len(legal)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one identifier"),
        ([[1], []], "Identifier 1 has no tokens"),
        ([[1, 2], [3], [1, 2]], "0 and 2 are equal"),
        ([[1, 2, 3], [3], [1, 2]], "0 and 2 begin one another"),
        ([[1, -2]], "negative"),
    ],
)
def test_refuses(paths: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie(paths)


def test_is_immutable() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Trie([[1]]).token[0] = 2


@pytest.mark.parametrize("vocab_size", [300, 380, 600])
def test_the_trie_holds_exactly_the_catalogs_label_tokens(vocab_size: int) -> None:
    tokenizer, catalog = toy_tokenizer(vocab_size), toy_catalog()
    trie = catalog.trie(tokenizer)
    assert len(trie) == len(set(TERM_IDS)) == len(catalog) - 1
    # the whole assistant turn, encoded at once, is the concatenation of its items' paths
    text = "".join(item_line(tid) for tid in catalog.identifiers)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    state, found = 0, []
    for token in ids:
        state = trie.children(state)[token]
        if trie.leaf[state] >= 0:
            found.append(catalog.identifiers[trie.leaf[state]])
            state = 0
    assert state == 0
    assert tuple(found) == catalog.identifiers


def test_the_toys_have_identifiers_of_many_lengths() -> None:
    assert len(set(map(len, identifier_tokens(toy_tokenizer(), toy_catalog().identifiers)))) > 4


def test_refuses_a_tokenizer_that_merges_across_items() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    lines = "".join(item_line(t) for t in TERM_IDS)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # no split at all: merges what it likes
    bpe.train_from_iterator([lines] * 9, trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    with pytest.raises(ValueError, match="merges tokens across the border"):
        toy_catalog().trie(PreTrainedTokenizerFast(tokenizer_object=bpe))


def test_segment_log_softmax() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, -700.0, 700.0])
    got = segment_log_softmax(values, torch.tensor([0, 0, 2, 3, 3]), 5)
    want = torch.cat([values[:2].log_softmax(0), torch.zeros(1), values[3:].log_softmax(0)])
    assert torch.allclose(got, want)
