"""Reading: the same rows from every format, and never a silent loss. Writing: all of it, or what was there before."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.files import check_replaceable, clean, did_you_mean, nearest, only_writer, read_json, replacing, sweep, write_json, write_text
from grlm_hf.tables.rows import SUFFIXES, find_table, read_rows

ROWS = [
    {"item_id": "b1", "title": "Zelt, rot"},
    {"item_id": "b2", "title": 'a "quoted"\ntitle on two lines'},
    {"item_id": "b3", "title": "水 and 👍"},
    {"item_id": "b4", "title": ""},
]
MANY = [{"item_id": f"b{n}", "title": f"Item number {n * n}"} for n in range(1000)]


def table(suffix: str, rows: list[dict[str, str]] = ROWS) -> bytes:
    """`rows` as the bytes of a file with this suffix."""
    if suffix == ".parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    if suffix.startswith((".csv", ".tsv")):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if suffix.startswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(content) if suffix.endswith(".gz") else content


def rows_of(path: Path, content: bytes) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return [row for _, row in read_rows(path)]


# --- reading -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert rows_of(tmp_path / f"t{suffix}", table(suffix)) == ROWS


texts = st.lists(st.fixed_dictionaries({"item_id": st.text(), "title": st.text()}), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(texts, st.sampled_from(SUFFIXES))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], suffix: str) -> None:
    assert rows_of(tmp_path_factory.getbasetemp() / f"any{suffix}", table(suffix, rows)) == rows


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n\n   \n{"a": 2}\n')
    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 2})]
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n\n3,4\n")
    assert [where for where, _ in read_rows(path)] == [f"{path}:2", f"{path}:4"]
    path = tmp_path / "t.parquet"
    path.write_bytes(table(".parquet"))
    assert [where for where, _ in read_rows(path)] == [f"{path}:row {n}" for n in (1, 2, 3, 4)]


def test_byte_order_marks_and_windows_lines(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "t.csv", b"\xef\xbb\xbfitem_id,title\r\nb1,T\r\n") == [{"item_id": "b1", "title": "T"}]
    assert rows_of(tmp_path / "t.jsonl", b'\xef\xbb\xbf{"item_id": "b1"}\r\n') == [{"item_id": "b1"}]


LATIN = "café".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", table(".jsonl", MANY).replace(b"Item number 490000", LATIN), "{path}:701 is not UTF-8 text"),
        ("t.csv", table(".csv", MANY).replace(b"Item number 490000", LATIN), "{path}:702 is not UTF-8 text"),
        ("t.csv.gz", gzip.compress(b"item_id,title\nb1,T\nb2," + LATIN + b"\n", mtime=0), "{path}:3 is not UTF-8 text"),
        ("t.jsonl", table(".jsonl", MANY)[:-15], "{path}:1000 is not valid JSON (Unterminated string starting at); the file may be trunc"),
        ("t.jsonl", b'{"a": 1}\n{a: 2}\n', "{path}:2 is not valid JSON"),
        ("t.jsonl", b'{"a": 1}\n["b"]\n', "{path}:2 holds a JSON list; expected an object"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}\n', "{path}:2 has half of a surrogate pair (\\ud83d)"),
        ("t.jsonl", b'{"a": 1}\n{"a": ["\\uD83D"]}\n', "{path}:2 has half of a surrogate pair"),
        ("t.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "{path}:1 is not readable JSON"),
        ("t.jsonl", b'{"a": ' + b"[" * 99999 + b"}\n", "{path}:1 is not readable JSON"),
        ("t.csv", b"item_id,title\nb1,T\nb2\n", "{path}:3 has fewer fields than the header's ['item_id', 'title']"),
        ("t.csv", b"item_id,title\nb1,T,5\nb2,T\n", "{path}:2 has more fields than the header's"),
        ("t.csv", b'item_id,title\nb1,T\nb2,"T\nb3,T\nb4,T\n', "{path}:3: not valid CSV"),
        ("t.csv", b'item_id,title\nb1,T\nb2,"T"T\nb3,T\n', "{path}:3: not valid CSV"),
        ("t.jsonl.gz", b'{"a": 1}\n', "{path} is a truncated or broken gzip file"),
        ("t.parquet", b"", "{path} is not a readable parquet file"),
        ("t.parquet", table(".jsonl"), "{path} is not a readable parquet file"),
        ("t.xlsx", b"PK", "{path} has no known format; expected a name that ends with one of .jsonl, .jsonl.gz, .csv"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        rows_of(path, content)
    assert message.format(path=path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_escaped_emoji_is_no_half_character(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "t.jsonl", b'{"a": "\\ud83d\\udc4d", "b": "C:\\\\ud"}\n') == [{"a": "👍", "b": "C:\\ud"}]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No file at .*nowhere\.csv"):
        list(read_rows(tmp_path / "nowhere.csv"))
    with pytest.raises(ValueError, match="No file at"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".parquet"])
def test_a_file_cut_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    path, whole = tmp_path / f"t{suffix}", table(suffix, ROWS * 9)
    for size in range(1, len(whole), 5):
        with pytest.raises(ValueError, match=f"t{suffix}"):
            rows_of(path, whole[:size])


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz"])
def test_a_flipped_byte_in_gzip_is_never_read_as_other_rows(tmp_path: Path, suffix: str) -> None:
    path, whole = tmp_path / f"t{suffix}", table(suffix, MANY[:40])
    errors = 0
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            assert rows_of(path, bytes(damaged)) == MANY[:40]  # a byte of the header that says nothing, such as the time
        except ValueError as error:
            errors += 1
            assert str(path) in str(error)  # noqa: PT017
    assert errors > len(whole) // 3 * 0.9


def test_a_damaged_page_in_parquet_names_the_file(tmp_path: Path) -> None:
    path, damaged = tmp_path / "t.parquet", bytearray(table(".parquet", MANY))
    damaged[4:60] = bytes(56)
    with pytest.raises(ValueError, match=r"t\.parquet is not a readable parquet file"):
        rows_of(path, bytes(damaged))


def test_find_table(tmp_path: Path) -> None:
    assert find_table(tmp_path, "items") is None
    (tmp_path / "items.csv").mkdir()  # a folder is no table
    (tmp_path / "items.txt").touch()
    assert find_table(tmp_path, "items") is None
    (tmp_path / "items.jsonl.gz").touch()
    assert find_table(tmp_path, "items") == tmp_path / "items.jsonl.gz"
    (tmp_path / "items.parquet").touch()
    with pytest.raises(ValueError, match=r"items\.jsonl\.gz.*items\.parquet.*expected one 'items' file"):
        find_table(tmp_path, "items")


@pytest.mark.parametrize(
    ("cell", "text"), [(None, ""), (0, "0"), ("", ""), ("  a \t\n b ", "a b"), (1.5, "1.5"), ("\u00a0x\u3000", "x"), (False, "False")]
)
def test_clean(cell: Any, text: str) -> None:
    assert clean(cell) == text


# --- writing -----------------------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files (and, as None, folders) below a folder: what must not change, hidden leftovers included."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def put(path: Path, kind: str, text: str) -> None:
    if kind == "file":
        path.write_text(text)
    elif kind == "folder":
        (path / "below").mkdir(parents=True)
        (path / "below" / text).write_text(text)


@pytest.mark.parametrize(
    ("old", "new"), [("none", "file"), ("none", "folder"), ("file", "file"), ("folder", "folder"), ("file", "folder"), ("deep", "file")]
)
def test_success_replaces(tmp_path: Path, old: str, new: str) -> None:
    target = tmp_path / "made" / "on" / "demand" / "t" if old == "deep" else tmp_path / "t"
    put(target, old, "old")
    before = tree(target.parent)
    with replacing(target) as path:
        put(path, new, "new")
        assert {name: content for name, content in tree(target.parent).items() if name[0] != "."} == before  # not yet
    put(tmp_path / "expected", new, "new")
    assert (tree(target) or target.read_bytes()) == (tree(tmp_path / "expected") or (tmp_path / "expected").read_bytes())
    assert [p.name for p in target.parent.iterdir() if p.name != "expected"] == ["t"]


@pytest.mark.parametrize("old", ["none", "file", "folder"])
@pytest.mark.parametrize("new", ["none", "file", "folder"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_leaves_what_was_there(tmp_path: Path, old: str, new: str, error: type[BaseException]) -> None:
    put(tmp_path / "t", old, "old")
    before = tree(tmp_path)
    with pytest.raises(error, match="midway"), replacing(tmp_path / "t") as path:  # noqa: PT012
        put(path, new, "half")
        raise error("midway")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("old", "new"), [("folder", "file"), ("folder", "none"), ("file", "none")])
def test_what_cannot_take_its_place_leaves_what_was_there(tmp_path: Path, old: str, new: str) -> None:
    put(tmp_path / "t", old, "old")
    before = tree(tmp_path)
    with pytest.raises(OSError), replacing(tmp_path / "t") as path:  # noqa: PT011
        put(path, new, "new")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("step", [1, 2])
def test_an_interrupted_swap_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    import os

    put(tmp_path / "t", "folder", "old")
    before = tree(tmp_path)
    calls, rename = [], os.rename

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if step == 1 or len(calls) != step:  # Ctrl-C just after the first rename, or in place of the second
            rename(source, target)
        if len(calls) == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    monkeypatch.setattr("grlm_hf.files._exchange", lambda one, other: False)  # a system that cannot swap in one step
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "t") as path:
        put(path, "folder", "new")
    assert tree(tmp_path) == before


WRITERS = {
    "text": "write_text(target, 'x' * 5000)",
    "json": "write_json(target, ['x'] * 5000)",
    "folder": "\nwith replacing(target) as new:\n    put(new, 'folder', 'new')\n    (new / 'large').write_bytes(bytes(5000))",
    "catalog": "Catalog([Item(str(n), str(n) * 9) for n in range(999)], [(str(n),) for n in range(999)]).save_pretrained(target)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files with setrlimit")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_last_good_output(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "t"
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from test_files import put
from grlm_hf import Catalog, Item
from grlm_hf.files import replacing, write_json, write_text
target, full = Path({str(target)!r}), len(sys.argv) > 1
if full:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    {WRITERS[writer].replace(chr(10), chr(10) + "    ")}
except OSError as error:
    print(error.errno)
"""
    if writer == "folder":
        put(target, "folder", "old")
    elif writer == "catalog":
        from grlm_hf import Catalog, Item

        Catalog([Item("1", "old")], [("old",)]).save_pretrained(target)
    else:
        put(target, "file", "old")
    before = tree(tmp_path)
    run = forks.run(script, "full")
    assert run.stdout.split() == ["27"], run.stderr  # EFBIG
    assert tree(tmp_path) == before
    run = forks.run(script)  # with room again
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert tree(tmp_path).keys() - {"t/below/new", "t/large"} <= before.keys()
    assert tree(tmp_path) != before


@pytest.mark.parametrize(("write", "value"), [(write_json, float("nan")), (write_json, {1, 2}), (write_text, "\ud83d")])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, write: Callable[[Path, Any], None], value: Any) -> None:
    write_json(tmp_path / "t.json", {"é": [1]})
    with pytest.raises((ValueError, TypeError)):
        write(tmp_path / "t.json", value)
    assert read_json(tmp_path / "t.json") == {"é": [1]}
    assert tree(tmp_path).keys() == {"t.json"}


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xe9", None, b"[" * 99_999, b"9" * 9_999])
def test_broken_json_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.json is not a readable JSON file"):
        read_json(tmp_path / "t.json")


def test_only_folders_of_ours_are_replaced(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", "sign")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", "sign")
    put(tmp_path / "ours", "folder", "x")
    (tmp_path / "ours" / "sign").touch()
    check_replaceable(tmp_path / "ours", "sign")
    with pytest.raises(ValueError, match=r"ours has below: grlm wrote it for another purpose.*Choose another folder"):
        check_replaceable(tmp_path / "ours", "sign", never=("other", "below"))
    put(tmp_path / "theirs", "folder", "sign")  # below, not in it
    with pytest.raises(ValueError, match=r"theirs has below but no sign.*Choose another folder"):
        check_replaceable(tmp_path / "theirs", "sign")
    put(tmp_path / "file", "file", "x")
    with pytest.raises(ValueError, match=r"file is a file; expected a folder\. Choose another one"):
        check_replaceable(tmp_path / "file", "sign")


def died(target: Path, content: str) -> Path:
    """What a process leaves that a kill met between its two renames."""
    left = target.parent / f".{target.name}.{content}"
    (left / "old").mkdir(parents=True)
    (left / "old" / "last-good").write_text("1")
    return left


@pytest.mark.parametrize("name", ["work-abc", "own-abc", "gone-abc"])
def test_what_a_killed_process_left_is_swept_and_the_old_folder_returns(tmp_path: Path, name: str) -> None:
    """Also in a container that was started again: there the process has the number of the one that was killed."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = died(tmp_path / "out", name.replace("own", str(os.getpid())).replace("gone", str(gone.pid)))
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "out"):
        raise ZeroDivisionError
    assert (tmp_path / "out" / "last-good").read_text() == "1"
    assert not left.exists()


def test_a_folder_with_what_a_killed_process_left_is_still_ours(tmp_path: Path) -> None:
    died(tmp_path / "out" / "quality.png", "work-abc")
    check_replaceable(tmp_path / "out", "quality.json")
    (tmp_path / "out" / ".git").mkdir()
    with pytest.raises(ValueError, match=r"has \.git but no"):
        check_replaceable(tmp_path / "out", "quality.json")


def test_leftovers_of_other_names_are_swept_and_what_is_no_leftover_stays(tmp_path: Path) -> None:
    """A shard of a killed call may have a name that no later call writes."""
    died(tmp_path / "shard-1-of-3", "work-abcdefgh")
    (tmp_path / ".shard-2-of-3.work-abcdefgh").mkdir()  # killed before it had a lock
    (tmp_path / ".shard-3-of-3.work-abcdefgh").mkdir()
    (tmp_path / ".shard-3-of-3.work-abcdefgh" / "notes").touch()  # of somebody else
    (tmp_path / ".x.work-abcdefgh").write_text("a file")
    write_text(tmp_path / "shard-1-of-2", "new")
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == [".shard-3-of-3.work-abcdefgh", ".x.work-abcdefgh", "shard-1-of-2", "shard-1-of-3"]
    assert (tmp_path / "shard-1-of-3" / "last-good").read_text() == "1"


def test_what_a_writer_inside_a_writer_left_is_swept(tmp_path: Path) -> None:
    """A checkpoint is written as a whole into the folder that becomes the output with its card and records."""
    code = f"""
import os, signal
from grlm_hf.files import only_writer, replacing
with replacing({str(tmp_path / "out")!r}) as new, only_writer(new), replacing(new) as inner:
    inner.mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with forks.Process(code) as killed:
        assert killed.wait().returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()]
    write_text(tmp_path / "out", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_work_of_a_living_process_is_never_swept(tmp_path: Path) -> None:
    """Its lock says that it lives, whatever its number: a process of another container may have the number of this one."""
    code = f"""
import sys, time
from grlm_hf.files import replacing
with replacing({str(tmp_path / "out")!r}) as new:
    new.write_text("theirs")
    print("works", file=sys.stderr, flush=True)
    while not {(tmp_path / "go")!r}.exists():
        time.sleep(0.01)
"""
    with forks.Process("from pathlib import PosixPath\n" + code) as other:
        while "works" not in other.printed():
            time.sleep(0.01)
        sweep(tmp_path)
        write_text(tmp_path / "beside", "x")
        (tmp_path / "go").touch()
        assert other.wait().returncode == 0
    assert (tmp_path / "out").read_text() == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside", "go", "out"]


def test_writers_and_sweepers_at_once(tmp_path: Path) -> None:
    """A work folder exists a moment before it is locked: who sweeps then must not take it from its owner."""
    stop, failed = threading.Event(), []

    def write(name: str) -> None:
        for n in range(300):
            try:
                write_text(tmp_path / name, str(n))
            except OSError as error:
                failed.append(error)

    def clear() -> None:
        while not stop.is_set():
            try:
                sweep(tmp_path)
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(f"f{n}",)) for n in range(3)]
    sweepers = [threading.Thread(target=clear) for _ in range(2)]
    for thread in (*threads, *sweepers):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in sweepers:
        thread.join()
    assert not failed
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {f"f{n}": "299" for n in range(3)}


def test_another_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "out") as first:
        first.write_text("first")
        with replacing(tmp_path / "out") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "out").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_moment_without_a_folder(tmp_path: Path) -> None:
    """A reader in a loop, beside a writer that replaces the folder again and again."""
    put(tmp_path / "t", "folder", "same")
    missing, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            missing.extend([] if (tmp_path / "t" / "below" / "same").exists() or stop.is_set() else [1])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        with replacing(tmp_path / "t") as new:
            put(new, "folder", "same")
    stop.set()
    reader.join()
    assert not missing


@pytest.mark.parametrize("kind", ["fifo", "link to a device", "link to itself", "socket"])
def test_targets_that_are_no_files_are_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "t"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(target))
    else:
        target.symlink_to("/dev/null" if kind == "link to a device" else target)
    before = os.lstat(target)
    with pytest.raises(ValueError, match=f"{target.name}|null"):
        write_text(target, "x")
    with pytest.raises(ValueError, match=r"No file at"):
        read_json(target)
    assert os.path.samestat(os.lstat(target), before)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as new:
        put(new, "folder", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "below" / "new").exists()


def test_one_writer_an_output(tmp_path: Path) -> None:
    waits = f"import sys, time\nfrom grlm_hf.files import only_writer\nwith only_writer({str(tmp_path / 'out')!r}):\n"
    with forks.Process(waits + "    print('held', file=sys.stderr, flush=True)\n    time.sleep(60)") as other:
        while "held" not in other.printed():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=rf"out is being written by process {other.pid} on .*, since 2.*choose another output"):  # noqa: SIM117
            with only_writer(tmp_path / "out"):
                pass
        with only_writer(tmp_path / "other"):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with only_writer(tmp_path / "out"):  # the kernel frees it
        pass
    assert not list(tmp_path.iterdir())


def test_the_nearest_known_word() -> None:
    known = ["B0001", "b0001", "B0002", "C9"]
    assert [nearest(word, known) for word in ("b0001", "c9", "B0O02", "zzzzzz")] == ["B0001", "C9", "B0002", None]
    many = [f"item-{n:06}" for n in range(150_000)]
    found = [nearest(word, many) for word in ("ITEM-000007", "itm-070001", "item-0800123", "x", "")]
    assert found == [many[7], many[70_001], many[80_123], None, None]
    assert did_you_mean("c9", known, "Expected B0001.", "item ") == "Did you mean 'item C9'?"
    assert did_you_mean("zzzzzz", known, "Expected B0001.", "item ") == "Expected B0001."
    assert did_you_mean("zzzzzz", []) == ""
