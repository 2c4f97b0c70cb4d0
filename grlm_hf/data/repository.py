"""Reads dataset repositories: their facts and their tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.layout import DATASET_FACTS

if TYPE_CHECKING:
    from datasets import Dataset
from grlm_hf.files import read_json
from grlm_hf.hub import explained
from grlm_hf.layout import DATASET_SCHEMA


def load_table(path_or_repo: str | Path, config: str, split: str) -> Dataset:
    """One split of a table of a dataset folder or repository. Raises ``ValueError`` if there is no such table."""
    from datasets import load_dataset

    try:
        return load_dataset(str(path_or_repo), config, split=split)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path_or_repo} holds no table {config!r} with a split {split!r}: {error}") from error


def dataset_facts(path_or_repo: str | Path) -> dict[str, Any]:
    """``grlm_dataset.json`` of a dataset folder or repository. Raises ``ValueError`` if there is none, or of a newer schema."""
    path = Path(path_or_repo) / DATASET_FACTS
    if not path.is_file():
        if Path(path_or_repo).exists():
            raise ValueError(f"{path_or_repo} holds no {DATASET_FACTS}: it is no dataset folder of `grlm dataset`.")
        from huggingface_hub import hf_hub_download

        with explained(str(path_or_repo), DATASET_FACTS):
            path = Path(hf_hub_download(str(path_or_repo), DATASET_FACTS, repo_type="dataset"))
    return read_facts(path)


def read_facts(path: str | Path) -> dict[str, Any]:
    """``grlm_dataset.json``. Raises ``ValueError`` where it is broken, or a newer grlm-hf wrote it."""
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("schema") != DATASET_SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else None
        raise ValueError(f"{path} has schema {found}; this grlm-hf reads {DATASET_SCHEMA}. pip install -U grlm-hf")
    return facts
