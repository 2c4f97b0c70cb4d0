"""The dense mask: one call of the processor against the usual ways to hold ``generate()`` to a list, interleaved, on the same beams.

    python benchmarks/decoding/mask.py

Gate: all methods leave the same tokens legal, with the same scores, in every row at every depth. Writes results/decoding-mask.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from catalogs import EOS, VOCAB, beauty, qwen_tokenizer, synthetic
from harness import PaddedGather, Results, dict_trie_fn, hash_dict_fn, nested_dict
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from grlm_hf import Trie, TrieConstrainedLogitsProcessor
from grlm_hf.trie.walker import TrieWalker

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


def measure(results: Results, name: str, trie: Trie, rows: int, rounds: int, peers: Sequence[str]) -> float:
    """Mean seconds of our call at depth ≥ 2. Around each call stands what ``generate()`` does to memory there: a fresh log-softmax before
    it, a sum of its size after it."""
    steps, parents = beams(trie, rows)
    logits, running = torch.randn(rows, VOCAB), torch.randn(rows, 1)
    paths = [p.tolist() for p in trie.paths()] if peers else []
    processor = TrieConstrainedLogitsProcessor(trie)
    methods: dict[str, Any] = {"ours": lambda ids, d, scores: processor(ids, scores)}
    if "dict" in peers:
        by_dict = PrefixConstrainedLogitsProcessor(dict_trie_fn(nested_dict(paths), PROMPT, EOS), rows)
        methods["dict"] = lambda ids, d, scores: by_dict(ids, scores)
    if "hash" in peers:
        by_hash = PrefixConstrainedLogitsProcessor(hash_dict_fn(paths, PROMPT, EOS), rows)
        methods["hash"] = lambda ids, d, scores: by_hash(ids, scores)
    if "static" in peers:
        padded = PaddedGather(paths, EOS)
        states = [torch.zeros(rows, dtype=torch.int64)]
        for d in range(1, len(steps)):
            states.append(padded.advance(states[-1][torch.from_numpy(parents[d])], d - 1, steps[d][:, -1]))

        def static(ids: torch.Tensor, d: int, scores: torch.Tensor) -> torch.Tensor:
            state = padded.advance(states[d - 1][torch.from_numpy(parents[d])], d - 1, ids[:, -1]) if d else states[0]
            return padded.mask(state, d, scores)

        methods["static"] = static
    gate = True
    for d, ids in enumerate(steps):
        found = {m: call(ids, d, logits) for m, call in methods.items()}
        ended = found["ours"][:, EOS] == 0  # there ours gives EOS 0, the peers its own score
        for other in peers:
            gate &= bool((found["ours"].isfinite() == found[other].isfinite()).all())
            gate &= bool((found["ours"][~ended] == found[other][~ended]).all())
    del found
    taken: dict[str, list[list[float]]] = {m: [[] for _ in steps] for m in methods}
    for _ in range(rounds):
        for m, call in methods.items():
            for d, ids in enumerate(steps):
                scores = logits.log_softmax(-1)
                start = time.perf_counter()
                masked = call(ids, d, scores)
                taken[m][d].append(time.perf_counter() - start)
                total = masked + running
                del masked, scores, total
    typical = {m: np.median(np.array(t), axis=1) for m, t in taken.items()}
    label = f"mask: {name}, {rows} rows"
    for peer in peers:
        known, shallow, deep = {
            "dict": ("nested-dict trie", 20, 30),
            "hash": ("string-hash trie", None, None),
            "static": ("padded gather", 1, 1),
        }[peer]
        results.add(f"{label}, depth 1, × {known}", "times faster", typical[peer][1] / typical["ours"][1], shallow, gate=gate)
        results.add(f"{label}, depth ≥ 2, × {known}", "times faster", typical[peer][2:].sum() / typical["ours"][2:].sum(), deep, gate=gate)
    mean = float(typical["ours"][2:].mean())
    results.add(f"{label}, a call at depth ≥ 2", "ms", mean * 1e3, better="lower", gate=gate)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; the median of each call counts (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the goal was set with one (default 1)")
    parser.add_argument("--quick", action="store_true", help="leave out the catalogs of 1 and 10 million")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    results = Results("decoding-mask", COMMAND)
    costs: dict[tuple[str, int], float] = {}
    all_peers = ("dict", "hash", "static")
    tries: list[tuple[str, Any, tuple[int, ...], Sequence[str]]] = [
        ("Beauty, 12 k", lambda: beauty().trie(qwen_tokenizer()), (20, 50, 160), all_peers),
        ("42 k", lambda: synthetic(42_000), (20, 50, 160), all_peers),
    ]
    if not args.quick:  # a padded gather of a million as written here would take minutes to build, dictionaries of ten million 20 GB
        tries += [("1 M", lambda: synthetic(1_000_000), (20, 50, 160), ("dict",)), ("10 M", lambda: synthetic(10_000_000), (20,), ())]
    for name, make, sizes, peers in tries:
        trie = make()
        for rows in sizes:
            costs[name, rows] = measure(results, name, trie, rows, args.rounds if rows < 100 else 3, peers)
        del trie
    if not args.quick:
        for rows in (20, 50, 160):
            growth = costs["1 M", rows] / costs["Beauty, 12 k", rows]
            results.add(f"mask: cost of 1 M over 12 k identifiers, {rows} rows, depth ≥ 2", "×", growth, 1.3, better="lower")
    results.save("One processor call against its peers (higher is better)", "times faster")


if __name__ == "__main__":
    main()
