"""Causal LMs of transformers as an engine. Each user's prompt is computed once, and so is every prefix, on top of its own beginning. The
prefixes of a user are further query positions of one sequence. Each sees the prompt and its own ancestors through a 4-D attention mask. So
the key-value cache is only ever appended to: no beam copies or reorders it, and a dropped prefix can be continued later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from grlm_hf.engines.protocol import Batch, Engine, Expansion, among_children


class CausalEngine(Engine):
    """A causal LM of transformers, with eager or SDPA attention over its whole context. The model's embeddings and device are read at
    each use, so that it may be moved or resized."""

    name = "transformers"

    def __init__(self, model: torch.nn.Module):
        self.model: Any = model

    @property
    def vocabulary(self) -> int:
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def max_length(self) -> int | None:
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def prefixes(self, batch: Batch) -> CausalPrefixes:
        _check_attention(self.model)
        return CausalPrefixes(self.model, batch)

    def language_model(self, purpose: str) -> Any:
        return self.model


class CausalPrefixes:
    """See `grlm_hf.engines.protocol.Prefixes`."""

    def __init__(self, model: Any, batch: Batch):
        self.model, self.batch = model, batch
        walker, prompts, self.objective, self.pad = batch.walker, batch.prompts, batch.objective, batch.pad_token_id
        self.walker = walker
        self.device = model.get_input_embeddings().weight.device
        self._length = np.array([len(p) for p in prompts])
        longest = int(self._length.max())
        ids = np.full((len(prompts), longest), self.pad, np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[longest - len(prompt) :] = prompt
        self._prompt_mask = np.arange(longest) >= longest - self._length[:, None]  # padded on the left
        position = (self._prompt_mask.cumsum(1) - 1).clip(0)
        # routers' logits are for a training loss, which cannot be computed with a cache; TRL leaves them on
        self._without = {"output_router_logits": False} if hasattr(model.config.get_text_config(), "output_router_logits") else {}
        out = model(
            input_ids=self._tensor(ids),
            attention_mask=self._tensor(self._prompt_mask.astype(np.int64)),
            position_ids=self._tensor(position),
            use_cache=True,
            logits_to_keep=1,
            **self._without,
        )
        self.forwards = 1
        self._cache, self._logits = out.past_key_values, out.logits
        # [user, slot, depth]: the slots of a prefix's tokens, as far as it is long
        self._path = np.zeros((len(prompts), 0, walker.trie.depth), np.int32)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def root(self) -> Expansion:
        users = np.arange(len(self._length))
        found = self._read(self._logits, users, users * 0 - 1, users * 0, *self.walker.root(len(users)), users * 0)
        return replace(found, chain=np.zeros((len(users), 0)))

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        walker = self.walker
        end = self.batch.run_end(have, lo, hi)
        # 1. the tokens of all runs, and the columns of the new query positions: those whose logits are needed come first
        count = end - have
        node = np.repeat(np.arange(len(user)), count)
        first = count.cumsum() - count
        offset = np.arange(len(node)) - first[node]
        token = walker.token(lo[node], have[node] + offset)
        last = offset == count[node] - 1
        needed = last | (self.objective == "vocabulary")
        order = np.lexsort((~needed, user[node]))
        column = np.empty(len(node), np.int64)
        grouped = user[node][order]
        column[order] = np.arange(len(node)) - grouped.searchsorted(grouped)
        n_users, n_slots, n_columns = len(self._length), self._path.shape[1], int(column.max()) + 1
        # 2. what each position sees: the path of its parent, the run before it, itself
        owner, depth = user[node], have[node] + offset
        path = np.zeros((len(node), self._path.shape[2]), np.int32)
        continued = parent[node] >= 0
        path[continued] = self._path[owner[continued], parent[node][continued]]
        for back in range(int(count.max())):
            inside = np.flatnonzero(offset >= back)
            path[inside, depth[inside] - back] = n_slots + column[inside - back]
        paths = np.zeros((n_users, n_columns, path.shape[1]), np.int32)
        paths[owner, column] = path
        self._path = np.concatenate((self._path, paths), 1)
        which, level = np.nonzero(np.arange(path.shape[1]) <= depth[:, None])
        sees = np.zeros((n_users, n_columns, n_slots + n_columns), bool)
        sees[owner[which], column[which], path[which, level]] = True
        prompt_mask = np.broadcast_to(self._prompt_mask[:, None], (n_users, n_columns, self._prompt_mask.shape[1]))
        ids = np.full((n_users, n_columns), self.pad, np.int64)
        position = np.repeat(self._length[:, None], n_columns, 1)
        ids[owner, column] = token
        position[owner, column] += depth
        n_needed = int(column[needed].max()) + 1
        dtype = self.model.dtype
        visible = self._tensor(np.concatenate((prompt_mask, sees), 2))
        out = self.model(
            input_ids=self._tensor(ids),
            attention_mask=torch.zeros(visible.shape, dtype=dtype, device=self.device).masked_fill_(~visible, torch.finfo(dtype).min)[
                :, None
            ],
            position_ids=self._tensor(position),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=torch.arange(n_needed, device=self.device),
            **self._without,
        )
        self.forwards += 1
        # 3. what it says of the run's own tokens, and of the choice at its end
        inner = np.flatnonzero(~last)
        forced = (owner[inner], column[inner], token[inner + 1]) if self.objective == "vocabulary" else None
        at = np.flatnonzero(last)
        found = self._read(out.logits, user, n_slots + column[at], column[at], lo, hi, end, end, forced)
        chain = np.zeros((len(user), int(count.max()) - 1))
        if forced is not None:
            chain[node[inner], offset[inner]] = found.chain
        return Expansion(found.slot, end, chain, found.row, found.lo, found.hi, found.logp)

    def _read(
        self,
        logits: torch.Tensor,
        user: np.ndarray,
        slot: np.ndarray,
        column: np.ndarray,
        lo: np.ndarray,
        hi: np.ndarray,
        depth: np.ndarray,
        end: np.ndarray | None = None,
        forced: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> Expansion:
        """Children of nodes whose last token's logits are ``logits[user, column]``; and in `chain` the values at `forced`."""
        row, token, child_lo, child_hi = self.walker.children(lo, hi, depth)
        index = (user[row], column[row], token)
        if forced is not None:
            index = tuple(np.concatenate(pair) for pair in zip(forced, index, strict=True))  # type: ignore[assignment]
        values = logits.float()
        if self.objective == "vocabulary":
            values = values.log_softmax(-1)
        picked = values[tuple(map(self._tensor, index))].cpu().numpy().astype(np.float64)  # the one synchronisation of a forward
        n_forced = len(picked) - len(row)
        logp = picked[n_forced:]
        if self.objective == "trie":
            logp = among_children(logp, row)
        return Expansion(slot, depth if end is None else end, picked[:n_forced], row, child_lo, child_hi, logp)


def _check_attention(model: Any) -> None:
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        raise ValueError(
            f"{type(model).__name__} has layers that do not attend to the whole context ({', '.join(sorted(layers))}), "
            "which this search needs. Use generate() with TrieConstrainedLogitsProcessor instead."
        )
    implementation = getattr(model.config, "_attn_implementation", "eager")
    if implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"The model runs {implementation!r} attention, which takes no 4-D mask; load it with attn_implementation='sdpa' to recommend."
        )
