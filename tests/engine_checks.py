"""What every engine must do, checked against brute force. Run on transformers by tests/engines, on vLLM by tests/vllm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import fast_brute_force, prompt_and_paths

from grlm_hf import GRLMForRecommendation
from grlm_hf.engines.protocol import Batch, Engine, Expansion
from grlm_hf.trie.walker import TrieWalker


@torch.inference_mode()
def check_engine(engine: Engine, grlm: GRLMForRecommendation, histories: list[list[str]], lookahead: int | None = None) -> None:
    """Expands the whole trie behind each history in one batch, and compares the log-probability of every identifier.

    Args:
        engine: the engine, on the model of `grlm`.
        grlm: the same model on transformers.
    """
    assert isinstance(engine, Engine)
    assert engine.name
    assert engine.vocabulary >= grlm.trie.vocab
    assert engine.max_length is None or engine.max_length > grlm.trie.depth
    objective, walker = grlm.config.objective, TrieWalker(grlm.trie)
    prompts = [np.array(prompt_and_paths(grlm, history)[0]) for history in histories]
    prefixes = engine.prefixes(Batch(walker, prompts, objective, grlm.tokenizer.pad_token_id, lookahead))
    found, logp = prefixes.root(), np.zeros(len(prompts))
    user = np.arange(len(prompts))
    total = np.full((len(prompts), len(grlm.trie)), np.nan)
    rounds = 1
    while True:
        check_expansion(found, len(user), walker, objective)
        child_user, child_logp = user[found.row], logp[found.row] + found.logp
        have = found.end[found.row]
        single = found.hi - found.lo == 1
        over = single if objective == "trie" else single & (have + 1 == walker.length(found.lo))
        total[child_user[over], grlm.trie.leaf[found.lo[over]]] = child_logp[over]
        going = np.flatnonzero(~over)
        if not len(going):
            break
        user, lo, hi, slot, have = child_user[going], found.lo[going], found.hi[going], found.slot[found.row[going]], have[going]
        before = child_logp[going]
        found = prefixes.expand(user, slot, have, lo, hi)
        assert (found.end > have).all()
        logp = before + found.chain.sum(1)
        rounds += 1
    assert 1 <= prefixes.forwards <= rounds
    want = np.array([fast_brute_force(grlm, history) for history in histories])
    assert total == pytest.approx(want, abs=1e-3)


def check_expansion(found: Expansion, n: int, walker: TrieWalker, objective: str) -> None:
    """Shapes and types; and the children's probabilities, which sum to 1 under the trie objective and to no more under the vocabulary."""
    assert len(found.slot) == len(found.end) == len(found.chain) == n
    assert len(found.row) == len(found.lo) == len(found.hi) == len(found.logp)
    assert found.logp.dtype == found.chain.dtype == np.float64
    assert (np.diff(found.row) >= 0).all()
    assert (found.hi > found.lo).all()
    assert (found.logp <= 1e-6).all()
    mass = np.bincount(found.row, np.exp(found.logp), minlength=n)[np.unique(found.row)]
    assert (mass <= 1 + 1e-4).all()
    if objective == "trie":
        assert mass == pytest.approx(1, abs=1e-4)
        assert not found.chain.any()
