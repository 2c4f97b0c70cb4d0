"""What `load_dataset` reads from a folder is what the folder holds, whatever its cache remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from toys import toy_catalog, toy_histories

from grlm_hf.stages import make_dataset

IDS = [i.item_id for i in toy_catalog()]


def written(shop: Path, folder: Path, last: str) -> Path:
    """A dataset folder in which every user's test target is `last`."""
    shop.mkdir(exist_ok=True)
    rows = [{"user_id": h.user_id, "items": [*h.items, last]} for h in toy_histories(5)]
    (shop / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_catalog().save_pretrained(shop / "catalog")
    make_dataset(shop, shop / "catalog", folder, title="the same", notice="the same")
    return folder


def targets(folder: Path) -> set[str]:
    return set(load_dataset(str(folder), "cases", split="test")["target"])


@pytest.mark.parametrize("again", [False, True])
def test_folders_of_one_name_are_told_apart(tmp_path: Path, again: bool) -> None:
    folders = [tmp_path / run / "datasets" for run in ("a", "a" if again else "b")]  # of two runs; or of one, run again on new data
    for folder, last in zip(folders, IDS[:2], strict=True):
        assert targets(written(tmp_path / "shop", folder, last)) == {last}
        rows = load_dataset(str(folder), "interactions", split="test")
        assert set(rows["item_id"]) == {last}
