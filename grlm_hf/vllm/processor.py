"""The constraint as a logits processor of vLLM, for the model runners V1 and V2. Loads vLLM.

vLLM finds it by itself where grlm-hf is installed (entry point ``vllm.logits_processors``), or takes it as
``LLM(..., logits_processors=["grlm_hf.vllm:TrieConstrainedLogitsProcessor"])``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from grlm_hf.trie.walker import segment_log_softmax
from grlm_hf.vllm.arguments import check
from grlm_hf.vllm.catalogs import NO_BEAM, Catalogs, Constraint, Loaded, log_once
from grlm_hf.vllm.device import DeviceRows, put

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
except ImportError:  # a vLLM that has the one model runner only
    _INTERFACES: tuple[Any, ...] = (LogitsProcessor,)
else:
    _INTERFACES = (LogitsProcessor, LogitsProcessorV2)


class TrieConstrainedLogitsProcessor(*_INTERFACES):  # type: ignore[misc]
    """Holds the requests that ask for it to the identifiers of a catalog; all others are left as they are.

    A request asks by ``SamplingParams(extra_args={"grlm_constrain": True, ...})``, over HTTP by ``vllm_xargs`` (`arguments.KEYS`), or the
    engine asks for all (``additional_config={"grlm": {"constrain": "always"}}``). The catalog is that of the checkpoint served, or one that
    the environment variable ``GRLM_CATALOGS`` names. The identifier begins where the prompt ends, and the text ends with it.

    Legal next tokens get their log-probability, over the whole vocabulary or over all children of the trie's node, as the checkpoint was
    trained (`GRLMConfig.objective`); all others ``-inf``. EOS behind a complete identifier has 0. So under
    ``logprobs_mode="processed_logits"`` and temperature 0 (or 1) the reported values add up to the score that `recommend` gives. Where
    nothing is legal, since the rules leave out all items, the catalog could not be loaded, or another processor forbids all that is left,
    only EOS is: the text is empty or breaks off, but is never unconstrained.

    **vLLM's own beam search** (``LLM.beam_search``) submits each beam as a new prompt with ``max_tokens=1`` and no arguments. So where the
    engine constrains all, such a request continues what stands behind the last token of its prompt that is none inside an identifier
    (the newline that ends an item's line, or the end of the chat template's generation prompt). A prompt that ends with a whole item and
    a beam that is finished would look the same there; therefore EOS stands for the last token of an identifier and has its
    log-probability. A beam thus ends one token early: complete its tokens but EOS with the one child that the trie has there. It needs
    ``logprobs_mode="processed_logits"``, and ``max_logprobs`` of twice the width. Beams at `NO_BEAM` or less are none.

    With the entry point and the argument both, vLLM makes two of these; the second does nothing.

    Raises:
        ValueError: ``GRLM_CATALOGS`` or ``additional_config["grlm"]`` cannot be read. (A catalog that cannot is logged.)
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """At admission. Raises ``ValueError`` for arguments that no engine could follow (`arguments.check`)."""
        check(sampling_params.extra_args)

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool | None = None):
        # V1 gives a device and a flag; V2 gives the states of its requests
        if is_pin_memory is None:
            self._rows: Any = DeviceRows(Catalogs.of(vllm_config), device, vllm_config.speculative_config is not None)
        else:
            model, scheduler = vllm_config.model_config, vllm_config.scheduler_config
            self._rows = HostRows(Catalogs.of(vllm_config))
            if self._rows.catalogs.folders and scheduler.async_scheduling and not model.logits_processors:
                log_once(_PLACEHOLDERS)

    def is_argmax_invariant(self) -> bool:
        """False: it changes what greedy decoding writes."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: requests removed, added and moved."""
        self._rows.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: the request in a slot; whether it is constrained."""
        return self._rows.add(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """V2: what `add_request` noted, to the device."""
        self._rows.flush()

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """`logits` float32 [rows, vocabulary], changed in place and returned."""
        return self._rows.apply(logits) if ctx is None else self._rows.apply(logits, ctx)


_PLACEHOLDERS = (
    "With asynchronous scheduling vLLM's V1 model runner tells only those processors what was sampled that are named in logits_processors: "
    "requests that ask for a constraint would end after one token. Pass logits_processors=['grlm_hf.vllm:TrieConstrainedLogitsProcessor'] "
    "(--logits-processors) as well, or async_scheduling=False (--no-async-scheduling)."
)


class _Walk:
    """A request under way: where it stands in the trie, and how many tokens of its output it has read."""

    __slots__ = ("constraint", "node", "output", "read", "root")

    def __init__(self, constraint: Constraint, prompt: Sequence[int] | None, output: list[int]):
        self.constraint, self.output, self.read = constraint, output, 0
        self.root = (0, 0, 0)
        if constraint.loaded is not None:
            walker = constraint.loaded.index.walker
            node = walker.root(1)
            if constraint.tail:
                for token in written(constraint.loaded, prompt):
                    node = walker.step(*node, np.array([token]))
            self.root = tuple(int(x[0]) for x in node)  # type: ignore[assignment]
        self.node = self.root


def written(loaded: Loaded, prompt: Sequence[int] | None) -> list[int]:
    """The part of an identifier that stands at the end of a prompt: its last tokens, as far as they are tokens inside identifiers.

    One token more than identifiers have at most is as good as any number more: they lead off the trie.
    """
    inner, found = loaded.inner, list[int]()
    assert inner is not None
    for token in reversed((prompt or ())[-loaded.index.trie.depth - 1 :]):
        if not (0 <= token < len(inner) and inner[token]):
            break
        found.append(int(token))
    return found[::-1]


class HostRows:
    """V1: the batch's rows on the CPU, in NumPy. `apply` alone touches the device, and does not wait for it."""

    def __init__(self, catalogs: Catalogs):
        self.catalogs = catalogs
        self._walks: dict[int, _Walk] = {}

    def update(self, batch: Any) -> None:
        if batch is None:
            return
        for row in batch.removed:
            self._walks.pop(row, None)
        for row, params, prompt, output in batch.added:
            self._walks.pop(row, None)
            if (constraint := self.catalogs.constraint(params)) is not None:
                self._walks[row] = _Walk(constraint, prompt, output)
        for a, b, direction in batch.moved:
            first, second = self._walks.pop(a, None), self._walks.pop(b, None)
            if first is not None:
                self._walks[b] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self._walks[a] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._walks:
            return logits
        # Another of our kind, given twice, has the same requests; whoever comes first in a step does the work.
        if getattr(logits, "_grlm_rows", self) is not self:
            return logits
        logits._grlm_rows = self  # type: ignore[attr-defined]
        of: dict[Loaded | None, list[int]] = {}
        for row, walk in self._walks.items():
            if row < len(logits):
                of.setdefault(walk.constraint.loaded, []).append(row)
        for loaded, rows in of.items():
            walks = [self._walks[row] for row in rows]
            if loaded is None:
                at = put(rows, logits.device)
                logits.index_fill_(0, at, -torch.inf)
                logits[at, put([walk.constraint.eos for walk in walks], logits.device)] = 0.0
            else:
                self._constrain(loaded, walks, rows, logits)
        return logits

    @staticmethod
    def _constrain(loaded: Loaded, walks: list[_Walk], rows: list[int], logits: torch.Tensor) -> None:
        """Writes these rows of `logits`, one for each of `walks`."""
        device, n = logits.device, len(walks)
        at = put(rows, device)
        known = _advance(loaded, walks)
        lo, hi, depth = np.array([walk.node for walk in walks], np.int64).T
        hi = np.where(known, hi, lo)  # else not all tokens of the row are known: nothing is legal
        row, token, child_lo, child_hi = loaded.index.walker.children(lo, hi, depth)
        tail = np.array([walk.constraint.tail for walk in walks])
        closes = tail[row] & loaded.index.walker.ends(child_lo, child_hi, depth[row] + 1)
        legal = np.bincount(row[closes], minlength=n)[row] < 2  # two ends, and one EOS to stand for them: neither is written
        for mask, having in _grouped(walk.constraint.mask for walk in walks):
            if mask is not None:
                of = np.isin(row, having) if len(having) < n else np.ones(len(row), bool)
                legal[of] &= mask(child_lo[of], child_hi[of]) > -np.inf
        # Scores: over all children, not the legal ones alone, so that a rule changes no item's score.
        scores = logits if rows == list(range(len(logits))) else logits[at]
        row_at, token_at = put(row, device), put(token, device)
        values = scores[row_at, token_at]
        values = segment_log_softmax(values, row_at, n) if loaded.objective == "trie" else values - scores.logsumexp(1)[row_at]
        values = torch.where(put(legal, device) & ~values.isnan(), values, -torch.inf)
        best = values.new_full((n,), -torch.inf).scatter_reduce(0, row_at, values, "amax")
        # EOS is legal where nothing else is, be it the end, a rule, or another processor; or stands for an identifier's last token.
        none = torch.where(put(tail, device), NO_BEAM, 0.0)
        eos = torch.where(best == -torch.inf, none, -torch.inf)
        end = np.flatnonzero(closes & legal)
        if len(end):
            of_row = put(row[end], device)
            eos[of_row] = torch.maximum(eos[of_row], values[put(end, device)])
        if closes.any():
            others = put(np.flatnonzero(~closes), device)
            row_at, token_at, values = row_at[others], token_at[others], values[others]
        logits.index_fill_(0, at, -torch.inf)
        logits[at[row_at], token_at] = values
        logits[at, torch.full((n,), loaded.eos, device=device)] = eos


def _advance(loaded: Loaded, walks: list[_Walk]) -> np.ndarray:
    """Reads what has been written since the last step, all requests at once. Bool [walks]: the whole output of the request is known."""
    todo, known = [], np.ones(len(walks), bool)
    for i, walk in enumerate(walks):
        if len(walk.output) < walk.read:  # tokens were taken back
            walk.node, walk.read = walk.root, 0
        if len(walk.output) > walk.read:
            todo.append((i, walk))
    while todo:
        for i, walk in todo:
            if walk.output[walk.read] < 0:
                known[i] = False
                log_once(_PLACEHOLDERS)
        todo = [(i, walk) for i, walk in todo if known[i]]
        if not todo:
            break
        lo, hi, depth = np.array([walk.node for _, walk in todo], np.int64).T
        node = loaded.index.walker.step(lo, hi, depth, np.array([walk.output[walk.read] for _, walk in todo], np.int64))
        for (_, walk), *at in zip(todo, *(x.tolist() for x in node), strict=True):
            walk.node, walk.read = tuple(at), walk.read + 1
        todo = [(i, walk) for i, walk in todo if len(walk.output) > walk.read]
    return known


def _grouped(masks: Iterable[Any]) -> Iterable[tuple[Any, list[int]]]:
    """Each distinct mask and the rows that have it."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for row, mask in enumerate(masks):
        found.setdefault(id(mask), (mask, []))[1].append(row)
    return found.values()
