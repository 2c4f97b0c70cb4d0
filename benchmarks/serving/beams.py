"""Recommending on vLLM: our searches, vLLM's own beam search without any constraint, and transformers' `generate()`.

    make bench-serving                                                          # or, with the variables that the Makefile sets:
    .venv-vllm/bin/python benchmarks/serving/beams.py grlm-quickstart/checkpoint
    .venv-vllm/bin/python benchmarks/serving/beams.py qwen --name qwen-small --concurrency 1,4

For each concurrency (histories asked for together) all are run in turn, some rounds: users a second, and the 50th and 99th percentile of
the time until a user has the answer, which is when all of its batch have. 20 beams, float32. vLLM's beam search is run twice: on an engine
as vLLM starts it, and on the engine that ours runs on, whose key-value blocks are smaller. Gate: ours on vLLM has the items of
`recommend()` on transformers and its scores within 1e-3. Writes results/serving-beams-NAME.json.

`qwen` is a model with random weights and the vocabulary of Qwen3, 4 layers of width 256, on Amazon Beauty's official Term IDs; `qwen-trie`
is the same under the trie-normalised objective, where forced tokens need no forward.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from harness import Results

from grlm_hf import GRLMForRecommendation, TrieConstrainedLogitsProcessor
from grlm_hf.identifiers.terms import parse

BEAMS, K = 20, 10
Answer = list[bool]  # of each identifier of a list: it is one of the catalog's


def ours(grlm: GRLMForRecommendation, **how: Any) -> Callable[[Sequence[Sequence[str]]], list[Answer]]:
    def run(histories: Sequence[Sequence[str]]) -> list[Answer]:
        answers = grlm.recommend(list(histories), K, num_beams=BEAMS, prior="none", exclude_seen=False, **how)
        return [[r.item_id in grlm.catalog for r in found] for found in answers]

    return run


def stock(grlm: GRLMForRecommendation) -> Callable[[Sequence[Sequence[str]]], list[Answer]]:
    """vLLM's beam search, as long as the longest identifier."""
    from vllm.sampling_params import BeamSearchParams

    def run(histories: Sequence[Sequence[str]]) -> list[Answer]:
        prompts = [grlm.prompt_tokens(h)[0].tolist() for h in histories]
        params = BeamSearchParams(beam_width=BEAMS, max_tokens=grlm.trie.depth + 1)
        outputs = grlm.engine.llm.beam_search([{"prompt_token_ids": p} for p in prompts], params)
        return [
            written(grlm, [s.tokens[len(p) :] for s in o.sequences[:K]]) for p, o in zip(prompts, outputs, strict=True)
        ]  # fmt: skip

    return run


def generated(grlm: GRLMForRecommendation) -> Callable[[Sequence[Sequence[str]]], list[Answer]]:
    """Our logits processor in transformers' beam search."""

    def run(histories: Sequence[Sequence[str]]) -> list[Answer]:
        prompts = [grlm.prompt_tokens(h)[0] for h in histories]
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), grlm.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt) :], mask[i, longest - len(prompt) :] = prompt, 1
        with torch.inference_mode():
            out = grlm.model.generate(
                ids, attention_mask=mask, num_beams=BEAMS, num_return_sequences=K, max_new_tokens=grlm.trie.depth + 1, do_sample=False,
                length_penalty=0.0,
                logits_processor=[TrieConstrainedLogitsProcessor(grlm.trie, objective=grlm.config.objective, prompt_length=longest)],
            )  # fmt: skip
        tails = out[:, longest:].tolist()
        return [written(grlm, tails[i : i + K]) for i in range(0, len(tails), K)]

    return run


def written(grlm: GRLMForRecommendation, tails: Sequence[Sequence[int]]) -> Answer:
    """Whether each text begins with an identifier of the catalog."""
    texts = grlm.tokenizer.batch_decode(tails, skip_special_tokens=True)
    parsed = [parse(text.split("\n")[0]) for text in texts]
    return [tid is not None and bool(grlm.catalog.positions_of(tid)) for tid in parsed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder, qwen or qwen-trie")
    parser.add_argument("--name", default="quickstart", help="of the results file")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--users", type=int, default=64, help="a round, at least one batch")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if args.checkpoint in ("qwen", "qwen-trie"):
            from recommend import make, qwen3

            objective = "trie" if args.checkpoint == "qwen-trie" else "vocabulary"
            make(objective, qwen3(4, 256)).save_pretrained(Path(work) / "qwen")
            args.checkpoint = Path(work) / "qwen"
        measure(args)


def measure(args: argparse.Namespace) -> None:
    common = {"backend": "vllm", "dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_logprobs": 2 * BEAMS}
    here = GRLMForRecommendation.from_pretrained(args.checkpoint)
    engine = GRLMForRecommendation.from_pretrained(args.checkpoint, **common)
    default = GRLMForRecommendation.from_pretrained(args.checkpoint, **common, block_size=None, logits_processors=None)
    rng = np.random.default_rng(0)
    ids = [i.item_id for i in here.catalog.items]

    def draw(n: int) -> list[list[str]]:
        return [[ids[i] for i in rng.integers(0, len(ids), rng.integers(2, 15))] for _ in range(n)]

    asked = draw(32)
    gate = True
    for one, other in zip(engine.recommend(asked, K), here.recommend(asked, K), strict=True):
        gate &= [r.item_id for r in one] == [r.item_id for r in other]
        gate &= bool(np.allclose([r.score for r in one], [r.score for r in other], atol=1e-3))
    calls = {
        "ours on vLLM": ours(engine),
        "ours on vLLM, edge-wise": ours(engine, edge_wise=True),
        "vLLM's beam search": stock(default),
        "vLLM's beam search, small blocks": stock(engine),
        "transformers generate()": generated(here),
        "ours on transformers": ours(here),
    }
    results = Results(f"serving-beams-{args.name}", " ".join(["python benchmarks/serving/beams.py", *sys.argv[1:]]))
    valid: dict[str, list[bool]] = {name: [] for name in calls}
    for concurrency in map(int, args.concurrency.split(",")):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            batches = [draw(concurrency) for _ in range(max(1, args.users // concurrency // 4))]  # new histories: no cache knows them
            for name, call in calls.items():
                for one in (engine, default):
                    one.model.llm.reset_prefix_cache()
                for batch in batches:
                    start = time.perf_counter()
                    answers = call(batch)
                    taken[name].append(time.perf_counter() - start)
                    valid[name] += [v for a in answers for v in a]
        speed = {name: concurrency / (sum(t) / len(t)) for name, t in taken.items()}
        for name, t in taken.items():
            results.add(f"{name}, {concurrency} at once", "users/s", speed[name])
            results.add(f"{name}, {concurrency} at once: p50", "ms", 1000 * float(np.percentile(t, 50)), better="lower")
            results.add(f"{name}, {concurrency} at once: p99", "ms", 1000 * float(np.percentile(t, 99)), better="lower")
        for name in ("ours on vLLM", "ours on vLLM, edge-wise"):
            for peer, goal in (("vLLM's beam search", 5.0), ("vLLM's beam search, small blocks", None)):
                results.add(f"{name} against {peer}, {concurrency} at once", "times faster", speed[name] / speed[peer], goal, gate=gate)
    for name, flags in valid.items():
        target = None if "beam search" in name else 1.0
        results.add(f"{name}: identifiers that are in the catalog", "share", float(np.mean(flags)), target)
    results.save(f"Recommending on vLLM, {args.name}, 20 beams, one CPU thread", "times faster")


if __name__ == "__main__":
    main()
