"""Publishing and loading with the real clients against the test Hub: what readers see is always one whole version."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from dataset_toys import toy_facts, toy_tables
from datasets import Dataset, load_dataset
from hub_server import Cut, HubServer
from huggingface_hub import DatasetCard, HfApi
from toys import toy_catalog, toy_grlm
from transformers import AutoModelForCausalLM

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.items import items_to_dataset
from grlm_hf.files import write_json
from grlm_hf.hub import push_folder
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.publishing.licenses import license_fields
from grlm_hf.publishing.publish import publish

HISTORY = ["i20", "i15"]
NEWER = toy_catalog().remove(["i9"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of several shards, to be read, not changed."""
    work = tmp_path_factory.mktemp("data")
    save_datasets(toy_tables(), toy_catalog(), work / "datasets", toy_facts(), shard_bytes=1500)
    return work / "datasets"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version of it: other rows, fewer shards, one table less."""
    work = tmp_path_factory.mktemp("newer")
    tables = {name: splits for name, splits in toy_tables(NEWER, users=31).items() if name != "cases"}
    save_datasets(tables, NEWER, work / "datasets", toy_facts(title="Newer"))
    return work / "datasets"


@pytest.fixture
def impatient(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    """The client does not wait between its retries, and the Hub breaks nothing after the test."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    yield
    hub.before.clear()
    hub.after.clear()


def tracked(folder: Path) -> dict[str, bytes]:
    """What a folder would look like on the Hub, but for the card, which is adapted."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "README.md"}


def there(hub: HubServer, repo_id: str) -> dict[str, bytes]:
    return {name: data for name, data in hub.files(repo_id, "dataset").items() if name not in ("README.md", ".gitattributes")}


# --- round trips -----------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("streaming", [False, True])
def test_every_table_round_trip(hub: HubServer, folder: Path, streaming: bool) -> None:
    found = publish(folder, "org/toy-data", license="cc-by-4.0")
    assert found.url.endswith("/datasets/org/toy-data")
    assert (found.repo_type, found.license) == ("dataset", "cc-by-4.0")
    assert found.files == {name: len(data) for name, data in hub.files("org/toy-data", "dataset").items() if name != ".gitattributes"}
    assert found.card == hub.files("org/toy-data", "dataset")["README.md"].decode()
    for config, splits in toy_tables().items():
        loaded = load_dataset("org/toy-data", config, streaming=streaming)
        assert list(loaded) == list(splits)
        for split, rows in splits.items():
            assert list(loaded[split]) == rows.to_list()
            assert loaded[split].features == rows.features
    assert load_dataset("org/toy-data", split="train").column_names[:2] == ["item_id", "title"]  # items is the default
    assert Catalog.from_pretrained("org/toy-data") == toy_catalog()
    assert HfApi().dataset_info("org/toy-data").private


def test_the_code_in_a_published_card_runs(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    publish(folder, "org/toy-card", license="mit")
    toy_catalog().push_to_hub("org/toy-card-catalog")
    for name in [name for name in sys.modules if name.split(".")[0] == "grlm_hf"]:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]  # importing any of it fails
    with pytest.raises(ImportError):
        import grlm_hf  # noqa: F401
    for repo_id in ("org/toy-card", "org/toy-card-catalog"):
        (block,) = re.findall(r"```python\n(.*?)```", hub.files(repo_id, "dataset")["README.md"].decode(), re.DOTALL)
        found: dict = {}
        exec(block, found)
        assert found["repo"] == repo_id
        tables = {name: value for name, value in found.items() if isinstance(value, Dataset)}
        assert set(tables) == ({"catalog"} if "catalog" in repo_id else set(toy_tables()))
        assert all(len(rows) for rows in tables.values())
    assert "'role': 'assistant'" in capsys.readouterr().out


# --- licences --------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_published_without_a_licence(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    toy_grlm().save_pretrained(tmp_path / "checkpoint")
    toy_catalog().save_pretrained(tmp_path / "catalog")
    for kind, place in (("dataset", folder), ("model", tmp_path / "checkpoint"), ("dataset", tmp_path / "catalog")):
        with pytest.raises(ValueError, match=r"needs a licence.*cc-by-4\.0.*license_name and a license_link"):
            publish(place, "org/unlicensed")
        assert (f"{kind}s", "org/unlicensed") not in hub.repos
        assert "licence: none yet. What is published needs a licence" in publish(place, "org/unlicensed", dry_run=True).listing()
        assert publish(place, "org/unlicensed", dry_run=True, license="mit").listing().count("\nlicence: mit\n") == 1
        repo_id = f"org/licensed-{place.name}"
        publish(place, repo_id, license="other", license_name="shop-1.0", license_link="https://example.org/terms")
        assert len(hub.commits(repo_id, kind)) == 2  # the licence is there from the first version on
        head = yaml.safe_load(hub.files(repo_id, kind)["README.md"].decode().split("---\n")[1])
        assert {k: v for k, v in head.items() if "license" in k} == {
            "license": "other", "license_name": "shop-1.0", "license_link": "https://example.org/terms",
        }  # fmt: skip


def test_a_licence_in_the_card_counts_and_the_card_is_kept(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path)
    body = '\n# Mine\n\nrepo = "PATH-OR-REPO"\n---\nlicense: none of this\n```python\nrepo = "PATH-OR-REPO"\n```\n'
    (tmp_path / "README.md").write_text(
        f"---\nlicense: odbl\nmy_key: [1, 水]\nconfigs:\n- config_name: a\n  data_files: '*.parquet'\n---\n{body}"
    )
    publish(tmp_path, "org/own-card")
    card = DatasetCard(hub.files("org/own-card", "dataset")["README.md"].decode())
    assert (card.data["license"], card.data["my_key"]) == ("odbl", [1, "水"])
    assert card.text == body.replace('```python\nrepo = "PATH-OR-REPO"', '```python\nrepo = "org/own-card"')
    publish(tmp_path, "org/own-card", license="other", license_name="x", license_link="https://x.y")
    publish(tmp_path, "org/own-card", license="mit")  # what is given counts
    head = DatasetCard(hub.files("org/own-card", "dataset")["README.md"].decode()).data.to_dict()
    assert {k: v for k, v in head.items() if "license" in k} == {"license": "mit"}
    assert load_dataset("org/own-card", "a", split="train").num_rows == 12
    for broken in (
        "---\nlicense: [unclosed\n---\n",
        "---\nlicense: My Own\n---\n",
        "---\nlicense: [mit, gpl-3.0]\n---\n",
        "---\n- mit\n---\n",
    ):
        (tmp_path / "README.md").write_text(broken)
        with pytest.raises(ValueError, match=r"YAML at the head|is no id of the Hub's list"):
            publish(tmp_path, "org/own-card")
    (tmp_path / "README.md").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        publish(tmp_path, "org/own-card", license="mit")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("CC-BY-4.0",), "Did you mean 'cc-by-4.0'"),
        (("Apache 2.0",), "Did you mean 'apache-2.0'"),
        (("MIT",), "Did you mean 'mit'"),
        (("mit\nlicense: x",), "lower case without spaces"),
        (("私",), "Expected an id such as"),
        (("mit", "x", ""), "go with licence 'other' only"),
        (("other",), "needs a license_name"),
        (("other", "My Terms", "https://x.y"), "needs a license_name in lower case"),
        (("other", "x", ""), "needs a license_link"),
        (("other", "x", "javascript:x"), "needs a license_link"),
    ],
)
def test_licences_that_the_hub_would_not_read(given: tuple[str, ...], said: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=said):
        license_fields(*given)
    name = dict(zip(("license", "license_name", "license_link"), given, strict=False))
    for dry_run in (False, True):
        with pytest.raises(ValueError, match=said):
            publish(folder, "org/never", dry_run=dry_run, **name)  # type: ignore[arg-type]


def test_a_licence_file_must_be_there(hub: HubServer, tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path)
    other = {"license": "other", "license_name": "x", "license_link": "LICENSE"}
    with pytest.raises(ValueError, match="links to LICENSE, a file that"):
        publish(tmp_path, "org/licence-file", **other)  # type: ignore[arg-type]
    (tmp_path / "LICENSE").write_text("Be good.")
    publish(tmp_path, "org/licence-file", **other)  # type: ignore[arg-type]
    assert hub.files("org/licence-file", "dataset")["LICENSE"] == b"Be good."


# --- a push that dies, and two at once -------------------------------------------------------------------------------------------------


def count_down(n: int) -> Callable[[], None]:
    """Lets `n` requests through, then cuts."""
    left = [n]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cut

    return step


@pytest.mark.parametrize("at", ["create", "info", "preupload", "lfs_batch", "lfs_upload", "lfs_verify", "commit"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_push_that_dies_leaves_one_whole_version(
    hub: HubServer, folder: Path, newer: Path, impatient: None, at: str, moment: str
) -> None:
    repo_id = f"org/dying-{at.replace('_', '-')}-{moment}"
    publish(folder, repo_id, license="mit")
    old = hub.files(repo_id, "dataset")
    hub.requests.clear()
    getattr(hub, moment)[at] = count_down(3 if at in ("lfs_upload", "lfs_verify") else 0)
    with pytest.raises(ConnectionError, match=r"broke off.*never a mixture. Push again"):
        publish(newer, repo_id, license="mit")
    getattr(hub, moment).clear()
    arrived = {line.split()[1] for line in hub.requests if line.startswith("PUT") and line.endswith("200")}
    committed = at == "commit" and moment == "after"  # the answer was lost, not the commit
    assert (there(hub, repo_id) == tracked(newer)) if committed else (hub.files(repo_id, "dataset") == old)
    expected = NEWER if committed else toy_catalog()
    assert Catalog.from_pretrained(repo_id) == expected
    assert load_dataset(repo_id, "term_ids", split="train")["item_id"][:] == [i.item_id for i in expected]
    hub.requests.clear()
    publish(newer, repo_id, license="mit")
    assert there(hub, repo_id) == tracked(newer)
    assert len(hub.commits(repo_id, "dataset")) == 3  # the repository's first, and one for each version
    second = sum(line.startswith("PUT") for line in hub.requests)
    large = {data for name, data in tracked(newer).items() if name.endswith((".parquet", ".png"))} - set(old.values())
    assert second == len(large) - len(arrived)  # nothing twice
    if at == "lfs_upload" and moment == "before":
        assert 3 <= len(arrived) < len(large)
    assert load_dataset(repo_id, "interactions", split="train").to_list() == toy_tables(NEWER, 31)["interactions"]["train"].to_list()


def test_what_readers_see_during_a_push(hub: HubServer, folder: Path, newer: Path, impatient: None) -> None:
    publish(folder, "org/watched", license="mit")
    seen: list[tuple[Catalog, list]] = []

    def look() -> None:
        hub.before.clear()
        seen.append((Catalog.from_pretrained("org/watched"), load_dataset("org/watched", "sft", split="train").to_list()))

    hub.before["commit"] = look  # all is uploaded, nothing committed
    publish(newer, "org/watched", license="mit")
    assert seen == [(toy_catalog(), toy_tables()["sft"]["train"].to_list())]
    assert Catalog.from_pretrained("org/watched") == NEWER


def test_the_slower_of_two_pushes_is_told(hub: HubServer, folder: Path, newer: Path, impatient: None) -> None:
    publish(folder, "org/raced", license="mit")

    def other() -> None:
        hub.before.clear()
        publish(newer, "org/raced", license="mit")

    hub.before["commit"] = other
    changed = push_folder_of(folder)
    with pytest.raises(ValueError, match="Somebody else changed org/raced during this push, which therefore changed nothing"):
        push_folder(changed, "org/raced", repo_type="dataset")
    assert there(hub, "org/raced") == tracked(newer)
    push_folder(changed, "org/raced", repo_type="dataset")
    assert there(hub, "org/raced") == tracked(changed)


def push_folder_of(folder: Path) -> Path:
    """A third version beside it."""
    third = folder.parent / "third"
    save_datasets({"items": toy_tables()["items"]}, toy_catalog(), third, toy_facts(title="Third"))
    return third


def test_two_pushes_at_once_end_whole(hub: HubServer, folder: Path, newer: Path, impatient: None) -> None:
    def attempt(place: Path) -> str:
        try:
            publish(place, "org/both", license="mit")
        except ValueError as error:
            return str(error)
        return ""

    publish(folder, "org/both", license="mit")
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(attempt, (folder, newer)))
        assert "" in said
        assert all(not text or "Somebody else changed" in text for text in said)
        assert there(hub, "org/both") in (tracked(folder), tracked(newer))


def test_a_new_version_leaves_nothing_of_the_old_but_what_is_not_ours(hub: HubServer, folder: Path, newer: Path) -> None:
    publish(folder, "org/versions", license="mit")
    api = HfApi()
    for name in ("LICENSE", "notes.md", "figures/a.txt"):
        api.upload_file(repo_id="org/versions", repo_type="dataset", path_in_repo=name, path_or_fileobj=b"mine")
    publish(newer, "org/versions", license="mit")
    mine = dict.fromkeys(("LICENSE", "notes.md", "figures/a.txt"), b"mine")
    assert there(hub, "org/versions") == tracked(newer) | mine
    hub.requests.clear()
    publish(newer, "org/versions", license="mit")  # the same again: nothing is uploaded, nothing committed
    assert not [line for line in hub.requests if line.startswith("PUT") or "/commit/" in line]


# --- refusals --------------------------------------------------------------------------------------------------------------------------


def test_publish_refuses_other_folders_and_lists_files_when_dry(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="neither a checkpoint"):
        publish(tmp_path, "org/x")
    found = publish(folder, "org/never", dry_run=True)
    listing = found.listing()
    assert found.url is None
    assert listing.startswith("dataset org/never:")
    assert "sft/train-" in listing
    assert ".gitattributes" not in listing
    assert ("datasets", "org/never") not in hub.repos
    with pytest.raises(ValueError, match="no files to push"):
        push_folder(tmp_path, "org/x")


def test_publish_refuses_a_dataset_that_is_not_whole(tmp_path: Path) -> None:
    save_datasets({"items": toy_tables()["items"]}, toy_catalog(), tmp_path / "d", toy_facts())
    (tmp_path / "d" / "README.md").rename(tmp_path / "d" / "away.md")
    with pytest.raises(ValueError, match=r"holds no README\.md, whose YAML names its tables"):
        publish(tmp_path / "d", "org/x", license="mit")
    (tmp_path / "d" / "away.md").rename(tmp_path / "d" / "README.md")
    next((tmp_path / "d" / "items").iterdir()).unlink()
    with pytest.raises(ValueError, match="not all of them"):
        publish(tmp_path / "d", "org/x", license="mit")
    write_json(tmp_path / "d" / "grlm_dataset.json", {"schema": 7})
    with pytest.raises(ValueError, match="has schema 7"):
        publish(tmp_path / "d", "org/x", license="mit")


@pytest.mark.parametrize("name", ["org/a/b", "../x", "org/", "a--b", "org/" + "x" * 97, "org/ä", "org/x.git", "", "org/a b"])
def test_names_that_no_repository_can_have(hub: HubServer, folder: Path, name: str) -> None:
    for dry_run in (False, True):
        with pytest.raises(ValueError, match="is no name for a repository; expected ORG/NAME"):
            publish(folder, name, license="mit", dry_run=dry_run)
    with pytest.raises(ValueError, match="is no name for a repository"):
        push_folder(folder, name)


def test_public_and_private_are_not_mistaken_for_each_other(hub: HubServer, folder: Path) -> None:
    publish(folder, "org/open", license="mit", private=False)
    assert not HfApi().dataset_info("org/open").private
    before = hub.files("org/open", "dataset")
    with pytest.raises(ValueError, match=r"org/open exists and is public\. Say that it may be \(--public\)"):
        publish(folder, "org/open", license="mit")
    toy_catalog().push_to_hub("org/closed")
    with pytest.raises(ValueError, match=r"org/closed exists and is private\. Make it public in its settings first"):
        publish(folder, "org/closed", license="mit", private=False)
    assert hub.files("org/open", "dataset") == before
    assert "grlm_dataset.json" not in hub.files("org/closed", "dataset")


def test_a_stranger_may_not_push(hub: HubServer, folder: Path) -> None:
    for repo_id in ("org/strange", "org/known"):
        if repo_id == "org/known":
            publish(folder, repo_id, license="mit", private=False)
        with pytest.raises(ValueError, match=f"You may not write to {repo_id} .*hf auth login"):
            publish(folder, repo_id, license="mit", private=False, token="hf_wrong")


def test_a_push_removes_nothing_that_is_not_ours(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo("org/precious", repo_type="dataset", private=True)
    api.upload_file(repo_id="org/precious", repo_type="dataset", path_in_repo="precious.parquet", path_or_fileobj=b"1")
    toy_catalog().push_to_hub("org/precious")
    assert {"precious.parquet", "catalog.parquet"} <= hub.files("org/precious", "dataset").keys()


# --- catalogs of others ----------------------------------------------------------------------------------------------------------------


def test_a_catalog_from_the_tables_that_others_wrote(hub: HubServer, tmp_path: Path) -> None:
    catalog = toy_catalog()
    shuffled = catalog.to_dataset().select_columns(["item_id", "terms"]).shuffle(seed=1)
    items_to_dataset(catalog.items[:7]).push_to_hub("org/tables", "items", split="first", private=True)
    items_to_dataset(catalog.items[7:]).push_to_hub("org/tables", "items", split="second", private=True)
    shuffled.push_to_hub("org/tables", "term_ids", private=True)
    assert Catalog.from_pretrained("org/tables") == catalog

    lines = {
        "items": [{"item_id": i, "title": f"T {i}", "price": "3", "color": "red", "categories": "A > B"} for i in "ab"],
        "term_ids": [{"item_id": i, "terms": ["Tent Peg", i, "x"], "by": "hand"} for i in "bac"],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in lines)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{head}---\n")
    push_folder(tmp_path, "org/by-hand", repo_type="dataset")
    made = Catalog.from_pretrained("org/by-hand")
    assert made == Catalog([Item(i, f"T {i}", price=3.0, categories=("A", "B")) for i in "ab"], [("tent-peg", i, "x") for i in "ab"])
    assert Catalog.from_pretrained(tmp_path) == made  # the same folder, here
    first = hub.commits("org/by-hand", "dataset")[-1][0]

    for name, bad, said in (
        ("term_ids", lines["term_ids"][:1], r"1 of the 2 items in its table 'items' have no Term ID in 'term_ids', such as \['a'\]"),
        ("term_ids", [{"item_id": "a", "terms": ["--"]}], "org/by-hand, table term_ids:row 1: item 'a' has a term without a letter"),
        ("items", [{"item_id": "a", "title": ""}], "org/by-hand, table items:row 1: item 'a' has an empty title"),
        ("items", [{"id": "a"}], "org/by-hand, table items has no column 'title'"),
    ):
        rows = {**lines, name: bad}
        for table, some in rows.items():
            (tmp_path / f"{table}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        push_folder(tmp_path, "org/by-hand", repo_type="dataset")
        with pytest.raises(ValueError, match=said):
            Catalog.from_pretrained("org/by-hand")
        with pytest.raises(ValueError, match=said.replace("org/by-hand", str(tmp_path))):  # as it is now, not as it was
            Catalog.from_pretrained(tmp_path)
    assert Catalog.from_pretrained("org/by-hand", revision=first) == made

    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: items\n  data_files: items.jsonl\n---\n")
    push_folder(tmp_path, "org/by-hand", repo_type="dataset")
    with pytest.raises(ValueError, match=r"'org/by-hand' holds no catalog\.parquet, nor a table 'term_ids' to make a catalog of"):
        Catalog.from_pretrained("org/by-hand")
    with pytest.raises(ValueError, match=r"holds no catalog\.parquet, nor a table 'term_ids' to make a catalog of"):
        Catalog.from_pretrained(tmp_path)


def test_errors_name_the_repository(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Nothing else\n")
    push_folder(tmp_path, "org/empty", private=False)
    push_folder(tmp_path, "org/empty-data", repo_type="dataset", private=False)
    for repo_id in ("org/empty", "org/empty-data"):
        with pytest.raises(ValueError, match=f"'{repo_id}' holds no catalog"):
            Catalog.from_pretrained(repo_id)
    with pytest.raises(ValueError, match=r"org/empty holds no catalog\.parquet: it is not a GRLM checkpoint"):
        GRLMForRecommendation.from_pretrained("org/empty")
    with pytest.raises(ValueError, match="'org/absent' is no folder here, and no repository"):
        Catalog.from_pretrained("org/absent")
    with pytest.raises(ValueError, match="no such revision"):
        GRLMForRecommendation.from_pretrained("org/empty", revision="v9")
