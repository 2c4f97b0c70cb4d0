"""The identifiers that the decoding benchmarks run on: Amazon Beauty's in Qwen's tokens, and synthetic catalogs of any size."""

from __future__ import annotations

import base64
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf import Catalog, Trie
from grlm_hf.data.items import load_items, load_term_ids

VOCAB = 151_936  # of Qwen2, Qwen2.5 and Qwen3
EOS = 151_645
_COMMA, _CLOSE = 11, 921  # "," and "]\n" in Qwen's vocabulary


def beauty() -> Catalog:
    """Amazon Beauty with its official Term IDs. Raises ``FileNotFoundError`` where the data are absent."""
    folder = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"
    if not folder.is_dir():
        raise FileNotFoundError(f"No Amazon Beauty at {folder}; set GRLM_DATA to the folder that holds amazon-beauty/.")
    items = load_items(folder / "items.jsonl.gz", missing_title="fill")
    tids = load_term_ids(folder / "term_ids_official.jsonl.gz")
    return Catalog(items, [tids[item.item_id] for item in items])


@cache
def qwen_tokenizer() -> Any:
    """Qwen's own tokenizer, from the merge ranks that the PyPI package `dashscope` carries (``make bench`` installs it)."""
    from importlib.util import find_spec

    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    spec = find_spec("dashscope")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("The benchmarks take Qwen's tokenizer from the package dashscope: pip install --no-deps dashscope==2.0.2")
    ranks = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # as Qwen says
    )

    class Converter(TikTokenConverter):  # reads the file itself, so that tiktoken need not be installed
        def load_tiktoken_bpe(self, path: str) -> dict[bytes, int]:
            lines = (line.split() for line in Path(path).read_bytes().splitlines())
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    backend = Converter(vocab_file=str(ranks), pattern=pattern, extra_special_tokens=specials).converted()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def synthetic_paths(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`n` distinct identifiers of five terms as Qwen would write them: (tokens int64 [total], lengths int64 [n]); 15 tokens on average.

    Terms are drawn by Zipf's law, the later the more freely, from 1,114 · 6,010 … terms for a catalog of Beauty's size and more for
    larger ones; a term is one to four tokens. As in Qwen's vocabulary the bracket and the first letters are one token, of 40.
    """
    rng = np.random.default_rng(seed)
    scale = max(1.0, (n / 12_000) ** 0.4)
    sizes = (np.array([1_100, 4_000, 7_500, 7_500, 7_500]) * scale).astype(int)
    terms = np.empty((0, 5), np.int64)
    while len(terms) < n:
        draw = np.stack([(size ** rng.random(n + n // 4)).astype(np.int64) for size in sizes], 1)  # log-uniform: Zipf's law
        terms = np.unique(np.concatenate((terms, draw)), axis=0)
    terms = terms[rng.permutation(len(terms))[:n]]
    words = rng.integers(1_000, 150_000, (int(sizes.max()) + 1, 4))
    words[:, 3] = np.arange(len(words)) + 1_000  # no two terms alike
    pieces = rng.choice([1, 2, 3, 4], len(words), p=[0.45, 0.35, 0.15, 0.05])
    words[:, 0] = np.where(pieces == 1, words[:, 3], words[:, 0])
    rows = np.full((n, 2 + 5 * 5), -1)
    rows[:, 0] = 200 + terms[:, 0] % 40
    for slot in range(5):
        term = terms[:, slot]
        for piece in range(4):
            last = pieces[term] == piece + 1
            token = np.where(last, words[term, 3], words[term, piece])
            rows[:, 1 + 5 * slot + piece] = np.where(piece < pieces[term], token, -1)
        rows[:, 5 + 5 * slot] = _COMMA if slot < 4 else _CLOSE
    used = rows >= 0
    return rows[used], used.sum(1)


def synthetic(n: int, seed: int = 0) -> Trie:
    return Trie.from_flat(*synthetic_paths(n, seed), eos_token_id=EOS)
