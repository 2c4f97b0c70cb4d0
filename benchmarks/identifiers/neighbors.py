"""Exact search, IVF, compressed IVF and HNSW: seconds to build, widened until recall@5 is .99, and to find the neighbours of 1,000 items.

    python benchmarks/identifiers/neighbors.py                               # 200,000 vectors of 64 numbers, clustered tightly and loosely
    python benchmarks/identifiers/neighbors.py --vectors work/               # the shards that `embed(..., work=...)` left there

CPU seconds of one thread (so that a busy machine changes little). Prints one JSON object an index; `--output FILE` keeps them as a list.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from safetensors.numpy import load_file

from grlm_hf.files import write_json
from grlm_hf.indexing.index import build_index, index_bytes, search

K, QUERIES = 5, 1_000


def clustered(n: int, dim: int, noise: float) -> np.ndarray:
    """Unit vectors around n / 40 random directions, 500 of them the same one (catalogs repeat themselves)."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n // 40, dim))[rng.integers(0, n // 40, n)] + noise * rng.standard_normal((n, dim))
    vectors[rng.choice(n, 500, replace=False)] = vectors[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def measure(name: str, vectors: np.ndarray, kind: str) -> dict[str, Any]:
    n, dim = vectors.shape
    start = time.process_time()
    memory = index_bytes("ivf-sq8", n, dim) if kind == "ivf-sq8" else 1 << 50
    index = build_index(vectors, K, "ivf" if kind == "ivf-sq8" else kind, memory=memory)
    built = time.process_time()
    queries = np.sort(np.random.default_rng(2).choice(n, QUERIES, replace=False))
    _, scores = search(index, vectors, queries, K)
    searched = time.process_time() - built
    same = np.flatnonzero((vectors == vectors[0]).all(axis=1))
    twins = search(index, vectors, same, K)[1] > 1 - 1e-5 if len(same) > K else np.ones(1)
    return {
        "vectors": name, "n": n, "dim": dim, **index.facts, "build_s": round(built - start, 1),
        "search_s_per_1000": round(searched, 3), "whole_s": round(built - start + searched * n / QUERIES, 1),
        "mean_score_of_5th": round(float(scores[:, -1].mean()), 3), "copies_found": round(float(twins.mean()), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--vectors", type=Path, help="a folder of vectors-*.safetensors")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if args.vectors:
        shards = sorted(args.vectors.glob("vectors-*.safetensors"))
        sets = {str(args.vectors.name): np.concatenate([load_file(path)["vectors"] for path in shards])}
    else:
        sets = {f"clusters, noise {noise}": clustered(args.n, args.dim, noise) for noise in (0.5, 0.8)}
    records = []
    for name, vectors in sets.items():
        for kind in ("exact", "ivf", "ivf-sq8", "hnsw"):
            records.append(measure(name, vectors, kind))
            print(json.dumps(records[-1]), flush=True)
    if args.output:
        write_json(args.output, records)


if __name__ == "__main__":
    main()
