"""The verbs of the data half, in one process for each, from raw tables to a dataset that is ready to be published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forks import grlm
from test_cli import jsonl, refused, tree
from toys import TERM_IDS, toy_catalog, toy_histories

ITEMS = [{"item_id": i.item_id, "title": i.title, "description": i.description} for i in toy_catalog()]
EVENTS = [{"user_id": h.user_id, "item_id": i} for h in toy_histories(6) for i in h.items]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_bytes(jsonl(ITEMS))
    (tmp_path / "shop" / "interactions.jsonl").write_bytes(jsonl(EVENTS))
    (tmp_path / "given.jsonl").write_bytes(jsonl([{"item_id": i["item_id"], "terms": t} for i, t in zip(ITEMS, TERM_IDS, strict=True)]))
    return tmp_path


TINY = ("--set", "terms.generator=transformers", "--set")


def done(folder: Path, *args: str) -> str:
    run = grlm(*args, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_from_tables_to_a_dataset_that_can_be_published(shop: Path) -> None:
    assert "neighbours of 12 items (embedder tf-idf, index exact, recall 1.0) → near.parquet" in done(
        shop, "neighbors", "shop", "--output", "near.parquet"
    )
    assert "12 items" in done(shop, "terms", "shop", "--neighbors", "near.parquet", "--output", "catalog")
    assert {p.name for p in (shop / "catalog").iterdir()} == {"catalog.parquet", "neighbors.parquet", "terms.json"}
    said = done(shop, "quality", "catalog", "--set", "quality.compare=given.jsonl", "--set", "quality.compare_name=by hand")
    assert "by hand" in said
    assert "legal Term IDs" in said
    report = json.loads(done(shop, "quality", "catalog", "--json"))
    assert list(report["sets"]) == ["ours"]
    done(shop, "dataset", "shop", "--catalog", "catalog", "--quality", "quality", "--output", "datasets")
    facts = json.loads((shop / "datasets" / "grlm_dataset.json").read_text())
    assert facts["terms"]["generator"] == "extract"
    assert facts["neighbors"]["embedder"] == "tf-idf"
    assert facts["quality"]["sets"].keys() == {"ours"}
    assert str(shop) not in json.dumps(facts)
    listed = done(shop, "dataset", "push", "org/shop", "--from", "datasets", "--license", "cc-by-4.0", "--dry-run")
    assert "dataset org/shop:" in listed
    assert "quality.png" in listed
    assert "sft/train-00000-of-00001.parquet" in listed


def test_two_shops_are_joined(shop: Path) -> None:
    facts = json.loads(done(shop, "join", "one=shop", "two=shop", "--shared-users", "--output", "both"))
    assert facts["domains"]["two"]["items"] == 12
    assert "24 items" in done(shop, "terms", "both", "--output", "catalog")
    done(shop, "dataset", "both", "--catalog", "catalog", "--output", "datasets", "--set", "read.split=leave-one-out-per-domain")


def test_half_of_the_answers_is_no_mistake_and_no_catalog(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from writer_toys import save_toy_llm

    model = save_toy_llm(tmp_path_factory.mktemp("llm"))
    given = ("terms", "shop", "--output", "catalog", "--set", "terms.generator=transformers", "--set", f"terms.llm.model={model}")
    small = (*given, "--set", "terms.llm.shard_size=4", "--set", "terms.llm.second_pass=none")
    said = done(shop, *small, "--part", "0/2")
    assert "1 of 3 shards of the first pass are not written yet" in said
    assert not (shop / "catalog").exists()
    done(shop, "terms", "shop", "--output", "catalog", "--set", "terms.generator=extract")  # meanwhile
    assert len(list((shop / ".catalog-answers").rglob("*.parquet"))) == 2
    assert "All answers are written" in done(shop, *small, "--part", "1/2")
    done(shop, *small)
    facts = json.loads((shop / "catalog" / "terms.json").read_text())
    assert facts["answers"] == 12
    assert model not in json.dumps(facts)
    assert [p.name for p in shop.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("neighbors", "nowhere"), "No data folder at 'nowhere'"),
        (("neighbors", "shop", "--output", "shop"), "shop is a folder; name a file for the neighbours"),
        (("neighbors", "shop", "--set", "neighbors.k=0"), "neighbors.k is 0; expected at least 1"),
        (("neighbors", "shop", "--set", "neighbors.indx=ivf"), "Did you mean 'neighbors.index'"),
        (("neighbors", "shop", "--output", "given.jsonl"), "given.jsonl is no file of neighbours, and will not be replaced"),
        (("neighbors", "shop", "--set", "neighbors.devices=cuda:99,cuda:98"), "There is no device 'cuda:99' here"),
        (("terms", "shop", "--output", "out", "--neighbors", "given.jsonl"), "given.jsonl"),
        (("terms", "shop", "--output", "out", "--part", "0/2"), "the terms come from 'extract': leave --part out"),
        (("terms", "shop", "--output", "out", "--part", "2/2"), "terms.llm.part is '2/2'; expected like 0/8"),
        (("terms", "shop", "--output", "out", "--set", "terms.n_terms=9"), "terms.n_terms is 9; expected 3 to 8"),
        (("terms", "shop", "--output", "out", *TINY, "terms.llm.model=shop"), "neither a folder with a tokenizer"),
        (("quality", "nowhere"), "No catalog folder at 'nowhere'"),
        (("quality", "shop"), "holds no catalog"),
        (("dataset", "shop", "--catalog", "shop", "--output", "out", "--quality", "shop"), "shop holds no quality.json"),
        (("join", "one=shop", "--output", "both"), "two"),
        (("join", "one=shop", "One=shop", "--output", "both"), "One"),
        (("dataset", "push", "org/x", "--from", "shop", "--license", "mit"), "no dataset folder of `grlm dataset`"),
        (("dataset", "push", "org/x"), "No dataset folder at datasets"),
    ],
)  # fmt: skip
def test_mistakes_end_in_a_sentence(shop: Path, args: tuple[str, ...], message: str) -> None:
    before = tree(shop)
    assert message in refused(shop, *args)
    assert tree(shop) == before
