"""A checkpoint on disk and on the Hub: an ordinary causal-LM repository with its catalog, GRLM config, trie and prior beside the model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from grlm_hf.data.catalog import Catalog
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.engines.none import NoModel
from grlm_hf.files import check_replaceable, inside, replacing
from grlm_hf.hub import fetch_checkpoint, push_folder
from grlm_hf.layout import (
    BACKENDS,
    CATALOG_FILE,
    CONFIG_FILE,
    COUNTING_FOLDER,
    CUSTOM_GENERATE,
    EVIDENCE_FILE,
    PRIOR_FOLDER,
    TRIE_FILE,
    VECTORS_FILE,
)
from grlm_hf.loading import load_causal_lm, load_tokenizer, one_line_errors
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.modeling.dense import ItemVectors, weights_hash
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.trie.arrays import Trie


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint, as `grlm_hf.modeling.recommender.GRLMForRecommendation` takes them."""

    model: Any
    tokenizer: Any
    catalog: Catalog
    config: GRLMConfig
    trie: Trie | None
    prior: Fused | None
    vectors: ItemVectors | None = None
    evidence: Evidence | None = None


def load_checkpoint(
    path_or_repo: str | Path, *, revision: str | None, token: str | None, model: Any, backend: str, **model_kwargs: Any
) -> Checkpoint:
    """Reads a checkpoint; arguments and errors as of `GRLMForRecommendation.from_pretrained`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {BACKENDS}.")
    folder = Path(path_or_repo)
    if not folder.is_dir():
        folder = fetch_checkpoint(str(path_or_repo), revision=revision, token=token)
    for name in (CATALOG_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            if other := inside(folder, CONFIG_FILE, "checkpoint", COUNTING_FOLDER):
                raise ValueError(f"{path_or_repo} holds no {name}: it is not a GRLM checkpoint.{other}")
            raise ValueError(
                f"{path_or_repo} holds no {name}: it is not a GRLM checkpoint (a plain language model?). "
                "Train one with `grlm train`, or join the parts: "
                "GRLMForRecommendation(model, tokenizer, catalog).save_pretrained(folder)."
            )
    config = GRLMConfig.load(folder / CONFIG_FILE)
    with one_line_errors("catalog", folder):
        catalog = Catalog.from_pretrained(folder)
    tokenizer = load_tokenizer(folder, local_files_only=True)
    for name in ("is_local", "local_files_only"):  # how it was loaded is not to be saved with it
        tokenizer.init_kwargs.pop(name, None)
    if not config.language_model and (model is not None or backend != "transformers" or model_kwargs):
        raise ValueError(f"{path_or_repo} is a recommender without a language model; it takes no model, backend or options of one.")
    own_weights = model is None
    if model is None and backend == "vllm":
        from grlm_hf.vllm.engine import VLLMEngine, start_for_searches  # the one import from a later room: an engine that is chosen by name

        model = VLLMEngine(start_for_searches(str(folder), **model_kwargs))
    elif model is None and not config.language_model:
        model = NoModel()
    elif model is None:
        model = load_causal_lm(folder, local_files_only=True, use_safetensors=True, **model_kwargs)
    with one_line_errors("trie", folder):
        trie = Trie.load(folder / TRIE_FILE) if (folder / TRIE_FILE).is_file() else None
    with one_line_errors("prior", folder):
        prior = Fused.load(folder / PRIOR_FOLDER) if (folder / PRIOR_FOLDER).is_dir() else None
    with one_line_errors("evidence", folder):
        evidence = Evidence(ItemKNN.load(folder / EVIDENCE_FILE), config.evidence) if config.evidence else None
    vectors = None
    if config.language_model and backend == "transformers" and (path := folder / VECTORS_FILE).is_file():
        vectors = ItemVectors.load(path, weights_hash(folder))
        vectors = vectors if own_weights else vectors.without_rows()
    return Checkpoint(model, tokenizer, catalog, config, trie, prior, vectors, evidence)


def save_checkpoint(
    folder: str | Path, model: Any, tokenizer: Any, index: SearchIndex, config: GRLMConfig, prior: Fused | None,
    vectors: ItemVectors | None = None, evidence: Evidence | None = None,
) -> None:  # fmt: skip
    """Writes a checkpoint, replacing `folder` as a whole. Raises `ValueError` if `folder` holds other files and no catalog."""
    check_replaceable(folder, CATALOG_FILE)
    with replacing(folder) as new:
        new.mkdir(exist_ok=True)
        if config.language_model:
            model.generation_config = GenerationConfig(  # greedy and unpenalised: nothing that would change the scores
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
            )
            if hasattr(text := model.config.get_text_config(), "output_router_logits"):
                text.output_router_logits = False  # TRL turns them on for its loss; ``generate()`` cannot compute that loss with a cache
            model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        index.catalog.save_pretrained(new)
        config.save(new / CONFIG_FILE)
        index.trie.save(new / TRIE_FILE, index.catalog.identifiers_hash)
        if prior:
            prior.save(new / PRIOR_FOLDER)
        if evidence:
            evidence.knn.save(new / EVIDENCE_FILE)
        if vectors:
            vectors.save(new / VECTORS_FILE, weights_hash(new))
        for name, text in CUSTOM_GENERATE.items() if config.language_model else ():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text, encoding="utf-8")


def push_checkpoint(grlm: Any, repo_id: str, *, private: bool, token: str | None) -> str:
    """Publishes what ``grlm.save_pretrained`` writes as a model repository in one commit; returns its URL."""
    with tempfile.TemporaryDirectory() as work:
        grlm.save_pretrained(Path(work) / "checkpoint")
        return push_folder(Path(work) / "checkpoint", repo_id, private=private, token=token)
