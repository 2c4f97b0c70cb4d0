"""Starts vLLM's offline engine."""

from __future__ import annotations

from typing import Any


def start(model: str, **options: Any) -> Any:
    """vLLM's offline engine on a checkpoint's folder or Hub id, with options of ``vllm.LLM``. Raises `ImportError` without vLLM."""
    try:
        from vllm import LLM
    except ImportError as error:
        raise ImportError(
            'This back end is vLLM, which failed to import: pip install "grlm-hf[vllm]" in an environment of its own'
        ) from error
    return LLM(model=model, **({"seed": 0} | options))
