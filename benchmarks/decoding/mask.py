"""The dense mask: one call of the processor against the usual ways to hold ``generate()`` to a list, interleaved, on the same beams.

    python benchmarks/decoding/mask.py

Gate: all methods leave the same tokens legal, with the same scores, in every row at every depth. Writes results/decoding-mask.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from catalogs import EOS, VOCAB, beauty, qwen_tokenizer, synthetic
from harness import PaddedGather, Results, dict_trie_fn, hash_dict_fn, nested_dict
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from grlm_hf import Trie, TrieConstrainedLogitsProcessor
from grlm_hf.decoding.walker import TrieWalker

COMMAND = "python benchmarks/decoding/mask.py"
PROMPT = 512


def beams(trie: Trie, rows: int, seed: int = 0) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """What a beam search shows a processor: ids [rows, PROMPT + d] for each depth d, and the row that each row continues."""
    rng = np.random.default_rng(seed)
    walker = TrieWalker(trie)
    ids = np.tile(rng.integers(1000, 100_000, PROMPT), (rows, 1))
    lo, hi, depth = walker.root(rows)
    steps, parents = [torch.from_numpy(ids)], [np.arange(rows)]
    while True:
        row, token, child_lo, child_hi = walker.children(lo, hi, depth)
        if not len(row):
            return steps, parents
        pick = np.sort(rng.choice(len(row), rows, replace=len(row) < rows))
        pick = pick[rng.permutation(rows)]  # beams move
        ids = np.concatenate((ids[row[pick]], token[pick, None]), 1)
        lo, hi, depth = child_lo[pick], child_hi[pick], depth[row[pick]] + 1
        steps.append(torch.from_numpy(ids.copy()))
        parents.append(row[pick])


def measure(results: Results, name: str, trie: Trie, rows: int, rounds: int, peers: bool) -> dict[int, float]:
    steps, parents = beams(trie, rows)
    scores = torch.randn(rows, VOCAB)
    paths = [p.tolist() for p in trie.paths()] if peers else []
    processor = TrieConstrainedLogitsProcessor(trie)
    methods: dict[str, Any] = {"ours": lambda ids, d: processor(ids, scores)}
    if peers:
        by_dict = PrefixConstrainedLogitsProcessor(dict_trie_fn(nested_dict(paths), PROMPT, EOS), rows)
        by_hash = PrefixConstrainedLogitsProcessor(hash_dict_fn(paths, PROMPT, EOS), rows)
        padded = PaddedGather(paths, EOS)
        states = [torch.zeros(rows, dtype=torch.int64)]
        for d in range(1, len(steps)):
            states.append(padded.advance(states[-1][torch.from_numpy(parents[d])], d - 1, steps[d][:, -1]))

        def static(ids: torch.Tensor, d: int) -> torch.Tensor:
            state = padded.advance(states[d - 1][torch.from_numpy(parents[d])], d - 1, ids[:, -1]) if d else states[0]
            return padded.mask(state, d, scores)

        methods |= {"dict": by_dict, "hash": by_hash, "static": static}
        methods["dict"] = lambda ids, d: by_dict(ids, scores)
        methods["hash"] = lambda ids, d: by_hash(ids, scores)
    gate = True
    if peers:
        for d, ids in enumerate(steps):  # the price of the end differs: we give EOS 0, the peers its own score
            found = {m: call(ids, d) for m, call in methods.items()}
            for other in ("dict", "hash", "static"):
                ended = found["ours"][:, EOS] == 0
                gate &= bool((found["ours"].isfinite() == found[other].isfinite()).all())
                gate &= bool((found["ours"][~ended] == found[other][~ended]).all())
    best = {m: np.full(len(steps), np.inf) for m in methods}
    for _ in range(rounds):
        for m, call in methods.items():
            for d, ids in enumerate(steps):
                start = time.perf_counter()
                out = call(ids, d)
                best[m][d] = min(best[m][d], time.perf_counter() - start)
                del out
    deep = slice(2, None)
    cost = {d: float(t) for d, t in enumerate(best["ours"])} | {-1: float(best["ours"][deep].mean())}
    label = f"{name}, {rows} rows"
    for peer, goals in (("dict", (20, 30)), ("hash", (None, None)), ("static", (1, 1))) if peers else ():
        known = {"dict": "nested-dict trie", "hash": "string-hash trie", "static": "padded gather"}[peer]
        results.add(f"mask: {label}, depth 1, × {known}", "times faster", best[peer][1] / best["ours"][1], goals[0], gate=gate)
        ratio = best[peer][deep].sum() / best["ours"][deep].sum()
        results.add(f"mask: {label}, depth ≥ 2, × {known}", "times faster", ratio, goals[1], gate=gate)
    results.add(f"mask: {label}, a call at depth ≥ 2", "ms", cost[-1] * 1e3, better="lower", gate=gate)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; the fastest of each counts (default 7)")
    parser.add_argument("--quick", action="store_true", help="leave out the catalogs of 1 and 10 million")
    args = parser.parse_args()
    torch.manual_seed(0)
    results = Results("decoding-mask", COMMAND)
    costs: dict[tuple[str, int], dict[int, float]] = {}
    tries: list[tuple[str, Any, tuple[int, ...], bool]] = [
        ("Beauty, 12 k", lambda: beauty().trie(qwen_tokenizer()), (20, 50, 160), True),
        ("42 k", lambda: synthetic(42_000), (20, 50, 160), True),
    ]
    if not args.quick:
        tries += [("1 M", lambda: synthetic(1_000_000), (20, 50, 160), True), ("10 M", lambda: synthetic(10_000_000), (20,), False)]
    for name, make, sizes, peers in tries:
        trie = make()
        for rows in sizes:
            costs[name, rows] = measure(results, name, trie, rows, args.rounds if rows < 100 else 3, peers and len(trie) <= 100_000)
        del trie
    if not args.quick:
        for rows in (20, 50, 160):
            growth = costs["1 M", rows][-1] / costs["Beauty, 12 k", rows][-1]
            results.add(f"mask: cost of 1 M over 12 k identifiers, {rows} rows, depth ≥ 2", "×", growth, 1.3, better="lower")
    results.save("One processor call against its peers (higher is better)", "times faster")


if __name__ == "__main__":
    main()
