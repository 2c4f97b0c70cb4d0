"""The test Hub, proved by the clients it stands in for: what they push they read back, and they raise their own exceptions."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

CARD = "---\nlicense: mit\ntags:\n- toy\n---\n# A toy\n"


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A card, a parquet and a safetensors file, one of them in a subfolder."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    root = tmp_path / "folder"
    (root / "catalog").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    pq.write_table(pa.table({"item_id": ["a", "b"]}), root / "catalog" / "items.parquet")
    save_file({"weight": torch.arange(4.0)}, root / "model.safetensors")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_folder_is_one_commit_and_comes_back_whole(hub, api, folder, tmp_path):
    repo_id = api.create_repo("folder").repo_id
    assert repo_id == "tester/folder"
    pushed = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="push the folder")

    assert [message for _, message in hub.commits(repo_id)] == ["initial commit", "push the folder"]
    assert hub.commits(repo_id)[-1][0] == pushed.oid == api.model_info(repo_id).sha
    snapshot = snapshot_download(repo_id, local_dir=tmp_path / "copy", ignore_patterns=".git*")
    assert {path: data for path, data in contents(Path(snapshot)).items() if not path.startswith(".cache")} == contents(folder)
    assert {path: data for path, data in hub.files(repo_id).items() if path != ".gitattributes"} == contents(folder)
    assert set(api.list_repo_files(repo_id)) == {".gitattributes", *contents(folder)}
    info = api.model_info(repo_id, files_metadata=True)
    assert info.card_data.license == "mit"
    assert {sibling.rfilename for sibling in info.siblings if sibling.lfs} == {"catalog/items.parquet", "model.safetensors"}
    assert {entry.path for entry in api.list_repo_tree(repo_id)} == {".gitattributes", "README.md", "catalog", "model.safetensors"}
    assert [entry.path for entry in api.list_repo_tree(repo_id, "catalog")] == ["catalog/items.parquet"]
    assert [entry.path for entry in api.get_paths_info(repo_id, ["catalog", "README.md", "absent"])] == ["catalog", "README.md"]
    # the same folder again: nothing is uploaded, nothing is committed
    hub.requests.clear()
    api.upload_folder(repo_id=repo_id, folder_path=folder)
    assert len(hub.commits(repo_id)) == 2
    assert not any(line.startswith("PUT") for line in hub.requests)


def test_creating_twice_is_a_conflict_unless_allowed(api):
    created = api.create_repo("tester/twice", repo_type="dataset")
    assert api.create_repo("tester/twice", repo_type="dataset", exist_ok=True) == created
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("tester/twice", repo_type="dataset")
    assert error.value.response.status_code == 409
    assert not api.repo_exists("tester/twice")  # a model is another repo
    api.delete_repo("tester/twice", repo_type="dataset")
    assert not api.repo_exists("tester/twice", repo_type="dataset")


def test_a_commit_is_atomic_and_an_older_sha_stays_readable(hub, api):
    repo_id = api.create_repo("history").repo_id
    first = api.upload_file(repo_id=repo_id, path_in_repo="data/one.txt", path_or_fileobj=b"1").oid
    api.create_tag(repo_id, tag="v1")
    changes = [CommitOperationDelete("data/"), CommitOperationAdd("two.txt", b"2"), CommitOperationAdd("two.bin", b"\0\1")]
    second = api.create_commit(repo_id, operations=changes, commit_message="change", parent_commit=first).oid

    assert set(hub.files(repo_id)) == {".gitattributes", "two.txt", "two.bin"}
    assert hub.files(repo_id, revision=first)["data/one.txt"] == b"1"
    for revision in (first, "v1"):
        assert set(contents(Path(snapshot_download(repo_id, revision=revision)))) == {".gitattributes", "data/one.txt"}
    refs = api.list_repo_refs(repo_id)
    assert [(ref.name, ref.target_commit) for ref in refs.branches + refs.tags] == [("main", second), ("v1", first)]
    api.create_branch(repo_id, branch="try/out", revision=first)  # a slash travels quoted
    api.upload_file(repo_id=repo_id, path_in_repo="data/one.txt", path_or_fileobj=b"one", revision="try/out")
    assert Path(hf_hub_download(repo_id, "data/one.txt", revision="try/out")).read_bytes() == b"one"
    for bad in (
        {"operations": [CommitOperationAdd("three.txt", b"3"), CommitOperationDelete("absent.txt")]},
        {"operations": [CommitOperationAdd("three.txt", b"3")], "parent_commit": first},  # no longer the parent
    ):
        with pytest.raises(HfHubHTTPError):
            api.create_commit(repo_id, commit_message="bad", **bad)
    assert api.model_info(repo_id).sha == second


def test_dataset_configs_load_plain_and_streaming(hub):
    from datasets import Dataset, get_dataset_config_names, load_dataset

    rows = {"items": {"item_id": ["a", "b", "c"]}, "interactions": {"user": [1, 1], "item_id": ["c", "a"]}}
    for config, columns in rows.items():
        Dataset.from_dict(columns).push_to_hub("tester/toys", config, private=True, set_default=config == "items")

    assert set(get_dataset_config_names("tester/toys")) == set(rows)
    assert load_dataset("tester/toys", split="train").to_dict() == rows["items"]  # the default config
    for config, columns in rows.items():
        assert load_dataset("tester/toys", config, split="train").to_dict() == columns
        hub.requests.clear()
        streamed = list(load_dataset("tester/toys", config, split="train", streaming=True))
        assert streamed == [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        assert any(line.endswith(" 206") for line in hub.requests)  # read in ranges, not downloaded
    # pushed again, a config replaces its own rows and leaves the other alone
    Dataset.from_dict({"item_id": ["d"]}).push_to_hub("tester/toys", "items")
    assert load_dataset("tester/toys", "items", split="train").to_dict() == {"item_id": ["d"]}
    assert load_dataset("tester/toys", "interactions", split="train").to_dict() == rows["interactions"]


def test_a_pushed_model_generates_the_same(hub):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {"<unk>": 0, "<eos>": 1, "red": 2, "blue": 3, "shoe": 4, "lamp": 5}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), head_dim=8, **sizes)).eval()
    model.push_to_hub("tester/tiny")
    tokenizer.push_to_hub("tester/tiny")

    inputs = AutoTokenizer.from_pretrained("tester/tiny")(["red shoe"], return_tensors="pt")
    assert inputs["input_ids"].tolist() == tokenizer(["red shoe"])["input_ids"] == [[2, 4]]
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained("tester/tiny").eval()(inputs["input_ids"]).logits
        assert torch.equal(loaded, model(inputs["input_ids"]).logits)


def test_a_private_repo_is_not_there_for_a_stranger(hub, api, folder):
    repo_id = api.create_repo("secret", private=True).repo_id
    api.upload_folder(repo_id=repo_id, folder_path=folder)
    assert api.model_info(repo_id).private
    assert Path(hf_hub_download(repo_id, "README.md")).read_text() == CARD

    for token in (False, "hf_of_somebody_else"):
        stranger = HfApi(token=token)
        for attempt in (
            lambda api: api.model_info(repo_id),
            lambda api: api.list_repo_files(repo_id),
            lambda api: api.hf_hub_download(repo_id, "model.safetensors", force_download=False, cache_dir=folder.parent / "cache"),
            lambda api: api.snapshot_download(repo_id, cache_dir=folder.parent / "cache"),
            lambda api: api.upload_folder(repo_id=repo_id, folder_path=folder),
        ):
            with pytest.raises(RepositoryNotFoundError):
                attempt(stranger)
        with pytest.raises(HfHubHTTPError):
            stranger.create_repo("tester/theirs")
        with pytest.raises(HfHubHTTPError):
            stranger.delete_repo(repo_id)
        with pytest.raises(HfHubHTTPError):
            stranger.whoami(token=token or "hf_none")
    assert api.whoami()["name"] == "tester"
    assert len(hub.commits(repo_id)) == 2


def test_what_is_missing_raises_the_clients_own_exceptions(hub, api):
    repo_id = api.create_repo("present").repo_id
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tester/absent", "README.md")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("squad")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(repo_id, ".gitattributes", revision="absent")
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(repo_id, revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo_id, "README.md")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo_id, "absent"))
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        api.upload_file(repo_id=repo_id, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")
    with pytest.raises(HfHubHTTPError, match="501"):  # what the server does not speak, it says
        api.list_repo_commits(repo_id)


def test_a_push_that_dies_halfway_leaves_main_alone(hub, api, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # five retries, 23 s
    repo_id = api.create_repo("halfway").repo_id
    before = api.upload_file(repo_id=repo_id, path_in_repo="README.md", path_or_fileobj=CARD.encode()).oid
    for shard in range(4):
        (tmp_path / f"{shard}.safetensors").write_bytes(bytes([shard]) * 1000)
    monkeypatch.setattr(hub, "fail_after", 1)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.upload_folder(repo_id=repo_id, folder_path=tmp_path)
    assert api.model_info(repo_id).sha == before
    assert set(hub.files(repo_id)) == {".gitattributes", "README.md"}

    hub.fail_after = None
    hub.requests.clear()
    api.upload_folder(repo_id=repo_id, folder_path=tmp_path)
    assert {path: data for path, data in hub.files(repo_id).items() if path.endswith("safetensors")} == contents(tmp_path)
    assert sum(line.startswith("PUT") for line in hub.requests) == 3  # the first had arrived
