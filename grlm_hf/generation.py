"""``generate(custom_generate=…)``: our own search behind the plain transformers API, for checkpoints that carry their catalog.

A saved checkpoint holds ``custom_generate/generate.py``, so where grlm-hf is installed::

    lm = AutoModelForCausalLM.from_pretrained(repo)
    lm.generate(**inputs, custom_generate=repo, trust_remote_code=True, num_return_sequences=10)

writes the ten likeliest identifiers behind each prompt.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from transformers.generation import GenerateBeamDecoderOnlyOutput

from grlm_hf.decoding.index import SearchIndex
from grlm_hf.decoding.search import search
from grlm_hf.modeling.recommender import MIN_BEAMS, GRLMForRecommendation

_CHANGES_SCORES = {  # what of generate()'s options would have to change the search; only these values may be given
    "do_sample": (None, False), "temperature": (None, 1.0), "top_p": (None, 1.0), "repetition_penalty": (None, 1.0),
    "num_beam_groups": (None, 1), "penalty_alpha": (None, 0.0), "prefix_allowed_tokens_fn": (None,), "assistant_model": (None,),
    "streamer": (None,), "negative_prompt_ids": (None,),
}  # fmt: skip

_parts: weakref.WeakKeyDictionary[Any, tuple[SearchIndex, str, Any]] = weakref.WeakKeyDictionary()  # model → index, objective, tokenizer


def generate(
    model: Any,
    input_ids: torch.Tensor | None = None,
    inputs: torch.Tensor | None = None,
    generation_config: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    *,
    num_beams: int | None = None,
    num_return_sequences: int | None = None,
    return_dict_in_generate: bool | None = None,
    length_penalty: float | None = None,
    allow: Collection[str] | np.ndarray | None = None,
    exclude: Collection[str] = (),
    banned_terms: Collection[str] = (),
    prior: Mapping[str, float] | np.ndarray | None = None,
    prior_weight: float = 1.0,
    edge_wise: bool = False,
    exact: bool = False,
    deadline_ms: float | None = None,
    **others: Any,
) -> torch.Tensor | GenerateBeamDecoderOnlyOutput:
    """The likeliest identifiers behind each prompt, best first, by the checkpoint's own objective.

    Args:
        model: a causal LM loaded from a checkpoint of `GRLMForRecommendation`; its ``name_or_path`` says from which.
        input_ids: int64 [prompts, length], padded on the left (or `inputs`, the same).
        others: `attention_mask`, int64 [prompts, length], 0 on padding (by default all tokens count); what else ``generate()`` passes on is
            not used.
        num_beams: width of the search, by default the larger of 20 and `num_return_sequences`.
        num_return_sequences: identifiers a prompt, by default 1.
        allow, exclude, banned_terms, prior, prior_weight, length_penalty, edge_wise, exact, deadline_ms: as in
            `GRLMForRecommendation.recommend`, by identifier.

    Returns:
        int64 [prompts · num_return_sequences, longest]: prompt, identifier, EOS, padding. Where fewer are allowed, the rest is EOS
        behind the prompt, at a score of ``-inf``. With `return_dict_in_generate` also `sequences_scores`, float32.

    Raises:
        ValueError: the model has no catalog; sampling, penalties, logits processors or other options that the search does not have.
    """
    config = generation_config
    deadline = None if deadline_ms is None else time.perf_counter() + deadline_ms / 1000
    prompts = input_ids if input_ids is not None else inputs
    if prompts is None or prompts.dim() != 2:
        raise ValueError("generate needs input_ids, int64 [prompts, length].")
    for name, legal in _CHANGES_SCORES.items():
        if others.get(name) not in legal:
            raise ValueError(f"custom_generate searches the catalog and has no {name}={others[name]!r}; leave it out.")
    if logits_processor:
        raise ValueError(
            "custom_generate applies no logits processors; leave them out, or use generate() with TrieConstrainedLogitsProcessor."
        )
    beams = num_beams or getattr(config, "num_beams", None)
    k = num_return_sequences or getattr(config, "num_return_sequences", None) or 1
    if return_dict_in_generate is None:
        return_dict_in_generate = bool(getattr(config, "return_dict_in_generate", None))
    if length_penalty is None:
        length_penalty = 0.0
    index, objective, tokenizer = _parts_of(model)
    n = len(index.trie)
    if not 1 <= k <= n:
        raise ValueError(f"num_return_sequences={k}; expected 1 to {n}, the number of identifiers.")
    width = min(max(MIN_BEAMS, k), n) if beams in (None, 1) else beams
    if not k <= width <= n:
        raise ValueError(f"num_beams={width}; expected {k} (num_return_sequences) to {n}, the number of identifiers.")
    # Not an argument by name: generate() would pass it twice to a callable that has one.
    mask = torch.ones_like(prompts) if (given := others.get("attention_mask")) is None else given
    rows = [row[keep.bool()].cpu().numpy() for row, keep in zip(prompts, mask, strict=True)]
    bonus = index.bonus(allow=allow, exclude=exclude, banned_terms=banned_terms, prior=prior, prior_weight=prior_weight).by_rank
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    found = search(
        model, index.walker, rows, width, objective, k=k, bonus=[bonus] * len(rows), length_penalty=length_penalty,
        pad_token_id=pad, edge_wise=edge_wise, exact=exact, deadline=deadline,
    )  # fmt: skip
    tails = torch.full((len(rows) * k, index.trie.depth + 1), pad, dtype=prompts.dtype)
    scores = torch.full((len(rows) * k,), -torch.inf)
    for i, one in enumerate(found):
        for j in range(k):
            path = index.paths[one.leaf[j]] if j < len(one.leaf) else np.zeros(0, np.int32)
            tails[i * k + j, : len(path)] = torch.from_numpy(path.astype(np.int64))
            tails[i * k + j, len(path)] = eos
        best = one.score[:k].astype(np.float32)
        scores[i * k : i * k + len(best)] = torch.from_numpy(best)
    longest = int((tails == eos).int().argmax(1).max()) + 1
    sequences = torch.cat((prompts.repeat_interleave(k, 0), tails[:, :longest].to(prompts.device)), 1)
    if not return_dict_in_generate:
        return sequences
    return GenerateBeamDecoderOnlyOutput(sequences=sequences, sequences_scores=scores.to(prompts.device))  # type: ignore[arg-type]


def _parts_of(model: Any) -> tuple[SearchIndex, str, Any]:
    if model not in _parts:
        where = getattr(model, "name_or_path", "")
        if not where:
            raise ValueError("The model does not say where it was loaded from; load it with from_pretrained from a GRLM checkpoint.")
        grlm = GRLMForRecommendation.from_pretrained(where, model=model)
        _parts[model] = grlm._index, grlm.config.objective, grlm.tokenizer  # not `grlm`, which would keep the model alive
    return _parts[model]
