"""Publishes a small dataset to a Hub on 127.0.0.1 and has it read where only `datasets` is installed (`load.py`): make test-published

python tests/published/check.py .venv-datasets/bin/python
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import _server as hub  # first: it sets what the clients read at import, and empties their caches

from grlm_hf import Catalog
from grlm_hf.data.repository import dataset_facts, load_table
from grlm_hf.data.sample import SYNTHETIC_NOTICE, write_sample
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.publishing.publish import publish
from grlm_hf.stages import make_dataset, make_terms

REPO = "org/sample-shop"
CONFIGS = {"items", "interactions", "neighbors", "term_ids", "cases", "sft"}


def main(python: str) -> None:
    with hub, tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["HF_TOKEN"] = hub.token
        write_sample(work / "shop")
        make_terms(work / "shop", work / "catalog")
        make_dataset(work / "shop", work / "catalog", work / "whole", title="Sample shop", notice=SYNTHETIC_NOTICE)
        layout = {config: list(splits) for config, splits in dataset_facts(work / "whole")["statistics"]["rows"].items()}
        assert set(layout) == CONFIGS, f"made {sorted(layout)}, expected {sorted(CONFIGS)}"
        tables = {config: {split: load_table(work / "whole", config, split) for split in splits} for config, splits in layout.items()}
        facts = dataset_facts(work / "whole")
        save_datasets(tables, Catalog.from_pretrained(work / "catalog"), work / "datasets", facts, shard_bytes=200_000)
        publish(work / "datasets", REPO, license="cc0-1.0")

        files = hub.files(REPO, "dataset")
        assert any(re.search(r"-of-0000[2-9]\.parquet$", file) for file in files), "no table is of several files"
        expected = {
            "repo": REPO,
            "code": re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL),
            "tables": {c: {s: told(rows) for s, rows in splits.items()} for c, splits in tables.items()},
        }
        assert expected["code"], "the card has no code to run"
        (work / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
        (work / "home").mkdir()
        surroundings = {**os.environ, "HF_HOME": str(work / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        program = [python, "-I", str(Path(__file__).parent / "load.py"), str(work / "expected.json")]
        sys.exit(subprocess.run(program, cwd=work / "home", env=surroundings, timeout=300).returncode)


def told(rows) -> dict:
    """What identifies a table: its columns and types, the number of rows, and a digest of all values in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return {"features": rows.features.to_dict(), "rows": len(rows), "digest": digest.hexdigest()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(str(Path(sys.argv[1]).absolute()))
