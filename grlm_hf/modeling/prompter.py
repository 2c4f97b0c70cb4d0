"""The prompts of a checkpoint: what its model reads of each history, and whether a catalog fits the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from grlm_hf.decoding.index import SearchIndex
from grlm_hf.engines.protocol import Engine
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.encoding import history_tokens
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.prompts import written_title


class Prompter:
    """Writes prompts. `config` states how many items, and what of each, a prompt shows; `engine` states how much the model takes.
    `evidence` chooses the lines above the history, where prompts have some."""

    def __init__(self, tokenizer: Any, config: GRLMConfig, engine: Engine, evidence: Evidence | None = None):
        self.tokenizer, self.config, self.engine, self.evidence = tokenizer, config, engine, evidence

    def prompts(self, index: SearchIndex, positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The prompt of each history: its last items, as many as ``config.max_history`` and the room for the answer allow.

        The last item is always shown, even where it exceeds ``config.max_tokens``, which is a budget of training.

        Args:
            positions: catalog positions of each history, oldest first.

        Returns one int64 array of token ids a history. Raises `ValueError` for an empty history, or a last item that leaves no room for
        an answer.
        """
        limit, answer = self.engine.max_length, index.trie.depth + 1
        room = min((n - answer for n in (self.config.max_tokens, limit) if n), default=None)
        shown = [p[-self.config.max_history :] for p in positions]
        paths = {q: index.path(q) for p in shown for q in p}
        items = index.catalog.items
        lines = [self.evidence.lines(index.catalog, [items[q].item_id for q in p]) for p in positions] if self.evidence else []
        form = self.config.history
        prompts = history_tokens(self.tokenizer, paths, shown, index.catalog, history=form, max_tokens=room, evidence=lines)
        if limit and (longest := max(map(len, prompts), default=0)) > limit - answer:
            raise ValueError(
                f"A prompt with one item has {longest} tokens, its answer up to {answer}; the model takes {limit} in all. "
                "Shorten the longest identifiers or titles, or use a model that takes longer texts."
            )
        return prompts

    def check_capacity(self, index: SearchIndex, before: SearchIndex | None = None) -> None:
        """Checks that the model can read each item of a catalog, and write its longest identifier. Of the items of `before`, a catalog
        that passed this check, only the longest ones are checked again.

        Raises `ValueError` if an identifier uses a token that the model has no embedding of; or an item leaves no room for an answer.
        """
        scheme, identifiers = index.catalog.scheme, index.catalog.identifiers
        new: Collection[Identifier] = ()
        if scheme.added_tokens(identifiers[:1]):
            new = identifiers if before is None else set(identifiers) - set(before.catalog.identifiers)
        if lacking := sorted(set(scheme.added_tokens(new)) - self.tokenizer.get_vocab().keys()):
            raise ValueError(
                f"The identifiers have {len(lacking):,} symbols that the model has not learnt, such as {lacking[0]}. Such items need "
                "another training."
            )
        if index.trie.vocab > self.engine.vocabulary:
            noun = index.catalog.scheme.noun
            raise ValueError(f"A {noun} uses token {index.trie.vocab - 1}; the model has {self.engine.vocabulary} embeddings.")
        if not self.engine.max_length:
            return
        items, every = index.catalog.items, range(len(index.catalog))
        checked = {max(every, key=lambda position: len(index.path(position)))}
        if self.config.history != "term_ids":  # titles count too: the longest one in characters, and each new one
            checked.add(max(every, key=lambda position: len(written_title(items[position]))))
            known = set() if before is None else set(before.catalog.items)
            checked.update(position for position in every if items[position] not in known)
        self.prompts(index, [[position] for position in sorted(checked)])
