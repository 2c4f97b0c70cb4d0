"""The training mixture: examples of all tasks, seeded, as prompt/completion rows that any TRL script can train on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grlm_hf.catalog import Catalog
from grlm_hf.files import rows_to_dataset
from grlm_hf.interactions import Case, History
from grlm_hf.tasks.prompts import internalise_request, item_line, next_item_request

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True)
class MixtureConfig:
    """What the model is trained on."""

    max_history: int = 20
    """Items of a history that a prompt shows; older ones are dropped whole."""
    internalise: float = 1.0
    """Share of the catalog's items that get a term-internalisation example (title and text → Term ID)."""

    def __post_init__(self) -> None:
        if self.max_history < 1:
            raise ValueError(f"max_history={self.max_history}; expected at least 1.")
        if not 0 <= self.internalise <= 1:
            raise ValueError(f"internalise={self.internalise}; expected a share between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: a user turn, and the assistant turn that answers it. `key` is the user or item it was made from."""

    task: str
    key: str
    prompt: str
    completion: str


def internalisation(catalog: Catalog, share: float, seed: int) -> Iterator[Example]:
    """Term internalisation (GRLM's GTI): item text → Term ID, for a seeded sample of the items."""
    picked = sorted(random.Random(seed).sample(range(len(catalog)), round(share * len(catalog))))
    for p in picked:
        item = catalog.items[p]
        yield Example("internalise", item.item_id, internalise_request(item), item_line(catalog.term_ids[p]))


def sequences(catalog: Catalog, histories: Iterable[History], max_history: int) -> Iterator[Example]:
    """Behaviour sequence prediction (GRLM's BSP): one example a user, every item after the first supervised.

    The last ``max_history + 1`` items are used: as many as a prompt shows, and the answer. Users with one item give no example.
    """
    for history in histories:
        items = history.items[-(max_history + 1) :]
        if len(items) > 1:
            first, *rest = (catalog.term_id(item) for item in items)
            yield Example("sequence", history.user_id, next_item_request([first]), "".join(map(item_line, rest)))


def validation_sequences(catalog: Catalog, cases: Iterable[Case], max_history: int) -> Iterator[Example]:
    """The validation cases as examples of the same form, so that a validation loss can be watched."""
    return sequences(catalog, (History(c.user_id, (*c.history, c.target)) for c in cases), max_history)


def build_mixture(catalog: Catalog, histories: Iterable[History], config: MixtureConfig | None = None, seed: int = 0) -> Dataset:
    """All examples of all tasks in one seeded order, as a dataset with `mixture_features`."""
    config = config or MixtureConfig()
    examples = [*sequences(catalog, histories, config.max_history), *internalisation(catalog, config.internalise, seed)]
    if not examples:
        raise ValueError("No training example: no history has two items, and internalise is 0.")
    random.Random(seed).shuffle(examples)
    return examples_to_dataset(examples)


def examples_to_dataset(examples: Iterable[Example]) -> Dataset:
    """The ``sft`` table: `prompt` and `completion` as chat messages, `task` and `key` beside them."""
    return rows_to_dataset([_row(e) for e in examples], mixture_features())


def mixture_features() -> Features:
    """The columns of the ``sft`` table."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    return Features({"task": Value("string"), "key": Value("string"), "prompt": messages, "completion": messages})


def _row(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "key": example.key,
        "prompt": [{"role": "user", "content": example.prompt}],
        "completion": [{"role": "assistant", "content": example.completion}],
    }
