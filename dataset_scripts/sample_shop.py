"""Writes the synthetic sample shop as a data folder: items.jsonl and interactions.jsonl.

python dataset_scripts/sample_shop.py shop
grlm run recipes/beauty-cpu.yaml --data shop --output runs/shop --set terms.generator=extract --set terms.resolver=term
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grlm_hf.data.sample import SYNTHETIC_NOTICE, write_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="receives the tables; replaced if it exists")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random shop (default 0)")
    parser.add_argument("--users", type=int, default=3000, help="number of users (default 3000)")
    args = parser.parse_args()
    write_sample(args.folder, args.seed, args.users)
    print(f"{args.folder}: {SYNTHETIC_NOTICE}")


if __name__ == "__main__":
    main()
