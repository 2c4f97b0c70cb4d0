"""The GRLM config of a checkpoint: what it states beside the language model's own config."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from grlm_hf.files import read_json, write_json
from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import CONFIG_SCHEMA, OBJECTIVES
from grlm_hf.tasks.prompts import check_history, prompt_hash

_SINCE = {"scheme": 2, "exclude_seen": 3, "own_prior": 3, "language_model": 3, "evidence": 4, "codebook": 5}
"""Key → the first schema that has it."""
_LATER = {"history", "max_tokens", *_SINCE}  # keys that older checkpoints lack


@dataclass(frozen=True)
class GRLMConfig:
    """What a checkpoint states beside the language model's own config."""

    max_history: int = 20
    """Items of a history that a prompt shows."""
    prompt_hash: str = ""
    """`grlm_hf.tasks.prompts.prompt_hash` at training time."""
    tokenizer_hash: str = ""
    """`grlm_hf.tokens.tokenizer_hash` of the tokenizer at training time."""
    objective: str = "vocabulary"
    """What the training loss, and so every score, is normalised over (`grlm_hf.layout.OBJECTIVES`)."""
    history: str = "term_ids"
    """What a prompt shows of each item of a history (`grlm_hf.layout.HISTORIES`)."""
    max_tokens: int = 0
    """Token budget of a prompt and its answer in training; 0: only the model's own limit counts."""
    scheme: str = TERMS.name
    """What an identifier is (`grlm_hf.identifiers.SCHEMES`)."""
    exclude_seen: bool = False
    """Whether items of the history are left out unless a request says otherwise: as the checkpoint was evaluated."""
    own_prior: bool = False
    """Whether the checkpoint's own prior is used unless a request says otherwise: as the checkpoint was evaluated."""
    language_model: bool = True
    """Whether there is one. Without it, items are ranked by the checkpoint's own prior alone."""
    evidence: int = 0
    """Lines of evidence above a history, at most (`grlm_hf.tasks.evidence`)."""
    codebook: str = ""
    """`Catalog.codebook_hash`: what the codes of Semantic IDs mean; empty for other identifiers."""

    def save(self, path: Path) -> None:
        """Writes the config, with the lowest schema that states it, so that older versions read what they can."""
        values = asdict(self)
        schema = 1
        for name, since in _SINCE.items():
            if values[name] == getattr(GRLMConfig, name):
                del values[name]
            else:
                schema = max(schema, since)
        write_json(path, values | {"schema": schema})

    @classmethod
    def load(cls, path: Path) -> GRLMConfig:
        """Reads a config. Raises ``ValueError`` for a newer schema, unknown or missing keys, or a value of another type."""
        values = read_json(path)
        if not isinstance(values, dict) or type(schema := values.pop("schema", None)) is not int or schema < 1:
            raise ValueError(f"{path} states no schema version; expected {CONFIG_SCHEMA}.")
        if schema > CONFIG_SCHEMA:
            raise ValueError(f"{path} has config schema {schema}; this grlm-hf reads up to {CONFIG_SCHEMA}. pip install -U grlm-hf")
        known = {f.name: type(f.default) for f in fields(cls)}
        if not known.keys() - _LATER <= values.keys() <= known.keys():
            raise ValueError(f"{path} holds the keys {sorted(values)}; expected {sorted(known)}.")
        for name, value in values.items():
            if type(value) is not known[name]:
                raise ValueError(f"{path}: {name} is {str(value)[:100]!r}; expected a value of type {known[name].__name__}.")
            if type(value) is int and value < (1 if name == "max_history" else 0):
                raise ValueError(f"{path}: {name} is {value}; expected {1 if name == 'max_history' else 0} or more.")
        return cls(**values)

    def refuse_evidence(self, purpose: str) -> None:
        """Raises ``ValueError`` if prompts show evidence, for a `purpose` that asks about training histories."""
        if self.evidence:
            raise ValueError(
                f"{purpose} asks about training histories, and the evidence in this checkpoint's prompts counts their answers "
                f"(mixture.evidence={self.evidence}). Use a checkpoint without evidence."
            )

    def check(self, tokenizer: str, scheme: Scheme, codebook: str = "") -> None:
        """Raises ``ValueError`` if the tokenizer (its hash), this version's prompts, the scheme or the codebook (its hash) are not those of
        the training."""
        if self.tokenizer_hash != tokenizer:
            raise ValueError(
                f"The tokenizer (hash {tokenizer}) is not the one that this checkpoint was trained with (hash {self.tokenizer_hash}); "
                "its trie would not match the labels. Restore the checkpoint's own tokenizer files."
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(f"The checkpoint's objective is {self.objective!r}; expected one of {OBJECTIVES}.")
        check_history(self.history)
        if self.scheme != scheme.name:
            raise ValueError(
                f"The checkpoint writes identifiers of the scheme {self.scheme!r}, its catalog has {scheme.name!r}. Restore the "
                "checkpoint's own catalog."
            )
        if self.codebook != codebook:
            found = codebook or "none"
            raise ValueError(
                f"The checkpoint writes codes of the codebook {self.codebook or 'none'}, its catalog has those of {found}: equal codes "
                "mean other items. Use the catalog that it was trained with, or train again."
            )
        if self.prompt_hash != (written := prompt_hash(self.history, scheme, self.evidence)):
            raise ValueError(
                f"This checkpoint was trained with other prompts (hash {self.prompt_hash}; this grlm-hf writes {written}). "
                "Use the grlm-hf version that trained it, or train again."
            )
