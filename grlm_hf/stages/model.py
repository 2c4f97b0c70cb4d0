"""Dataset repository → checkpoint → report."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.data.repository import dataset_facts, load_cases, load_table, train_histories
from grlm_hf.files import check_replaceable, fingerprint, local_paths, read_json, write_json
from grlm_hf.hub import fetch_checkpoint, push_folder
from grlm_hf.layout import CONFIG_FILE
from grlm_hf.publishing.audit import audit
from grlm_hf.publishing.model_card import write_model_card
from grlm_hf.publishing.record import record_report, record_training
from grlm_hf.recipe import EvaluateConfig
from grlm_hf.stages.priors import TUNING_FILE, UNSEEN
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.training.sft import TrainConfig

if TYPE_CHECKING:
    from grlm_hf.evaluation.schema import Report
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.scores import Scorer


def make_checkpoint(
    datasets: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    work: str | Path | None = None,
    seed: int = 0,
    teacher: str | Path | None = None,
) -> GRLMForRecommendation | None:
    """Trains on a dataset repository (folder or Hub id) and writes the checkpoint; resumes from what an earlier try left in `work`.

    Under ``accelerate launch`` or ``torchrun`` every process calls it alike; the main one writes and returns the recommender, the others
    wait and return ``None``. With `config.hub` the finished checkpoint is pushed, too.

    Args:
        teacher: file of the sequence model that `config.distill` asks for; by default the one that it names.
    """
    from grlm_hf.evaluation.unseen import known_catalog
    from grlm_hf.priors.sequence import SequenceModel
    from grlm_hf.training.sft import train

    check_replaceable(output, CONFIG_FILE)
    config = config or TrainConfig()
    facts = dataset_facts(datasets)
    history = facts.get("history", "term_ids")
    if facts["prompt_hash"] != (written := prompt_hash(history)):
        raise ValueError(
            f"{datasets} was made with other prompts (hash {facts['prompt_hash']}; this grlm-hf writes {written}). "
            "Make it again with this version: grlm dataset."
        )
    if work is None:  # named by all that the result depends on: never resumed from with other settings
        given = local_paths(datasets, config.model, str(teacher or config.distill.model))
        key = fingerprint("train", given, [config, seed, str(datasets), written])
        work = Path(output).parent / f".{Path(output).name}-training-{key}"
    catalog = Catalog.from_pretrained(datasets)
    rows = facts.get("statistics", {}).get("rows", {})
    watched = config.validation_examples and rows.get("sft", {}).get("validation", 1)
    if facts["split"] == UNSEEN:  # what is held out is to be new to the checkpoint: in no trie, no loss and no vocabulary
        catalog, watched = known_catalog(catalog, train_histories(datasets)), 0
    known = {item.item_id for item in catalog}
    stops = config.early_stopping.metric and rows.get("cases", {}).get("validation", 1)
    cases = [c for c in (load_cases(datasets, "validation") if stops else ()) if known.issuperset([*c.history, c.target])]
    model = (teacher or config.distill.model) if config.distill.weight else None
    if config.distill.weight and not model:
        raise ValueError("train.distill.weight asks for a teacher, and there is none; name its file as train.distill.model.")
    grlm = train(
        catalog,
        load_table(datasets, "sft", "train"),
        work,
        config,
        validation=load_table(datasets, "sft", "validation") if watched else None,
        cases=cases,
        max_history=facts["max_history"],
        history=history,
        max_tokens=facts.get("max_tokens", 0),
        seed=seed,
        teacher=SequenceModel.load(model) if model else None,
    )
    from accelerate import PartialState

    processes = PartialState()
    if grlm is not None:
        grlm.save_pretrained(output)
        write_json(Path(output) / "training_log.json", read_json(Path(work) / "log.json"))
        if config.hub.repo:
            push_folder(output, config.hub.repo)
        record_training(output, "sft", asdict(config), seed=seed, start=config.model, datasets=datasets, facts=facts)
        write_model_card(output)
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    return grlm


def make_report(
    checkpoint: str | Path,
    datasets: str | Path,
    output: str | Path,
    config: EvaluateConfig | None = None,
    *,
    priors: str | Path | None = None,
    hybrids: str | Path | None = None,
    part: str = "test",
    work: str | Path | None = None,
    seed: int = 0,
    name: str = "",
) -> Report:
    """Evaluates a checkpoint and the baselines on a dataset repository's cases. Started by ``accelerate launch`` or ``torchrun``, the
    processes share the work.

    Writes ``report.json`` and ``report.png``, and the model card of a checkpoint in a local folder. Where the split holds out items, they
    are new to the checkpoint: they are added to it first (`grlm_hf.evaluation.unseen`), and the report has an `unseen` block.

    Args:
        priors: folder of `make_priors`: its recommenders and combinations stand in the report too. By default those that the checkpoint
            has in itself do.
        hybrids: file of `make_hybrid`, whose priors are heeded by the checkpoint's search, each a method of the report.
        work: a folder that keeps finished parts, so that an interrupted evaluation goes on where it stopped; by default beside `output`,
            until the report is written. A part is not read again for another checkpoint, other training data or other settings.
    """
    from grlm_hf.evaluation.evaluate import Setup, evaluate
    from grlm_hf.evaluation.generative import constrained, free
    from grlm_hf.evaluation.processes import is_main, to_device
    from grlm_hf.evaluation.rankings import Chunks, Method
    from grlm_hf.evaluation.report import save_report
    from grlm_hf.evaluation.scored import scored
    from grlm_hf.evaluation.unseen import unseen_block, with_new_items
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.chance import Chance
    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.popularity import Popularity
    from grlm_hf.priors.text import TextKNN

    if Path(output).is_dir():
        raise ValueError(f"{output} is a folder; name the file that the report is to be, such as {Path(output) / 'report.json'}.")
    if Path(output).suffix in (".png", ".html"):
        raise ValueError(f"{output} would be taken by a picture or page of the report; name a .json file.")
    config = config or EvaluateConfig()
    facts = dataset_facts(datasets)
    cases = load_cases(datasets, part)
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else fetch_checkpoint(str(checkpoint))
    grlm = to_device(GRLMForRecommendation.from_pretrained(folder))
    histories = train_histories(datasets)
    counts = Counter(item for history in histories for item in history.items)
    new: list[Item] = []
    if facts["split"] == UNSEEN:
        catalog = Catalog.from_pretrained(datasets)
        new = [i for i in catalog if i.item_id not in counts]
        # extracted anew from the text, as for any new item; what a language model or a person wrote cannot be written here again
        given = None if facts.get("terms", {}).get("generator") == "extract" else [catalog.term_id(i.item_id) for i in new]
        grlm = with_new_items(grlm, new, given)
    made = [folder, *(Path(p) for p in (priors, hybrids) if p)]
    key = fingerprint("evaluate", made, [asdict(config), seed, [[h.user_id, *h.items] for h in histories], [i.item_id for i in new]])
    ids = tuple(i.item_id for i in grlm.catalog)

    fused = Fused.load(priors) if priors else grlm.prior
    fused = fused.following(grlm.catalog) if fused else None
    texts = [scorer.vectors for scorer, _ in fused.components.values() if isinstance(scorer, TextKNN)] if fused else []
    alone, beside = _combinations(fused, priors, hybrids)

    def methods(exclude_seen: bool) -> dict[str, Method]:
        beams, rows = config.num_beams or None, config.batch_size
        return {
            "grlm": constrained(grlm, exclude_seen, beams, rows),
            **{f"grlm+{name}": constrained(grlm, exclude_seen, beams, rows, prior) for name, prior in beside.items()},
            **{name: scored(scorer, grlm.catalog, exclude_seen) for name, scorer in alone.items()},
            "popularity": scored(Popularity.fit(ids, histories), grlm.catalog, exclude_seen),
            "random": scored(Chance(ids, seed), grlm.catalog, exclude_seen),
        }

    kept = Path(output).parent / f".{Path(output).name}-evaluation-{key}"
    setup = Setup(
        name or facts["title"],
        f"{facts['split']}, {part}",
        "left out" if config.exclude_seen else "kept",
        config.candidates,
        seed,
        config.resamples,
    )
    common: dict[str, Any] = {"counts": counts, "vectors": texts[0] if texts else None, "chunks": Chunks(Path(work or kept), key)}
    claims = [(a.strip(), b.strip()) for a, _, b in (pair.partition(">") for pair in config.pairs)]
    kept_seen = methods(False) if config.unmasked else None
    report = evaluate(methods(config.exclude_seen), cases, grlm.catalog, setup, unmasked=kept_seen, pairs=claims, **common)
    if config.free_users:
        if grlm.config.objective != "vocabulary":
            raise ValueError(
                "free_users needs a checkpoint with objective 'vocabulary'; one trained within the trie never learnt to write freely."
            )
        freely = evaluate({"grlm_free": free(grlm, config.exclude_seen)}, cases[: config.free_users], grlm.catalog, setup, **common)
        report = _with_free(report, freely)
    if (log := folder / "training_log.json").is_file():
        report = replace(report, training=tuple(_thinned(read_json(log))))
    if new:
        report = replace(report, unseen=unseen_block(report, len(new), extracted=given is None))
    if is_main():
        save_report(report, output)
        if Path(checkpoint).is_dir():
            found = audit(((h.user_id, item) for h in histories for item in h.items), cases, grlm.catalog)
            record_report(checkpoint, report, datasets=datasets, facts=facts, audit=found)
            write_model_card(checkpoint)
        shutil.rmtree(kept, ignore_errors=True)
    return report


def _with_free(report: Report, freely: Report) -> Report:
    """The report with the figures of free writing, measured on its first users."""
    domains = {
        name: replace(part, methods={**part.methods, **freely.domains[name].methods}) if name in freely.domains else part
        for name, part in report.domains.items()
    }
    said = f"first {freely.protocol.users} users; no trie, grounded in the paper's form"
    return replace(
        report,
        protocol=replace(report.protocol, grlm_free=said),
        methods={**report.methods, **freely.methods},
        domains=domains,
    )


def _combinations(fused: Fused | None, priors: str | Path | None, hybrids: str | Path | None) -> tuple[dict[str, Scorer], dict[str, Fused]]:
    """Methods without the language model, and what stands beside it, by name."""
    if fused is None:
        return {}, {}
    alone: dict[str, Scorer] = {name: scorer for name, (scorer, _) in fused.components.items()}
    if priors is None:
        return alone, {"+".join(fused.components): fused}
    for name, found in read_json(Path(priors) / TUNING_FILE)["combinations"].items():
        alone[name] = fused.weighted(found["weights"])
    beside = read_json(hybrids)["hybrids"] if hybrids else {}
    return alone, {name: fused.weighted(found["weights"]) for name, found in beside.items()}


def _thinned(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Not more than some 200 of the entries that hold a training loss alone; all others."""
    losses = [n for n, entry in enumerate(log) if "loss" in entry]
    kept = set(losses[:: max(1, len(losses) // 200)])
    return [entry for n, entry in enumerate(log) if n in kept or "loss" not in entry]
