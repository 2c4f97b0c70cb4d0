"""What a data set makes of its events is said before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import toy_catalog

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.repository import dataset_facts
from grlm_hf.doctor import examine
from grlm_hf.files import read_json, write_json
from grlm_hf.recipe import DataConfig, TermsConfig
from grlm_hf.stages import make_dataset, make_neighbors, make_quality, make_terms
from grlm_hf.tables.tally import Tally


def test_dropped_events_and_unanswerable_cases_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [item.item_id for item in toy_catalog()]
    (tmp_path / "data").mkdir()
    rows = [f"u{u},{i},{t}" for u in range(9) for t, i in enumerate([*ids[:3], "GONE", *ids[:3]])]
    (tmp_path / "data" / "interactions.csv").write_text("User ID,Item ID,time\n" + "\n".join(rows) + "\n")
    toy_catalog().save_pretrained(tmp_path / "catalog")
    make_dataset(tmp_path / "data", tmp_path / "catalog", tmp_path / "out", read=DataConfig(unknown_items="drop"))
    assert len(Catalog.from_pretrained(tmp_path / "out")) == len(ids)
    for said in ("'time' as timestamp", "9 of 63 events (14%) name items that the catalog lacks", "9 of 9 test cases (100%) have a target"):
        assert said in caplog.text
    facts = dataset_facts(tmp_path / "out")
    assert "9 of 63 events (14%) name items that the catalog lacks, and are left out." in facts["reading"]
    assert "GONE" not in str(facts["reading"])  # the card is public
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "9 of 63 events" in card
    assert "GONE" not in card
    (examined,) = [one for one in examine(str(tmp_path / "out")) if one.kind == "dataset"]
    assert "9 of 63 events (14%) name items" in examined.facts["reading"]  # too few for a finding, and shown
    (tmp_path / "data" / "interactions.csv").write_text("User ID,Item ID,time\n" + "\n".join(rows).replace(ids[0], "GONE") + "\n")
    make_dataset(tmp_path / "data", tmp_path / "catalog", tmp_path / "out", read=DataConfig(unknown_items="drop"))
    found = [f.found for one in examine(str(tmp_path / "out")) for f in one.findings if f.check == "reading"]
    assert found == ["27 of 63 events (43%) name items that the catalog lacks, and are left out."]


def test_a_dataset_of_an_older_version_states_no_reading_and_is_examined(tmp_path: Path) -> None:
    ids = [item.item_id for item in toy_catalog()]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "interactions.csv").write_text(
        "user_id,item_id\n" + "\n".join(f"u{u},{i}" for u in range(9) for i in ids[u % 3 :][:5])
    )
    toy_catalog().save_pretrained(tmp_path / "catalog")
    make_dataset(tmp_path / "data", tmp_path / "catalog", tmp_path / "out")
    facts = read_json(tmp_path / "out" / "grlm_dataset.json")
    facts.pop("reading", None)
    write_json(tmp_path / "out" / "grlm_dataset.json", facts)
    (examined,) = examine(str(tmp_path / "out"))
    assert "reading" not in examined.facts
    assert not [f for f in examined.findings if f.check in ("reading", "not-examined")]


def test_what_happened_to_items_is_told_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "items.csv").write_text("SKU,name,brand,price\n1,,Fjall,$3\n2,Rose balm,,4\n3,Mint soap,,\n")
    make_terms(tmp_path, tmp_path / "catalog", read=DataConfig(missing_title="fill"))
    for said in ("'SKU' as item_id", "1 of 3 items (33%) have no title", "1 of 3 items (33%) have a price that is text"):
        assert said in caplog.text
    facts = read_json(tmp_path / "catalog" / "terms.json")
    assert any("have no title" in line for line in facts["reading"])
    caplog.clear()
    make_neighbors(tmp_path, tmp_path / "near.parquet", read=DataConfig(missing_title="fill"))
    assert "1 of 3 items (33%) have no title" in caplog.text
    caplog.clear()
    make_neighbors(tmp_path, tmp_path / "near.parquet", read=DataConfig(missing_title="fill"), tally=(counted := Tally()))
    assert "have no title" not in caplog.text
    assert any("have no title" in line for line in counted.lines())


def test_given_term_ids_of_several_lengths_and_terms_that_say_nothing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,Rose balm\n2,Mint soap\n3,Oak stool\n")
    (tmp_path / "term_ids.csv").write_text('item_id,terms\n1,"balm, rose, general"\n2,"soap, mint"\n3,"stool, oak"\n')
    make_terms(tmp_path, tmp_path / "catalog", TermsConfig(generator="file"))
    assert "differ in their number of terms: 2 items have 2, 1 items have 3." in caplog.text
    assert "1 of 3 items (33 %) have terms that say nothing of them, such as '1'" in caplog.text
    assert read_json(tmp_path / "catalog" / "terms.json")["lengths"] == {"2": 2, "3": 1}
    make_quality(tmp_path / "catalog", tmp_path / "quality")
    assert "| items with terms that say nothing | 1 |" in (tmp_path / "quality" / "quality.md").read_text(encoding="utf-8")
    found = [f for one in examine(str(tmp_path / "catalog")) for f in one.findings if f.check == "fillers"]
    assert [f.level for f in found] == ["warning"]


def test_a_reader_that_changes_much_warns_and_one_that_only_sorts_does_not() -> None:
    tally = Tally(read={"events": 10})
    tally.count("events", "are gone", "'x'", 5)
    tally.count("events", "were sorted", n=9, loss=False)
    assert tally.lines() == ["9 of 10 events (90%) were sorted.", "Warning: 5 of 10 events (50%) are gone, such as 'x'."]
    assert tally.lines(examples=False)[1] == "Warning: 5 of 10 events (50%) are gone."
