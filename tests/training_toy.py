"""A training run small enough to be killed and run again by a test."""

from __future__ import annotations

from pathlib import Path

from toys import toy_catalog, toy_histories

from grlm_hf.interactions import leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, build_mixture
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, train


def run(folder: str) -> None:
    catalog = toy_catalog()
    mixture = build_mixture(catalog, leave_one_out(toy_histories()).train, MixtureConfig(max_history=3))
    shape = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)
    config = TrainConfig(objective="trie", scratch=shape, epochs=12, batch_size=8, dropout=0.1, save_steps=10, validation_examples=0)
    train(catalog, mixture, Path(folder) / "work", config).save_pretrained(Path(folder) / "checkpoint")
