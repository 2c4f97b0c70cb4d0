"""Properties on the real Beauty files; skipped, saying so, where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.data.interactions import leave_one_out, load_histories
from grlm_hf.data.items import load_items, load_term_ids
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.mixture import make_mixture
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer
from grlm_hf.training.sft import tokenize_mixture, tokenizer_texts

BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "amazon-beauty"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")]


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
    mixture = make_mixture(catalog, leave_one_out(histories).train).dataset
    tokenizer = train_tokenizer(tokenizer_texts(catalog, mixture), 8192)
    trie = catalog.trie(tokenizer)
    assert len(trie) == 11857
    examples = tokenize_mixture(mixture, tokenizer, catalog)  # checks every completion against the trie's paths
    assert len(examples) > 30_000
    labels, paths = 0, {tuple(p.tolist()) for p in trie.paths()}
    for ids, mask in zip(examples["input_ids"][:2000], examples["completion_mask"][:2000], strict=True):
        path: tuple[int, ...] = ()
        for token in np.array(ids)[np.array(mask, bool)][:-1].tolist():
            path = (*path, token)
            path = () if path in paths else path
            assert len(path) < trie.depth
            labels += 1
        assert path == ()
    assert labels > 50_000


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_certified_answers_are_the_best_of_all_of_beautys_identifiers(catalog: Catalog, objective: str) -> None:
    """Every one of the 11,857 scored by a plain forward, against the search that looks at a few hundred."""
    assert len(catalog.identifiers) == 11_857
    tokenizer = train_tokenizer([TERMS.line(t) for t in catalog.identifiers] + ["user\nassistant\nNext items after:\n"], 4096)
    model = make_model(
        ScratchConfig(hidden_size=64, layers=1, heads=2, kv_heads=1, head_dim=32, max_positions=512), tokenizer, seed=0
    ).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(12)  # random weights are near uniform; sharper ones resemble a trained model
    config = GRLMConfig(5, prompt_hash(), tokenizer_hash(tokenizer), objective)
    grlm = GRLMForRecommendation(model, tokenizer, catalog, config)
    history = [i.item_id for i in catalog.items[100:103]]
    prompt = grlm.prompt_tokens(history)[0]
    paths = grlm.trie.paths()
    children: dict[tuple[int, ...], set[int]] = {}
    for path in map(np.ndarray.tolist, paths):
        for d in range(len(path)):
            children.setdefault(tuple(path[:d]), set()).add(path[d])
    score = np.zeros(len(paths))
    for begin in range(0, len(paths), 1000):
        some = paths[begin : begin + 1000]
        ids = torch.nn.utils.rnn.pad_sequence([torch.cat((prompt, torch.from_numpy(p.astype(np.int64)))) for p in some], batch_first=True)
        with torch.no_grad():
            logits = model(ids, logits_to_keep=ids.shape[1] - len(prompt) + 1).logits.double()
        for i, path in enumerate(map(np.ndarray.tolist, some)):
            for d, token in enumerate(path):
                legal = sorted(children[tuple(path[:d])]) if objective == "trie" else slice(None)
                if objective == "vocabulary" or len(legal) > 1:
                    score[begin + i] += float(logits[i, d, token] - logits[i, d, legal].logsumexp(0))
    order = np.argsort(-score)
    got = grlm.recommend(history, 20, exact=True, num_beams=256)
    assert got.certified
    assert got.gap == 0
    tids = list(dict.fromkeys(r.term_id for r in got))
    assert tids == [catalog.identifiers[i] for i in order[: len(tids)]]
    assert all(abs(r.log_prob - score[catalog.identifiers.index(r.term_id)]) < 1e-4 for r in got)
    assert got.forwards < 200
