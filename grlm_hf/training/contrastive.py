"""The contrastive loss beside the generative one (CALRec, Li et al. 2024, arXiv 2405.02429): a history's vector shall be nearer to that of
its next item's text than to those of the other items in the batch. `grlm_hf.modeling.dense` says what the vectors are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from grlm_hf.data.catalog import Catalog
from grlm_hf.modeling.dense import at_ends, decoder_of, padded
from grlm_hf.tasks.encoding import item_tokens
from grlm_hf.training.config import ContrastiveConfig


class Contrastive:
    """
    Args:
        tokenizer: that of the training.
        answers: the column `answers` of the training's examples (`grlm_hf.training.labels.tokenize_mixture`); an item is drawn into a batch
            as often as it is an answer, which the loss corrects.
        max_tokens: that the model takes.
    """

    def __init__(
        self, config: ContrastiveConfig, tokenizer: Any, catalog: Catalog, answers: Sequence[Sequence[Any]], max_tokens: int | None = None
    ):
        self.weight, self.temperature, self.pad = config.weight, config.temperature, tokenizer.pad_token_id
        first = [catalog.items[catalog.positions_of(identifier)[0]] for identifier in catalog.identifiers]
        self.tokens = item_tokens(tokenizer, first, max_tokens)
        counts = np.bincount([number for row in answers for number, _ in row], minlength=len(first)).clip(1)
        self.log_q = torch.from_numpy(np.log(counts / counts.sum()).astype(np.float32))

    def __call__(self, model: Any, hidden: torch.Tensor, answers: Sequence[Sequence[Any]]) -> torch.Tensor:
        """The mean loss of the rows that have answers, of each a random one: `info_nce` against the next items of the other rows. Under
        several processes these are the rows of the same process.

        Args:
            model: reads the items' texts; as the trainer calls it.
            hidden: float [batch, length, hidden], its last hidden states of this batch.
            answers: of each row, pairs of a place in ``catalog.identifiers`` and the first token of that answer.
        """
        rows = [row for row, pairs in enumerate(answers) if pairs]
        drawn = [answers[row][int(torch.randint(len(answers[row]), (1,)))] for row in rows]
        items, label = torch.tensor([number for number, _ in drawn] or [0]).unique(return_inverse=True)
        ids, mask = (x.to(hidden.device) for x in padded([self.tokens[n] for n in items.tolist()], self.pad))
        with last_hidden(model) as states:  # also without rows: all processes make the same forwards
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        vectors = at_ends(states[-1], mask)
        if not rows:
            return vectors.sum() * 0
        users = F.normalize(hidden[rows, [place - 1 for _, place in drawn]].float(), dim=1)
        return info_nce(users, vectors, label.to(hidden.device), self.log_q[items].to(hidden.device), self.temperature)


def info_nce(users: torch.Tensor, items: torch.Tensor, label: torch.Tensor, log_q: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of ``-log softmax(⟨user, item⟩ / temperature - log q(item))`` at each user's own item.

    Each item is one column, however many users it belongs to, so no user's own item is among the negatives. An item is in a batch as often
    as it sells; ``log q`` takes that back, so that the scores are not against what sells (Yi et al. 2019, "Sampling-bias-corrected neural
    modeling").

    Args:
        users, items: float [n, hidden], [m, hidden], of length 1.
        label: int64 [n], each user's item.
        log_q: float [m], natural log of each item's share of all answers.
    """
    return F.cross_entropy(users @ items.T / temperature - log_q, label)


@contextmanager
def last_hidden(model: Any) -> Iterator[list[torch.Tensor]]:
    """The last hidden states, float [batch, length, hidden], of each forward in this context, wherever it is called from."""
    states: list[torch.Tensor] = []
    inner = getattr(model, "module", model)  # of data-parallel wrappers
    hook = decoder_of(inner).register_forward_hook(lambda _module, _args, out: states.append(out[0]))
    try:
        yield states
    finally:
        hook.remove()
