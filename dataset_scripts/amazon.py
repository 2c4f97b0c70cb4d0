"""Amazon Reviews of 2014, 2018 or 2023 as a data folder: items.parquet, interactions.parquet, statistics.json.

python dataset_scripts/amazon.py beauty --year 2014 --reviews reviews_Beauty_5.json.gz --metadata meta_Beauty.json.gz
python dataset_scripts/amazon.py software --year 2023 --category Software --download raw
grlm run recipes/beauty-cpu.yaml --data beauty --output runs/beauty --set terms.generator=extract

The files, one pair per category, plain or .gz:
  2014  reviews_CATEGORY.json.gz (or the 5-core reviews_CATEGORY_5.json.gz), meta_CATEGORY.json.gz
  2018  CATEGORY.json.gz (or CATEGORY_5.json.gz), meta_CATEGORY.json.gz
  2023  CATEGORY.jsonl.gz, meta_CATEGORY.jsonl.gz; an item is a parent_asin, so variants are one item
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.download import download
from common.events import Events
from common.options import add_arguments, check_output, finish, read_settings
from common.raw import RawFile, open_files
from common.tables import RawItem, write_folder

PAGES = {
    2014: "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    2018: "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
    2023: "https://amazon-reviews-2023.github.io/",
}
HOSTS = {
    2014: "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
    2018: "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    2023: "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
}
FILES = {  # paths of reviews and metadata on the host
    2014: ("reviews_{}.json.gz", "meta_{}.json.gz"),
    2018: ("categoryFiles/{}.json.gz", "metaFiles2/meta_{}.json.gz"),
    2023: ("review_categories/{}.jsonl.gz", "meta_categories/meta_{}.jsonl.gz"),
}
_VISIT = re.compile(r"(?:by\s+)?Visit Amazon's (.+) Page", re.DOTALL)


def read_events(file: RawFile, year: int, events: Events) -> None:
    """Adds the reviews of one file."""
    user, item, time, rating = (
        ("user_id", "parent_asin", "timestamp", "rating") if year == 2023 else ("reviewerID", "asin", "unixReviewTime", "overall")
    )
    for row in file.json_rows(loose=year == 2014):
        events.add(file, row.get(user), row.get(item), row.get(time), row.get(rating))


def read_items(file: RawFile, year: int) -> Iterator[RawItem]:
    """The products of one metadata file."""
    for row in file.json_rows(loose=year == 2014):
        get = row.get
        if year == 2014:
            yield RawItem(get("asin"), get("title"), get("brand"), _longest(get("categories")), get("description"), get("price"))
        elif year == 2018:
            text = get("description") or get("feature")
            yield RawItem(get("asin"), get("title"), _brand(get("brand")), get("category") or [get("main_cat")], text, get("price"))
        else:
            text = get("description") or get("features")
            categories = get("categories") or [get("main_category")]
            yield RawItem(get("parent_asin"), get("title"), get("store"), categories, text, get("price"))


def _longest(paths: Any) -> Any:
    """The first of the longest category paths."""
    paths = [p for p in paths if isinstance(p, list)] if isinstance(paths, list) else []
    return max(paths, key=len, default=())


def _brand(brand: Any) -> Any:
    found = _VISIT.fullmatch(brand.strip()) if isinstance(brand, str) else None
    return found[1] if found else brand


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--year", type=int, choices=sorted(FILES), required=True, help="year of the collection")
    group = parser.add_argument_group("raw files: local, or downloaded")
    group.add_argument("--reviews", type=Path, nargs="+", default=[], metavar="FILE")
    group.add_argument("--metadata", type=Path, nargs="+", default=[], metavar="FILE")
    group.add_argument("--category", help="as in the files' names, such as All_Beauty; also the items' domain, unless --domain is given")
    group.add_argument("--download", type=Path, metavar="DIR", help="download the category's files into DIR; resumes interrupted downloads")
    group.add_argument("--host", help="download from this address instead (a mirror)")
    args = parser.parse_args(argv)
    if args.category and not args.domain:
        args.domain = args.category.replace("_", " ")

    def work() -> dict[str, Any]:
        settings = read_settings(args)
        year, page = args.year, PAGES[args.year]
        check_output(args.folder, [p for p in (*args.reviews, *args.metadata, args.download) if p])
        if args.download and not args.category:
            raise ValueError(f"--download needs --category, such as {'All_Beauty' if year > 2014 else 'Beauty'}; see {page}.")
        fetched = [[args.host or HOSTS[year], name.format(args.category)] for name in FILES[year]]
        for given, place in zip((args.reviews, args.metadata), fetched, strict=True):
            if args.download and not given:
                given.append(download("/".join(place), args.download, page))
        if not (args.reviews and args.metadata):
            names = " and ".join(Path(name.format(args.category or "CATEGORY")).name for name in FILES[year])
            raise ValueError(f"Expected --reviews and --metadata: {names} from {page}. Or download them: --category NAME --download DIR.")
        files = {"reviews": open_files(args.reviews, settings.max_bad_lines), "items": open_files(args.metadata, settings.max_bad_lines)}
        events = Events(settings, per_second=1000 if year == 2023 else 1)
        for file in files["reviews"]:
            read_events(file, year, events)
        return write_folder(args.folder, f"Amazon Reviews {year}", settings, events, files, lambda file: read_items(file, year))

    finish(work, args.folder)


if __name__ == "__main__":
    main()
