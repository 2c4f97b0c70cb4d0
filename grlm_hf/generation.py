"""``generate(custom_generate=…)``: our own search behind the plain transformers API, for checkpoints that carry their catalog.

A saved checkpoint holds ``custom_generate/generate.py``, so where grlm-hf is installed::

    lm = AutoModelForCausalLM.from_pretrained(repo)
    lm.generate(**inputs, custom_generate=repo, trust_remote_code=True, num_return_sequences=10)

writes the ten likeliest identifiers behind each prompt.
"""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from transformers.generation import EosTokenCriteria, GenerateBeamDecoderOnlyOutput, MaxLengthCriteria

from grlm_hf.decoding.index import SearchIndex
from grlm_hf.decoding.rules import Rules, SearchOptions
from grlm_hf.decoding.search import search
from grlm_hf.engines.choose import engine_of
from grlm_hf.engines.protocol import Batch
from grlm_hf.modeling.recommender import GRLMForRecommendation

_NO_EFFECT = {  # options of generate() that change no answer of a search; lengths are checked on their own
    "attention_mask", "num_beams", "num_return_sequences", "length_penalty", "return_dict_in_generate", "max_new_tokens", "max_length",
    "use_cache", "cache_implementation", "cache_config", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
    "tokenizer", "synced_gpus", "compile_config", "disable_compile", "prefill_chunk_size", "transformers_version",
}  # fmt: skip
_NEUTRAL = {  # the values that switch other options off, beside None, False and 0
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0,
    "num_beam_groups": 1, "num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10, "target_lookbehind": 10,
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
        others: `attention_mask`, int64 [prompts, length], 0 on padding (by default all tokens count); further options of ``generate()``.
        num_beams: beam width, by default the larger of 20 and `num_return_sequences`.
        num_return_sequences: identifiers a prompt, by default 1.
        allow, exclude, banned_terms, prior, prior_weight: as in `grlm_hf.decoding.rules.Rules`, by identifier.
        length_penalty, edge_wise, exact, deadline_ms: as in `grlm_hf.decoding.rules.SearchOptions`.

    Returns:
        int64 [prompts · num_return_sequences, longest]: prompt, identifier, EOS, padding. Where fewer are allowed, the rest is EOS
        behind the prompt, at a score of ``-inf``. With `return_dict_in_generate` also `sequences_scores`, float32.

    Raises `ValueError` if the model has no catalog, and for an option that the search does not have: sampling, penalties, logits
    processors, stopping criteria, a limit of tokens that cuts identifiers.
    """
    started = time.perf_counter()
    prompts = input_ids if input_ids is not None else inputs
    if prompts is None or prompts.dim() != 2:
        raise ValueError("generate needs input_ids, int64 [prompts, length].")
    config = generation_config
    _check_options(model, others, config, logits_processor, stopping_criteria)
    k = num_return_sequences or getattr(config, "num_return_sequences", None) or 1
    if return_dict_in_generate is None:
        return_dict_in_generate = bool(getattr(config, "return_dict_in_generate", None))
    beams = num_beams or getattr(config, "num_beams", None)
    options = SearchOptions(None if beams == 1 else beams, edge_wise, exact, deadline_ms, length_penalty=length_penalty or 0.0)
    rules = Rules(allow=allow, exclude=exclude, banned_terms=banned_terms, prior=prior, prior_weight=prior_weight)
    index, objective, tokenizer = _parts_of(model)
    n, longest = len(index.trie), index.trie.depth + 1
    if not 1 <= k <= n:
        raise ValueError(f"num_return_sequences={k}; expected 1 to {n}, the number of identifiers.")
    width = options.width(k, n, "identifier", f"{k} sequences")
    limit = others.get("max_new_tokens") or getattr(config, "max_new_tokens", None)
    if "max_length" in others:
        limit = min(limit or longest, others["max_length"] - prompts.shape[1])
    if limit is not None and limit < longest:
        raise ValueError(
            f"The token limit leaves {limit} new tokens; the longest identifier and EOS have {longest}. Raise it, or leave it out."
        )
    # Not an argument by name: generate() would pass it twice to a callable that has one.
    mask = torch.ones_like(prompts) if (given := others.get("attention_mask")) is None else given
    rows = [row[keep.bool()].cpu().numpy() for row, keep in zip(prompts, mask, strict=True)]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    adjustments, deadline = [index.adjustment(rules).by_rank] * len(rows), options.deadline(started)
    found = search(
        engine_of(model), Batch(index.walker, rows, objective, pad), width, options, k=k, adjustments=adjustments, deadline=deadline
    )
    tails = torch.full((len(rows) * k, longest), pad, dtype=prompts.dtype)
    scores = torch.full((len(rows) * k,), -torch.inf)
    for i, one in enumerate(found):
        for j in range(k):
            path = index.paths[one.leaf[j]] if j < len(one.leaf) else np.zeros(0, np.int32)
            tails[i * k + j, : len(path)] = torch.from_numpy(path.astype(np.int64))
            tails[i * k + j, len(path)] = eos
        best = one.score[:k].astype(np.float32)
        scores[i * k : i * k + len(best)] = torch.from_numpy(best)
    used = int((tails == eos).int().argmax(1).max()) + 1
    sequences = torch.cat((prompts.repeat_interleave(k, 0), tails[:, :used].to(prompts.device)), 1)
    if not return_dict_in_generate:
        return sequences
    return GenerateBeamDecoderOnlyOutput(sequences=sequences, sequences_scores=scores.to(prompts.device))  # type: ignore[arg-type]


def _check_options(model: Any, others: Mapping[str, Any], config: Any, logits_processor: Any, stopping_criteria: Any) -> None:
    """Raises ``ValueError`` for an option, given directly or in a generation config, that the search would ignore."""
    options = (config.to_dict() if config is not None else {}) | dict(others)
    inputs = inspect.signature(model.forward).parameters
    for name, value in options.items():
        if name in _NO_EFFECT or name in inputs or name.startswith("_") or value is None:
            continue
        if not (isinstance(value, int | float | str) and value in (0, _NEUTRAL.get(name))):
            raise ValueError(f"custom_generate searches the catalog and has no {name}={value!r}; leave it out.")
    if logits_processor:
        raise ValueError(
            "custom_generate applies no logits processors; leave them out, or use generate() with TrieConstrainedLogitsProcessor."
        )
    if further := [c for c in stopping_criteria or () if not isinstance(c, MaxLengthCriteria | EosTokenCriteria)]:
        raise ValueError(f"custom_generate has no stopping criteria; leave out {type(further[0]).__name__}.")


def _parts_of(model: Any) -> tuple[SearchIndex, str, Any]:
    if model not in _parts:
        where = getattr(model, "name_or_path", "")
        if not where:
            raise ValueError("The model does not say where it was loaded from; load it with from_pretrained from a GRLM checkpoint.")
        grlm = GRLMForRecommendation.from_pretrained(where, model=model)
        _parts[model] = grlm.shelf.index, grlm.config.objective, grlm.tokenizer  # not `grlm`, which would keep the model alive
    return _parts[model]
