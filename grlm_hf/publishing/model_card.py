"""The card of a checkpoint, from its own files alone: the same files give the same bytes. Figures come from the report in its record."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from grlm_hf.data.catalog import Catalog
from grlm_hf.evaluation.report.tables import protocol_note, short_table, tables, unanswerable_note
from grlm_hf.evaluation.schema import Report, plain
from grlm_hf.evaluation.verdict import MAIN, stated, uses_language_model
from grlm_hf.files import read_json, write_text
from grlm_hf.layout import CARD, CARD_FOLDER, CONFIG_FILE, TAGS
from grlm_hf.markdown import escaped, number, one_line, table
from grlm_hf.publishing.audit import audit_table
from grlm_hf.publishing.cards import finished, joined, quality_section, template, weights_and_form
from grlm_hf.publishing.limits import checkpoint_limits
from grlm_hf.publishing.record import recorded

_OVER = {"vocabulary": "the full vocabulary", "trie": "the legal tokens of the current trie node"}
_METHODS = {"sft": "Supervised fine-tuning", "grpo": "GRPO", "dpo": "DPO"}
_INDEXED = ("recall@5", MAIN, "ndcg@10", "coverage")  # of the checkpoint's own method, for the Hub
_SHOWN = ("recall@5", "recall@10", "recall@20", "ndcg@10")
_FEW = 10  # maximum number of recommendations in the code of a card
_UNNAMED = "Generative recommender with Term IDs"
NO_REPORT = (
    "This checkpoint carries no evaluation report, so nothing is claimed of how well it recommends. `grlm evaluate` measures it and writes "
    "the figures here."
)


def write_model_card(checkpoint: str | Path) -> None:
    """Writes ``README.md`` into a checkpoint folder. Raises as `model_card`."""
    write_text(Path(checkpoint) / CARD, model_card(checkpoint))


def model_card(checkpoint: str | Path, title: str = "") -> str:
    """The card of a checkpoint folder, from its record (`grlm_hf.publishing.record`); without a licence, which publishing adds. `title` is
    that of a checkpoint without a record of its data. Raises `ValueError` for no checkpoint; a broken record, or one of another version of
    this checkpoint."""
    folder = Path(checkpoint)
    catalog, config = Catalog.from_pretrained(folder), read_json(folder / CONFIG_FILE)
    training, facts, report = recorded(folder)
    about = facts or training or {}
    title = one_line(about.get("title") or title) or _UNNAMED
    parameters, dtypes = _parameters(folder)

    def picture(name: str, label: str) -> str:
        return f"![{label}]({CARD_FOLDER}/{name}.png)" if (folder / CARD_FOLDER / f"{name}.png").is_file() else ""

    sections = {}
    if facts:
        quality = quality_section((facts.get("dataset") or {}).get("quality") or {})
        sections["Collisions and leakage"] = joined(*_audit(facts, report))
        heading = f"Quality of the {catalog.scheme.noun}s"
        sections[heading] = joined(quality, picture("quality", heading))
    own = own_method(report, _components(folder))
    text = template("model").render(
        header=_header(title, training, facts, report, own, (folder / "custom_generate").is_dir()),
        title=title,
        about=about,
        catalog=catalog,
        config=config,
        kind=read_json(folder / "config.json").get("model_type", ""),
        parameters=parameters,
        dtypes=dtypes,
        training=training,
        history=", ".join(repr(i.item_id) for i in catalog.items[:2]),
        k=min(_FEW, len(catalog.identifiers)),
        prior=_prior(folder, (report.weights if report else {}).get(own, {})),
        prior_used=config.get("own_prior", False),
        normalised_over=_OVER[config["objective"]],
        report=report,
        no_report=NO_REPORT,
        **(_results(report) if report else {}),
        picture=picture,
        sections=sections.items(),
        runs=_runs(training),
        methods=_METHODS,
        log_table=table(["the last training", ""], _log_rows(folder / "training_log.json")),
        limits=checkpoint_limits(training, facts, report),
    )
    return finished(text)


def own_method(report: Report | None, components: Sequence[Mapping[str, Any]]) -> str:
    """The method of a report that the checkpoint offers: the one to ship if it has the language model, else the model with the
    checkpoint's own prior, else the model alone; "" for none."""
    if report is None:
        return ""
    with_prior = {part["name"] for part in components}
    ours = [name for name in report.methods if uses_language_model(name) and name != "grlm_free"]
    wanted = [stated(report).ship, *(name for name in ours if with_prior and _used(report, name) == with_prior), "grlm"]
    return next((name for name in wanted if name in ours), "")


def _used(report: Report, method: str) -> set[str]:
    """The components with a weight beside the language model; all, where nothing got one."""
    weights = report.weights.get(method) or dict.fromkeys(method.split("+")[1:], 1.0)
    return {name for name, weight in weights.items() if weight} or set(weights)


def _header(
    title: str, training: dict[str, Any] | None, facts: dict[str, Any] | None, report: Report | None, own: str, custom: bool
) -> str:
    from huggingface_hub import ModelCardData

    base = (training or {}).get("base_model") or None
    language = ((facts or {}).get("dataset") or {}).get("language")
    used = dict.fromkeys(filter(None, (about.get("datasets") for about in (training, facts) if about)))
    more: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    # With the names "transformers" and "text-generation" the Hub shows code that loads the model, and counts downloads.
    return ModelCardData(
        language=[language] if isinstance(language, str) else language or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, *(["custom_generate"] if custom else [])],
        base_model=base,
        datasets=list(used) or None,
        **more,
        model_name=title if own else None,
        eval_results=list(_eval_results(report, own, next(iter(used), ""))) if report and own else None,
    ).to_yaml()


def _eval_results(report: Report, own: str, dataset: str) -> Iterator[Any]:
    """The few figures that matter, as the Hub's `EvalResult`: those of the checkpoint's own method, and what is reached without it."""
    from huggingface_hub import EvalResult

    p = report.protocol
    how, part = (*map(str.strip, p.split.rpartition(",")[::2]),)
    name = one_line(report.dataset) or "unnamed"
    others = {n: m[MAIN].value for n, m in report.methods.items() if not uses_language_model(n) and MAIN in m}
    rival = max(others, key=others.__getitem__, default="")
    shown = [(own, metric) for metric in _INDEXED] + [(rival, MAIN)] * bool(rival)
    for method, metric in shown:
        if (found := report.methods[method].get(metric)) and math.isfinite(found.value):
            yield EvalResult(
                task_type="text-generation",
                task_name="Recommendation of the next item",
                dataset_type=dataset or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed",
                dataset_name=name,
                dataset_config=one_line(how) or None,
                dataset_split=one_line(part) or None,
                metric_type=one_line(metric),
                metric_name=one_line(f"{metric} of {method}" if method == own else f"{metric} without a language model ({method})"),
                metric_value=round(found.value, 6),
            )


def _prior(folder: Path, measured: Mapping[str, float]) -> str:
    """The components of the checkpoint's own prior with their weights; "" for none.

    Args:
        measured: the weights of its method in the report, of which those that got 0 are named, too.
    """
    parts = {part["name"]: part["weight"] for part in _components(folder)}
    weights = dict.fromkeys(measured, 0) | parts if parts else {}
    return weights_and_form(weights, folder / "prior" / "prior.json")


def _components(folder: Path) -> list[dict[str, Any]]:
    path = folder / "prior" / "prior.json"
    found: list[dict[str, Any]] = read_json(path)["components"] if path.is_file() else []
    return found


def _parameters(folder: Path) -> tuple[int, list[str]]:
    """The number of parameters and their types, from the headers of the safetensors files."""
    count, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in head.items():
            if name != "__metadata__":
                count += math.prod(tensor["shape"])
                dtypes.add(tensor["dtype"])
    return count, sorted(dtypes)


def _runs(training: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The records of all trainings of the weights, the first one first, with versions and recipe as text."""
    if not training:
        return []
    versions = ", ".join(f"{name} {found}" for name, found in training["versions"].items())
    recipe = yaml.safe_dump(_one_lined(training["recipe"]), sort_keys=False, allow_unicode=True, width=10**9).rstrip()
    return [*_runs(training.get("before")), {**training, "versions": versions, "recipe": recipe}]


def _one_lined(value: Any) -> Any:
    """The value with each text on one line, so that no text can end the code block around it."""
    if isinstance(value, Mapping):
        return {one_line(key): _one_lined(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_one_lined(v) for v in value]
    return one_line(value) if isinstance(value, str) else value


def _log_rows(path: Path) -> list[list[str]]:
    """The figures of the last training, from its log; none of a training without one."""
    log: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    rows = []
    if runtimes := [entry["train_runtime"] for entry in log if "train_runtime" in entry]:
        rows.append(["time of the run that finished it (parts before an interruption not counted), s", number(round(runtimes[-1], 1))])
    for key, label in (("step", "steps"), ("epoch", "epochs"), ("train_loss", "mean training loss"), ("eval_loss", "last validation loss")):
        if found := [entry[key] for entry in log if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])]:
            rows.append([label, number(found[-1])])
    return [*rows, ["energy", "not measured"]]


def _results(report: Report) -> dict[str, Any]:
    """The values of the template's section Results."""
    (whole,) = tables(report)["methods"]
    at = [i for i, name in enumerate(whole.head) if i == 0 or name in _SHOWN]
    kept = [[row[i] for i in at] for row in whole.rows]
    rows = tuple(tuple(replace(cell, note=cell.note.replace(" ", "\u00a0")) for cell in row) for row in kept)  # unbroken intervals
    return {
        "protocol_note": protocol_note(report),
        "fused": any("grlm+" in method for method in report.methods),
        "verdict": stated(report).text,
        "main_table": replace(whole, head=tuple(whole.head[i] for i in at), rows=rows).markdown(intervals=True),
        "protocol": "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in plain(report.protocol).items()),
        "short_table": short_table(report, with_words=True).markdown(intervals=True),
        "unanswerable": unanswerable_note(report.protocol),
        "comparisons": joined(*(t.markdown(intervals=True) for t in tables(report).get("comparisons", ()))),
    }


def _audit(facts: dict[str, Any], report: Report | None) -> Iterator[str]:
    found = facts.get("audit")
    if found:
        yield audit_table(found)
        if found["targets_trained_on"]:
            yield "**Held-out targets stand in the training data: the figures above are too high.**"
    rules = report.collisions if report else {}
    values = []
    for method in next(iter(rules.values()), {}):
        reached = [rule[method][MAIN].value for rule in rules.values() if MAIN in rule.get(method, {})]
        values.append(f"{escaped(method)} {' / '.join(f'{v:.4f}' for v in reached)}")
    if values:
        yield (
            f"Items that share a Term ID are ranked in a fixed order. How much that order is worth, {MAIN} by the rules "
            f"{' / '.join(map(escaped, rules))}: {'; '.join(values)}."
        )
