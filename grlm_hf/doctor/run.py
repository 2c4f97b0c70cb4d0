"""Checks across the stages of a run: a checkpoint and the dataset beside it."""

from __future__ import annotations

from collections.abc import Iterator

from grlm_hf.doctor.dataset import Tables
from grlm_hf.doctor.findings import Finding
from grlm_hf.doctor.parts import Parts


def together(parts: Parts, tables: Tables) -> Iterator[Finding]:
    """Whether a checkpoint was trained on this dataset, by the facts that both state."""
    where, facts = str(parts.folder), tables.facts or {}
    again = "Run the recipe again: stages with changed inputs run again."
    if parts.grlm is not None and facts:
        for name in ("prompt_hash", "history", "max_history", "max_tokens"):
            here, there = getattr(parts.grlm, name), facts.get(name, {"history": "term_ids", "max_tokens": 0}.get(name))
            if here != there:
                yield Finding("error" if name in ("prompt_hash", "history") else "warning", "prompt-drift",
                              f"The checkpoint was trained with {name} {here!r}, the dataset has {there!r}.",
                              "The model's prompts differ from the dataset's: one of them is older.", again, where)  # fmt: skip
    if parts.catalog is None or tables.catalog is None:
        return
    ours = dict(zip((i.item_id for i in tables.catalog), tables.catalog.item_identifiers, strict=True))
    other = [
        i.item_id for i, tid in zip(parts.catalog.items, parts.catalog.item_identifiers, strict=True) if ours.get(i.item_id, tid) != tid
    ]
    lacking = [i for i in ours if i not in parts.catalog] if facts.get("split") != "unseen-items" else []
    if other or lacking:
        differs = f"{len(other)} items have other {parts.catalog.scheme.noun}s" if other else f"{len(lacking)} items are missing"
        yield Finding("error", "catalog-differs", f"In the checkpoint's catalog {differs}, such as {(other or lacking)[0]!r}.",
                      "The model learnt other identifiers than it must write, or some items can never be recommended.", again,
                      where)  # fmt: skip
