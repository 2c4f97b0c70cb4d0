"""The options that all programs share, and how each of them ends."""

from __future__ import annotations

import argparse
import errno
import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grlm_hf.files import check_replaceable

STATISTICS_FILE = "statistics.json"

RULES = """
what is kept, in this order:
  1. lines that can be read, name a user, an item and a time, and reach --min-rating;
  2. of duplicates, the earliest (--duplicates); of the same time, the first in the file;
  3. users and items with at least --core events each, again and again until all have them (events are counted after step 2);
  4. items with metadata and a title (--missing-metadata), then step 3 again;
  5. of each user, the last --max-history events.
Histories are in the order of time; events of the same second stay in the order of the files as given. Users are in the order of their ids
as text, items in the order of the metadata file. Texts lose markup and HTML entities; a range of prices counts as its lower end.

Memory grows with the events and the distinct ids, not with the bytes of the files. Measured: 2 million reviews (1.4 GB) by 477,000 users of
100,000 items took 450 MB, the first million of them 360 MB; so about 90 MB for each million more.
"""


@dataclass(frozen=True)
class Settings:
    """What is kept, and how long texts may be; `add_arguments` explains each."""

    core: int = 5
    duplicates: str = "first"
    min_rating: float | None = None
    max_history: int | None = None
    missing_metadata: str = "drop"
    max_bad_lines: int = 10
    max_title: int = 500
    max_description: int = 2000
    domain: str = ""


def add_arguments(parser: argparse.ArgumentParser, duplicates: str = "first", rated: bool = True) -> None:
    """The options that all programs share; `read_settings` reads them."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = RULES
    parser.add_argument("folder", type=Path, help="receives the tables; replaced as a whole if one of these programs wrote it")
    group = parser.add_argument_group("what is kept")
    group.add_argument(
        "--core", type=_count, default=5, metavar="N", help="least events of each user and each item (default %(default)s; 0: no filter)"
    )
    group.add_argument(
        "--duplicates",
        choices=("first", "exact", "keep"),
        default=duplicates,
        help="first: a user has an item once, the first time; exact: only lines of the same user, item and second are one; keep: all "
        "lines count (default %(default)s)",
    )
    if rated:
        group.add_argument("--min-rating", type=float, metavar="X", help="leave out events rated lower (default: none)")
    group.add_argument("--max-history", type=_count, metavar="N", help="keep each user's last N events (default: all)")
    group.add_argument(
        "--missing-metadata",
        choices=("drop", "keep"),
        default="drop",
        help="items without metadata or title: drop, or keep under brand and last category, else their id (default %(default)s)",
    )
    group.add_argument(
        "--max-bad-lines",
        type=_count,
        default=10,
        metavar="N",
        help="lines of a file that may be unusable; they are counted and located in statistics.json (default %(default)s)",
    )
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--max-title", type=_count, default=500, metavar="N", help="characters; longer titles end at a word (default %(default)s)"
    )
    group.add_argument("--max-description", type=_count, default=2000, metavar="N", help="likewise (default %(default)s)")
    group.add_argument("--domain", default="", help="the domain of all items, where several catalogs are to be joined later")


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings among parsed arguments. Raises ``ValueError`` for one that makes no sense."""
    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__ if hasattr(args, name)})
    if settings.max_title < 1:
        raise ValueError("--max-title 0 would leave no titles; expected at least 1.")
    if settings.max_history is not None and settings.max_history < 3:
        raise ValueError(f"--max-history {settings.max_history}: a user needs three events: to learn from, to validate on, to test on.")
    return settings


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def check_output(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuses a folder that may not be replaced, or that holds one of the raw files. Call it before the work."""
    check_replaceable(folder, STATISTICS_FILE)
    for path in (p.resolve() for p in inputs):
        if folder.resolve() in (path, *path.parents):
            raise ValueError(f"{path} is or lies in {folder}, which is to be replaced as a whole. Choose another folder.")


def finish(work: Callable[[], dict[str, Any]], folder: Path) -> None:
    """Runs the work of a program and says what came of it. Exit status 2 for a mistake in the call or the input, 130 after Ctrl-C."""
    try:
        statistics = work()
    except KeyboardInterrupt:
        print(f"\nInterrupted; {folder} is as it was.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        print(f"Error: {f'the disk is full; {folder} is as it was.' if full else error}", file=sys.stderr)
        sys.exit(2)
    for when in ("before", "after"):
        found = statistics[f"{when}_filtering"]
        print(f"{when}: {found['users']:,} users, {found['items']:,} items, {found['interactions']:,} interactions")
    for name, told in statistics["dropped"].items():
        print(f"  {told['count']:,} events left out: {name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{folder} is written (at most {peak / 1e6:,.0f} MB of memory). It is the --data of grlm run.")
    if statistics["history_length"]["min"] < 3:
        print("Some users have fewer than three events: run with --set read.short_users=drop, or filter with --core.")
