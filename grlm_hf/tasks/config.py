"""What a training mixture is made of, as data."""

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
    """Examples of a task at most, a seeded choice; 0: all."""

    sequence: Limit = 0
    """Examples of `sequence` at most; 0: all."""
    sliding: Limit = 0
    """Examples of `sliding` at most; 0: all."""
    internalise: Limit = 0
    """Examples of `internalise` at most; 0: all."""
    title_to_term_id: Limit = 0
    """Examples of `title_to_term_id` at most; 0: all."""
    description_to_term_id: Limit = 0
    """Examples of `description_to_term_id` at most; 0: all."""
    term_id_to_title: Limit = 0
    """Examples of `term_id_to_title` at most; 0: all."""
    collaborative: Limit = 0
    """Examples of `collaborative` at most; 0: all."""
    query: Limit = 0
    """Examples of `query` at most; 0: all."""
    steered: Limit = 0
    """Examples of `steered` at most; 0: all."""
    chat: Limit = 0
    """Examples of `chat` at most; 0: all."""

    def __post_init__(self) -> None:
        check_settings(self, "mixture.caps.")


@dataclass(frozen=True)
class MixtureConfig:
    """What the model is trained on.

    A task's weight says how often each of its sources (users, items, windows, conversations) gives an example: 0 never, .5 a seeded half
    of them, 1 each, 2 each twice. The second time is another variant in the tasks query (another phrase), steered (a wish drawn anew) and
    collaborative (the neighbours after the first ones), and the same example in the others.
    """

    max_history: Count = 20
    """Items of a history that a prompt shows; older ones are dropped whole."""
    history: HistoryForm = "term_ids"
    """What histories show of an item: "term_ids", "both" (Term ID and title) or "titles"."""
    max_tokens: Limit = 0
    """Tokens of an example, under `tokenizer`; the oldest items are dropped, whole, to keep to it. 0: no such limit."""
    tokenizer: str = ""
    """The tokenizer that tokens are counted in: a model's name or folder. One made from scratch comes later, and cannot count here."""
    sequence: Weight = 1.0
    """Weight of: a user's history, all items after the first asked for in one example. With history "titles", the last item alone."""
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
    """Weight of: an item → the Term IDs of its neighbours in the file `neighbors`, or as `neighbors_from` finds them."""
    query: Weight = 0.0
    """Weight of: a search phrase made of an item's category, brand and title → its Term ID."""
    steered: Weight = 0.0
    """Weight of: a history and a wish ("more rose, no citrus") → the user's last item."""
    chat: Weight = 0.0
    """Weight of: the answers in `chat_file`. Free text."""
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
    """Neighbours that a collaborative example asks for."""
    chat_file: str = ""
    """File of general chat (jsonl or parquet) with `messages`, or `prompt` and `completion`."""
    caps: Caps = field(default_factory=Caps)
    """Examples of each task at most."""

    def __post_init__(self) -> None:
        check_settings(self, "mixture.")
