"""Properties on the real Beauty files; skipped, saying so, where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from grlm_hf import Catalog
from grlm_hf.catalog import load_items, load_term_ids
from grlm_hf.interactions import leave_one_out, load_histories
from grlm_hf.tasks.mixture import build_mixture
from grlm_hf.training.scratch import train_tokenizer
from grlm_hf.training.sft import _tokenizer_texts, tokenize_mixture

BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "amazon-beauty"
pytestmark = pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    items = load_items(BEAUTY / "items.jsonl.gz", missing_title="fill")
    terms = load_term_ids(BEAUTY / "term_ids_official.jsonl.gz")
    return Catalog(items, [terms[i.item_id] for i in items])


def test_the_published_counts(catalog: Catalog) -> None:
    assert (len(catalog), len(catalog.identifiers)) == (12101, 11857)
    shared = catalog.collisions
    assert (sum(map(len, shared.values())), max(map(len, shared.values()))) == (441, 13)
    prefixes = [len({t[:n] for t in catalog.term_ids}) for n in range(1, 6)]
    assert prefixes == [1114, 6010, 10220, 11414, 11857]
    split = leave_one_out(load_histories(BEAUTY / "sequences.jsonl.gz", {i.item_id for i in catalog}))
    assert len(split.test) == 22363
    assert sum(c.target in c.history for c in split.test) == 0


def test_every_label_of_the_mixture_is_a_trie_path(catalog: Catalog) -> None:
    histories = load_histories(BEAUTY / "sequences.jsonl.gz", {i.item_id for i in catalog})
    mixture = build_mixture(catalog, leave_one_out(histories).train)
    tokenizer = train_tokenizer(_tokenizer_texts(catalog, mixture), 8192)
    trie = catalog.trie(tokenizer)
    assert len(trie) == 11857
    examples = tokenize_mixture(mixture, tokenizer, catalog)  # checks every completion against the trie's paths
    assert len(examples) > 30_000
    states, legal = 0, {int(k) for k in trie.key}
    for ids, mask in zip(examples["input_ids"][:2000], examples["completion_mask"][:2000], strict=True):
        state = 0
        for token in np.array(ids)[np.array(mask, bool)][:-1].tolist():
            assert state * trie.vocab + token in legal
            state = trie.children(state)[token]
            state = 0 if trie.leaf[state] >= 0 else state
            states += 1
        assert state == 0
    assert states > 50_000
