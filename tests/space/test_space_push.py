"""Publishing a Space to the test Hub: whole, private, licensed, and a checkpoint in it that loads."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hub_server import HubServer, card_data
from huggingface_hub import HfApi
from space_toys import saved

import grlm_hf
from grlm_hf import GRLMForRecommendation
from grlm_hf.space.app import load
from grlm_hf.space.push import push_space


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("space") / "checkpoint")


def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What app.py asks for when it is run."""
    asked: list[tuple] = []
    monkeypatch.setattr("grlm_hf.space.app.launch", lambda *names: asked.append(names))
    runpy.run_path(str(folder / "app.py"))
    return asked


def test_a_folder_goes_inside(hub: HubServer, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = push_space(str(checkpoint), "org/shop", license="cc-by-4.0")
    assert found.url.endswith("/spaces/org/shop")
    assert len(hub.commits("org/shop", "space")) == 2  # the repository's first, and one atomic upload
    assert HfApi().space_info("org/shop").private
    files = hub.files("org/shop", "space")
    assert {"README.md", "app.py", "requirements.txt", "checkpoint/model.safetensors", "checkpoint/catalog.parquet"} <= files.keys()
    card = card_data(files["README.md"].decode())
    assert (card["sdk"], card["app_file"], card["license"], card["title"]) == ("gradio", "app.py", "cc-by-4.0", "shop")
    assert len(card["short_description"]) <= 60
    assert files["requirements.txt"].decode() == f"grlm-hf[space]=={grlm_hf.__version__}\n"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert started(tmp_path, monkeypatch) == [("checkpoint",)]
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert loaded.catalog == GRLMForRecommendation.from_pretrained(checkpoint).catalog


def test_a_hub_id_is_named(hub: HubServer, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GRLMForRecommendation.from_pretrained(checkpoint).push_to_hub("org/model")
    push_space("org/model", "org/named", compare=str(checkpoint), license="mit", requires="grlm-hf[space] @ git+https://example.org/x")
    files = hub.files("org/named", "space")
    assert not any(name.startswith("checkpoint/") for name in files)
    assert files["requirements.txt"].decode() == "grlm-hf[space] @ git+https://example.org/x\n"
    assert card_data(files["README.md"].decode())["models"] == ["org/model"]
    (tmp_path / "app.py").write_bytes(files["app.py"])
    assert started(tmp_path, monkeypatch) == [("org/model", "compare")]
    assert "compare/model.safetensors" in files


def test_a_second_push_leaves_nothing_of_the_first(hub: HubServer, checkpoint: Path) -> None:
    GRLMForRecommendation.from_pretrained(checkpoint).push_to_hub("org/model2")
    push_space(str(checkpoint), "org/again", license="mit")
    push_space("org/model2", "org/again", license="mit")
    assert not any(name.endswith((".safetensors", ".parquet")) for name in hub.files("org/again", "space"))


def test_a_dry_run_uploads_nothing(hub: HubServer, checkpoint: Path) -> None:
    said = push_space(str(checkpoint), "org/dry", dry_run=True).listing()
    assert all(part in said for part in ("checkpoint/model.safetensors", "sdk: gradio", "licence: none yet"))
    assert "license: mit" in push_space(str(checkpoint), "org/dry", dry_run=True, license="mit").card
    assert ("spaces", "org/dry") not in hub.repos


def test_mistakes_are_told_before_anything_is_uploaded(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "grlm_config.json").write_text("{}")
    for name, words, more in (
        (str(tmp_path), "not a GRLM checkpoint", {}),
        (str(tmp_path / "broken"), "holds no catalog", {}),
        ("nowhere at all", "neither a folder here nor a Hub id", {}),
        ("org/missing", "no repository", {}),
        (str(checkpoint), "needs a licence", {"license": None}),
        (str(checkpoint), "CC BY", {"license": "CC BY"}),
        (str(checkpoint), "LICENSE", {"license": "other", "license_name": "mine", "license_link": "LICENSE"}),
        (str(checkpoint), "one line", {"requires": "a\nb"}),
    ):
        with pytest.raises(ValueError, match=words):
            push_space(name, "org/bad", **{"license": "mit", **more})
    with pytest.raises(ValueError, match="no name for a repository"):
        push_space(str(checkpoint), "a/b/c", license="mit")
    assert ("spaces", "org/bad") not in hub.repos


def test_a_licence_file_comes_along(hub: HubServer, tmp_path: Path) -> None:
    folder = saved(tmp_path / "checkpoint")
    (folder / "LICENSE").write_text("Be kind.")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: kind-1.0\nlicense_link: LICENSE\n---\n")
    push_space(str(folder), "org/kind")
    assert hub.files("org/kind", "space")["LICENSE"] == b"Be kind."


def test_what_is_no_checkpoint_does_not_open(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="not a GRLM checkpoint"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="with itself"):
        load(str(checkpoint), str(checkpoint))
    shop = load(str(checkpoint), str(saved(tmp_path / "other" / "checkpoint", 3)))
    assert len(shop.checkpoints) == 2
