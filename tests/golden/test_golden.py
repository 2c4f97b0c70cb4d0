"""What version 0.1.0 answered, and what every later version must still answer.

The data beside this file were written once, by `make.py`. Each check computes one group of answers with the current code and compares it
with `expected/`. Ids, hashes and names must be equal; numbers may differ by `TOLERANCE`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import struct
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, LogitsProcessorList, pipeline

import grlm_hf
from grlm_hf import Catalog, GRLMForRecommendation, Item, TrieConstrainedLogitsProcessor
from grlm_hf.data.catalog import catalog_from_tables
from grlm_hf.data.interactions import leave_one_out, load_histories
from grlm_hf.data.repository import dataset_facts
from grlm_hf.evaluation import generative
from grlm_hf.layout import HISTORIES
from grlm_hf.publishing.folder import check_folder
from grlm_hf.stages import make_dataset
from grlm_hf.tasks.config import TASKS, MixtureConfig
from grlm_hf.tasks.examples import FREE_TEXT
from grlm_hf.tasks.mixture import make_mixture
from grlm_hf.tasks.prompts import prompt_hash, templates_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.head import vocabulary_nll
from grlm_hf.training.labels import tokenize_mixture
from grlm_hf.training.objective import IGNORED, label_nodes, trie_nll

# All names of inner modules that this test uses. When a module moves, this block is all that changes.
from grlm_hf.trie.walker import TrieWalker

HERE = Path(__file__).parent
CHECKPOINT, SHOP, DATASET, EXPECTED = HERE / "checkpoint", HERE / "shop", HERE / "dataset", HERE / "expected"
WORK = tempfile.TemporaryDirectory(prefix="golden-")  # removed at exit
TOLERANCE = 1e-5
OBJECTIVES = ("trie", "vocabulary")
PICTURE = "dataset.png"  # written with the dataset, but not committed

# One item; some items; a repeated item; more items than a prompt shows.
SHOWN = [["i20"], ["i19", "i9", "i14"], ["i12", "i12"], ["i10", "i18", "i15", "i13", "i11", "i16"]]
NEW = [
    Item("n1", "Hammock tent for two", "Fjall", ("Outdoor", "Tents"), "A light tent to hang between trees, green.", 89.0, "Outdoor"),
    Item("n2", "Head lamp, rechargeable", "Lumo", ("Home", "Lamps"), "Small led lamp with a red light.", 24.5, "Home"),
    Item("n3", "Steel mug", "", ("Kitchen",), "Small mug of steel.", None, "Kitchen"),
    Item("n4", "Gas stove with two burners", "Primo", ("Outdoor", "Stoves"), "", 59.0, "Outdoor"),
]
GIVEN = [("tent", "hammock", "light", "two", "green"), ("lamp", "head", "led", "small", "rechargeable")]  # the second one is in use

WEIGHTS: dict[str, float] = {
    "sequence": 1.0, "internalise": 1.0, "sliding": 1.0, "title_to_term_id": 1.0, "description_to_term_id": 1.0, "term_id_to_title": 0.5,
    "collaborative": 1.5, "query": 2.0, "steered": 1.0, "chat": 1.0,
}  # fmt: skip
MIXTURE = MixtureConfig(
    **WEIGHTS, max_history=4, window=3, stride=2, windows_per_user=2, neighbors_from="knn", neighbors_per_item=2,  # type: ignore[arg-type]
    chat_file=str(SHOP / "chat.jsonl"),
)  # fmt: skip
TABLES = {
    "items": ["train"], "interactions": ["test", "train", "validation"], "term_ids": ["train"], "cases": ["test", "validation"],
    "collaborative": ["train"], "sft": ["train", "validation"],
}  # fmt: skip

Check = Callable[[], Any]
CHECKS: dict[str, Check] = {}


def check(name: str, *cases: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as the check `name`, or as one check a case, which is its argument."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for case in cases:
            CHECKS[f"{name}/{case}"] = functools.partial(function, case)
        if not cases:
            CHECKS[name] = function
        return function

    return register


# --- the parts ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def loaded() -> GRLMForRecommendation:
    return GRLMForRecommendation.from_pretrained(CHECKPOINT)


def recommender(objective: str, history: str | None = None) -> GRLMForRecommendation:
    """The checkpoint under another objective or with other prompts. Each call gives one of its own, so its catalog may change."""
    saved = loaded()
    config = replace(saved.config, objective=objective)
    if history is not None:
        config = replace(config, history=history, prompt_hash=prompt_hash(history))
    return GRLMForRecommendation(saved.model, saved.tokenizer, saved.catalog, config, saved.trie, saved.prior)


shared = functools.cache(recommender)  # for what does not change it


@functools.cache
def resaved() -> Path:
    """The checkpoint, loaded and saved again by the current code."""
    folder = Path(WORK.name) / "checkpoint"
    GRLMForRecommendation.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


@functools.cache
def remade() -> Path:
    """The dataset, made again by the current code."""
    folder = Path(WORK.name) / "dataset"
    make_dataset(SHOP, CHECKPOINT, folder, MIXTURE, title="Golden shop", notice="Invented data.")
    return folder


@functools.cache
def mixture(history: str) -> Any:
    """The training mixture of the shop, with every task; under "both" with a budget of tokens and caps, too."""
    saved = loaded()
    ids = [item.item_id for item in saved.catalog]
    near = {item: [ids[(n + step) % len(ids)] for step in (1, 3, 4, 7)] for n, item in enumerate(ids)}
    config = replace(MIXTURE, history=history)
    if history == "both":
        config = replace(config, max_tokens=150, caps={**config.caps, "query": 5, "sliding": 7})
    train = leave_one_out(load_histories(SHOP / "sequences.jsonl", set(ids))).train
    return make_mixture(saved.catalog, train, config, seed=3, neighbors=near, tokenizer=saved.tokenizer)


@functools.cache
def tokens(objective: str) -> Any:
    saved, rows = loaded(), mixture("term_ids").dataset
    if objective == "trie":  # version 0.1.0 left free text out under it
        rows = rows.select([n for n, task in enumerate(rows["task"]) if task not in FREE_TEXT])
    return tokenize_mixture(rows, saved.tokenizer, saved.catalog, objective=objective, identifiers=True)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def digest(rows: Iterable[Any]) -> str:
    """Of the rows in any order."""
    return sha("\n".join(sorted(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)).encode())


def in_order(rows: Iterable[Any]) -> str:
    return sha("\n".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows).encode())


def files_of(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if "__pycache__" not in path.parts)


def number(x: Any) -> float:
    """With one digit more than `TOLERANCE` needs."""
    return round(float(x), 6)


def numbers(array: Any) -> list[float]:
    return [number(x) for x in array]


def listed(found: Any) -> dict[str, Any]:
    """Recommendations of one history as plain values; `log_probs` only where they are not the scores."""
    ids, scores, log_probs = [r.item_id for r in found], numbers(r.score for r in found), numbers(r.log_prob for r in found)
    return {"ids": ids, "scores": scores} | ({} if scores == log_probs else {"log_probs": log_probs})


def tensors(path: Path) -> dict[str, Any]:
    """What the head of a safetensors file states: its metadata's keys; type and shape of each tensor."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + length])
    return {"metadata": sorted(head.pop("__metadata__", {}))} | {name: [about["dtype"], about["shape"]] for name, about in head.items()}


def columns(path: Path) -> dict[str, Any]:
    """What a parquet file states: its metadata's keys; type of each column."""
    schema = pq.read_schema(path)
    stated = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    versions = {key: value for key, value in stated.items() if key.startswith("grlm_")}
    return {"metadata": sorted(stated), "versions": versions} | {field.name: str(field.type) for field in schema}


# --- recommending ------------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow": {"num_beams": 3, "k": 3},
    "edge_wise": {"edge_wise": True},
    "exact": {"exact": True},
    "exact_stopped": {"exact": True, "max_forwards": 2, "k": 3, "num_beams": 3},
    "exclude_seen": {"exclude_seen": True},
    "allow": {"allow": ["i20", "i13", "i9"], "k": 3},
    "exclude": {"exclude": ["i20", "i15"]},
    "banned_terms": {"banned_terms": ["camping", "steel"]},
    "domain": {"domain": "Kitchen", "k": 3},
    "prior": {"prior": {"i15": 50.0, "i9": 4.0, "i20": 0.0}},
    "prior_weight": {"prior": {"i15": 50.0, "i9": 4.0}, "prior_weight": 0.5},
    "own": {"prior": "own"},
    "own_exact": {"prior": "own", "exact": True, "prior_weight": 2.0},
    "shared_equal": {"shared": "equal"},
    "shared_prior": {"prior": {"i14": 3.0}, "shared": "prior"},
    "length_penalty": {"length_penalty": 0.5},
    "all_together": {
        "prior": "own",
        "shared": "prior",
        "exclude_seen": True,
        "banned_terms": ["gas"],
        "length_penalty": 0.5,
        "exact": True,
    },
}


@check("recommend", *(f"{objective}/{name}" for objective in OBJECTIVES for name in OPTIONS))
def recommend(case: str) -> Any:
    objective, _, name = case.partition("/")
    found = shared(objective).recommend(SHOWN, **({"k": 6} | OPTIONS[name]))
    state = [{"certified": r.certified, "gap": r.gap} for r in found] if OPTIONS[name].get("exact") else [{} for _ in found]
    return [listed(r) | s for r, s in zip(found, state, strict=True)]


@check("recommend_history", *(f"{objective}/{history}" for objective in OBJECTIVES for history in HISTORIES))
def recommend_history(case: str) -> Any:
    objective, _, history = case.partition("/")
    return [listed(r) for r in shared(objective, history).recommend(SHOWN, 5)]


@check("sample", *OBJECTIVES)
def sample(objective: str) -> Any:
    grlm = shared(objective)
    return {
        "seed 7": [listed(r) for r in grlm.sample(SHOWN, 4, seed=7)],
        "hot, unseen": [listed(r) for r in grlm.sample(SHOWN, 4, seed=11, temperature=2.0, exclude_seen=True)],
        "domain": listed(grlm.sample(SHOWN[1], 3, seed=5, domain="Outdoor")),
    }


@check("explain", *OBJECTIVES)
def explain(objective: str) -> Any:
    found = []
    for history, item in zip(SHOWN, ("i13", "i14", "i10", "i9"), strict=True):
        said = shared(objective).explain(history, item)
        terms = [[t.term, number(t.log_prob)] for t in said.terms]
        drops = [[h.item_id, h.drop if h.drop is None else number(h.drop)] for h in said.history]
        found.append({"log_prob": number(said.log_prob), "terms": terms, "drops": drops})
    return found


@check("write_freely")
def write_freely() -> Any:
    return [generative.write_freely(shared("vocabulary"), history, num_beams=3, max_new_tokens=6) for history in SHOWN[:2]]


@check("pipeline")
def answers_of_the_pipeline() -> Any:
    importlib.import_module("grlm_hf.pipeline")
    answers = pipeline("recommendation", model=str(CHECKPOINT))(SHOWN[:2], k=3, exclude_seen=True)
    return [[{name: value if isinstance(value, str | list) else number(value) for name, value in a.items()} for a in r] for r in answers]


# --- generate() --------------------------------------------------------------------------------------------------------------------


@functools.cache
def language_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT)


def batch() -> Any:
    grlm = loaded()
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in SHOWN]
    return grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")


@check("processor", *OBJECTIVES)
def processor(objective: str) -> Any:
    grlm, inputs = loaded(), batch()
    held = TrieConstrainedLogitsProcessor(grlm.catalog.trie(grlm.tokenizer), objective=objective, tokenizer=grlm.tokenizer)
    out = language_model().generate(
        **inputs, num_beams=4, num_return_sequences=3, max_new_tokens=grlm.trie.depth + 1, do_sample=False, length_penalty=0.0,
        logits_processor=LogitsProcessorList([held]), return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    cut = inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :cut], inputs["input_ids"].repeat_interleave(3, 0))
    return {"sequences": out.sequences[:, cut:].tolist(), "scores": numbers(out.sequences_scores)}


SEARCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "exact": {"exact": True},
    "edge_wise": {"edge_wise": True},
    "rules": {"exclude": ["i20", "i19"], "prior": {"i15": 50.0}, "length_penalty": 0.5},
}


@check("custom_generate", *(f"function/{name}" for name in SEARCHES), "repository/rules")
def custom_generate(case: str) -> Any:
    how, _, name = case.partition("/")
    function = importlib.import_module("grlm_hf.generation").generate
    custom = {"custom_generate": function} if how == "function" else {"custom_generate": str(CHECKPOINT), "trust_remote_code": True}
    options: dict[str, Any] = {"num_return_sequences": 2, "max_new_tokens": 64, "return_dict_in_generate": True} | SEARCHES[name]
    inputs = batch()
    out = language_model().generate(**inputs, **custom, **options)
    return {"sequences": out.sequences[:, inputs["input_ids"].shape[1] :].tolist(), "scores": numbers(out.sequences_scores)}


# --- prompts, hashes and tokens ----------------------------------------------------------------------------------------------------


@check("hashes")
def hashes() -> Any:
    grlm = loaded()
    with tempfile.TemporaryDirectory() as folder:
        grlm.config.save(Path(folder) / "config.json")
        stated = json.loads((Path(folder) / "config.json").read_text())
    return {
        "prompt_hash": {history: prompt_hash(history) for history in HISTORIES},
        "templates_hash": templates_hash(),
        "tokenizer_hash": tokenizer_hash(grlm.tokenizer),
        "identifiers_hash": grlm.catalog.identifiers_hash,
        "trie.of": grlm.trie.of,
        "trie.tokenizer_hash": grlm.trie.tokenizer_hash,
        "config": {name: stated[name] for name in ("max_history", "objective", "history", "max_tokens", "schema")},
        "config.prompt_hash": grlm.config.prompt_hash,
        "config.tokenizer_hash": grlm.config.tokenizer_hash,
    }


@check("prompt_tokens", *HISTORIES)
def prompt_tokens(history: str) -> Any:
    return [shared("trie", history).prompt_tokens(shown)[0].tolist() for shown in (SHOWN[1], SHOWN[3])]


@check("paths")
def paths() -> Any:
    """Token path of each identifier, of a trie made anew; the saved one has the same."""
    grlm = loaded()
    made = [path.tolist() for path in grlm.catalog.trie(grlm.tokenizer).paths()]
    assert made == [path.tolist() for path in grlm.trie.paths()]
    return {grlm.tokenizer.decode(path): path for path in made}


@check("catalog")
def catalog() -> Any:
    found = loaded().catalog
    return {
        "items": [[i.item_id, i.title, i.brand, list(i.categories), i.description, i.price, i.domain] for i in found],
        "term_ids": [list(tid) for tid in found.term_ids],
        "identifiers": len(found.identifiers),
        "collisions": {", ".join(tid): [i.item_id for i in items] for tid, items in found.collisions.items()},
        "domains": list(found.domains),
    }


@check("prior")
def prior() -> Any:
    fused = loaded().prior
    assert fused is not None
    log_p = np.log(fused.probabilities(SHOWN))
    parts = {name: [numbers(row) for row in part[:2]] for name, part in fused.parts(SHOWN).items()}
    return {"item_ids": list(fused.item_ids), "weights": fused.weights, "log_p": [numbers(row) for row in log_p], "parts": parts}


# --- a living catalog --------------------------------------------------------------------------------------------------------------


@check("living_catalog", "given", "extracted")
def living_catalog(how: str) -> Any:
    grlm = recommender("trie")

    def state() -> dict[str, Any]:
        found = grlm.recommend(SHOWN[1], 5, prior="own")
        return {
            "version": grlm.version,
            "recommended": found.version,
            "hash": grlm.catalog.identifiers_hash,
            "term_ids": {i.item_id: list(tid) for i, tid in zip(grlm.catalog, grlm.catalog.term_ids, strict=True) if i.item_id[0] == "n"},
            "plain": listed(grlm.recommend([*SHOWN[1], "n1"] if "n1" in grlm.catalog else SHOWN[1], 5, exact=True)),
            "own": listed(found),
        }

    if how == "given":
        assert grlm.add_items(NEW[:2], GIVEN) == 1
        found = {"added": state()}
        grlm.update_items([replace(NEW[1], title="Another title"), NEW[0]], [GIVEN[0], ("tent", "hammock", "heavy", "two", "green")])
        found["updated"] = state()
    else:
        grlm.add_items(NEW[:1])
        found = {"added one": state()}
        grlm.add_items(NEW[1:])
        found["added more"] = state()
    grlm.remove_items(["n1", "i20"])
    return found | {"removed": state()}


# --- training ----------------------------------------------------------------------------------------------------------------------


@check("mixture", *HISTORIES)
def mixture_rows(history: str) -> Any:
    made = mixture(history)
    by_task = {task: [row for row in made.dataset if row["task"] == task] for task in WEIGHTS}
    return {
        "rows": {task: len(rows) for task, rows in by_task.items()},
        "digests": {task: digest(rows) for task, rows in by_task.items()},
        "order": in_order([row["task"], row["key"]] for row in made.dataset),
        "columns": made.dataset.column_names,
        "statistics": made.statistics if history == "both" else in_order([made.statistics]),
    }


@check("tokens", *OBJECTIVES)
def token_rows(objective: str) -> Any:
    rows = tokens(objective)
    columns = {name: in_order(rows[name]) for name in rows.column_names}
    return {"rows": len(rows), "columns": columns, "first": {name: rows[0][name] for name in ("key", "input_ids")}}


@check("loss", *OBJECTIVES)
@torch.no_grad()
def loss(objective: str) -> Any:
    """Mean loss over the labels of eight rows, each row padded on the right."""
    grlm, rows = loaded(), tokens(objective)[:8]
    size = max(map(len, rows["input_ids"]))
    ids = torch.full((8, size), grlm.tokenizer.pad_token_id)
    labels = torch.full((8, size), IGNORED)
    for row, (text, mask) in enumerate(zip(rows["input_ids"], rows["completion_mask"], strict=True)):
        ids[row, : len(text)] = torch.tensor(text)
        labels[row, : len(text)] = torch.where(torch.tensor(mask) == 1, torch.tensor(text), IGNORED)
    attention = torch.arange(size) < torch.tensor([[len(text)] for text in rows["input_ids"]])
    hidden = grlm.model(input_ids=ids, attention_mask=attention.long(), output_hidden_states=True).hidden_states[-1][:, :-1]
    head, labels = grlm.model.get_output_embeddings(), labels[:, 1:]
    if objective == "vocabulary":
        learnt = labels != IGNORED
        return {"labels": int(learnt.sum()), "loss": float(vocabulary_nll(hidden[learnt], head, labels[learnt]) / learnt.sum())}
    node = label_nodes(labels, TrieWalker(grlm.trie), grlm.tokenizer.eos_token_id)
    used = node[1] > node[0]
    nll = trie_nll(hidden[used], head.weight, tuple(x[used] for x in node), labels[used], TrieWalker(grlm.trie, "cpu"))  # type: ignore[arg-type]
    return {"labels": int(used.sum()), "loss": float(nll.mean())}


# --- the dataset repository --------------------------------------------------------------------------------------------------------


def tables(folder: Path) -> Any:
    found = {}
    for table, splits in TABLES.items():
        rows = load_dataset(str(folder), table)
        assert sorted(rows) == splits
        for split in splits:
            found[f"{table}/{split}"] = {"rows": len(rows[split]), "columns": rows[split].column_names, "digest": in_order(rows[split])}
    return found


@check("dataset", "facts", "tables", "catalog")
def dataset(what: str) -> Any:
    """What the current code reads in the dataset of version 0.1.0."""
    check_folder(DATASET)
    if what == "facts":
        return {name: in_order([value]) for name, value in dataset_facts(DATASET).items()}
    if what == "tables":
        return tables(DATASET)
    assert catalog_from_tables(str(DATASET)) == Catalog.from_pretrained(DATASET) == loaded().catalog
    return Catalog.from_pretrained(DATASET).identifiers_hash


# --- files -------------------------------------------------------------------------------------------------------------------------


def stated(folder: Path) -> dict[str, Any]:
    """Names of all files, and what the heads of those with tensors or tables state."""
    found: dict[str, Any] = {}
    for name in files_of(folder):
        if name.endswith(".parquet"):
            found[name] = columns(folder / name)
        elif name.endswith((".safetensors", ".trie", ".prior")):
            found[name] = tensors(folder / name)
        else:
            found[name] = {}
    return found


@check("files", "checkpoint", "dataset")
def files(what: str) -> Any:
    """Of what the current code writes. Of version 0.1.0 the same files are in this folder."""
    folder, before = (resaved(), CHECKPOINT) if what == "checkpoint" else (remade(), DATASET)
    assert [name for name in files_of(folder) if name != PICTURE] == files_of(before)
    return stated(folder)


@check("bytes")
def written_bytes() -> Any:
    """Hashes of files that the current code writes."""
    folder = resaved()
    names = [n for n in files_of(folder) if n.endswith((".trie", ".prior")) or n.startswith(("prior/", "custom_generate/"))]
    return {name: sha((folder / name).read_bytes()) for name in [*names, "grlm_config.json"]}


# --- the tests ---------------------------------------------------------------------------------------------------------------------


def differences(want: Any, got: Any, path: str = "") -> list[str]:
    """Where two trees of plain values differ; numbers with a fraction may differ by `TOLERANCE`."""
    if isinstance(want, dict) and isinstance(got, Mapping):
        if want.keys() != got.keys():
            return [f"{path}: missing {sorted(want.keys() - got.keys())}, new {sorted(got.keys() - want.keys())}"]
        return [d for key in want for d in differences(want[key], got[key], f"{path}.{key}")]
    if isinstance(want, list) and isinstance(got, Sequence) and not isinstance(got, str):
        if len(want) != len(got):
            return [f"{path}: {len(want)} values before, {len(got)} now: {want!r} / {got!r}"]
        return [d for n, (a, b) in enumerate(zip(want, got, strict=True)) for d in differences(a, b, f"{path}[{n}]")]
    if isinstance(want, float) and isinstance(got, float):
        same = want == got or math.isclose(want, got, rel_tol=0, abs_tol=TOLERANCE)
    else:
        same = type(want) is type(got) and want == got
    return [] if same else [f"{path}: {want!r} before, {got!r} now"]


def without_new(want: dict[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    """`got` without the keys that `want` lacks, such as a setting that was added since."""
    return {key: without_new(want[key], value) if isinstance(value, dict) else value for key, value in got.items() if key in want}


@functools.cache
def expected() -> dict[str, Any]:
    return {name: value for path in EXPECTED.glob("*.json") for name, value in json.loads(path.read_text(encoding="utf-8")).items()}


def same(name: str, got: Any) -> None:
    found = differences(expected()[name], got)
    assert not found, f"{name} is not as in version 0.1.0:\n" + "\n".join(found[:20])


def test_nothing_is_left_unchecked() -> None:
    assert expected().keys() == CHECKS.keys()
    assert set(WEIGHTS) <= set(TASKS)  # tasks that were added since are not of version 0.1.0


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_as_before(name: str) -> None:
    same(name, CHECKS[name]())


def test_the_dataset_made_again() -> None:
    folder = remade()
    check_folder(folder)
    same("dataset/tables", tables(folder))
    before, now = dataset_facts(DATASET), dataset_facts(folder)
    now["mixture"]["settings"] = without_new(before["mixture"]["settings"], now["mixture"]["settings"])
    found = differences(before, now)
    assert not found, "the facts are not as in version 0.1.0:\n" + "\n".join(found)
    assert Catalog.from_pretrained(folder) == Catalog.from_pretrained(DATASET)


def test_the_checkpoint_saved_again() -> None:
    folder = resaved()
    for name in files_of(CHECKPOINT):
        if name.endswith((".trie", ".prior")) or name.startswith(("prior/", "custom_generate/")) or name == "grlm_config.json":
            assert (folder / name).read_bytes() == (CHECKPOINT / name).read_bytes(), f"{name} has other bytes"
    again = GRLMForRecommendation.from_pretrained(folder)
    assert again.catalog == loaded().catalog
    assert again.config == loaded().config
    weights = loaded().model.state_dict()
    assert again.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    same("recommend/trie/own", [listed(r) for r in again.recommend(SHOWN, 6, prior="own")])


def test_the_saved_trie_is_the_one_that_is_used() -> None:
    """Else each start would make it anew, which takes long for a large catalog."""
    grlm = loaded()
    assert grlm.trie.of == grlm.catalog.identifiers_hash
    assert recommender("vocabulary").trie is grlm.trie


# Names in configs, checkpoints and programs of others. They must never move.
NAMES = {
    "grlm_hf": ["Catalog", "GRLMForRecommendation", "Item", "Recommendation", "Trie", "TrieConstrainedLogitsProcessor", "__version__"],
    "grlm_hf.generation": ["generate"],
    "grlm_hf.pipeline": ["RecommendationPipeline"],
    "grlm_hf.cli": ["main"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_names_that_never_move(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None


def test_the_public_names() -> None:
    assert set(NAMES["grlm_hf"]) <= set(grlm_hf.__all__)


def test_entry_points() -> None:
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["vllm.logits_processors"] == {"grlm": "grlm_hf.vllm:TrieConstrainedLogitsProcessor"}
    assert project["scripts"]["grlm"] == "grlm_hf.cli:main"
    module = importlib.import_module("grlm_hf.vllm")  # vLLM itself need not be installed
    assert "TrieConstrainedLogitsProcessor" in dir(module)
    try:
        missing = "" if inspect.isclass(module.TrieConstrainedLogitsProcessor) else "the class"
    except ModuleNotFoundError as error:
        missing = str(error.name)
    assert missing.split(".")[0] in ("", "vllm"), f"grlm_hf.vllm does not find its processor: no {missing}"


def test_forced_tokens_have_their_own_module() -> None:
    """vLLM loads the class by this name in processes of its own."""
    spec = importlib.util.find_spec("grlm_hf.vllm.forced")
    assert spec is not None
    assert spec.origin is not None
    assert "\nclass ForcedTokens(" in Path(spec.origin).read_text(encoding="utf-8")
