"""What comes from strangers: no code of theirs runs, no file outside is read or published, and what is broken is one line."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_toys import toy_facts, toy_tables
from toys import toy_catalog, toy_grlm

import grlm_hf
from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.data.repository import load_table
from grlm_hf.doctor.dataset import examine_dataset
from grlm_hf.hub import visible_files
from grlm_hf.loading import check_template
from grlm_hf.publishing.folder import check_folder, save_datasets
from grlm_hf.publishing.publish import publish
from grlm_hf.publishing.record import content_digest
from grlm_hf.space.push import push_space

ROOT = Path(grlm_hf.__file__).parent
LOADERS = {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoModel", "AutoProcessor", "PreTrainedTokenizerFast"}


def test_every_loader_of_transformers_refuses_code() -> None:
    found = 0
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id in LOADERS:
                found += 1
                stated = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                assert stated.get("trust_remote_code") is False, f"{path}:{node.lineno}"
    assert found >= 4


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_of_a_checkpoint_never_runs(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\nclass C: pass\n")
    changed(folder / "config.json", model_type="evilmodel", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    changed(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]})
    call = [sys.executable, "-m", "grlm_hf", "recommend", str(folder), "--history", "i20"]
    done = subprocess.run(call, input="y\n" * 9, text=True, capture_output=True)
    assert done.returncode == 2
    assert "never run here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "PWNED").exists()


BROKEN: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "weights zeros": lambda f: (f / "model.safetensors").write_bytes(bytes(5000)),
    "config a list": lambda f: (f / "config.json").write_text("[]"),
    "config of another size": lambda f: changed(f / "config.json", vocab_size=17),
    "config with texts": lambda f: changed(f / "config.json", hidden_size="x"),
    "tokenizer a list": lambda f: (f / "tokenizer.json").write_text("[]"),
    "tokenizer settings a list": lambda f: (f / "tokenizer_config.json").write_text("[]"),
    "generation config a list": lambda f: (f / "generation_config.json").write_text("[]"),
    "a template cut": lambda f: (f / "chat_template.jinja").write_text("{% for m in messages %}{{ m"),
    "a template without end": lambda f: (f / "chat_template.jinja").write_text("{{ 'a' * 10000000000 }}"),
    "loops without end": lambda f: (f / "chat_template.jinja").write_text("{% for a in range(9999) %}" * 5 + "x" + "{% endfor %}" * 5),
    "deep JSON": lambda f: (f / "grlm_config.json").write_text('{"a":' * 99_999),
    "a pipe": lambda f: ((f / "grlm_config.json").unlink(), os.mkfifo(f / "grlm_config.json")),
    "a pipe as tokenizer": lambda f: ((f / "tokenizer.json").unlink(), os.mkfifo(f / "tokenizer.json")),
    "max_history a text": lambda f: changed(f / "grlm_config.json", max_history="x"),
    "max_history 0": lambda f: changed(f / "grlm_config.json", max_history=0),
    "max_history true": lambda f: changed(f / "grlm_config.json", max_history=True),
    "max_tokens negative": lambda f: changed(f / "grlm_config.json", max_tokens=-1),
    "schema true": lambda f: changed(f / "grlm_config.json", schema=True),
    "a trie of zeros": lambda f: (f / "catalog.trie").write_bytes(bytes(2000)),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint_is_one_line(folder: Path, what: str) -> None:
    BROKEN[what](folder)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        GRLMForRecommendation.from_pretrained(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


def test_templates_of_real_models_pass() -> None:
    check_template(toy_grlm().tokenizer.chat_template)
    check_template(
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}{%- endfor %}"
        "{% generation %}{{ x }}{% endgeneration %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )


@pytest.mark.parametrize("name", ["notes.txt", "sub/passwd.json"])
def test_links_out_of_the_folder_are_not_published(folder: Path, tmp_path: Path, name: str, hub: object) -> None:
    (tmp_path / "secret").write_text("hf_SECRETTOKEN")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    for push in (
        lambda: publish(folder, "me/shop", license="mit"),
        lambda: publish(folder, "me/shop", license="mit", dry_run=True),
        lambda: push_space(str(folder), "me/space", license="mit", dry_run=True),
    ):
        with pytest.raises(ValueError, match=r"is a link to .*secret, outside the folder"):
            push()
    (folder / name).unlink()
    (folder / "linked").symlink_to(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="outside the folder"):
        visible_files(folder)


def test_links_within_a_snapshot_of_the_cache_are_published(folder: Path, tmp_path: Path) -> None:
    """The Hub's cache keeps contents beside the snapshots, which link to them."""
    cache = tmp_path / "models--me--shop"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in (p for p in folder.iterdir() if p.is_file()):
        shutil.copyfile(path, cache / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert {p.name for p in visible_files(snapshot)} == {p.name for p in folder.iterdir() if p.is_file()}
    (snapshot / "other").symlink_to("../../../checkpoint/config.json")
    with pytest.raises(ValueError, match="outside the folder"):
        visible_files(snapshot)


@pytest.mark.parametrize("place", ["{secret}/*.parquet", "../secret/*.parquet", "http://127.0.0.1:9/x.parquet"])
def test_a_card_reads_no_files_elsewhere(tmp_path: Path, place: str) -> None:
    save_datasets(toy_tables(), toy_catalog(), tmp_path / "secret", toy_facts())
    folder = tmp_path / "folder"
    folder.mkdir()
    files = place.format(secret=tmp_path / "secret" / "items").replace("../secret", "../secret/items")
    configs = "".join(f"- config_name: {name}\n  data_files: {files}\n" for name in ("items", "term_ids"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for read in (lambda: Catalog.from_pretrained(folder), lambda: load_table(folder, "items", "train")):
        with pytest.raises(ValueError, match=r"outside the folder|holds no"):
            read()


@pytest.mark.parametrize("name", ["prior/x.prior", "model.safetensors", "catalog.parquet"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="No file at"):
        content_digest(folder)


def test_a_pipe_among_tables_is_not_waited_for(tmp_path: Path) -> None:
    save_datasets(toy_tables(), toy_catalog(), tmp_path / "it", toy_facts())
    for path in (tmp_path / "it").rglob("*.parquet"):
        if path.name != "catalog.parquet":
            path.unlink()
            os.mkfifo(path)
    with pytest.raises(ValueError, match="No file at"):
        check_folder(tmp_path / "it")
    assert {finding.level for finding in examine_dataset(tmp_path / "it")[1]} >= {"error"}
