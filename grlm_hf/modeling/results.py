"""The answers of a recommender."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grlm_hf.identifiers.scheme import Identifier


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes:
        score: what items are ranked by: `log_prob` with the score adjustments of the request (prior, share, length penalty).
        identifier: its identifier. Items that share an identifier and a score are in ascending order of item_id.
        log_prob: natural-log probability of the identifier after the history, normalised over the full vocabulary or over the trie's
            legal children (`GRLMConfig.objective`).
    """

    item_id: str
    score: float
    identifier: Identifier
    title: str
    log_prob: float

    @property
    def term_id(self) -> Identifier:
        """`identifier`, under the name that catalogs of Term IDs use."""
        return self.identifier

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, in the order and under the names of the command line, the pipeline and HTTP."""
        return {
            "item_id": self.item_id,
            "score": self.score,
            "term_id": list(self.identifier),
            "title": self.title,
            "log_prob": self.log_prob,
        }


class Recommendations(list[Recommendation]):
    """Recommended items, best first, and facts about the list.

    Attributes:
        certified: no other item ranks above any of them (only with ``exact=True``, and time enough).
        gap: upper bound on (score of the best missing item − score of the last returned item). 0 when certified, ``inf`` when the search
            stopped with fewer than `k` items, ``nan`` without ``exact=True``.
        forwards: forward passes of the model, shared by the histories of a batch.
        version: of the catalog that was searched (`GRLMForRecommendation.version`).
        answered_by: "model"; "popularity" for a history without a known item, where `score` and `log_prob` are the natural log of the
            item's share of the training events; "dense" without decoding, where `log_prob` is that of the item, not of its
            identifier; "counting" by a recommender without a language model; or "catalog" where such a
            recommender knows nothing of the history and has counted no events: these are the first items of the catalog, all alike.
        skipped: unknown ids of the request that were left out (``unknown_items="skip"``).
    """

    def __init__(
        self,
        items: Iterable[Recommendation] = (),
        certified: bool = False,
        gap: float = float("nan"),
        forwards: int = 0,
        version: int = 0,
        answered_by: str = "model",
        skipped: Sequence[str] = (),
    ):
        super().__init__(items)
        self.certified, self.gap, self.forwards, self.version = certified, gap, forwards, version
        self.answered_by, self.skipped = answered_by, tuple(skipped)


def as_histories(history: Any) -> tuple[list[list[str]], bool]:
    """The histories, and whether a single one was given. Raises ``ValueError`` for anything but item ids or lists of item ids."""
    if isinstance(history, str):
        raise ValueError(f"history is the string {history!r}; expected a list of item ids, such as [{history!r}].")
    history = list(history)
    single = not history or isinstance(history[0], str)
    if not single and any(isinstance(h, str) or not isinstance(h, Sequence) for h in history):
        raise ValueError(f"history is {history[:3]!r}; expected item ids, which are strings, or lists of them.")
    return ([history] if single else [list(h) for h in history]), single
