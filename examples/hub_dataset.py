"""A dataset repository of `grlm dataset`, read with `datasets` alone: from a folder, or from the Hub by its name.

python examples/hub_dataset.py [grlm-quickstart/datasets]
"""

from __future__ import annotations

import sys

from datasets import load_dataset


def main(repository: str = "grlm-quickstart/datasets") -> None:
    items = load_dataset(repository, "items", split="train")
    term_ids = load_dataset(repository, "term_ids", split="train")
    print(items[0]["title"], term_ids[0]["terms"], sep="\n  ")

    cases = load_dataset(repository, "cases")  # of the evaluation: a history, and the item that came next
    print({split: len(rows) for split, rows in cases.items()}, cases["test"][0])

    sft = load_dataset(repository, "sft", split="train")  # what any TRL script trains on
    row = sft[0]
    print(f"{len(sft)} training examples, the first of task {row['task']!r}:")
    for message in (*row["prompt"], *row["completion"]):
        print(f"  {message['role']}: {message['content']!r}")

    streamed = load_dataset(repository, "interactions", split="train", streaming=True)
    print(next(iter(streamed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
