"""Options shared by all programs, and their exit."""

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
from grlm_hf.layout import STATISTICS_FILE

RULES = """
filters, in this order:
  1. readable lines with a user, an item and a time that reach --min-rating;
  2. of duplicates, the earliest (--duplicates); at the same time, the first in the file;
  3. users and items with at least --core events each, repeated until all have them (events are counted after step 2);
  4. items with metadata and a title (--missing-metadata), then step 3 again;
  5. the last --max-history events of each user.
Histories are in time order; events of the same second stay in the order of the files. Users are in the order of their ids as text, items
in the order of the metadata file. Markup and HTML entities are removed from texts; a range of prices counts as its lower end.

Memory grows with the number of events and distinct ids, not with the size of the files. Measured: 2 million reviews (1.4 GB) by 477,000
users of 100,000 items took 450 MB, the first million of them 360 MB, so about 90 MB per further million.
"""


@dataclass(frozen=True)
class Settings:
    """Filters and limits of texts; `add_arguments` explains each."""

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
    """Options shared by all programs; `read_settings` reads them."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = RULES
    parser.add_argument("folder", type=Path, help="receives the tables; replaced if one of these programs wrote it")
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--core", type=_count, default=5, metavar="N", help="least number of events per user and item (default %(default)s; 0: no filter)"
    )
    group.add_argument(
        "--duplicates",
        choices=("first", "exact", "keep"),
        default=duplicates,
        help="first: keep a user's first event with an item; exact: drop only lines with equal user, item and second; keep: keep all lines "
        "(default %(default)s)",
    )
    if rated:
        group.add_argument("--min-rating", type=float, metavar="X", help="leave out events with a lower rating (default: none)")
    group.add_argument("--max-history", type=_count, metavar="N", help="keep the last N events of each user (default: all)")
    group.add_argument(
        "--missing-metadata",
        choices=("drop", "keep"),
        default="drop",
        help="items without metadata or title: drop, or keep with brand and last category, else the id, as title (default %(default)s)",
    )
    group.add_argument(
        "--max-bad-lines",
        type=_count,
        default=10,
        metavar="N",
        help="largest number of unusable lines per file; statistics.json counts and locates them (default %(default)s)",
    )
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--max-title", type=_count, default=500, metavar="N", help="characters; longer titles are cut at a word (default %(default)s)"
    )
    group.add_argument("--max-description", type=_count, default=2000, metavar="N", help="likewise (default %(default)s)")
    group.add_argument("--domain", default="", help="the domain of all items, to join several catalogs later")


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings among parsed arguments. Raises ``ValueError`` for an invalid one."""
    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__ if hasattr(args, name)})
    if settings.max_title < 1:
        raise ValueError("--max-title 0 would leave no titles; expected at least 1.")
    if settings.max_history is not None and settings.max_history < 3:
        raise ValueError(f"--max-history is {settings.max_history}; expected at least 3: one event each for training, validation and test.")
    return settings


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def check_output(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuses a folder that may not be replaced, or that contains a raw file. Call it before the work."""
    check_replaceable(folder, STATISTICS_FILE)
    for path in (p.resolve() for p in inputs):
        if folder.resolve() in (path, *path.parents):
            raise ValueError(f"{path} is in {folder}, which would be replaced. Choose another folder.")


def finish(work: Callable[[], dict[str, Any]], folder: Path) -> None:
    """Runs the work of a program and prints the result. Exit status 2 for an error in the call or the input, 130 after Ctrl-C."""
    try:
        statistics = work()
    except KeyboardInterrupt:
        print(f"\nInterrupted; {folder} is unchanged.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        print(f"Error: {f'the disk is full; {folder} is unchanged.' if full else error}", file=sys.stderr)
        sys.exit(2)
    for when in ("before", "after"):
        found = statistics[f"{when}_filtering"]
        print(f"{when}: {found['users']:,} users, {found['items']:,} items, {found['interactions']:,} interactions")
    for reason, left_out in statistics["dropped"].items():
        print(f"  {left_out['count']:,} events left out: {reason}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{folder} is written (peak memory {peak / 1e6:,.0f} MB). Use it as --data of grlm run.")
    if statistics["history_length"]["min"] < 3:
        print("Some users have fewer than three events: run with --set read.short_users=drop, or filter with --core.")
