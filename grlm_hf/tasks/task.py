"""What a training task is, and what it may be made of. `grlm_hf.tasks.config.TASKS` lists all tasks.

To add a task: one module beside `queries.py`, with a generator of `Source`s and a `Task` that states its name, weight and cap; and that
`Task` in `TASKS`. Its prompt text belongs to `prompts.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.layout import HistoryForm
from grlm_hf.settings import Count, Limit
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.examples import Source


@dataclass(frozen=True)
class PromptSettings:
    """What every example shows: the first settings of `mixture`."""

    max_history: Count = 20
    """Items of a history that a prompt shows; older ones are dropped whole."""
    history: HistoryForm = "term_ids"
    """What histories show of an item: "term_ids", "both" (Term ID and title) or "titles"."""
    max_tokens: Limit = 0
    """Tokens of an example, under `tokenizer`; the oldest items are dropped, whole, to keep to it. 0: no such limit."""
    tokenizer: str = ""
    """The tokenizer that tokens are counted in: a model's name or folder. One made from scratch comes later, and cannot count here."""
    evidence: Limit = 0
    """Lines above a history, at most: items that people with like histories chose, by item-kNN; in the tasks sequence and sliding, in the
    teacher's drawn answers, and in every recommendation. 0: none."""


@dataclass(frozen=True)
class TaskSettings:
    """Settings of single tasks beside their weights: the last ones of `mixture`."""

    window: Count = 10
    """Items of history that a sliding window shows, `max_history` at most."""
    stride: Count = 1
    """Items from one sliding window to the next."""
    windows_per_user: Count = 20
    """Sliding windows of a user at most; the newest are kept."""
    neighbors: str = ""
    """File of collaborative neighbours: a table of item_id and neighbors, or lines of ids (.txt, .txt.gz)."""
    neighbors_from: Literal["sequence", "knn", "both"] = "sequence"
    """Where no file is named, what finds them in the training histories: "sequence" (a sequence decoder), "knn" (item-kNN; seconds) or
    "both"."""
    neighbors_per_item: Count = 5
    """Neighbours in the answer of a collaborative example."""
    chat_file: str = ""
    """File of general chat (jsonl or parquet) with `messages`, or `prompt` and `completion`."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the sources of a task may be made of.

    Attributes:
        histories: of training.
        prompts, settings: of the mixture.
        neighbors: item_id → collaborative neighbours, nearest first; ``None``: the task reads the file of its setting.
        evidence: what prompts of histories show above the history.
        dropped: counts the rows of the task's own file that give no source, by reason.
    """

    catalog: Catalog
    histories: Sequence[History]
    prompts: PromptSettings
    settings: TaskSettings
    seed: int = 0
    neighbors: Mapping[str, Sequence[str]] | None = None
    evidence: Evidence | None = None
    dropped: Counter[str] = field(default_factory=Counter)


def _needs_nothing(_settings: TaskSettings) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Task:
    """A training task.

    Attributes:
        name: of its weight ``mixture.NAME``, its cap ``mixture.caps.NAME``, and its rows in the ``sft`` table.
        help: its question → its answer, for ``--help``.
        sources: makes its `Source`s, in any order.
        weight: by default; how often each source gives an example.
        cap: by default; examples at most, 0: all.
        continues: its prompt and completion together are one history, so that a teacher can answer it (`grlm_hf.training.distill`).
        check: raises ``ValueError`` if the settings name no file that the task needs. Called before any work.
    """

    name: str
    help: str
    sources: Callable[[Inputs], Iterator[Source]]
    weight: float = 0.0
    cap: int = 0
    continues: bool = False
    check: Callable[[TaskSettings], None] = _needs_nothing
