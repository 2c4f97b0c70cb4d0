"""A teacher that knows whole items: a sequence model's probabilities, summed over the identifiers below each node of the trie.

A language model learns from one next item at a time, token by token. The sequence model has learnt which items behave alike, so its
probabilities as further targets teach more in an epoch (figures: docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grlm_hf.data.catalog import Catalog
from grlm_hf.priors.sequence import SequenceModel, padded
from grlm_hf.trie.arrays import Trie


class Teacher:
    """Gives the probabilities after every prefix of an example's items at once.

    Args:
        model: a sequence model with items of the catalog; its training data must not hold the cases of the evaluation.
        temperature: its scores are divided by it before the softmax; values above 1 flatten its probabilities.

    Raises:
        ValueError: a model without any item of the catalog, or a temperature not above 0.
    """

    def __init__(self, model: SequenceModel, catalog: Catalog, trie: Trie, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"train.distill.temperature is {temperature}; expected more than 0.")
        known = sum(item.item_id in model.rows for item in catalog)
        if not known:
            raise ValueError("The teacher of train.distill knows none of the catalog's items: it was trained on another catalog.")
        self.model, self.temperature, self.n = model, temperature, len(trie)
        number = {identifier: n for n, identifier in enumerate(catalog.identifiers)}
        # Columns by the rank of the identifier, so that the identifiers below a node are neighbours.
        rank = [(int(trie.rank[number[tid]]), item.item_id) for item, tid in zip(catalog.items, catalog.item_identifiers, strict=True)]
        columns = sorted((r, item) for r, item in rank if item in model.rows)
        self._begin = torch.searchsorted(torch.tensor([r for r, _ in columns]), torch.arange(self.n + 1))
        device = model.net.device
        self._weight = model.net.get_input_embeddings().weight.detach()[[model.rows[item] for _, item in columns]].to(device)
        first: dict[int, int] = {}  # identifier → the teacher's row for it
        for item, tid in zip(catalog.items, catalog.item_identifiers, strict=True):
            if item.item_id in model.rows:
                first.setdefault(number[tid], model.rows[item.item_id])
        self._row = [first.get(n, -1) for n in range(len(catalog.identifiers))]

    @torch.inference_mode()
    def below(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Cumulative probabilities after each prefix: one question for each item but the first of each example.

        Args:
            sequences: two or more identifiers of each example, oldest first, as places in ``catalog.identifiers``.

        Returns:
            float32 [questions, n_identifiers + 1]; in column r the sum over the identifiers of a rank below r, not normalised.

        Raises:
            ValueError: items that the teacher does not know, or more items than it reads.
        """
        most = self.model.config.max_items
        rows = [[self._row[n] for n in sequence[:-1]] for sequence in sequences]
        if any(r < 0 for row in rows for r in row):
            raise ValueError("The teacher of train.distill does not know an item of a training history; train it on the same histories.")
        if any(len(row) > most for row in rows):
            raise ValueError(f"An example has {max(map(len, rows)) + 1} items; the teacher of train.distill reads {most}.")
        ids, real = (t.to(self._weight.device) for t in padded(rows))
        hidden = self.model.net(ids).last_hidden_state[real]
        scores = (hidden @ self._weight.T).float()
        if self.temperature != 1:
            scores /= self.temperature
        scores -= scores.amax(1, keepdim=True)
        sums = torch.zeros(len(scores), scores.shape[1] + 1, device=scores.device)
        torch.cumsum(scores.exp_(), 1, out=sums[:, 1:])
        return sums if len(self._begin) == sums.shape[1] else sums[:, self._begin.to(sums.device)]
