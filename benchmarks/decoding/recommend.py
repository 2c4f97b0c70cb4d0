"""`recommend()` against transformers' `generate()` with the same trie, interleaved, on the sample shop with random weights.

    python benchmarks/decoding/recommend.py

The gate comes first: both must give the same items, and scores within 1e-4. Writes benchmarks/results/recommend.json.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch

from grlm_hf import Catalog, GRLMForRecommendation, TrieConstrainedLogitsProcessor
from grlm_hf.files import write_json
from grlm_hf.identifiers.extract import extract_terms
from grlm_hf.identifiers.neighbors import find_neighbors
from grlm_hf.identifiers.terms import parse
from grlm_hf.modeling import GRLMConfig
from grlm_hf.sample import make_sample
from grlm_hf.tasks.prompts import item_line, prompt_hash, tokenizer_hash
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer

BEAMS, HISTORY = 20, 20
RESULTS = Path(__file__).parent.parent / "results" / "recommend.json"


def make(objective: str) -> tuple[GRLMForRecommendation, list[list[str]]]:
    sample = make_sample()
    catalog = Catalog(sample.items, extract_terms(sample.items, find_neighbors(sample.items)))
    tokenizer = train_tokenizer([item_line(t) for t in catalog.identifiers] * 10 + ["user\nassistant\nNext items after:\n"], 3072)
    model = make_model(ScratchConfig(vocab_size=3072), tokenizer, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(5)  # tells beams apart
    config = GRLMConfig(HISTORY, prompt_hash(), tokenizer_hash(tokenizer), objective)
    users: dict[str, list[str]] = {}
    for row in sample.interactions:
        users.setdefault(row.user_id, []).append(row.item_id)
    return GRLMForRecommendation(model, tokenizer, catalog, config), list(users.values())[:32]


def by_generate(grlm: GRLMForRecommendation, histories: list[list[str]]) -> list[list[tuple[tuple[str, ...] | None, float]]]:
    prompts = [grlm.prompt_tokens(h)[0].tolist() for h in histories]
    batch = grlm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    out = grlm.model.generate(
        **batch, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=grlm.trie.depth + 1, do_sample=False, length_penalty=0.0,
        logits_processor=[TrieConstrainedLogitsProcessor(grlm.trie, objective=grlm.config.objective)],
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    texts = grlm.tokenizer.batch_decode(out.sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    pairs = [(parse(t), s) for t, s in zip(texts, out.sequences_scores.tolist(), strict=True)]
    return [pairs[i : i + BEAMS] for i in range(0, len(pairs), BEAMS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the fastest of each counts (default 5)")
    rounds = parser.parse_args().rounds
    records = []
    for objective in ("vocabulary", "trie"):
        grlm, histories = make(objective)
        ours = grlm.recommend(histories, BEAMS, num_beams=BEAMS)
        theirs = by_generate(grlm, histories)
        gate = all(
            a.term_id == b and abs(a.score - s) < 1e-4
            for mine, found in zip(ours, theirs, strict=True)
            for a, (b, s) in zip({r.term_id: r for r in mine}.values(), found, strict=False)
        )
        best = {"ours": float("inf"), "generate": float("inf")}
        for _ in range(rounds):
            calls = {"ours": partial(grlm.recommend, histories, BEAMS, num_beams=BEAMS), "generate": partial(by_generate, grlm, histories)}
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - start)
        ratio = best["generate"] / best["ours"]
        records.append(
            {
                "name": f"recommend() against generate(), objective {objective}, {len(histories)} users, {BEAMS} beams",
                "unit": "times faster",
                "measured": round(ratio, 2),
                "target": 1.0,
                "better": "higher",
                "met": ratio >= 1 and gate,
                "gate_passed": gate,
                "command": "make bench",
                "hardware": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
                "date": date.today().isoformat(),
            }
        )
        print(f"{records[-1]['name']}: {ratio:.1f}x (same items and scores: {gate})")
    write_json(RESULTS, records)


if __name__ == "__main__":
    main()
