"""Forward passes a recommendation, and the certified search: Amazon Beauty's identifiers in Qwen's tokens; and a trained checkpoint.

    python benchmarks/decoding/forwards.py [--checkpoint runs/beauty-cpu/checkpoint]

Without a checkpoint the model is small and random (its answers mean nothing, its trie is the real one). With one (`grlm run
recipes/beauty-cpu.yaml` trains it in half an hour) the numbers are those of real users. Gate: transformers' beam search finds the same
identifiers; certified answers equal scoring every identifier. Writes results/decoding-forwards.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catalogs import EOS
from harness import RESULTS, dict_trie_fn, nested_dict, plot_ratios, record, save
from recommend import BEAMS, DictTrie, by_generate, histories, make, qwen3, same

from grlm_hf import GRLMForRecommendation, TrieConstrainedLogitsProcessor
from grlm_hf.decoding.search import beam_search

COMMAND = "python benchmarks/decoding/forwards.py --checkpoint runs/beauty-cpu/checkpoint"


def counts(grlm: GRLMForRecommendation, users: list[list[str]], **options: Any) -> tuple[float, float]:
    """Mean forwards a recommendation, each user alone; and mean tokens computed by the model."""
    tokens = [0]
    hook = grlm.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: tokens.__setitem__(0, tokens[0] + args[0].numel()))
    found = [grlm.recommend(h, BEAMS, num_beams=BEAMS, **options).forwards for h in users]
    hook.remove()
    return float(np.mean(found)), tokens[0] / len(users)


def forwards_of_generate(grlm: GRLMForRecommendation, users: list[list[str]]) -> float:
    calls = [0]
    hook = grlm.model.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    objective = grlm.config.objective
    for h in users:
        by_generate(grlm, h, lambda n: TrieConstrainedLogitsProcessor(grlm.trie, objective=objective))
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


def certified(grlm: GRLMForRecommendation, users: list[list[str]], name: str, brute: int, budget: int) -> list[dict[str, Any]]:
    gate = True
    for h in users[:brute]:
        score = every_identifier(grlm, h)
        best = np.sort(score)[::-1][:10]
        got = grlm.recommend(h, 10, exact=True)
        want = {grlm.catalog.identifiers[i] for i in np.argsort(-score)[:10]}
        tids = list(dict.fromkeys(r.term_id for r in got))
        gate &= got.certified and set(tids) <= want and bool(np.allclose([r.log_prob for r in got[:1]], best[:1], atol=1e-4))
    records = []
    answers = [grlm.recommend(h, 10, exact=True, max_forwards=budget) for h in users]
    share = float(np.mean([a.certified for a in answers]))
    records.append(record(f"certified top-10 within {budget} forwards, {name}, {len(users)} users", "of users", share, None, COMMAND, gate=gate))  # fmt: skip
    used = [a.forwards for a in answers if a.certified] or [budget]
    records.append(record(f"forwards to certify, where certified, {name}", "forwards", float(np.mean(used)), None, COMMAND, better="lower", gate=gate))  # fmt: skip
    for label, options in (("token by token", {}), ("edge-wise", {"edge_wise": True})):
        agree = []
        for h, exact in zip(users, answers, strict=True):
            if exact.certified:
                beam = {r.item_id for r in grlm.recommend(h, 10, num_beams=BEAMS, **options)}
                agree.append(len(beam & {r.item_id for r in exact}) / len(exact))
        records.append(record(f"certified top-10 found by {BEAMS} beams, {label}, {name}", "of items", float(np.mean(agree or [0])), None, COMMAND))  # fmt: skip
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint of Beauty")
    parser.add_argument("--users", type=int, default=10)
    args = parser.parse_args()
    records: list[dict[str, Any]] = []
    model = qwen3(layers=2, hidden=128)
    goals = {"vocabulary": (14, 9), "trie": (8, 8)}
    for objective in ("vocabulary", "trie"):
        grlm = make(objective, model)
        users = histories(grlm, args.users, length=200)
        root = nested_dict([p.tolist() for p in grlm.trie.paths()])
        gate = True
        for h in users[:2]:
            processor: Any = lambda n: TrieConstrainedLogitsProcessor(grlm.trie, objective="trie")  # noqa: E731, B023
            if objective == "vocabulary":
                processor = lambda n: DictTrie(dict_trie_fn(root, n, EOS), BEAMS)  # noqa: E731, B023
            gate &= same(grlm, grlm.recommend(h, BEAMS, num_beams=BEAMS), by_generate(grlm, h, processor))
        name = f"objective {objective}, Qwen tokens"
        usual = forwards_of_generate(grlm, users[:2])
        records.append(record(f"forwards of generate(), {name}", "forwards", usual, None, COMMAND, better="lower"))
        for label, options, goal in (("token by token", {}, goals[objective][0]), ("edge-wise", {"edge_wise": True}, goals[objective][1])):
            n, tokens = counts(grlm, users, **options)
            records.append(record(f"forwards {label}, {name}", "forwards", n, goal, COMMAND, better="lower", gate=gate))
            records.append(record(f"tokens computed, {label}, {name}", "tokens", tokens, None, COMMAND, better="lower", gate=gate))
    if args.checkpoint:
        from grlm_hf.hub import load_table

        grlm = GRLMForRecommendation.from_pretrained(args.checkpoint)
        rows = load_table(args.checkpoint.parent / "datasets", "cases", "test")
        rng = np.random.default_rng(0)
        users = [rows[int(i)]["history"] for i in rng.choice(len(rows), 200, replace=False)]
        name = "trained on Beauty, 8,192 tokens"
        for label, options in (("token by token", {}), ("edge-wise", {"edge_wise": True})):
            n, _ = counts(grlm, users, **options)
            records.append(record(f"forwards {label}, {name}", "forwards", n, 8, COMMAND, better="lower"))
        start = time.perf_counter()
        records += certified(grlm, users, name, brute=3, budget=40)
        print(f"{time.perf_counter() - start:.0f} s")
        probs = [(r.log_prob, len(grlm._index.path(grlm.catalog.position(r.item_id)))) for h in users for r in grlm.recommend(h, 20)]
        correlation = float(np.corrcoef(np.array(probs).T)[0, 1])
        records.append(record(f"correlation of log-probability with tokens, top 20, {name}", "r", correlation, None, COMMAND))
        _ = beam_search
    save("decoding-forwards", records)
    plot_ratios("decoding-forwards", "Forward passes a recommendation (lower is better)", [r for r in records if r["unit"] == "forwards"])
    print(RESULTS / "decoding-forwards.png")


if __name__ == "__main__":
    main()
