"""A small shop, and all that the verbs make of it: what the trials of this folder break."""

from __future__ import annotations

import json
from pathlib import Path

import tables
from environment import forks

from grlm_hf.data.sample import make_sample

RECIPE = """
name: shop
seed: 1
train:
  objective: trie
  scratch: {vocab_size: 600, hidden_size: 32, layers: 1}
  epochs: 2
  batch_size: 16
  learning_rate: 3.0e-3
  save_steps: 4
priors: {validation_users: 60, hybrid_users: 60}
evaluate: {resamples: 50}
grpo: {steps: 6, prompts: 4, rollouts: 4, save_steps: 2, sampling: beams}
dpo: {prompts: 16, negatives: 2, batch_size: 8, save_steps: 2}
"""
ITEMS, USERS = 90, 70


def write_shop(folder: Path) -> None:
    """items.jsonl and interactions.jsonl of 90 items and at most 70 users, all invented."""
    folder.mkdir(parents=True)
    sample = make_sample(users=900)
    ids = {item.item_id for item in sample.items[:ITEMS]}
    rows: dict[str, list[tuple[str, int]]] = {}
    for event in sample.interactions:
        if event.item_id in ids:
            rows.setdefault(event.user_id, []).append((event.item_id, event.timestamp))
    users = [user for user, events in rows.items() if len(events) >= 4][:USERS]
    with open(folder / "items.jsonl", "w", encoding="utf-8") as file:
        for item in sample.items[:ITEMS]:
            row = {"item_id": item.item_id, "title": item.title, "brand": item.brand, "categories": list(item.categories)}
            file.write(json.dumps(row | {"description": item.description, "price": item.price}, ensure_ascii=False) + "\n")
    with open(folder / "interactions.jsonl", "w", encoding="utf-8") as file:
        for user in users:
            for item_id, time in rows[user]:
                file.write(json.dumps({"user_id": user, "item_id": item_id, "timestamp": time}) + "\n")


def make(folder: Path) -> Path:
    """The shop in ``folder/shop``, its recipe in ``folder/shop.yaml`` and a finished run of it in ``folder/run``. Returns the recipe."""
    recipe = folder / "shop.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    write_shop(folder / "shop")
    done = forks.grlm("run", str(recipe), "--data", str(folder / "shop"), "--output", str(folder / "run"))
    if done.returncode:
        raise SystemExit(f"The shop's own run failed:\n{done.stdout}\n{done.stderr}")
    small = folder / "small"  # of the twelve items that tables.py spoils
    (small / "data").mkdir(parents=True)
    (small / "data" / "items.csv").write_text(tables.ITEMS, encoding="utf-8")
    (small / "data" / "interactions.csv").write_text(tables.EVENTS, encoding="utf-8")
    forks.grlm("terms", "data", "--output", "catalog", cwd=small)
    forks.grlm("dataset", "data", "--catalog", "catalog", "--output", "datasets", cwd=small)
    return recipe
