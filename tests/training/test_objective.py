from __future__ import annotations

import pytest
import torch
from toys import TERM_IDS, legal_tokens, toy_catalog, toy_tokenizer

from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.objective import IGNORED, label_nodes, trie_nll
from grlm_hf.trie.walker import TrieWalker

TOKENIZER, CATALOG = toy_tokenizer(), toy_catalog()
PATHS = identifier_tokens(TOKENIZER, TERMS, CATALOG.identifiers)
TRIE = CATALOG.trie(TOKENIZER)
WALKER = TrieWalker(TRIE, "cpu")
EOS = TOKENIZER.eos_token_id


def rows(*items: list[int]) -> torch.Tensor:
    """Label rows as a collator makes them: ignored prompt, the items' paths, EOS, padding."""
    made = [[IGNORED] * (2 + n) + [t for i in chosen for t in PATHS[i]] + [EOS] for n, chosen in enumerate(items)]
    length = max(map(len, made))
    return torch.tensor([r + [IGNORED] * (length - len(r)) for r in made])


LABELS = rows([0, 1, 9], [6, 10], list(range(len(PATHS))))


def prefixes(labels: torch.Tensor) -> list[list[int] | None]:
    """What stands of the current identifier before each label; None where there is no label."""
    found: list[list[int] | None] = []
    for row in labels.tolist():
        at: list[int] = []
        for label in row:
            if label in (IGNORED, EOS):
                found.append(None)
                continue
            found.append(at)
            at = [*at, label]
            at = [] if at in PATHS else at
    return found


@pytest.mark.parametrize("walker", [WALKER, TrieWalker(TRIE)])
def test_nodes_follow_the_labels_and_start_anew_at_each_item(walker: TrieWalker) -> None:
    lo, hi, depth = (x.flatten().tolist() for x in label_nodes(LABELS, walker, EOS))
    ranked = [PATHS[leaf] for leaf in TRIE.leaf]
    for prefix, a, b, d in zip(prefixes(LABELS), lo, hi, depth, strict=True):
        if prefix is None:
            assert a == b
        else:
            assert d == len(prefix)
            assert [p[:d] == prefix for p in ranked] == [a <= i < b for i in range(len(ranked))]


def test_a_label_off_the_trie_is_an_error() -> None:
    bad = LABELS.clone()
    bad[1, 4] = EOS + 1
    with pytest.raises(ValueError, match="no identifier of the catalog"):
        label_nodes(bad, WALKER, EOS)


def test_loss_and_gradients_equal_a_brute_force_masked_softmax() -> None:
    torch.manual_seed(0)
    node = label_nodes(LABELS, WALKER, EOS)
    used = node[1] > node[0]
    node = tuple(x[used] for x in node)
    legal = [list(legal_tokens(TRIE, p)) for p in prefixes(LABELS) if p is not None]
    n, width, vocab = int(used.sum()), 16, len(TOKENIZER)
    hidden = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(vocab, width, dtype=torch.float64, requires_grad=True)
    got = trie_nll(hidden, embedding, node, LABELS[used], WALKER)
    grads = torch.autograd.grad(got.sum(), (hidden, embedding))

    mask = torch.full((n, vocab), -torch.inf, dtype=torch.float64)
    for i, tokens in enumerate(legal):
        mask[i, tokens] = 0
    want = torch.nn.functional.cross_entropy(hidden @ embedding.T + mask, LABELS[used], reduction="none")
    expected = torch.autograd.grad(want.sum(), (hidden, embedding))
    assert torch.allclose(got.double(), want, atol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    forced = torch.tensor([len(tokens) == 1 for tokens in legal])
    assert forced.any()
    assert (got[forced] == 0).all()


def test_the_catalog_of_the_toy_has_what_the_test_needs() -> None:
    assert len(TERM_IDS) == len(PATHS) + 1
    assert len(list(legal_tokens(TRIE))) >= 1
    assert sum(len(list(legal_tokens(TRIE, p[:d]))) > 1 for p in PATHS for d in range(1, len(p))) > 3
