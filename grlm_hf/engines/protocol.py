"""What a search asks of a language model: log-probabilities of the legal next tokens behind prefixes of the trie. Two engines implement it:
`grlm_hf.engines.causal.CausalEngine` (a causal LM of transformers) and `grlm_hf.vllm.engine.VLLMEngine`.
``tests/engines/test_conformance.py`` holds what every engine must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import ContextVar
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

    @property
    def forwards(self) -> int: ...

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


class BrokenModel(ValueError):
    """The model's scores are no numbers."""


class Cancelled(Exception):
    """Nobody waits for this search any more."""


cancelled: ContextVar[Callable[[], bool] | None] = ContextVar("cancelled", default=None)
"""Asked before each forward of a search in this context; a search whose answer nobody wants ends in `Cancelled`."""


def open_prefixes(engine: Engine, batch: Batch) -> Prefixes:
    """The engine's prefixes, for a search.

    NaN scores raise `BrokenModel`: NaN compares false, so they would look like "nothing found". A search is stopped between two forwards
    once `cancelled` says so.
    """
    _stop_if_cancelled()
    return _Watched(engine.prefixes(batch), engine.name)


@dataclass(eq=False)
class _Watched:
    prefixes: Prefixes
    name: str

    @property
    def forwards(self) -> int:
        return self.prefixes.forwards

    def root(self) -> Expansion:
        return self._checked(self.prefixes.root())

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        _stop_if_cancelled()
        return self._checked(self.prefixes.expand(user, parent, have, lo, hi))

    def _checked(self, found: Expansion) -> Expansion:
        check_scores(found.logp, self.name)
        check_scores(found.chain, self.name)
        return found


def check_scores(log_prob: np.ndarray, name: str) -> None:
    """Raises `BrokenModel` for NaN in log-probabilities of the model that messages call `name`."""
    if np.isnan(log_prob).any():
        raise BrokenModel(
            f"{name} computes scores that are not numbers (NaN). Its weights are broken, or too large for their type: "
            "`grlm doctor` finds broken weights; load a float16 model with dtype='float32'."
        )


def _stop_if_cancelled() -> None:
    if (ask := cancelled.get()) is not None and ask():
        raise Cancelled


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
