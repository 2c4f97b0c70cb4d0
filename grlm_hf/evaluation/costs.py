"""What each method of a report takes for one user: parameters, tokens, forwards, FLOPs, time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from grlm_hf.evaluation.rankings import Method
from grlm_hf.evaluation.schema import Cost, Costs
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.fused import Fused


def costs(
    methods: Mapping[str, Method],
    histories: Sequence[Sequence[str]],
    models: Sequence[GRLMForRecommendation],
    stored: Mapping[str, int | None],
) -> Costs:
    """Calls each method with each history alone, after one call that is not counted.

    The FLOPs are 2 · parameters · tokens of the language model (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; attention over the
    context is left out).

    Args:
        models: recommenders on one device; a method's language model is that of the one that it calls.
        stored: method → `stored_numbers` of its recommenders without a language model; by default 0, or those of a reranked method.
    """
    whole, device = [grlm.language_model("A report's costs") for grlm in models], models[0].device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type.upper()} ({torch.get_num_threads()} threads)"
    found = {}
    for name, method in methods.items():
        method(histories[:1])
        calls: list[list[list[tuple[int, int]]]] = []  # user → model → call → (length, tokens)
        ms = []
        for history in histories:
            with ExitStack() as watched:
                calls.append([watched.enter_context(_calls(model)) for model in whole])
                started = time.perf_counter()
                method([history])
                ms.append(1000 * (time.perf_counter() - started))
        size, more = 0, dict[str, float]()
        for n, model in enumerate(whole):
            if used := [one[n] for one in calls if one[n]]:  # a method has one language model, or none
                size = sum(p.numel() for p in model.parameters())
                tokens = sum(tokens for one in used for _, tokens in one)
                more = {
                    "prompt_tokens": float(np.mean([one[0][0] for one in used])),
                    "forwards": sum(map(len, used)) / len(histories),
                    "flops": 2.0 * size * tokens / len(histories),
                }
        known = stored.get(name.removeprefix("rerank(").removesuffix(")"), 0)
        p50, p95 = np.percentile(ms, (50, 95)).tolist()
        found[name] = Cost(parameters=None if known is None else size + known, ms_p50=p50, ms_p95=p95, **more)
    return Costs(len(histories), where, found)


@contextmanager
def _calls(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The forwards of a model meanwhile, seen at its input embeddings: the length of a row, and the tokens of all rows."""
    found: list[tuple[int, int]] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: found.append((given[0].shape[-1], given[0].numel())))
    try:
        yield found
    finally:
        hook.remove()


def stored_numbers(scorer: Any) -> int | None:
    """How many numbers a recommender without a language model has learnt or counted; ``None`` for one that is not ours."""
    if isinstance(scorer, Fused):
        parts = [stored_numbers(one) for one, _ in scorer.components.values()]
        return None if None in parts else sum(filter(None, parts))
    if (net := getattr(scorer, "net", None)) is not None:
        return sum(p.numel() for p in net.parameters())
    for name in ("weights", "vectors", "counts"):
        held = getattr(scorer, name, None)
        held = getattr(held, "vectors", held)  # of the dense half
        if isinstance(held, np.ndarray):
            return held.size
    return None
