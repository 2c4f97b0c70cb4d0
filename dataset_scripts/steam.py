"""Steam reviews and games (the dumps of 2018) as a data folder: items.parquet, interactions.parquet, statistics.json.

python dataset_scripts/steam.py games --reviews steam_reviews.json.gz --games steam_games.json.gz
python dataset_scripts/steam.py games --download raw
grlm run recipes/beauty-cpu.yaml --data games --output runs/games --set terms.generator=extract

Both files have one Python literal per line, which is parsed and never run. A user is a username, since most lines have no user_id. Times
are days; reviews of one day stay in file order. Categories are the genres, then the players' tags.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.download import download
from common.events import Events
from common.options import add_arguments, check_output, finish, read_settings
from common.raw import RawFile, open_files
from common.tables import RawItem, write_folder

PAGE = "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data"
HOST = "https://cseweb.ucsd.edu/~wckang"
FILES = ("steam_reviews.json.gz", "steam_games.json.gz")


def read_items(file: RawFile) -> Iterator[RawItem]:
    """The games."""
    for row in file.json_rows(loose=True):
        if row.get("id") in (None, ""):  # a few games of the dump have none
            file.drop("no item", bad=False)
            continue
        categories = [name for key in ("genres", "tags") if isinstance(row.get(key), list) for name in row[key]]
        title, maker = row.get("app_name") or row.get("title"), row.get("developer") or row.get("publisher")
        yield RawItem(row["id"], title, maker, categories, price=row.get("price"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, rated=False)
    group = parser.add_argument_group("raw files: local, or downloaded")
    group.add_argument("--reviews", type=Path, metavar="FILE")
    group.add_argument("--games", type=Path, metavar="FILE")
    group.add_argument("--download", type=Path, metavar="DIR", help="download the files into DIR; resumes interrupted downloads")
    group.add_argument("--host", default=HOST, help="download from this address instead (a mirror)")
    args = parser.parse_args(argv)

    def work() -> dict[str, Any]:
        settings = read_settings(args)
        check_output(args.folder, [p for p in (args.reviews, args.games, args.download) if p])
        given = [args.reviews, args.games]
        if args.download:
            given = [path or download(f"{args.host}/{name}", args.download, PAGE) for path, name in zip(given, FILES, strict=True)]
        if None in given:
            raise ValueError(f"Expected --reviews and --games: {' and '.join(FILES)} from {PAGE}. Or download them: --download DIR.")
        reviews, games = open_files(given, settings.max_bad_lines)
        events = Events(settings)
        for row in reviews.json_rows(loose=True):
            events.add(reviews, row.get("username"), row.get("product_id"), row.get("date"))
        return write_folder(args.folder, "Steam", settings, events, {"reviews": [reviews], "items": [games]}, read_items)

    finish(work, args.folder)


if __name__ == "__main__":
    main()
