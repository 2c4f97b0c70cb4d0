"""Tables of a toy dataset repository, each as `datasets` rows, and its facts."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, List, Value
from toys import toy_catalog, toy_histories

from grlm_hf import Catalog
from grlm_hf.data.interactions import History, cases_to_dataset, interactions_to_datasets, leave_one_out
from grlm_hf.data.items import items_to_dataset

START = 1_577_836_800  # 2020-01-01

Tables = dict[str, dict[str, Dataset]]


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def toy_tables(catalog: Catalog | None = None, users: int = 40, target: str = "") -> Tables:
    """All tables of a dataset; `target` in the place of every user's last item."""
    catalog = catalog or toy_catalog()
    known = [i.item_id for i in catalog]
    histories = []
    for n, h in enumerate(toy_histories(users)):
        items = [item if item in catalog else known[0] for item in h.items]
        times = tuple(START + 86_400 * (n + 7 * place) for place in range(len(items)))
        histories.append(History(h.user_id, (*items[:-1], target or items[-1]), times))
    split = leave_one_out(histories)
    sft = [
        {
            "task": "sequence" if n % 3 else "internalise",
            "key": h.user_id,
            "prompt": messages("user", f"Next items after: {h.items[0]} " * (1 + n % 4)),
            "completion": messages("assistant", f"[{', '.join(catalog.term_id(h.items[1]))}] 水"),
        }
        for n, h in enumerate(histories)
    ]
    turns = List({"role": Value("string"), "content": Value("string")})
    sft_features = Features({"task": Value("string"), "key": Value("string"), "prompt": turns, "completion": turns})
    near = {
        "item_id": known,
        "neighbors": [[known[n - 1], known[n - 2]][: n % 3] for n in range(len(known))],
        "scores": [[0.1, 1 / 3][: n % 3] for n in range(len(known))],
    }
    near_features = Features({"item_id": Value("string"), "neighbors": List(Value("string")), "scores": List(Value("float32"))})
    return {
        "items": {"train": items_to_dataset(catalog.items)},
        "interactions": interactions_to_datasets(split),
        "neighbors": {"train": Dataset.from_dict(near, features=near_features)},
        "term_ids": {"train": catalog.to_dataset().select_columns(["item_id", "terms"])},
        "cases": {"validation": cases_to_dataset(split.validation), "test": cases_to_dataset(split.test)},
        "sft": {
            "train": Dataset.from_list(sft[: users - 5], features=sft_features),
            "validation": Dataset.from_list(sft[users - 5 :], features=sft_features),
        },
    }


def toy_facts(**more: Any) -> dict[str, Any]:
    return {"title": "Toy", "notice": "Toys only.", "split": "leave-one-out", "max_history": 20, "prompt_hash": "abc", **more}
