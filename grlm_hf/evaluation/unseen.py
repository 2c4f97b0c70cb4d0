"""New items: what a checkpoint knows of those that its training never met, once they are added.

The protocol. `grlm_hf.data.interactions.hold_out_items` leaves the newest items (without timestamps: a random sample) out of every training
history. The model is trained over the catalog without them (`known_catalog`): they are no negatives, and not even their text is read.
Then `with_new_items` adds them as a shop would, with Term IDs that `GRLMForRecommendation.add_items` extracts from their texts, and each
user's first meeting with one of them is a case, asked over the full catalog. What needs no interactions either, neighbours by text, is
the method to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case, History
from grlm_hf.data.items import Item
from grlm_hf.evaluation.evaluate import evaluate
from grlm_hf.evaluation.rankings import Method
from grlm_hf.identifiers.scheme import Identifier

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation


def known_catalog(catalog: Catalog, train: Iterable[History]) -> Catalog:
    """The catalog without the items that no training history holds.

    Raises:
        ValueError: none would be left.
    """
    met = {item for history in train for item in history.items}
    return catalog.remove([i.item_id for i in catalog if i.item_id not in met])


def with_new_items(
    grlm: GRLMForRecommendation, items: Sequence[Item], term_ids: Sequence[Identifier] | None = None
) -> GRLMForRecommendation:
    """Another recommender over the same language model, its catalog extended by `items` with `GRLMForRecommendation.add_items`.

    Those that `grlm` has already are taken out first, so that nothing of their old Term IDs stays. `grlm` itself is not changed; its prior
    goes along.

    Args:
        term_ids: one an item; by default they are extracted from the items' texts.
    """
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    there = [i.item_id for i in items if i.item_id in grlm.catalog]
    known = grlm.catalog.remove(there) if there else grlm.catalog
    extended = GRLMForRecommendation(grlm.engine, grlm.tokenizer, known, grlm.config, prior=grlm.prior)
    extended.add_items(items, term_ids)
    return extended


def evaluate_unseen(
    grlm: GRLMForRecommendation,
    items: Sequence[Item],
    cases: Sequence[Case],
    methods: Callable[[GRLMForRecommendation], Mapping[str, Method]],
    *,
    term_ids: Sequence[Identifier] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The `unseen` block of a report: ``{items, users, cases, candidates, term_ids, methods, comparisons}``.

    Args:
        grlm: trained over a `known_catalog`.
        items: the new ones, added first.
        cases: of these, those whose target is one of the new items are asked, over all items, known and new.
        methods: makes the methods from the recommender that has the new items.
        term_ids: one a new item; by default they are extracted from the items' texts.
        settings: of `grlm_hf.evaluation.evaluate.evaluate`.

    Raises:
        ValueError: no new items, or no case of one; and as `evaluate` does.
    """
    new = {i.item_id for i in items}
    asked = [c for c in cases if c.target in new]
    if not asked:
        raise ValueError(f"None of the {len(cases)} cases has one of the {len(new)} new items as its target; hold out more items.")
    extended = with_new_items(grlm, items, term_ids)
    report = evaluate(methods(extended), asked, extended.catalog, **settings)
    return unseen_block(report, len(new), extracted=term_ids is None)


def unseen_block(report: Mapping[str, Any], items: int, extracted: bool) -> dict[str, Any]:
    """The `unseen` block, of a report whose cases all ask for one of `items` new items."""
    return {
        "items": items,
        **{name: report["protocol"][name] for name in ("users", "cases", "candidates")},
        "term_ids": "extracted from the items' texts when they were added" if extracted else "given, written from the items' texts",
        "methods": report["methods"],
        "comparisons": report.get("comparisons", []),
    }
