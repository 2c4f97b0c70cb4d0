"""What a recommender answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grlm_hf.identifiers.scheme import Identifier

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    `score` is what items are ranked by: the natural-log probability of the Term ID after the history, normalised over the full vocabulary
    or over the trie's legal children, as the checkpoint was trained (`GRLMConfig.objective`), and changed by what the call asked for
    (prior, share, length penalty). `log_prob` is that probability alone. Items that share a Term ID and a score stand in ascending order
    of item_id.
    """

    item_id: str
    score: float
    term_id: Identifier
    title: str
    log_prob: float


class Recommendations(list[Recommendation]):
    """Recommended items, best first, and what is known of the list.

    Attributes:
        certified: no other item ranks above any of them (``exact=True``, when it had time enough).
        gap: no item left out scores higher than the last one by more than this; 0 if certified, ``inf`` if fewer than asked for were
            found in time, ``nan`` without ``exact=True``.
        forwards: calls of the model, shared by the histories of a batch.
        version: of the catalog that was searched (`GRLMForRecommendation.version`).
    """

    def __init__(self, items: Iterable[Recommendation] = (), certified: bool = False, gap: float = float("nan"), forwards: int = 0,
                 version: int = 0):  # fmt: skip
        super().__init__(items)
        self.certified, self.gap, self.forwards, self.version = certified, gap, forwards, version


def as_histories(history: Any) -> tuple[list[list[str]], bool]:
    """What was given as a list of histories, and whether it was one."""
    if isinstance(history, str):
        raise ValueError(f"history is the string {history!r}; expected a list of item ids, such as [{history!r}].")
    history = list(history)
    single = not history or isinstance(history[0], str)
    if not single and any(isinstance(h, str) or not isinstance(h, Sequence) for h in history):
        raise ValueError(f"history is {history[:3]!r}; expected item ids, which are strings, or lists of them.")
    return ([history] if single else [list(h) for h in history]), single
