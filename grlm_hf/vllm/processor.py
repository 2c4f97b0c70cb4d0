"""The constraint as a logits processor of vLLM, for the model runners V1 and V2. Loads vLLM.

vLLM finds it by itself where grlm-hf is installed (entry point ``vllm.logits_processors``), or takes it as
``LLM(..., logits_processors=["grlm_hf.vllm:TrieConstrainedLogitsProcessor"])``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from grlm_hf.vllm.arguments import check
from grlm_hf.vllm.catalogs import Catalogs, Constraint, Loaded, log_once
from grlm_hf.vllm.device import DeviceRows
from grlm_hf.vllm.scores import next_scores, put

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
except ImportError:  # a vLLM that has the one model runner only
    _INTERFACES: tuple[Any, ...] = (LogitsProcessor,)
else:
    _INTERFACES = (LogitsProcessor, LogitsProcessorV2)


class TrieConstrainedLogitsProcessor(*_INTERFACES):  # type: ignore[misc]
    """Limits requests to the identifiers of a catalog; does not change requests without a constraint.

    ``SamplingParams(extra_args={"grlm_constrain": True, ...})`` constrains one request, over HTTP ``vllm_xargs`` (`arguments.KEYS`);
    ``additional_config={"grlm": {"constrain": "always"}}`` constrains all. The catalog is that of the checkpoint, or one from the
    environment variable ``GRLM_CATALOGS``. The identifier begins where the prompt ends, and the text ends with it.

    Legal next tokens get their log-probability, over the whole vocabulary or over all children of the trie's node, as the checkpoint was
    trained (`GRLMConfig.objective`); all others get ``-inf``. EOS after a complete identifier has 0. So under
    ``logprobs_mode="processed_logits"`` and temperature 0 (or 1) the reported values add up to the score of `recommend`. Where nothing is
    legal (the rules leave out all items, the catalog could not be loaded, another processor forbids the rest), only EOS is legal: the text
    is empty or breaks off, but it is never unconstrained.

    **vLLM's own beam search** (``LLM.beam_search``) submits each beam as a new prompt with ``max_tokens=1`` and no arguments. If the engine
    constrains all requests, such a request continues the identifier that its prompt has begun: the tokens after the last one that is not
    inside an identifier (the newline of an item's line, or the end of the generation prompt). There a prompt that ends with a whole item
    and a finished beam would look the same. Therefore EOS replaces the last token of an identifier and has its log-probability: a beam ends
    one token early, and the trie has one child to complete it with. This needs ``logprobs_mode="processed_logits"``, and ``max_logprobs``
    of twice the width. Beams with `grlm_hf.vllm.scores.NO_BEAM` or less are invalid.

    If the entry point and the argument both name this class, vLLM makes two processors; the second does nothing.

    Raises:
        ValueError: ``GRLM_CATALOGS`` or ``additional_config["grlm"]`` cannot be read. (A catalog that cannot be read is logged.)
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Checks a request at admission. Raises ``ValueError`` for arguments that no engine could follow (`arguments.check`)."""
        check(sampling_params.extra_args)

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool | None = None):
        # V1 passes a device and a flag; V2 passes the states of its requests
        if is_pin_memory is None:
            self._rows: Any = DeviceRows(Catalogs.of(vllm_config), device, vllm_config.speculative_config is not None)
        else:
            model, scheduler = vllm_config.model_config, vllm_config.scheduler_config
            self._rows = HostRows(Catalogs.of(vllm_config))
            if self._rows.catalogs.folders and scheduler.async_scheduling and not model.logits_processors:
                log_once(_PLACEHOLDERS)

    def is_argmax_invariant(self) -> bool:
        return False  # it changes what greedy decoding writes

    def update_state(self, batch_update: Any) -> None:
        """V1: requests removed, added and moved."""
        self._rows.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot; returns whether it is constrained."""
        return self._rows.add(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """V2: copies the requests of `add_request` to the device."""
        self._rows.flush()

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """`logits` float32 [rows, vocabulary], changed in place and returned."""
        return self._rows.apply(logits) if ctx is None else self._rows.apply(logits, ctx)


_PLACEHOLDERS = (
    "With asynchronous scheduling, vLLM's V1 model runner reports sampled tokens only to processors that logits_processors names: requests "
    "with a constraint would end after one token. Pass logits_processors=['grlm_hf.vllm:TrieConstrainedLogitsProcessor'] "
    "(--logits-processors) as well, or async_scheduling=False (--no-async-scheduling)."
)


class _Walk:
    """A request: its node in the trie, and the number of tokens of its output that led there."""

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
    """The beginning of an identifier at the end of a prompt: the last tokens that are tokens inside identifiers.

    It has at most one token more than identifiers have, which is enough to lead off the trie.
    """
    inner, found = loaded.inner, list[int]()
    assert inner is not None
    for token in reversed((prompt or ())[-loaded.index.trie.depth - 1 :]):
        if not (0 <= token < len(inner) and inner[token]):
            break
        found.append(int(token))
    return found[::-1]


class HostRows:
    """V1: the rows of the batch on the CPU, in NumPy. Only `apply` touches the device, and it does not wait for it."""

    def __init__(self, catalogs: Catalogs):
        self.catalogs = catalogs
        self._walks: dict[int, _Walk] = {}

    def update(self, batch: Any) -> None:
        process_dict_updates(self._walks, batch, self._walk)

    def _walk(self, params: Any, prompt: Sequence[int] | None, output: list[int]) -> _Walk | None:
        constraint = self.catalogs.constraint(params)
        return None if constraint is None else _Walk(constraint, prompt, output)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._walks:
            return logits
        # A second processor of ours has the same requests; the first in a step does the work.
        if getattr(logits, "_grlm_rows", self) is not self:
            return logits
        logits._grlm_rows = self  # type: ignore[attr-defined]
        of: dict[Loaded | None, list[int]] = {}
        for row, walk in self._walks.items():
            if row < len(logits):
                of.setdefault(walk.constraint.loaded, []).append(row)
        for loaded, rows in of.items():
            walks, at = [self._walks[row] for row in rows], put(rows, logits.device)
            if loaded is None:
                token = put([[walk.constraint.eos] for walk in walks], logits.device)
                values = torch.zeros(token.shape, dtype=logits.dtype, device=logits.device)
            else:
                token, values = _scores(loaded, walks, logits if rows == list(range(len(logits))) else logits[at])
            logits.index_fill_(0, at, -torch.inf)
            logits[at[:, None], token] = values
        return logits


def _scores(loaded: Loaded, walks: list[_Walk], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`next_scores` of `logits`, which has one row for each of `walks`."""
    n, walker = len(walks), loaded.index.walker
    known = _advance(loaded, walks)
    lo, hi, depth = np.array([walk.node for walk in walks], np.int64).T
    hi = np.where(known, hi, lo)  # nothing is legal where the text is not wholly known
    row, token, child_lo, child_hi = walker.children(lo, hi, depth)
    tail = np.array([walk.constraint.tail for walk in walks])
    closes = tail[row] & walker.ends(child_lo, child_hi, depth[row] + 1)
    legal = np.ones(len(row), bool)
    for allowed in {id(walk.constraint.allowed): walk.constraint.allowed for walk in walks}.values():
        if allowed is not None:
            of = np.array([walk.constraint.allowed is allowed for walk in walks])[row]
            legal[of] = allowed[child_hi[of]] > allowed[child_lo[of]]
    count = np.bincount(row, minlength=n)
    column = np.arange(len(row)) - (count.cumsum() - count)[row]

    def padded(values: np.ndarray) -> torch.Tensor:
        found = np.zeros((n, max(count.max(), 1)), values.dtype)
        found[row, column] = values
        return put(found, logits.device)

    valid = padded(np.ones_like(legal))
    padding = padded(token), valid, padded(legal), padded(closes)
    return next_scores(logits, *padding, put(tail, logits.device), loaded.eos, loaded.objective)


def _advance(loaded: Loaded, walks: list[_Walk]) -> np.ndarray:
    """Reads the tokens written since the last step, of all requests at once. Bool [walks]: the whole output of the request is known."""
    for walk in walks:
        if len(walk.output) < walk.read:  # tokens were taken back
            walk.node, walk.read = walk.root, 0
    while unread := [walk for walk in walks if len(walk.output) > walk.read and walk.output[walk.read] >= 0]:
        lo, hi, depth = np.array([walk.node for walk in unread], np.int64).T
        node = loaded.index.walker.step(lo, hi, depth, np.array([walk.output[walk.read] for walk in unread], np.int64))
        for walk, *at in zip(unread, *(x.tolist() for x in node), strict=True):
            walk.node, walk.read = tuple(at), walk.read + 1
    known = np.array([walk.read == len(walk.output) for walk in walks])
    if not known.all():
        log_once(_PLACEHOLDERS)
    return known
