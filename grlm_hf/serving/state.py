"""The versions of a catalog on disk. A change is wholly and safely on disk before it is acknowledged.

::

    STATE/current.json        {"schema": 1, "version": 7, "kept": [5, 6, 7]}: the committed versions
    STATE/versions/7/         catalog.parquet, catalog.trie, version.json with the catalog's SHA-256
    STATE/lock                held by the process that serves

A version is written beside the others and forced to disk. Only then one rename replaces `current.json`: a process killed at any point
leaves the version before or the one after.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.files import read_json, replacing, sweep, write_json
from grlm_hf.layout import CATALOG_FILE, TRIE_FILE
from grlm_hf.trie.arrays import Trie

SCHEMA = 1
log = logging.getLogger("grlm.serve")


@dataclass(frozen=True, eq=False)
class Version:
    """One committed catalog.

    Attributes:
        number: rises with every change, and never names two catalogs.
        sha256: of its parquet file.
        trie: as saved; ``None`` if it has to be built anew.
    """

    number: int
    catalog: Catalog
    sha256: str
    trie: Trie | None = None


class State:
    """A folder of versions, for one process at a time.

    Args:
        folder: created if missing.
        keep: number of versions to keep, the current one among them.

    Raises:
        ValueError: the folder holds other files, or another process serves it.
    """

    def __init__(self, folder: Path, keep: int = 5):
        self.folder, self.keep = Path(folder), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; expected a folder for the state.")
        self.folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(p.name for p in self.folder.iterdir() if p.name not in ("current.json", "versions", "lock") and p.name[0] != ".")
        if strange:
            raise ValueError(f"{self.folder} holds {strange[0]}, which is no part of a state. Choose an empty folder, or a new one.")
        self._lock = open(self.folder / "lock", "a")  # noqa: SIM115  held until the process ends, however it ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.folder} is in use by another `grlm serve`. Stop that one, or choose another folder.") from None
        (self.folder / "versions").mkdir(exist_ok=True)
        for left in self.folder.glob(".upload-*"):  # of a process that was killed: this one holds the folder
            left.unlink()
        sweep(self.folder)
        self.kept: tuple[int, ...] = ()
        """Committed versions, oldest first; the last is served."""

    def close(self) -> None:
        """Releases the folder for another process."""
        self._lock.close()

    def _path(self, number: int) -> Path:
        return self.folder / "versions" / str(number)

    def open(self) -> Version | None:
        """The last committed version; ``None`` in a new folder.

        If its files are damaged, the newest undamaged version before it is committed again, under a new number, since clients may have
        seen the number of the damaged one. The log states the error; damaged versions are renamed.

        Raises:
            ValueError: there are versions, and none can be read; or a newer grlm-hf wrote them.
        """
        present = sorted(int(p.name) for p in (self.folder / "versions").iterdir() if p.name.isdecimal())
        if not (self.folder / "current.json").exists() and not present:
            return None
        stated = self._stated(present)
        problems = []
        for number in reversed(stated):
            try:
                found = self.read(number)
            except (ValueError, TypeError, KeyError) as error:
                problems.append(f"version {number}: {error}")
                continue
            self.kept = tuple(n for n in stated if n <= number and n in present)
            if not problems and stated is not present:
                self._sweep()
                return found
            for damaged in (n for n in stated if n > number and self._path(n).exists()):
                os.rename(self._path(damaged), self.folder / "versions" / f"{damaged}.damaged")
            again = max(*stated, *present) + 1
            _log_damage("; ".join(problems), f"version {number}, good, is served as version {again}")
            return self.commit(again, found.catalog, found.trie or None, self.kept[:-1])
        raise ValueError(
            f"{self.folder} has no version that can be read: {'; '.join(problems)}. Restore a backup, or start with a new folder."
        )

    def _stated(self, present: list[int]) -> list[int]:
        """The versions that ``current.json`` states; `present` if it is damaged."""
        pointer = self.folder / "current.json"
        try:
            values = read_json(pointer)
            newer = isinstance(values, dict) and isinstance(values.get("schema"), int) and values["schema"] > SCHEMA
            if not newer:
                stated = values["kept"]
                if not (isinstance(stated, list) and stated and all(type(n) is int for n in stated) and stated[-1] == values["version"]):
                    raise ValueError(f"{pointer} does not say which version is current.")
                return stated
        except (ValueError, TypeError, KeyError) as error:
            if not present:
                raise ValueError(f"{pointer} is damaged ({error}), and there are no versions. Restore a backup, or remove it.") from error
            _log_damage(str(error), "looking for the newest good version")
            return present
        raise ValueError(f"{pointer} has schema {values['schema']}; this grlm-hf reads up to {SCHEMA}. pip install -U grlm-hf")

    def read(self, number: int) -> Version:
        """A kept version. Raises ``ValueError``, ``TypeError`` or ``KeyError`` if it is damaged."""
        folder = self._path(number)
        facts = read_json(folder / "version.json")
        file = folder / CATALOG_FILE
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        if (found := file_sha256(file)) != facts["sha256"]:
            raise ValueError(f"{file} has SHA-256 {found[:12]}…, expected {facts['sha256'][:12]}…: it is damaged")
        catalog = Catalog.from_pretrained(file)
        try:
            trie = Trie.load(folder / TRIE_FILE)
        except ValueError as error:  # it is built anew
            log.warning("trie made anew", extra={"facts": {"problem": str(error)}})
            trie = None
        return Version(number, catalog, found, trie if trie and trie.of == catalog.identifiers_hash else None)

    def commit(self, number: int, catalog: Catalog, trie: Trie | None, before: tuple[int, ...] | None = None) -> Version:
        """Writes a version, and makes it the current one once it is safely on disk.

        Args:
            before: earlier versions that a rollback can take, oldest first; by default all that are kept.
        """
        with replacing(self._path(number)) as new:
            new.mkdir()
            sha256 = file_sha256(catalog.save_pretrained(new))
            if trie is not None:
                trie.save(new / TRIE_FILE, catalog.identifiers_hash)
            write_json(new / "version.json", {"schema": SCHEMA, "number": number, "sha256": sha256, "items": len(catalog)})
            for path in (*new.iterdir(), new):
                _force(path)
        _force(self.folder / "versions")
        kept = (*(self.kept if before is None else before), number)[-self.keep :]
        try:
            with replacing(self.folder / "current.json") as new:
                write_json(new, {"schema": SCHEMA, "version": number, "kept": list(kept)})
                _force(new)
            _force(self.folder)
        except OSError as error:
            if not self._points_to(number):
                raise
            # The pointer has moved: the change is made, and the answer says so. A power cut could still undo it.
            log.error("change made, but not forced to disk", extra={"facts": {"problem": str(error), "version": number}})
        self.kept = kept
        self._sweep()
        return Version(number, catalog, sha256, trie)

    def _points_to(self, number: int) -> bool:
        try:
            return read_json(self.folder / "current.json")["version"] == number
        except (ValueError, TypeError, KeyError):
            return False

    def _sweep(self) -> None:
        """Removes versions that are not kept. A failure only leaves them for the next time."""
        with contextlib.suppress(OSError):
            for path in (self.folder / "versions").iterdir():
                # Hidden: the work of a process that was killed; its number is not written again.
                if path.name.startswith(".") or (path.name.isdecimal() and int(path.name) not in self.kept):
                    shutil.rmtree(path, ignore_errors=True)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _log_damage(problem: str, doing: str) -> None:
    log.error("state damaged", extra={"facts": {"problem": problem, "doing": doing}})


def _force(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
