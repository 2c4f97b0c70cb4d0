from __future__ import annotations

import pytest
import torch
from toys import TERM_IDS, toy_catalog, toy_tokenizer

from grlm_hf.decoding.walker import DEAD, TrieWalker
from grlm_hf.tasks.prompts import identifier_tokens
from grlm_hf.training.objective import IGNORED, label_states, trie_nll

TOKENIZER, CATALOG = toy_tokenizer(), toy_catalog()
PATHS = identifier_tokens(TOKENIZER, CATALOG.identifiers)
TRIE = CATALOG.trie(TOKENIZER)
WALKER = TrieWalker(TRIE)
EOS = TOKENIZER.eos_token_id


def rows(*items: list[int]) -> torch.Tensor:
    """Label rows as a collator makes them: ignored prompt, the items' paths, EOS, padding."""
    made = [[IGNORED] * (2 + n) + [t for i in chosen for t in PATHS[i]] + [EOS] for n, chosen in enumerate(items)]
    length = max(map(len, made))
    return torch.tensor([r + [IGNORED] * (length - len(r)) for r in made])


LABELS = rows([0, 1, 9], [6, 10], list(range(len(PATHS))))


def test_states_follow_the_labels_and_start_anew_at_each_item() -> None:
    state = label_states(LABELS, WALKER, EOS)
    for labels, states in zip(LABELS.tolist(), state.tolist(), strict=True):
        at = 0
        for label, found in zip(labels, states, strict=True):
            if label in (IGNORED, EOS):
                assert found == DEAD
                continue
            assert found == at
            at = TRIE.children(at)[label]
            at = 0 if TRIE.leaf[at] >= 0 else at


def test_a_label_off_the_trie_is_an_error() -> None:
    bad = LABELS.clone()
    bad[1, 4] = EOS + 1
    with pytest.raises(ValueError, match="no identifier of the catalog"):
        label_states(bad, WALKER, EOS)


def test_loss_and_gradients_equal_a_brute_force_masked_softmax() -> None:
    torch.manual_seed(0)
    state = label_states(LABELS, WALKER, EOS)
    used = state != DEAD
    n, width, vocab = int(used.sum()), 16, len(TOKENIZER)
    hidden = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(vocab, width, dtype=torch.float64, requires_grad=True)
    got = trie_nll(hidden, embedding, state[used], LABELS[used], WALKER)
    grads = torch.autograd.grad(got.sum(), (hidden, embedding))

    mask = torch.full((n, vocab), -torch.inf, dtype=torch.float64)
    for i, s in enumerate(state[used].tolist()):
        mask[i, list(TRIE.children(s))] = 0
    want = torch.nn.functional.cross_entropy(hidden @ embedding.T + mask, LABELS[used], reduction="none")
    expected = torch.autograd.grad(want.sum(), (hidden, embedding))
    assert torch.allclose(got.double(), want, atol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    forced = torch.tensor([len(TRIE.children(s)) == 1 for s in state[used].tolist()])
    assert forced.any()
    assert (got[forced] == 0).all()


def test_the_catalog_of_the_toy_has_what_the_test_needs() -> None:
    assert len(TERM_IDS) == len(PATHS) + 1
    assert int(TRIE.first[1]) > 1
    assert max(len(TRIE.children(s)) for s in range(1, TRIE.n_states)) > 1
