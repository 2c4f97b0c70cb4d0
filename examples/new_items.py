"""A living catalog: an item that was not in training is recommended at once, changed, saved with the checkpoint, and removed.

python examples/new_items.py [grlm-quickstart/checkpoint]
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace

from grlm_hf import GRLMForRecommendation


def main(checkpoint: str = "grlm-quickstart/checkpoint") -> None:
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    old = grlm.catalog.items[0]
    new = replace(old, item_id="new-1", title=f"{old.title}, second edition")

    version = grlm.add_items([new])  # its Term ID comes from its text, beside similar items; nothing is trained
    print(f"version {version}: {old.item_id} is {grlm.catalog.term_id(old.item_id)}")
    print(f"           new-1 is {grlm.catalog.term_id('new-1')}")

    history = [item.item_id for item in grlm.catalog.items[1:3]]
    ranks = {r.item_id: n for n, r in enumerate(grlm.recommend(history, k=len(grlm.catalog)), 1)}
    print(f"after {history}: {old.item_id} is at place {ranks[old.item_id]}, new-1 at {ranks['new-1']} of {len(ranks)}")
    print("after it", [r.item_id for r in grlm.recommend(["new-1"], k=3, exclude_seen=True)])

    grlm.update_items([replace(new, price=9.99)])  # its Term ID stays
    with tempfile.TemporaryDirectory() as folder:
        grlm.save_pretrained(f"{folder}/checkpoint")
        assert "new-1" in GRLMForRecommendation.from_pretrained(f"{folder}/checkpoint").catalog

    grlm.remove_items(["new-1"])
    assert "new-1" not in grlm.catalog
    print(f"removed: version {grlm.version}, {len(grlm.catalog)} items")


if __name__ == "__main__":
    main(*sys.argv[1:])
