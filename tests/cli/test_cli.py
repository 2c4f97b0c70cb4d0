"""The command in a process of its own: mistakes end in one sentence, and leave everything as it was."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from forks import GRLM, grlm
from toys import TERM_IDS, toy_catalog, toy_histories

import grlm_hf
from grlm_hf.layout import CATALOG_FILE
from grlm_hf.recipe import STAGES, Recipe
from grlm_hf.stages import make_dataset

ITEMS = [{"item_id": i.item_id, "title": i.title} for i in toy_catalog()]
EVENTS = [{"user_id": h.user_id, "item_id": i} for h in toy_histories(4) for i in h.items]
VERBS = ("quickstart", "run", "scale", "neighbors", "terms", "quality", "join", "dataset", "train", "evaluate", "recommend", "explain",
         "report", "push", "grpo", "dpo", "serve", "space", "doctor", "version")  # fmt: skip


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def python(code: str, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In a new interpreter, as people run it; `forks.grlm` starts faster."""
    env = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(grlm_hf.__file__).parent.parent)}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd, env=env, timeout=60)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with shop/, and the catalog made from it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_bytes(jsonl(ITEMS))
    (tmp_path / "shop" / "interactions.jsonl").write_bytes(jsonl(EVENTS))
    toy_catalog().save_pretrained(tmp_path / "catalog")
    return tmp_path


def refused(folder: Path, *args: str) -> str:
    """Runs grlm, which must refuse in one sentence and change nothing; returns what it says."""
    before = tree(folder)
    run = grlm(*args, cwd=folder)
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith("grlm: ")
    assert run.stderr.count("\n") == 1
    assert tree(folder) == before
    return run.stderr


TERMS = ("terms", "shop", "--output", "out")
DATASET = ("dataset", "shop", "--catalog", "catalog", "--output", "out")


def test_good_input_is_accepted(shop: Path) -> None:
    run = python(GRLM, *DATASET, "--set", "mixture.max_history=3", cwd=shop)
    assert run.returncode == 0, run.stderr
    assert json.loads((shop / "out" / "grlm_dataset.json").read_text())["max_history"] == 3
    assert run.stderr.endswith("dataset → out\n")
    assert sorted(p.name for p in shop.iterdir()) == ["catalog", "out", "shop"]


# --- data --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("items.jsonl", None, "shop holds no items.* (csv, jsonl or parquet, also .gz)"),
        ("items.csv", b"item_id,title\n", "expected one 'items' file. Remove all but one"),
        ("items.jsonl", b"", "shop/items.jsonl holds no items"),
        (
            "items.jsonl",
            jsonl([*ITEMS, ITEMS[3]]),
            f"shop/items.jsonl:13: Duplicate item_id {ITEMS[3]['item_id']!r}, first at shop/items.jsonl:4",
        ),
        ("items.jsonl", jsonl([{"item_id": "a", "title": " "}]), "shop/items.jsonl:1: item 'a' has an empty title. Give it one, or"),
        ("items.jsonl", jsonl(ITEMS).replace(b"Title 7", "café".encode("latin-1")), "shop/items.jsonl:8 is not UTF-8 text"),
        (
            "items.jsonl",
            jsonl(ITEMS)[:-9],
            "shop/items.jsonl:12 is not valid JSON (Unterminated string starting at); the file may be trunc",
        ),
        ("items.jsonl", jsonl([{**ITEMS[0], "price": [9]}]), "shop/items.jsonl:1: price [9] is not a number"),
    ],
    ids=["none", "two", "empty", "duplicate id", "empty title", "not UTF-8", "truncated", "price"],
)
def test_bad_items(shop: Path, file: str, content: bytes | None, message: str) -> None:
    if content is None:
        (shop / "shop" / file).unlink()
    else:
        (shop / "shop" / file).write_bytes(content)
    assert message in refused(shop, *TERMS)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("items.jsonl.gz", gzip.compress(jsonl(ITEMS))[:-20], "shop/items.jsonl.gz is a truncated or broken gzip file"),
        ("items.parquet", b"PAR1 and no more", "shop/items.parquet is not a readable parquet file"),
        ("items.csv", b"item_id,title\ni1,Mug\ni2\n", "shop/items.csv:3 has fewer fields than the header's ['item_id', 'title']"),
    ],
    ids=["gzip", "parquet", "csv"],
)
def test_bad_items_in_other_formats(shop: Path, file: str, content: bytes, message: str) -> None:
    (shop / "shop" / "items.jsonl").unlink()
    (shop / "shop" / file).write_bytes(content)
    assert message in refused(shop, *TERMS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "shop holds no interactions.* or sequences.*"),
        (
            jsonl([*EVENTS, {"user_id": "u0", "item_id": "lost"}]),
            "user 'u0' has item 'lost', which is not among the 12 items of the catalog",
        ),
        (
            jsonl([*EVENTS, {"user_id": "new", "item_id": "i20"}]),
            "user 'new' has 1 items; leave-one-out needs 3. Drop such users: read.sh",
        ),
        (jsonl([*EVENTS, {"user_id": "né"}]).decode().encode("latin-1"), "is not UTF-8 text"),
        (jsonl([{**EVENTS[0], "timestamp": "soon"}]), "interactions.jsonl:1: timestamp 'soon' is neither unix seconds nor ISO 8601"),
    ],
    ids=["none", "unknown item", "short user", "not UTF-8", "time"],
)
def test_bad_interactions(shop: Path, content: bytes | None, message: str) -> None:
    path = shop / "shop" / "interactions.jsonl"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert message in refused(shop, *DATASET)


def test_bad_catalogs(shop: Path) -> None:
    assert "No catalog.parquet in shop: it holds no catalog" in refused(shop, "dataset", "shop", "--catalog", "shop", "--output", "out")
    whole = (shop / "catalog" / CATALOG_FILE).read_bytes()
    (shop / "catalog" / CATALOG_FILE).write_bytes(whole[: len(whole) // 2])
    assert f"catalog/{CATALOG_FILE} is not a readable parquet file" in refused(shop, *DATASET)


@pytest.mark.parametrize(
    "args",
    [
        ("terms", "nowhere", "--output", "out"),
        ("dataset", "nowhere", "--catalog", "catalog", "--output", "out"),
        ("terms", "shop/items.jsonl", "--output", "out"),  # a file is no folder
    ],
)
def test_missing_data_folders(shop: Path, args: tuple[str, ...]) -> None:
    assert f"No data folder at '{args[1]}'; expected one with items.* and interactions.*" in refused(shop, *args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("push", "shop", "org/name"), "shop holds neither a checkpoint (grlm_config.json) nor a dataset or catalog (catalog.parquet)"),
        (("train", "shop", "--output", "out"), "shop holds no grlm_dataset.json: it is no dataset folder of `grlm dataset`"),
    ],
)
def test_folders_of_another_kind(shop: Path, args: tuple[str, ...], message: str) -> None:
    assert message in refused(shop, *args)


def test_missing_term_ids(shop: Path) -> None:
    assert "shop holds no term_ids.* or term_ids_official.*" in refused(shop, *TERMS, "--set", "terms.generator=file")
    rows = [{"item_id": i["item_id"], "terms": t} for i, t in zip(ITEMS, TERM_IDS, strict=True)]
    (shop / "shop" / "term_ids.jsonl").write_bytes(jsonl(rows[:-2]))
    assert "2 items have no Term ID in shop/term_ids.jsonl, such as ['i10', 'i9']" in refused(shop, *TERMS, "--set", "terms.generator=file")


# --- the output folder -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("terms", "shop", "--output", "shop"),
        ("dataset", "shop", "--catalog", "catalog", "--output", "shop"),
        ("train", "catalog", "--output", "shop"),
        ("terms", "shop", "--output", "."),
        ("train", "catalog", "--output", "catalog"),  # grlm did write it, but as something else
    ],
)
def test_a_folder_that_grlm_did_not_write_is_not_replaced(shop: Path, args: tuple[str, ...]) -> None:
    assert re.search(r"no [\w.]+: grlm did not write it and will not replace it\. Choose another folder", refused(shop, *args))


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files with setrlimit")
def test_a_full_disk(shop: Path) -> None:
    make_dataset(shop / "shop", shop / "catalog", shop / "out")
    before = tree(shop)
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500));"
        + GRLM
    )
    run = python(limited, *DATASET, "--set", "mixture.max_history=5", cwd=shop)
    assert run.returncode == 2, run.stderr
    assert "grlm: The disk is full" in run.stderr
    assert "Traceback" not in run.stderr
    assert tree(shop) == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files with setrlimit")
def test_a_full_disk_while_weights_are_written(tmp_path: Path) -> None:
    code = f"""
import resource, signal, numpy
from safetensors.numpy import save_file
from grlm_hf.cli import _disk_full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    save_file({{"a": numpy.zeros(999)}}, {str(tmp_path / "model.safetensors")!r})
except Exception as error:
    print(isinstance(error, OSError), _disk_full(error), _disk_full(ValueError("os error 2")), _disk_full(ValueError("no")))
"""
    assert python(code).stdout.split() == ["False", "True", "False", "False"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c(shop: Path) -> None:
    code = "import grlm_hf.stages.identify as s, os, signal; s.read_items = lambda *_: os.kill(os.getpid(), signal.SIGINT);"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a job in the background starts with it ignored
    run = python(code + GRLM, *TERMS, cwd=shop)
    assert run.returncode == 128 + signal.SIGINT
    assert run.stderr.startswith("grlm: Interrupted. Run the same command again")
    assert run.stderr.count("\n") == 1
    assert not (shop / "out").exists()


# --- settings and recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("neighbors.kk=3", "unknown key 'neighbors.kk'. Did you mean 'neighbors.k'?"),
        ("tems.neighbors=3", "unknown key 'tems'. Did you mean 'terms'?"),
        ("train.scratch.layrs=3", "unknown key 'train.scratch.layrs'. Did you mean 'train.scratch.layers'?"),
        ("read.xyz=3", "unknown key 'read.xyz'. Expected one of missing_title, unknown_items, short_users, split"),
        ("neighbors.k=many", "setting 'neighbors.k=many': Value 'many' of type 'str' could not be converted to Integer"),
        ("terms.resolver=maybe", "terms.resolver is 'maybe'; expected one of"),
        ("terms=3", "setting 'terms=3': Merge error"),
        ("terms.neighbors", "Setting 'terms.neighbors' is not of the form key=value, such as train.epochs=3"),
        ("mixture.max_history=0", "setting 'mixture.max_history=0': mixture.max_history is 0; expected at least 1"),
        ("terms.generator=magic", "terms.generator is 'magic'; expected one of"),
    ],
)
def test_bad_settings(shop: Path, setting: str, message: str) -> None:
    assert message in refused(shop, *TERMS, "--set", setting)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "No recipe at recipe.yaml. Recipes are YAML files; `grlm import` writes one"),
        (b"train:\n  epoch: 3\n", "recipe.yaml: unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        (b"train:\n  epochs: soon\n", "recipe.yaml: Value 'soon' of type 'str' could not be converted to Float (at train.epochs)"),
        (b"train:\n  epochs: 3\n  epochs: 4\n", "recipe.yaml: line 3: found duplicate key epochs"),
        (b"train: [1\n", "recipe.yaml: line 2: "),
        (b"- train\n", "recipe.yaml: expected keys and values"),
        ("name: café\n".encode("latin-1"), "recipe.yaml: 'utf-8' codec can't decode byte 0xe9"),
        (b"name: ${oc.env:GRLM_NO_SUCH_NAME}\n", "recipe.yaml: KeyError raised while resolving interpolation"),
        (b"terms: {generator: file}\n", "shop holds no term_ids.*"),
    ],
    ids=["none", "unknown", "type", "twice", "broken", "list", "not UTF-8", "environment", "stages"],
)
def test_bad_recipes(shop: Path, recipe: bytes | None, message: str) -> None:
    if recipe is not None:
        (shop / "recipe.yaml").write_bytes(recipe)
    assert message in refused(shop, *TERMS, "--recipe", "recipe.yaml")


def test_run_refuses_as_well(shop: Path) -> None:
    run = ("run", "recipe.yaml", "--data", "shop", "--output", "out")
    assert "No recipe at recipe.yaml" in refused(shop, *run)
    (shop / "recipe.yaml").write_text("name: toy\n")
    assert "Did you mean 'train.epochs'?" in refused(shop, *run, "--set", "train.epoch=3")
    assert "names no data folder: --data DIR" in refused(shop, "run", "recipe.yaml", "--output", "out")


# --- the call itself ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("trms", "shop"), 'Did you mean "terms"?'),
        (("terms", "shop", "--outpt", "out"), "Did you mean --output instead of --outpt?"),
        (("terms", "--output", "out"), "--data"),
        (("terms", "shop"), "--output"),
        (("terms", "shop", "shop", "--output", "out"), "shop"),
        (("recommend", "catalog", "--history", "i20", "--k", "many"), '"many"'),
    ],
)
def test_mistyped_calls(shop: Path, args: tuple[str, ...], message: str) -> None:
    before = tree(shop)
    run = grlm(*args, cwd=shop)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.split())
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert tree(shop) == before


def settings_of(config: Any, prefix: str = "") -> list[str]:
    found = []
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, dict):
            found += [f"{prefix}{f.name}.{key}=" for key in value]
        else:
            found += settings_of(value, f"{prefix}{f.name}.") if is_dataclass(value) else [f"{prefix}{f.name}="]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str) -> None:
    run = grlm(verb, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert f"Usage: grlm {verb}" in run.stdout
    r, part = Recipe(), {"terms": ("terms.", "read."), "dataset": ("mixture.", "read."), "train": ("train.",), "evaluate": ("evaluate.",)}
    wanted = [s for s in settings_of(r) if s.startswith(part.get(verb, ())) or verb == "run"]
    assert [s for s in wanted if s not in run.stdout] == []
    assert verb != "run" or f"stages: {', '.join(STAGES)}." in run.stdout
    assert len(wanted) >= {"run": 30, "terms": 8, "dataset": 6, "train": 20, "evaluate": 5}.get(verb, 0)


HEAVY = ("torch", "transformers", "datasets", "pyarrow", "trl", "faiss", "sklearn", "sentence_transformers", "vllm")
LOADED = f"\nimport sys; print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"


def test_importing_the_package_loads_nothing_heavy() -> None:
    run = python("import grlm_hf; print(*dir(grlm_hf))" + LOADED)
    assert "GRLMForRecommendation" in run.stdout
    assert run.stderr.split() == []


def test_deepspeed_prints_nothing_to_stdout_beside_our_output() -> None:
    pytest.importorskip("deepspeed")
    run = python("import grlm_hf, deepspeed; from deepspeed.accelerator import get_accelerator; get_accelerator()")
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("args", [(), ("--help",), ("--version",), ("train", "--help")])
def test_help_loads_nothing_heavy(args: tuple[str, ...]) -> None:
    run = python("try:\n    from grlm_hf.cli import main; main()\nexcept SystemExit as stop:\n    assert not stop.code" + LOADED, *args)
    assert run.returncode == 0
    assert run.stderr.split() == []
    if args == ("--version",):
        assert run.stdout.split() == [grlm_hf.__version__]
    elif args != ("train", "--help"):
        assert all(verb in run.stdout for verb in VERBS)
