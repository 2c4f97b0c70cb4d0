"""Forward passes a recommendation, and the certified search: Amazon Beauty's identifiers in Qwen's tokens; and a trained checkpoint.

    python benchmarks/decoding/forwards.py [--checkpoint runs/beauty-cpu/checkpoint]

Without a checkpoint the model is small and random (its answers mean nothing, its trie is the real one). With one (`grlm run
recipes/beauty-cpu.yaml` trains it in half an hour) the numbers are those of real users. Gate: transformers' beam search finds the same
identifiers; certified answers equal scoring every identifier. Writes results/decoding-forwards.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catalogs import EOS
from harness import Results, dict_trie_fn, nested_dict
from recommend import BEAMS, DictTrie, by_generate, histories, make, qwen3, same

from grlm_hf import GRLMForRecommendation, TrieConstrainedLogitsProcessor

COMMAND = "python benchmarks/decoding/forwards.py --checkpoint runs/beauty-cpu/checkpoint"
ALONE: dict[str, Any] = {"prior": "none", "exclude_seen": False}  # the language model and the trie, nothing else
MODES: dict[str, dict[str, Any]] = {"token by token": {}, "edge-wise": {"edge_wise": True}}


def counts(grlm: GRLMForRecommendation, users: list[list[str]], **options: Any) -> tuple[float, float]:
    """Mean forwards a recommendation, each user alone; and mean tokens computed by the model."""
    tokens = [0]
    hook = grlm.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: tokens.__setitem__(0, tokens[0] + args[0].numel()))
    found = [grlm.recommend(h, BEAMS, num_beams=BEAMS, **ALONE, **options).forwards for h in users]
    hook.remove()
    return float(np.mean(found)), tokens[0] / len(users)


def usual_processor(grlm: GRLMForRecommendation) -> Any:
    """Prompt length → what holds ``generate()`` to the catalog."""
    if grlm.config.objective == "trie":  # which no other library has
        return lambda _: TrieConstrainedLogitsProcessor(grlm.trie, objective="trie")
    root = nested_dict([p.tolist() for p in grlm.trie.paths()])
    return lambda n: DictTrie(dict_trie_fn(root, n, EOS), BEAMS)


def forwards_of_generate(grlm: GRLMForRecommendation, users: list[list[str]]) -> float:
    calls = [0]
    hook = grlm.model.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    for h in users:
        by_generate(grlm, h, usual_processor(grlm))
    hook.remove()
    return calls[0] / len(users)


@torch.inference_mode()
def every_identifier(grlm: GRLMForRecommendation, history: list[str], batch: int = 512) -> np.ndarray:
    """Brute force: log-probability of each identifier, by a plain forward over its tokens behind the prompt."""
    prompt, paths = grlm.prompt_tokens(history)[0], grlm.trie.paths()
    children: dict[tuple[int, ...], set[int]] = {}
    for path in paths if grlm.config.objective == "trie" else ():
        for d in range(len(path)):
            children.setdefault(tuple(path[:d].tolist()), set()).add(int(path[d]))
    found = np.zeros(len(paths))
    for begin in range(0, len(paths), batch):
        some = paths[begin : begin + batch]
        longest = max(map(len, some))
        ids = torch.zeros(len(some), longest, dtype=torch.int64)
        for i, path in enumerate(some):
            ids[i, : len(path)] = torch.from_numpy(path.astype(np.int64))
        out = grlm.model(torch.cat((prompt.expand(len(some), -1), ids), 1), logits_to_keep=longest + 1).logits.float()
        for i, path in enumerate(some):
            for d, token in enumerate(path.tolist()):
                row = out[i, d]
                if children:
                    legal = children[tuple(path[:d].tolist())]
                    found[begin + i] += 0.0 if len(legal) == 1 else float(row[token] - row[sorted(legal)].logsumexp(0))
            if not children:
                at = torch.arange(len(path))
                picked = out[i, at, ids[i, at]] - out[i, at].logsumexp(-1)
                found[begin + i] = float(picked.sum())
    return found


def certified(results: Results, grlm: GRLMForRecommendation, users: list[list[str]], name: str, brute: int, budget: int) -> None:
    gate = True
    for h in users[:brute]:
        score = every_identifier(grlm, h)
        best = np.sort(score)[::-1][:10]
        got = grlm.recommend(h, 10, exact=True, **ALONE)
        want = {grlm.catalog.identifiers[i] for i in np.argsort(-score)[:10]}
        tids = list(dict.fromkeys(r.term_id for r in got))
        gate &= got.certified and set(tids) <= want and bool(np.allclose([r.log_prob for r in got[:1]], best[:1], atol=1e-4))
    answers = [grlm.recommend(h, 10, exact=True, max_forwards=budget, **ALONE) for h in users]
    share = float(np.mean([a.certified for a in answers]))
    results.add(f"certified top-10 within {budget} forwards, {name}, {len(users)} users", "of users", share, gate=gate)
    used = [a.forwards for a in answers if a.certified] or [budget]
    results.add(f"forwards to certify, where certified, {name}", "forwards", float(np.mean(used)), better="lower", gate=gate)
    for label, options in MODES.items():
        agree = []
        for h, exact in zip(users, answers, strict=True):
            if exact.certified:
                beam = {r.item_id for r in grlm.recommend(h, 10, num_beams=BEAMS, **ALONE, **options)}
                agree.append(len(beam & {r.item_id for r in exact}) / len(exact))
        results.add(f"certified top-10 found by {BEAMS} beams, {label}, {name}", "of items", float(np.mean(agree or [0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint of Beauty")
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--budget", type=int, default=40, help="forwards that a certified search may take (default 40)")
    args = parser.parse_args()
    results = Results("decoding-forwards", COMMAND)
    model = qwen3(layers=2, hidden=128)
    goals = {"vocabulary": (14, 9), "trie": (8, 8)}
    for objective in ("vocabulary", "trie"):
        grlm = make(objective, model)
        users = histories(grlm, args.users, length=200)
        gate = True
        for h in users[:2]:
            gate &= same(grlm, grlm.recommend(h, BEAMS, num_beams=BEAMS, **ALONE), by_generate(grlm, h, usual_processor(grlm)))
        name = f"objective {objective}, Qwen tokens"
        results.add(f"generate(), {name}", "forwards", forwards_of_generate(grlm, users[:2]), better="lower")
        for (label, options), goal in zip(MODES.items(), goals[objective], strict=True):
            n, tokens = counts(grlm, users, **options)
            results.add(f"{label}, {name}", "forwards", n, goal, better="lower", gate=gate)
            results.add(f"{label}, {name}: computed, prompt included", "tokens", tokens, better="lower", gate=gate)
    if args.checkpoint:
        from grlm_hf.data.repository import load_table

        grlm = GRLMForRecommendation.from_pretrained(args.checkpoint)
        rows = load_table(args.checkpoint.parent / "datasets", "cases", "test")
        rng = np.random.default_rng(0)
        users = [rows[int(i)]["history"] for i in rng.choice(len(rows), 200, replace=False)]
        name = f"trained on Beauty, {len(grlm.tokenizer):,} tokens"
        for label, options in MODES.items():
            results.add(f"{label}, {name}", "forwards", counts(grlm, users, **options)[0], 5, better="lower")
        certified(results, grlm, users, name, brute=3, budget=args.budget)
        found = [r for h in users for r in grlm.recommend(h, 20, **ALONE)]
        scored = [(r.log_prob, len(grlm.shelf.index.path(grlm.catalog.position(r.item_id)))) for r in found]
        results.add(f"correlation of log-probability with tokens, top 20, {name}", "r", float(np.corrcoef(np.array(scored).T)[0, 1]))
    results.save("Forward passes a recommendation (lower is better)", "forwards")


if __name__ == "__main__":
    main()
