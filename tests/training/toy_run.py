"""A training on the toys as a program of its own, to be killed, run again, and started in several processes by the tests.

python toy_run.py FOLDER '{"epochs": 2, ...}'     settings of TrainConfig; "seed"
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from toys import toy_catalog, toy_histories

from grlm_hf.interactions import leave_one_out
from grlm_hf.tasks.mixture import MixtureConfig, build_mixture, examples_to_dataset, validation_sequences
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, train

CATALOG = toy_catalog()
SPLIT = leave_one_out(toy_histories())
MIXTURE = build_mixture(CATALOG, SPLIT.train, MixtureConfig(max_history=3))
VALIDATION = examples_to_dataset(validation_sequences(CATALOG, SPLIT.validation, 3))
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)


def run(folder: Path, settings: dict, **more: object) -> None:
    seed = settings.pop("seed", 0)
    config = TrainConfig(**{"scratch": TINY, "learning_rate": 1e-2, "dropout": 0.1} | settings)
    grlm = train(CATALOG, MIXTURE, folder / "work", config, validation=VALIDATION, max_history=3, seed=seed, **more)
    if os.environ.get("RANK", "0") == "0":
        grlm.save_pretrained(folder / "checkpoint")


if __name__ == "__main__":
    from grlm_hf.training.config import EarlyStoppingConfig

    settings = json.loads(sys.argv[2])
    if "early_stopping" in settings:
        settings["early_stopping"] = EarlyStoppingConfig(**settings["early_stopping"])
    run(Path(sys.argv[1]), settings, cases=SPLIT.validation)
