"""Synthetic raw files in the format of Amazon Reviews 2023, of any size: for tests, and to measure what a large file takes.

python tests/dataset_scripts/raw_files.py raw --lines 2000000
python dataset_scripts/amazon.py shop --year 2023 --reviews raw/Synthetic.jsonl --metadata raw/meta_Synthetic.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

WORDS = [
    "oak",
    "steel",
    "green",
    "light",
    "travel",
    "kettle",
    "lamp",
    "brush",
    "soap",
    "cotton",
    "warm",
    "folding",
    "small",
    "bright",
    "clean",
    "tea",
    "garden",
    "night",
    "soft",
    "sharp",
]


def user_name(user: int) -> str:
    return f"A{user * 2654435761 % 36**6:027X}"  # 28 characters, as the real ones; users of one rank are spread over the ids


def item_name(item: int) -> str:
    return f"B{item:09d}"


def write_raw(folder: Path, lines: int, users: int = 0, items: int = 0, seed: int = 0, gz: bool = False, bad: int = 0) -> tuple[Path, Path]:
    """Writes reviews and metadata; returns their paths.

    Users and items are Zipfian, one review in fifty repeats the one before, one item in a hundred has no metadata, one title in fifty holds
    HTML, prices are numbers, texts or null. The texts hold emoji and Hebrew.

    Args:
        users, items: how many there may be; 0: a third and a twentieth of the lines.
        bad: this many lines, evenly spread, are cut in the middle.
    """
    rng = np.random.default_rng(seed)
    users, items = users or max(lines // 3, 1), items or max(lines // 20, 1)
    folder.mkdir(parents=True, exist_ok=True)
    end = ".jsonl.gz" if gz else ".jsonl"
    reviews, metadata = folder / f"Synthetic{end}", folder / f"meta_Synthetic{end}"
    prose = " ".join(rng.choice(WORDS, 4000)) + " 😀 טוב "
    cut_lines = {int(n) for n in np.linspace(0, lines - 1, bad)} if bad else set()

    def drawn(count: int, of: int) -> np.ndarray:
        odds = np.cumsum(1 / (np.arange(of) + 10.0) ** 0.8)
        return np.searchsorted(odds, rng.random(count) * odds[-1])

    with _open(reviews, gz) as file, tqdm(total=lines, desc=reviews.name, disable=None) as bar:
        for start in range(0, lines, 100_000):
            count = min(100_000, lines - start)
            block = np.stack([drawn(count, users), drawn(count, items), rng.integers(1_500_000_000, 1_690_000_000, count)])
            again = np.flatnonzero(rng.random(count) < 0.02)
            again = again[again > 0]
            block[:, again] = block[:, again - 1]
            begins, lengths, stars = rng.integers(0, 20_000, count), rng.integers(0, 900, count), rng.integers(1, 6, count)
            for n in range(count):
                user, item, time = block[:, n].tolist()
                said = json.dumps(prose[begins[n] : begins[n] + lengths[n]])
                text = (
                    f'{{"rating": {stars[n]}.0, "title": "Review", "text": {said}, "images": [], '
                    f'"asin": "{item_name(item)}", "parent_asin": "{item_name(item)}", "user_id": "{user_name(user)}", '
                    f'"timestamp": {time * 1000 + n % 1000}, "helpful_vote": 0, "verified_purchase": true}}'
                )
                file.write((text[:60] if start + n in cut_lines else text) + "\n")
            bar.update(count)
    with _open(metadata, gz) as file:
        for item in range(items):
            if item % 100 == 99:
                continue
            words = rng.choice(WORDS, 8).tolist()
            title = f"{' '.join(words).title()} {item}"
            row = {
                "main_category": "All &amp; Sundry",
                "title": f"<b>{title}</b> &amp; more 😀" if item % 50 == 7 else title,
                "average_rating": 4.0,
                "rating_number": 10,
                "features": words[:3],
                "description": [prose[item % 15_000 :][:1200]],
                "price": [float(item % 90), None, f"${item % 90}.50 - $99.00"][item % 3],
                "images": [],
                "store": words[0].title(),
                "categories": ["All & Sundry", words[1].title(), words[2].title()],
                "details": {},
                "parent_asin": item_name(item),
                "bought_together": None,
            }
            file.write(json.dumps(row) + "\n")
    return reviews, metadata


def _open(path: Path, gz: bool):
    return gzip.open(path, "wt", compresslevel=1, encoding="utf-8") if gz else open(path, "w", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=2_000_000, help="reviews (default %(default)s)")
    parser.add_argument("--users", type=int, default=0, help="default: a third of the lines")
    parser.add_argument("--items", type=int, default=0, help="default: a twentieth of the lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gz", action="store_true", help="compress the files")
    args = parser.parse_args()
    print(*write_raw(args.folder, args.lines, args.users, args.items, args.seed, args.gz))


if __name__ == "__main__":
    main()
