"""Recommend under rules: only cheap items, none of the history, none with a banned term; certified and explained.

python examples/recommend_with_rules.py [grlm-quickstart/checkpoint]
"""

from __future__ import annotations

import sys

from grlm_hf import GRLMForRecommendation


def main(checkpoint: str = "grlm-quickstart/checkpoint") -> None:
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    history = [item.item_id for item in grlm.catalog.items[:2]]
    print("after", *(grlm.catalog[i].title for i in history), sep="\n  ")

    cheap = [item.item_id for item in grlm.catalog if item.price is None or item.price < 100]
    banned = grlm.recommend(history, k=1)[0].identifier[0]
    found = grlm.recommend(history, k=3, allow=cheap, banned_terms=[banned], exclude_seen=True, exact=True)
    print(f"\ncheap, unseen, nothing with the term {banned!r}; certified: {found.certified}, after {found.forwards} forwards")
    for r in found:
        print(f"  {r.log_prob:6.2f}  {r.item_id}  {r.title}")

    why = grlm.explain(history, found[0].item_id)
    print("\nthe first one's terms:", ", ".join(f"{t.term} {t.log_prob:.2f}" for t in why.terms))
    print("without an item of the history it would lose:", {h.item_id: h.drop for h in why.history})


if __name__ == "__main__":
    main(*sys.argv[1:])
