"""Run by `check.py` where only `datasets` is installed: reads every table of a published dataset, loaded and streamed, and compares its
rows with those that were published. Ends with an error, naming the table, where anything differs."""

import hashlib
import importlib.util
import json
import sys

import datasets

datasets.config.USE_PARQUET_EXPORT = False  # a service beside the Hub, which the test Hub has not


def told(rows) -> dict:
    digest, number = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
        number += 1
    return {"features": rows.features.to_dict(), "rows": number, "digest": digest.hexdigest()}


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    ours = [name for name in ("grlm_hf", "torch", "transformers", "sentence_transformers") if importlib.util.find_spec(name)]
    if ours:
        sys.exit(f"This environment is to hold only `datasets`; it has {ours} too.")
    repo, wanted, wrong, count = expected["repo"], expected["tables"], [], 0
    found = datasets.get_dataset_config_names(repo)
    if sorted(found) != sorted(wanted):
        wrong.append(f"tables {found}, published {list(wanted)}")
    for config, splits in wanted.items():
        for streaming in (False, True):
            loaded = datasets.load_dataset(repo, config, streaming=streaming)
            if list(loaded) != list(splits):
                wrong.append(f"{config}: splits {list(loaded)}, published {list(splits)}")
            for split, rows in loaded.items():
                read = told(rows)
                count += read["rows"]
                wrong += [
                    f"{config}/{split}{', streamed' if streaming else ''}: {what} {read[what]}, published {splits[split][what]}"
                    for what in ("features", "rows", "digest")
                    if split in splits and json.loads(json.dumps(read[what])) != splits[split][what]
                ]
    for code in expected["code"]:  # of the card
        exec(code, {"print": lambda row: None})
    if wrong:
        sys.exit("What was read is not what was published:\n  " + "\n  ".join(wrong))
    print(f"{repo}: {len(wanted)} tables, {sum(map(len, wanted.values()))} splits, loaded and streamed: {count:,} rows as published.")


if __name__ == "__main__":
    main(sys.argv[1])
