"""Generative recommendation with Term IDs (GRLM), the HuggingFace way."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from grlm_hf.version import __version__

# Transformers imports DeepSpeed, where it is installed, to save any model. Without a GPU that import prints a warning to stdout.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())

# Public names, loaded on first use: `import grlm_hf` is quick and loads no torch.
_HOMES = {
    "Catalog": "grlm_hf.data.catalog",
    "Engine": "grlm_hf.engines.protocol",
    "GRLMConfig": "grlm_hf.modeling.config",
    "GRLMForRecommendation": "grlm_hf.modeling.recommender",
    "Item": "grlm_hf.data.items",
    "Recommendation": "grlm_hf.modeling.results",
    "Recommendations": "grlm_hf.modeling.results",
    "Rules": "grlm_hf.decoding.rules",
    "Scheme": "grlm_hf.identifiers.scheme",
    "SearchOptions": "grlm_hf.decoding.rules",
    "Trie": "grlm_hf.trie.arrays",
    "TrieConstrainedLogitsProcessor": "grlm_hf.decoding.processor",
}
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from grlm_hf.data.catalog import Catalog as Catalog
    from grlm_hf.data.items import Item as Item
    from grlm_hf.decoding.processor import TrieConstrainedLogitsProcessor as TrieConstrainedLogitsProcessor
    from grlm_hf.decoding.rules import Rules as Rules
    from grlm_hf.decoding.rules import SearchOptions as SearchOptions
    from grlm_hf.engines.protocol import Engine as Engine
    from grlm_hf.identifiers.scheme import Scheme as Scheme
    from grlm_hf.modeling.config import GRLMConfig as GRLMConfig
    from grlm_hf.modeling.recommender import GRLMForRecommendation as GRLMForRecommendation
    from grlm_hf.modeling.results import Recommendation as Recommendation
    from grlm_hf.modeling.results import Recommendations as Recommendations
    from grlm_hf.trie.arrays import Trie as Trie


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
