"""``kill -9`` in the middle of everything that writes, then the same command again: the end has to be that of a call nobody disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from environment import HUB, forks
from http_requests import ask, service

from grlm_hf import Catalog

DEEDS = {
    "run": (24, ["run", "shop.yaml", "--data", "shop", "--output", "out"]),
    "train": (12, ["train", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
    "grpo": (8, ["grpo", "checkpoint", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
    "dpo": (4, ["dpo", "checkpoint", "datasets", "--output", "out", "--recipe", "shop.yaml"]),
}
"""How often each is killed, and its call."""
CHANGES, PUSHES = 12, 8
TIMES = {"time", "second", "seconds", "runtime", "duration", "date", "minutes", "ms"}


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
    """Kills everything as often as stated above, or a `share` of it. Two processes go on at a time: a whole run beside the rest."""
    found = Killed()

    def count(times: int) -> int:
        return max(1, int(times * share))

    def deeds(*names: str) -> None:
        for name in names:
            times, call = DEEDS[name]
            _deed(found, name, count(times), call, kept, folder / name)

    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(deeds, "run")
        deeds("train", "grpo", "dpo")
        _changes(found, count(CHANGES), kept, folder / "changes")
        _pushes(found, count(PUSHES), kept, folder / "pushes")
        whole.result()
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
        place = folder / f"{n}"
        moment = length * (n + 0.5) / times
        while True:  # until it is killed before its end
            _place(kept, place)
            with forks.Process(forks.GRLM, *call, cwd=place, env=dict(os.environ)) as process:
                time.sleep(moment)
                if _kill(process):
                    break
            shutil.rmtree(place)
            moment *= 0.8
        found.kills += 1
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


def _kill(process: forks.Process) -> bool:
    """Whether it was still running."""
    with contextlib.suppress(ProcessLookupError):
        if process.running():
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


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
        return {k: _timeless(v) for k, v in value.items() if not TIMES & set(str(k).lower().split("_"))}
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
    with service(kept / "run" / "checkpoint", state):  # a later start removes what the last kill left
        pass
    if left := [p.relative_to(state).as_posix() for p in state.rglob(".*")]:
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

    pushed()
    started = time.monotonic()
    pushed()
    length = time.monotonic() - started
    for n in range(times):
        before = HUB.files("me/shop")
        (source / "card" / "note.json").write_text(json.dumps({"n": n}))
        moment = length * (n + 0.5) / times
        with forks.Process(forks.GRLM, *call, cwd=folder, env=dict(os.environ)) as process:
            time.sleep(moment)
            found.kills += _kill(process)
        time.sleep(0.1)
        seen = HUB.files("me/shop")
        if seen != before and seen.get("card/note.json") != (source / "card" / "note.json").read_bytes():
            found.half.append(f"push, kill {n}: a mixture")
        pushed()
        if HUB.files("me/shop").get("card/note.json") != (source / "card" / "note.json").read_bytes():
            found.lost.append(f"push, kill {n}: the second push did not complete it")
