"""The drop-in constraint for ``generate()`` of any causal language model of transformers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from grlm_hf.layout import OBJECTIVES
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.trie.arrays import Trie
from grlm_hf.trie.walker import TrieWalker, segment_log_softmax


class TrieConstrainedLogitsProcessor(LogitsProcessor):
    """Lets a model write nothing but identifiers of the trie, from the end of the prompt on, or from behind a trigger on.

    The prompt is what the first call sees; all later tokens of a row are walked through the trie. A row's node follows from its own
    tokens, never from its row number, so beams may move freely; it is one step from the node of the row that it continues.
    Legal next tokens keep their score, all others get ``-inf``. At the end of an identifier only EOS is legal, and its score is 0: ending
    costs nothing, so a beam's score is the identifier's own log-probability (natural log; set ``length_penalty=0.0``). A row that has
    left the trie (more beams than identifiers) keeps a beam score of ``-inf``.

    Where other processors leave a row nothing that is legal, or scores are NaN, a call on the CPU raises ``ValueError``. On an accelerator,
    where it does not wait to look, the legal tokens get a very low score, so that the output is an identifier all the same. Assisted
    decoding (an assistant model, prompt lookup) takes tokens back: it needs `prompt_length`.

    With ``objective="trie"`` the legal tokens' scores are normalised to probabilities among themselves, for checkpoints that were trained
    so (`GRLMConfig.objective`).

    Nothing of size rows × vocabulary is computed: the result is a tensor of ``-inf`` with the legal entries written into it. It is reused,
    those entries restored, once nobody else holds it. (Writes that torch does not count, such as through ``.data`` or ``.numpy()``, would
    show in a later result.) On an accelerator no call waits for the device.

    One processor serves many ``generate()`` calls, one after the other. Concurrent calls need one each (the trie is shared). So does a call
    with a prompt that continues by one token what the beams of an unfinished call before it hold; or pass `prompt_length`. Continuous
    batching (``generate_batch``) drops logits processors; do not use it with this one.

    Args:
        trie: from ``catalog.trie(tokenizer)``.
        eos_token_id: what ends the generation; by default the EOS of the trie's tokenizer.
        objective: ``"vocabulary"`` keeps the scores as they come; ``"trie"`` renormalises them over the legal tokens.
        prompt_length: tokens of the (padded) prompt, if the first call is not at its end.
        tokenizer: the model's; refused if the trie was built with another.
        after: token ids of a trigger, such as those of ``</think>\\n``. Up to the first trigger behind the prompt a row is free text, which
            only must not end; behind it the row is an identifier. Needs `prompt_length`.

    Raises `ValueError` for no EOS, or one that identifiers use; another tokenizer; a model whose vocabulary is smaller than the trie's;
    rows of ids that are not rows of scores; a trigger without `prompt_length`.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        trie: Trie,
        eos_token_id: int | None = None,
        objective: str = "vocabulary",
        prompt_length: int | None = None,
        tokenizer: Any = None,
        after: Sequence[int] = (),
    ):
        if after and prompt_length is None:
            raise ValueError("after=… looks for the trigger behind the prompt; give the prompt's tokens as prompt_length.")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective is {objective!r}; expected one of {OBJECTIVES}.")
        if tokenizer is not None and trie.tokenizer_hash != (found := tokenizer_hash(tokenizer)):
            raise ValueError(
                f"The trie was built with another tokenizer (hash {trie.tokenizer_hash or 'unknown'}) than the one given (hash "
                f"{found}); its paths would not be this model's labels. Build it with catalog.trie(tokenizer)."
            )
        eos = trie.eos_token_id if eos_token_id is None else eos_token_id
        if eos is None or eos < 0:
            raise ValueError(f"eos_token_id is {eos!r}; expected the id of the token that ends a generation (the tokenizer has none).")
        if (trie.tokens == eos).any():
            raise ValueError(f"EOS token {eos} occurs inside identifiers; generation would stop in the middle of one.")
        self.trie = trie
        self.eos_token_id = eos
        self.objective = objective
        self.prompt_length = prompt_length
        self.after = tuple(after)
        self._canvases = _Canvases()
        self._rows: _HostRows | _DeviceRows | None = None  # which also holds _TriggeredRows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`input_ids` [rows, length] int64, `scores` [rows, vocabulary] float → another tensor of scores, same shape and dtype."""
        if input_ids.dim() != 2 or scores.dim() != 2 or len(input_ids) != len(scores):
            raise ValueError(
                f"Found input_ids {list(input_ids.shape)} and scores {list(scores.shape)}; expected one row of scores for each row of ids, "
                "as generate() gives them. Continuous batching is not supported."
            )
        if scores.shape[-1] < max(self.trie.vocab, self.eos_token_id + 1):
            raise ValueError(
                f"The trie uses token ids up to {max(self.trie.vocab - 1, self.eos_token_id)}; the model scores only {scores.shape[-1]}. "
                "The trie was built with another model's tokenizer."
            )
        if self.prompt_length is not None and input_ids.shape[1] < self.prompt_length:
            raise ValueError(f"The rows have {input_ids.shape[1]} tokens, fewer than prompt_length={self.prompt_length}.")
        if self._rows is None or self._rows.device != input_ids.device:
            if self.after:
                self._rows = _TriggeredRows(self.trie, self.eos_token_id, self.prompt_length, input_ids.device, self.after)
            else:
                kind = _HostRows if input_ids.device.type == "cpu" else _DeviceRows
                self._rows = kind(self.trie, self.eos_token_id, self.prompt_length, input_ids.device)
        index, values = self._rows.legal(input_ids, scores, self.objective == "trie")
        constrained = self._canvases.paint(scores, index, values)
        if not self.after:
            return constrained  # type: ignore[return-value]
        free = scores.index_fill(1, torch.tensor([self.eos_token_id], device=scores.device), -torch.inf)
        return torch.where(self._rows.begun[:, None], constrained, free)  # type: ignore[union-attr, return-value]


class _HostRows:
    """The trie node of each row of the last call. On a CPU NumPy is several times faster than tensors for these few numbers."""

    def __init__(self, trie: Trie, eos: int, prompt_length: int | None, device: torch.device):
        self.walker, self.eos, self.prompt_length, self.device = TrieWalker(trie), eos, prompt_length, device
        self._weights = _hash_weights(64)
        self._shape, self._depth, self._over = (0, 0), 0, False

    def legal(self, input_ids: torch.Tensor, scores: torch.Tensor, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat indices of the legal entries of `scores`, and what to write there."""
        ids = input_ids.numpy()
        lo, hi, depth = self._nodes(ids, scores.shape[1])
        if depth == 0:  # the root has the most children, and all rows are there
            _, token, child_lo, child_hi = (np.tile(x, len(lo)) for x in self.walker.children(lo[:1], hi[:1], depth))
            row = np.repeat(np.arange(len(lo)), len(token) // len(lo))
        else:
            row, token, child_lo, child_hi = self.walker.children(lo, hi, depth)
        flat = row * scores.shape[1] + token
        self._children = flat, child_lo, child_hi
        self._over = not len(row)
        # A complete identifier may only end. So may a row off the trie: EOS and the padding behind it lead there. A beam that left by an
        # illegal token is at -inf already, and a row of nothing but -inf would turn into NaN under a softmax.
        has_child = np.zeros(len(ids), bool)
        has_child[row] = True
        closing = (~has_child).nonzero()[0]
        if len(closing):
            flat = np.concatenate((flat, closing * scores.shape[1] + self.eos))
        index = torch.from_numpy(flat)
        values = torch.take(scores, index)
        _check_legal(values[: len(row)], row)
        if renormalise:
            normalised = segment_log_softmax(values[: len(row)], torch.from_numpy(row), len(scores))
            values = torch.cat((normalised, values[len(row) :]))
        values[len(row) :] = 0.0
        return index, values

    def _nodes(self, ids: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray, int]:
        n, length = ids.shape
        if length > len(self._weights):
            self._weights = np.concatenate((self._weights, _hash_weights(length)))  # what was hashed before stays as it is
        if not length:  # a prompt of embeddings
            ids, length = np.zeros((n, 1), np.int64), 0
        before = ids[:, :-1] @ self._weights[: ids.shape[1] - 1]
        last = ids[:, -1]
        parent = self._parents(ids, before) if length else None
        if parent is not None:
            key, child_lo, child_hi = self._children
            wanted = parent * vocab + last
            if len(key):
                at = key.searchsorted(wanted)
                hit = key.take(at, mode="clip") == wanted
                lo, hi = child_lo.take(at, mode="clip") * hit, child_hi.take(at, mode="clip") * hit
            else:
                lo = hi = parent * 0
            self._depth += 1
        else:
            _refuse_proposals(self.prompt_length)
            self._start = length if self.prompt_length is None else self.prompt_length
            lo, hi, depth = self.walker.root(n)
            for token in ids[:, self._start : length].T:
                lo, hi, depth = self.walker.step(lo, hi, depth, token)
            self._depth = length - self._start
        self._shape, self._digest = (n, length), before + last * self._weights[length - 1]
        self._written = ids[:, self._start : length].copy()
        return lo, hi, self._depth

    def _parents(self, ids: np.ndarray, before: np.ndarray) -> np.ndarray | None:
        """The row of the last call that each row continues by one token. ``None`` where not all do, or where rows that had all ended are
        followed by another token than EOS: then another generation begins."""
        n, length = ids.shape
        if self._shape != (n, length - 1) or (self._over and not (ids[:, -1] == self.eos).any()):
            return None
        parent = np.arange(n)
        if not (before == self._digest).all():
            order = self._digest.argsort()
            parent = order.take(self._digest[order].searchsorted(before), mode="clip")
            if not (self._digest[parent] == before).all():
                return None
        # Equal hashes mean equal prompts; the tokens that the node depends on are compared themselves.
        return parent if (self._written[parent] == ids[:, self._start : -1]).all() else None


def _refuse_proposals(prompt_length: int | None) -> None:
    """Raises ``ValueError`` in a decoding that proposes several tokens at once and takes some back (an assistant model, prompt lookup),
    unless it is known where the prompt ends: what a row was in the last call then says nothing about it."""
    frame: FrameType | None = sys._getframe(1)
    while prompt_length is None and frame is not None:
        if frame.f_code.co_name == "_assisted_decoding":
            raise ValueError(
                "assisted decoding (assistant_model, prompt_lookup_num_tokens) takes tokens back, so the processor must know where the "
                "prompt ends: TrieConstrainedLogitsProcessor(trie, prompt_length=input_ids.shape[1]), one for each generate()."
            )
        frame = frame.f_back


def _check_legal(values: torch.Tensor, row: np.ndarray) -> None:
    """Raises ``ValueError`` where a row with children has none left that may be written, or scores that are no numbers."""
    if not len(row):
        return
    found = values.detach().float().numpy()
    if np.isnan(found).any():
        raise ValueError(
            "The model's scores for identifiers are not numbers (NaN). Its weights are broken, or overflow in their type: `grlm doctor` "
            "finds broken weights."
        )
    opens = np.flatnonzero(np.diff(row, prepend=-1))
    if (nothing := np.flatnonzero(np.maximum.reduceat(found, opens) == -np.inf)).size:
        raise ValueError(
            f"Row {int(row[opens[nothing[0]]])} has nothing left to write: other options of generate() forbid every token that the trie "
            "allows (no_repeat_ngram_size, bad_words_ids, suppress_tokens, sequence_bias, or a processor of yours). Leave them out, or put "
            "a processor of yours behind this one."
        )


_LOW = -1e4
"""On an accelerator, where no call may wait to look: the score of a legal token in a row in which nothing else is left."""


class _DeviceRows:
    """The same as tensors of fixed shapes, with children padded to the widest node. So nothing is read back from the device."""

    def __init__(self, trie: Trie, eos: int, prompt_length: int | None, device: torch.device):
        self.walker, self.eos, self.prompt_length, self.device = TrieWalker(trie, device), eos, prompt_length, device
        self._weights = torch.from_numpy(_hash_weights(64)).to(device)
        self._shape = (0, 0)
        self._depth = self._over = self._digest = self._token = self._lo = self._hi = torch.zeros(0, device=device)

    def legal(self, input_ids: torch.Tensor, scores: torch.Tensor, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        n, length = input_ids.shape
        if length > len(self._weights):
            self._weights = torch.cat((self._weights, torch.from_numpy(_hash_weights(length)).to(self.device)))
        digest = (input_ids * self._weights[:length]).sum(1)
        lo, hi, depth = self.walker.root(n)
        if self.prompt_length is not None:  # the rows themselves say all
            for token in input_ids[:, self.prompt_length :].unbind(1):
                lo, hi, depth = self.walker.step(lo, hi, depth, token)
        elif self._shape != (n, length - 1):
            _refuse_proposals(None)
        else:
            last = input_ids[:, -1]
            same = (digest - last * self._weights[length - 1])[:, None] == self._digest
            continued = same.any(1)
            goes_on = continued.all() & ~(self._over & (last != self.eos).all())
            parent = same.int().argmax(1)
            match = (self._token[parent] == last[:, None]) & continued[:, None]
            at = match.int().argmax(1, keepdim=True)
            hit = match.any(1)
            below = (torch.where(hit, x[parent].gather(1, at)[:, 0], 0) for x in (self._lo, self._hi))
            lo, hi = (torch.where(goes_on, x, root) for x, root in zip(below, (lo, hi), strict=True))
            depth = torch.where(goes_on, self._depth + 1, 0)
        self._shape, self._digest = (n, length), digest
        return self._legal_at(lo, hi, depth, scores, renormalise)

    def _legal_at(
        self, lo: torch.Tensor, hi: torch.Tensor, depth: torch.Tensor, scores: torch.Tensor, renormalise: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._depth = depth
        token, self._lo, self._hi, valid = self.walker.children_padded(lo, hi, depth)
        self._token = torch.where(valid, token, -1)
        closing = ~valid[:, :1]
        self._over = closing.all()
        # Padding repeats the row's first entry: written twice, the same.
        token = torch.where(closing, self.eos, torch.where(valid, token, token[:, :1]))
        values = scores.gather(1, token)
        nothing = (values.isnan() | (values == -torch.inf) | ~valid).all(1, keepdim=True) & ~closing
        values = torch.where(nothing | values.isnan(), _LOW, values)
        if renormalise:
            values = values.masked_fill(~valid & ~closing, -torch.inf).log_softmax(1)
            values = torch.where(valid, values, values[:, :1])
        values = torch.where(closing, values.new_zeros(()), values)
        row = torch.arange(len(scores), device=self.device)[:, None] * scores.shape[1]
        return (row + token).flatten(), values.flatten()


class _TriggeredRows(_DeviceRows):
    """Rows that are free text up to a trigger. The whole row is read at each call, so nothing is kept between calls.

    Attributes:
        begun: bool [rows]; the trigger has been written.
    """

    def __init__(self, trie: Trie, eos: int, prompt_length: int | None, device: torch.device, trigger: tuple[int, ...]):
        super().__init__(trie, eos, prompt_length, device)
        self.trigger = torch.tensor(trigger, device=device)
        self.begun = torch.zeros(0, dtype=torch.bool, device=device)

    def legal(self, input_ids: torch.Tensor, scores: torch.Tensor, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        written = input_ids[:, self.prompt_length :]
        n, length, size = len(written), written.shape[1], len(self.trigger)
        self.begun = torch.zeros(n, dtype=torch.bool, device=self.device)
        lo, hi, depth = (x.clone() for x in self.walker.root(n))
        for at in range(length):
            below = self.walker.step(lo, hi, depth, written[:, at])
            lo, hi, depth = (torch.where(self.begun, x, before) for x, before in zip(below, (lo, hi, depth), strict=True))
            if at + 1 >= size:
                self.begun = self.begun | (written[:, at + 1 - size : at + 1] == self.trigger).all(1)
        return self._legal_at(lo, hi, depth, scores, renormalise)


class _Canvases:
    """Tensors of ``-inf``, at most two, reused when nobody else holds them and nobody has written into them. Restoring the few entries
    written last costs less than filling rows × vocabulary; `benchmarks/decoding/mask.py` times the whole call."""

    def __init__(self) -> None:
        self._kept: list[tuple[torch.Tensor, int, torch.Tensor]] = []  # tensor, its version as handed out, entries to restore

    def paint(self, like: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """A tensor as `like`, ``-inf`` but for `values` [n] at the flat `index` [n]."""
        canvas = self._take(like)
        canvas.put_(index, values)
        if not canvas.is_inference() and not canvas.requires_grad:  # the former counts no changes, the latter has a graph
            self._kept.append((canvas, canvas._version, index))
            del self._kept[:-2]
        return canvas

    def _take(self, like: torch.Tensor) -> torch.Tensor:
        for i, kept in enumerate(self._kept):
            canvas, version, index = kept
            fits = canvas.shape == like.shape and canvas.dtype == like.dtype and canvas.device == like.device
            fits &= not canvas.requires_grad
            del canvas
            if fits and kept[0]._version == version and _holders(kept) == _ALONE:
                canvas = self._kept.pop(i)[0]
                canvas.view(-1).index_fill_(0, index, -torch.inf)
                return canvas
        return torch.full_like(like, -torch.inf, memory_format=torch.contiguous_format)


def _holders(kept: tuple[torch.Tensor, int, torch.Tensor]) -> tuple[int, int]:
    """Reference counts of a tensor and of its storage, which a view holds. -1 where this torch has no count: that equals no `_ALONE`."""
    count = getattr(torch._C, "_storage_Use_Count", None)  # what its CUDA graphs ask, too
    return sys.getrefcount(kept[0]), count(kept[0].untyped_storage()._cdata) if count else -1


_ALONE = tuple(map(abs, _holders((torch.zeros(1), 0, torch.zeros(1)))))


def _hash_weights(n: int) -> np.ndarray:
    """Int64 [n], odd and random: two rows that differ have equal weighted sums with a chance of 2**-46 at most."""
    return np.random.default_rng().integers(-(2**63), 2**63 - 1, n, np.int64) | 1
