"""The quickstart: the synthetic sample shop, through the same recipe as real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grlm_hf.data.sample import SYNTHETIC_NOTICE, write_sample
from grlm_hf.recipe import Recipe, override
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig

QUICKSTART = Recipe(
    name="quickstart (synthetic shop)",
    notice=SYNTHETIC_NOTICE,
    train=TrainConfig(
        objective="trie",
        scratch=ScratchConfig(vocab_size=3072, hidden_size=128, layers=2),
        epochs=6,
        learning_rate=3e-3,
        batch_size=64,
        weight_decay=0.05,
        dropout=0.1,
    ),
)


def quickstart_recipe(output: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Writes the sample shop to ``output/data``, unless it exists, and returns its recipe with `settings` applied.

    Raises:
        ValueError: an unknown setting or an illegal value; then nothing is written.
    """
    recipe = override(QUICKSTART, settings)
    data = Path(output) / "data"
    if not (data / "interactions.jsonl").is_file():
        write_sample(data)
    return replace(recipe, data=str(data), output=str(output))
