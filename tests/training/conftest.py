"""TRL's trainers, imported where `tests/vllm` does not look like the package vllm: TRL would read a version of it, and fail."""

import sys
from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as _patch:
    _patch.setattr(sys, "path", [p for p in sys.path if Path(p).name != "tests"])
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer  # noqa: F401
