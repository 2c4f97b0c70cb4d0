"""What vLLM says of trie prefixes: the counterpart of `grlm_hf.engines.causal`, in short requests.

A node's request is the prompt and the node's path. The engine computes what its prefix cache lacks: of the first request the prompt, of
the others the tokens since their parent's. ``logprob_token_ids`` names the legal children, so nothing of the vocabulary's size is sent
back. The forced tokens of a run are told by the same request: written one by one where the engine has `grlm_hf.vllm.forced`, else as
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
"""Tokens that one request can name (vLLM's limit); wider nodes are asked for in several requests."""


class VLLMPrefixes:
    """See `grlm_hf.engines.protocol.Prefixes`. One round of requests counts as a forward.

    Args:
        llm: a ``vllm.LLM``.
        forcing: the engine has the processor `grlm_hf.vllm.forced.ForcedTokens`.
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
        return self._ask(users, users, depth, lo, hi, depth)

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        end = self.batch.run_end(have, lo, hi)
        before = np.where(parent < 0, user, parent)
        run = [
            self.walker.token(np.full(b - a, rank), np.arange(a, b)).tolist()
            for rank, a, b in zip(lo.tolist(), have.tolist(), end.tolist(), strict=True)
        ]
        slot = len(self._texts) + np.arange(len(user))
        self._texts += [self._texts[at] + tokens for at, tokens in zip(before.tolist(), run, strict=True)]
        return self._ask(user, slot, have, lo, hi, end)

    def _ask(self, user: np.ndarray, slot: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray, end: np.ndarray) -> Expansion:
        walker = self.walker
        row, token, child_lo, child_hi = walker.children(lo, hi, end)
        count = np.bincount(row, minlength=len(user))
        first = count.cumsum() - count
        # 1. one request a node, several for those with many children
        runs = np.maximum(end - have - 1, 0) * (self.objective == "vocabulary")  # forced tokens to be told of, behind the chosen one
        requests: list[_Request] = []
        asked: list[tuple[int, int]] = []
        for i, text in enumerate(self._texts[at] for at in slot.tolist()):
            children = token[first[i] : first[i] + count[i]].tolist()
            for begin in range(0, len(children), MAX_CHILDREN):
                requests.append(_Request(text, children[begin : begin + MAX_CHILDREN], int(runs[i]) if begin == 0 else 0))
                asked.append((i, begin))
        told = self._forced(requests) if self._forcing else self._prefilled(requests, self._length[user] + have, [i for i, _ in asked])
        self.forwards += 1
        # 2. what they say
        logp = np.empty(len(row))
        chain = np.zeros((len(user), int(runs.max(initial=0))))
        for (i, begin), (run, scores) in zip(asked, told, strict=True):
            logp[first[i] + begin : first[i] + begin + len(scores)] = scores
            chain[i, : len(run)] = run
        if self.objective == "trie":
            logp = among_children(logp, row)
        return Expansion(slot, end, chain, row, child_lo, child_hi, logp)

    def _forced(self, requests: Sequence[_Request]) -> list[tuple[list[float], list[float]]]:
        """Of each request the log-probabilities of its run, and of its children."""
        outputs = self._generate(
            [r.text[: len(r.text) - r.run] for r in requests],
            [
                {"max_tokens": r.run + 1, "logprob_token_ids": r.children, "extra_args": {KEY: r.text[len(r.text) - r.run :]}}
                for r in requests
            ],
        )
        found = []
        for request, output in zip(requests, outputs, strict=True):
            flat = output.outputs[0].logprobs
            at = flat.start_indices  # of each token written: its own log-probability, then those of the children
            last = at[request.run] + 1
            found.append(([flat.logprobs[i] for i in at[: request.run]], flat.logprobs[last : last + len(request.children)]))
        return found

    def _prefilled(self, requests: Sequence[_Request], known: np.ndarray, node: Sequence[int]) -> list[tuple[list[float], list[float]]]:
        """The same; `known` [nodes] is the number of tokens whose log-probabilities are not asked for."""
        texts = [r.text for r in requests]
        options: list[dict[str, Any]] = [
            {"logprob_token_ids": r.children, "prompt_logprobs": 0 if r.run else None, "skip_reading_prefix_cache": False} for r in requests
        ]
        outputs = self._generate(texts, options)
        # A cached prefix tells nothing of its own tokens. Usually the cache ends where the parent did; where the same was asked before,
        # it reaches into the run, which is then computed again.
        again = [n for n, r in enumerate(requests) if r.run and (outputs[n].num_cached_tokens or 0) > known[node[n]]]
        anew = self._generate([texts[n] for n in again], [options[n] | {"skip_reading_prefix_cache": True} for n in again])
        for n, output in zip(again, anew, strict=True):
            outputs[n] = output
        found = []
        for request, output in zip(requests, outputs, strict=True):
            prompt, flat = output.prompt_logprobs, output.outputs[0].logprobs  # of the latter the token sampled comes first
            places = range(len(request.text) - request.run, len(request.text))
            run = [prompt.logprobs[prompt.start_indices[at]] for at in places]
            found.append((run, flat.logprobs[1 : 1 + len(request.children)]))
        return found

    def _generate(self, texts: Sequence[list[int]], options: Sequence[dict[str, Any]]) -> list[Any]:
        from vllm import SamplingParams

        if not texts:
            return []
        common: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True, "detokenize": False, "flat_logprobs": True}
        # The scores of the model itself: another processor of ours is not to change them.
        common |= {"skip_clone": True, "extra_args": {"grlm_constrain": False}}
        params = [SamplingParams(**(common | o | {"extra_args": common["extra_args"] | o.get("extra_args", {})})) for o in options]
        return self._llm.generate([{"prompt_token_ids": text} for text in texts], params, use_tqdm=False)


@dataclass(frozen=True)
class _Request:
    """The tokens up to a choice, the children there, and how many of the last tokens are a run to be told of."""

    text: list[int]
    children: list[int]
    run: int
