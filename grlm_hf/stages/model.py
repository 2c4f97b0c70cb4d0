"""Dataset repository → checkpoint → report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.catalog import Catalog
from grlm_hf.files import check_replaceable, fingerprint, local_paths, read_json, write_json
from grlm_hf.hub import dataset_facts, load_table
from grlm_hf.interactions import Case, History
from grlm_hf.publishing.cards import write_model_card
from grlm_hf.recipe import EvaluateConfig
from grlm_hf.stages.identify import CHECKPOINT_SIGN
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.training.sft import TrainConfig

if TYPE_CHECKING:
    from grlm_hf.modeling import GRLMForRecommendation


def make_checkpoint(
    datasets: str | Path, output: str | Path, config: TrainConfig | None = None, *, work: str | Path | None = None, seed: int = 0
) -> GRLMForRecommendation:
    """Trains on a dataset repository (folder or Hub id) and writes the checkpoint; resumes from what an earlier try left in `work`."""
    from grlm_hf.training.sft import train

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Training in several processes is not supported yet; start one process without a launcher.")
    check_replaceable(output, CHECKPOINT_SIGN)
    config = config or TrainConfig()
    facts = dataset_facts(datasets)
    history = facts.get("history", "term_ids")
    if facts["prompt_hash"] != (written := prompt_hash(history)):
        raise ValueError(
            f"{datasets} was made with other prompts (hash {facts['prompt_hash']}; this grlm-hf writes {written}). "
            "Make it again with this version: grlm dataset."
        )
    if work is None:  # named by all that the result depends on: never resumed from with other settings
        key = fingerprint("train", local_paths(datasets, config.model), [config, seed, str(datasets), written])
        work = Path(output).parent / f".{Path(output).name}-training-{key}"
    watched = config.validation_examples and facts.get("statistics", {}).get("rows", {}).get("sft", {}).get("validation", 1)
    grlm = train(
        Catalog.from_pretrained(datasets),
        load_table(datasets, "sft", "train"),
        work,
        config,
        validation=load_table(datasets, "sft", "validation") if watched else None,
        max_history=facts["max_history"],
        history=history,
        max_tokens=facts.get("max_tokens", 0),
        seed=seed,
    )
    grlm.save_pretrained(output)
    write_json(Path(output) / "training_log.json", read_json(Path(work) / "log.json"))
    shutil.rmtree(work, ignore_errors=True)
    return grlm


def make_report(
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    config: EvaluateConfig | None = None,
    *,
    part: str = "test",
    work: str | Path | None = None,
    seed: int = 0,
    name: str = "",
) -> dict[str, Any]:
    """Evaluates a checkpoint and the baselines on a dataset repository's cases.

    Writes ``report.json`` and ``report.png``, and the model card of a checkpoint in a local folder.
    """
    from grlm_hf.evaluation.baselines.chance import chance
    from grlm_hf.evaluation.baselines.popularity import popularity
    from grlm_hf.evaluation.evaluate import Method, evaluate
    from grlm_hf.evaluation.generative import constrained, free
    from grlm_hf.evaluation.report import save_report
    from grlm_hf.modeling import GRLMForRecommendation

    if Path(output).is_dir():
        raise ValueError(f"{output} is a folder; name the file that the report is to be, such as {Path(output) / 'report.json'}.")
    config = config or EvaluateConfig()
    facts = dataset_facts(datasets)
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    cases = [Case(r["user_id"], tuple(r["history"]), r["target"]) for r in load_table(datasets, "cases", part)]
    train: dict[str, list[str]] = {}
    for row in load_table(datasets, "interactions", "train"):
        train.setdefault(row["user_id"], []).append(row["item_id"])
    histories = [History(user, tuple(items)) for user, items in train.items()]
    methods: dict[str, Method] = {
        "grlm": constrained(grlm, config.exclude_seen, config.num_beams or None, config.batch_size),
        "popularity": popularity(grlm.catalog, histories, config.exclude_seen),
        "random": chance(grlm.catalog, config.exclude_seen, seed),
    }
    about = {"dataset": name or facts["title"], "split": f"{facts['split']}, {part}", "seen": "left out" if config.exclude_seen else "kept"}
    common = {**about, "seed": seed, "resamples": config.resamples, "work": work, "candidates": config.candidates}
    report = evaluate(methods, cases, grlm.catalog, **common)  # type: ignore[arg-type]
    if config.free_users:
        if grlm.config.objective != "vocabulary":
            raise ValueError(
                "free_users needs a checkpoint with objective 'vocabulary'; one trained within the trie never learnt to write freely."
            )
        freely = evaluate({"grlm_free": free(grlm, config.exclude_seen)}, cases[: config.free_users], grlm.catalog, **common)  # type: ignore[arg-type]
        report["methods"] |= freely["methods"]
        for domain, found in freely.get("domains", {}).items():
            report["domains"][domain]["methods"] |= found["methods"]
        report["protocol"]["grlm_free"] = f"first {freely['protocol']['users']} users; no trie, grounded in the paper's form"
    save_report(report, output)
    if Path(checkpoint).is_dir():
        write_model_card(checkpoint, report, report["dataset"], facts["notice"])
    return report
