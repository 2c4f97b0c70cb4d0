from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_dataset
from hub_server import HubServer
from huggingface_hub import HfApi
from toys import toy_catalog, toy_grlm, toy_histories
from transformers import AutoModelForCausalLM

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.files import write_json
from grlm_hf.hub import publish, push_folder
from grlm_hf.stages import make_dataset

HISTORY = ["i20", "i15"]


def test_checkpoint_round_trip(hub: HubServer) -> None:
    grlm = toy_grlm()
    grlm.push_to_hub("org/toy-recommender")
    assert len(hub.commits("org/toy-recommender", "model")) == 2  # the repository's first, and one atomic upload
    loaded = GRLMForRecommendation.from_pretrained("org/toy-recommender")
    assert [r.item_id for r in loaded.recommend(HISTORY, 5)] == [r.item_id for r in grlm.recommend(HISTORY, 5)]
    assert AutoModelForCausalLM.from_pretrained("org/toy-recommender").config.model_type == "qwen3"
    assert Catalog.from_pretrained("org/toy-recommender") == grlm.catalog
    assert HfApi().model_info("org/toy-recommender").private


def test_catalog_round_trip(hub: HubServer) -> None:
    toy_catalog().push_to_hub("org/toy-catalog")
    assert Catalog.from_pretrained("org/toy-catalog") == toy_catalog()
    assert load_dataset("org/toy-catalog", split="train")["terms"][0] == list(toy_catalog().term_ids[0])


@pytest.fixture(scope="module")
def datasets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("data")
    toy_catalog().save_pretrained(work / "catalog")
    with open(work / "sequences.jsonl", "w") as file:
        for h in toy_histories():
            file.write(f'{{"user_id": "{h.user_id}", "items": {list(h.items)}}}\n'.replace("'", '"'))
    make_dataset(work, work / "catalog", work / "datasets", title="Toy", notice="Toys only.")
    return work / "datasets"


def test_dataset_round_trip_every_config(hub: HubServer, datasets_folder: Path) -> None:
    publish(datasets_folder, "org/toy-data")
    for config in ("items", "interactions", "term_ids", "cases", "sft"):
        here, there = load_dataset(str(datasets_folder), config), load_dataset("org/toy-data", config)
        assert here.keys() == there.keys()
        for split in here:
            assert here[split].features == there[split].features
            assert here[split].to_list() == there[split].to_list()
            assert len(here[split])
    assert load_dataset("org/toy-data", split="train").column_names[:2] == ["item_id", "title"]  # items is the default
    assert Catalog.from_pretrained("org/toy-data") == toy_catalog()


def test_a_push_that_dies_leaves_readers_the_last_version(
    hub: HubServer, datasets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    publish(datasets_folder, "org/toy-dying")
    before = hub.files("org/toy-dying", "dataset")
    catalog = toy_catalog().remove(["i9"])
    catalog.save_pretrained(tmp_path / "new")
    write_json(tmp_path / "new" / "more.json", {})
    hub.fail_after = 0
    try:
        with pytest.raises((RuntimeError, OSError)):
            push_folder(tmp_path / "new", "org/toy-dying", repo_type="dataset")
    finally:
        hub.fail_after = None
    assert hub.files("org/toy-dying", "dataset") == before
    push_folder(tmp_path / "new", "org/toy-dying", repo_type="dataset")
    left = hub.files("org/toy-dying", "dataset").keys() - {".gitattributes"}
    assert left == {"README.md", "catalog.parquet", "more.json"}  # the tables are gone, the card stays
    assert Catalog.from_pretrained("org/toy-dying") == catalog


def test_publish_refuses_other_folders_and_lists_files_when_dry(tmp_path: Path, datasets_folder: Path) -> None:
    with pytest.raises(ValueError, match="neither a checkpoint"):
        publish(tmp_path, "org/x")
    listing = publish(datasets_folder, "org/never", dry_run=True)
    assert listing.startswith("dataset org/never:")
    assert "sft/train-" in listing
    assert ".gitattributes" not in listing


def test_a_push_removes_nothing_that_is_not_ours(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo("org/precious", repo_type="dataset", private=True)
    api.upload_file(repo_id="org/precious", repo_type="dataset", path_in_repo="precious.csv", path_or_fileobj=b"1")
    toy_catalog().push_to_hub("org/precious")
    assert {"precious.csv", "catalog.parquet"} <= hub.files("org/precious", "dataset").keys()
    api.create_repo("org/open", repo_type="dataset", private=False)
    with pytest.raises(ValueError, match="exists and is public"):
        toy_catalog().push_to_hub("org/open")


def test_errors_name_the_repository(hub: HubServer) -> None:
    push_folder(_folder_with_card(hub), "org/empty", private=False)
    with pytest.raises(ValueError, match="'org/empty' holds no catalog"):
        Catalog.from_pretrained("org/empty")
    with pytest.raises(ValueError, match=r"org/empty holds no catalog\.parquet: it is not a GRLM checkpoint"):
        GRLMForRecommendation.from_pretrained("org/empty")
    with pytest.raises(ValueError, match="'org/absent' is no folder here, and no repository"):
        Catalog.from_pretrained("org/absent")
    with pytest.raises(ValueError, match="no such revision"):
        GRLMForRecommendation.from_pretrained("org/empty", revision="v9")


def _folder_with_card(hub: HubServer) -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    (folder / "README.md").write_text("# Nothing else\n")
    return folder
