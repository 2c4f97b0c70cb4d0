"""A teacher that knows items as wholes: a sequence model's probabilities, summed over the identifiers below each node of the trie.

A language model of Term IDs learns what follows a history one token at a time, from one item a time; the sequence model has spread that
knowledge over all items that behave alike. Its probabilities as further targets teach far more an epoch (docs/lab-notes.md has figures).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grlm_hf.data.catalog import Catalog
from grlm_hf.priors.sequence import SequenceModel, padded
from grlm_hf.trie.arrays import Trie


class Teacher:
    """Answers every question of an example at once.

    Args:
        model: a sequence model that knows items of the catalog; what it learnt from must not hold the cases that are measured on.
        temperature: its scores are divided by it before the softmax; above 1 it speaks less surely.

    Raises:
        ValueError: a model that knows no item of the catalog, or a temperature not above 0.
    """

    def __init__(self, model: SequenceModel, catalog: Catalog, trie: Trie, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"train.distill.temperature is {temperature}; expected more than 0.")
        known = sum(item.item_id in model.rows for item in catalog)
        if not known:
            raise ValueError("The teacher of train.distill knows none of the catalog's items: it was trained on another catalog.")
        self.model, self.temperature, self.n = model, temperature, len(trie)
        number = {identifier: n for n, identifier in enumerate(catalog.identifiers)}
        # Columns by the rank of the identifier, so that the identifiers below a node stand together.
        rank = [(int(trie.rank[number[tid]]), item.item_id) for item, tid in zip(catalog.items, catalog.term_ids, strict=True)]
        columns = sorted((r, item) for r, item in rank if item in model.rows)
        self._begin = torch.searchsorted(torch.tensor([r for r, _ in columns]), torch.arange(self.n + 1))
        device = model.net.device
        self._weight = model.net.get_input_embeddings().weight.detach()[[model.rows[item] for _, item in columns]].to(device)
        first: dict[int, int] = {}  # identifier → what the teacher reads for it
        for item, tid in zip(catalog.items, catalog.term_ids, strict=True):
            if item.item_id in model.rows:
                first.setdefault(number[tid], model.rows[item.item_id])
        self._row = [first.get(n, -1) for n in range(len(catalog.identifiers))]

    @torch.inference_mode()
    def below(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """float32 [questions, n_identifiers + 1]: what it thinks of each item but the first, given those before it; for every rank, the
        sum over all lower ones, not normalised.

        Args:
            sequences: identifiers (their numbers in ``catalog.identifiers``) of each example, oldest first; two or more, of which
                the model reads the last ``max_items`` before each.

        Raises:
            ValueError: an identifier of items that the teacher does not know.
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
