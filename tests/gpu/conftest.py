"""What a CUDA device computes, against the oracles of the CPU's tests: `make test-gpu`. Needs pytest, torch, transformers and trl."""

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
