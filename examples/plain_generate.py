"""Plain transformers: generate() of any causal LM, limited to a catalog by our logits processor. Same items and scores as recommend().

python examples/plain_generate.py [grlm-quickstart/checkpoint]
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM

from grlm_hf import GRLMForRecommendation, TrieConstrainedLogitsProcessor


def main(checkpoint: str = "grlm-quickstart/checkpoint") -> None:
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)  # for its catalog, its trie and its prompt
    lm = AutoModelForCausalLM.from_pretrained(checkpoint)
    history = [item.item_id for item in grlm.catalog.items[:2]]
    prompt, beams = grlm.prompt_tokens(history), min(20, len(grlm.trie))
    out = lm.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=grlm.trie.depth + 1,
        length_penalty=0.0,  # scores are sums of log-probabilities, not means
        logits_processor=[TrieConstrainedLogitsProcessor(grlm.trie, objective=grlm.config.objective)],
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = grlm.tokenizer.batch_decode(out.sequences[:, prompt.shape[1] :], skip_special_tokens=True)
    for text, score in list(zip(texts, out.sequences_scores.tolist(), strict=True))[:5]:
        identifier = grlm.catalog.scheme.parse(text)
        assert identifier is not None
        print(f"{score:6.2f}  {text.strip()}  {[item.item_id for item in grlm.catalog.items_of(identifier)]}")

    found = grlm.recommend(history, k=1, prior="none", exclude_seen=False)[0]  # the language model alone, as above
    assert abs(found.score - out.sequences_scores[0].item()) < 1e-3
    print(f"{found.score:6.2f}  is what recommend() says of the first")


if __name__ == "__main__":
    main(*sys.argv[1:])
