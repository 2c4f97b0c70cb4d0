"""The stages that make identifiers: what the vocabulary and the resolver make together, and what the quality report says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import toy_catalog

from grlm_hf import Catalog
from grlm_hf.indexing.neighbors import find_neighbors
from grlm_hf.recipe import QualityConfig, TermsConfig
from grlm_hf.stages import make_quality, make_terms

COLOURS = ("red", "blue", "green", "black", "white", "pink")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Six items that share a Term ID, and six that are alone."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [{"item_id": f"a{n}", "title": f"Acme {colour} Tent", "terms": ["tent", "camp", "light"]} for n, colour in enumerate(COLOURS)]
    rows += [{"item_id": f"b{n}", "title": f"{c} Mug", "terms": ["mug", "drink", c]} for n, c in enumerate(COLOURS)]
    (folder / "items.jsonl").write_text("".join(json.dumps({k: row[k] for k in ("item_id", "title")}) + "\n" for row in rows))
    (folder / "term_ids.jsonl").write_text("".join(json.dumps({k: row[k] for k in ("item_id", "terms")}) + "\n" for row in rows))
    return folder


def test_a_controlled_vocabulary_stays_one_when_collisions_are_resolved(shop: Path, tmp_path: Path) -> None:
    catalog = make_terms(shop, tmp_path / "catalog", TermsConfig(generator="file", vocabulary=7))
    used = {term for term_id in catalog.term_ids for term in term_id}
    assert used == {"tent", "camp", "light", "mug", "drink", "black", "blue"}
    assert len(set(catalog.term_ids[:6])) == 3  # those whose own word is one of the vocabulary are told apart


@pytest.mark.parametrize("resolver", ["term", "attribute", "append", "rank"])
def test_what_a_resolver_makes_is_legal(shop: Path, tmp_path: Path, resolver: str) -> None:
    make_terms(shop, tmp_path / "catalog", TermsConfig(generator="file", resolver=resolver))
    (report,) = make_quality(tmp_path / "catalog", tmp_path / "quality")["sets"].values()
    assert report["legality"]["legal"] == 1.0
    assert report["n_terms"] == 3


def test_a_set_of_other_length_or_written_as_text_is_measured_as_what_it_is(shop: Path, tmp_path: Path) -> None:
    catalog = make_terms(shop, tmp_path / "catalog", TermsConfig(generator="file", resolver="rank"))
    rows = [
        {"item_id": item.item_id, "terms": "[tent, camp, light, " + f"{item.item_id}]"}
        for item in Catalog.from_pretrained(tmp_path / "catalog")
    ]
    (tmp_path / "other.csv").write_text("item_id,terms\n" + "".join(f'{row["item_id"]},"{row["terms"]}"\n' for row in rows))
    found = make_quality(tmp_path / "catalog", tmp_path / "quality", QualityConfig(compare=str(tmp_path / "other.csv")))
    ours, other = found["sets"]["ours"], found["sets"]["other"]
    assert ours["legality"]["legal"] == other["legality"]["legal"] == 1.0
    assert (ours["n_terms"], other["n_terms"]) == (3, 4)
    assert ours["terms"]["distinct"] == len({term for term_id in catalog.term_ids for term in term_id})


def test_agreement_is_measured_on_the_neighbours_that_are_named(tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path / "catalog")
    find_neighbors(list(toy_catalog()), 2).save(tmp_path / "two.parquet")
    report = make_quality(tmp_path / "catalog", tmp_path / "quality", QualityConfig(neighbors=str(tmp_path / "two.parquet")))
    assert report["sets"]["ours"]["agreement"]["k"] == 2
    with pytest.raises(ValueError, match=r"none\.parquet"):
        make_quality(tmp_path / "catalog", tmp_path / "other", QualityConfig(neighbors=str(tmp_path / "none.parquet")))
