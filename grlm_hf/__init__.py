"""Generative recommendation with Term IDs (GRLM), the HuggingFace way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names, loaded on first use: `import grlm_hf` is quick and loads no torch.
_HOMES = {
    "Catalog": "grlm_hf.catalog",
    "Item": "grlm_hf.catalog",
    "GRLMForRecommendation": "grlm_hf.modeling",
    "Recommendation": "grlm_hf.modeling",
    "Trie": "grlm_hf.decoding.trie",
    "TrieConstrainedLogitsProcessor": "grlm_hf.decoding.processor",
}
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from grlm_hf.catalog import Catalog as Catalog
    from grlm_hf.catalog import Item as Item
    from grlm_hf.decoding.processor import TrieConstrainedLogitsProcessor as TrieConstrainedLogitsProcessor
    from grlm_hf.decoding.trie import Trie as Trie
    from grlm_hf.modeling import GRLMForRecommendation as GRLMForRecommendation
    from grlm_hf.modeling import Recommendation as Recommendation


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
