"""Small raw files, and what became of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amazon
import pytest

from grlm_hf.data.interactions import History, load_histories
from grlm_hf.data.items import Item, load_items
from grlm_hf.tables.rows import find_table

SCRIPTS = Path(amazon.__file__).parent
SEVERAL = [("u2", "B", 30), ("u1", "A", 20), ("u1", "B", 10), ("u2", "A", 20), ("u1", "C", 30), ("u2", "C", 10)]  # two users, three items


def write_lines(path: Path, rows: list[Any], dump: Callable[[Any], str] = json.dumps) -> Path:
    """One row a line, a text as it stands; gzipped if the name says so."""
    data = "".join((row if isinstance(row, str) else dump(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(folder: Path) -> tuple[dict[str, Item], list[History], dict[str, Any]]:
    """The folder, by the ways of `grlm run`."""
    items = {item.item_id: item for item in load_items(find_table(folder, "items"))}
    histories = load_histories(find_table(folder, "interactions"), items, short_users="keep")
    return items, histories, json.loads((folder / "statistics.json").read_text())


def review(user: Any, item: Any, seconds: int, **more: Any) -> dict[str, Any]:
    return {
        "user_id": user,
        "parent_asin": item,
        "asin": f"v{item}",
        "timestamp": seconds * 1000 + 7,
        "rating": 5.0,
        "text": "fine",
        **more,
    }


def product(item: str, **more: Any) -> dict[str, Any]:
    row = {"parent_asin": item, "title": f"Title {item}", "store": "Shop", "main_category": "Main", "categories": ["Main", "Sub"]}
    return {**row, "features": [], "description": [], "price": None, **more}


def run_amazon(folder: Path, reviews: list[Any], products: list[Any], *options: str) -> Path:
    """Amazon 2023 without a k-core filter, unless the options say other."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    paths = write_lines(raw / "reviews.jsonl", reviews), write_lines(raw / "meta.jsonl", products)
    amazon.main([*f"{folder / 'shop'} --year 2023 --core 0 --reviews {paths[0]} --metadata {paths[1]}".split(), *options])
    return folder / "shop"


def failed(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What the program says on standard error when it refuses."""
    with pytest.raises(SystemExit) as stopped:
        call()
    assert stopped.value.code == 2
    return capsys.readouterr().err
