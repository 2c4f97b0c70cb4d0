"""The Yelp Open Dataset as a data folder: items.parquet, interactions.parquet, statistics.json.

python dataset_scripts/yelp.py places --reviews yelp_academic_dataset_review.json --businesses yelp_academic_dataset_business.json
grlm run recipes/beauty-cpu.yaml --data places --output runs/places --set terms.generator=extract

Yelp provides the files to users who accept its terms, at https://business.yelp.com/data/resources/open-dataset/, so this program cannot
download them. A place's description is its city and state, which distinguish the branches of a chain.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.events import Events
from common.options import add_arguments, check_output, finish, read_settings
from common.raw import RawFile, open_files
from common.tables import RawItem, write_folder

from grlm_hf.tables.cleaning import clean_list


def read_items(file: RawFile) -> Iterator[RawItem]:
    """The businesses; `categories` is a text such as ``Mexican, Bars``, in older releases a list, or null."""
    for row in file.json_rows():
        place = ", ".join(str(row[key]) for key in ("city", "state") if row.get(key))
        yield RawItem(row.get("business_id"), row.get("name"), categories=clean_list(row.get("categories"), ","), description=place)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--reviews", type=Path, required=True, metavar="FILE", help="yelp_academic_dataset_review.json")
    parser.add_argument("--businesses", type=Path, required=True, metavar="FILE", help="yelp_academic_dataset_business.json")
    args = parser.parse_args(argv)

    def work() -> dict[str, Any]:
        settings = read_settings(args)
        check_output(args.folder, [args.reviews, args.businesses])
        reviews, businesses = open_files([args.reviews, args.businesses], settings.max_bad_lines)
        events = Events(settings)
        for row in reviews.json_rows():
            events.add(reviews, row.get("user_id"), row.get("business_id"), row.get("date"), row.get("stars"))
        files = {"reviews": [reviews], "items": [businesses]}
        return write_folder(args.folder, "Yelp Open Dataset", settings, events, files, read_items)

    finish(work, args.folder)


if __name__ == "__main__":
    main()
