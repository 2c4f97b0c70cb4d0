"""The catalog's constraint and the searches on vLLM. Names are loaded on first use; this package and `arguments` need no vLLM."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "TrieConstrainedLogitsProcessor": "grlm_hf.vllm.processor",
    "VLLMEngine": "grlm_hf.vllm.engine",
    "recommend": "grlm_hf.vllm.running",
    "sample": "grlm_hf.vllm.running",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from grlm_hf.vllm.engine import VLLMEngine as VLLMEngine
    from grlm_hf.vllm.processor import TrieConstrainedLogitsProcessor as TrieConstrainedLogitsProcessor
    from grlm_hf.vllm.running import recommend as recommend
    from grlm_hf.vllm.running import sample as sample


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
