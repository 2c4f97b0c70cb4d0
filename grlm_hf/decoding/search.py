"""Our own beam search over a trie: the prompt is computed once a user, and only legal children are scored.

It keeps the candidates that transformers' beam search keeps (``num_beams`` live prefixes; a complete identifier competes once more with
the next tokens of the others before it is accepted), so items and scores are those of ``generate()`` with the processor and
``length_penalty=0.0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from grlm_hf.decoding.walker import DEAD, TrieWalker, segment_log_softmax


@torch.inference_mode()
def beam_search(
    model: Any, walker: TrieWalker, prompts: Sequence[np.ndarray], num_beams: int, objective: str = "vocabulary", pad_token_id: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `num_beams` best identifiers of each prompt.

    Args:
        model: a causal LM of transformers, in eval mode.
        walker: the trie, on the model's device.
        prompts: int64 token ids of each prompt; lengths may differ.
        num_beams: width of the search.
        objective: what probabilities are normalised over (`grlm_hf.decoding.walker.OBJECTIVES`). Under ``"trie"`` forced tokens have
            probability 1, so a beam with nothing left to choose needs no forward.

    Returns:
        Leaves, int64 [prompts, num_beams], best first, -1 where there are fewer identifiers than beams; and their natural-log
        probabilities, float32, ``-inf`` there.
    """
    device = walker.key.device
    free = walker.forced if objective == "trie" else walker.leaf >= 0  # states whose further tokens need no logits
    batch, width = len(prompts), num_beams
    input_ids, mask = _left_pad(prompts, pad_token_id, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache, position = out.past_key_values, positions[:, -1] + 1

    neg_inf = torch.tensor(-torch.inf, device=device)
    done_score, done_leaf = neg_inf.expand(batch, width), torch.full((batch, width), -1, device=device)
    # Live beams, [batch, beams]: score, state, and the row of the last forward that holds their logits and cache (-1: none).
    score, state = torch.zeros(batch, 1, device=device), torch.zeros(batch, 1, dtype=torch.int64, device=device)
    row_of = torch.arange(batch, device=device)[:, None]
    while True:
        # 1. candidates: every legal child of every live beam, and, behind them, the beams that stand at the end of an identifier
        logits = out.logits[:, -1].float()
        beam, edge = walker.edges(state.flatten())
        owner, row = beam // score.shape[1], row_of.flatten()[beam]
        token_score = logits[row, walker.token[edge]]  # row -1 belongs to a beam without a choice
        if objective == "trie":
            token_score = segment_log_softmax(token_score, beam, state.numel())
        else:
            token_score = token_score - logits.logsumexp(-1)[row]
        column = torch.arange(len(beam), device=device) - torch.searchsorted(owner, owner)
        n_columns = int(column.max()) + 1 if len(beam) else 0
        candidates = torch.full((batch, n_columns + score.shape[1]), -torch.inf, device=device)
        candidates[owner, column] = score.flatten()[beam] + token_score
        source = torch.zeros(batch, n_columns, 2, dtype=torch.int64, device=device)  # (beam, state)
        source[owner, column] = torch.stack((beam % score.shape[1], edge + 1), -1)
        leaf = torch.where(state >= 0, walker.leaf[state.clamp(min=0)], -1)
        candidates[:, n_columns:] = torch.where(leaf >= 0, score, neg_inf)
        # 2. the best 2 * width; a complete identifier among the first `width` is accepted
        top, index = candidates.topk(min(2 * width, candidates.shape[1]))
        ends = (index >= n_columns) & (top > neg_inf)
        accepted = torch.where(ends & (torch.arange(top.shape[1], device=device) < width), top, neg_inf)
        accepted_leaf = leaf.gather(1, (index - n_columns).clamp(min=0))
        done_score, best = torch.cat((done_score, accepted), 1).topk(width)
        done_leaf = torch.cat((done_leaf, accepted_leaf), 1).gather(1, best)
        # 3. the best others live on, unless no completion of them can still enter
        score, best = torch.where(ends, neg_inf, top).topk(min(width, top.shape[1]))
        score = torch.where(score > done_score[:, -1:], score, neg_inf)
        index = index.gather(1, best)
        if not n_columns or not (score > neg_inf).any():
            return torch.where(done_score > neg_inf, done_leaf, -1), done_score
        beam, state = source.gather(1, index.clamp(max=n_columns - 1)[..., None].expand(-1, -1, 2)).unbind(-1)
        state = torch.where(score > neg_inf, state, DEAD)
        # 4. one forward of the beams that have a choice; complete and dead ones need none
        needs = (state >= 0) & ~free[state.clamp(min=0)]
        row = row_of.gather(1, beam)[needs]
        row_of = torch.full_like(state, -1)
        row_of[needs] = torch.arange(len(row), device=device)
        if not len(row):
            continue
        cache.reorder_cache(row)
        mask = torch.cat((mask[row], mask.new_ones(len(row), 1)), 1)
        position = position[row]
        token = walker.token[state[needs] - 1]
        out = model(
            input_ids=token[:, None], attention_mask=mask, position_ids=position[:, None], past_key_values=cache, use_cache=True
        )
        position = position + 1


def _left_pad(prompts: Sequence[np.ndarray], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, prompts))
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, length - len(prompt) :] = prompt
        mask[i, length - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
