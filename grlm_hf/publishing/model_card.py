"""The card of a checkpoint, made of its own files alone: the same files, the same bytes. Figures come from the report kept in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from grlm_hf.data.catalog import Catalog
from grlm_hf.evaluation.report.tables import protocol_note, protocol_words, tables
from grlm_hf.evaluation.schema import Report, plain
from grlm_hf.files import read_json, write_text
from grlm_hf.layout import CARD, CARD_FOLDER, CONFIG_FILE, TAGS
from grlm_hf.markdown import escaped, number, one_line, paragraphs, table
from grlm_hf.publishing.audit import audit_table
from grlm_hf.publishing.cards import quality_section, section, template
from grlm_hf.publishing.limits import MAIN, checkpoint_limits, is_ours, verdicts
from grlm_hf.publishing.record import recorded

_OVER = {"vocabulary": "the full vocabulary", "trie": "the legal tokens of the current trie node"}
_METHODS = {"sft": "Supervised fine-tuning", "grpo": "GRPO", "dpo": "DPO"}
_SHOWN = ("recall@5", "recall@10", "recall@20", "ndcg@10")
_FEW = 10  # recommendations in the code of a card, of a catalog that has as many
_UNNAMED = "Generative recommender with Term IDs"
NO_REPORT = (
    "This checkpoint carries no evaluation report, so nothing is claimed of how well it recommends. `grlm evaluate` measures it and writes "
    "the figures here."
)


def write_model_card(checkpoint: str | Path) -> None:
    """Writes ``README.md`` into a checkpoint folder. Raises as `model_card`."""
    write_text(Path(checkpoint) / CARD, model_card(checkpoint))


def model_card(checkpoint: str | Path, title: str = "") -> str:
    """The card of a checkpoint folder, from what `grlm_hf.publishing.record` keeps in it; without a licence, which publishing adds.

    Args:
        title: of a checkpoint that has no record of its data.

    Raises:
        ValueError: no checkpoint; a broken record, or one of another version of this checkpoint.
    """
    folder = Path(checkpoint)
    catalog, config = Catalog.from_pretrained(folder), read_json(folder / CONFIG_FILE)
    training, facts, report = recorded(folder)
    about = facts or training or {}
    title = one_line(about.get("title") or title) or _UNNAMED
    few = min(_FEW, len(catalog.identifiers))
    text = template("model").substitute(
        header=_header(title, training, facts, report, (folder / "custom_generate").is_dir()),
        title=escaped(title),
        what=_what(folder, catalog, training),
        notice=paragraphs(about.get("notice") or ""),
        history=", ".join(repr(i.item_id) for i in catalog.items[:2]),
        k=few,
        scores=f"{_prior(folder)}The last {config['max_history']} items of a history are read. Scores are natural-log probabilities, "
        f"normalised over {_OVER[config['objective']]}.",
        results=_results(report, folder) if report else NO_REPORT,
        audit=section("Collisions and leakage", *_audit(facts, report)) if facts else "",
        quality=section("Quality of the Term IDs", *_term_ids(facts, folder)) if facts else "",
        training=_training(training, folder),
        limits="\n".join(f"- {line}" for line in checkpoint_limits(training, facts, report)),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


# --- the head ------------------------------------------------------------------------------------------------------------------------


def _header(title: str, training: dict[str, Any] | None, facts: dict[str, Any] | None, report: Report | None, custom: bool) -> str:
    from huggingface_hub import ModelCardData

    base = (training or {}).get("base_model") or None
    language = ((facts or {}).get("dataset") or {}).get("language")
    used = dict.fromkeys(filter(None, (about.get("datasets") for about in (training, facts) if about)))
    # "transformers" and "text-generation" are what the Hub knows: it then shows code that loads the model, and counts downloads
    more: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    data = ModelCardData(
        language=[language] if isinstance(language, str) else language or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, *(["custom_generate"] if custom else [])],
        base_model=base,
        datasets=list(used) or None,
        **more,
        model_name=title if report else None,
        eval_results=list(_eval_results(report, next(iter(used), ""))) if report else None,
    )
    return data.to_yaml()


def _eval_results(report: Report, dataset: str) -> Iterator[Any]:
    """Every metric of every method that the model takes part in, as the Hub's `EvalResult`."""
    from huggingface_hub import EvalResult

    p = report.protocol
    how, part = (*map(str.strip, p.split.rpartition(",")[::2]),)
    name = one_line(report.dataset) or "unnamed"
    for method, metrics in report.methods.items():
        if not is_ours(method):
            continue
        for metric, found in metrics.items():
            if math.isfinite(found.value):
                yield EvalResult(
                    task_type="text-generation",
                    task_name="Recommendation of the next item",
                    dataset_type=dataset or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed",
                    dataset_name=name,
                    dataset_config=one_line(how) or None,
                    dataset_split=one_line(part) or None,
                    metric_type=one_line(metric),
                    metric_name=one_line(f"{metric} of {method} ({protocol_words(p)})"),
                    metric_value=round(found.value, 6),
                    metric_args={"low": round(found.low, 6), "high": round(found.high, 6), "interval": "95 % bootstrap over users"}
                    if found.low != found.high and math.isfinite(found.low + found.high)
                    else None,
                )


# --- what it is, and how it came about -----------------------------------------------------------------------------------------------


def _what(folder: Path, catalog: Catalog, training: dict[str, Any] | None) -> str:
    count, dtypes = _parameters(folder)
    kind = read_json(folder / "config.json").get("model_type", "")
    said = [
        "A language model that recommends by writing Term IDs, identifiers of plain words, with the catalog it recommends from "
        "([GRLM, arXiv 2601.06798](https://arxiv.org/abs/2601.06798)): "
        f"{len(catalog):,} items under {len(catalog.identifiers):,} Term IDs. It is of the type {escaped(kind)} and has {count:,} "
        f"parameters ({', '.join(dtypes)})."
    ]
    if training:
        base = training.get("base_model")
        if training["method"] == "sft" and training["start"] == "scratch":
            said.append("It was trained from scratch: it knows this catalog and nothing else.")
        elif base:
            said.append(f"It was made from [{escaped(base)}](https://huggingface.co/{base}).")
        else:
            said.append(f"It was made from a checkpoint named {escaped(training['start'])}.")
    return " ".join(said)


def _prior(folder: Path) -> str:
    path = folder / "prior" / "prior.json"
    if not path.is_file():
        return ""
    parts = ", ".join(f"{escaped(part['name'])} (weight {number(part['weight'])})" for part in read_json(path)["components"])
    return f'A prior lies beside the weights, of {parts}: `grlm.recommend(history, prior="own")` heeds it, the calls above do not. '


def _parameters(folder: Path) -> tuple[int, list[str]]:
    """How many the weights hold, and of which types; from the heads of the files alone."""
    count, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in head.items():
            if name != "__metadata__":
                count += math.prod(tensor["shape"])
                dtypes.add(tensor["dtype"])
    return count, sorted(dtypes)


def _training(training: dict[str, Any] | None, folder: Path) -> str:
    parts = [_recipe(training)] if training else ["How it was trained was not recorded."]
    log = folder / "training_log.json"
    rows = _log_rows(read_json(log)) if log.is_file() else []
    rows.append(["energy", "not measured"])
    parts.append(table(["the last training", ""], rows))
    if (folder / CARD_FOLDER / "training.png").is_file():
        parts.append(f"![Loss and validation metrics by epoch]({CARD_FOLDER}/training.png)")
    return "\n\n".join(parts)


def _recipe(training: dict[str, Any]) -> str:
    earlier = [_recipe(training["before"])] if training.get("before") else []
    method = _METHODS.get(training["method"], escaped(training["method"]))
    data = escaped(training.get("datasets") or training.get("title") or "data that were not named")
    used = ", ".join(f"{name} {found}" for name, found in training["versions"].items())
    processes = "one process" if training["processes"] == 1 else f"{number(training['processes'])} processes"
    said = f"{method} on {data}; {processes} on {escaped(training['device'])}, with {escaped(used)}. "
    said += f"Prompts have the hash `{one_line(training['prompt_hash'])}`, the recipe `{one_line(training['recipe_hash'])}`:"
    shown = yaml.safe_dump(_one_lined(training["recipe"]), sort_keys=False, allow_unicode=True, width=10**9).rstrip()
    return "\n\n".join([*earlier, said, f"<details><summary>Recipe</summary>\n\n```yaml\n{shown}\n```\n\n</details>"])


def _one_lined(value: Any) -> Any:
    """Every text in it on one line: none can end the code block that it is shown in."""
    if isinstance(value, Mapping):
        return {one_line(key): _one_lined(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_one_lined(v) for v in value]
    return one_line(value) if isinstance(value, str) else value


def _log_rows(log: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    if runtimes := [entry["train_runtime"] for entry in log if "train_runtime" in entry]:
        rows.append(["time of the run that finished it (parts before an interruption not counted), s", number(round(runtimes[-1], 1))])
    for key, said in (("step", "steps"), ("epoch", "epochs"), ("train_loss", "mean training loss"), ("eval_loss", "last validation loss")):
        if found := [entry[key] for entry in log if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])]:
            rows.append([said, number(found[-1])])
    return rows


# --- what was measured ---------------------------------------------------------------------------------------------------------------


def _results(report: Report, folder: Path) -> str:
    written = tables(report)
    (whole,) = written.pop("methods")
    at = [i for i, name in enumerate(whole.head) if i == 0 or name in _SHOWN]
    kept = [[row[i] for i in at] for row in whole.rows]
    rows = tuple(tuple(replace(cell, note=cell.note.replace(" ", "\u00a0")) for cell in row) for row in kept)  # unbroken intervals
    main = replace(whole, head=tuple(whole.head[i] for i in at), rows=rows)
    protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in plain(report.protocol).items())
    free = " `grlm_free` is the model writing without the trie." if "grlm_free" in report.methods else ""
    beside = " `grlm+…` adds a prior to the model's own scores." if any("grlm+" in m for m in report.methods) else ""
    parts = [
        f"{escaped(protocol_note(report))} `grlm` is this model alone.{beside}{free} Brackets are 95 % bootstrap intervals over users.",
        "\n".join(f"- {line}" for line in verdicts(report)),
        main.markdown(intervals=True),
        _picture(folder, "report", "Metrics of each method, with 95 % intervals"),
        "<details><summary>Protocol, all metrics, tests, slices</summary>",
        f"Protocol: {escaped(protocol)}.",
        *(t.markdown(intervals=True) for t in [whole, *(t for some in written.values() for t in some)]),
        _picture(folder, "comparisons", "Differences between methods; hollow where the 95 % interval holds 0"),
        _picture(folder, "slices", "Recall of each method by slice"),
        "</details>",
    ]
    return "\n\n".join(filter(None, parts))


def _picture(folder: Path, name: str, said: str) -> str:
    return f"![{said}]({CARD_FOLDER}/{name}.png)" if (folder / CARD_FOLDER / f"{name}.png").is_file() else ""


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


def _term_ids(facts: dict[str, Any], folder: Path) -> Iterator[str]:
    yield quality_section((facts.get("dataset") or {}).get("quality") or {})
    yield _picture(folder, "quality", "Quality of the Term IDs")
