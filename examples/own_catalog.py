"""From a CSV of products and a CSV of events to a recommender, in Python. (On the command line: docs/own-catalog.md.)

python examples/own_catalog.py my-shop my-run
"""

from __future__ import annotations

import sys

from grlm_hf import GRLMForRecommendation
from grlm_hf.recipe import Recipe, override
from grlm_hf.stages import run


def main(shop: str = "my-shop", output: str = "my-run", *settings: str) -> None:
    """`shop` holds items.csv (item_id, title, …) and interactions.csv (user_id, item_id, timestamp)."""
    recipe = override(
        Recipe(name="my shop", data=shop, output=output),
        [
            "read.missing_title=fill",
            "read.unknown_items=drop",
            "read.short_users=keep",
            "train.objective=trie",
            "train.scratch.vocab_size=3072",
            "train.scratch.hidden_size=128",
            "train.scratch.layers=2",
            "train.epochs=6",
            "train.learning_rate=3e-3",
            "train.batch_size=64",
            "train.dropout=0.1",
            *settings,  # such as train.epochs=1
        ],
    )
    report = run(recipe)  # neighbours, Term IDs, quality, dataset, priors, training, evaluation; a second run keeps finished stages
    for name, figures in report.methods.items():
        print(f"{name:>16}  recall@10 {figures['recall@10'].value:.4f}  ndcg@10 {figures['ndcg@10'].value:.4f}")

    grlm = GRLMForRecommendation.from_pretrained(f"{output}/checkpoint")
    history = [grlm.catalog.items[0].item_id]
    print("after", grlm.catalog[history[0]].title)
    for r in grlm.recommend(history, k=3):  # as it was measured: seen items left out, with its prior if that helps
        print(f"{r.score:7.2f}  {r.item_id}  {', '.join(r.identifier)}  {r.title}")


if __name__ == "__main__":
    main(*sys.argv[1:])
