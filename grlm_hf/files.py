"""Files written as a whole or not at all, by one writer at a time; the nearest known word in error messages."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import inspect
import itertools
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset, Features


P = ParamSpec("P")
T = TypeVar("T")


class Incomplete(Exception):
    """The requested part of the work is done and other parts are still missing. This is no error of the user."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most similar to `word`: equal but for case, else by `difflib`'s ratio; ``None`` if none is similar. Of very many
    words only those are compared that differ in one quarter of `word` alone, which takes milliseconds instead of seconds."""
    known = list(itertools.islice(known, 200_000))
    lower, size = word.lower(), len(word)
    if same := next((other for other in known if other.lower() == lower), None):
        return same
    if len(known) > 2_000:
        cuts = [size * n // 4 for n in range(5)]
        pairs = [(word[:first], word[last:]) for first, last in itertools.pairwise(cuts)]
        close = (o for o in known if abs(len(o) - size) <= 2 and any(o.startswith(a) and o.endswith(b) for a, b in pairs))
        known = list(itertools.islice(close, 500))
    return next(iter(get_close_matches(word, known, 1)), None)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """The last sentence of an error about an unknown `word`: "Did you mean 'x'?", or `otherwise` if no known word is similar."""
    near = nearest(word, known)
    return f"Did you mean {prefix + near!r}?" if near else otherwise


def inside(folder: str | Path, wanted: str, *names: str) -> str:
    """The last sentence of an error about a folder without the file `wanted`: those of the folders `names` in it that have it; or ""."""
    found = [str(Path(folder) / name) for name in names if (Path(folder) / name / wanted).is_file()]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def clean(value: Any) -> str:
    """A cell as text, white space collapsed and trimmed; ``""`` for a missing value. Every id and title passes through it."""
    return "" if value is None else " ".join(str(value).split())


def rows_to_dataset(rows: Sequence[dict[str, Any]], features: Features) -> Dataset:
    """Rows as a table with these columns. Unlike ``Dataset.from_list`` it keeps the columns when there are no rows."""
    from datasets import Dataset

    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def check_replaceable(folder: str | Path, sign: str, never: Sequence[str] = ()) -> None:
    """Refuses to replace a folder that grlm did not write. Call it before the work whose result replaces `folder`. Raises `ValueError` if
    `folder` is a file; or it is not empty and has no file named `sign`, or has one of `never`."""
    folder = Path(folder)
    if folder.is_dir():
        found = sorted(p.name for p in folder.iterdir() if ".work-" not in p.name)  # what a killed process left is ours
        if other := sorted(set(found) & set(never)):
            raise ValueError(f"{folder} has {other[0]}: grlm wrote it for another purpose and will not replace it. Choose another folder.")
        if found and sign not in found:
            some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise ValueError(f"{folder} has {some} but no {sign}: grlm did not write it and will not replace it. Choose another folder.")
    elif folder.exists():
        raise ValueError(f"{folder} is a file; expected a folder. Choose another one.")


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A temporary path beside `target` for a file or folder. It replaces `target` only when the block succeeds. A folder is swapped as a
    whole, so a reader sees the old or the new one, never a partial one. After an error, Ctrl-C or a full disk `target` is unchanged. Of a
    link, what it points to is replaced. Raises `ValueError` for a target that is neither file nor folder, such as a device."""
    target = _replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, target.name)
    with _work_folder(target) as work:
        new = work / "new"
        yield new
        if not new.is_dir():
            os.chmod(new, 0o644)
            os.replace(new, target)
        elif not target.exists():
            os.rename(new, target)
        elif not _exchange(new, target):
            try:
                os.rename(target, work / "old")
                os.rename(new, target)
            except BaseException:
                if (work / "old").exists() and not target.exists():
                    os.rename(work / "old", target)
                raise


def _replaceable(target: str | Path) -> Path:
    target = Path(target)
    try:
        target = target.resolve() if target.is_symlink() else target
        strange = target.exists() and not target.is_file() and not target.is_dir()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise ValueError(f"{target} cannot be written: {error}") from error
    if strange:
        raise ValueError(f"{target} is neither a file nor a folder (a device or a pipe?), and is not replaced. Choose another output.")
    return target


_LOCK = "lock"


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, removed at the end. A lock on a file in it tells other processes, on any host, that its owner lives."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.work-", dir=target.parent))
        try:
            lock = open(work / _LOCK, "w")  # noqa: SIM115
        except FileNotFoundError:  # another process took the folder for a leftover
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nobody can take it either
            break
        if _is_at(lock, work / _LOCK):
            break
        lock.close()  # likewise, before it was locked
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.close()


def sweep(folder: Path, target: str = "") -> None:
    """Removes the work folders that dead processes left in `folder`, whatever they wrote. If one died between two renames, the old folder
    is restored. A living writer, on any host, holds the lock of its work folder, which is left alone; so is one whose lock cannot be
    tested. Folders of a version before 0.2 name a process instead, and are removed only beside the `target` that this process writes."""
    for left in sorted(folder.iterdir()):
        match = _LEFT.fullmatch(left.name)
        if match is None or (match["process"] and match["target"] != target):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile; of another user; or its lock is held
            if match["process"]:
                if int(match["process"]) == os.getpid() or not _alive(int(match["process"])):
                    _remove(left, folder / match["target"])
            elif all(p.name in (_LOCK, "new", "old") or p.name.startswith(".new.") for p in left.iterdir()):  # also of a writer of "new"
                with open(left / _LOCK, "a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_at(lock, left / _LOCK):
                        _remove(left, folder / match["target"])  # while the lock is held: its owner may be about to take it


_LEFT = re.compile(r"\.(?P<target>.+)\.(?:work|(?P<process>\d+))-\w+", re.DOTALL)


def _remove(left: Path, target: Path) -> None:
    if (left / "old").exists() and not target.exists():
        os.rename(left / "old", target)
    shutil.rmtree(left, ignore_errors=True)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at this path: another process may have removed it, or put a new one there."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step, which no reader can see half done; False where the system cannot (then nothing has changed)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library without it
        return False


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def only_writer(target: str | Path) -> Iterator[None]:
    """Holds `target`, an output with resumable work beside or inside it, for this process; the kernel frees it however the process ends.
    Raises `ValueError` if another process holds it."""
    target = _replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.parent / f".{target.name}.lock"
    with contextlib.ExitStack() as held:
        while True:
            lock = held.enter_context(open(path, "a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "another process"
                raise ValueError(f"{target} is being written by {owner}. Wait for its end, or choose another output.") from None
            except OSError:  # a file system without locks
                break
            if _is_at(lock, path):
                held.callback(path.unlink, missing_ok=True)
                break
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        yield


def alone(make: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function with a parameter `output`: this process holds the output meanwhile (`only_writer`). Of processes that a
    launcher started together, the first one does."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        if os.environ.get("RANK", "0") != "0":
            return make(*args, **kwargs)
        with only_writer(signature.bind(*args, **kwargs).arguments["output"]):
            return make(*args, **kwargs)

    return held


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(rows: Dataset, path: str | Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """Writes a dataset as one parquet file atomically, with its features, so that ``load_dataset`` restores them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows.with_format("arrow")[:]
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    # Written through memory: on a full disk pyarrow's own writer can end the process, where Python raises an error.
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    with replacing(path) as new:
        new.write_bytes(buffer.getvalue())


def check_regular(path: str | Path) -> None:
    """Raises ``ValueError`` unless the path is a regular file; opening a pipe would wait for ever."""
    try:
        if Path(path).is_file():
            return
        found = "a folder" if Path(path).is_dir() else "neither a file nor a folder" if os.path.lexists(path) else "missing"
    except OSError as error:
        found = str(error)
    raise ValueError(f"No file at {path}: it is {found}.")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file. Raises ``ValueError`` naming the file when it is broken, missing or no regular file."""
    try:
        check_regular(path)
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # thousands of brackets; numbers of thousands of digits
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error


def local_paths(*places: str | Path) -> list[Path]:
    """The places that are local folders, whose content is fingerprinted; the others are names on the Hub."""
    return [Path(p) for p in places if str(p) and Path(p).is_dir()]


def fingerprint(name: str, inputs: Sequence[Path], settings: Any) -> str:
    """Hash of a stage's name, this version, the settings (dataclasses and JSON values) and the content of the input files."""
    from grlm_hf.version import __version__

    digest = hashlib.sha256(json.dumps([name, __version__, [asdict(s) if is_dataclass(s) else s for s in settings]]).encode())  # type: ignore[arg-type]
    for path in inputs:
        inside = (p for p in path.rglob("*") if p.is_file() and not _without_effect(p.relative_to(path)))
        for file in sorted(inside) if path.is_dir() else [path]:
            with open(file, "rb") as content:
                digest.update(f"{file.name}:{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def _without_effect(path: Path) -> bool:
    """Whether a file is a card or the source of one, which describes results, and no result depends on it; or the work of a killed
    process."""
    return path.name == "README.md" or path.parts[0] == "card" or any(".work-" in part for part in path.parts)
