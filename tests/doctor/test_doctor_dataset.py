"""Each fault of a dataset, a catalog or a run, put into a copy of a sound one, is found, and nothing else is."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import TERM_IDS, toy_catalog, toy_grlm

from grlm_hf import Catalog, Item
from grlm_hf.doctor import Finding, examine
from grlm_hf.identifiers.terms import render
from grlm_hf.layout import CATALOG_FILE, DATASET_FACTS, HISTORIES, SPLITS
from grlm_hf.recipe import DataConfig
from grlm_hf.stages import make_dataset
from grlm_hf.tasks.config import TASKS, MixtureConfig

N = 30
IDS = [f"item{n}" for n in range(N)]
CATALOG = Catalog(
    [Item(i, f"title{n} word{n}", f"brand{n}", (f"shelf{n}",), f"described{n}", domain="ab"[n % 2]) for n, i in enumerate(IDS)],
    [("kind", f"t{n}") for n in range(N)],
)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 histories of 5 to 9 items at known times; every sixth user meets an item again."""
    folder = tmp_path_factory.mktemp("shop")
    CATALOG.save_pretrained(folder / "catalog")
    rows = []
    for u in range(25):
        items = [IDS[(u + 7 * s) % N] for s in range(5 + u % 5)]
        if u % 6 == 0:
            items[-1] = items[0]
        rows.append(
            {"user_id": f"user-{u}", "items": items, "timestamps": [u + 50 * s for s in range(len(items))], "n_valid": 1, "n_test": 1}
        )
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make(shop: Path, folder: Path, split: str = "leave-one-out", **mixture: Any) -> Path:
    make_dataset(shop, shop / "catalog", folder, MixtureConfig(**mixture), DataConfig(split=split))
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("---\n", "---\nlicense: mit\n", 1))
    return folder


@pytest.fixture(scope="module")
def sound(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(shop, tmp_path_factory.mktemp("sound") / "datasets")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "datasets"))


def found(folder: Path) -> list[Finding]:
    return [f for said in examine(folder) for f in said.findings]


def names(findings: list[Finding]) -> set[tuple[str, str]]:
    assert all(f.found and f.why and f.fix for f in findings)
    return {(f.level, f.check) for f in findings}


def rewrite(folder: Path, config: str, split: str, change: Callable[[Rows], Rows]) -> None:
    """Changes a table's rows; the facts count them anew, so that the files are whole."""
    (path,) = (folder / config).glob(f"{split}-*.parquet")
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    facts = json.loads((folder / DATASET_FACTS).read_text())
    facts["statistics"]["rows"][config][split] = len(rows)
    (folder / DATASET_FACTS).write_text(json.dumps(facts))


def facts(folder: Path, **values: Any) -> None:
    path = folder / DATASET_FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def targets(folder: Path, part: str) -> dict[str, str]:
    (path,) = (folder / "cases").glob(f"{part}-*.parquet")
    return {row["user_id"]: row["target"] for row in pq.read_table(path).to_pylist()}


def leak_event(part: str) -> Callable[[Path], None]:
    def seed(folder: Path) -> None:
        user, target = next(iter(targets(folder, part).items()))
        row = {"user_id": user, "item_id": target, "position": 99, "timestamp": 1}
        rewrite(folder, "interactions", "train", lambda rows: [*rows, row])

    return seed


def leak_example(part: str) -> Callable[[Path], None]:
    """The target, written behind the training example of its user."""

    def seed(folder: Path) -> None:
        known = targets(folder, part)

        def change(rows: Rows) -> Rows:
            at = next(n for n, row in enumerate(rows) if row["task"] == "sequence")
            answer = rows[at]["completion"][0]
            answer["content"] += render(CATALOG.term_id(known[rows[at]["key"]])) + "\n"
            return rows

        rewrite(folder, "sft", "train", change)

    return seed


def leak_validation(folder: Path) -> None:
    known = targets(folder, "test")

    def change(rows: Rows) -> Rows:
        rows[0]["completion"][0]["content"] += render(CATALOG.term_id(known[rows[0]["key"]])) + "\n"
        return rows

    rewrite(folder, "sft", "validation", change)


def name_users(folder: Path) -> None:
    def change(rows: Rows) -> Rows:
        for row in rows:
            if row["task"] == "sequence":
                row["prompt"][0]["content"] = f"For user {row['key']}. " + row["prompt"][0]["content"]
        return rows

    rewrite(folder, "sft", "train", change)


def stale(folder: Path) -> None:
    def change(rows: Rows) -> Rows:
        next(r for r in rows if r["task"] == "internalise")["completion"][0]["content"] = "[kind, gone]\n"
        return rows

    rewrite(folder, "sft", "train", change)


def twin(folder: Path) -> None:
    """A user under another id."""
    for config, split in (("cases", "test"), ("cases", "validation")):
        rewrite(folder, config, split, lambda rows: [*rows, {**rows[5], "user_id": "user-x"}])


def twice(folder: Path) -> None:
    rewrite(folder, "cases", "test", lambda rows: [*rows, rows[3]])


def strange(folder: Path) -> None:
    rewrite(folder, "interactions", "train", lambda rows: [*rows, {"user_id": "new", "item_id": "lost", "position": 0, "timestamp": 1}])


def other_terms(folder: Path) -> None:
    rewrite(folder, "term_ids", "train", lambda rows: [{**rows[0], "terms": ["kind", "other"]}, *rows[1:]])


def cut(folder: Path) -> None:
    (path,) = (folder / "sft").glob("train-*.parquet")
    path.write_bytes(path.read_bytes()[:-100])


def no_shard(folder: Path) -> None:
    next((folder / "neighbors" if (folder / "neighbors").is_dir() else folder / "items").glob("*.parquet")).unlink()


def seen_targets(folder: Path) -> None:
    rewrite(folder, "cases", "test", lambda rows: [{**r, "target": r["history"][0]} if n < 9 else r for n, r in enumerate(rows)])


def mixture_hash(folder: Path) -> None:
    said = json.loads((folder / DATASET_FACTS).read_text())
    facts(folder, mixture=said["mixture"] | {"templates_hash": "2" * 16})


FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[str, str], str]] = {
    "test event": (leak_event("test"), ("error", "target-leakage"), "are among their users' training interactions"),
    "validation event": (leak_event("validation"), ("error", "target-leakage"), "1 held-out targets"),
    "test example": (leak_example("test"), ("error", "target-leakage"), "1 training examples contain a held-out target"),
    "validation example": (leak_example("validation"), ("error", "target-leakage"), "1 training examples"),
    "test in validation": (leak_validation, ("error", "target-leakage"), "of user 'user-0'"),
    "user ids": (name_users, ("error", "user-ids"), "25 prompts contain the id of their user"),
    "stale": (stale, ("error", "stale-examples"), "[kind, gone]"),
    "twin": (twin, ("warning", "duplicate-users"), "['user-5', 'user-x']"),
    "seen targets": (seen_targets, ("warning", "seen-targets"), " of 25 test cases ask for an item that the history has already"),
    "twice": (twice, ("error", "duplicate-users"), "'user-3'"),
    "unknown item": (strange, ("error", "unknown-items"), "'lost'"),
    "other terms": (other_terms, ("error", "tables-disagree"), "'item0'"),
    "prompts": (lambda p: facts(p, prompt_hash="3" * 16), ("error", "prompt-drift"), "3333333333333333"),
    "templates": (mixture_hash, ("warning", "prompt-drift"), "2222222222222222"),
    "history": (lambda p: facts(p, history="pictures"), ("error", "config"), "'pictures'"),
    "cut off": (cut, ("error", "broken-file"), "is not readable parquet"),
    "lost shard": (no_shard, ("error", "broken-file"), "holds 0 files"),
    "newer": (lambda p: facts(p, schema=9), ("error", "schema"), "has schema 9"),
    "rows": (lambda p: facts(p, statistics={"rows": {"items": {"train": 7}}}), ("error", "broken-file"), "has 30 rows, its facts say 7"),
    "no licence": (lambda p: (p / "README.md").write_text((p / "README.md").read_text().replace("license: mit\n", "")),
                   ("info", "licence"), "has no licence"),
    "pickle": (lambda p: (p / "state.pkl").write_bytes(b"x"), ("warning", "unsafe-files"), "state.pkl"),
    "script": (lambda p: (p / "datasets.py").write_text("x"), ("warning", "foreign-code"), "datasets.py"),
}  # fmt: skip


def test_a_sound_one(sound: Path) -> None:
    assert names(found(sound)) == set()
    (said,) = examine(sound)
    assert said.kind == "dataset"
    assert said.facts["test cases"] == "25, 5 with a target that the history has"


@pytest.mark.parametrize(("split", "history"), list(zip(SPLITS, itertools.cycle(HISTORIES), strict=False)))
def test_sound_ones_of_every_split_task_and_history(shop: Path, tmp_path: Path, split: str, history: str) -> None:
    """What the splits hold out is nowhere taken for a leak; items come again, so that the same item stands on both sides."""
    weights = {task: 1.0 for task in TASKS if task not in ("chat", "collaborative")}
    assert names(found(make(shop, tmp_path / "d", split, history=history, **weights))) == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone(copy: Path, fault: str) -> None:
    seed, wanted, said = FAULTS[fault]
    seed(copy)
    findings = found(copy)
    assert names(findings) == {wanted}
    (one,) = findings
    assert said in one.found


@pytest.mark.parametrize("how", [lambda _: b"", lambda b: b[: len(b) // 2], lambda _: b"null", lambda _: b"[]", lambda _: b'{"schema": 1}'])
def test_broken_files_are_findings(copy: Path, how: Callable[[bytes], bytes]) -> None:
    skipped = {".png", ".md"}  # half a card may be a whole one
    for path in sorted(p for p in copy.rglob("*") if p.is_file() and p.suffix not in skipped):
        whole = path.read_bytes()
        path.write_bytes(how(whole))
        assert names(found(copy)), path
        path.write_bytes(whole)
    assert not names(found(copy))


# --- catalogs ----------------------------------------------------------------------------------------------------------------------


def raw(folder: Path, change: Callable[[Rows], Rows]) -> None:
    """Rows that `Catalog` itself would refuse."""
    path = folder / CATALOG_FILE
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)


CATALOGS: dict[str, tuple[Callable[[Path], Any], tuple[str, str], str]] = {
    "upper case": (lambda p: raw(p, lambda r: [{**r[0], "terms": ["Kind", "t0"]}, *r[1:]]), ("error", "illegal-term-ids"), "'item0'"),
    "brackets": (lambda p: raw(p, lambda r: [{**r[0], "terms": ["a], [b"]}, *r[1:]]), ("error", "illegal-term-ids"), "1 of 30 items"),
    "no terms": (lambda p: raw(p, lambda r: [*r[:-1], {**r[-1], "terms": []}]), ("error", "illegal-term-ids"), "'item29'"),
    "same id": (lambda p: raw(p, lambda r: [*r, {**r[0], "terms": ["kind", "t99"]}]), ("error", "duplicate-ids"), "'item0'"),
    "no title": (lambda p: raw(p, lambda r: [{**r[0], "title": ""}, *r[1:]]), ("error", "broken-file"), "needs a non-empty item_id"),
    "same items": (lambda p: raw(p, lambda r: [*r, *({**r[n], "item_id": f"again{n}", "terms": ["new", f"n{n}"]} for n in range(3))]),
                   ("warning", "duplicate-items"), "3 of 33 items repeat all the text of another"),
    "same item": (lambda p: raw(p, lambda r: [*r, {**r[0], "item_id": "again", "terms": ["new"]}]), ("info", "duplicate-items"), "1 of 31"),
    "some share": (lambda p: raw(p, lambda r: [{**r[0], "terms": r[1]["terms"]}, *r[1:]]), ("info", "collisions"), "2 of 30 items (6.7%)"),
    "many share": (lambda p: raw(p, lambda r: [{**row, "terms": ["kind", f"t{n // 3}"]} for n, row in enumerate(r)]),
                   ("warning", "collisions"), "30 of 30 items (100.0%)"),
    "cut off": (lambda p: (p / CATALOG_FILE).write_bytes((p / CATALOG_FILE).read_bytes()[:500]), ("error", "broken-file"), "not a read"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CATALOGS)
def test_each_fault_of_a_catalog(tmp_path: Path, fault: str) -> None:
    CATALOG.save_pretrained(tmp_path)
    assert names(found(tmp_path)) == set()
    seed, wanted, said = CATALOGS[fault]
    seed(tmp_path)
    (one,) = found(tmp_path)
    assert (one.level, one.check) == wanted
    assert said in one.found


def test_a_crowd_on_one_identifier(tmp_path: Path) -> None:
    """A small share of a large catalog, but more than one list has room for."""
    many = [("crowd",)] * 21 + [("alone", f"n{n}") for n in range(200)]
    Catalog([Item(f"i{n}", f"title {n}") for n in range(len(many))], many).save_pretrained(tmp_path)
    (one,) = found(tmp_path)
    assert (one.level, one.check) == ("warning", "collisions")


# --- a run -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(shop: Path, tmp_path: Path) -> Path:
    """checkpoint/ and datasets/ of one catalog, as `grlm run` leaves them."""
    catalog = toy_catalog()
    catalog.save_pretrained(tmp_path / "data" / "catalog")
    known = [i.item_id for i in catalog]
    rows = [{"user_id": f"user-{u}", "items": [known[(u + 5 * s) % len(known)] for s in range(3 + u % 4)]} for u in range(12)]
    (tmp_path / "data" / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "run"
    make_dataset(tmp_path / "data", tmp_path / "data" / "catalog", folder / "datasets", MixtureConfig(max_history=4))
    toy_grlm().save_pretrained(folder / "checkpoint")
    return folder


def test_a_run(run: Path) -> None:
    said = examine(run)
    assert [one.kind for one in said] == ["checkpoint", "dataset", "run"]
    assert not any(one.of("error") + one.of("warning") for one in said)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda p: facts(p / "datasets", max_history=7), ("warning", "prompt-drift")),
        (lambda p: facts(p / "datasets", max_tokens=64), ("warning", "prompt-drift")),
        (
            lambda p: Catalog(toy_catalog().items, [*TERM_IDS[:11], ("water",)]).save_pretrained(p / "checkpoint"),
            ("error", "catalog-differs"),
        ),
        (lambda p: toy_catalog().remove(["i20"]).save_pretrained(p / "checkpoint"), ("error", "catalog-differs")),
    ],
)
def test_stages_that_do_not_belong_together(run: Path, change: Callable[[Path], Any], wanted: tuple[str, str]) -> None:
    change(run)
    assert wanted in names(list(examine(run)[-1].findings))


def test_a_hub_dataset(hub: Any, copy: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("org/examined-data", repo_type="dataset")
    api.upload_folder(folder_path=copy, repo_id="org/examined-data", repo_type="dataset")
    (said,) = examine("org/examined-data")
    assert (said.kind, said.findings) == ("dataset", ())
