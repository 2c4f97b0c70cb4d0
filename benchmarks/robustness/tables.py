"""Tables that people and machines have spoilt: items, events and sequences for every verb that reads a data folder."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from trial import SCRIPT, Trial

ITEMS = "item_id,title,brand,categories,description,price\n" + "".join(
    f"i{n},Green tea kettle {n},Brand{n % 4},Kitchen > Tea > Kettles,A kettle of steel for tea number {n}.,{n}.5\n" for n in range(12)
)
EVENTS = "user_id,item_id,timestamp\n" + "".join(
    f"u{u},i{(u * 5 + n) % 12},{1_700_000_000 + u * 1000 + n}\n" for u in range(12) for n in range(5)
)
TEXTS = {
    "items.csv": ITEMS,
    "items.jsonl": "".join(
        json.dumps({"item_id": f"i{n}", "title": f"Green tea kettle {n}", "categories": ["Kitchen", "Tea"], "price": n}) + "\n"
        for n in range(12)
    ),
    "interactions.csv": EVENTS,
    "interactions.jsonl": "".join(
        json.dumps({"user_id": f"u{u}", "item_id": f"i{(u * 5 + n) % 12}", "timestamp": n}) + "\n" for u in range(12) for n in range(5)
    ),
    "sequences.jsonl": "".join(json.dumps({"user_id": f"u{u}", "items": [f"i{(u + n) % 12}" for n in range(5)]}) + "\n" for u in range(12)),
}  # fmt: skip


def _line(change: Callable[[str], str], number: int = 3) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        lines = data.decode().splitlines(keepends=True)
        lines[number] = change(lines[number])
        return "".join(lines).encode()

    return changed


def _text(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    return lambda data: change(data.decode()).encode()


ANY: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "a newline": lambda d: b"\n",
    "blank lines": lambda d: b"\n\n" + d.replace(b"\n", b"\n\n"),
    "half": lambda d: d[: len(d) // 2],
    "cut in a character": lambda d: d[:80] + "é".encode()[:1],
    "zeros": lambda d: b"\0" * len(d),
    "a zero inside": lambda d: d[:100] + b"\0" + d[100:],
    "random bytes": lambda d: bytes((i * 197 + 31) % 256 for i in range(3000)),
    "latin-1": lambda d: d.replace(b"Green", "Grün".encode("latin-1")).replace(b"u1", "ü1".encode("latin-1")),
    "utf-16": lambda d: d.decode().encode("utf-16"),
    "a BOM": lambda d: b"\xef\xbb\xbf" + d,
    "CRLF": lambda d: d.replace(b"\n", b"\r\n"),
    "CR only": lambda d: d.replace(b"\n", b"\r"),
    "no last newline": lambda d: d.rstrip(b"\n"),
    "one line": lambda d: d.split(b"\n")[0],
    "two lines": lambda d: b"\n".join(d.split(b"\n")[:2]) + b"\n",
    "every line twice": _text(lambda t: "".join(line + "\n" + line + "\n" for line in t.splitlines())),
    "a cell of 2 MB": _line(lambda line: line.replace("i", "i" * 2_000_000, 1)),
    "control characters": _text(lambda t: t.replace("u1", "u\x01").replace("tea", "\x1b[31mtea\x07")),
    "parquet magic": lambda d: b"PAR1" + d + b"PAR1",
    "HTML": lambda d: b"<!doctype html><html><body>403 Forbidden</body></html>",
    "an LFS pointer": lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "half a surrogate": lambda d: d.replace(b"tea", b"\\ud800").replace(b"u1", b"\\udfff"),
    "an unpaired surrogate in UTF-8": lambda d: d.replace(b"tea", b"\xed\xa0\x80").replace(b"u1", b"\xed\xa0\x80"),
}
CSV: dict[str, Callable[[bytes], bytes]] = {
    "semicolons": lambda d: d.replace(b",", b";"),
    "tabs": lambda d: d.replace(b",", b"\t"),
    "an open quote": _line(lambda line: line.replace(",", ',"', 1)),
    "quotes everywhere": _text(lambda t: "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in t.splitlines())),
    "more cells than columns": _line(lambda line: line.strip() + ",x,y,z\n"),
    "fewer cells": _line(lambda line: line.split(",")[0] + "\n"),
    "no header": _text(lambda t: t.split("\n", 1)[1]),
    "the header twice": _text(lambda t: t.split("\n", 1)[0] + "\n" + t),
    "header only": _text(lambda t: t.split("\n", 1)[0] + "\n"),
    "upper-case header": _text(lambda t: t.split("\n", 1)[0].upper() + "\n" + t.split("\n", 1)[1]),
    "blanks in the header": _text(lambda t: t.split("\n", 1)[0].replace(",", " , ") + "\n" + t.split("\n", 1)[1]),
    "a column twice": _text(lambda t: t.replace("title", "item_id", 1).replace("timestamp", "item_id", 1)),
    "another name of the id": _text(lambda t: t.replace("item_id", "sku", 1)),
    "no id column": _text(lambda t: t.replace("item_id", "colour", 1)),
    "empty ids": _text(lambda t: re.sub(r"\bi\d+,", ",", t)),
    "blank ids": _text(lambda t: re.sub(r"\bi\d+,", "  ,", t)),
    "one id for all": _text(lambda t: re.sub(r"\bi\d+,", "i1,", t)),
    "ids as floats": _text(lambda t: re.sub(r"\bi(\d+),", r"\1.0,", t)),
    "leading zeros": _text(lambda t: re.sub(r"\bi(\d+),", r"00\1,", t)),
    "nan": _text(lambda t: t.replace("tea", "nan").replace("17000", "nan")),
    "NaN prices, NaT times": _text(lambda t: re.sub(r",[\d.]+\n", ",NaT\n", t)),
    "1e400": _text(lambda t: re.sub(r",[\d.]+\n", ",1e400\n", t)),
    "negative numbers": _text(lambda t: re.sub(r",([\d.]+)\n", r",-\1\n", t)),
    "thousands of digits": _text(lambda t: re.sub(r",[\d.]+\n", "," + "9" * 5000 + "\n", t)),
    "dates": _text(lambda t: re.sub(r",[\d.]+\n", ",2024-02-30\n", t)),
    "American dates": _text(lambda t: re.sub(r",[\d.]+\n", ",10/31/2024 10:00\n", t)),
    "two kinds of times": _line(lambda line: re.sub(r",[\d.]+\n", ",2024-02-01T00:00:00Z\n", line)),
    "dollars": _text(lambda t: re.sub(r",([\d.]+)\n", r",$\1\n", t)),
    "formulas": _text(lambda t: t.replace("Green", "=cmd|' /C calc'!A0").replace("u1", "=1+1")),
    "markup": _text(lambda t: t.replace("Green", "<script>alert(1)</script><br/>&amp;")),
    "control tokens": _text(lambda t: t.replace("Green", "<|im_end|><|im_start|>assistant")),
    "paths": _text(lambda t: re.sub(r"\bi(\d+),", r"../../i\1,", t)),
    "titles of symbols": _text(lambda t: t.replace("Green tea kettle", "★ ☆ …").replace("A kettle of steel for tea", "")),
    "Chinese titles": _text(lambda t: t.replace("Green tea kettle", "小米轻薄吸尘器红色")),
    "empty titles": _text(lambda t: re.sub(r"Green tea kettle \d+", "", t)),
}
JSONL: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"a line of {what}": _line(lambda _, what=what: what + "\n")
        for what in ("[]", "null", "3", '"text"', "{", "{}", '{"item_id": }', "NaN", '{"user_id": "u"}')
    },
    **{
        f"ids as {value}": _text(lambda t, value=value: re.sub(r'"(item_id|user_id)": "[^"]*"', lambda m: f'"{m[1]}": {value}', t))
        for value in ("null", "[]", "{}", "true", "1.5", "1e400", "NaN", "[1, [2]]", '""', "9007199254740993", '"\\u0000"')
    },
    **{
        f"titles and items as {value}": _text(
            lambda t, value=value: re.sub(r'"(title|items)": ("[^"]*"|\[[^\]]*\])', lambda m: f'"{m[1]}": {value}', t)
        )
        for value in ("null", "[]", "{}", "true", "3", "NaN", '[["a"]]', "[null]", '"x"', '{"a": {"b": []}}')
    },
    **{
        f"categories, prices and times as {value}": _text(
            lambda t, value=value: re.sub(r'"(categories|price|timestamp)": ("[^"]*"|\[[^\]]*\]|[\d.]+)', lambda m: f'"{m[1]}": {value}', t)
        )
        for value in ("null", "{}", "true", "[1, 2]", "NaN", "-1", "1e300", '"yesterday"', '[["a"], {}]', "Infinity")
    },
    "deep brackets": _line(lambda _: "[" * 100_000 + "\n"),
    "a deep value": _line(lambda line: line.replace("}", ', "x": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}")),
    "one array": _text(lambda t: "[" + ",".join(t.splitlines()) + "]"),
    "one object over many lines": _text(lambda t: t.replace("{", "{\n").replace(",", ",\n")),
    "commas at the ends": _text(lambda t: t.replace("}\n", "},\n")),
    "keys in upper case": _text(lambda t: t.replace("item_id", "ITEM_ID").replace("user_id", "User_Id")),
}
WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "gz, cut": lambda d: gzip.compress(d)[:-20],
    "gz of gz": lambda d: gzip.compress(gzip.compress(d)),
    "gz by name only": lambda d: d,
    "gz with rubbish behind it": lambda d: gzip.compress(d) + b"rubbish",
    "gz of one long line": lambda d: gzip.compress(b'{"item_id": "' + b"x" * 60_000_000),
}


def trials(kept: Path) -> Iterator[Trial]:
    """Every way to spoil each table, for the verb that reads it and for ``import``."""
    for name, text in TEXTS.items():
        kind = CSV if name.endswith("csv") else JSONL
        for how, change in {**ANY, **kind}.items():
            yield from _reading(name, change(text.encode()), how, kept)
        for how, change in WRAPPED.items():
            yield from _reading(f"{name}.gz", change(text.encode()), how, kept)
    for how, write in PARQUET.items():
        yield from _reading("items.parquet", write, how, kept)
        yield from _reading("interactions.parquet", write, how, kept)
    for name in ("items.csv", "items.parquet", "interactions.jsonl"):
        for how, make in ODD_FILES.items():
            yield Trial(f"{name} is {how}", ["terms", "data", "--output", "out"], partial(_odd, name=name, make=make), "out")


def _reading(name: str, data: bytes | Callable[[Path, str], None], how: str, kept: Path) -> Iterator[Trial]:
    what = f"{name}, {how}"
    prepare = partial(_prepare, name=name, data=data, kept=kept)
    if name.startswith("items"):
        yield Trial(what, ["terms", "data", "--output", "out"], partial(prepare, old="catalog"), "out")
    else:
        dataset = ["dataset", "data", "--catalog", "catalog", "--output", "out"]
        yield Trial(what, dataset, partial(prepare, old="datasets"), "out")
    items, events = (f"data/{name}", "data/e.csv") if name.startswith("items") else ("data/i.csv", f"data/{name}")
    yield Trial(f"import of {what}", ["import", "--items", items, "--events", events, "--output", "out"], partial(prepare, old=""), "out")


def _prepare(folder: Path, name: str, data: bytes | Callable[[Path, str], None], kept: Path, old: str) -> None:
    (folder / "data").mkdir()
    for other, base in (("items.csv", "items"), ("interactions.csv", "interactions")):
        if not name.startswith((base, "sequences" if base == "interactions" else base)):
            (folder / "data" / other).write_text(TEXTS[other], encoding="utf-8")
    (folder / "data" / "i.csv").write_text(ITEMS, encoding="utf-8")
    (folder / "data" / "e.csv").write_text(EVENTS, encoding="utf-8")
    if callable(data):
        data(folder / "data" / name, name)
    else:
        (folder / "data" / name).write_bytes(data)
    _copy(kept / "small" / "catalog", folder / "catalog")
    if old:
        _copy(kept / "small" / old, folder / "old-output")


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


def _odd(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / "data").mkdir()
    make(folder / "data" / name)


def _fifo(path: Path) -> None:
    import os

    os.mkfifo(path)


ODD_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a FIFO": _fifo,
    "a link to itself": lambda p: p.symlink_to(p),
    "a dangling link": lambda p: p.symlink_to(p.with_name("nowhere")),
    "/dev/zero": lambda p: p.symlink_to("/dev/zero"),
}


def _parquet(columns: Callable[[bool], dict[str, object]]) -> Callable[[Path, str], None]:
    def write(path: Path, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns(name.startswith("items"))), path)

    return write


def _columns(ids: object = None, values: object = None) -> Callable[[bool], dict[str, object]]:
    def made(items: bool) -> dict[str, object]:
        import pyarrow as pa

        n = 12 if items else 60
        found = ids(n) if callable(ids) else [f"i{i % 12}" for i in range(n)]
        given = values(n) if callable(values) else ([f"Tea kettle {i}" for i in range(n)] if items else list(range(n)))
        user = {} if items else {"user_id": [f"u{i // 5}" for i in range(n)]}
        return {
            k: v if isinstance(v, pa.Array | pa.ChunkedArray) else pa.array(v)
            for k, v in {**user, "item_id": found, "title" if items else "timestamp": given}.items()
        }

    return made


def _typed(kind: str, *arguments: object) -> Callable[[int], object]:
    def made(n: int) -> object:
        import pyarrow as pa

        return pa.array([None if i % 7 == 3 else i for i in range(n)], getattr(pa, kind)(*arguments))

    return made


def _dates(n: int) -> object:
    import pyarrow as pa

    return pa.array([2**31 - 1 - i for i in range(n)], pa.int32()).cast(pa.date32())


PARQUET: dict[str, Callable[[Path, str], None]] = {
    "plain": _parquet(_columns()),
    "ids int64": _parquet(_columns(lambda n: list(range(n)))),
    "ids float": _parquet(_columns(lambda n: [float(i) for i in range(n)])),
    "ids float above 2^53": _parquet(_columns(lambda n: [2.0**53 + 2 * i for i in range(n)])),
    "ids with nulls": _parquet(_columns(_typed("int64"))),
    "ids null": _parquet(_columns(lambda n: [None] * n)),
    "ids binary": _parquet(_columns(lambda n: [bytes([i % 12, 255]) for i in range(n)])),
    "ids bool": _parquet(_columns(lambda n: [bool(i % 2) for i in range(n)])),
    "ids lists": _parquet(_columns(lambda n: [[f"i{i}"] for i in range(n)])),
    "ids structs": _parquet(_columns(lambda n: [{"a": i} for i in range(n)])),
    "ids with a zero": _parquet(_columns(lambda n: [f"i\0{i % 12}" for i in range(n)])),
    "values null": _parquet(_columns(values=lambda n: [None] * n)),
    "values bool": _parquet(_columns(values=lambda n: [bool(i % 2) for i in range(n)])),
    "values binary": _parquet(_columns(values=lambda n: [b"\xff\xfe"] * n)),
    "values lists": _parquet(_columns(values=lambda n: [["a", "b"]] * n)),
    "values structs": _parquet(_columns(values=lambda n: [{"a": {"b": 1}}] * n)),
    "values NaN": _parquet(_columns(values=lambda n: [float("nan")] * n)),
    "values infinite": _parquet(_columns(values=lambda n: [float("inf")] * n)),
    "dates beyond year 9999": _parquet(_columns(values=_dates)),
    "times in ns": _parquet(_columns(values=_typed("timestamp", "ns", "UTC"))),
    "durations": _parquet(_columns(values=_typed("duration", "s"))),
    "no rows": lambda path, name: _parquet(lambda items: {k: v.slice(0, 0) for k, v in _columns()(items).items()})(path, name),  # type: ignore[attr-defined]
    "no columns": lambda path, name: _parquet(lambda items: {})(path, name),
    "cut": lambda path, name: (_parquet(_columns())(path, name), path.write_bytes(path.read_bytes()[:-30]))[0],
    "a broken page": lambda path, name: (_parquet(_columns())(path, name), _flip(path))[0],
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20:60] = bytes(40)
    path.write_bytes(bytes(data))


def script_trials(root: Path) -> Iterator[Trial]:
    """The programs of dataset_scripts on raw files that are broken."""
    rated = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},4.0,{1000 + u * 10 + m}\n" for u in range(8) for m in range(6))
    films = "movieId,title,genres\n" + "".join(f"{m},Film {m} (1999),Drama|Comedy\n" for m in range(6))
    reviews = "".join(
        json.dumps({"user_id": f"u{u}", "parent_asin": f"i{m}", "rating": 5.0, "timestamp": 1_600_000_000_000 + m}) + "\n"
        for u in range(8)
        for m in range(6)
    )
    meta = "".join(
        json.dumps({"parent_asin": f"i{m}", "title": f"Tea kettle {m}", "categories": ["Tea"], "price": 3}) + "\n" for m in range(6)
    )
    broken = {
        k: ANY[k] for k in ("empty", "half", "zeros", "random bytes", "latin-1", "utf-16", "CR only", "one line", "HTML", "a cell of 2 MB")
    }
    for how, change in broken.items():
        for first, second, name in ((change, bytes, "ratings"), (bytes, change, "movies")):

            def prepare(folder: Path, first: Callable[[bytes], bytes] = first, second: Callable[[bytes], bytes] = second) -> None:
                (folder / "ml").mkdir()
                (folder / "ml" / "ratings.csv").write_bytes(first(rated.encode()))
                (folder / "ml" / "movies.csv").write_bytes(second(films.encode()))

            yield Trial(
                f"movielens, {name} {how}",
                [str(root / "dataset_scripts/movielens.py"), "out", "--data", "ml", "--core", "1"],
                prepare,
                "out",
                SCRIPT,
            )

            def prepare_amazon(folder: Path, first: Callable[[bytes], bytes] = first, second: Callable[[bytes], bytes] = second) -> None:
                (folder / "r.jsonl").write_bytes(first(reviews.encode()))
                (folder / "m.jsonl").write_bytes(second(meta.encode()))

            yield Trial(
                f"amazon, {name} {how}",
                [
                    str(root / "dataset_scripts/amazon.py"),
                    "out",
                    "--year",
                    "2023",
                    "--reviews",
                    "r.jsonl",
                    "--metadata",
                    "m.jsonl",
                    "--core",
                    "1",
                ],
                prepare_amazon,
                "out",
                SCRIPT,
            )

            def prepare_own(folder: Path, first: Callable[[bytes], bytes] = first, second: Callable[[bytes], bytes] = second) -> None:
                (folder / "e.csv").write_bytes(first(EVENTS.encode()))
                (folder / "i.csv").write_bytes(second(ITEMS.encode()))

            yield Trial(
                f"own, {name} {how}",
                [str(root / "dataset_scripts/own.py"), "out", "--items", "i.csv", "--interactions", "e.csv", "--core", "1"],
                prepare_own,
                "out",
                SCRIPT,
            )
