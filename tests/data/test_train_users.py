"""A share of the users to train on: nested, seeded, and nothing else of the split changes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from toys import toy_catalog, toy_histories

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.data.repository import dataset_facts, load_cases, load_table, train_histories
from grlm_hf.data.users import with_train_users
from grlm_hf.recipe import DataConfig
from grlm_hf.stages import make_dataset
from grlm_hf.tasks.config import MixtureConfig

SPLIT = leave_one_out(toy_histories(200))


def users(share: float, seed: int = 0) -> set[str]:
    return {h.user_id for h in with_train_users(SPLIT, share, seed).train}


def test_shares_are_nested_and_seeded() -> None:
    shares = [users(share) for share in (0.05, 0.25, 0.5, 1.0)]
    assert [len(found) for found in shares] == [10, 50, 100, 200]
    assert all(small < large for small, large in itertools.pairwise(shares))
    assert users(0.25, 1) != users(0.25)
    part = with_train_users(SPLIT, 0.05, 0)
    assert (part.validation, part.test) == (SPLIT.validation, SPLIT.test)
    assert with_train_users(SPLIT, 1e-9, 0).train  # at least one user


def test_a_dataset_trains_on_the_share_and_evaluates_all_users(tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path / "catalog")
    rows = [{"user_id": h.user_id, "items": h.items} for h in toy_histories(40)]
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {}
    for share in (0.25, 1.0):
        out = tmp_path / f"d{share}"
        make_dataset(tmp_path, tmp_path / "catalog", out, MixtureConfig(sliding=1.0), DataConfig(train_users=share))
        made[share] = out
    small, whole = made[0.25], made[1.0]
    trained = {h.user_id for h in train_histories(small)}
    assert trained < {h.user_id for h in train_histories(whole)}
    assert len(trained) == 10
    sft = load_table(small, "sft", "train")
    assert {key for task, key in zip(sft["task"], sft["key"], strict=True) if task != "internalise"} <= trained
    assert sum(task == "internalise" for task in sft["task"]) == len(toy_catalog())  # the catalog stays whole
    for part in ("validation", "test"):
        assert load_cases(small, part) == load_cases(whole, part)
        assert len(load_cases(small, part)) == 40
    assert any("30 of 40 users (75%) are left out of training" in line for line in dataset_facts(small)["reading"])
    assert "left out of training" not in json.dumps(dataset_facts(whole))


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match=r"read\.train_users"):
        DataConfig(train_users=share)


def test_not_with_unseen_items() -> None:
    with pytest.raises(ValueError, match="would count as new"):
        DataConfig(train_users=0.5, split="unseen-items")
