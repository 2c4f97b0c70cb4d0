"""Distillation: a teacher's probabilities of whole items as further targets, summed over the identifiers below each node of the trie.

A language model learns from one next item at a time, token by token. A teacher knows which other items were as likely, so its answers teach
more in an epoch (figures: docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grlm_hf.data.catalog import Catalog
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.examples import Example, next_item
from grlm_hf.training.label_store import LabelStore
from grlm_hf.trie.arrays import Trie

AUXILIARY = "auxiliary_readout"
"""Name of the submodule of a model in training that reads the teacher's labels (`add_readout`); a checkpoint has none."""


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Answers to the questions of a batch, as sums over intervals of ranks.

    Attributes:
        keys: int64 [questions · top], ascending: ``question · (n + 1) + rank``.
        below: float32 [questions, top + 1], the sum of a question's first probabilities.
        rest: float32 [questions], the probability of each other identifier.
        n: number of identifiers.
    """

    keys: torch.Tensor
    below: torch.Tensor
    rest: torch.Tensor
    n: int

    def __len__(self) -> int:
        return len(self.rest)

    def mass(self, question: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        """Probability of the identifiers of the ranks ``lo`` to ``hi`` - 1, above 0, not normalised; float32 of the arguments' common
        shape, all int64."""
        top = self.below.shape[1] - 1
        first = question * (self.n + 1)
        at = [torch.searchsorted(self.keys, first + border) - question * top for border in (lo, hi)]
        begin, end = (self.below[question.expand_as(a), a] for a in at)
        return end - begin + self.rest[question] * (hi - lo) + 1e-12


class Teacher:
    """Looks up the answers after every prefix of an example's items.

    Args:
        labels: made for the training's questions (`questions_of`).

    Raises:
        ValueError: labels without any item of the catalog.
    """

    def __init__(self, labels: LabelStore, catalog: Catalog, trie: Trie):
        number = {identifier: n for n, identifier in enumerate(catalog.identifiers)}
        rank = {item.item_id: int(trie.rank[number[tid]]) for item, tid in zip(catalog.items, catalog.item_identifiers, strict=True)}
        ranks = [rank.get(item, -1) for item in labels.item_ids]
        if max(ranks, default=-1) < 0:
            raise ValueError("The teacher of train.distill knows none of the catalog's items: it was trained on another catalog.")
        self.labels, self.n, self._rank, self._items = labels, len(trie), torch.tensor(ranks), first_items(catalog)

    def rows(self, sequences: Sequence[Sequence[int]], learnt: Sequence[int] | None = None) -> np.ndarray:
        """Int64 [questions], the rows of the label store with the answers after prefixes.

        Args:
            sequences: identifiers of each example, oldest first, as places in ``catalog.identifiers``.
            learnt: how many of each example's last items are asked for; by default all but the first.

        Raises:
            ValueError: a question that the labels were not made for.
        """
        wanted = [len(s) - 1 for s in sequences] if learnt is None else learnt
        asked = [[self._items[n] for n in s] for s in sequences]
        return self.labels.rows([s[:end] for s, n in zip(asked, wanted, strict=True) for end in range(len(s) - n, len(s))])

    def answers(self, row: np.ndarray, device: torch.device | str = "cpu") -> SoftLabels:
        """The answers at these rows of the label store, int64 [questions]."""
        rank = self._rank.to(device)[torch.from_numpy(self.labels.items[row]).to(device).long()]  # [questions, top]
        p = torch.from_numpy(self.labels.p[row]).to(device).float()
        p = torch.where(rank >= 0, p, 0)  # items outside of the catalog
        rank, order = rank.clamp_min(0).sort(1)
        below = torch.zeros(len(row), p.shape[1] + 1, device=device)
        torch.cumsum(p.gather(1, order), 1, out=below[:, 1:])
        keys = (torch.arange(len(row), device=device)[:, None] * (self.n + 1) + rank).flatten()
        return SoftLabels(keys, below, torch.from_numpy(self.labels.rest[row]).to(device), self.n)


def first_items(catalog: Catalog) -> list[str]:
    """An item id for each of ``catalog.identifiers``: that of the first item that has it."""
    first: dict[Any, str] = {}
    for item, identifier in zip(catalog.items, catalog.item_identifiers, strict=True):
        first.setdefault(identifier, item.item_id)
    return [first[identifier] for identifier in catalog.identifiers]


def questions_of(sequences: Sequence[Sequence[int]], catalog: Catalog) -> list[list[str]]:
    """The questions that a training on these examples asks its teacher, as item ids: what comes after every prefix (`Teacher.answers`),
    and after the whole (`sampled_examples`)."""
    items = first_items(catalog)
    return [[items[n] for n in s[:end]] for s in sequences for end in range(1, len(s) + 1)]


def sampled_examples(
    labels: LabelStore, catalog: Catalog, sequences: Sequence[Sequence[int]], per_sequence: float, seed: int, history: str = "term_ids",
    evidence: Evidence | None = None, users: Sequence[str] = (),
) -> list[Example]:  # fmt: skip
    """Examples whose answers are drawn from the teacher's: history → next item, in the form of the task "sliding".

    A true answer leads through the identifiers of items that sold. A drawn one also leads through those of items that the teacher knows
    otherwise, such as by their texts. Half of the histories are whole, the others end at a random item; items of the history are not drawn.

    Args:
        sequences: items of histories, as places in ``catalog.identifiers``.
        per_sequence: examples of each sequence; .5 gives one for a random half of them.
        evidence: what the prompts show above the histories.
        users: whose each sequence is, for `evidence`.
    """
    rng, items = np.random.default_rng([seed, 7]), first_items(catalog)
    number = {identifier: n for n, identifier in enumerate(catalog.identifiers)}
    number_of = np.array([number[catalog.identifier(item)] if item in catalog else -1 for item in labels.item_ids])
    asked, asked_of = [], []
    for s, user in zip(sequences, users or [""] * len(sequences), strict=True):
        for _ in range(int(per_sequence) + int(rng.random() < per_sequence % 1)):
            asked_of.append(user)
            asked.append(s[: len(s) if rng.random() < 0.5 else int(rng.integers(1, len(s) + 1))])
    examples = []
    for n, (shown, row) in enumerate(zip(asked, labels.rows([[items[i] for i in s] for s in asked]), strict=True)):
        numbers = number_of[labels.items[row]]
        p = np.where((numbers >= 0) & ~np.isin(numbers, shown), labels.p[row].astype(np.float64), 0).cumsum()
        if p[-1] > 0:
            drawn = labels.item_ids[labels.items[row, np.searchsorted(p, rng.random() * p[-1], side="right")]]
            before = [items[i] for i in shown]
            lines = evidence.lines(catalog, before, asked_of[n]) if evidence else ()
            examples.append(next_item(catalog, "sliding", f"teacher-{n}", [*before, drawn], history, last_only=True, evidence=lines))
    return examples


def add_readout(model: Any) -> None:
    """Gives a model in training a linear layer of its own for the teacher's labels, at first the identity, so that these labels do not
    change the layer that the true items are read by ("auxiliary distillation", Khani et al. 2024, arXiv 2408.14678)."""
    width = model.get_output_embeddings().weight.shape[1]
    layer = torch.nn.Linear(width, width, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
    model.add_module(AUXILIARY, layer.to(model.device, model.dtype))


def drop_readout(model: Any) -> None:
    """Removes what `add_readout` added."""
    if hasattr(model, AUXILIARY):
        delattr(model, AUXILIARY)
