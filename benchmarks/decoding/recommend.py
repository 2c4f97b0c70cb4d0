"""A whole recommendation: `recommend()` against transformers' `generate()` over a dictionary trie, and one step of it taken apart.

    python benchmarks/decoding/recommend.py

A model of Qwen3-0.6B's shape with random weights, Amazon Beauty's identifiers in Qwen's tokens, prompts of some 512 tokens, 20 beams,
float32. Gate: the same identifiers, scores within 1e-4. Writes results/decoding-recommend.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from catalogs import EOS, VOCAB, beauty, qwen_tokenizer
from harness import Results, dict_trie_fn, interleaved, nested_dict
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from grlm_hf import GRLMForRecommendation, TrieConstrainedLogitsProcessor
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.trie.walker import TrieWalker

COMMAND = "python benchmarks/decoding/recommend.py"
BEAMS, PROMPT = 20, 512


def qwen3(layers: int = 28, hidden: int = 1024, dtype: torch.dtype = torch.float32) -> Any:
    """Qwen3-0.6B's shape; random weights, the embeddings sharper than at initialisation so that beams differ."""
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, head_dim=128, tie_word_embeddings=True, max_position_embeddings=4096, eos_token_id=EOS,
        pad_token_id=EOS - 2, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(4)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, EOS - 2
    return model


def make(objective: str = "vocabulary", model: Any = None) -> GRLMForRecommendation:
    tokenizer = qwen_tokenizer()
    config = GRLMConfig(60, prompt_hash(), tokenizer_hash(tokenizer), objective)
    return GRLMForRecommendation(qwen3() if model is None else model, tokenizer, beauty(), config)


def histories(grlm: GRLMForRecommendation, n: int, length: int = PROMPT, seed: int = 0) -> list[list[str]]:
    """`n` histories whose prompts are just longer than `length` tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        items = [i.item_id for i in grlm.catalog.items]
        chosen = [items[j] for j in rng.integers(0, len(items), 60)]
        found.append(next(chosen[:k] for k in range(1, 61) if grlm.prompt_tokens(chosen[:k]).shape[1] >= length))
    return found


class DictTrie(PrefixConstrainedLogitsProcessor):
    """The usual processor; but an identifier's end costs nothing, as with ours, so that scores can be compared."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        out = super().__call__(input_ids, scores)
        out[out[:, EOS] > -torch.inf, EOS] = 0.0
        return out


def by_generate(grlm: GRLMForRecommendation, history: list[str], processor: Any) -> list[tuple[tuple[int, ...], float]]:
    prompt = grlm.prompt_tokens(history)
    out = grlm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), num_beams=BEAMS, num_return_sequences=BEAMS,
        max_new_tokens=grlm.trie.depth + 1, do_sample=False, length_penalty=0.0, logits_processor=[processor(prompt.shape[1])],
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    tails = out.sequences[:, prompt.shape[1] :].tolist()
    return [(tuple(t[: t.index(EOS)]), s) for t, s in zip(tails, out.sequences_scores.tolist(), strict=True) if EOS in t]


def same(grlm: GRLMForRecommendation, ours: Any, theirs: list[tuple[tuple[int, ...], float]]) -> bool:
    """The same identifiers with the same scores; near ties may change places."""
    path = {tuple(p.tolist()): grlm.catalog.identifiers[i] for i, p in enumerate(grlm.trie.paths())}
    want = {path[ids]: s for ids, s in theirs}
    got = {r.term_id: r.log_prob for r in ours}
    top = sorted(want.values())[1]  # recommend() may cut the last identifier where another has several items
    return all(abs(got[t] - want[t]) < 1e-4 for t in got if t in want) and all(t in got for t, s in want.items() if s > top + 1e-4)


def steps(results: Results, rounds: int) -> None:
    """What a step costs beside the model: transformers' log-softmax, mask and top-k over beams × V, against
    gathering legal children."""
    trie = beauty().trie(qwen_tokenizer())
    processor = TrieConstrainedLogitsProcessor
    from mask import PROMPT as LENGTH
    from mask import beams

    ids, _ = beams(trie, BEAMS)
    logits = torch.randn(BEAMS, VOCAB)
    running = torch.randn(BEAMS)
    walker = TrieWalker(trie)
    root = nested_dict([p.tolist() for p in trie.paths()])
    by_dict, ours = DictTrie(dict_trie_fn(root, LENGTH, EOS), BEAMS), processor(trie)
    depths = range(len(ids))

    def usual(mask: Any) -> Any:
        scores, index = [], []
        for d in depths:
            log_probs = mask(ids[d], logits.log_softmax(-1)) + running[:, None]
            top = log_probs.view(1, -1).topk(2 * BEAMS)
            scores.append(top.values[0])
            index.append(top.indices[0])
        return scores, index

    nodes = []
    for step in ids:
        node = walker.root(BEAMS)
        for token in step[:, LENGTH:].numpy().T:
            node = walker.step(*node, token)
        nodes.append(node)

    def sparse() -> Any:
        scores, index = [], []
        for lo, hi, depth in nodes:
            row, token, _, _ = walker.children(lo, hi, depth)
            ended = np.flatnonzero(walker.ends(lo, hi, depth))
            at = torch.from_numpy(row)
            values = logits.log_softmax(-1)[at, torch.from_numpy(token)] + running[at]
            values = torch.cat((values, running[torch.from_numpy(ended)]))
            flat = np.concatenate((row * VOCAB + token, ended * VOCAB + EOS))
            top = values.topk(min(2 * BEAMS, len(values)))
            scores.append(top.values)
            index.append(torch.from_numpy(flat)[top.indices])
        return scores, index

    gate = True
    for (a, i), (b, j) in zip(zip(*usual(by_dict), strict=True), zip(*sparse(), strict=True), strict=True):
        n = min(int((a > -torch.inf).sum()), len(b))
        gate &= bool(torch.allclose(a[:n], b[:n], atol=1e-4)) and set(i[:n].tolist()) == set(j[:n].tolist())
    best = interleaved({"usual": lambda: usual(by_dict), "ours in generate()": lambda: usual(ours), "sparse": sparse}, rounds)
    name = f"whole step beside the model, {BEAMS} beams"
    results.add(f"{name}: own loop against transformers", "times faster", best["usual"] / best["sparse"], 12, gate=gate)
    ratio = best["usual"] / best["ours in generate()"]
    results.add(f"{name}: our processor in generate() against the dict trie", "times faster", ratio, gate=gate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the fastest of each counts (default 3)")
    parser.add_argument("--layers", type=int, default=28, help="layers of the model (default 28, as Qwen3-0.6B); fewer to try it out")
    args = parser.parse_args()
    results = Results("decoding-recommend", COMMAND)
    steps(results, max(args.rounds, 5))
    model = qwen3(args.layers)
    grlm = make("vocabulary", model)
    (history,) = histories(grlm, 1)
    root = nested_dict([p.tolist() for p in grlm.trie.paths()])
    runs = {
        "generate": lambda: by_generate(grlm, history, lambda n: DictTrie(dict_trie_fn(root, n, EOS), BEAMS)),
        "ours": lambda: grlm.recommend(history, BEAMS, num_beams=BEAMS),
        "edge-wise": lambda: grlm.recommend(history, BEAMS, num_beams=BEAMS, edge_wise=True),
    }
    gate = same(grlm, runs["ours"](), runs["generate"]())
    best = interleaved(runs, args.rounds)
    name = f"Qwen3-0.6B shape, {grlm.prompt_tokens(history).shape[1]}-token prompt, {BEAMS} beams"
    usual = "against generate() with a dict trie"
    results.add(f"whole recommendation, {name}, {usual}", "times faster", best["generate"] / best["ours"], 8, gate=gate)
    results.add(f"the same edge-wise (other beams), {name}", "times faster", best["generate"] / best["edge-wise"])
    grlm = make("trie", model)
    runs = {
        "generate": lambda: by_generate(grlm, history, lambda n: TrieConstrainedLogitsProcessor(grlm.trie, objective="trie")),
        "ours": lambda: grlm.recommend(history, BEAMS, num_beams=BEAMS),
    }
    gate = same(grlm, runs["ours"](), runs["generate"]())
    mine = interleaved({"ours": runs["ours"]}, args.rounds)
    ratio = best["generate"] / mine["ours"]
    results.add(f"whole recommendation, trie-normalised, {name}, {usual}", "times faster", ratio, gate=gate)
    print({k: f"{v:.2f} s" for k, v in (best | {"trie-normalised": mine["ours"]}).items()})
    results.save("Recommending, and one step of it (higher is better)")


if __name__ == "__main__":
    main()
