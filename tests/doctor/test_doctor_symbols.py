"""Each fault of a catalog or checkpoint of Semantic IDs, put into a copy of a sound one, is found, and nothing else is."""

from __future__ import annotations

import copy as copies
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken
from toys import toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.doctor import Finding, examine
from grlm_hf.identifiers.symbols import CODES
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.layout import CATALOG_FILE, CODEBOOK_FILE, CONFIG_FILE
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.stages.codes import atomic_catalog, codes_catalog
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.scratch import ScratchConfig, make_model

WORDS = ["lamp", "tent", "soap", "comb"]
ITEMS = [Item(f"i{n:02d}", f"{WORDS[n % 4]} model {n % 7} of {WORDS[n // 4 % 4]}", price=float(n)) for n in range(40)]
CARD = "---\nlicense: mit\nlibrary_name: transformers\n---\n# Toy\n"
SMALL = CodesConfig(codes=[4], levels=2, dims=8)


def coded(config: CodesConfig = SMALL) -> Catalog:
    return codes_catalog(ITEMS, config, NeighborsConfig())[0]


def with_tokens(catalog: Catalog, special: bool = False) -> Any:
    tokenizer = copies.deepcopy(toy_tokenizer())
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in catalog.added_tokens()])
    return tokenizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, catalog = tmp_path_factory.mktemp("sound") / "checkpoint", coded()
    tokenizer = with_tokens(catalog)
    model = make_model(
        ScratchConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, max_positions=512), tokenizer, 0
    )
    config = GRLMConfig(
        4, prompt_hash("term_ids", CODES), tokenizer_hash(tokenizer), "trie", scheme="codes", codebook=catalog.codebook_hash
    )
    GRLMForRecommendation(model.eval(), tokenizer, catalog, config).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def found(folder: Path) -> list[Finding]:
    (said,) = examine(folder)
    assert all(f.found and f.why and f.fix for f in said.findings)
    return list(said.findings)


def names(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.level, f.check) for f in findings}


def test_a_sound_checkpoint_has_no_findings(sound: Path) -> None:
    assert names(found(sound)) == set()
    (said,) = examine(sound)
    assert "Semantic IDs" in said.facts["catalog"]


def test_a_codebook_that_is_missing_or_another_one(copy: Path) -> None:
    kept = (copy / CODEBOOK_FILE).read_bytes()
    (copy / CODEBOOK_FILE).unlink()
    (one,) = [f for f in found(copy) if f.check == "codebook"]
    assert one.found.startswith(f"There is no {CODEBOOK_FILE}; the catalog has codes of ")
    other = coded(replace(SMALL, seed=3))
    other.save_pretrained(copy.parent / "other")
    shutil.copy(copy.parent / "other" / CODEBOOK_FILE, copy)
    (one,) = [f for f in found(copy) if f.check == "codebook"]
    assert other.codebook_hash in one.found
    (copy / CODEBOOK_FILE).write_bytes(kept[:-50])
    assert ("error", "codebook") in names(found(copy))


def test_a_checkpoint_of_another_codebook_or_kind(copy: Path) -> None:
    stated = json.loads((copy / CONFIG_FILE).read_text())
    (copy / CONFIG_FILE).write_text(json.dumps(stated | {"codebook": "0123456789abcdef"}))
    (one,) = found(copy)
    assert (one.level, one.check) == ("error", "codebook")
    assert "'0123456789abcdef'" in one.found
    assert stated["codebook"] in one.found
    (copy / CONFIG_FILE).write_text(json.dumps(stated))
    (copy / CODEBOOK_FILE).unlink()
    atomic_catalog(ITEMS)[0].save_pretrained(copy)
    assert ("error", "codebook") in names(found(copy))


@pytest.mark.parametrize(("tokenizer", "said"), [(toy_tokenizer, "not one token"), (lambda: with_tokens(coded(), True), "special tokens")])
def test_symbols_must_be_ordinary_tokens(copy: Path, tokenizer: Any, said: str) -> None:
    tokenizer().save_pretrained(copy)
    some = [f for f in found(copy) if f.check == "symbols"]
    assert len(some) == 1
    assert said in some[0].found
    assert "Semantic ID" in some[0].found


def test_collisions_name_the_kind(tmp_path: Path) -> None:
    coded(replace(SMALL, collisions="share")).save_pretrained(tmp_path)
    shared = [f for f in found(tmp_path) if f.check == "collisions"]
    assert len(shared) == 1
    assert "share a Semantic ID" in shared[0].found
    assert "<a_" in shared[0].found
    assert "identifier.codes.collisions" in shared[0].fix


def test_unused_codes_of_the_first_level(tmp_path: Path) -> None:
    catalog = coded(CodesConfig(codes=[16, 4], levels=2, dims=8))
    assert "codes-used" not in {f.check for f in found_of(catalog, tmp_path / "a")}
    few = [("a_1", *identifier[1:]) for identifier in catalog.item_identifiers]
    (one,) = [f for f in found_of(Catalog(ITEMS, few, CODES, catalog.codebook), tmp_path / "b") if f.check == "codes-used"]
    assert one.level == "warning"
    assert "1 of 16 codes of the first level are used" in one.found


def found_of(catalog: Catalog, folder: Path) -> list[Finding]:
    catalog.save_pretrained(folder)
    return found(folder)


def test_illegal_identifiers(tmp_path: Path) -> None:
    Catalog(ITEMS[:2], [("a_1", "b_0"), ("a_1", "b_1")], CODES).save_pretrained(tmp_path)
    table = pq.read_table(tmp_path / CATALOG_FILE)
    rows = table.to_pylist()
    rows[1]["identifier"] = ["b_1", "a_1"]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), tmp_path / CATALOG_FILE)
    (one,) = found(tmp_path)
    assert one.check == "illegal-identifiers"
    assert "1 of 2 items have no legal Semantic ID, such as 'i01'" in one.found
