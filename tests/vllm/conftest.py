from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def kept() -> list[Any]:
    """Engines, until all tests are over: one that goes takes what all in a process share with it."""
    return []
