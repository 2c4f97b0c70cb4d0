"""Train a checkpoint further with GRPO: rollouts come from the constrained search, their reward from item-kNN.

python examples/rl.py [grlm-quickstart/checkpoint] [grlm-quickstart/datasets] [checkpoint-grpo] [steps]
"""

from __future__ import annotations

import sys

from grlm_hf.stages.rl import make_grpo
from grlm_hf.training.grpo import GRPOConfig, RewardWeights


def main(
    checkpoint: str = "grlm-quickstart/checkpoint",
    datasets: str = "grlm-quickstart/datasets",
    output: str = "checkpoint-grpo",
    steps: str = "120",
) -> None:
    config = GRPOConfig(
        steps=int(steps),
        prompts=64,
        rollouts=16,
        learning_rate=4e-4,
        beta=2.0,  # keeps the policy near the checkpoint; without it, training ends at item-kNN's own ranking
        rewards=RewardWeights(exact_hit=0.0, collaborative=1.0),
    )
    result = make_grpo(checkpoint, datasets, output, config)
    for name, figures in result["methods"].items():  # all validation users, before and after
        print(f"{name:>6}  ndcg@10 {figures['ndcg@10']:.4f}  recall@10 {figures['recall@10']:.4f}")
    print(result["comparisons"])


if __name__ == "__main__":
    main(*sys.argv[1:])
