"""A data folder as two CSV files, items.csv and interactions.csv, as in the guide "Your own catalog".

python dataset_scripts/to_csv.py sample my-shop

Users stay in order, events are in time order. Lists of categories become paths, ``A > B > C``. A split stated by the source (n_valid,
n_test) is left out. An item without a title gets its brand and last category; events on unknown items are left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path

from grlm_hf.data.interactions import load_histories
from grlm_hf.data.items import load_items
from grlm_hf.files import replacing
from grlm_hf.stages.reading import find_data


def to_csv(source: Path, folder: Path) -> tuple[int, int]:
    """Writes the two files; returns the numbers of items and events. Raises ``ValueError`` for a folder without such tables."""
    items = load_items(find_data(source, "items"), missing_title="fill")
    histories = load_histories(
        find_data(source, "interactions", "sequences"), {i.item_id for i in items}, short_users="keep", unknown_items="drop"
    )
    timed = all(h.timestamps for h in histories)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already and will not be changed. Choose another folder.")
    with replacing(folder) as new:
        new.mkdir()
        with open(new / "items.csv", "w", encoding="utf-8", newline="") as file:
            rows = [asdict(item) | {"categories": " > ".join(item.categories)} for item in items]
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        with open(new / "interactions.csv", "w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["user_id", "item_id", *(["timestamp"] if timed else [])])
            for h in histories:
                lines.writerows(zip([h.user_id] * len(h.items), h.items, *([h.timestamps] if timed else []), strict=True))
    return len(items), sum(len(h.items) for h in histories)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with items.* and interactions.* or sequences.* (csv, jsonl, parquet; also .gz)")
    parser.add_argument("folder", type=Path, help="receives the two files; must not exist yet")
    args = parser.parse_args(argv)
    try:
        items, events = to_csv(args.source, args.folder)
    except ValueError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    print(f"{args.folder}: {items:,} items, {events:,} events")


if __name__ == "__main__":
    main()
