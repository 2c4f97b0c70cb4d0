"""Rankings that an evaluation keeps beside its report, for figures of the user's own and for tests between runs.

A parquet file, a row for each method and case:

    case       int32, the case's place among the cases in ascending order of user, history and target: equal in all runs of these cases
    user_id, method, target, split     texts
    items      list of item ids, best first; null for an output that names no item
    rank       int32, the rank of the target in `items` from 1; 0: it is not among them
    metric:NAME  float64, the value of a metric of the user

The metadata state the schema number, the hash of the cases, and the length of the rankings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.metrics import Measures, ranks
from grlm_hf.evaluation.rankings import Rankings
from grlm_hf.evaluation.schema import Report
from grlm_hf.files import write_parquet
from grlm_hf.layout import RANKINGS_KEY, RANKINGS_SCHEMA, RANKINGS_SUFFIX
from grlm_hf.tables.parquet import parquet_schema, read_parquet

_OWN = "metric:"
_COLUMNS = ("case", "user_id", "method", "target", "rank")


def rankings_path(report: str | Path) -> Path:
    """The file of rankings that belongs to a report's."""
    return Path(report).with_suffix(RANKINGS_SUFFIX)


def cases_hash(cases: Sequence[Case]) -> str:
    """A hash of users, histories and targets, whatever the order of the cases."""
    return hashlib.sha256(json.dumps(sorted((c.user_id, c.history, c.target) for c in cases)).encode()).hexdigest()[:16]


def save_rankings(path: str | Path, found: Mapping[str, Rankings], cases: Sequence[Case], split: str, measures: Measures) -> None:
    """Writes the rankings of all methods.

    Args:
        found: method → its rankings of the cases.
        split: how the cases were held out, and their part.
    """
    from datasets import Dataset, Features, Value
    from datasets import Sequence as List

    order = sorted(range(len(cases)), key=lambda i: (cases[i].user_id, cases[i].history, cases[i].target))
    targets = [cases[i].target for i in order]
    columns: dict[str, list[Any]] = {name: [] for name in ("case", "user_id", "method", "items", "target", "rank", "split")}
    columns |= {f"{_OWN}{name}": [] for name in measures.own}
    for method, rankings in found.items():
        items = [list(rankings.items[i][: measures.length]) for i in order]
        rank = ranks(items, targets, measures.length)
        values = measures.per_case(rank) if measures.own else {}
        row = {
            "case": range(len(order)), "user_id": [cases[i].user_id for i in order], "method": [method] * len(order), "items": items,
            "target": targets, "rank": rank.tolist(), "split": [split] * len(order),
        }  # fmt: skip
        for name, column in (row | {f"{_OWN}{name}": values[name].tolist() for name in measures.own}).items():
            columns[name] += column
    text, number = Value("string"), Value("int32")
    features = Features(
        {"case": number, "user_id": text, "method": text, "items": List(text), "target": text, "rank": number, "split": text}
        | {f"{_OWN}{name}": Value("float64") for name in measures.own}
    )
    facts = {"schema": RANKINGS_SCHEMA, "cases_hash": cases_hash(cases), "depth": measures.length}
    write_parquet(Dataset.from_dict(columns, features=features), path, {RANKINGS_KEY: json.dumps(facts).encode()})


@dataclass(frozen=True)
class Saved:
    """What a file of rankings says of each case, without the items."""

    cases_hash: str
    depth: int
    users: tuple[str, ...]  # of each case
    targets: tuple[str, ...]
    ranks: Mapping[str, np.ndarray]  # method → int64 [cases]
    own: Mapping[str, Mapping[str, np.ndarray]]  # method → metric of the user → float64 [cases]

    def values(self, measures: Measures | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Method → metric → value for each case, float64 [cases]; the user's own metrics as they were saved."""
        measures = measures or Measures()
        return {method: measures.per_case(rank, own=False) | dict(self.own[method]) for method, rank in self.ranks.items()}


def load_rankings(path: str | Path) -> Saved:
    """Reads what `save_rankings` wrote, its cases in their stated order. Raises ``ValueError`` for a file that is none, or is broken."""
    schema = parquet_schema(path)
    stated = (schema.metadata or {}).get(RANKINGS_KEY)
    try:
        facts = json.loads(stated) if stated else {}
        found = facts.get("schema")
    except (ValueError, AttributeError, RecursionError):
        facts, found = {}, None
    if found != RANKINGS_SCHEMA:
        raise ValueError(
            f"{path} has rankings of schema {found}; this grlm-hf reads {RANKINGS_SCHEMA}. Make it with evaluate.save_rankings."
        )
    own = [name for name in schema.names if name.startswith(_OWN)]
    methods: dict[str, list[dict[str, Any]]] = {}
    try:
        for row in read_parquet(path, (*_COLUMNS, *own)):
            methods.setdefault(row["method"], []).append(row)
        by_method = {name: sorted(rows, key=lambda row: row["case"]) for name, rows in methods.items()}
        users, targets = (tuple(row[key] for row in next(iter(by_method.values()))) for key in ("user_id", "target"))
        for name, rows in by_method.items():
            if [row["case"] for row in rows] != list(range(len(users))) or [row["target"] for row in rows] != list(targets):
                raise ValueError(f"{path}: the cases of {name!r} are not those of the other methods")
        return Saved(
            str(facts["cases_hash"]),
            int(facts["depth"]),
            users,
            targets,
            {name: np.array([row["rank"] for row in rows], np.int64) for name, rows in by_method.items()},
            {name: {m.removeprefix(_OWN): np.array([row[m] for row in rows], float) for m in own} for name, rows in by_method.items()},
        )
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{path} is not a whole file of rankings ({error!r}). Make it again with evaluate.save_rankings.") from error


def rankings_of(path: str | Path, report: Report) -> Saved | None:
    """The rankings beside a report; ``None`` where there are none. Raises ``ValueError`` where they are of another report."""
    beside = rankings_path(path)
    if not beside.is_file():
        return None
    saved, p = load_rankings(beside), report.protocol
    again = f"{beside} is not of the report {path}: {{}}. Remove it, or make both again with evaluate.save_rankings."
    if p.cases_hash is not None and saved.cases_hash != p.cases_hash:
        raise ValueError(again.format("it has other users, histories or targets"))
    for method, values in saved.values().items():
        stated = report.methods.get(method, {}).get("recall@10")
        if stated is None or abs(values["recall@10"].mean() - stated.value) > 1e-9:
            said = "none" if stated is None else f"{stated.value:.4f}"
            raise ValueError(again.format(f"recall@10 of {method} is {values['recall@10'].mean():.4f} there, and the report states {said}"))
    return saved
