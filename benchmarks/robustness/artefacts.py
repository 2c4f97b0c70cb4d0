"""Files of a checkpoint, a dataset repository, a catalog and a report that are broken, for every verb that reads them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from trial import Trial

BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "half": lambda d: d[: len(d) // 2],
    "all but the end": lambda d: d[:-9],
    "zeros": lambda d: bytes(len(d)),
    "zeros inside": lambda d: d[: len(d) // 3] + bytes(64) + d[len(d) // 3 + 64 :],
    "bits flipped": lambda d: bytes(b ^ 0x20 if i % 97 == 11 else b for i, b in enumerate(d)),
    "a flipped head": lambda d: bytes(b ^ 0xFF for b in d[:16]) + d[16:],
    "an LFS pointer": lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "a length of 2^63": lambda d: b"\xff" * 7 + b"\x7f" + d[8:],
}
JSON: dict[str, Callable[[bytes], bytes]] = {
    **{what: (lambda d, what=what: what.encode()) for what in ("[]", "{}", "null", "3", '"x"', "[{}]", '{"schema": 99}')},
    "deep": lambda d: b'{"a":' * 60_000,
    "NaN": lambda d: d.replace(b": 0", b": NaN").replace(b": 1", b": Infinity"),
    "digits": lambda d: d.replace(b": 1", b": " + b"9" * 5000),
    **{
        f"all values {what}": (lambda d, what=what: json.dumps(_all_values(json.loads(d), json.loads(what))).encode())
        for what in ("null", "[]", "{}", '"x"', "-1", "1.5", "true", "1e300")
    },
}


def _all_values(value: object, new: object) -> object:
    """The same keys on the top level and one below, with another value."""
    if not isinstance(value, dict):
        return new
    return {k: dict.fromkeys(v, new) if isinstance(v, dict) and v else new for k, v in value.items()}


ODD: dict[str, Callable[[Path], object]] = {
    "missing": lambda p: None,
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a link to itself": lambda p: p.symlink_to(p),
}
VERBS = {
    "checkpoint": [
        ["recommend", "it", "--history", "{a},{b}", "--k", "3"],
        ["explain", "it", "--history", "{a},{b}"],
        ["doctor", "it"],
        ["push", "it", "me/shop", "--license", "mit", "--dry-run"],
        ["evaluate", "it", "datasets", "--output", "out/report.json"],
        ["space", "push", "it", "me/space", "--license", "mit", "--dry-run"],
        ["grpo", "it", "datasets", "--output", "out", "--set", "grpo.steps=1"],
    ],
    "datasets": [
        ["doctor", "it"],
        ["train", "it", "--output", "out", "--set", "train.max_steps=1", "--recipe", "shop.yaml"],
        ["push", "it", "me/shop", "--license", "mit", "--dry-run"],
        ["evaluate", "checkpoint", "it", "--output", "out/report.json"],
    ],
    "catalog": [
        ["quality", "it", "--output", "out"],
        ["dataset", "shop", "--catalog", "it", "--output", "out"],
        ["push", "it", "me/shop", "--license", "mit", "--dry-run"],
    ],
    "priors": [["run", "shop.yaml", "--data", "shop", "--output", "run", "--set", "until=hybrid"]],
    "report": [["report", "it/report.json"], ["report", "it/report.json", "it/report.json"]],
}  # fmt: skip


def trials(kept: Path) -> Iterator[Trial]:
    turn = 0
    for kind, verbs in VERBS.items():
        source = kept / "run" / kind if kind != "report" else kept / "run"
        files = [source / "report.json"] if kind == "report" else sorted(p for p in source.rglob("*") if p.is_file() and p.suffix != ".png")
        for file in files:
            for how, broken in _broken(file, kind):
                verb = verbs[turn % len(verbs)]
                turn += 1
                name = file.relative_to(source).as_posix()
                yield Trial(
                    f"{kind}/{name}, {how}",
                    [part.format(a="B0001", b="B0002") for part in verb],
                    partial(_prepare, kept=kept, kind=kind, name=name, broken=broken),
                    "out" if "out" in verb else "",
                )


def _broken(file: Path, kind: str) -> Iterator[tuple[str, bytes | Callable[[Path], object]]]:
    data = file.read_bytes()
    yield from ((how, change(data)) for how, change in BYTES.items())
    if file.suffix == ".json" and isinstance(json.loads(data), dict):
        yield from ((how, change(data)) for how, change in JSON.items())
    yield from ODD.items()


def _prepare(folder: Path, kept: Path, kind: str, name: str, broken: bytes | Callable[[Path], object]) -> None:
    for link in ("datasets", "checkpoint"):
        (folder / link).symlink_to(kept / "run" / link)
    (folder / "shop").symlink_to(kept / "shop")
    shutil.copyfile(kept / "shop.yaml", folder / "shop.yaml")
    if kind == "priors":
        shutil.copytree(kept / "run", folder / "run")
        target = folder / "run" / "priors"
    elif kind == "report":
        target = folder / "it"
        target.mkdir()
        shutil.copyfile(kept / "run" / "report.json", target / "report.json")
    else:
        target = folder / "it"
        shutil.copytree(kept / "run" / kind, target)
    path = target / name
    path.unlink()
    if callable(broken):
        broken(path)
    else:
        path.write_bytes(broken)
