"""Our own beam search over a trie: the prompt is computed once a user and shared by its beams; only legal children are scored.

It keeps the candidates that transformers' beam search keeps (``num_beams`` live prefixes; a complete identifier competes once more with
the next tokens of the others before it is accepted), so items and scores are those of ``generate()`` with the processor and
``length_penalty=0.0``.

The beams of a user are further query positions of one sequence, each seeing the prompt and its own ancestors through a 4-D attention
mask. So the key-value cache is only ever appended to: no copy a beam, no reordering.
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
        model: a causal LM of transformers in eval mode, with eager or SDPA attention over its whole context.
        walker: the trie, on the model's device.
        prompts: int64 token ids of each prompt; lengths may differ.
        num_beams: width of the search.
        objective: what probabilities are normalised over (`grlm_hf.decoding.walker.OBJECTIVES`). Under ``"trie"`` forced tokens have
            probability 1, so a beam with nothing left to choose needs no forward.

    Returns:
        Leaves, int64 [prompts, num_beams], best first, -1 where there are fewer identifiers than beams; and their natural-log
        probabilities, float32, ``-inf`` there.

    Raises:
        ValueError: the model's attention takes no 4-D mask.
    """
    _check_attention(model)
    device, dtype = walker.key.device, model.dtype
    batch, width = len(prompts), num_beams
    free = walker.forced if objective == "trie" else walker.leaf >= 0  # states whose further tokens need no logits
    input_ids, prompt_mask = _left_pad(prompts, pad_token_id, device)
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    out = model(input_ids=input_ids, attention_mask=prompt_mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache, position = out.past_key_values, positions[:, -1:]
    hidden = torch.finfo(dtype).min
    neg_inf = torch.tensor(-torch.inf, device=device)

    done_score, done_leaf = neg_inf.expand(batch, width), torch.full((batch, width), -1, device=device)
    # Live beams [batch, beams]: score; trie state; slot, the column of the last forward's logits (any, where none is needed); and
    # which of the slots computed so far are ancestors [batch, beams, slots].
    score, state = torch.zeros(batch, 1, device=device), torch.zeros(batch, 1, dtype=torch.int64, device=device)
    slot, seen = torch.zeros_like(state), torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)
    logits = out.logits.float()
    while True:
        # 1. candidates: every legal child of every live beam, and, behind them, the beams that stand at the end of an identifier
        beams = score.shape[1]
        flat, edge = walker.edges(state.flatten())
        owner, beam = flat // beams, flat % beams
        token_score = logits[owner, slot.flatten()[flat], walker.token[edge]]
        if objective == "trie":
            token_score = segment_log_softmax(token_score, flat, state.numel())
        else:
            token_score = token_score - logits.logsumexp(-1)[owner, slot.flatten()[flat]]
        column = torch.arange(len(flat), device=device) - torch.searchsorted(owner, owner)
        n_columns = int(column.max()) + 1 if len(flat) else 0
        candidates = neg_inf.repeat(batch, n_columns + beams)
        candidates[owner, column] = score.flatten()[flat] + token_score
        source = torch.zeros(batch, n_columns + beams, 2, dtype=torch.int64, device=device)  # of each candidate: beam, state
        source[owner, column] = torch.stack((beam, edge + 1), -1)
        leaf = torch.where(state >= 0, walker.leaf[state.clamp(min=0)], -1)
        candidates[:, n_columns:] = torch.where(leaf >= 0, score, neg_inf)
        # 2. the best 2 * width; a complete identifier among the first `width` is accepted
        top, index = candidates.topk(min(2 * width, candidates.shape[1]))
        ends = index >= n_columns
        accepted = torch.where(ends & (torch.arange(top.shape[1], device=device) < width), top, neg_inf)
        accepted_leaf = leaf.gather(1, (index - n_columns).clamp(min=0))
        done_score, best = torch.cat((done_score, accepted), 1).topk(width)
        done_leaf = torch.cat((done_leaf, accepted_leaf), 1).gather(1, best)
        # 3. the best others live on, unless no completion of them can still enter
        score, best = torch.where(ends, neg_inf, top).topk(min(width, top.shape[1]))
        score = torch.where(score > done_score[:, -1:], score, neg_inf)
        if not (score > neg_inf).any():
            return torch.where(done_score > neg_inf, done_leaf, -1), done_score
        beam, state = source.gather(1, index.gather(1, best)[..., None].expand(-1, -1, 2)).unbind(-1)
        state = torch.where(score > neg_inf, state, DEAD)
        seen = seen.gather(1, beam[..., None].expand(-1, -1, seen.shape[2]))
        # 4. one forward of the beams that have a choice, packed to the left; complete and dead ones need none
        needs = (state >= 0) & ~free[state.clamp(min=0)]
        slot = torch.where(needs, needs.cumsum(1) - 1, 0)
        n_slots = int(needs.sum(1).max())
        if n_slots:
            row, which = needs.nonzero().unbind(1)
            tokens = torch.full((batch, n_slots), pad_token_id, device=device)
            tokens[row, slot[row, which]] = walker.token[state[row, which] - 1]
            new = torch.zeros(*state.shape, n_slots, dtype=torch.bool, device=device)
            new[row, which, slot[row, which]] = True
            seen = torch.cat((seen, new), 2)
            visible = torch.zeros(batch, n_slots, seen.shape[2], dtype=torch.bool, device=device)
            visible[row, slot[row, which]] = seen[row, which]
            visible = torch.cat((prompt_mask.bool()[:, None].expand(-1, n_slots, -1), visible), 2)
            position = position + 1
            out = model(
                input_ids=tokens,
                attention_mask=torch.where(visible, 0.0, hidden).to(dtype)[:, None],
                position_ids=position.expand(-1, n_slots),
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits.float()


def _check_attention(model: Any) -> None:
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        raise ValueError(
            f"{type(model).__name__} has layers that do not attend to the whole context ({', '.join(sorted(layers))}), "
            "which this search needs. Use generate() with TrieConstrainedLogitsProcessor instead."
        )
    implementation = getattr(model.config, "_attn_implementation", "eager")
    if implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"The model runs {implementation!r} attention, which takes no 4-D mask; load it with attn_implementation='sdpa' to recommend."
        )


def _left_pad(prompts: Sequence[np.ndarray], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, prompts))
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, length - len(prompt) :] = prompt
        mask[i, length - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
