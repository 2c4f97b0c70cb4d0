"""What was acknowledged is there after anything: errors at every step, damage, kill -9."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import httpx2
import pytest
from serving_toys import running
from toys import TERM_IDS, toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import Catalog, Item
from grlm_hf.serving import ServeOptions, Service, state
from grlm_hf.serving.batcher import Refused
from grlm_hf.serving.state import State

FIRST = toy_catalog()
SECOND = FIRST.add([Item("new", "New")], [("lamp", "new")])
THIRD = SECOND.remove(["i20"])


def committed(folder: Path, *catalogs: Catalog, keep: int = 5) -> None:
    s = State(folder, keep)
    for number, catalog in enumerate(catalogs, 1):
        s.commit(number, catalog, catalog.trie(toy_tokenizer()))
    s.close()


def opened(folder: Path) -> tuple[int, Catalog, tuple[int, ...]]:
    s = State(folder)
    try:
        found = s.open()
        assert found is not None
        return found.number, found.catalog, s.kept
    finally:
        s.close()


def test_the_last_version_comes_back_with_its_trie(tmp_path: Path) -> None:
    committed(tmp_path / "s", FIRST, SECOND, THIRD, keep=2)
    s = State(tmp_path / "s")
    found = s.open()
    assert found is not None
    assert (found.number, found.catalog, s.kept) == (3, THIRD, (2, 3))
    assert found.trie is not None
    assert found.trie.of == THIRD.identifiers_hash
    assert s.read(2).catalog == SECOND
    assert sorted(p.name for p in (tmp_path / "s" / "versions").iterdir()) == ["2", "3"]
    with pytest.raises(ValueError, match="in use by another"):
        State(tmp_path / "s")
    s.close()
    assert State(tmp_path / "new").open() is None


class Killed(BaseException):
    pass


def test_a_commit_that_ends_at_any_step_leaves_one_version_or_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(tmp_path / "before", FIRST, SECOND)
    steps = 0

    def counting(name: str, module: Any) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def step(*args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise Killed(name)
            return real(*args, **more)

        monkeypatch.setattr(module, name, step)

    found = set()
    for stop in range(1, 100):
        folder = tmp_path / str(stop)
        shutil.copytree(tmp_path / "before", folder)
        s = State(folder)
        assert s.open() is not None
        with monkeypatch.context() as patch:
            steps, monkeypatch = 0, patch
            for name in ("replace", "rename", "fsync"):
                counting(name, os)
            try:
                s.commit(3, THIRD, None)
                whole = True
            except Killed:
                whole = False
        s.close()
        number, catalog, kept = opened(folder)
        assert (number, catalog, kept) in ((2, SECOND, (1, 2)), (3, THIRD, (1, 2, 3)))
        found.add((number, whole))
        if whole:
            break
        s = State(folder)  # and life goes on
        s.open()
        s.commit(number + 1, FIRST, None)
        s.close()
        assert opened(folder)[:2] == (number + 1, FIRST)
    else:
        raise AssertionError("never ended")
    assert found >= {(2, False), (3, True)}
    assert stop > 8


def test_a_damaged_version_falls_back_to_the_good_one_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n, damage in enumerate(
        [
            lambda v: (v / "catalog.parquet").write_bytes((v / "catalog.parquet").read_bytes()[:-100]),
            lambda v: (v / "catalog.parquet").unlink(),
            lambda v: (v / "version.json").write_text("{"),
            lambda v: (v / "version.json").write_text("[]"),
            lambda v: shutil.rmtree(v),
        ]
    ):
        caplog.clear()
        folder = tmp_path / str(n)
        committed(folder, FIRST, SECOND, THIRD)
        damage(folder / "versions" / "3")
        # a number of its own: clients may have seen another catalog under 3
        assert opened(folder) == (4, SECOND, (1, 4))
        (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
        assert "version 3" in record.facts["problem"]  # type: ignore[attr-defined]
        assert "version 2, good, is served as version 4" in record.facts["doing"]  # type: ignore[attr-defined]
        assert opened(folder) == (4, SECOND, (1, 4))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 1, "version": 2, "kept": [1, 3]}', '{"schema": 1, "version": "3", "kept": "3"}']
)
def test_a_damaged_pointer_finds_the_newest_version(tmp_path: Path, text: str) -> None:
    committed(tmp_path / "s", FIRST, SECOND)
    (tmp_path / "s" / "current.json").write_text(text)
    number, catalog, _ = opened(tmp_path / "s")
    assert (number, catalog) == (3, SECOND)


def test_a_damaged_trie_is_made_anew(tmp_path: Path) -> None:
    committed(tmp_path / "s", FIRST, SECOND)
    (tmp_path / "s" / "versions" / "2" / "catalog.trie").write_bytes(b"\0" * 100)
    with running(ServeOptions(state=tmp_path / "s")) as r:
        assert r.client.get("/catalog").json()["version"] == 2
        assert r.client.post("/recommend", json={"history": ["new"], "k": 13}).status_code == 200


def test_a_state_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    committed(tmp_path / "s", FIRST)
    (tmp_path / "s" / "versions" / "1" / "catalog.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="no version that can be read"):
        opened(tmp_path / "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("")
    with pytest.raises(ValueError, match=r"thesis\.doc, which is no part of a state"):
        State(tmp_path / "other")
    with pytest.raises(ValueError, match="is a file"):
        State(tmp_path / "other" / "thesis.doc")
    committed(tmp_path / "newer", FIRST)
    (tmp_path / "newer" / "current.json").write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="pip install -U grlm-hf"):
        opened(tmp_path / "newer")


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(ServeOptions(state=tmp_path / "s")) as r:

        def full(_: Path) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(state, "_force", full)
            answer = r.client.request("DELETE", "/items", json={"item_ids": ["i20"]})
        assert answer.status_code == 507
        assert r.client.get("/catalog").json()["version"] == r.client.post("/recommend", json={"history": ["i20"]}).json()["version"] == 1
        assert r.client.request("DELETE", "/items", json={"item_ids": ["i20"]}).json()["version"] == 2


def test_changes_outlive_the_service_and_versions_go_on(tmp_path: Path) -> None:
    options = ServeOptions(state=tmp_path / "s")
    with running(options) as r:
        added = r.client.post(
            "/items", json={"items": [{"item_id": "水/1", "title": "Lamp of steel"}], "term_ids": [["Lamp", "水"]]}
        ).json()
        assert added["added"] == {"水/1": ["lamp", "水"]}
    with running(options) as r:
        now = r.client.get("/catalog").json()
        assert (now["version"], now["items"], now["sha256"]) == (2, 13, added["sha256"])
        assert r.client.get("/items/水%2F1").json()["item"]["term_id"] == ["lamp", "水"]
        assert r.client.post("/recommend", json={"history": ["水/1"], "k": 13}).json()["version"] == 2
        assert r.client.post("/catalog/rollback").json()["version"] == 3
        assert r.client.get("/items/水%2F1").status_code == 404
        assert r.client.post("/catalog/rollback").status_code == 409


def test_kill_9_between_and_within_commits(tmp_path: Path) -> None:
    """A real `grlm serve`, killed again and again while items are added: what was acknowledged is served after a restart."""
    toy_grlm().save_pretrained(tmp_path / "checkpoint")
    command = ["serve", str(tmp_path / "checkpoint"), "--port", "0", "--state", str(tmp_path / "s")]
    rng = random.Random(0)
    acknowledged, asked = {item.item_id for item in FIRST}, set()
    version = 1
    for life in range(3):
        with forks.Process(forks.GRLM, *command) as process:
            while not (line := re.search(r"^Serving .* on (\S+)\n", process.printed(), re.MULTILINE)):
                assert process.running(), process.printed()
                time.sleep(0.05)
            with httpx2.Client(base_url=line[1], timeout=60, trust_env=False) as client:
                served = client.get("/items?limit=1000").json()
                ids = {item["item_id"] for item in served["items"]}
                assert acknowledged <= ids <= acknowledged | asked
                assert served["version"] in (version, version + len(asked))
                acknowledged, asked, version = ids, set(), served["version"]
                killer = threading.Timer(rng.uniform(0.05, 0.6), os.kill, (process.pid, signal.SIGKILL))
                for n in range(10_000):
                    name = f"n{life}-{n}"
                    asked = {name}
                    try:
                        answer = client.post("/items", json={"items": [{"item_id": name, "title": name}], "term_ids": [list(TERM_IDS[0])]})
                    except httpx2.TransportError:
                        break
                    assert answer.status_code == 200, answer.text
                    acknowledged, asked, version = acknowledged | asked, set(), answer.json()["version"]
                    if n == 0:
                        killer.start()
            assert process.wait().returncode == -signal.SIGKILL
    s = State(tmp_path / "s")
    found = s.open()
    assert found is not None
    assert acknowledged <= {item.item_id for item in found.catalog} <= acknowledged | asked
    facts = json.loads((tmp_path / "s" / "current.json").read_text())
    assert facts["version"] == found.number
    s.close()


def test_without_a_state_nothing_stays(tmp_path: Path) -> None:
    service = Service(toy_grlm())
    folder = service.state.folder
    assert folder.exists()
    service.stop()
    assert not folder.exists()


def test_after_an_error_at_any_step_the_answer_is_what_a_restart_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused change never appears and an answered one is never undone, whichever call to the disk fails."""
    calls = [(os, "fsync"), (os, "rename"), (os, "replace"), (os, "chmod"), (shutil, "rmtree"), (os, "mkdir")]
    outcomes = set()
    for stop in range(60):
        count = 0
        options = ServeOptions(state=tmp_path / str(stop))
        service = Service(toy_grlm(), options)

        def failing(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == stop + 1:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, failing(getattr(owner, name)))
            status = 200
            try:
                service.remove(["i20"])
            except Refused as error:
                status = error.status
        assert status in (200, 507)
        made = status == 200
        assert ("i20" in service.grlm.catalog) != made
        service.remove(["i13"])  # and life goes on
        number = service.current.number
        service.stop()
        again = Service(toy_grlm(), options)
        assert ("i20" in again.grlm.catalog) != made
        assert "i13" not in again.grlm.catalog
        assert again.current.number == number
        again.stop()
        outcomes.add(made)
        if count <= stop:
            break
    else:
        raise AssertionError("never ended")
    assert outcomes == {True, False}
    assert stop > 8


def test_a_stop_waits_for_the_change_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another process could take the folder, and its first change would be overwritten by this one."""
    service, begun, go_on = Service(toy_grlm(), ServeOptions(state=tmp_path / "s")), threading.Event(), threading.Event()
    real = State.commit

    def slow(self: State, *args: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(self, *args)

    monkeypatch.setattr(State, "commit", slow)
    change = threading.Thread(target=service.remove, args=(["i20"],))
    change.start()
    assert begun.wait(60)
    stop = threading.Thread(target=service.stop)
    stop.start()
    time.sleep(0.2)
    with pytest.raises(ValueError, match="in use by another"):
        State(tmp_path / "s")
    go_on.set()
    change.join(60)
    stop.join(60)
    monkeypatch.undo()
    assert "i20" not in opened(tmp_path / "s")[1]


@pytest.mark.parametrize("writes", ["versions", "current.json"])
def test_the_work_of_a_killed_commit_is_removed_at_the_next_start(tmp_path: Path, writes: str) -> None:
    """Killed while it writes a file of the version, or the pointer; no later change is needed."""
    committed(tmp_path / "s", FIRST)
    code = f"""
import os, signal
from pathlib import Path
import grlm_hf.serving.state as state
from toys import toy_catalog
real = state.write_json
def killed(path, value):
    if ("version.json" if {writes!r} == "versions" else ".current.json.work-") in str(path):
        Path(path).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, value)
state.write_json = killed
s = state.State(Path({str(tmp_path / "s")!r}))
s.open()
s.commit(2, toy_catalog(), None)
"""
    assert forks.run(code).returncode == -signal.SIGKILL
    left = [p for p in (tmp_path / "s").rglob("*") if ".work-" in p.name]
    assert left
    assert left[0].parent.name == (writes if writes == "versions" else "s")
    s = State(tmp_path / "s")
    s.open()
    s.close()
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["current.json", "lock", "versions"]
    assert not [p for p in (tmp_path / "s").rglob("*") if ".work-" in p.name]
