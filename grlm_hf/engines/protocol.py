"""What a search asks of a language model: log-probabilities of the legal next tokens behind prefixes of the trie. Two engines implement it:
`grlm_hf.engines.causal.CausalEngine` (a causal LM of transformers) and `grlm_hf.vllm.engine.VLLMEngine`.
``tests/engines/test_conformance.py`` holds what every engine must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from grlm_hf.trie.walker import TrieWalker

MAX_LOGITS = 2**28
"""Logits that one forward may make, roughly: one gigabyte in float32."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that are searched together.

    Attributes:
        walker: the trie, as NumPy arrays.
        prompts: int64 token ids of each user's prompt; lengths may differ.
        objective: what probabilities are normalised over (`grlm_hf.layout.OBJECTIVES`).
        pad_token_id: any token; it is masked.
        lookahead: tokens of a forced run that one forward computes at most; ``None``: all of them.
    """

    walker: TrieWalker
    prompts: Sequence[np.ndarray]
    objective: str = "vocabulary"
    pad_token_id: int = 0
    lookahead: int | None = None

    def run_end(self, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Int64 [n]: the depth up to which a forward computes nodes from token `have` on: their next choice, or `lookahead` tokens."""
        choice = self.walker.choice_depth(lo, hi)
        end = np.where(hi - lo == 1, choice - 1, choice)  # nothing follows the last token of an identifier
        # Forced tokens have probability 1 under the trie objective, so only what they lead to matters.
        return end if self.lookahead is None or self.objective == "trie" else np.minimum(end, have + self.lookahead)


@dataclass(frozen=True, eq=False)
class Expansion:
    """What one forward says about `n` trie nodes.

    Attributes:
        slot: int64 [n]; names the last computed token of each node, for the `expand` call that continues it.
        end: int64 [n]; number of computed tokens: the depth of the node's next choice, or where the run was cut.
        chain: float64 [n, longest]; natural-log probabilities of the forced tokens before `end`, from the second token of the run on;
            0 behind the last one.
        row, lo, hi: int64 [children]; the children at `end`: the row of their node, ascending, and their intervals.
        logp: float64 [children]; natural-log probability of each child's token.
    """

    slot: np.ndarray
    end: np.ndarray
    chain: np.ndarray
    row: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    logp: np.ndarray


class Prefixes(Protocol):
    """The prefixes of one batch of users. Each prompt, and each prefix, is computed once. Used under ``torch.inference_mode()``.
    `forwards` counts the forward passes so far."""

    forwards: int

    def root(self) -> Expansion:
        """The empty prefix of every user; one row a user."""
        ...

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        """One forward over the nodes ``(lo, hi)``, from token `have` of their paths on to their next choice. All int64 [n].

        Args:
            user: the row of each node's prompt.
            parent: the slot that each node continues, -1 for the prompt.
            have: number of tokens computed up to that slot.
        """
        ...


class Engine(ABC):
    """A loaded language model that the searches run on. Error messages call it `name`."""

    name: str

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of rows of the model's embeddings."""

    @property
    @abstractmethod
    def max_length(self) -> int | None:
        """Tokens of a prompt and its answer together; ``None``: no limit is known."""

    @property
    def device(self) -> torch.device:
        """Where tensors for the model must be."""
        return torch.device("cpu")

    @abstractmethod
    def prefixes(self, batch: Batch) -> Prefixes:
        """Computes the prompts. Raises ``ValueError`` where the model lacks an ability that the searches need."""

    def language_model(self, purpose: str) -> Any:
        """The model, a ``torch.nn.Module``. Raises `ValueError`, with the `purpose`, if the engine gives no access to it."""
        raise ValueError(f"{purpose} needs the model itself, which {self.name} keeps; load the checkpoint with backend='transformers'.")


def among_children(logp: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [children], normalised anew over the children of each node; `row` int64 [children], ascending."""
    if not len(row):
        return logp
    opens = np.diff(row, prepend=-1) > 0
    first, which = np.flatnonzero(opens), np.cumsum(opens) - 1
    logp = logp - np.maximum.reduceat(logp, first)[which]
    return logp - np.log(np.add.reduceat(np.exp(logp), first))[which]
