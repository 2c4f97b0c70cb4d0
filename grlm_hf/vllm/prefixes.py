"""Log-probabilities of trie prefixes from vLLM, as short requests: the counterpart of `grlm_hf.engines.causal`.

A node's request is the prompt and the node's path. The engine computes what its prefix cache lacks: the prompt for the first request, the
tokens after their parent's for the others. ``logprob_token_ids`` names the legal children, so nothing of the vocabulary's size comes back.
The same request reports the forced tokens of a run: written one by one where the engine has `grlm_hf.vllm.forced`, else as
log-probabilities of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grlm_hf.engines.protocol import Batch, Expansion, among_children

KEY = "forced_tokens"
MAX_CHILDREN = 128
"""Maximum number of tokens that a request can name (vLLM's limit); wider nodes take several requests."""


@dataclass(frozen=True)
class _Request:
    """The tokens before a choice, of which `known` were computed before and those of `run` need log-probabilities; the children there."""

    prefix: list[int]
    run: list[int]
    children: list[int]
    known: int


_Scores = tuple[list[float], list[float]]  # log-probabilities of a request's run, and of its children


class VLLMPrefixes:
    """See `grlm_hf.engines.protocol.Prefixes`. One round of requests counts as a forward.

    `forcing`: the engine of the ``vllm.LLM`` has the processor `grlm_hf.vllm.forced.ForcedTokens`.
    """

    def __init__(self, llm: Any, batch: Batch, forcing: bool = False):
        self._llm, self.batch, self._forcing = llm, batch, forcing
        self.walker, self.objective = batch.walker, batch.objective
        self._texts = [np.asarray(p).tolist() for p in batch.prompts]
        self._length = np.array([len(text) for text in self._texts])
        self.forwards = 0

    def root(self) -> Expansion:
        users = np.arange(len(self._texts))
        lo, hi, depth = self.walker.root(len(users))
        return self._expansion(users, users, depth, lo, hi, depth)

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        end = self.batch.run_end(have, lo, hi)
        before = np.where(parent < 0, user, parent)
        slot = len(self._texts) + np.arange(len(user))
        for text, rank, first, last in zip(before.tolist(), lo.tolist(), have.tolist(), end.tolist(), strict=True):
            run = self.walker.token(np.full(last - first, rank), np.arange(first, last))
            self._texts.append(self._texts[text] + run.tolist())
        return self._expansion(user, slot, have, lo, hi, end)

    def _expansion(
        self, user: np.ndarray, slot: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray, end: np.ndarray
    ) -> Expansion:
        row, token, child_lo, child_hi = self.walker.children(lo, hi, end)
        count = np.bincount(row, minlength=len(user))
        first = count.cumsum() - count
        # 1. one request for each node, several for nodes with many children
        runs = np.maximum(end - have - 1, 0) * (self.objective == "vocabulary")  # the forced tokens after the chosen one
        known = self._length[user] + have
        requests: list[_Request] = []
        place: list[tuple[int, int]] = []  # of each request: its node, and its first child among the node's
        for node, text in enumerate(self._texts[at] for at in slot.tolist()):
            children = token[first[node] : first[node] + count[node]].tolist()
            for begin in range(0, len(children), MAX_CHILDREN):
                start = len(text) - (int(runs[node]) if begin == 0 else 0)
                requests.append(_Request(text[:start], text[start:], children[begin : begin + MAX_CHILDREN], int(known[node])))
                place.append((node, begin))
        answers = self._forced(requests) if self._forcing else self._prefilled(requests)
        self.forwards += 1
        # 2. their answers
        logp = np.empty(len(row))
        chain = np.zeros((len(user), int(runs.max(initial=0))))
        for (node, begin), (run, scores) in zip(place, answers, strict=True):
            logp[first[node] + begin : first[node] + begin + len(scores)] = scores
            chain[node, : len(run)] = run
        if self.objective == "trie":
            logp = among_children(logp, row)
        return Expansion(slot, end, chain, row, child_lo, child_hi, logp)

    def _forced(self, requests: Sequence[_Request]) -> list[_Scores]:
        """The answers of an engine that writes forced tokens."""
        options = [{"max_tokens": len(r.run) + 1, "logprob_token_ids": r.children, "extra_args": {KEY: r.run}} for r in requests]
        found = []
        for request, output in zip(requests, self._generate([r.prefix for r in requests], options), strict=True):
            flat = output.outputs[0].logprobs
            *run, end = flat.start_indices  # of each token written: its own log-probability, then those of the children
            found.append(([flat.logprobs[at] for at in run], flat.logprobs[end + 1 : end + 1 + len(request.children)]))
        return found

    def _prefilled(self, requests: Sequence[_Request]) -> list[_Scores]:
        """The answers of any other engine."""
        texts = [r.prefix + r.run for r in requests]
        options: list[dict[str, Any]] = [
            {"logprob_token_ids": r.children, "prompt_logprobs": 0 if r.run else None, "skip_reading_prefix_cache": False} for r in requests
        ]
        outputs = self._generate(texts, options)
        # A cached prefix has no log-probabilities. Usually the cache ends where the parent did. If the same text came before, the cache
        # reaches into the run, which is then computed again.
        again = [n for n, r in enumerate(requests) if r.run and (outputs[n].num_cached_tokens or 0) > r.known]
        anew = self._generate([texts[n] for n in again], [options[n] | {"skip_reading_prefix_cache": True} for n in again])
        for n, output in zip(again, anew, strict=True):
            outputs[n] = output
        found = []
        for request, output in zip(requests, outputs, strict=True):
            prompt, flat = output.prompt_logprobs, output.outputs[0].logprobs  # in the latter the sampled token comes first
            run = [prompt.logprobs[prompt.start_indices[len(request.prefix) + at]] for at in range(len(request.run))]
            found.append((run, flat.logprobs[1 : 1 + len(request.children)]))
        return found

    def _generate(self, texts: Sequence[list[int]], options: Sequence[dict[str, Any]]) -> list[Any]:
        from vllm import SamplingParams

        if not texts:
            return []
        common = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True, "detokenize": False, "flat_logprobs": True, "skip_clone": True}
        unconstrained = {"grlm_constrain": False}  # the model's own scores, whatever our other processor does
        params = [SamplingParams(**(common | o | {"extra_args": unconstrained | o.get("extra_args", {})})) for o in options]
        return self._llm.generate([{"prompt_token_ids": text} for text in texts], params, use_tqdm=False)
