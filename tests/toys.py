"""Toys that the tests share: a dozen items with a collision and shared prefixes, a byte-level tokenizer, a tiny random Qwen3."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import History
from grlm_hf.identifiers.terms import TermID
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.encoding import history_tokens
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import identifier_tokens, tokenizer_hash
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.walker import TrieWalker

TERM_IDS: list[TermID] = [
    ("tent", "camping", "light", "two", "green"),
    ("tent", "camping", "light", "two", "red"),
    ("tent", "camping", "light", "four", "red"),
    ("tent", "camping", "heavy", "four", "red"),
    ("stove", "camping", "gas", "small", "steel"),
    ("stove", "kitchen", "gas", "large", "steel"),
    ("lamp", "head", "led", "small", "rechargeable"),
    ("lamp", "head", "led", "small", "rechargeable"),  # shares its Term ID with the one before
    ("lamp", "desk", "led", "long-lasting", "steel"),
    ("mug", "kitchen", "steel", "small", "green"),
    ("3d-print", "café", "1/2-inch", "naïve", "e.l.f."),
    ("水", "kitchen", "gas", "small", "steel"),
]


def toy_catalog() -> Catalog:
    # ids descend, so that the tie order (ascending ids) is not the order in the file
    items = [Item(f"i{20 - n}", f"Title {n} {t[0]}", description=" ".join(t)) for n, t in enumerate(TERM_IDS)]
    return Catalog(items, TERM_IDS)


def toy_histories(n: int = 40) -> list[History]:
    ids = [i.item_id for i in toy_catalog()]
    return [History(f"u{u}", tuple(ids[(u + s * (1 + u % 2)) % len(ids)] for s in range(3 + u % 5))) for u in range(n)]


@functools.cache
def toy_tokenizer(vocab_size: int = 300) -> Any:
    """Merges across spaces (``, tent``), and splits rare words into bytes."""
    lines = ["[" + ", ".join(t) + "]\n" for t in TERM_IDS]
    return train_tokenizer([*lines * 3, "user\nassistant\nNext items after:\nTerm ID of:\nTitle: "], vocab_size)


def toy_model(seed: int = 0, sharpness: float = 8.0) -> Any:
    tokenizer = toy_tokenizer()
    model = make_model(
        ScratchConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, max_positions=512), tokenizer, seed
    )
    with torch.no_grad():  # random weights give near-uniform scores; sharper ones tell beams apart
        model.get_input_embeddings().weight.mul_(sharpness)
    return model.eval()


def toy_grlm(objective: str = "vocabulary", seed: int = 0, history: str = "term_ids", **more: Any) -> GRLMForRecommendation:
    tokenizer = toy_tokenizer()
    config = GRLMConfig(4, prompt_hash(history), tokenizer_hash(tokenizer), objective, history, **more)
    return GRLMForRecommendation(toy_model(seed), tokenizer, toy_catalog(), config)


@torch.no_grad()
def brute_force(grlm: GRLMForRecommendation, history: list[str]) -> dict[TermID, float]:
    """log p of every identifier after a history: one plain forward each, no cache, no batch, no trie code."""
    paths = dict(
        zip(grlm.catalog.identifiers, identifier_tokens(grlm.tokenizer, grlm.catalog.scheme, grlm.catalog.identifiers), strict=True)
    )
    positions = [grlm.catalog.position(i) for i in history][-grlm.config.max_history :]
    all_paths = identifier_tokens(grlm.tokenizer, grlm.catalog.scheme, grlm.catalog.term_ids)
    (prompt,) = history_tokens(grlm.tokenizer, all_paths, [positions], grlm.catalog, history=grlm.config.history)
    scores = {}
    for tid, path in paths.items():
        logits = grlm.model(torch.tensor([[*prompt.tolist(), *path]])).logits[0, len(prompt) - 1 : -1].double()
        total = 0.0
        for i, token in enumerate(path):
            row = logits[i]
            if grlm.config.objective == "trie":
                legal = sorted({p[i] for p in paths.values() if p[:i] == path[:i]})
                total += float(row[token] - row[legal].logsumexp(0))
            else:
                total += float(row[token] - row.logsumexp(0))
        scores[tid] = total
    return scores


def scripted(values: dict[int, float], vocab: int) -> torch.Tensor:
    """One row of scores, [1, vocab]: `values` where given, -5 elsewhere."""
    row = torch.full((1, vocab), -5.0)
    for token, value in values.items():
        row[0, token] = value
    return row


def some_histories(longest: int) -> list[list[str]]:
    """Seven histories of each length from 1 to `longest`, drawn from the toy catalog; two of seven hold an item twice, where they can.
    The same at each call, and the shorter ones the same for any `longest`."""
    rng, ids, histories = random.Random(0), [i.item_id for i in toy_catalog()], []
    for length in range(1, longest + 1):
        for number in range(7):
            history = rng.sample(ids, length)
            if number % 3 == 2:
                history[-1] = history[0]
            histories.append(history)
    return histories


def close(a: float, b: float, tolerance: float = 1e-4) -> bool:
    return math.isclose(a, b, rel_tol=0, abs_tol=tolerance)


# --- random catalogs ---------------------------------------------------------------------------------------------------------------

WORDS = ("tent", "camping", "light", "led", "lamp", "small", "te", "水", "1/2-inch")
"""One token, or several; some begin others."""


def random_catalog(rng: random.Random, most: int = 25) -> Catalog:
    """1 to `most` items with Term IDs of one to three of a few words: many share a prefix, some the whole Term ID."""
    n = rng.randint(1, most)
    names = [f"i{number}" for number in range(n)]
    rng.shuffle(names)  # the tie order is not that of the file
    return Catalog(
        [Item(name, f"Title of {name}") for name in names], [tuple(rng.choice(WORDS) for _ in range(rng.randint(1, 3))) for _ in names]
    )


def random_history(rng: random.Random, catalog: Catalog, longest: int = 6) -> list[str]:
    return [rng.choice(catalog.items).item_id for _ in range(rng.randint(1, longest))]


@functools.cache
def shared_model(seed: int, double: bool = False) -> Any:
    """`toy_model`, made once: not to be changed. Under float64 weights nearly all rounding is the same in any batch."""
    model = toy_model(seed, sharpness=4.0 if seed % 2 else 8.0)
    return model.double() if double else model


def random_grlm(rng: random.Random, objective: str, most: int = 25, double: bool = False) -> GRLMForRecommendation:
    """One of four tiny models, with a catalog of its own."""
    tokenizer = toy_tokenizer()
    config = GRLMConfig(max_history=4, prompt_hash=prompt_hash(), tokenizer_hash=tokenizer_hash(tokenizer), objective=objective)
    return GRLMForRecommendation(shared_model(rng.randint(0, 3), double), tokenizer, random_catalog(rng, most), config)


def prompt_and_paths(grlm: GRLMForRecommendation, history: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Token ids of a history's prompt, and those of each of ``catalog.identifiers``."""
    catalog = grlm.catalog
    shown = [[catalog.position(i) for i in history][-grlm.config.max_history :]]
    (prompt,) = history_tokens(grlm.tokenizer, identifier_tokens(grlm.tokenizer, grlm.catalog.scheme, catalog.term_ids), shown, catalog)
    return prompt.tolist(), identifier_tokens(grlm.tokenizer, grlm.catalog.scheme, catalog.identifiers)


@torch.no_grad()
def fast_brute_force(grlm: GRLMForRecommendation, history: Sequence[str]) -> list[float]:
    """`brute_force` by leaf, in one forward: what is padded on the right changes nothing before it."""
    prompt, paths = prompt_and_paths(grlm, history)
    longest = max(map(len, paths))
    rows = torch.tensor([[*prompt, *path, *[0] * (longest - len(path))] for path in paths])
    logits = grlm.model(rows).logits[:, len(prompt) - 1 :].double()
    totals = []
    for path, row in zip(paths, logits, strict=True):
        total = 0.0
        for i, token in enumerate(path):
            over = sorted({p[i] for p in paths if p[:i] == path[:i]}) if grlm.config.objective == "trie" else slice(None)
            total += float(row[i, token] - row[i, over].logsumexp(0))
        totals.append(total)
    return totals


Tree = dict[int, Any]
"""Token → what follows it; empty at the end of an identifier."""


def tree_of(paths: list[list[int]]) -> Tree:
    root: Tree = {}
    for path in paths:
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def legal_tokens(trie: Trie, prefix: Sequence[int] = ()) -> Iterator[int]:
    """The tokens that go on from a prefix, ascending: for looking at a trie, not for decoding."""
    walker = TrieWalker(trie)
    node = walker.root(1)
    for token in prefix:
        node = walker.step(*node, np.array([token]))
    yield from walker.children(*node)[1].tolist()
