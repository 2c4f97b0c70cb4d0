"""Building, holding, changing and loading a trie: a million identifiers of some 15 tokens, and ten million.

    python benchmarks/decoding/trie.py

Gates: the paths come back from the trie as they went in; a changed trie equals one built anew. Writes results/decoding-trie.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from catalogs import EOS, synthetic_paths
from harness import Results, nested_dict

from grlm_hf import Trie
from grlm_hf.trie.walker import TrieWalker

COMMAND = "python benchmarks/decoding/trie.py"


def seconds(call: Any, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def dict_megabytes(n: int) -> float:
    """Resident memory of nested dictionaries, counted on `n` identifiers."""
    tokens, lengths = synthetic_paths(n)
    root = nested_dict([p.tolist() for p in np.split(tokens, np.cumsum(lengths)[:-1])])
    total, stack = 0, [root]
    while stack:
        node = stack.pop()
        total += sys.getsizeof(node)
        stack += node.values()
    return total / 1e6


def same(a: Trie, b: Trie) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "start", "shared", "leaf", "border"))


def readers_while(trie: Trie, change: Any) -> tuple[float, int]:
    """Seconds of a change while a reader walks the trie, and how many steps the reader made meanwhile."""
    walker, stop, steps = TrieWalker(trie), threading.Event(), [0]

    def read() -> None:
        while not stop.is_set():
            lo, hi, depth = walker.root(20)
            walker.children(lo, hi, depth)
            steps[0] += 1

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.05)
    before = steps[0]
    start = time.perf_counter()
    change()
    took, made = time.perf_counter() - start, steps[0] - before
    stop.set()
    thread.join()
    return took, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out 10 million")
    args = parser.parse_args()
    n = 1_000_000
    tokens, lengths = synthetic_paths(n + 1_000)
    total = int(lengths[:n].sum())
    lists = [p.tolist() for p in np.split(tokens, np.cumsum(lengths)[:-1])]
    mean = total / n
    trie = Trie.from_flat(tokens[:total], lengths[:n], EOS)
    gate = all(np.array_equal(p, q) for p, q in zip(trie.paths()[::997], lists[:n:997], strict=True))
    results = Results("decoding-trie", COMMAND)
    results.add(
        f"trie: build 1 M identifiers ({mean:.1f} tokens), from arrays",
        "s",
        seconds(lambda: Trie.from_flat(tokens[:total], lengths[:n], EOS), args.rounds),
        2.5,
        better="lower",
        gate=gate,
    )
    results.add(
        "trie: the same from Python lists",
        "s",
        seconds(lambda: Trie(lists[:n], EOS), args.rounds),
        2.5,
        better="lower",
        gate=gate,
    )
    results.add("trie: resident, 1 M identifiers", "MB", trie.nbytes / 1e6, 60, better="lower", gate=gate)
    results.add("trie: nested dictionaries of the same, ×10 from 100 k", "MB", 10 * dict_megabytes(100_000), better="lower")
    more = lists[n:]
    bigger = trie.add(more)
    smaller = bigger.remove(np.arange(n, n + 1_000))
    gate = same(bigger, Trie(lists, EOS)) and same(smaller, trie)
    results.add("trie: add 1,000 to 1 M", "ms", 1e3 * seconds(lambda: trie.add(more), args.rounds), 50, better="lower", gate=gate)
    results.add(
        "trie: remove 1,000 of 1 M",
        "ms",
        1e3 * seconds(lambda: bigger.remove(np.arange(n, n + 1_000)), args.rounds),
        50,
        better="lower",
        gate=gate,
    )
    took, made = min(readers_while(trie, lambda: trie.add(more)) for _ in range(args.rounds))
    results.add("trie: add 1,000 to 1 M while a thread reads", "ms", 1e3 * took, 50, better="lower", gate=made > 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie"
        trie.save(path)
        gate = same(Trie.load(path), trie)
        took = seconds(lambda: Trie.load(path), args.rounds)
        results.add("trie: load 1 M from disk, checksum and all", "ms", 1e3 * took, better="lower", gate=gate)
    if not args.quick:
        del lists, trie, bigger, smaller
        tokens, lengths = synthetic_paths(10_000_000)
        start = time.perf_counter()
        trie = Trie.from_flat(tokens, lengths, EOS)
        results.add("trie: build 10 M identifiers", "s", time.perf_counter() - start, better="lower")
        results.add("trie: resident, 10 M identifiers", "MB", trie.nbytes / 1e6, better="lower")
    results.save("A trie of a million identifiers (lower is better)")


if __name__ == "__main__":
    main()
