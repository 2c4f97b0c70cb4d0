"""The stage that makes a dataset repository: what it teaches, and what its card may tell."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from toys import toy_tokenizer

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import leave_one_out, load_histories
from grlm_hf.identifiers.terms import render
from grlm_hf.layout import SPLITS
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.sequence import SequenceConfig
from grlm_hf.recipe import DataConfig
from grlm_hf.stages import dataset as stage
from grlm_hf.stages import make_checkpoint, make_dataset
from grlm_hf.tasks.config import TASKS, MixtureConfig
from grlm_hf.tasks.items import title_to_term_id
from grlm_hf.tasks.mixture import example_tokens
from grlm_hf.tasks.prompts import templates_hash
from grlm_hf.training.sft import TrainConfig

N = 30
IDS = [f"i{n}" for n in range(N)]
CATALOG = Catalog(
    [Item(i, f"title{n} word{n}", f"brand{n}", (f"shelf{n}",), f"described{n}", domain="ab"[n % 2]) for n, i in enumerate(IDS)],
    [("kind", f"t{n}") for n in range(N)],
)
TINY = SequenceConfig(layers=1, width=8, heads=1, epochs=1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 histories of 5 to 9 items at known times."""
    folder = tmp_path_factory.mktemp("shop")
    CATALOG.save_pretrained(folder / "catalog")
    rows: list[dict[str, Any]] = [
        {
            "user_id": f"u{u}",
            "items": [IDS[(u + 7 * s) % N] for s in range(5 + u % 5)],
            "timestamps": [u + 50 * s for s in range(5 + u % 5)],
        }
        for u in range(40)
    ]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row | {"n_valid": 1, "n_test": 1}) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("how", SPLITS)
def test_no_example_tells_what_is_held_out(shop: Path, tmp_path: Path, how: str) -> None:
    weights = {task: 1.0 for task in TASKS if task != "chat"}
    make_dataset(shop, shop / "catalog", tmp_path / "d", MixtureConfig(**weights), DataConfig(split=how), sequence_model=TINY)

    def rows(config: str, split: str) -> Any:
        return load_dataset(str(tmp_path / "d"), config, split=split)

    trained: dict[str, list[str]] = defaultdict(list)
    for row in rows("interactions", "train"):
        trained[row["user_id"]].append(CATALOG.term_id(row["item_id"])[1])
    targets = {row["target"] for split in ("validation", "test") for row in rows("cases", split)}
    held = {n for n, i in enumerate(IDS) if how == "unseen-items" and i in targets}
    assert bool(held) == (how == "unseen-items")
    found = set()
    for row in rows("sft", "train"):
        found.add(row["task"])
        text = row["prompt"][0]["content"] + "\n" + row["completion"][0]["content"]
        for n in held:  # neither as an answer, nor by its text
            assert not any(word in text.split() for word in (f"title{n}", f"word{n}", f"shelf{n}", f"described{n}", f"brand{n}"))
            assert render(CATALOG.term_ids[n]) not in text
        if row["task"] in ("sequence", "sliding", "steered"):
            shown = [line.removeprefix("[kind, ").removesuffix("]") for line in text.splitlines() if line.startswith("[")]
            of = trained[row["key"]]
            assert shown in [of[a : a + len(shown)] for a in range(len(of))]
    assert found == set(weights)


def test_collaborative_neighbours_from_counting_and_from_both(shop: Path, tmp_path: Path) -> None:
    near = {}
    for source in ("knn", "both"):
        mixture = MixtureConfig(internalise=0.0, collaborative=1.0, neighbors_per_item=3, neighbors_from=source)
        make_dataset(shop, shop / "catalog", tmp_path / source, mixture, sequence_model=TINY)
        rows = load_dataset(str(tmp_path / source), "collaborative", split="train")
        near[source] = {row["item_id"]: row["neighbors"] for row in rows}
    histories = load_histories(next(p for p in shop.iterdir() if p.stem in ("interactions", "sequences")), set(IDS))
    counted = ItemKNN.fit([i.item_id for i in Catalog.from_pretrained(shop / "catalog")], leave_one_out(histories).train).neighbors(3)
    assert near["knn"] == {row["item_id"]: row["neighbors"] for row in counted.to_dataset()}
    assert near["both"] != near["knn"]
    with pytest.raises(ValueError, match="neighbors_from is 'knm'"):
        MixtureConfig(neighbors_from="knm")


def test_a_second_helping_of_collaborative_neighbours(shop: Path, tmp_path: Path) -> None:
    mixture = MixtureConfig(internalise=0.0, collaborative=2.0, neighbors_per_item=3)
    make_dataset(shop, shop / "catalog", tmp_path / "d", mixture, sequence_model=TINY)
    asked = defaultdict(list)
    for row in load_dataset(str(tmp_path / "d"), "sft", split="train"):
        if row["task"] == "collaborative":
            asked[row["key"]].append(row["completion"][0]["content"].splitlines())
    near = {row["item_id"]: row["neighbors"] for row in load_dataset(str(tmp_path / "d"), "collaborative", split="train")}
    assert len(asked) == N
    for item, lists in asked.items():
        lines = [render(CATALOG.term_id(i)) for i in near[item]]
        assert sorted(lists) == sorted([lines[:3], lines[3:]])
        assert len(lines) == 6


def test_a_stopped_dataset_keeps_its_half_trained_model(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def make(model: SequenceConfig) -> None:
        make_dataset(shop, shop / "catalog", tmp_path / "d", MixtureConfig(collaborative=1.0), sequence_model=model)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "make_mixture", stop)  # behind the training
        with pytest.raises(KeyboardInterrupt):
            make(TINY)
    assert list(tmp_path.rglob("sequence.state"))  # of which the training's own tests show that it goes on from there
    make(replace(TINY, epochs=2))  # other settings are not held up by it
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_dataset_tells_no_local_path(shop: Path, tmp_path: Path) -> None:
    toy_tokenizer().save_pretrained(tmp_path / "private" / "tok")
    near = tmp_path / "private" / "near.jsonl"
    near.write_text("".join(json.dumps({"item_id": i, "neighbors": IDS}) + "\n" for i in IDS))
    mixture = MixtureConfig(tokenizer=str(tmp_path / "private" / "tok"), collaborative=1.0, neighbors=str(near))
    make_dataset(shop, shop / "catalog", tmp_path / "d", mixture)
    for name in ("README.md", "grlm_dataset.json"):
        text = (tmp_path / "d" / name).read_text()
        assert "near.jsonl" in text
        assert "private" not in text
    about = json.loads((tmp_path / "d" / "grlm_dataset.json").read_text())["mixture"]
    assert (about["settings"]["tokenizer"], about["templates_hash"]) == ("tok", templates_hash())


def test_a_dataset_without_a_validation_example_still_trains(shop: Path, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tok")
    budget = max(example_tokens(tokenizer, [s.make((), 0) for s in title_to_term_id(CATALOG)]))  # type: ignore[list-item]
    mixture = MixtureConfig(
        sequence=0.0, internalise=0.0, title_to_term_id=1.0, history="both", max_tokens=budget, tokenizer=str(tmp_path / "tok")
    )
    make_dataset(shop, shop / "catalog", tmp_path / "d", mixture)
    grlm = make_checkpoint(tmp_path / "d", tmp_path / "checkpoint", TrainConfig(max_steps=1))
    assert len(grlm.recommend(IDS[:5], 3)) == 3
