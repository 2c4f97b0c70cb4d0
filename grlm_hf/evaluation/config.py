"""Settings of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.layout import Candidates
from grlm_hf.plugins import check_plugin
from grlm_hf.settings import Count, Limit, Range, Size, check_settings


@dataclass(frozen=True)
class ZeroShotConfig:
    """A chat model that was never trained on the catalog (`grlm_hf.evaluation.zero_shot`)."""

    model: str = ""
    """A causal LM with a chat template, on the Hub or in a folder; empty: none. It reads titles and writes a title of the catalog."""
    shots: Annotated[int, Range(0, 20)] = 3
    """Number of worked examples of other users in the prompt."""
    users: Limit = 0
    """Number of users that it is measured on, the first ones; 0: all."""

    def __post_init__(self) -> None:
        check_settings(self, "evaluate.zero_shot.")


@dataclass(frozen=True)
class RerankConfig:
    """The checkpoint's language model reorders what another method found (LlamaRec, Yue et al., 2023)."""

    retriever: str = ""
    """A method of the report without the language model, such as item_knn; empty: none."""
    candidates: Annotated[int, Range(2, 1000)] = 20
    """Number of the retriever's first items that are reordered; a target that is not among them stays where the retriever has it."""

    def __post_init__(self) -> None:
        check_settings(self, "evaluate.rerank.")


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of the evaluation."""

    num_beams: Limit = 0
    """Beam width; 0: the default of `recommend`."""
    batch_size: Size = 64
    exclude_seen: bool = True
    """Leave out items of the user's own history, in every method."""
    candidates: Candidates = "all"
    """Ranked items: "all", or only those of the target's "domain", with a trie of that domain."""
    resamples: Count = 1000
    """Number of bootstrap resamples."""
    unmasked: bool = False
    """Also measure every method with seen items kept."""
    pairs: list[str] = field(default_factory=list)
    """Further comparisons, such as "grlm+sasrec+item_knn > sasrec+item_knn"; the best method is always compared with all others."""
    free_users: Limit = 0
    """Number of users for whom the model also writes without the trie, with grounding afterwards; needs objective "vocabulary"."""
    recall_at: list[Size] = field(default_factory=lambda: [1, 5, 10, 20])
    """Cut-offs of recall; 10, which the comparisons and the verdict are of, is always one of them."""
    ndcg_at: list[Size] = field(default_factory=lambda: [5, 10, 20])
    """Cut-offs of NDCG; 10 is always one of them."""
    depth: Size = 20
    """Length of the rankings, which MRR and saved rankings are of; at least the largest cut-off."""
    metrics: list[str] = field(default_factory=list)
    """Metrics of your own, as FILE.py:FUNCTION or module:FUNCTION: the ranks of the targets (from 1; 0: not found) → a number each."""
    methods: list[str] = field(default_factory=list)
    """Methods of your own, as FILE.py:FUNCTION or module:FUNCTION: training histories and the catalog → a function that ranks."""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """A chat model without training, as the method zero-shot."""
    rerank: RerankConfig = field(default_factory=RerankConfig)
    """The checkpoint as a second stage, as the method rerank(RETRIEVER)."""
    timed_users: Limit = 32
    """Number of users that each method is timed with, one at a time, for the report's costs; 0: no costs."""
    save_rankings: bool = False
    """Also write what each method recommended to each user, and the rank of the target, as a parquet file beside the report."""

    def __post_init__(self) -> None:
        check_settings(self, "evaluate.")
        for section in ("metrics", "methods"):
            for name in getattr(self, section):
                check_plugin(f"evaluate.{section}", name)
        if self.whole_depth > DEPTH and 0 < self.num_beams < self.whole_depth:
            raise ValueError(
                f"evaluate.num_beams is {self.num_beams}; expected at least {self.whole_depth}, the length of the rankings "
                "(evaluate.depth and the cut-offs), or 0."
            )
        for pair in self.pairs:
            if len([name for name in pair.split(">") if name.strip()]) != 2:
                raise ValueError(f"evaluate.pairs has {pair!r}; expected two methods, such as 'grlm > item_knn'.")

    def stated_pairs(self) -> list[tuple[str, str]]:
        """The comparisons of `pairs`, as (a, b)."""
        return [(a.strip(), b.strip()) for a, _, b in (pair.partition(">") for pair in self.pairs)]

    @property
    def whole_depth(self) -> int:
        """The length of the rankings: `depth`, or the largest cut-off."""
        return max([self.depth, *self.recall_at, *self.ndcg_at])
