"""The constraint for vLLM's model runner V2: every step on the device, nothing read back from it. Loads no vLLM.

The host knows which slots are constrained and the lengths of their texts. Only the device knows their nodes in the trie. All shapes follow
from the host's numbers, and children are padded to the trie's widest node, so no step waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import torch

from grlm_hf.trie.walker import Node, TrieWalker
from grlm_hf.vllm.catalogs import Catalogs, Constraint, Loaded
from grlm_hf.vllm.scores import next_scores, put

_claimed: WeakSet[Any] = WeakSet()  # the request states that have a processor of ours: a second one does nothing


class _DeviceTrie:
    """One version of a catalog on the device, and the rules of its requests.

    Rules are the rows of `allowed`, int32 [rules, n + 1] (`Loaded.allowed`). Row 0 allows all.
    """

    def __init__(self, loaded: Loaded, device: torch.device):
        self.loaded = loaded
        self.walker = TrieWalker(loaded.index.trie, device)
        self.inner = None if loaded.inner is None else torch.tensor(loaded.inner, device=device)
        self.allowed = torch.arange(self.walker.n + 1, dtype=torch.int32, device=device)[None]
        self._new: dict[int, np.ndarray] = {}

    def row(self, allowed: np.ndarray | None, slots: list[_Slot]) -> int:
        """The row of a rule: that of a slot with the same rule, or the first row that none of the trie's `slots` uses."""
        if allowed is None:
            return 0
        row = next((slot.row for slot in slots if slot.constraint.allowed is allowed), 0)
        if not row:
            row = min(set(range(1, len(slots) + 2)) - {slot.row for slot in slots})
            self._new[row] = allowed
        return row

    def flush(self) -> None:
        """Copies new rules to the device."""
        if (missing := max(self._new, default=0) + 1 - len(self.allowed)) > 0:  # at least doubled, so that it rarely grows
            more = self.allowed.new_zeros((max(missing, len(self.allowed)), self.walker.n + 1))
            self.allowed = torch.cat((self.allowed, more))
        for row, allowed in self._new.items():
            self.allowed[row].copy_(put(allowed, self.allowed.device))
        self._new.clear()


@dataclass(frozen=True)
class _Slot:
    """A constrained request. `trie` is ``None`` where it may only end; `row` is that of its rule."""

    trie: _DeviceTrie | None
    row: int
    constraint: Constraint


class DeviceRows:
    """The constrained requests by slot.

    Args:
        states: vLLM's ``LogitsProcRequestState``.
        speculative: a step may have rows of proposed tokens; then each step walks from the beginning of the identifier.
    """

    def __init__(self, catalogs: Catalogs, states: Any, speculative: bool = False):
        self.catalogs, self.states, self.speculative = catalogs, states, speculative
        self.passive = states in _claimed
        _claimed.add(states)
        n, device = states.max_num_reqs, states.device
        self._slots: list[_Slot | None] = [None] * n
        self._tries: WeakValueDictionary[int, _DeviceTrie] = WeakValueDictionary()
        self._read = np.full(n, -1)  # per slot: text length at the last trie lookup (-1: never looked up); the device has it as `_at`
        self._staged: dict[int, _Slot] = {}
        # on the device, by slot: the node; the length of the text that leads to it (-1: none is known); the rule; `Constraint.tail`
        self._lo, self._hi, self._at, self._rule = torch.zeros((4, n), dtype=torch.int64, device=device)
        self._tail = torch.zeros(n, dtype=torch.bool, device=device)

    def add(self, slot: int, params: Any) -> bool:
        """Whether the request in the slot is constrained."""
        self._slots[slot] = None
        self._staged.pop(slot, None)
        if self.passive or (constraint := self.catalogs.constraint(params)) is None:
            return False
        trie, loaded = self._tries.get(id(constraint.loaded)), constraint.loaded
        if trie is None and loaded is not None:
            trie = self._tries[id(loaded)] = _DeviceTrie(loaded, self.states.device)
        row = trie.row(constraint.allowed, [s for s in self._slots if s and s.trie is trie]) if trie else 0
        self._slots[slot] = self._staged[slot] = _Slot(trie, row, constraint)
        self._read[slot] = -1
        return True

    def flush(self) -> None:
        """Copies the requests added since the last call to the device."""
        if not self._staged:
            return
        for trie in self._tries.values():
            trie.flush()
        device = self.states.device
        at = put(list(self._staged), device)
        self._at.index_fill_(0, at, -1)
        self._rule.index_copy_(0, at, put([s.row for s in self._staged.values()], device))
        self._tail.index_copy_(0, at, put([s.constraint.tail for s in self._staged.values()], device))
        self._staged.clear()

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Row `i` belongs to request `i` of the batch. Where tokens are proposed, a request has several rows."""
        groups: dict[tuple[int, int], tuple[_Slot, list[int]]] = {}  # requests of one trie, with one of them
        for i, number in enumerate(ctx.idx_mapping_np.tolist()):
            if (slot := self._slots[number]) is not None:
                groups.setdefault((id(slot.trie), slot.constraint.eos), (slot, []))[1].append(i)
        several = len(logits) != len(ctx.idx_mapping_np)
        for slot, requests in groups.values():
            slots = ctx.idx_mapping_np[requests]
            rows, mine = put(requests, logits.device), None
            if several:
                rows = torch.arange(len(logits), device=logits.device)
                member = np.zeros(len(self._slots), bool)
                member[slots] = True
                mine = put(member, logits.device)[ctx.expanded_idx_mapping.long()]
            raw = logits[rows]
            new = torch.full_like(raw, -torch.inf)
            if slot.trie is None:
                new[:, slot.constraint.eos] = 0.0
            else:
                bound = self._bound(slot.trie, slots, ctx.seq_lens_upper_bound_np[requests])
                new.scatter_(1, *self._scores(slot.trie, raw, rows, mine, ctx, bound))
            logits.index_copy_(0, rows, new if mine is None else torch.where(mine[:, None], new, raw))
        return logits

    def _bound(self, trie: _DeviceTrie, slots: np.ndarray, lengths: np.ndarray) -> int:
        """Upper bound on the number of tokens of a slot's text that are not read yet: 1, except for new requests."""
        tail = np.array([self._slots[s].constraint.tail for s in slots])  # type: ignore[union-attr]
        begin = self.states.prompt_len.np[slots] - tail * (trie.walker.trie.depth + 1)
        begin = np.where(self._read[slots] < 0, begin, self._read[slots])
        if not self.speculative:
            self._read[slots] = np.maximum(lengths, begin)
        return int(np.clip(lengths - begin, 0, trie.walker.trie.depth + 1).max())  # more tokens than identifiers have lead off the trie

    def _scores(
        self, trie: _DeviceTrie, raw: torch.Tensor, rows: torch.Tensor, mine: torch.Tensor | None, ctx: Any, bound: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`next_scores` of `raw` [rows, vocabulary]. Rows that are not `mine`, bool [rows], get arbitrary values."""
        walker, slot = trie.walker, ctx.expanded_idx_mapping[rows].long()
        tail = self._tail[slot]
        lo, hi, depth = self._nodes(trie, slot, rows, mine, ctx, bound)
        token, child_lo, child_hi, valid = walker.children_padded(lo, hi, depth)
        child_lo, child_hi = torch.where(valid, child_lo, 0), torch.where(valid, child_hi, 0)
        closes = tail[:, None] & valid & walker.ends(child_lo, child_hi, depth[:, None] + 1)
        rule = (self._rule[slot] if mine is None else torch.where(mine, self._rule[slot], 0))[:, None]
        legal = trie.allowed[rule, child_hi] > trie.allowed[rule, child_lo]
        return next_scores(raw, token, valid, legal, closes, tail, trie.loaded.eos, trie.loaded.objective)

    def _nodes(self, trie: _DeviceTrie, slot: torch.Tensor, rows: torch.Tensor, mine: torch.Tensor | None, ctx: Any, bound: int) -> Node:
        """The rows' nodes behind the token at their position. No row reads more than `bound` tokens."""
        walker, states = trie.walker, self.states
        tokens, last = states.all_token_ids.gpu, states.all_token_ids.gpu.shape[1] - 1
        pos, known = ctx.pos[rows].long(), self._at[slot]
        if mine is not None:
            known = torch.where(mine, known, -1)
        first = pos - ctx.expanded_local_pos[rows].long()  # of the request's rows; `tokens` holds what is before it
        start = states.prompt_len.gpu[slot].long()
        if trie.inner is not None:  # tokens inside identifiers, counted from the end of the prompt
            back = start[:, None] - 1 - torch.arange(walker.trie.depth + 1, device=slot.device)
            token = tokens[slot[:, None], back.clamp(min=0)].long()
            inside = trie.inner[token.clamp(0, len(trie.inner) - 1)] & (token < len(trie.inner)) & (token >= 0) & (back >= 0)
            start = start - torch.where(self._tail[slot], inside.long().cumprod(1).sum(1), 0)
        lo, hi = torch.where(known < 0, 0, self._lo[slot]), torch.where(known < 0, walker.n, self._hi[slot])
        begin = torch.where(known < 0, start, known)
        for t in range(bound):
            at = begin + t
            now = ctx.input_ids[(rows - pos + at).clamp(0, len(ctx.input_ids) - 1)]
            token = torch.where(at < first, tokens[slot, at.clamp(0, last)], now).long()
            below = walker.step(lo, hi, (at - start).clamp(min=0), token)
            lo, hi = (torch.where(at <= pos, new, old) for new, old in zip(below, (lo, hi), strict=False))
        hi = torch.where(begin + bound > pos, hi, lo)  # a longer text cannot be on the trie any more
        if not self.speculative:
            for by_slot, value in ((self._lo, lo), (self._hi, hi), (self._at, torch.maximum(pos + 1, begin))):
                by_slot.index_copy_(0, slot, value)
        return lo, hi, (pos + 1 - start).clamp(min=0)
