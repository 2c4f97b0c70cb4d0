"""What a folder holds, against the rules in plain Python."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import amazon
import pyarrow.parquet as pq
import pytest
from common.tables import item_schema
from raw_files import write_raw
from shop_files import SEVERAL, product, read, review, run_amazon, write_lines

from grlm_hf.data.items import item_features


def expected(events: list[tuple], titled: set[str], core: int, duplicates: str, missing: str, max_history: int | None) -> dict[str, list]:
    rows = [(user, item, time, n) for n, (user, item, time) in enumerate(events)]
    if duplicates != "keep":
        best: dict[tuple, tuple] = {}
        for row in sorted(rows, key=lambda r: (r[2], r[3])):
            best.setdefault(row[:2] if duplicates == "first" else row[:3], row)
        rows = list(best.values())
    if missing == "drop":
        rows = [row for row in rows if row[1] in titled]
    while True:
        count = Counter(row[0] for row in rows) + Counter(("item", row[1]) for row in rows)
        fewer = [row for row in rows if count[row[0]] >= core and count["item", row[1]] >= core]
        if len(fewer) == len(rows):
            break
        rows = fewer
    histories: dict[str, list] = {}
    for user, item, when, _ in sorted(rows, key=lambda r: (r[0], r[2], r[3])):
        histories.setdefault(user, []).append((item, when))
    return {user: history[-max_history:] if max_history else history for user, history in histories.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("core", "duplicates", "missing", "max_history"),
    [(0, "keep", "keep", None), (2, "first", "drop", None), (3, "exact", "drop", 4), (3, "first", "keep", 3), (2, "keep", "drop", 5)],
)
def test_folder_equals_the_rules(tmp_path: Path, seed: int, core: int, duplicates: str, missing: str, max_history: int | None) -> None:
    rng = random.Random(seed)
    events = [(f"u{rng.randrange(12)}", f"i{min(rng.randrange(12), rng.randrange(12))}", rng.randrange(20)) for _ in range(90)]
    titled = {f"i{n}" for n in range(12) if n % 5}
    products = [product(f"i{n}", title=f"T {n}" if n % 5 else "") for n in range(12) if n != 10]
    cut = f" --max-history {max_history}" if max_history else ""
    options = f"--core {core} --duplicates {duplicates} --missing-metadata {missing}{cut}".split()
    items, histories, statistics = read(run_amazon(tmp_path, [review(*event) for event in events], products, *options))
    wanted = expected(events, titled, core, duplicates, missing, max_history)
    assert wanted
    assert {h.user_id: list(zip(h.items, h.timestamps, strict=True)) for h in histories} == wanted
    assert set(items) == {item for history in wanted.values() for item, _ in history}
    rows = pq.read_table(tmp_path / "shop" / "interactions.parquet").to_pylist()
    assert [(r["user_id"], r["item_id"], r["timestamp"]) for r in rows] == [(u, *e) for u in sorted(wanted) for e in wanted[u]]
    after, gone = statistics["after_filtering"], statistics["dropped"]
    assert after["interactions"] == len(rows) == 90 - sum(told["count"] for told in gone.values())
    assert (after["users"], after["items"]) == (len(wanted), len(items))
    assert after["density"] == pytest.approx(len(rows) / (len(wanted) * len(items)))
    lengths = sorted(map(len, wanted.values()))
    found = statistics["history_length"]
    assert (found["min"], found["max"], found["mean"]) == (lengths[0], lengths[-1], pytest.approx(sum(lengths) / len(lengths)))


def test_files_order_decides_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    parts = [write_lines(tmp_path / "raw" / f"{n}.jsonl", [review("u", i, 5) for i in part]) for n, part in enumerate(("CA", "BD"))]
    meta = write_lines(tmp_path / "raw" / "m.jsonl", [product(i) for i in "ABCD"])
    for files, order in ((parts, ("C", "A", "B", "D")), (parts[::-1], ("B", "D", "C", "A"))):
        amazon.main([str(tmp_path / "shop"), *["--year", "2023", "--core", "0", "--metadata"], str(meta), "--reviews", *map(str, files)])
        assert read(tmp_path / "shop")[1][0].items == order


def test_outputs_are_those_of_the_checksums_and_do_not_change(tmp_path: Path) -> None:
    found = []
    for where, gz in (("a", False), ("b", True)):
        reviews, metadata = write_raw(tmp_path / where, 3000, 300, 100, gz=gz)
        amazon.main(f"{tmp_path / where / 'shop'} --year 2023 --reviews {reviews} --metadata {metadata}".split())
        found.append(read(tmp_path / where / "shop"))
        for name, told in found[-1][2]["outputs"].items():
            data = (tmp_path / where / "shop" / name).read_bytes()
            assert (told["bytes"], told["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert sorted(p.name for p in (tmp_path / where / "shop").iterdir()) == ["interactions.parquet", "items.parquet", "statistics.json"]
    assert found[0][2]["outputs"] == found[1][2]["outputs"]
    assert len(found[0][0]) > 50
    assert min(len(h.items) for h in found[0][1]) >= 5


def test_columns_are_those_of_the_package(tmp_path: Path) -> None:
    from datasets import Dataset

    assert item_schema() == item_features().arrow_schema
    folder = run_amazon(tmp_path, [review(*event) for event in SEVERAL], [product(i) for i in "ABC"])
    assert Dataset.from_parquet(str(folder / "items.parquet"), cache_dir=str(tmp_path / "cache")).features == item_features()
