"""Your own tables, with any column names, as a data folder: items.parquet, interactions.parquet, statistics.json.

For a shop use `grlm import`: it finds the columns itself, and keeps all items, unsold ones too. This program filters as benchmarks do.

python dataset_scripts/own.py shop --items products.csv --interactions orders.csv --item-id sku --title name --user-id customer \\
    --timestamp ordered_at --categories section --category-separator '>'
grlm run recipes/beauty-cpu.yaml --data shop --output runs/shop --set terms.generator=extract

Both files may be CSV with a header or JSON lines (.csv, .jsonl, .json; also .gz) or .parquet, of any size. A table of orders with the
products' titles may be used for both. Tables that already have our columns need no conversion: pass their folder to grlm run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.events import Events
from common.options import add_arguments, check_output, finish, read_settings
from common.raw import RawFile
from common.tables import RawItem, write_folder

from grlm_hf.tables.cleaning import clean_list

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def rows(file: RawFile, args: argparse.Namespace, needed: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table. Raises ``ValueError`` if its first row lacks a needed column."""
    name = file.path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        found: Iterator[dict[str, Any]] = file.parquet_rows()
    elif name.endswith((".jsonl", ".json", ".ndjson")):
        found = file.json_rows()
    elif name.endswith((".csv", ".tsv")):
        found = file.csv_rows(args.encoding, "\t" if name.endswith(".tsv") else args.delimiter)
    else:
        raise ValueError(f"{file.path} has no known format; expected .csv, .tsv, .jsonl, .json (also .gz) or .parquet.")
    for number, row in enumerate(found):
        if number == 0 and (missing := [column for column in needed if column not in row]):
            raise ValueError(f"{file.path} has no column {missing}; found {sorted(row)}. Name your columns: --help lists the options.")
        yield row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, duplicates="exact")
    parser.add_argument("--items", type=Path, required=True, metavar="FILE")
    parser.add_argument("--interactions", type=Path, required=True, metavar="FILE")
    group = parser.add_argument_group("columns of the items; by default they have our names")
    for column in ("item-id", "title", "brand", "categories", "description", "price"):
        group.add_argument(f"--{column}", default=column.replace("-", "_"), metavar="COLUMN", help="default %(default)s")
    group.add_argument("--domain-column", default="domain", metavar="COLUMN", help="default %(default)s; empty cells get --domain")
    group.add_argument("--category-separator", default=">", metavar="TEXT", help="separator of categories in a text (default %(default)s)")
    group = parser.add_argument_group("columns of the interactions")
    group.add_argument("--user-id", default="user_id", metavar="COLUMN", help="default %(default)s")
    group.add_argument("--event-item-id", metavar="COLUMN", help="the item's id, if its name differs from that of the items")
    group.add_argument("--timestamp", default="timestamp", metavar="COLUMN", help="a number, a date or ISO 8601 text (default %(default)s)")
    group.add_argument("--time-unit", choices=UNITS, default="s", help="unit of numeric times since 1970 (default %(default)s)")
    group.add_argument("--no-times", action="store_true", help="no times: events are in file order")
    group.add_argument("--rating", default="rating", metavar="COLUMN", help="for --min-rating (default %(default)s)")
    group = parser.add_argument_group("CSV")
    group.add_argument("--delimiter", default=",", help="default %(default)s")
    group.add_argument("--encoding", default="utf-8", help="default %(default)s")
    args = parser.parse_args(argv)

    def read_items(file: RawFile) -> Iterator[RawItem]:
        for row in rows(file, args, [args.item_id, args.title]):
            brand, text, price, domain = (row.get(name) for name in (args.brand, args.description, args.price, args.domain_column))
            categories = clean_list(row.get(args.categories), args.category_separator)
            yield RawItem(row.get(args.item_id), row.get(args.title), brand, categories, text, price, domain)

    def work() -> dict[str, Any]:
        settings = read_settings(args)
        if len(args.delimiter) != 1:
            raise ValueError(f"--delimiter {args.delimiter!r}: expected one character.")
        try:
            "".encode(args.encoding)
        except LookupError:
            raise ValueError(
                f"--encoding {args.encoding!r} is not known to Python; expected one such as utf-8, latin-1 or cp1252."
            ) from None
        check_output(args.folder, [args.items, args.interactions])
        item_file, event_file = (RawFile(path, settings.max_bad_lines) for path in (args.items, args.interactions))
        events = Events(settings, not args.no_times, UNITS[args.time_unit])
        item_id = args.event_item_id or args.item_id
        needed = [
            args.user_id,
            item_id,
            *([] if args.no_times else [args.timestamp]),
            *([args.rating] if args.min_rating is not None else []),
        ]
        for row in rows(event_file, args, needed):
            events.add(event_file, row.get(args.user_id), row.get(item_id), row.get(args.timestamp), row.get(args.rating))
        files = {"interactions": [event_file], "items": [item_file]}
        return write_folder(args.folder, "own tables", settings, events, files, read_items)

    finish(work, args.folder)


if __name__ == "__main__":
    main()
