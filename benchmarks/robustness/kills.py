"""``kill -9`` in the middle of everything that writes, then the same command again: the end has to be that of a call nobody disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import forks
from http_requests import ask, service
from shop import HUB

from grlm_hf import Catalog

DEEDS = {
    "run": (24, ["run", "shop.yaml", "--data", "shop", "--output", "out"]),
    "train": (12, ["train", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
    "grpo": (8, ["grpo", "checkpoint", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
    "dpo": (4, ["dpo", "checkpoint", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
}
"""How often each is killed, and its call."""
CHANGES, PUSHES = 12, 8
TIMES = {"time", "seconds", "runtime", "duration", "date", "minutes", "samples_per_second", "steps_per_second", "ms"}


@dataclass
class Killed:
    kills: int = 0
    lost: list[str] = field(default_factory=list)
    """A resumed end that is not the undisturbed one, or a call that cannot be finished."""
    left: list[str] = field(default_factory=list)
    """Files that a killed call left for ever."""
    undone: list[str] = field(default_factory=list)
    """Acknowledged changes that are gone, and refused ones that are there."""
    half: list[str] = field(default_factory=list)
    """Readers who saw a part of something."""


def run(kept: Path, folder: Path, share: float = 1.0) -> Killed:
    found = Killed()
    for name, (times, call) in DEEDS.items():
        _deed(found, name, max(1, int(times * share)), call, kept, folder / name)
    _changes(found, max(1, int(CHANGES * share)), kept, folder / "changes")
    _pushes(found, max(1, int(PUSHES * share)), kept, folder / "pushes")
    return found


def _deed(found: Killed, name: str, times: int, call: Sequence[str], kept: Path, folder: Path) -> None:
    """Kills one verb at `times` moments spread over its run."""
    whole = _place(kept, folder / "whole")
    started = time.monotonic()
    done = forks.grlm(*call, cwd=whole)
    length = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{name} itself fails:\n{done.stderr}")
    expected = _content(whole / "out")
    for n in range(times):
        place = _place(kept, folder / f"{n}")
        with forks.Process(forks.GRLM, *call, cwd=place, env=dict(os.environ)) as process:
            time.sleep(length * (n + 0.5) / times)
            alive = process.running()
            os.kill(process.pid, signal.SIGKILL)
        found.kills += alive
        if (part := place / "out").exists() and name != "run" and _content(part) != expected:
            found.half.append(f"{name}, kill {n}: {part} exists and is not whole")
        again = forks.grlm(*call, cwd=place)
        if again.returncode:
            found.lost.append(f"{name}, kill {n}: the same call ends with {again.stderr[-400:]}")
        elif different := [k for k, v in expected.items() if _content(place / "out").get(k) != v]:
            found.lost.append(f"{name}, kill {n}: {different[:4]} differ from the undisturbed run's")
        if left := [p.name for p in place.iterdir() if p.name.startswith(".out")]:
            found.left.append(f"{name}, kill {n}: {left}")
        shutil.rmtree(place)


def _place(kept: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, source in (("shop", kept / "shop"), ("datasets", kept / "run" / "datasets"), ("checkpoint", kept / "run" / "checkpoint")):
        (folder / name).symlink_to(source)
    shutil.copyfile(kept / "shop.yaml", folder / "shop.yaml")
    return folder


def _content(folder: Path) -> dict[str, str]:
    """A hash of each file. Of JSON the values without times; pictures, cards and logs hold times too, and are left out."""
    found = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and ".grlm" not in p.parts and p.name not in ("training_log.json", "README.md")
    ):
        if path.suffix in (".png", ".html"):
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not TIMES & set(str(k).lower().split("_")) and k not in TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _changes(found: Killed, times: int, kept: Path, folder: Path) -> None:
    """A service that is killed while its catalog changes, and started again on the same state."""
    rng, told = random.Random(0), {}
    state = folder / "state"
    base = {item.item_id for item in Catalog.from_pretrained(kept / "run" / "checkpoint")}
    for n in range(times):
        with service(kept / "run" / "checkpoint", state) as (process, port):
            have = {item.item_id for item in Catalog.from_pretrained(_current(state))} if _current(state) else base
            for item, there in told.items():
                if there is not None and (item in have) != there:
                    found.undone.append(f"kill {n}: {item} {'is gone' if there else 'is there'}")
            stop = threading.Thread(target=lambda pid=process.pid: (time.sleep(rng.uniform(0.05, 0.6)), os.kill(pid, signal.SIGKILL)))
            stop.start()
            for turn in range(10_000):
                item = f"new-{n}-{turn}"
                told[item] = None  # not answered: either is right
                body = json.dumps({"items": [{"item_id": item, "title": f"A steel tea kettle, model {n} {turn}"}]}).encode()
                try:
                    status, _ = ask(port, "POST", "/items", body)
                    told[item] = status == 200
                    if turn % 3 == 2:
                        gone = f"new-{n}-{turn - 1}"
                        was, told[gone] = told[gone], None
                        status, _ = ask(port, "DELETE", "/items", json.dumps({"item_ids": [gone]}).encode())
                        told[gone] = was if status != 200 else False
                except OSError:
                    break
                except Exception:  # the connection ended inside an answer
                    break
            stop.join()
            found.kills += 1
    if left := [p.name for p in state.rglob(".*") if p.is_dir()]:
        found.left.append(f"changes: {left[:5]}")


def _current(state: Path) -> Path | None:
    if not (state / "current.json").is_file():
        return None
    number = json.loads((state / "current.json").read_text())["version"]
    return state / "versions" / str(number)


def _pushes(found: Killed, times: int, kept: Path, folder: Path) -> None:
    """A push that is killed: readers see the old version or the new one, and a second push completes it."""
    source = folder / "checkpoint"
    shutil.copytree(kept / "run" / "checkpoint", source)
    call = ["push", str(source), "me/shop", "--license", "mit"]

    def pushed() -> None:
        if (done := forks.grlm(*call, cwd=folder)).returncode:
            found.lost.append(f"a push fails: {done.stderr[-300:]}")

    started = time.monotonic()
    pushed()
    length = time.monotonic() - started
    for n in range(times):
        before = HUB.files("me/shop")
        (source / "card" / "note.json").write_text(json.dumps({"n": n}))
        with forks.Process(forks.GRLM, *call, cwd=folder, env=dict(os.environ)) as process:
            time.sleep(length * (n + 0.5) / times)
            found.kills += process.running()
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)
        seen = HUB.files("me/shop")
        if seen != before and seen.get("card/note.json") != (source / "card" / "note.json").read_bytes():
            found.half.append(f"push, kill {n}: a mixture")
        pushed()
        if HUB.files("me/shop").get("card/note.json") != (source / "card" / "note.json").read_bytes():
            found.lost.append(f"push, kill {n}: the second push did not complete it")
