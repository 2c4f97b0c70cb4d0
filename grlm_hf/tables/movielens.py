"""MovieLens as it is downloaded: a folder or a zip, with or without headers."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grlm_hf.files import check_regular

Row = tuple[str, dict[str, Any]]
"""The place of a row, and its cells by our names of the columns."""

_PAIRS = (("u.item", "u.data"), ("movies.dat", "ratings.dat"), ("movies.csv", "ratings.csv"))  # 100K; 1M, 10M; latest, 20M to 32M
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_LARGEST = 8 * 2**30  # bytes of a table in a zip


@contextmanager
def open_movielens(source: str | Path) -> Iterator[tuple[Path, Path]]:
    """The files of films and of ratings. Those of a zip exist until the context ends.

    Raises:
        ValueError: neither a folder nor a readable zip; one without such files.
    """
    place = Path(source)
    if place.is_dir():
        pair = _movielens(place, {p.name for p in place.iterdir()})
        yield place / pair[0], place / pair[1]
        return
    check_regular(place)
    with tempfile.TemporaryDirectory() as made:
        try:
            with zipfile.ZipFile(place) as archive:
                members = {Path(info.filename).name: info for info in archive.infolist() if not info.is_dir()}
                pair = _movielens(place, set(members))
                for name in pair:  # known names, never those of the archive
                    if members[name].file_size > _LARGEST:
                        raise ValueError(f"{place}: {name} states {members[name].file_size:,} bytes; expected at most {_LARGEST:,}.")
                    with archive.open(members[name]) as packed, open(Path(made) / name, "wb") as plain:
                        shutil.copyfileobj(packed, plain)
        # zipfile raises a RuntimeError for an encrypted member, and a NotImplementedError for a compression that it does not know
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            hint = "Download it again, or name tables as --items FILE --events FILE."
            raise ValueError(f"{place} is neither a folder nor a readable zip ({error}). {hint}") from error
        yield Path(made) / pair[0], Path(made) / pair[1]


def _movielens(place: Path, names: set[str]) -> tuple[str, str]:
    for pair in _PAIRS:
        if set(pair) <= names:
            return pair
    found, pairs = ", ".join(sorted(names)[:10]) or "nothing", " or ".join(" and ".join(pair) for pair in _PAIRS)
    raise ValueError(f"{place} holds {found}; expected {pairs} of MovieLens. Name other tables: --items FILE --events FILE.")


def films(path: Path) -> Iterator[Row]:
    """The films of ``u.item`` or ``movies.dat``, with our names of the columns; genres are a list, or a text with ``|``."""
    if path.name == "movies.dat":
        for where, (film, title, genres) in _cells(path, "::", 3):
            yield where, {"item_id": film, "title": title, "categories": genres}
        return
    for where, cells in _cells(path, "|", 24):
        flagged = [name for name, flag in zip(_GENRES, cells[5:], strict=True) if flag == "1" and name != "unknown"]
        yield where, {"item_id": cells[0], "title": cells[1], "categories": flagged}


def ratings(path: Path) -> Iterator[Row]:
    """The ratings of ``u.data`` or ``ratings.dat``, with our names of the columns, and ``rating``."""
    for where, (user, film, rating, time) in _cells(path, "\t" if path.name == "u.data" else "::", 4):
        yield where, {"user_id": user, "item_id": film, "rating": rating, "timestamp": time}


def _cells(path: Path, separator: str, number: int) -> Iterator[tuple[str, list[str]]]:
    """The lines of a file without a header. MovieLens 100K is in latin-1, the others in one or the other."""
    with open(path, "rb") as file:
        for n, line in enumerate(file, 1):
            try:
                text = line.decode("latin-1" if path.name.startswith("u.") else "utf-8")
            except UnicodeDecodeError:
                text = line.decode("latin-1")
            cells = text.rstrip("\r\n").split(separator)
            if len(cells) != number:
                raise ValueError(f"{path.name}:{n} has {len(cells)} fields; expected the {number} of MovieLens.")
            yield f"{path.name}:{n}", cells
