"""Writes a tiny chat model with random weights, to try what a language model is needed for without one.

python benchmarks/identifiers/tiny_llm.py tiny-llm
grlm run recipes/beauty-terms-extract.yaml --set terms.generator=transformers --set terms.llm.model=tiny-llm --output runs/tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grlm_hf.data.sample import make_sample
from grlm_hf.indexing.generate import request
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="receives the model and its tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    items = make_sample().items
    tokenizer = train_tokenizer([request(item, items[:2]) for item in items], 4096)
    config = ScratchConfig(hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1, head_dim=32, max_positions=4096)
    make_model(config, tokenizer, args.seed).save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
