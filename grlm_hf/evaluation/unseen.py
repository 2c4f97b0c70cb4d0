"""Items that are new to the model: how good recommendations of them are once they are added to the catalog.

The protocol: `grlm_hf.data.interactions.hold_out_items` leaves the newest items (without timestamps: a random sample) out of every
training history. The model is trained over the catalog without them (`known_catalog`): they are no negatives, and not even their texts
are read. `with_new_items` then adds them as a shop would, with Term IDs that `GRLMForRecommendation.add_items` extracts from their texts.
The first event of each user with one of them is a case, ranked over the full catalog. Neighbours by text need no interactions either, and
are the method to beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item
from grlm_hf.evaluation.schema import Report, Unseen
from grlm_hf.identifiers.scheme import Identifier

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation


def known_catalog(catalog: Catalog, train: Iterable[History]) -> Catalog:
    """The catalog without the items that no training history holds. Raises ``ValueError`` where none would be left."""
    known = {item for history in train for item in history.items}
    return catalog.remove([i.item_id for i in catalog if i.item_id not in known])


def with_new_items(
    grlm: GRLMForRecommendation, items: Sequence[Item], term_ids: Sequence[Identifier] | None = None
) -> GRLMForRecommendation:
    """Another recommender with the same language model and prior, its catalog extended by `items` (`GRLMForRecommendation.add_items`).

    Items that `grlm` has already are removed first, so that nothing of their old Term IDs stays. `grlm` itself is not changed.

    Args:
        term_ids: one an item; by default they are extracted from the items' texts.
    """
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    old = [i.item_id for i in items if i.item_id in grlm.catalog]
    known = grlm.catalog.remove(old) if old else grlm.catalog
    kept: dict[str, Any] = {"prior": grlm.prior, "vectors": grlm.dense_half.vectors, "evidence": grlm.prompter.evidence}
    extended = GRLMForRecommendation(grlm.engine, grlm.tokenizer, known, grlm.config, **kept)
    extended.add_items(items, term_ids)
    return extended


def unseen_block(report: Report, items: int, extracted: bool) -> Unseen:
    """The figures of a report whose targets are all among `items` new items."""
    p = report.protocol
    return Unseen(
        items,
        p.users,
        p.cases or 0,
        p.candidates,
        "extracted from the items' texts when they were added" if extracted else "given, written from the items' texts",
        report.methods,
        report.comparisons,
    )
