"""The same recommendations by vLLM's own beam search, to compare with ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from grlm_hf.decoding.rules import MIN_BEAMS, Rules
from grlm_hf.modeling.results import Recommendation, as_histories
from grlm_hf.vllm.arguments import always
from grlm_hf.vllm.running import of_engine
from grlm_hf.vllm.scores import NO_BEAM


def beam_search(llm: Any, histories: Any, k: int = 10, num_beams: int | None = None) -> Any:
    """The same by vLLM's own ``LLM.beam_search``, for comparison: slower than `recommend`, and without its rules and priors.

    Args:
        llm: a ``vllm.LLM`` on a GRLM checkpoint that holds all its requests to the catalog: ``LLM(..., logprobs_mode="processed_logits",
            max_logprobs=2 * num_beams, additional_config={"grlm": {"constrain": "always"}})``.
        histories: item ids, oldest first; or a list of histories.
        k: how many items.
        num_beams: width, by default the larger of 20 and `k`.

    Returns:
        `Recommendations`, or a list of them.

    Raises:
        ValueError: as `recommend`; or the engine was started otherwise.
    """
    from vllm.sampling_params import BeamSearchParams

    config, width = llm.llm_engine.model_config, num_beams or max(MIN_BEAMS, k)
    has = config.logprobs_mode, config.max_logprobs, always(llm.llm_engine.vllm_config.additional_config)
    if has[0] != "processed_logits" or 0 <= has[1] < 2 * width or not has[2]:
        raise ValueError(
            f"The engine has logprobs_mode={has[0]!r}, max_logprobs={has[1]} and constrains "
            f"{'all requests' if has[2] else 'only what asks'}; its beam search of width {width} needs LLM(..., "
            f"logprobs_mode='processed_logits', max_logprobs={2 * width}, additional_config={{'grlm': {{'constrain': 'always'}}}})."
        )
    grlm = of_engine(llm)
    histories, single = as_histories(histories)
    index = grlm.shelf.index
    if not 1 <= k <= len(index.catalog):
        raise ValueError(f"k={k}; expected 1 to {len(index.catalog)}, the size of the catalog.")
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in histories]
    leaf_of = {tuple(path.tolist()[:-1]): leaf for leaf, path in enumerate(index.paths)}  # EOS stands for the last token
    nothing = index.adjustment(Rules())
    results = []
    outputs = llm.beam_search([{"prompt_token_ids": p} for p in prompts], BeamSearchParams(beam_width=width, max_tokens=index.trie.depth))
    for prompt, output in zip(prompts, outputs, strict=True):
        beams = [(leaf_of.get(tuple(s.tokens[len(prompt) : -1])), s.cum_logprob) for s in output.sequences if s.cum_logprob > NO_BEAM / 10]
        kept = [(leaf, score) for leaf, score in beams if leaf is not None]
        leaves, scores = np.array([leaf for leaf, _ in kept], np.int64), np.array([score for _, score in kept])
        ranked = ((index.catalog.items[p], index.catalog.term_ids[p], s) for p, s, _ in index.items(leaves, scores, nothing)[:k])
        results.append([Recommendation(item.item_id, s, term_id, item.title, s) for item, term_id, s in ranked])
    return results[0] if single else results
