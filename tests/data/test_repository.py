"""Tables and facts of dataset repositories, as they are now: in folders that change, at revisions of the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dataset_toys import toy_facts, toy_tables
from hub_server import HubServer
from huggingface_hub import HfApi
from toys import toy_catalog

from grlm_hf.data.interactions import Case, History
from grlm_hf.data.repository import dataset_facts, load_cases, load_table, sample_cases, train_histories
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.publishing.publish import publish


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "datasets"
    save_datasets(toy_tables(), toy_catalog(), folder, toy_facts())
    return folder


def test_every_table_is_read_as_it_was_written(folder: Path) -> None:
    for config, splits in toy_tables().items():
        for split, rows in splits.items():
            found = load_table(folder, config, split)
            assert found.to_list() == rows.to_list()
            assert found.features == rows.features


def test_a_file_that_was_rewritten_behind_the_same_card_is_read_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "datasets")
    before = load_table(tmp_path / "datasets", "cases", "test").to_list()
    (path,) = (tmp_path / "datasets" / "cases").glob("test-*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    assert load_table(tmp_path / "datasets", "cases", "test").to_list() == before[:3]
    # another folder of the same name and card is not mistaken for it either
    assert load_table(folder, "cases", "test").to_list() == before


def test_a_table_that_others_wrote(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "test.jsonl").write_text('{"user_id": "u", "history": ["a", "b"], "target": "c"}\n')
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: cases\n  data_files:\n  - {split: test, path: cases/*}\n---\n")
    assert load_cases(tmp_path, "test") == [Case("u", ("a", "b"), "c")]
    (tmp_path / "cases" / "test.jsonl").write_text('{"user_id": "u", "history": [], "target": "c"}\n')
    assert load_cases(tmp_path, "test") == [Case("u", (), "c")]


def test_tables_that_are_not_there(hub: HubServer, folder: Path) -> None:
    with pytest.raises(ValueError, match="no table 'cases' with a split 'tset': its splits are validation, test"):
        load_table(folder, "cases", "tset")
    with pytest.raises(ValueError, match="no table 'csaes' with a split 'test'"):
        load_table(folder, "csaes", "test")
    with pytest.raises(ValueError, match="no table 'cases'"):
        load_table("nowhere-at-all", "cases", "test")


def test_histories_and_cases(folder: Path) -> None:
    rows = toy_tables()["interactions"]["train"].to_list()
    found = train_histories(folder)
    assert found[0] == History("u0", tuple(r["item_id"] for r in rows if r["user_id"] == "u0"))
    assert sum(len(h.items) for h in found) == len(rows)
    cases = load_cases(folder, "validation")
    assert [(c.user_id, list(c.history), c.target) for c in cases] == [tuple(r.values()) for r in load_table(folder, "cases", "validation")]
    some = sample_cases(cases, 7, seed=3)
    assert len(some) == len(set(some)) == 7
    assert set(some) < set(cases)
    assert some == sample_cases(cases[::-1], 7, seed=3) != sample_cases(cases, 7, seed=4)
    assert set(sample_cases(cases, 10**6, seed=0)) == set(cases)


def test_a_revision_and_a_token(hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(folder, "org/revised", license="mit")
    first = HfApi().dataset_info("org/revised").sha
    save_datasets(toy_tables(users=8), toy_catalog(), tmp_path / "datasets", toy_facts(title="newer"))
    publish(tmp_path / "datasets", "org/revised", license="mit")
    assert load_table("org/revised", "cases", "test", revision=first).to_list() == toy_tables()["cases"]["test"].to_list()
    assert len(load_table("org/revised", "cases", "test")) == 8
    assert dataset_facts("org/revised", revision=first)["title"] == toy_facts()["title"] != "newer"
    assert dataset_facts("org/revised")["title"] == "newer"
    publish(folder, "org/private", license="mit")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no repository on the Hub that you may read"):
        dataset_facts("org/private")
    with pytest.raises(ValueError, match="no table 'cases' with a split 'test'"):
        load_table("org/private", "cases", "test")
    assert dataset_facts("org/private", token=hub.token)["title"] == toy_facts()["title"]
    assert len(load_table("org/private", "cases", "test", token=hub.token)) == 40
