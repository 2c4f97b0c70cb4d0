"""The constraint for vLLM's model runner V2: every step on the device, nothing read back from it. Loads no vLLM.

The host knows which slots are constrained and how long their texts are; where they stand in the trie is known on the device alone. All
shapes follow from the host's numbers, and children are padded to the trie's widest node, so no step waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import torch

from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.walker import TrieWalker
from grlm_hf.vllm.catalogs import NO_BEAM, Catalogs, Constraint, Loaded

_claimed: WeakSet[Any] = WeakSet()  # the request states that have a processor of ours: given twice, the second does nothing


def put(values: Any, device: torch.device) -> torch.Tensor:
    """A list or an array as a tensor of the device, which is not waited for."""
    found = torch.from_numpy(np.asarray(values))
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


class _DeviceTrie:
    """One version of a catalog on the device, and the rules of the requests that are held to it.

    Rules are rows of `allowed`, int32 [rules, n + 1]: how many ranks before each are allowed. Row 0 allows all.
    """

    def __init__(self, loaded: Loaded, device: torch.device):
        self.loaded = loaded
        self.walker = TrieWalker(loaded.index.trie, device)
        self.inner = None if loaded.inner is None else torch.tensor(loaded.inner, device=device)
        self.allowed = torch.arange(self.walker.n + 1, dtype=torch.int32, device=device)[None]
        self._row: dict[int, int] = {}  # of a mask, by its identity; those with users are kept alive here
        self._users: list[tuple[RangeMax | None, int]] = [(None, 1)]
        self._new: list[tuple[int, np.ndarray]] = []

    def hold(self, mask: RangeMax | None) -> int:
        """The row of a mask, with one user more."""
        if mask is None:
            return 0
        row = self._row.get(id(mask))
        if row is None:
            free = (i for i, (_, users) in enumerate(self._users) if not users)
            if (row := next(free, -1)) < 0:
                row = len(self._users)
                self._users.append((None, 0))
            count = np.zeros(self.walker.n + 1, np.int32)
            np.cumsum(mask.values[: self.walker.n] > -np.inf, out=count[1:])
            self._new.append((row, count))
            self._row[id(mask)] = row
        self._users[row] = (mask, self._users[row][1] + 1)
        return row

    def release(self, row: int) -> None:
        if row:
            mask, users = self._users[row]
            self._users[row] = (mask if users > 1 else None, users - 1)
            if users == 1:
                del self._row[id(mask)]

    def flush(self) -> None:
        if (missing := len(self._users) - len(self.allowed)) > 0:  # twice as many, so that it is seldom done
            more = self.allowed.new_zeros((max(missing, len(self.allowed)), self.walker.n + 1))
            self.allowed = torch.cat((self.allowed, more))
        for row, count in self._new:
            self.allowed[row].copy_(put(count, self.allowed.device))
        self._new.clear()


@dataclass(frozen=True)
class _Slot:
    """A constrained request. `trie` is ``None`` where it may only end."""

    trie: _DeviceTrie | None
    row: int
    constraint: Constraint


class DeviceRows:
    """The constrained requests by slot.

    Args:
        states: vLLM's ``LogitsProcRequestState``.
        speculative: a step may have rows of tokens that are only proposed; then each step walks anew from where the identifier begins.
    """

    def __init__(self, catalogs: Catalogs, states: Any, speculative: bool = False):
        self.catalogs, self.states, self.speculative = catalogs, states, speculative
        self.passive = states in _claimed
        _claimed.add(states)
        n, device = states.max_num_reqs, states.device
        self._slots: list[_Slot | None] = [None] * n
        self._tries: WeakValueDictionary[int, _DeviceTrie] = WeakValueDictionary()
        self._read = np.full(n, -1)  # the length that a slot's text had when its node was last found; -1: not yet. The device has it too
        self._staged: dict[int, _Slot] = {}
        # on the device, by slot: the node, the tokens of the text that lead to it (-1: none is known), the rule, and where it begins
        self._lo, self._hi, self._at, self._rule = torch.zeros((4, n), dtype=torch.int64, device=device)
        self._tail = torch.zeros(n, dtype=torch.bool, device=device)

    def add(self, slot: int, params: Any) -> bool:
        if (before := self._slots[slot]) is not None and before.trie is not None:
            before.trie.release(before.row)
        self._slots[slot] = None
        self._staged.pop(slot, None)
        if self.passive or (constraint := self.catalogs.constraint(params)) is None:
            return False
        trie = self._trie(constraint.loaded)
        self._slots[slot] = self._staged[slot] = _Slot(trie, trie.hold(constraint.mask) if trie else 0, constraint)
        self._read[slot] = -1
        return True

    def _trie(self, loaded: Loaded | None) -> _DeviceTrie | None:
        found = self._tries.get(id(loaded))
        if found is None and loaded is not None:
            found = self._tries[id(loaded)] = _DeviceTrie(loaded, self.states.device)
        return found

    def flush(self) -> None:
        if not self._staged:
            return
        for trie in {id(s.trie): s.trie for s in self._staged.values() if s.trie}.values():
            trie.flush()
        device = self.states.device
        at = put(list(self._staged), device)
        self._at.index_fill_(0, at, -1)
        self._rule.index_copy_(0, at, put([s.row for s in self._staged.values()], device))
        self._tail.index_copy_(0, at, put([s.constraint.tail for s in self._staged.values()], device))
        self._staged.clear()

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Row `i` belongs to request `i` of the batch, unless tokens are proposed: then a request has several rows."""
        of: dict[tuple[int, int], list[int]] = {}
        for i, slot in enumerate(ctx.idx_mapping_np.tolist()):
            if (held := self._slots[slot]) is not None:
                of.setdefault((id(held.trie), held.constraint.eos), []).append(i)
        several = len(logits) != len(ctx.idx_mapping_np)
        for requests in of.values():
            slots = ctx.idx_mapping_np[requests]
            rows, mine = put(requests, logits.device), None
            if several:
                rows = torch.arange(len(logits), device=logits.device)
                member = np.zeros(len(self._slots), bool)
                member[slots] = True
                mine = put(member, logits.device)[ctx.expanded_idx_mapping.long()]
            held = self._slots[int(slots[0])]
            assert held is not None
            raw = logits[rows]
            if held.trie is None:
                new = torch.full_like(raw, -torch.inf)
                new[:, held.constraint.eos] = 0.0
            else:
                bound = self._bound(held.trie, slots, ctx.seq_lens_upper_bound_np[requests])
                new = self._constrained(held.trie, raw, rows, mine, ctx, bound)
            logits.index_copy_(0, rows, new if mine is None else torch.where(mine[:, None], new, raw))
        return logits

    def _bound(self, trie: _DeviceTrie, slots: np.ndarray, lengths: np.ndarray) -> int:
        """How many tokens the slots' texts have more than have been read, at most. One, but for slots that have just been filled."""
        tail = np.array([self._slots[s].constraint.tail for s in slots])  # type: ignore[union-attr]
        begin = self.states.prompt_len.np[slots] - tail * (trie.walker.trie.depth + 1)
        begin = np.where(self._read[slots] < 0, begin, self._read[slots])
        if not self.speculative:
            self._read[slots] = np.maximum(lengths, begin)
        return int(np.clip(lengths - begin, 0, trie.walker.trie.depth + 1).max())  # more tokens than identifiers have lead off the trie

    def _constrained(
        self, trie: _DeviceTrie, raw: torch.Tensor, rows: torch.Tensor, mine: torch.Tensor | None, ctx: Any, bound: int
    ) -> torch.Tensor:
        """What `raw` [rows, vocabulary] becomes. Rows that are not `mine`, bool [rows], are of another trie: for them, anything."""
        walker, slot = trie.walker, ctx.expanded_idx_mapping[rows].long()
        tail = self._tail[slot]
        lo, hi, depth = self._nodes(trie, slot, rows, mine, ctx, bound)
        token, child_lo, child_hi, valid = walker.children_padded(lo, hi, depth)
        child_lo, child_hi = torch.where(valid, child_lo, 0), torch.where(valid, child_hi, 0)
        # Scores: over all children, not the legal ones alone, so that a rule changes no item's score.
        values = raw.gather(1, torch.where(valid, token, 0))
        if trie.loaded.objective == "trie":
            values = values.masked_fill(~valid, -torch.inf).log_softmax(1)
        else:
            values = values - raw.logsumexp(1, keepdim=True)
        closes = tail[:, None] & valid & walker.ends(child_lo, child_hi, depth[:, None] + 1)
        rule = self._rule[slot] if mine is None else torch.where(mine, self._rule[slot], 0)
        rule = rule[:, None]
        legal = trie.allowed[rule, child_hi] > trie.allowed[rule, child_lo]
        legal &= ~closes | (closes.sum(1, keepdim=True) < 2)  # two ends, and one EOS to stand for them: neither is written
        values = torch.where(legal & ~values.isnan(), values, -torch.inf)
        # EOS is legal where nothing else is, be it the end, a rule, or another stage; or stands for an identifier's last token.
        none = torch.where(tail, NO_BEAM, 0.0).to(values.dtype)
        eos = torch.where(values.amax(1) == -torch.inf, none, torch.where(closes, values, -torch.inf).amax(1))
        written = valid & ~closes
        new = torch.full_like(raw, -torch.inf)
        new.scatter_(1, torch.where(written, token, trie.loaded.eos), torch.where(written, values, -torch.inf))
        new[:, trie.loaded.eos] = eos
        return new

    def _nodes(
        self, trie: _DeviceTrie, slot: torch.Tensor, rows: torch.Tensor, mine: torch.Tensor | None, ctx: Any, bound: int
    ) -> tuple[Any, Any, Any]:
        """Where the rows stand behind the token at their position. No row reads more than `bound` tokens."""
        walker, states = trie.walker, self.states
        tokens, last = states.all_token_ids.gpu, states.all_token_ids.gpu.shape[1] - 1
        pos, known = ctx.pos[rows].long(), self._at[slot]
        if mine is not None:
            known = torch.where(mine, known, -1)
        first = pos - ctx.expanded_local_pos[rows].long()  # of the request's rows; what stands before it is in `tokens`
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
        hi = torch.where(begin + bound > pos, hi, lo)  # it cannot have been on the trie any more
        if not self.speculative:
            for by_slot, value in ((self._lo, lo), (self._hi, hi), (self._at, torch.maximum(pos + 1, begin))):
                by_slot.index_copy_(0, slot, value)
        return lo, hi, (pos + 1 - start).clamp(min=0)
