"""What each stage of a run found, in a line, from the files that it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.repository import dataset_facts
from grlm_hf.evaluation.schema import load_report
from grlm_hf.evaluation.verdict import uses_language_model, weights_words, without_weight
from grlm_hf.files import read_json
from grlm_hf.layout import LABELS_FILE, NEIGHBORS_FILE, QUALITY_FILE
from grlm_hf.priors.how import How
from grlm_hf.stages.priors import TUNING_FILE


def found(stage: str, out: Path) -> str:
    """What the stage wrote into a run's folder `out`, for people."""
    return _FOUND[stage](out)


def _neighbors(out: Path) -> str:
    from grlm_hf.indexing.neighbors import Neighbors

    near = Neighbors.load(out / NEIGHBORS_FILE)
    return f"{len(near.item_ids):,} items, up to {near.indices.shape[1]} neighbours each"


def _terms(out: Path) -> str:
    catalog = Catalog.from_pretrained(out / "catalog")
    return f"{len(catalog):,} items, {sum(map(len, catalog.collisions.values())):,} share an identifier"


def _quality(out: Path) -> str:
    measured = next(iter(read_json(out / "quality" / QUALITY_FILE)["sets"].values()))
    if "scheme" in measured:
        shared, levels = measured["collisions"], measured["levels"]
        used = f", {levels[0]['used']:,} of {levels[0]['of']:,} codes of the first level in use" if levels else ""
        return f"{shared['distinct']:,} distinct {measured['noun']}s of {measured['items']:,} items{used}"
    own = measured["alignment"]["own"]["text"]
    return f"{measured['terms']['distinct']:,} distinct terms, {own['terms']:.1%} of an item's terms are words of its text"


def _dataset(out: Path) -> str:
    facts = dataset_facts(out / "datasets")
    counted, rows = facts["statistics"], facts["statistics"]["rows"]
    cases = rows.get("cases", {})
    said = f"{counted.get('users', 0):,} users, {counted.get('events', 0):,} events; {rows['sft']['train']:,} training examples; "
    return said + f"{cases.get('validation', 0):,} validation and {cases.get('test', 0):,} test cases"


def _priors(out: Path) -> str:
    tuned = read_json(out / "priors" / TUNING_FILE)
    best = [f"{name} reaches NDCG@10 {c['ndcg@10']:.4f}" for name, c in tuned["combinations"].items()]
    return "; ".join([", ".join(tuned["methods"]), *best]) + f" ({tuned['cases']:,} validation cases)"


def _teacher(out: Path) -> str:
    from grlm_hf.training.label_store import LabelStore

    labels = LabelStore.load(out / LABELS_FILE)
    top = labels.p.sum(1, dtype="float64").mean() if len(labels) else 0.0
    return f"{len(labels):,} questions answered; the kept {labels.items.shape[1]} items have {top:.1%} of the probability"


def _train(out: Path) -> str:
    log = read_json(out / "checkpoint" / "training_log.json")
    said = []
    for key, name in (("loss", "loss"), ("eval_loss", "validation loss")):
        if values := [entry[key] for entry in log if key in entry]:
            said.append(f"{name} {values[-1]:.3f}")
    return f"{', '.join(said)} after {log[-1]['step']:,} steps" if said else "a checkpoint"


def _hybrid(out: Path) -> str:
    made = read_json(out / "hybrids.json")
    choice = made.get("validation")
    if not choice:
        return "no hybrids"
    values, ship = choice["ndcg"], choice["ship"]
    shown = {name: values[name] for name in values if uses_language_model(name)}
    said = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    better = choice["difference"] is not None and choice["difference"] > 0 and not uses_language_model(ship)
    why = f", as the best with the language model could be better by chance (p = {choice['p']:.4f})" if better else ""
    weights = {f"grlm+{name}": found["weights"] for name, found in made["hybrids"].items()}
    unused = [f"in {name}, {weights_words(found)}" for name, found in weights.items() if without_weight(found)]
    how = How.of(next(iter(made["hybrids"].values()), {})).words
    unused += [f"fusion: {', '.join(how)}"] if how else []
    macro = "macro " * choice.get("macro", False)
    return f"{macro}NDCG@10 on {made['cases']:,} validation cases: {'; '.join([said, *unused])}; chosen: {ship} {values[ship]:.4f}{why}"


def _evaluate(out: Path) -> str:
    report = load_report(out / "report.json")
    p = report.protocol
    lost = f", {p.unanswerable:,} of them cannot be answered" if p.unanswerable else ""
    return f"{len(report.methods)} methods on {p.cases or p.users:,} cases{lost}"


_FOUND: dict[str, Callable[[Path], str]] = {
    "neighbors": _neighbors, "terms": _terms, "quality": _quality, "dataset": _dataset, "priors": _priors, "teacher": _teacher,
    "train": _train, "hybrid": _hybrid, "evaluate": _evaluate,
}  # fmt: skip
