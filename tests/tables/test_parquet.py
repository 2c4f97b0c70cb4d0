"""Parquet files that unpack to far more than they are: refused before they do, within bounded memory."""

from __future__ import annotations

from pathlib import Path

import forks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, List, Value
from toys import toy_catalog

from grlm_hf import Catalog
from grlm_hf.files import rows_to_dataset, write_parquet
from grlm_hf.tables import parquet
from grlm_hf.tables.parquet import check_footer, read_parquet, write_rows

ROWS = 60_000


def bomb(path: Path, kind: str) -> None:
    """A file of some kilobytes."""
    toy_catalog().save_pretrained(path.parent)
    whole = pq.read_table(path.parent / "catalog.parquet")
    row = whole.slice(0, 1).to_pylist()[0]
    n = 1000 if kind == "long titles" else ROWS
    columns = {name: [row[name]] * n for name in whole.schema.names}
    columns["item_id"] = [f"i{i}" for i in range(n)]
    fields = {f.name: f.type for f in whole.schema}
    long = "x" * (20_000_000 if kind == "long titles" else 1_000_000)
    if kind == "another column":
        columns["extra"], fields["extra"] = [long] * n, pa.string()
    elif kind == "long titles":
        columns["title"] = [long] * n
    elif kind == "lists":
        columns["categories"] = [[long] * 3] * n
    arrays = {}
    for name, values in columns.items():
        if name in ("extra", "title") and len(values[0]) > 1000:
            arrays[name] = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([long]))
        elif name == "categories" and kind == "lists":
            inner = pa.DictionaryArray.from_arrays(pa.array([0] * 3 * n, pa.int32()), pa.array([long]))
            arrays[name] = pa.ListArray.from_arrays(pa.array(range(0, 3 * n + 1, 3), pa.int32()), inner)
        else:
            arrays[name] = pa.array(values, fields[name])
    table = pa.table(arrays).replace_schema_metadata(whole.schema.metadata)
    pq.write_table(table, path, compression="zstd", row_group_size=n)


MEASURE = """
import resource, sys
from grlm_hf import Catalog
import pyarrow.parquet, pyarrow.compute, datasets
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
try:
    print(len(Catalog.from_pretrained(sys.argv[1])))
except ValueError as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["another column", "long titles", "lists"])
def test_a_small_file_never_takes_gigabytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it" / "catalog.parquet"
    path.parent.mkdir()
    bomb(path, kind)
    assert path.stat().st_size < 2_000_000
    done = forks.run(MEASURE, str(path))
    said, megabytes = done.stdout.rsplit("\n", 2)[0], int(done.stdout.split()[-1])
    assert done.returncode == 0, done.stderr
    assert (said == str(ROWS)) if kind == "another column" else ("unpacks to more than" in said)
    assert megabytes < 1500


def test_the_limit_counts_what_rows_take(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x" * 100] * 1000, "b": [["y", "z"]] * 1000}), tmp_path / "t.parquet")
    path = tmp_path / "t.parquet"
    assert list(read_parquet(path)) == [{"a": "x" * 100, "b": ["y", "z"]}] * 1000
    assert list(read_parquet(path, ["b"])) == [{"b": ["y", "z"]}] * 1000
    with pytest.raises(ValueError, match=r"unpacks to more than 100,000 bytes, in its column 'a'"):
        list(read_parquet(path, limit=100_000))
    assert len(list(read_parquet(path, ["b"], limit=400_000))) == 1000


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False},
                                     {"data_page_version": "2.0"}, {"compression": "zstd"}, {"row_group_size": 10}])  # fmt: skip
def test_all_forms_are_read_alike(tmp_path: Path, options: dict[str, object]) -> None:
    rows = [{"t": f"text {i % 7}" if i % 5 else None, "n": i, "l": [f"a{i % 3}"] * (i % 4) if i % 6 else None} for i in range(100)]
    if "column_encoding" in options:
        options = options | {"column_encoding": {"t": "DELTA_BYTE_ARRAY"}}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", **options)
    assert list(read_parquet(tmp_path / "t.parquet")) == rows


def test_front_coding_counts_as_what_it_stands_for(tmp_path: Path) -> None:
    texts = ["x" * 100_000 + f"{i:06}" for i in range(20_000)]  # 2 GB, as 200 kB
    table = pa.table({"t": pa.array(texts[:2000])})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False, column_encoding={"t": "DELTA_BYTE_ARRAY"}, compression="zstd")
    with pytest.raises(ValueError, match="unpacks to more than"):
        list(read_parquet(tmp_path / "t.parquet", limit=10_000_000))


def test_dates_beyond_the_calendar_are_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"timestamp": pa.array([2**31 - 1], pa.int32()).cast(pa.date32())}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet is not a readable parquet file"):
        list(read_parquet(tmp_path / "t.parquet"))


def test_a_catalog_with_values_of_other_types_is_refused(tmp_path: Path) -> None:
    toy_catalog().save_pretrained(tmp_path)
    whole = pq.read_table(tmp_path / "catalog.parquet")
    for name, values in (("terms", pa.nulls(12, pa.list_(pa.string()))), ("categories", pa.nulls(12, pa.list_(pa.string()))),
                         ("title", pa.array([b"x"] * 12, pa.binary())), ("categories", pa.array([1] * 12))):  # fmt: skip
        changed = whole.set_column(whole.schema.get_field_index(name), name, values).replace_schema_metadata(whole.schema.metadata)
        pq.write_table(changed, tmp_path / "catalog.parquet")
        with pytest.raises(ValueError, match=name):
            Catalog.from_pretrained(tmp_path)


def test_a_dictionary_counts_as_often_as_it_is_copied(tmp_path: Path) -> None:
    """Decoding one of a megabyte takes about eight."""
    pq.write_table(pa.table({"a": [f"{n:04}" * 250 for n in range(1000)]}), tmp_path / "a.parquet", dictionary_pagesize_limit=2**30)
    assert len(list(read_parquet(tmp_path / "a.parquet", limit=9 * 2**20))) == 1000
    with pytest.raises(ValueError, match="unpacks to more than"):
        list(read_parquet(tmp_path / "a.parquet", limit=7 * 2**20))


def test_texts_outside_dictionaries_are_not_kept_by_arrow(tmp_path: Path) -> None:
    """Read as a dictionary, each batch has the words of all before it: time and memory grew with the square of the rows."""
    texts = [f"{n:04}" * 5_000 for n in range(1500)]
    pq.write_table(pa.table({"a": texts}), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=16)
    code = """
import sys, pyarrow as pa
from grlm_hf.tables.parquet import read_parquet
most = 0
for n, row in enumerate(read_parquet(sys.argv[1])):
    assert row["a"] == f"{n:04}" * 5_000
    most = max(most, pa.total_allocated_bytes())
print(n, most)
"""
    rows, most = forks.run(code, str(tmp_path / "a.parquet")).stdout.split()
    assert rows == "1499"
    assert int(most) < 15_000_000  # of 30 MB


def test_the_largest_page_counts_again(tmp_path: Path) -> None:
    table = pa.table({"a": [f"{n:04}" * 250 for n in range(3000)]})
    for batch, good in ((16, True), (10_000, False)):
        pq.write_table(table, tmp_path / "a", use_dictionary=False, write_batch_size=batch)
        if good:
            assert len(list(read_parquet(tmp_path / "a", limit=6_000_000))) == 3000
        else:
            with pytest.raises(ValueError, match="unpacks to more than"):
                list(read_parquet(tmp_path / "a", limit=6_000_000))


def test_headers_of_pages_may_be_long(tmp_path: Path) -> None:
    """They hold statistics: here the least and the greatest text."""
    texts = ["a" * 1500, "b" * 1500]
    pq.write_table(pa.table({"a": texts}), tmp_path / "a.parquet", use_dictionary=False)
    assert [row["a"] for row in read_parquet(tmp_path / "a.parquet")] == texts


def test_a_footer_has_a_limit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(500))}), tmp_path / "a.parquet", row_group_size=1)
    check_footer(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"states a footer of .* expected 10,000 at most"):
        check_footer(tmp_path / "a.parquet", 10_000)


def test_rows_are_written_in_groups_and_otherwise_as_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"a": Value("string"), "b": List(Value("string"))})
    rows = [{"a": f"{n}", "b": ["x"] * (n % 3)} for n in range(10)]
    for some in (rows, []):
        write_parquet(rows_to_dataset(some, features), tmp_path / "want.parquet", {b"k": b"v"})
        write_rows(iter(some), features, tmp_path / "got.parquet", {b"k": b"v"})
        assert pq.read_table(tmp_path / "got.parquet").equals(pq.read_table(tmp_path / "want.parquet"), check_metadata=True)
    for most, text, groups in ((4, 10**6, 3), (5, 10**6, 2), (10**6, 2, 4)):
        monkeypatch.setattr(parquet, "_GROUP_ROWS", most)
        monkeypatch.setattr(parquet, "_GROUP_TEXT", text)
        write_rows(iter(rows), features, tmp_path / "got.parquet")
        assert list(read_parquet(tmp_path / "got.parquet")) == rows
        assert pq.ParquetFile(tmp_path / "got.parquet").num_row_groups == groups
