"""A checkpoint on vLLM: recommendations from a running engine, and the constraint for single requests among ordinary ones.

python examples/constrained_vllm.py [grlm-quickstart/checkpoint]
"""

from __future__ import annotations

import sys
from typing import Any

from vllm import LLM, SamplingParams

from grlm_hf import GRLMForRecommendation
from grlm_hf.vllm import recommend, sample


def main(checkpoint: str = "grlm-quickstart/checkpoint", **engine: Any) -> LLM:
    llm = LLM(checkpoint, logits_processors=["grlm_hf.vllm:TrieConstrainedLogitsProcessor"], **engine)
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)  # on transformers, for prompts and for comparison
    history = [item.item_id for item in grlm.catalog.items[:2]]

    for r in recommend(llm, history, k=3, exclude_seen=True):
        print(f"{r.score:6.2f}  {r.item_id}  {', '.join(r.identifier)}")
    print("drawn at random:", [r.item_id for r in sample(llm, history, 3, seed=0)])
    assert recommend(llm, history, k=3)[0].item_id == grlm.recommend(history, k=3)[0].item_id

    prompt = {"prompt_token_ids": grlm.prompt_tokens(history)[0].tolist()}
    plain = SamplingParams(max_tokens=40, temperature=0)
    held = SamplingParams(max_tokens=40, temperature=0, extra_args={"grlm_constrain": True, "grlm_seen": history})
    for name, out in zip(("plain", "held"), llm.generate([prompt, prompt], [plain, held]), strict=True):
        print(f"{name}: {out.outputs[0].text.strip()}")
    return llm


if __name__ == "__main__":
    main(*sys.argv[1:])
