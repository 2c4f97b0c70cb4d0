"""Dataset repository → checkpoint → report."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.data.repository import dataset_facts, load_cases, load_table, train_histories
from grlm_hf.evaluation.config import EvaluateConfig
from grlm_hf.files import alone, check_replaceable, fingerprint, local_paths, read_json, replacing, write_json
from grlm_hf.hub import fetch_checkpoint, push_folder
from grlm_hf.identifiers import scheme_named
from grlm_hf.layout import CONFIG_FILE, LABELS_FILE
from grlm_hf.plugins import Plugin, load_plugins, plugin_files, stated
from grlm_hf.priors.awaited import DENSE
from grlm_hf.publishing.audit import audit
from grlm_hf.publishing.model_card import write_model_card
from grlm_hf.publishing.record import record_report, record_training
from grlm_hf.stages.priors import TUNING_FILE, UNSEEN, names_dense
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.training.run import thinned
from grlm_hf.training.sft import TrainConfig

if TYPE_CHECKING:
    from grlm_hf.data.interactions import History
    from grlm_hf.evaluation.rankings import Method
    from grlm_hf.evaluation.schema import Report
    from grlm_hf.evaluation.verdict import Choice
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.scores import Scorer


@alone
def make_checkpoint(
    datasets: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    work: str | Path | None = None,
    seed: int = 0,
    teacher: str | Path | None = None,
    finish: bool = False,
    exclude_seen: bool = True,
) -> GRLMForRecommendation | None:
    """Trains on a dataset repository (folder or Hub id) and writes the checkpoint.

    Under ``accelerate launch`` or ``torchrun`` every process calls this function; the main one writes and returns the recommender, the
    others wait and return ``None``. With `config.hub` the finished checkpoint is pushed, too.

    Args:
        work: keeps the state of the training, so that a killed run is resumed; by default beside `output`, until that is written.
        teacher: the answers of the teacher (`grlm_hf.stages.teacher.make_teacher`), a file; by default the teacher that `config.distill`
            names is asked first.
        finish: train no further, and write the checkpoint of the last whole state of a training that was stopped.
        exclude_seen: early stopping leaves out items of the history, as the evaluation will do.

    Raises:
        ValueError: `output` holds other files; a dataset repository of another prompt; distillation without a teacher.
    """
    from grlm_hf.evaluation.processes import world
    from grlm_hf.evaluation.unseen import known_catalog
    from grlm_hf.stages.teacher import check_teacher, given_answers, make_teacher
    from grlm_hf.training.label_store import LabelStore
    from grlm_hf.training.sft import train

    check_replaceable(output, CONFIG_FILE)
    config = config or TrainConfig()
    facts = dataset_facts(datasets)
    history, lines = facts.get("history", "term_ids"), facts.get("evidence", 0)
    if facts["prompt_hash"] != (written := prompt_hash(history, scheme_named(facts.get("scheme", "terms"), str(datasets)), lines)):
        raise ValueError(
            f"{datasets} was made with other prompts (hash {facts['prompt_hash']}; this grlm-hf writes {written}). "
            "Make it again with this version: grlm dataset."
        )
    if work is None:  # its name depends on everything that the result depends on, so no training with other settings is resumed
        given = local_paths(datasets, config.model, str(teacher or config.distill.teacher))
        key = fingerprint("train", given, [config, seed, str(datasets), written, *stopping_rule(config, exclude_seen)])
        work = Path(output).parent / f".{Path(output).name}-training-{key}"
    catalog = Catalog.from_pretrained(datasets)
    rows = facts.get("statistics", {}).get("rows", {})
    validates = config.validation_examples and rows.get("sft", {}).get("validation", 1)
    if facts["split"] == UNSEEN:  # items that are held out must be new to the checkpoint: in no trie, no loss and no vocabulary
        catalog, validates = known_catalog(catalog, train_histories(datasets)), 0
    known = {item.item_id for item in catalog}
    stops = config.early_stopping.metric and rows.get("cases", {}).get("validation", 1)
    cases = [c for c in (load_cases(datasets, "validation") if stops else ()) if known.issuperset([*c.history, c.target])]
    labels = None
    if config.distill.weight:
        teacher = teacher or given_answers(config.distill)
        if not teacher:
            if world()[1] > 1:
                raise ValueError(
                    "Several processes cannot ask a teacher together. Ask it first (grlm run RECIPE --set until=teacher), and name the "
                    f"file that it leaves: --set train.distill.teacher=OUTPUT/{LABELS_FILE}."
                )
            check_teacher(config.distill)
            teacher = Path(work) / LABELS_FILE
            if not teacher.is_file():
                make_teacher(datasets, teacher, config.distill, work=Path(work) / "teacher")
        labels = LabelStore.load(teacher)
    grlm = train(
        catalog,
        load_table(datasets, "sft", "train"),
        work,
        config,
        validation=load_table(datasets, "sft", "validation") if validates else None,
        cases=cases,
        max_history=facts["max_history"],
        history=history,
        max_tokens=facts.get("max_tokens", 0),
        seed=seed,
        teacher=labels,
        finish=finish,
        exclude_seen=exclude_seen,
        evidence=Evidence.fit(catalog, train_histories(datasets), facts["max_history"], lines) if lines else None,
    )
    from accelerate import PartialState

    processes = PartialState()
    if grlm is not None:
        check_replaceable(output, CONFIG_FILE)
        with replacing(output) as made:  # with its log, records and card, or not at all
            grlm.save_pretrained(made)
            write_json(made / "training_log.json", read_json(Path(work) / "log.json"))
            record_training(made, "sft", asdict(config), seed=seed, start=config.model, datasets=datasets, facts=facts)
            write_model_card(made)
        if config.hub.repo:
            push_folder(output, config.hub.repo)
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    return grlm


def stopping_rule(config: TrainConfig, exclude_seen: bool) -> list[bool]:
    """What a training also depends on: `exclude_seen`, where early stopping searches with seen items kept; else []."""
    return [] if exclude_seen or not config.early_stopping.metric else [exclude_seen]


def remember_evaluation(checkpoint: str | Path, exclude_seen: bool, own_prior: bool) -> None:
    """Makes a local checkpoint answer as it is evaluated, unless a request says otherwise (`GRLMConfig.exclude_seen`, `own_prior`)."""
    from grlm_hf.modeling.config import GRLMConfig

    path = Path(checkpoint) / CONFIG_FILE
    before = GRLMConfig.load(path)
    if (after := replace(before, exclude_seen=exclude_seen, own_prior=own_prior)) != before:
        after.save(path)


@alone
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
    transfer: bool = False,
) -> Report:
    """Evaluates a checkpoint and the baselines on the cases of a dataset repository; processes started by ``accelerate launch`` or
    ``torchrun`` share the work.

    Writes ``report.json``, ``report.png`` and ``report.html``, with `save_rankings` also ``report.rankings.parquet``, and the model card of
    a checkpoint in a local folder. Where the split holds out items, they are added to the checkpoint first (`grlm_hf.evaluation.unseen`),
    and the report has an `unseen` block. Functions of the user that `config` names run (`grlm_hf.plugins`).

    Args:
        priors: folder of `make_priors`, whose recommenders and combinations are methods of the report; by default those of the
            checkpoint's own prior are.
        hybrids: file of `make_hybrid`: each prior in it, beside the language model, is a method.
        part: "test" or "validation".
        work: a folder that keeps finished rankings, so that an interrupted evaluation is resumed; by default beside `output`, until the
            report is written. Rankings of another checkpoint, other training data or other settings are not read.
        name: of the dataset; by default its title.
        transfer: rank the catalog of `datasets` in place of the checkpoint's own (`GRLMForRecommendation.with_catalog`). The report is then
            no part of the checkpoint's card.

    Raises:
        ValueError: `output` is a folder or one of the other files; a checkpoint or dataset repository that cannot be read; free writing of
            a model that never learnt it; and as `grlm_hf.evaluation.evaluate.evaluate`.
    """
    from grlm_hf.evaluation.costs import costs
    from grlm_hf.evaluation.evaluate import Setup, evaluate
    from grlm_hf.evaluation.generative import free, with_first_users
    from grlm_hf.evaluation.metrics import Measures
    from grlm_hf.evaluation.own import learnt
    from grlm_hf.evaluation.processes import is_main, to_device
    from grlm_hf.evaluation.rankings import Chunks
    from grlm_hf.evaluation.report import check_path, save_report
    from grlm_hf.evaluation.saved import rankings_path
    from grlm_hf.evaluation.unseen import unseen_block
    from grlm_hf.evaluation.verdict import verdict
    from grlm_hf.evaluation.zero_shot import chat_model, zero_shot
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    check_path(output)
    config = config or EvaluateConfig()
    metrics, functions = load_plugins("evaluate.metrics", config.metrics), load_plugins("evaluate.methods", config.methods)
    measures = Measures(config.recall_at, config.ndcg_at, config.whole_depth, metrics)
    measures.per_case(np.arange(3))  # a metric that does not work is refused before anything is ranked
    facts, cases = dataset_facts(datasets), load_cases(datasets, part)
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else fetch_checkpoint(str(checkpoint))
    grlm = GRLMForRecommendation.from_pretrained(folder)
    grlm.language_model("An evaluation, which compares a language model with recommenders without one,")
    grlm = to_device(grlm)
    histories = train_histories(datasets)
    if transfer:
        grlm = grlm.with_catalog(Catalog.from_pretrained(datasets), histories)
    elif facts["split"] != UNSEEN and cases and not any(case.target in grlm.catalog for case in cases):
        raise ValueError(
            f"The checkpoint's catalog has none of the items that {datasets} asks for, such as {cases[0].target!r}. Name the datasets that "
            "it was trained on, or rank their catalog: grlm evaluate --transfer."
        )
    counts = Counter(item for history in histories for item in history.items)
    grlm, new = _with_held_out(grlm, datasets, facts, counts)
    inputs = [folder, *(Path(p) for p in (priors, hybrids) if p), *plugin_files(config.methods), *local_paths(config.zero_shot.model)]
    events = [[h.user_id, *h.items] for h in histories]
    catalog_hash = [grlm.catalog.identifiers_hash] if transfer else []
    key = fingerprint("evaluate", inputs, [_ranked_by(config), seed, events, [i.item_id for i in new], *catalog_hash])
    own = _priors(grlm, priors, hybrids)
    mine = {name: (function, learnt(function, histories, grlm.catalog, seed)) for name, function in functions.items()}
    methods = partial(_methods, grlm, histories, own, mine, config, seed)
    kept = Path(output).parent / f".{Path(output).name}-evaluation-{key}"
    setup = Setup(
        dataset=name or facts["title"],
        split=f"{facts['split']}, {part}",
        seen="left out" if config.exclude_seen else "kept",
        candidates=config.candidates,
        seed=seed,
        resamples=config.resamples,
        measures=measures,
    )
    common: dict[str, Any] = {"counts": counts, "vectors": own.vectors, "chunks": Chunks(Path(work or kept), key), "choice": own.choice}
    freely = {"grlm_free": free(grlm, config.exclude_seen)} if config.free_users else {}
    unmasked = methods(False) if config.unmasked else None
    ranking = methods(config.exclude_seen)
    models = [grlm]
    if config.zero_shot.model:
        models.append(to_device(chat_model(config.zero_shot, grlm.catalog, histories, seed)))
    chat = zero_shot(models[-1], config) if config.zero_shot.model else {}
    ranking |= {} if config.zero_shot.users else chat
    for name in mine:
        ranking[name]([c.history for c in cases[:2]])  # so that one that does not work is refused before hours of the others
    save_to = rankings_path(output) if config.save_rankings else None
    report = evaluate(ranking, cases, grlm.catalog, setup, unmasked=unmasked, pairs=config.stated_pairs(), save_to=save_to, **common)
    if freely:
        some = evaluate(freely, cases[: config.free_users], grlm.catalog, setup, **common)
        report = with_first_users(report, some, grlm_free="no trie, grounded in the paper's form")
    if chat:
        some = evaluate(chat, cases[:number], grlm.catalog, setup, **common) if (number := config.zero_shot.users) else report
        report = with_first_users(report, some, zero_shot=f"{config.zero_shot.model}, {config.zero_shot.shots} worked examples")
    if (log := folder / "training_log.json").is_file():
        report = replace(report, training=tuple(thinned(read_json(log))))
    if new:
        report = replace(report, unseen=unseen_block(report, len(new), _from_text(facts)))
    report = replace(report, weights=own.weights)
    report = replace(report, verdict=verdict(report, own.choice))
    if is_main():
        if not config.save_rankings:  # those of an earlier report would not be of this one
            rankings_path(output).unlink(missing_ok=True)
        if config.timed_users:
            timed = [c.history for c in cases[:: max(1, len(cases) // config.timed_users)][: config.timed_users]]
            stored = own.stored | {"popularity": len(grlm.catalog)} | dict.fromkeys(mine)
            report = replace(report, costs=costs(ranking | freely | chat, timed, models, stored))
        save_report(report, output)
        if Path(checkpoint).is_dir() and not transfer:
            found = audit(((h.user_id, item) for h in histories for item in h.items), cases, grlm.catalog)
            record_report(checkpoint, report, datasets=datasets, facts=facts, audit=found)
            write_model_card(checkpoint)
        shutil.rmtree(kept, ignore_errors=True)
    return report


def _ranked_by(config: EvaluateConfig) -> dict[str, Any]:
    """The settings that rankings depend on; the others may change while finished rankings are kept."""
    kept = ("num_beams", "batch_size", "exclude_seen", "candidates", "unmasked", "free_users", "zero_shot", "rerank")
    return {name: asdict(config)[name] for name in kept} | {"depth": config.whole_depth, "methods": list(map(stated, config.methods))}


def _with_held_out(
    grlm: GRLMForRecommendation, datasets: str | Path, facts: Mapping[str, Any], counts: Mapping[str, int]
) -> tuple[GRLMForRecommendation, list[Item]]:
    """The recommender with the items that its split held out, and these items; [] with another split.

    Their identifiers are made from their texts, as those of any new item, where those of the catalog were. Otherwise they are given:
    what a language model or a person wrote cannot be written here again.
    """
    from grlm_hf.evaluation.unseen import with_new_items

    if facts["split"] != UNSEEN:
        return grlm, []
    catalog = Catalog.from_pretrained(datasets)
    new = [i for i in catalog if i.item_id not in counts]
    return with_new_items(grlm, new, None if _from_text(facts) else [catalog.identifier(i.item_id) for i in new]), new


def _from_text(facts: Mapping[str, Any]) -> bool:
    """Whether the identifiers were made of the items' texts by what the checkpoint has too: the rules of extraction, or a codebook."""
    generator = str(facts.get("terms", {}).get("generator", ""))
    return generator == "extract" or generator.startswith("codes, ")


@dataclass(frozen=True)
class _Priors:
    """Recommenders without the language model, by name."""

    alone: Mapping[str, Scorer]  # methods of their own
    beside: Mapping[str, Fused]  # priors of the language model
    vectors: np.ndarray | None  # float [n_items, d], embeddings of the items' texts, where one of them has some
    choice: Choice | None = None  # of the method to ship, on validation users
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # method of several recommenders → name → weight, also 0

    @property
    def stored(self) -> dict[str, int | None]:
        """Method → the numbers that its recommenders hold."""
        from grlm_hf.evaluation.costs import stored_numbers

        found = {name: stored_numbers(scorer) for name, scorer in self.alone.items()}
        return found | {f"grlm+{name}": stored_numbers(fused) for name, fused in self.beside.items()}


def _priors(grlm: GRLMForRecommendation, priors: str | Path | None, hybrids: str | Path | None) -> _Priors:
    from grlm_hf.evaluation.verdict import Choice
    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.text import TextKNN

    kept = read_json(hybrids) if hybrids else {"hybrids": {}}
    fused = Fused.load(priors) if priors else grlm.prior
    named = names_dense([*kept["hybrids"], *(fused.components if fused else ())])
    dense = {DENSE: grlm.dense_on()} if named or grlm.dense_half.vectors is not None else {}
    if fused is None:
        return _Priors(dense, {}, None)
    if named:
        fused = fused.joined({DENSE: (dense[DENSE], fused.weights.get(DENSE, 1.0))})
    fused = fused.following(grlm.catalog)
    alone: dict[str, Scorer] = {name: scorer for name, (scorer, _) in fused.components.items()} | dense
    vectors = next((scorer.vectors for scorer in alone.values() if isinstance(scorer, TextKNN)), None)
    if priors is None:
        name = "+".join(fused.components)
        return _Priors(alone, {name: fused}, vectors, weights={f"grlm+{name}": fused.weights})
    combinations = read_json(Path(priors) / TUNING_FILE)["combinations"]
    together = {name: found["weights"] for name, found in combinations.items()}
    ours = {name: dict.fromkeys(name.split("+"), 0.0) | found["weights"] for name, found in kept["hybrids"].items()}
    alone |= {name: fused.stated(found) for name, found in combinations.items()}
    beside = {name: fused.stated(kept["hybrids"][name] | {"weights": weights}) for name, weights in ours.items()}
    weights = {f"grlm+{name}": found for name, found in ours.items()} | together
    return _Priors(alone, beside, vectors, Choice(**kept["validation"]) if "validation" in kept else None, weights)


def _methods(
    grlm: GRLMForRecommendation,
    histories: Sequence[History],
    priors: _Priors,
    mine: Mapping[str, tuple[Plugin, Any]],
    config: EvaluateConfig,
    seed: int,
    exclude_seen: bool,
) -> dict[str, Method]:
    """The methods of a report; the popularity is that of the training `histories`.

    Args:
        mine: methods of the user, with what they learnt (`grlm_hf.evaluation.own`).
    """
    from grlm_hf.evaluation.generative import constrained, second_stage
    from grlm_hf.evaluation.own import own_method
    from grlm_hf.evaluation.scored import scored
    from grlm_hf.priors.chance import Chance
    from grlm_hf.priors.popularity import Popularity

    ids, beams, rows, depth = tuple(i.item_id for i in grlm.catalog), config.num_beams or None, config.batch_size, config.whole_depth
    found = {
        "grlm": constrained(grlm, exclude_seen, beams, rows, depth=depth),
        **{f"grlm+{name}": constrained(grlm, exclude_seen, beams, rows, prior, depth) for name, prior in priors.beside.items()},
        **{name: scored(scorer, grlm.catalog, exclude_seen, depth) for name, scorer in priors.alone.items()},
        "popularity": scored(Popularity.fit(ids, histories), grlm.catalog, exclude_seen, depth),
        "random": scored(Chance(ids, seed), grlm.catalog, exclude_seen, depth),
    }
    found |= second_stage(config.rerank, grlm, found, rows)
    if taken := sorted(mine.keys() & {*found, "grlm_free", "zero-shot"}):
        raise ValueError(f"evaluate.methods has a function {taken[0]!r}, and the report has a method of that name. Give it another one.")
    return found | {name: own_method(plugin, learnt, grlm.catalog, exclude_seen, depth) for name, (plugin, learnt) in mine.items()}
