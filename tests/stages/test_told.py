"""What a data set makes of its events is said before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import toy_catalog

from grlm_hf.data.catalog import Catalog
from grlm_hf.recipe import DataConfig
from grlm_hf.stages import make_dataset


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
