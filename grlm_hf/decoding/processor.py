"""The drop-in constraint for ``generate()`` of any causal language model of transformers."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from grlm_hf.decoding.trie import Trie
from grlm_hf.decoding.walker import OBJECTIVES, TrieWalker, segment_log_softmax


class TrieConstrainedLogitsProcessor(LogitsProcessor):
    """Lets a model write nothing but identifiers of the trie.

    The prompt is what the first call sees; all later tokens of a row are walked through the trie, so beams may move freely. Legal next
    tokens keep their score, all others get ``-inf``. At the end of an identifier only EOS is legal, and its score is 0: ending
    costs nothing, so a beam's score is the identifier's own log-probability (natural log; set ``length_penalty=0.0``). A row that has
    left the trie (more beams than identifiers) keeps a beam score of ``-inf``.

    With ``objective="trie"`` the legal tokens' scores are normalised to probabilities among themselves, for checkpoints that were trained
    so (`GRLMConfig.objective`).

    One processor serves many ``generate()`` calls, one after the other. Concurrent calls need one each (the trie is shared), and so does a
    call whose prompt continues by one token what the beams of an unfinished call before it hold; or pass `prompt_length`.

    Args:
        trie: from ``catalog.trie(tokenizer)``.
        eos_token_id: what ends the generation; by default the EOS of the trie's tokenizer.
        objective: ``"vocabulary"`` keeps the scores as they come; ``"trie"`` renormalises them over the legal tokens.
        prompt_length: tokens of the (padded) prompt, if the first call is not at its end.

    Raises:
        ValueError: EOS is a token that identifiers use, or the model's vocabulary is smaller than the trie's.
    """

    supports_continuous_batching = False

    def __init__(self, trie: Trie, eos_token_id: int | None = None, objective: str = "vocabulary", prompt_length: int | None = None):
        if objective not in OBJECTIVES:
            raise ValueError(f"objective is {objective!r}; expected one of {OBJECTIVES}.")
        eos = trie.eos_token_id if eos_token_id is None else eos_token_id
        if eos is None or eos < 0:
            raise ValueError(f"eos_token_id is {eos!r}; expected the id of the token that ends a generation (the tokenizer has none).")
        if (trie.token == eos).any():
            raise ValueError(f"EOS token {eos} occurs inside identifiers; generation would stop in the middle of one.")
        self.trie = trie
        self.eos_token_id = eos
        self.objective = objective
        self.prompt_length = prompt_length
        self._prompt = 0
        self._last: torch.Tensor | None = None
        self._over = False
        self._walker: TrieWalker | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`input_ids` [rows, length] int64, `scores` [rows, vocabulary] float → a new tensor of scores, same shape and dtype."""
        if scores.shape[-1] < max(self.trie.vocab, self.eos_token_id + 1):
            raise ValueError(
                f"The trie uses token ids up to {max(self.trie.vocab - 1, self.eos_token_id)}; the model scores only {scores.shape[-1]}. "
                "The trie was built with another model's tokenizer."
            )
        if self._walker is None or self._walker.key.device != input_ids.device:
            self._walker = TrieWalker(self.trie, input_ids.device)
        start = self.prompt_length if self.prompt_length is not None else self._start(input_ids)
        state = input_ids.new_zeros(len(input_ids))
        for token in input_ids[:, start:].unbind(1):
            state = self._walker.step(state, token)
        constrained = torch.full_like(scores, -torch.inf)
        row, edge = self._walker.edges(state)
        token = self._walker.token[edge]
        legal = scores[row, token]
        constrained[row, token] = legal if self.objective == "vocabulary" else segment_log_softmax(legal, row, len(state))
        # A complete identifier may only end; so may a row off the trie, where EOS itself and all padding behind it lead. A beam that
        # left by an illegal token is at -inf since then, and a row of nothing but -inf would turn into NaN under a softmax.
        closing = (state < 0) | (self._walker.leaf[state.clamp(min=0)] >= 0)
        constrained[:, self.eos_token_id].masked_fill_(closing, 0.0)
        self._over = bool(closing.all())
        return constrained  # type: ignore[return-value]

    def _start(self, input_ids: torch.Tensor) -> int:
        """Where the prompt of the running ``generate()`` ends. A call goes on if each of its rows is a row of the call before it and one
        token more, EOS where all rows had come to their end; any other opens another generation."""
        last = self._last
        goes_on = (
            last is not None
            and last.shape == (len(input_ids), input_ids.shape[1] - 1)
            and last.device == input_ids.device
            and bool((input_ids[:, None, :-1] == last).all(-1).any(1).all())
            and not (self._over and not (input_ids[:, -1] == self.eos_token_id).any())
        )
        if not goes_on:
            self._prompt = input_ids.shape[1]
        self._last = input_ids.clone()
        return self._prompt
