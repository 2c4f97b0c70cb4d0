"""MovieLens (1M, 10M, 20M, 25M, 32M, latest) as a data folder: items.parquet, interactions.parquet, statistics.json.

python dataset_scripts/movielens.py movies --data ml-32m.zip
python dataset_scripts/movielens.py movies --size 1m --download raw --min-rating 4
grlm run recipes/beauty-cpu.yaml --data movies --output runs/movies --set terms.generator=extract

A film's title keeps its year; its genres are its categories. Reads the zip or its unpacked folder. For research use: see its README.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.download import download
from common.events import Events
from common.options import add_arguments, check_output, finish, read_settings
from common.raw import RawFile
from common.tables import RawItem, write_folder

PAGE = "https://grouplens.org/datasets/movielens/"
HOST = "https://files.grouplens.org/datasets/movielens"
SIZES = {"1m": "ml-1m", "10m": "ml-10m", "20m": "ml-20m", "25m": "ml-25m", "32m": "ml-32m", "latest-small": "ml-latest-small"}
NAMES = ("ratings.csv", "ratings.dat")


def find_files(data: Path, max_bad_lines: int) -> tuple[RawFile, RawFile]:
    """The files of ratings and films in a MovieLens zip or folder. Raises ``ValueError`` if they are missing."""
    if data.is_dir():
        found = [p for name in NAMES for p in sorted(data.rglob(name))]
        if len(found) == 1:
            return RawFile(found[0], max_bad_lines), RawFile(found[0].with_name("movies" + found[0].suffix), max_bad_lines)
    elif data.is_file():
        try:
            with zipfile.ZipFile(data) as archive:
                found = [Path(name) for name in archive.namelist() if Path(name).name in NAMES]
                films = [str(p.with_name("movies" + p.suffix)) for p in found]
                if len(found) == 1 and films[0] in archive.namelist():
                    return RawFile(data, max_bad_lines, str(found[0])), RawFile(data, max_bad_lines, films[0])
        except zipfile.BadZipFile as error:
            raise ValueError(f"{data} is not a complete zip file ({error}). Download it again from {PAGE}.") from error
    else:
        raise ValueError(f"No file or folder at {data}. Download a zip from {PAGE}, or use --size 1m --download DIR.")
    raise ValueError(
        f"{data} has {len(found)} files {' or '.join(NAMES)} with a file of movies; expected one pair, as in ml-32m.zip from {PAGE}."
    )


def rows(file: RawFile, names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a .csv file (UTF-8) or a ``::`` .dat file (Latin-1; UTF-8 in the 10M set)."""
    if file.name.endswith(".csv"):
        for row in file.csv_rows():
            if missing := set(names) - set(row):
                raise ValueError(f"{file.path} ({file.name}) has no column {sorted(missing)}; found {sorted(row)}.")
            yield row
    else:
        utf8 = "10m" in (Path(file.member) if file.member else file.path.resolve()).parent.name.lower()
        yield from file.split_rows(names, "::", "utf-8" if utf8 else "latin-1")


def read_items(file: RawFile) -> Iterator[RawItem]:
    """The films."""
    for row in rows(file, ("movieId", "title", "genres")):
        genres = [] if row["genres"].strip() == "(no genres listed)" else row["genres"].split("|")
        yield RawItem(row["movieId"], row["title"], categories=genres)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    group = parser.add_argument_group("raw files: local, or downloaded")
    group.add_argument("--data", type=Path, help="a MovieLens zip or its unpacked folder")
    group.add_argument("--size", choices=sorted(SIZES), help="set to download")
    group.add_argument("--download", type=Path, metavar="DIR", help="download the zip into DIR; resumes interrupted downloads")
    group.add_argument("--host", default=HOST, help="download from this address instead (a mirror)")
    args = parser.parse_args(argv)

    def work() -> dict[str, Any]:
        settings = read_settings(args)
        check_output(args.folder, [p for p in (args.data, args.download) if p])
        if args.data is None and not (args.size and args.download):
            raise ValueError(f"Expected --data ml-32m.zip (from {PAGE}), or --size 1m --download DIR.")
        data = args.data or download(f"{args.host}/{SIZES[args.size]}.zip", args.download, PAGE)
        ratings, films = find_files(data, settings.max_bad_lines)
        events = Events(settings)
        for row in rows(ratings, ("userId", "movieId", "rating", "timestamp")):
            events.add(ratings, row["userId"], row["movieId"], row["timestamp"], row["rating"])
        return write_folder(args.folder, f"MovieLens ({data.stem})", settings, events, {"ratings": [ratings], "items": [films]}, read_items)

    finish(work, args.folder)


if __name__ == "__main__":
    main()
