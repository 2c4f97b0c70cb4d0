"""Goals of the identifiers: validity and agreement of random models over all kinds, and figures of the study.

    OMP_NUM_THREADS=1 python benchmarks/identifiers/goals.py                  # some minutes; writes results/identifiers-goals.json

Random small models over random catalogs of every kind, under both objectives: each recommendation must be an item of the catalog, and
the scores of this package's search, of plain ``generate()`` with the logits processor and of one forward for each identifier must agree.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
from harness import RESULTS, Results

from grlm_hf import Catalog, GRLMForRecommendation, Item, TrieConstrainedLogitsProcessor
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.stages.codes import atomic_catalog, codes_catalog, titles_catalog
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer

WORDS = ["lamp", "tent", "soap", "comb", "rope", "boot", "cup", "hat"]
HISTORIES, K, BEAMS = 50, 10, 20


def items_of(rng: np.random.Generator, n: int = 60) -> list[Item]:
    return [Item(f"i{m}", " ".join(rng.choice(WORDS, 3)), description=" ".join(rng.choice(WORDS, 6))) for m in range(n)]


def codes(**settings: Any) -> Callable[[list[Item], int], Catalog]:
    def catalog(items: list[Item], seed: int) -> Catalog:
        pieces = settings.get("pieces", 0)
        own = {name: value for name, value in settings.items() if name != "pieces"}
        return codes_catalog(items, CodesConfig(codes=[8], dims=16, seed=seed, **own), NeighborsConfig(), pieces=pieces)[0]

    return catalog


KINDS: dict[str, Callable[[list[Item], int], Catalog]] = {
    "terms": lambda items, seed: Catalog(
        items, [tuple(dict.fromkeys((*i.title.split(), f"n{seed + n % 7}"))) for n, i in enumerate(items)]
    ),
    "residual-kmeans": codes(),
    "digits": codes(levels=2, collisions="digit"),
    "opq": codes(quantizer="opq"),
    "random": codes(quantizer="random", collisions="share"),
    "pieces": codes(pieces=130),
    "atomic": lambda items, _: atomic_catalog(items)[0],
    "titles": lambda items, _: titles_catalog(items)[0],
}


def model_of(catalog: Catalog, objective: str, seed: int) -> GRLMForRecommendation:
    added = catalog.added_tokens()
    lines = [] if added else [catalog.scheme.line(i) for i in catalog.identifiers]
    tokenizer = train_tokenizer([*lines, "user\nassistant\nNext items after:\n", " ".join(WORDS)], 400)
    tokenizer.add_tokens(added)
    shape = ScratchConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, max_positions=512)
    model = make_model(shape, tokenizer, seed)
    with torch.no_grad():  # random weights give near-uniform scores; sharper ones tell beams apart
        model.get_input_embeddings().weight.mul_(8.0)
    config = GRLMConfig(objective=objective, scheme=catalog.scheme.name, codebook=catalog.codebook_hash)
    return GRLMForRecommendation(model.eval(), tokenizer, catalog, config)


def true_scores(grlm: GRLMForRecommendation, prompt: np.ndarray, objective: str) -> dict[tuple[str, ...], float]:
    """log p of every identifier: one plain forward each, without cache or batch."""
    catalog, found = grlm.catalog, {}
    paths = dict(zip(catalog.identifiers, identifier_tokens(grlm.tokenizer, catalog.scheme, catalog.identifiers), strict=True))
    for identifier, path in paths.items():
        logits = grlm.model(torch.tensor([[*prompt.tolist(), *path]])).logits[0, len(prompt) - 1 : -1].double()
        total = 0.0
        for depth, token in enumerate(path):
            legal = {other[depth] for other in paths.values() if other[:depth] == path[:depth]}
            row = logits[depth] if objective == "vocabulary" else logits[depth][sorted(legal)]
            total += float(logits[depth, token] - row.logsumexp(0))
        found[identifier] = total
    return found


def by_generate(grlm: GRLMForRecommendation, prompt: np.ndarray) -> dict[tuple[str, ...], float]:
    """Identifier → score of plain beam search with the processor; scores are of the whole vocabulary."""
    processor = TrieConstrainedLogitsProcessor(grlm.trie)
    inputs = torch.tensor(prompt)[None]
    out = grlm.model.generate(
        inputs, attention_mask=torch.ones_like(inputs), num_beams=BEAMS, num_return_sequences=BEAMS, do_sample=False, length_penalty=0.0,
        max_new_tokens=grlm.trie.depth + 1, logits_processor=[processor], return_dict_in_generate=True, output_scores=True,
        eos_token_id=grlm.tokenizer.eos_token_id, pad_token_id=grlm.tokenizer.pad_token_id,
    )  # fmt: skip
    texts = grlm.tokenizer.batch_decode(out.sequences[:, len(prompt) :], skip_special_tokens=True)
    scores = out.sequences_scores.tolist()
    return {grlm.catalog.scheme.parse(t): s for t, s in zip(texts, scores, strict=True) if s > -1e4}  # type: ignore[misc]


@torch.inference_mode()
def random_models(results: Results) -> None:
    given, invalid, worst = 0, 0, {"search": 0.0, "generate": 0.0}
    for seed in range(2):
        for name, make in KINDS.items():
            rng = np.random.default_rng(100 * seed + len(name))
            catalog = make(items_of(rng), seed)
            for objective in ("vocabulary", "trie"):
                grlm = model_of(catalog, objective, seed)
                ids = [i.item_id for i in catalog]
                histories = [rng.choice(ids, rng.integers(1, 6)).tolist() for _ in range(HISTORIES)]
                for found in grlm.recommend(histories, K, num_beams=BEAMS):
                    given += len(found)
                    invalid += sum(r.item_id not in catalog for r in found) + len(found) - len({r.item_id for r in found})
                for history in histories[:2]:
                    index = grlm.shelf.index
                    (prompt,) = grlm.prompts(index, [[catalog.position(i) for i in history]])
                    true = true_scores(grlm, prompt, objective)
                    off = [abs(r.log_prob - true[r.identifier]) for r in grlm.recommend(history, K, exact=True)]
                    worst["search"] = max(worst["search"], *off)
                    if objective == "vocabulary":
                        off = [abs(score - true[identifier]) for identifier, score in by_generate(grlm, prompt).items()]
                        worst["generate"] = max(worst["generate"], *off)
    results.add("recommendations of random models over all kinds", "recommendations", given, 10_000)
    results.add("invalid or repeated ones among them", "recommendations", invalid, 0, better="lower", gate=invalid == 0)
    results.add("search against one forward for each identifier, largest difference", "nats", worst["search"], 1e-3, better="lower")
    results.add("generate() with the processor against the same, largest difference", "nats", worst["generate"], 1e-3, better="lower")


def of_study(results: Results) -> None:
    path = RESULTS / "identifiers-study.json"
    if not path.is_file():
        return
    rows = [r for r in json.loads(path.read_text(encoding="utf-8"))["rows"] if r["dataset"] == "amazon-beauty"]
    for key in sorted({(r["teacher"], r["epochs"]) for r in rows}):
        some = [r for r in rows if (r["teacher"], r["epochs"]) == key]
        mean = {kind: float(np.mean([r["recall@10"] for r in some if r["kind"] == kind])) for kind in {r["kind"] for r in some}}
        where = f"Beauty, {key[0]} teacher, {key[1]} epochs"
        made = [kind for kind in mean if kind.startswith(("residual", "rqvae", "opq"))]
        if "random" in mean and made:
            results.add(f"{where}: random codes, recall@10 (goal: below the worst other codes)", "recall@10", mean["random"],
                        min(mean[kind] for kind in made), better="lower")  # fmt: skip
        if "terms-3" in mean and made:
            best = max(made, key=lambda kind: mean[kind])
            results.add(
                f"{where}: best codes ({best}), recall@10 (goal: Term IDs of three terms)", "recall@10", mean[best], mean["terms-3"]
            )


def main() -> None:
    results = Results("identifiers-goals", "python benchmarks/identifiers/goals.py")
    random_models(results)
    of_study(results)
    results.save("Identifiers of every kind", "nats")


if __name__ == "__main__":
    main()
