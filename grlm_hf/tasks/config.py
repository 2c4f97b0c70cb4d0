"""Settings of the training mixture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from grlm_hf.layout import HistoryForm
from grlm_hf.settings import Count, Limit, Range, check_settings

TASKS = (
    "sequence", "internalise", "sliding", "title_to_term_id", "description_to_term_id", "term_id_to_title", "collaborative", "query",
    "steered", "chat",
)  # fmt: skip

Weight = Annotated[float, Range(0, 100, text="a weight: 0 for none, 0.5 for half, 1 for each, 2 for each twice (at most 100)")]


@dataclass(frozen=True)
class Caps:
    """Largest number of examples per task, chosen at random; 0: all."""

    sequence: Limit = 0
    """Largest number of examples of `sequence`; 0: all."""
    sliding: Limit = 0
    """Largest number of examples of `sliding`; 0: all."""
    internalise: Limit = 0
    """Largest number of examples of `internalise`; 0: all."""
    title_to_term_id: Limit = 0
    """Largest number of examples of `title_to_term_id`; 0: all."""
    description_to_term_id: Limit = 0
    """Largest number of examples of `description_to_term_id`; 0: all."""
    term_id_to_title: Limit = 0
    """Largest number of examples of `term_id_to_title`; 0: all."""
    collaborative: Limit = 0
    """Largest number of examples of `collaborative`; 0: all."""
    query: Limit = 0
    """Largest number of examples of `query`; 0: all."""
    steered: Limit = 0
    """Largest number of examples of `steered`; 0: all."""
    chat: Limit = 0
    """Largest number of examples of `chat`; 0: all."""

    def __post_init__(self) -> None:
        check_settings(self, "mixture.caps.")


@dataclass(frozen=True)
class MixtureConfig:
    """The training mixture.

    A task's weight is the number of examples per source (user, item, window, conversation): 0 none, .5 one for a random half of the
    sources, 1 one each, 2 two each. The second example is another variant in the tasks query (another phrase), steered (another wish) and
    collaborative (the next neighbours), and the same example in the others.
    """

    max_history: Count = 20
    """Largest number of items of a history in a prompt; older ones are dropped."""
    history: HistoryForm = "term_ids"
    """How a history shows an item: "term_ids", "both" (Term ID and title) or "titles"."""
    max_tokens: Limit = 0
    """Largest number of tokens of an example under `tokenizer`; the oldest items are dropped until it fits. 0: no limit."""
    tokenizer: str = ""
    """Name or folder of the tokenizer that counts tokens. A tokenizer from scratch cannot, since it is trained later."""
    sequence: Weight = 1.0
    """Weight of: a user's history → every next item, in one example. With history "titles", the last item only."""
    internalise: Weight = 1.0
    """Weight of: an item's title, brand, category and description → its Term ID."""
    sliding: Weight = 0.0
    """Weight of: the last items up to some point of a history → the next one; see `window`, `stride`, `windows_per_user`."""
    title_to_term_id: Weight = 0.0
    """Weight of: an item's title → its Term ID."""
    description_to_term_id: Weight = 0.0
    """Weight of: an item's description → its Term ID."""
    term_id_to_title: Weight = 0.0
    """Weight of: an item's Term ID → its title. Free text."""
    collaborative: Weight = 0.0
    """Weight of: an item → the Term IDs of its neighbours in the file `neighbors`, or found by `neighbors_from`."""
    query: Weight = 0.0
    """Weight of: a search phrase from an item's category, brand and title → its Term ID."""
    steered: Weight = 0.0
    """Weight of: a history and a wish ("more rose, no citrus") → the user's last item."""
    chat: Weight = 0.0
    """Weight of: the answers in `chat_file`. Free text."""
    window: Count = 10
    """Number of items of history in a sliding window, at most `max_history`."""
    stride: Count = 1
    """Number of items between two sliding windows."""
    windows_per_user: Count = 20
    """Largest number of sliding windows per user; the newest are kept."""
    neighbors: str = ""
    """File of collaborative neighbours: a table of item_id and neighbors, or lines of ids (.txt, .txt.gz)."""
    neighbors_from: Literal["sequence", "knn", "both"] = "sequence"
    """Without a file, what finds neighbours in the training histories: "sequence" (a sequence decoder), "knn" (item-kNN; seconds) or
    "both"."""
    neighbors_per_item: Count = 5
    """Number of neighbours in a collaborative example."""
    chat_file: str = ""
    """File of general chat (jsonl or parquet) with `messages`, or `prompt` and `completion`."""
    caps: Caps = field(default_factory=Caps)
    """Largest number of examples of each task."""

    def __post_init__(self) -> None:
        check_settings(self, "mixture.")
