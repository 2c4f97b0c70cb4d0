"""Reads dataset repositories: facts and tables, and the histories and cases in them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.interactions import Case, History
from grlm_hf.files import inside, read_json
from grlm_hf.hub import check_card_files, check_inside, explained
from grlm_hf.layout import DATASET_FACTS, DATASET_SCHEMA

if TYPE_CHECKING:
    from datasets import Dataset


def load_table(path_or_repo: str | Path, config: str, split: str, *, revision: str | None = None, token: str | None = None) -> Dataset:
    """One split of a table of a dataset folder or repository. Raises ``ValueError`` if there is no such table. The files of a folder are
    read by their paths: ``load_dataset(folder)`` caches tables by the folder's name and card, and returns old rows where a file was
    rewritten."""
    from datasets import load_dataset, load_dataset_builder

    place = str(path_or_repo)
    try:
        if not Path(place).is_dir():
            return load_dataset(place, config, split=split, revision=revision, token=token)
        check_card_files(place)
        builder = load_dataset_builder(place, config)
        files = builder.config.data_files
        if split not in files:
            raise ValueError(f"its splits are {', '.join(map(str, files))}")
        for name in files[split]:
            check_inside(name, place)
        return load_dataset(builder.name, data_files={split: list(files[split])}, split=split)
    except (ImportError, MemoryError, ConnectionError):
        raise
    except Exception as error:  # of a library, about a broken file
        told = " ".join(str(error).split())[:400]
        raise ValueError(f"{path_or_repo} holds no table {config!r} with a split {split!r}: {told}") from error


def dataset_facts(path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> dict[str, Any]:
    """``grlm_dataset.json`` of a dataset folder or repository. Raises ``ValueError`` if there is none, or of a newer schema."""
    path = Path(path_or_repo) / DATASET_FACTS
    if not path.is_file():
        if Path(path_or_repo).exists():
            other = inside(path_or_repo, DATASET_FACTS, "datasets")
            raise ValueError(f"{path_or_repo} holds no {DATASET_FACTS}: it is no dataset folder of `grlm dataset`.{other}")
        from huggingface_hub import hf_hub_download

        with explained(str(path_or_repo), DATASET_FACTS):
            path = Path(hf_hub_download(str(path_or_repo), DATASET_FACTS, repo_type="dataset", revision=revision, token=token))
    return read_facts(path)


def read_facts(path: str | Path) -> dict[str, Any]:
    """``grlm_dataset.json``. Raises ``ValueError`` where it is broken, or a newer grlm-hf wrote it."""
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("schema") != DATASET_SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else None
        raise ValueError(f"{path} has schema {found}; this grlm-hf reads {DATASET_SCHEMA}. pip install -U grlm-hf")
    return facts


def cases_of(rows: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Rows of a table ``cases`` as values."""
    return [Case(row["user_id"], tuple(row["history"] or ()), row["target"]) for row in rows]


def load_cases(datasets: str | Path, split: str) -> list[Case]:
    """The cases of a dataset repository, "validation" or "test". Raises as `load_table`."""
    return cases_of(load_table(datasets, "cases", split))


def sample_cases(cases: Iterable[Case], number: int, seed: int) -> list[Case]:
    """At most `number` of the cases, drawn by the seed; their order does not matter."""
    ordered = sorted(cases, key=lambda c: (c.user_id, c.history))
    return random.Random(seed).sample(ordered, min(number, len(ordered)))


def train_histories(datasets: str | Path) -> list[History]:
    """The training events of a dataset repository, a history a user. Raises as `load_table`."""
    train: dict[str, list[str]] = {}
    for row in load_table(datasets, "interactions", "train"):
        train.setdefault(row["user_id"], []).append(row["item_id"])
    return [History(user, tuple(items)) for user, items in train.items()]
