"""What vLLM says of trie prefixes: the counterpart of `grlm_hf.decoding.prefixes`, in requests of one token.

A node's request is the prompt and the node's path. The engine computes what its prefix cache lacks: of the first request the prompt, of the
others the tokens since their parent's. ``logprob_token_ids`` names the legal children, so nothing of the vocabulary's size is sent back;
the forced tokens of a run are read from the same prefill, as prompt log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grlm_hf.decoding.prefixes import Expansion, among_children, run_end
from grlm_hf.decoding.walker import TrieWalker

MAX_CHILDREN = 128
"""Tokens that one request can name (vLLM's limit); wider nodes are asked for in several requests."""


class VLLMPrefixes:
    """Args:
    llm: a ``vllm.LLM``.
    walker: the trie, as NumPy arrays.
    prompts: int64 token ids of each user's prompt; lengths may differ.
    objective: what probabilities are normalised over (`grlm_hf.decoding.walker.OBJECTIVES`).
    lookahead: tokens of a forced run that one request computes at most; ``None``: all of them.

    Attributes:
        forwards: rounds of requests so far.
    """

    def __init__(self, llm: Any, walker: TrieWalker, prompts: Sequence[np.ndarray], objective: str, lookahead: int | None = None):
        self._llm, self.walker, self.objective = llm, walker, objective
        # Forced tokens have probability 1 under the trie objective, so only what they lead to matters.
        self.lookahead = lookahead if objective == "vocabulary" else None
        self._texts = [np.asarray(p).tolist() for p in prompts]
        self._length = np.array([len(text) for text in self._texts])
        self.forwards = 0

    def root(self) -> Expansion:
        """The empty prefix of every user."""
        users = np.arange(len(self._texts))
        lo, hi, depth = self.walker.root(len(users))
        return self._ask(users, users, depth, lo, hi, depth)

    def expand(self, user: np.ndarray, parent: np.ndarray, have: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Expansion:
        """One round over the nodes ``(lo, hi)``, from token `have` of their paths on to their next choice. All int64 [n].

        Args:
            user: whose.
            parent: `Expansion.slot` of the node that they continue, -1 for the prompt.
            have: tokens of the path up to there.
        """
        end = run_end(self.walker, have, lo, hi, self.lookahead)
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
        texts: list[list[int]] = []
        options: list[dict[str, Any]] = []
        asked: list[tuple[int, int]] = []
        for i, text in enumerate(self._texts[at] for at in slot.tolist()):
            children = token[first[i] : first[i] + count[i]].tolist()
            for begin in range(0, max(len(children), 1), MAX_CHILDREN):
                texts.append(text)
                options.append({"logprob_token_ids": children[begin : begin + MAX_CHILDREN], "chain": begin == 0 and runs[i] > 0})
                asked.append((i, begin))
        outputs = self._generate(texts, options)
        # A cached prefix tells nothing of its own tokens. Usually the cache ends where the parent did; where the same was asked before,
        # it reaches into the run, which is then computed again.
        again = [
            n for n, (i, _) in enumerate(asked)
            if options[n]["chain"] and (outputs[n].num_cached_tokens or 0) > self._length[user[i]] + have[i]
        ]  # fmt: skip
        if again:
            for n, output in zip(
                again, self._generate([texts[n] for n in again], [options[n] for n in again], anew=True), strict=True
            ):  # fmt: skip
                outputs[n] = output
        self.forwards += 1
        # 2. what they say
        logp = np.empty(len(row))
        chain = np.zeros((len(user), int(runs.max(initial=0))))
        for (i, begin), option, output in zip(asked, options, outputs, strict=True):
            told, many = output.outputs[0].logprobs, len(option["logprob_token_ids"])
            logp[first[i] + begin : first[i] + begin + many] = told.logprobs[1 : 1 + many]  # the token sampled comes first
            if option["chain"]:
                told, last = output.prompt_logprobs, len(output.prompt_token_ids)
                chain[i, : runs[i]] = [told.logprobs[told.start_indices[at]] for at in range(last - int(runs[i]), last)]
        if self.objective == "trie":
            logp = among_children(logp, row)
        return Expansion(slot, end, chain, row, child_lo, child_hi, logp)

    def _generate(self, texts: Sequence[list[int]], options: Sequence[dict[str, Any]], anew: bool = False) -> list[Any]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                detokenize=False,
                flat_logprobs=True,
                logprob_token_ids=option["logprob_token_ids"] or [0],
                prompt_logprobs=0 if option["chain"] else None,
                skip_reading_prefix_cache=anew,
                extra_args={"grlm_constrain": False},  # the scores of the model itself
            )
            for option in options
        ]
        return self._llm.generate([{"prompt_token_ids": text} for text in texts], params, use_tqdm=False)
