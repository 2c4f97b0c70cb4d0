"""A dataset folder: what `load_dataset` reads is what was put in; what its card says is true, and only what we say."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from dataset_toys import START, Tables, toy_facts, toy_tables
from datasets import Dataset, concatenate_datasets, get_dataset_config_names, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from toys import toy_catalog, toy_histories

from grlm_hf import Catalog
from grlm_hf.data.repository import dataset_facts
from grlm_hf.files import read_json, write_json
from grlm_hf.indexing.quality.measure import compare, measure
from grlm_hf.layout import DATASET_FACTS
from grlm_hf.markdown import escaped, one_line, paragraphs
from grlm_hf.publishing.cards import COLUMNS, dataset_card
from grlm_hf.publishing.folder import check_folder, save_datasets
from grlm_hf.publishing.statistics import Events, count_events, dataset_statistics, plot_events
from grlm_hf.stages import make_dataset

IDS = [i.item_id for i in toy_catalog()]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read, not changed."""
    folder = tmp_path_factory.mktemp("toy") / "d"
    save_datasets(toy_tables(), toy_catalog(), folder, toy_facts())
    return folder


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The YAML and the body."""
    _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def cells(text: str) -> list[list[str]]:
    """The rows of all Markdown tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]


# --- tables --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [1, 700, 10**9])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_table_loads_as_it_was_written(tmp_path: Path, shard_bytes: int, streaming: bool) -> None:
    tables = toy_tables(users=12)
    tables["interactions"]["train"] = tables["interactions"]["train"].shuffle(seed=1)  # rows in another order than they lie in memory
    folder = tmp_path / f"s{shard_bytes}"
    save_datasets(tables, toy_catalog(), folder, toy_facts(), shard_bytes=shard_bytes)
    for config, splits in tables.items():
        loaded = load_dataset(str(folder), config, streaming=streaming)
        assert list(loaded) == list(splits)
        for split, rows in splits.items():
            assert list(loaded[split]) == rows.to_list()
            assert loaded[split].features == rows.features
            files = sorted((folder / config).glob(f"{split}-*.parquet"))
            assert [f.name for f in files] == [f"{split}-{n:05d}-of-{len(files):05d}.parquet" for n in range(len(files))]
            assert len(files) == len(rows) if shard_bytes == 1 else (len(files) == 1) == (rows.data.nbytes <= shard_bytes)
            assert {pq.read_schema(f).metadata[b"grlm_dataset_schema"] for f in files} == {b"1"}
    assert Catalog.from_pretrained(folder) == toy_catalog()
    check_folder(folder)


def test_the_default_table_and_the_names(toy_folder: Path, tmp_path: Path) -> None:
    assert load_dataset(str(toy_folder), split="train").column_names[:2] == ["item_id", "title"]
    assert get_dataset_config_names(str(toy_folder)) == ["items", "interactions", "neighbors", "term_ids", "cases", "sft"]
    for name in ("sft-train", "../sft", "", "Sft"):
        for tables in ({name: toy_tables()["sft"]}, {"sft": {name: toy_tables()["sft"]["train"]}}):
            with pytest.raises(ValueError, match="no name for a table or split"):
                save_datasets(tables, toy_catalog(), tmp_path / "e", toy_facts())
    assert not list(tmp_path.iterdir())


def test_a_split_without_rows_has_no_file_but_is_counted(tmp_path: Path) -> None:
    tables = toy_tables()
    tables["sft"]["validation"] = tables["sft"]["validation"].select([])
    tables["items"]["train"] = tables["items"]["train"].select([])
    save_datasets(tables, toy_catalog(), tmp_path / "d", toy_facts())
    assert list(load_dataset(str(tmp_path / "d"), "sft")) == ["train"]
    assert set(load_dataset(str(tmp_path / "d"))) == {"train", "validation", "test"}  # of interactions, the first with rows
    assert read_json(tmp_path / "d" / DATASET_FACTS)["statistics"]["rows"]["sft"] == {"train": 35, "validation": 0}
    assert "train: 35, validation: 0" in card_of(tmp_path / "d")[1]
    check_folder(tmp_path / "d")
    nothing = {config: {split: rows.select([]) for split, rows in splits.items()} for config, splits in tables.items()}
    with pytest.raises(ValueError, match="No table has a row"):
        save_datasets(nothing, toy_catalog(), tmp_path / "d", toy_facts())
    assert list(load_dataset(str(tmp_path / "d"), "sft")) == ["train"]


def written(shop: Path, folder: Path, last: str) -> Path:
    """A dataset folder in which every user's test target is `last`."""
    shop.mkdir(exist_ok=True)
    rows = [{"user_id": h.user_id, "items": [*h.items, last]} for h in toy_histories(5)]
    (shop / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_catalog().save_pretrained(shop / "catalog")
    make_dataset(shop, shop / "catalog", folder, title="the same", notice="the same")
    return folder


@pytest.mark.parametrize("again", [False, True])
def test_folders_of_one_name_are_told_apart(tmp_path: Path, again: bool) -> None:
    folders = [tmp_path / run / "datasets" for run in ("a", "a" if again else "b")]  # of two runs; or of one, run again on new data
    for folder, last in zip(folders, IDS[:2], strict=True):
        written(tmp_path / "shop", folder, last)
        assert set(load_dataset(str(folder), "cases", split="test")["target"]) == {last}
        assert set(load_dataset(str(folder), "interactions", split="test")["item_id"]) == {last}


def test_every_column_that_is_written_is_explained(tmp_path: Path) -> None:
    folder = written(tmp_path / "shop", tmp_path / "d", IDS[0])
    rows = cells(card_of(folder)[1])
    for config in get_dataset_config_names(str(folder)):
        for column in load_dataset(str(folder), config, split="test" if config == "cases" else "train").column_names:
            assert COLUMNS[column]
            assert any(row[1] == f"`{column}`" and row[3] == COLUMNS[column] for row in rows if len(row) == 4)


# --- whole or not at all ---------------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_tables_make_the_same_bytes(toy_folder: Path, tmp_path: Path) -> None:
    save_datasets(toy_tables(), toy_catalog(), tmp_path / "again", toy_facts())
    assert contents(tmp_path / "again") == contents(toy_folder)


@pytest.mark.parametrize(
    ("facts", "files", "said"),
    [
        ({"license": "CC BY 4.0"}, (), "Did you mean 'cc-by-4.0'"),
        ({"language": "English"}, (), "ISO 639"),
        ({"quality": {"mean": float("nan")}}, (), "not JSON compliant"),
        ({}, ("absent.png",), "No file at"),
        ({}, ("README.md",), "another README.md"),
        ({}, ("dataset.png",), "another dataset.png"),
        ({}, ("sft",), "another sft"),
        ({}, ("more.parquet",), "no parquet"),
        ({}, ("a b.png",), "expected letters"),
    ],
)
def test_what_cannot_be_written_leaves_the_last_version(toy_folder: Path, tmp_path: Path, facts: Any, files: Any, said: str) -> None:
    before = contents(toy_folder)
    for name in files:
        if "absent" not in name:
            (tmp_path / name).write_bytes(PNG)
    tables = {"items": toy_tables()["items"], "sft": toy_tables(users=10)["sft"]}
    with pytest.raises(ValueError, match=said):
        save_datasets(tables, toy_catalog(), toy_folder, toy_facts(**facts), files=[tmp_path / f for f in files])
    assert contents(toy_folder) == before
    assert [p.name for p in toy_folder.parent.iterdir()] == ["d"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files with setrlimit")
def test_a_full_disk_leaves_the_last_version(toy_folder: Path) -> None:
    before = contents(toy_folder)
    script = f"""
import resource, signal
from datasets import Dataset
from grlm_hf import Catalog, Item
from grlm_hf.publishing.folder import save_datasets
rows = Dataset.from_dict({{"n": [f"{{n * n}}" for n in range(9000)]}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    save_datasets({{"items": {{"train": rows}}}}, Catalog([Item("1", "a")], [("a",)]), {str(toy_folder)!r}, {toy_facts()!r})
except OSError as error:
    print(error.errno)
"""
    run = forks.run(script)
    assert run.stdout.split() == ["27"], run.stderr  # EFBIG
    assert contents(toy_folder) == before
    assert [p.name for p in toy_folder.parent.iterdir()] == ["d"]


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    save_datasets({"sft": toy_tables()["sft"]}, toy_catalog(), tmp_path / "d", toy_facts(), shard_bytes=1000)
    file = sorted((tmp_path / "d" / "sft").iterdir())[0]
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match=r"holds \d+ files sft/train-\*-of-\d+\.parquet, not all"):
        check_folder(tmp_path / "d")
    file.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="not readable parquet"):
        check_folder(tmp_path / "d")
    pq.write_table(pq.read_table(sorted(file.parent.iterdir())[1]).slice(0, 1), file)
    with pytest.raises(ValueError, match=r"has \d+ rows, its facts say 35"):
        check_folder(tmp_path / "d")
    file.write_bytes(whole)
    check_folder(tmp_path / "d")
    write_json(tmp_path / "d" / DATASET_FACTS, {"schema": 2})
    for read in (check_folder, dataset_facts):
        with pytest.raises(ValueError, match="has schema 2; this grlm-hf reads 1"):
            read(tmp_path / "d")


# --- statistics ------------------------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_brute_force() -> None:
    catalog, tables = toy_catalog(), toy_tables()
    found = dataset_statistics(tables, catalog, count_events(tables["interactions"]))
    rows = [row for part in tables["interactions"].values() for row in part]
    per_user, per_item = Counter(r["user_id"] for r in rows), Counter(r["item_id"] for r in rows)
    assert found["rows"] == {c: {s: len(list(r)) for s, r in splits.items()} for c, splits in tables.items()}
    assert (found["items"], found["users"], found["events"]) == (12, len(per_user), len(rows))
    assert found["items_with_events"] == len(per_item)
    assert found["density"] == len(rows) / (len(per_user) * 12)
    assert found["share_of_top_1_percent_items"] == max(per_item.values()) / len(rows)
    for name, counts in (("events_per_user", per_user), ("events_per_item", per_item)):
        ordered, values = sorted(counts.values()), found[name]
        assert (values["min"], values["max"]) == (ordered[0], ordered[-1])
        assert values["mean"] == pytest.approx(sum(ordered) / len(ordered))
        assert values["median"] == ordered[(len(ordered) - 1) // 2]
    times = [r["timestamp"] for r in rows]
    assert (min(times), found["timed_events"], found["first_day"]) == (START, len(times), "2020-01-01")
    assert found["last_day"] == str(np.datetime64(max(times), "s").astype("datetime64[D]"))
    assert found["term_ids"]["distinct"] == len(set(catalog.term_ids))
    assert found["term_ids"]["items_that_share_one"] == 2
    assert found["term_ids"]["distinct_prefixes"] == [len({t[:n] for t in catalog.term_ids}) for n in range(1, 6)]
    for split, part in tables["sft"].items():
        for task in set(part["task"]):
            of_task = [row for row in part if row["task"] == task]
            values = found["sft"][split][task]
            assert values["examples"] == len(of_task)
            for side in ("prompt", "completion"):
                lengths = [len(row[side][0]["content"]) for row in of_task]
                assert values[f"{side}_mean"] == pytest.approx(np.mean(lengths))
                assert values[f"{side}_max"] == max(lengths)


def test_statistics_do_not_depend_on_how_the_table_lies_in_memory() -> None:
    tables = toy_tables()
    events = count_events(tables["interactions"])
    moved = copy.copy(tables["interactions"])
    parts = [moved["train"].select(range(30)), moved["train"].select(range(30, len(moved["train"]))).shuffle(seed=0)]
    moved["train"] = concatenate_datasets(parts)
    assert moved["train"]["item_id"] != tables["interactions"]["train"]["item_id"]
    for name in ("per_user", "per_item", "times"):
        assert sorted(getattr(count_events(moved), name)) == sorted(getattr(events, name))


def test_statistics_of_tables_that_are_missing_or_odd() -> None:
    catalog = toy_catalog()
    tables = toy_tables()
    assert "events" not in dataset_statistics({"items": tables["items"]}, catalog, None)
    untimed = {s: rows.map(lambda row: {"timestamp": None}, features=rows.features) for s, rows in tables["interactions"].items()}
    found = dataset_statistics({"interactions": untimed}, catalog, count_events(untimed))
    assert found["timed_events"] == 0
    assert "first_day" not in found
    text = Dataset.from_dict({"task": ["a"], "prompt": ["水 x"], "completion": ["yes"]})
    assert dataset_statistics({"sft": {"train": text}}, catalog, None)["sft"]["train"]["a"]["prompt_max"] == 3
    other = Dataset.from_dict({"text": ["a"]})
    assert "sft" not in dataset_statistics({"sft": {"train": other}}, catalog, None)


@pytest.mark.parametrize("times", [[], [5], [5, 5], [0, 10**9], [-(10**15), 10**15]])
def test_a_plot_of_any_events(tmp_path: Path, times: list[int]) -> None:
    counts = np.array([1, 3, 70_000])
    plot_events(Events(counts, counts[:1], np.array(times, dtype=np.int64)), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)


# --- the card --------------------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "---",
    "--- \nlicense: mit\n---",
    "# A heading",
    "<script>alert(1)</script><h1>x</h1>",
    "```python\nimport os\n```",
    "a | b | c",
    "[click](javascript:alert(1)) ![x](y.png)",
    "$title ${title} {title} %s",
    "🛒 متجر 'קנייה' \u202eevil \x00\x1b[31m",
    "title: [unclosed, {'a': \"b",
    "*bold* _it_ ~~gone~~ `code` \\ &lt; &amp; <!-- --> ",
    "1. one\n2. two\n- three\n+ four\n> five",
    "see https://example.org/a_b?c=d&e=(f), and http://x.y.",
    "===",
    "\ud83d half a character",
]


def parsed(body: str) -> list[Any]:
    """All tokens of a Markdown text, those within lines too."""
    return [
        t for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body) for t in (token, *(token.children or []))
    ]


def links(tokens: list[Any]) -> set[str]:
    return {str(t.attrs.get("href", t.attrs.get("src"))) for t in tokens if t.type in ("link_open", "image")}


def headings(body: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    return ["".join(t.content for t in b.children) for a, b in pairwise(tokens) if a.type == "heading_open"]


def test_a_users_text_is_shown_and_does_nothing(toy_folder: Path, tmp_path: Path) -> None:
    (plain, plain_body), facts = card_of(toy_folder), read_json(toy_folder / DATASET_FACTS)
    for text in [*HOSTILE, "long " * 20_000, "\n".join(HOSTILE), " ".join(HOSTILE)]:
        said = {"title": text, "split": text, "notice": f"{text}\n\n{text}", "terms": {"by": text}}
        said["provenance"] = {"source": text, text: "x"}
        card = dataset_card({**facts, **said}, plain["configs"], {c["config_name"]: {} for c in plain["configs"]}, ["dataset.png"])
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
        header, body = card_of(tmp_path)
        assert header == {**plain, "pretty_name": one_line(text)}
        assert headings(body) == [one_line(text), *headings(plain_body)[1:], "Where the data come from"]
        tokens = parsed(body)
        assert not [t for t in tokens if t.type in ("html_block", "html_inline")]
        assert [t.content for t in tokens if t.type == "fence"] == [t.content for t in parsed(plain_body) if t.type == "fence"]
        assert links(tokens) - links(parsed(plain_body)) <= {"https://example.org/a_b?c=d&e=(f", "http://x.y"}
    hostile = toy_facts(title=" ".join(HOSTILE[:-1]), notice=HOSTILE[1])
    save_datasets({"items": toy_tables()["items"]}, toy_catalog(), tmp_path / "d", hostile)
    assert load_dataset(str(tmp_path / "d"), split="train").num_rows == 12


@given(st.text(alphabet=st.sampled_from(list("ab1.)-+=#>*_`~[]()<>&!|\\ $\n\t:/@\u202e水")), max_size=40))
def test_escaped_text_reads_as_the_text(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(escaped(text))
    assert [t.type for t in tokens] == (["paragraph_open", "inline", "paragraph_close"] if one_line(text) else [])
    shown = "".join(t.content for token in tokens for t in token.children or [])
    assert shown == one_line(text)


def test_urls_in_a_users_text_are_links() -> None:
    text = paragraphs("From https://example.org/a_b?c=d&e=~f, see (http://x.y/z).")
    assert links(parsed(text)) == {"https://example.org/a_b?c=d&e=~f", "http://x.y/z"}


def test_the_card_tells_the_facts(tmp_path: Path) -> None:
    catalog = toy_catalog()
    other = [("x", *tid[1:]) for tid in catalog.term_ids]
    facts = toy_facts(
        license="other",
        license_name="shop-1.0",
        license_link="https://example.org/terms",
        language=["en", "no"],
        terms={"generator": "transformers", "model": "Qwen/Qwen3", "prompt_hash": "1f2e"},
        quality=compare({"ours": measure(catalog.items, catalog.term_ids), "theirs": measure(catalog.items, other)}),
        neighbors={"embedder": "tf-idf", "k": 5, "index": {"kind": "exact", "recall": 1.0}},
        mixture={
            "examples": 35,
            "tasks": {"sequence": {"examples": 23, "share": 0.66, "characters": {"mean": 61.5}, "dropped": {}}},
            "settings": {"caps": {"sliding": 0, "query": 7}},
        },
        collaborative={"model": "sasrec", "revision": None},
        skipped_events=3,
        provenance={
            "source": "Amazon Reviews 2023",
            "script": "dataset_scripts/amazon.py",
            "settings": {"core": 5},
            "dropped": {"duplicate": {"count": 7, "first": ["user Ann, item x"]}},
            "outputs": {"items.parquet": {"rows": 12, "sha256": "cd" * 32}},  # of the data folder: nothing that stands here
            "files": {"reviews": [{"name": "reviews.jsonl.gz", "sha256": "ab" * 32, "lines": 1234, "dropped": {"no text": {"count": 1}}}]},
        },
    )
    (tmp_path / "beside").mkdir()
    for name in ("quality.png", "quality.md", "statistics.json"):
        (tmp_path / "beside" / name).write_bytes(PNG)
    save_datasets(toy_tables(), catalog, tmp_path / "d", facts, files=sorted((tmp_path / "beside").iterdir()))
    header, body = card_of(tmp_path / "d")
    assert (header["license"], header["license_name"], header["license_link"]) == ("other", "shop-1.0", "https://example.org/terms")
    assert (header["language"], header["size_categories"]) == (["en", "no"], ["n<1K"])
    assert [c["config_name"] for c in header["configs"] if c.get("default")] == ["items"]
    rows = cells(body)
    for row in (
        ["users", "40"], ["items", "12"], ["distinct Term IDs", "11"], ["first and last day", "2020-01-01, 2020-03-22"],
        ["sequence", "0.66", "mean: 61.5", "–"], ["reviews.jsonl.gz", "reviews", "ab" * 32, "1,234"],
    ):  # fmt: skip
        assert row in rows
    assert any(row[1:] == ["ours", "theirs"] for row in rows)
    for line in ("- model: Qwen/Qwen3", "- index · kind: exact", "- settings · core: 5", "- dropped · duplicate: 7",
                 "![quality](quality.png)", "More: [quality.md](quality.md)", "More: [statistics.json](statistics.json)",
                 "Prompts have the hash `abc`.",
                 "- settings · caps · query: 7", "- model: sasrec",
                 "Prompts show the last 20 items of a history. 3 held-out events are no case"):  # fmt: skip
        assert line in body
    shared = ["items that share their Term ID with another", "2", "16.7 %"]
    leaks = ["cases whose target stands among its own user's training events more often than in its history (leakage)", "0", "0.0 %"]
    for row in (shared, leaks):
        assert row in rows
    assert "- 2 items share their Term ID with another" in body.split("## Limits")[1]
    assert not any(word in body for word in ("sliding", "Ann", "cd" * 32))
    assert "revision" not in body
    for image in re.findall(r"!\[.*?\]\((.*?)\)", body):
        assert (tmp_path / "d" / image).read_bytes().startswith(PNG)
    assert "statistics" not in facts  # the caller's facts stay as they were
    assert {k: v for k, v in dataset_facts(tmp_path / "d").items() if k not in ("schema", "statistics", "audit")} == facts


def test_columns_of_others_are_told_without_a_meaning(tmp_path: Path) -> None:
    tables: Tables = {"extra": {"train": Dataset.from_dict({"a": [1], "b": [{"c": [1.5]}]})}}
    save_datasets(tables, toy_catalog(), tmp_path / "d", toy_facts())
    assert ["`extra`", "`a`", "int64", ""] in cells(card_of(tmp_path / "d")[1])
