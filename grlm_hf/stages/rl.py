"""Checkpoint and dataset repository → a checkpoint trained further on rewards or preferences."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.interactions import Case, History
from grlm_hf.data.repository import dataset_facts, load_cases, train_histories
from grlm_hf.files import alone, check_replaceable, fingerprint, local_paths, read_json, replacing, write_json
from grlm_hf.layout import CONFIG_FILE
from grlm_hf.publishing.model_card import write_model_card
from grlm_hf.publishing.record import record_training, recorded
from grlm_hf.training.dpo import DPOConfig
from grlm_hf.training.grpo import GRPOConfig

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation

RESULT_FILE = "training_result.json"


@alone
def make_grpo(
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    config: GRPOConfig | None = None,
    *,
    work: str | Path | None = None,
    seed: int = 0,
    measure: bool = True,
) -> dict[str, Any]:
    """Trains a checkpoint further with GRPO on the training histories of a dataset repository, and writes the new checkpoint.

    Args:
        checkpoint, datasets: folders or Hub ids.
        work: keeps the state of the training, so that a killed run is resumed; by default beside `output`, until that is written.
        measure: rank all items for all validation cases, before and after; test cases are not used.

    Returns:
        The effect, also in ``training_result.json`` of the checkpoint: with `measure`, `users`, `methods` (`start`, `end`: metric → mean)
        and `comparisons` (`grlm_hf.evaluation.significance.Comparison`); of GRPO also `valid_rollouts`, the share of its rollouts that are
        Term IDs of the catalog.

    Raises:
        ValueError: an item that the catalog lacks; and as `grlm_hf.training.grpo.train_grpo`.
    """
    from grlm_hf.training.grpo import train_grpo

    config = config or GRPOConfig()

    def train(grlm: GRLMForRecommendation, histories: list[History], folder: Path) -> None:
        scorer = None
        if config.rewards.collaborative:
            from grlm_hf.priors.knn import ItemKNN

            scorer = ItemKNN.fit([i.item_id for i in grlm.catalog], histories)
        train_grpo(grlm, histories, folder, config, scorer=scorer, seed=seed)

    return _trained("grpo", checkpoint, datasets, output, [config, seed], train, work, measure, config.exclude_seen, seed)


@alone
def make_dpo(
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    config: DPOConfig | None = None,
    *,
    work: str | Path | None = None,
    seed: int = 0,
    measure: bool = True,
) -> dict[str, Any]:
    """The same with DPO on beam negatives (`grlm_hf.training.dpo`); arguments, result and errors as in `make_grpo`."""
    from grlm_hf.training.dpo import train_dpo

    config = config or DPOConfig()

    def train(grlm: GRLMForRecommendation, histories: list[History], folder: Path) -> None:
        train_dpo(grlm, histories, folder, config, seed=seed)

    return _trained("dpo", checkpoint, datasets, output, [config, seed], train, work, measure, config.exclude_seen, seed)


def _trained(
    name: str,
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    settings: list[Any],
    train: Callable[[GRLMForRecommendation, list[History], Path], None],
    work: str | Path | None,
    measure: bool,
    exclude_seen: bool,
    seed: int,
) -> dict[str, Any]:
    from grlm_hf.evaluation.processes import is_main, to_device
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    check_replaceable(output, CONFIG_FILE)
    if Path(checkpoint).is_dir():
        recorded(Path(checkpoint))  # what the new card quotes is read before the training, not after it
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    grlm.config.refuse_evidence(name.upper())  # before the first measurement
    histories = _histories(datasets, grlm)
    if work is None:
        key = fingerprint(name, local_paths(checkpoint, datasets), [*settings, str(checkpoint), str(datasets)])
        work = Path(output).parent / f".{Path(output).name}-{name}-{key}"
    work = Path(work)
    saved_as = grlm.model.dtype
    to_device(grlm.model.float())  # small steps round to nothing in bfloat16
    cases = load_cases(datasets, "validation") if measure else []
    before = _measured("start", grlm, cases, exclude_seen, work)
    train(grlm, histories, work / "training")
    after = _measured("end", grlm, cases, exclude_seen, work)
    result: dict[str, Any] = {}
    if cases:
        from grlm_hf.evaluation.schema import plain
        from grlm_hf.evaluation.significance import compare

        hits = {"end": after, "start": before}
        result = {
            "part": "validation",
            "users": len({c.user_id for c in cases}),
            "methods": {n: {m: float(v.mean()) for m, v in values.items()} for n, values in hits.items()},
            "comparisons": plain(compare(hits, [c.user_id for c in cases], [("end", "start")], seed=seed)),
        }
    if not is_main():
        return result
    log = read_json(work / "training" / "log.json")
    if valid := [entry["rewards/validity/mean"] for entry in log if "rewards/validity/mean" in entry]:
        result["valid_rollouts"] = sum(valid) / len(valid)
    grlm.model.to(saved_as)
    try:
        facts = dataset_facts(datasets)
    except ValueError:  # tables that other programs wrote have none
        facts = {}
    check_replaceable(output, CONFIG_FILE)
    with replacing(output) as made:  # with its log, records and card, or not at all
        grlm.save_pretrained(made)
        write_json(made / "training_log.json", log)
        write_json(made / RESULT_FILE, result)
        record_training(made, name, asdict(settings[0]), seed=seed, start=str(checkpoint), datasets=datasets, facts=facts)
        write_model_card(made)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _histories(datasets: str | Path, grlm: GRLMForRecommendation) -> list[History]:
    """The training histories, without validation and test events."""
    histories = train_histories(datasets)
    if strangers := {item for h in histories for item in h.items} - {i.item_id for i in grlm.catalog}:
        raise ValueError(
            f"{datasets} has {len(strangers)} items that the checkpoint's catalog lacks, such as {min(strangers)!r}. Name the datasets "
            "that the checkpoint was trained on."
        )
    return histories


def _measured(name: str, grlm: GRLMForRecommendation, cases: list[Case], exclude_seen: bool, work: Path) -> dict[str, Any]:
    """Metric → value for each case, by the constrained search over the full catalog; {} without cases."""
    from grlm_hf.evaluation.generative import constrained
    from grlm_hf.evaluation.metrics import per_case, ranks
    from grlm_hf.evaluation.rankings import Chunks, ranked

    if not cases:
        return {}
    found = ranked(f"validation, {name}", constrained(grlm, exclude_seen), cases, Chunks(work / "rankings", size=256))
    return per_case(ranks(found.items, [c.target for c in cases]))
