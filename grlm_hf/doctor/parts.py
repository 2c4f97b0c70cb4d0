"""The parts of a checkpoint, each read independently. An unreadable part is a finding, and the others are still examined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.doctor.catalog import examine_catalog
from grlm_hf.doctor.findings import Finding
from grlm_hf.files import read_json
from grlm_hf.layout import CONFIG_FILE, EVIDENCE_FILE, PRIOR_FOLDER, TRIE_FILE
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.trie.arrays import Trie

SAVE_AGAIN = "Write it again: GRLMForRecommendation(model, tokenizer, catalog, config).save_pretrained(FOLDER)."


@dataclass
class Parts:
    """The readable parts of a checkpoint; None for unreadable ones."""

    folder: Path
    published: bool = False
    names: list[str] = field(default_factory=list)
    config: dict[str, Any] | None = None
    generation: dict[str, Any] | None = None
    grlm: GRLMConfig | None = None
    tokenizer: Any = None
    catalog: Catalog | None = None
    trie: Trie | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    needed: int = 0
    """Number of tokens of a typical prompt, its answer and EOS."""


def read_configs(parts: Parts) -> Iterator[Finding]:
    yield from _read_grlm_config(parts)
    for name, into, required in (("config.json", "config", True), ("generation_config.json", "generation", False)):
        path = parts.folder / name
        if not path.is_file():
            if required and (parts.grlm is None or parts.grlm.language_model):
                yield _missing(path, "It defines the model.")
            continue
        try:
            value = read_json(path)
            if not isinstance(value, dict):
                raise ValueError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
        except ValueError as error:
            yield _broken(path, error)
            continue
        setattr(parts, into, value)
    if parts.config is not None:
        yield from _readable_config(parts.folder)


def _read_grlm_config(parts: Parts) -> Iterator[Finding]:
    path = parts.folder / CONFIG_FILE
    if not path.is_file():
        yield _missing(path, "It states prompts, tokenizer and objective of the training; without it this is a plain language model.")
        return
    try:
        parts.grlm = GRLMConfig.load(path)
    except ValueError as error:
        if "config schema" not in str(error):
            yield _broken(path, error)
            return
        yield Finding("error", "schema", str(error), "A newer grlm-hf wrote it.", "pip install -U grlm-hf", str(path))


def _readable_config(folder: Path) -> Iterator[Finding]:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers may raise anything
        yield _broken(folder / "config.json", error, "pip install -U transformers, if the model is newer; else restore the file.")


def read_tokenizer(parts: Parts) -> Iterator[Finding]:
    from transformers import AutoTokenizer

    if not any((parts.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        yield _missing(parts.folder / "tokenizer.json", "No prompt can be written without it.")
        return
    try:
        parts.tokenizer = AutoTokenizer.from_pretrained(parts.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers, tokenizers and json may raise anything
        yield _broken(parts.folder / "tokenizer.json", error)


def read_catalog(parts: Parts) -> Iterator[Finding]:
    parts.catalog, found = examine_catalog(parts.folder)
    if (c := parts.catalog) is not None:
        parts.facts["catalog"] = f"{len(c):,} items, {len(c.identifiers):,} {c.scheme.noun}s" + (
            f", {len(c.domains)} domains" if c.domains else ""
        )
    yield from found


def read_trie(parts: Parts) -> Iterator[Finding]:
    path = parts.folder / TRIE_FILE
    if not path.is_file():
        yield Finding("info", "trie", f"There is no {TRIE_FILE}.",
                      "It is built again at each load, which takes a minute for a million items.", SAVE_AGAIN, str(path))  # fmt: skip
        return
    try:
        parts.trie = Trie.load(path)
    except Exception as error:  # the metadata of a foreign file may be anything
        yield _broken(path, error, SAVE_AGAIN)


def read_prior(parts: Parts) -> Iterator[Finding]:
    if (folder := parts.folder / PRIOR_FOLDER).is_dir():
        try:
            parts.facts["prior"] = "+".join(Fused.load(folder).components)
        except Exception as error:
            yield _broken(folder, error, "Run the recipe's hybrid stage again, or remove the folder: the checkpoint works without it.")
    if parts.grlm is not None and parts.grlm.evidence:
        try:
            ItemKNN.load(parts.folder / EVIDENCE_FILE)
        except Exception as error:
            yield _broken(parts.folder / EVIDENCE_FILE, error)


def _missing(path: Path, why: str) -> Finding:
    return Finding("error", "missing-file", f"There is no {path.name}.", why, "Download or copy the checkpoint again.", str(path.parent))


def _broken(path: Path, error: Exception, fix: str = "Download or copy it again.") -> Finding:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return Finding("error", "broken-file", f"{path.name} cannot be read: {reason}", "The checkpoint does not load.", fix, str(path))
