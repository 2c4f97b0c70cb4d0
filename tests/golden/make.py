"""Writes the golden data beside this file: a checkpoint, a shop, its dataset repository, and what the code answers.

It ran once, with grlm-hf 0.1.0 at commit ddd13e0, before the code was restructured::

    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python tests/golden/make.py

It is not to be run again to make a failing test pass: a failing test says that the code no longer answers as that version did. It is kept
to show where the data come from; its imports are those of that version.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import torch
import transformers
from test_golden import CHECKPOINT, CHECKS, DATASET, EXPECTED, PICTURE, SHOP, remade

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.identifiers.terms import TermID
from grlm_hf.interactions import leave_one_out, load_histories
from grlm_hf.modeling import GRLMConfig
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.text import TextKNN
from grlm_hf.tasks.prompts import prompt_hash, tokenizer_hash
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer

SEED, SHARPNESS, ATTENTION, USERS = 0, 8.0, 12.0, 15

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
PLACES = {"camping": ("Outdoor", "Outdoor"), "head": ("Outdoor", "Home"), "kitchen": ("Kitchen", "Kitchen")}  # second term → domain, shelf
BRANDS = ("Fjall", "Lumo", "", "Primo")


def make_catalog() -> Catalog:
    """Ids descend, so ties are not in the order of the file. Some items lack a brand, a description or a price."""
    items = []
    for n, tid in enumerate(TERM_IDS):
        domain, shelf = PLACES.get(tid[1], ("Home", "Home"))
        about = "" if n == 3 else f"A {tid[2]} {tid[0]} for {tid[1]}, {tid[3]} and {tid[4]}."
        price = None if n % 5 == 4 else 10.0 + 7.5 * n
        title = f"{tid[4].title()} {tid[0]} number {n}, [{tid[3]}]"
        items.append(Item(f"i{20 - n}", title, BRANDS[n % 4], (shelf, f"{tid[0].title()}s"), about, price, domain))
    return Catalog(items, TERM_IDS)


def write_shop(catalog: Catalog) -> None:
    shutil.rmtree(SHOP, ignore_errors=True)
    SHOP.mkdir()
    ids = [item.item_id for item in catalog]
    rows = []
    for u in range(USERS):
        length = 4 + u % 4
        items = [ids[(u * u + s * (1 + u % 3)) % len(ids)] for s in range(length)]
        rows.append({"user_id": f"u{u}", "items": items, "timestamps": [1_700_000_000 + 1000 * u + 86_400 * s for s in range(length)]})
    talks = [
        {"prompt": "Hello", "completion": "Good day. What are you looking for?"},
        {
            "messages": [
                {"role": "system", "content": "You help in a shop."},
                {"role": "user", "content": "Is the tent light?"},
                {"role": "assistant", "content": "Yes, the green one."},
                {"role": "user", "content": "And the stove?"},
                {"role": "assistant", "content": "It is of steel."},
            ]
        },
    ]
    for name, table in (("sequences", rows), ("chat", talks)):
        (SHOP / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")


def write_checkpoint(catalog: Catalog) -> None:
    lines = ["[" + ", ".join(t) + "]\n" for t in TERM_IDS]
    tokenizer = train_tokenizer([*lines * 3, "user\nassistant\nNext items after:\nTerm ID of:\nTitle: "], 300)
    shape = ScratchConfig(hidden_size=16, intermediate_size=24, layers=1, heads=2, kv_heads=1, head_dim=8, max_positions=512)
    model = make_model(shape, tokenizer, SEED)
    with torch.no_grad():  # random weights give near-uniform scores; sharper ones tell items apart, and histories
        model.get_input_embeddings().weight.mul_(SHARPNESS)
        for layer in model.model.layers:
            for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, part).weight.mul_(ATTENTION)
    ids = [item.item_id for item in catalog]
    train = leave_one_out(load_histories(SHOP / "sequences.jsonl", set(ids))).train
    knn, popular = ItemKNN.fit(ids, train), Popularity.fit(ids, train)
    text = TextKNN.fit(catalog.items)
    prior = Fused({"item_knn": (knn, 0.7), "popularity": (popular, 0.1), "text_knn": (text, 0.3)})
    config = GRLMConfig(4, prompt_hash(), tokenizer_hash(tokenizer), "trie")
    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    GRLMForRecommendation(model.eval(), tokenizer, catalog, config, prior=prior).save_pretrained(CHECKPOINT)


def check_gaps() -> None:
    """No two neighbours in a list of scores are so near that rounding could swap them; true ties are equal."""
    loaded = GRLMForRecommendation.from_pretrained(CHECKPOINT)
    histories = [[i.item_id, j.item_id] for i, j in pairwise(loaded.catalog)]
    for objective in ("trie", "vocabulary"):
        config = replace(loaded.config, objective=objective)
        grlm = GRLMForRecommendation(loaded.model, loaded.tokenizer, loaded.catalog, config, loaded.trie, loaded.prior)
        for found in grlm.recommend(histories, 12, exact=True):
            gaps = [a.score - b.score for a, b in pairwise(found)]
            assert all(gap == 0 or gap > 1e-4 for gap in gaps), (objective, min(g for g in gaps if g))


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    catalog = make_catalog()
    write_shop(catalog)
    write_checkpoint(catalog)
    check_gaps()
    shutil.rmtree(DATASET, ignore_errors=True)
    shutil.copytree(remade(), DATASET, ignore=shutil.ignore_patterns(PICTURE))
    shutil.rmtree(EXPECTED, ignore_errors=True)
    EXPECTED.mkdir()
    groups: dict[str, list[str]] = {}
    for name in sorted(CHECKS):
        groups.setdefault(name.partition("/")[0], []).append(f"{json.dumps(name)}: {json.dumps(CHECKS[name](), ensure_ascii=False)}")
    for group, lines in groups.items():
        (EXPECTED / f"{group}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
