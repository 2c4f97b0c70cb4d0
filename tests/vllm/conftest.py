from __future__ import annotations

import importlib.util
from typing import Any

import pytest

# Its tests need no vLLM, so `make test` runs them; vLLM's own environment has no hypothesis.
collect_ignore = [] if importlib.util.find_spec("hypothesis") else ["test_vllm_arguments.py"]


@pytest.fixture(scope="session")
def kept() -> list[Any]:
    """Engines, until all tests are over: one that goes takes what all in a process share with it."""
    return []
