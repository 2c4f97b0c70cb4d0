"""The cards of published datasets and catalogs: YAML that the Hub reads, Markdown that people read. Of checkpoints: `model_card`.

Every figure comes from the facts of the folder that the card stands in. Text that a user gave is escaped: it is shown as it is, and can
neither break the YAML nor bring headings, HTML or tables of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from grlm_hf.layout import PLACE, TAGS
from grlm_hf.markdown import bullets, escaped, flat, number, one_line, paragraphs, side_by_side, table, words
from grlm_hf.publishing.audit import audit_table
from grlm_hf.publishing.licenses import license_fields
from grlm_hf.publishing.limits import dataset_limits

TABLES = {
    "items": "What can be recommended.",
    "interactions": "Who had what, in which order; one row an event.",
    "neighbors": "The items most alike by text: what an item's terms were chosen in view of.",
    "collaborative": "The items that a sequence model finds closest to each, from who had what.",
    "term_ids": "The identifier of each item.",
    "cases": "The questions of an evaluation: after this history, which item comes?",
    "sft": "Training examples as chat messages, which any TRL script trains on.",
}
COLUMNS = {
    "item_id": "the item's id, unique among `items`",
    "title": "its title, never empty",
    "brand": "its brand; empty where unknown",
    "categories": "its categories, root to leaf",
    "description": "its description; empty where unknown",
    "price": "its price in the source's currency; null where unknown",
    "domain": "the catalog it comes from, where several are joined; else empty",
    "user_id": "the user's id",
    "position": "how many of the user's events stand before it: in training, or in the question that asks for it",
    "timestamp": "unix seconds; null where unknown",
    "neighbors": "ids of the nearest items, closest first",
    "scores": "their similarities, in the same order",
    "terms": "the Term ID: its words, most important first",
    "history": "ids of the items before, oldest first",
    "target": "the id of the item that came next",
    "task": "which training task the example is of",
    "key": "the user or item it was made from",
    "prompt": "the user's turn, as messages with `role` and `content`",
    "completion": "the assistant's turn: what is learnt, in some tasks behind a part of the history",
}
"""What each column of the tables that grlm-hf writes means, wherever it stands."""

SPLITS = {
    "leave-one-out": "Leave-one-out: each user's last event is the test target, the one before it the validation target, the rest trains. "
    "Users with fewer than three events only train.",
    "leave-one-out-per-domain": "Leave-one-out within each domain: a user's last event of a domain is a test target, the one before it a "
    "validation target, the rest trains. Users with too few events of a domain only train there.",
    "time": "By time: all events are cut at two points in time. Events after the second are test targets, those between the two are "
    "validation targets; each is asked with all that its user had before.",
    "unseen-items": "Unseen items: some items never occur in training, nor do their texts; half of them are validation targets, half test "
    "targets. Each is asked with the training items that its user had before.",
    "given": "As the source gives it: which events train, validate and test is stated in its files.",
}


def section(title: str, *parts: str) -> str:
    body = "\n\n".join(filter(None, parts))
    return f"## {title}\n\n{body}" if body else ""


# --- cards ---------------------------------------------------------------------------------------------------------------------------


def dataset_card(
    facts: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, str]], attached: Sequence[str] = ()
) -> str:
    """The card of a dataset folder.

    Args:
        facts: what ``grlm_dataset.json`` holds, `statistics` included; `license` (with `license_name`, `license_link`), `language`,
            `audit`, `terms`, `quality`, `neighbors`, `collaborative`, `domains`, `mixture`, `skipped_events` and `provenance` are optional.
        configs: as in the YAML: `config_name`, `data_files`, `default`.
        columns: config → column → its type.
        attached: names of the other files beside the card; plots are shown, the others linked.
    """
    from huggingface_hub import DatasetCardData

    statistics = facts["statistics"]
    license: dict[str, Any] = {}
    if facts.get("license"):
        license = license_fields(facts["license"], facts.get("license_name", ""), facts.get("license_link", ""))
    header = DatasetCardData(
        pretty_name=one_line(facts["title"]) or "Term-ID dataset",
        language=_languages(facts.get("language")),
        license=license.pop("license", None),
        task_categories=["text-generation", "other"],
        tags=TAGS,
        size_categories=[_size(sum(sum(splits.values()) for splits in statistics["rows"].values()))],
        **license,
        configs=[dict(c) for c in configs],
    )
    names, rows = [c["config_name"] for c in configs], statistics["rows"]
    counts = (
        [f"`{c}`{' (default)' if c == names[0] else ''}", ", ".join(f"{s}: {n:,}" for s, n in rows[c].items()), TABLES.get(c, "")]
        for c in names
    )
    described = (
        [f"`{c}`" if n == 0 else "", f"`{column}`", type_, COLUMNS.get(column, "")]
        for c in names
        for n, (column, type_) in enumerate(columns[c].items())
    )
    quality, provenance = facts.get("quality") or {}, dict(facts.get("provenance") or {})
    said = provenance.pop("files", None) or []
    provenance.pop("outputs", None)  # files of the data folder, none of which stands here
    if isinstance(dropped := provenance.get("dropped"), Mapping):  # how many, not whose
        provenance["dropped"] = {reason: found.get("count") if isinstance(found, Mapping) else found for reason, found in dropped.items()}
    text = template("dataset").substitute(
        header=header.to_yaml(),
        title=escaped(facts["title"]) or "Term-ID dataset",
        notice=paragraphs(facts["notice"]),
        snippet=_snippet(configs),
        counts=table(["config", "rows", "what"], counts),
        schema=facts["schema"],
        columns=table(["config", "column", "type", "what"], described),
        statistics=_statistics_table(statistics),
        plot="![History lengths, item popularity and events over time](dataset.png)" if "dataset.png" in attached else "",
        split=_split(facts),
        terms=section("Term IDs", bullets(facts.get("terms") or {}), _term_table(statistics["term_ids"])),
        quality=section(
            "Quality of the Term IDs",
            quality_section(quality),
            *_shown([name for name in attached if name.startswith("quality")]),
        ),
        audit=section("Collisions and leakage", audit_table(facts["audit"])) if facts.get("audit") else "",
        limits="\n".join(f"- {line}" for line in dataset_limits(facts)),
        neighbors="\n\n".join(
            section(title, bullets(facts.get(key) or {}))
            for title, key in (("Neighbours", "neighbors"), ("Collaborative neighbours", "collaborative"), ("Domains", "domains"))
        ),
        mixture=section("Training examples", _mixture(facts)),
        provenance=section(
            "Where the data come from",
            bullets(provenance),
            _files_table(said),
            *_shown([name for name in attached if name != "dataset.png" and not name.startswith("quality")]),
        ),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _split(facts: Mapping[str, Any]) -> str:
    said = f"{SPLITS.get(facts['split'], escaped(facts['split']))} Prompts show the last {facts['max_history']} items of a history."
    skipped = facts.get("skipped_events")
    return said + (f" {number(skipped)} held-out events are no case, since their users had nothing before them." if skipped else "")


def _languages(given: Any) -> list[str] | None:
    languages = [given] if isinstance(given, str) else list(given or [])
    for language in languages:
        if not (isinstance(language, str) and re.fullmatch(r"[a-z]{2,3}|code|multilingual", language)):
            raise ValueError(f"language {language!r} is no ISO 639 code of two or three lower-case letters, such as 'en'.")
    return languages or None


def _size(rows: int) -> str:
    """The Hub's name of an order of magnitude, ``10K<n<100K``."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(rows)) - 3  # 1,000 rows have four digits
    return "n<1K" if power < 1 else f"{names[power - 1]}<n<{names[power]}" if power < len(names) else "n>1T"


def _snippet(configs: Sequence[Mapping[str, Any]]) -> str:
    lines = ["from datasets import load_dataset", "", f'repo = "{PLACE}"']
    for config in configs:
        name, split = config["config_name"], config["data_files"][0]["split"]
        lines.append(f'{name} = load_dataset(repo, "{name}", split="{split}")')
    last, split = configs[-1]["config_name"], configs[-1]["data_files"][0]["split"]
    lines += ["", "# row by row, without downloading all of it first"]
    lines += [f'for row in load_dataset(repo, "{last}", split="{split}", streaming=True):', "    print(row)", "    break"]
    return "\n".join(lines)


def _statistics_table(statistics: Mapping[str, Any]) -> str:
    rows = [["items", number(statistics["items"])]]
    rows += [[f"items of {escaped(name)}", number(count)] for name, count in statistics.get("domains", {}).items()]
    if "events" in statistics:
        rows += [[key, number(statistics[key])] for key in ("users", "events")]
        rows.append(["events / (users · items)", f"{statistics['density']:.4%}".replace("%", " %")])
        rows.append(["items with events", number(statistics["items_with_events"])])
        rows.append(["events on the most popular 1 % of the items", f"{statistics['share_of_top_1_percent_items']:.1%}".replace("%", " %")])
        rows.append(["events with a known time", number(statistics["timed_events"])])
    if "first_day" in statistics:
        rows.append(["first and last day", f"{statistics['first_day']}, {statistics['last_day']}"])
    spread = {name: statistics[name] for name in ("events_per_user", "events_per_item") if name in statistics}
    head = ["", *next(iter(spread.values()))] if spread else []
    quantiles = table(head, ([words(name), *map(number, values.values())] for name, values in spread.items()))
    return "\n\n".join(filter(None, (table(["", "all splits"], rows), quantiles)))


def _term_table(terms: Mapping[str, Any]) -> str:
    rows = [["distinct Term IDs", number(terms["distinct"])], ["items that share one", number(terms["items_that_share_one"])]]
    if terms["items_that_share_one"]:
        rows.append(["items of the largest shared group", number(terms["largest_shared_group"])])
    low, high = terms["terms_in_one"]["min"], terms["terms_in_one"]["max"]
    rows += [
        ["terms in one", str(low) if low == high else f"{low} to {high}"],
        ["distinct terms", number(terms["distinct_terms"])],
        ["terms used once", number(terms["terms_used_once"])],
        [f"distinct prefixes of 1 to {high} terms", " / ".join(map(number, terms["distinct_prefixes"]))],
    ]
    return table(["", "all items"], rows)


def quality_section(quality: Mapping[str, Any]) -> str:
    from grlm_hf.indexing.quality.measure import QUALITY_SCHEMA
    from grlm_hf.indexing.quality.report import markdown_table

    if quality.get("schema") == QUALITY_SCHEMA:
        return markdown_table(dict(quality))
    return side_by_side(quality.get("sets") or {}, "measure")


def _mixture(facts: Mapping[str, Any]) -> str:
    mixture = dict(facts.get("mixture") or {})
    tasks = mixture.pop("tasks", None) or {}
    mixture["settings"] = {key: value for key, value in flat(mixture.get("settings") or {}).items() if value}  # 0: not used
    lengths = []
    for split, found in facts["statistics"].get("sft", {}).items():
        for task, values in found.items():
            parts = [f"{number(values[f'{part}_mean'])} / {number(values[f'{part}_max'])}" for part in ("prompt", "completion")]
            lengths.append([escaped(task), split, number(values["examples"]), *parts])
    parts = [
        table(["task", "split", "examples", "prompt, characters (mean / longest)", "completion"], lengths),
        _a_row_each("task", {task: {k: v for k, v in values.items() if k != "examples"} for task, values in tasks.items()}),
        bullets(mixture),
        f"Prompts have the hash `{one_line(facts['prompt_hash'])}`." if lengths and facts.get("prompt_hash") else "",
    ]
    return "\n\n".join(filter(None, parts))


def _a_row_each(first: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A row each, a column a fact; nested facts share a cell."""
    cells: dict[str, dict[str, str]] = {}
    for name, facts in rows.items():
        cells[name] = {}
        for key, value in facts.items():
            if isinstance(value, Mapping):
                cells[name][key] = ", ".join(f"{words(k)}: {number(v)}" for k, v in flat(value).items()) or "–"
            elif not (isinstance(value, list) and any(isinstance(v, list | dict) for v in value)):
                cells[name][key] = number(value)
    columns = list(dict.fromkeys(key for row in cells.values() for key in row))
    return table([first, *map(words, columns)], ([escaped(name), *(row.get(c, "–") for c in columns)] for name, row in cells.items()))


def _files_table(said: Any) -> str:
    """Source files: name → sha256 or facts, or a list of facts with a `name`, or several such lists by what the files are."""
    rows: dict[str, dict[str, Any]] = {}
    by_role = said if isinstance(said, Mapping) and all(isinstance(v, list) for v in said.values()) else {"": said}
    for role, some in by_role.items():
        if isinstance(some, Mapping):
            some = [{"name": name, **(value if isinstance(value, Mapping) else {"sha256": value})} for name, value in some.items()]
        for file in some:
            facts = {k: v for k, v in file.items() if not isinstance(v, Mapping)} if isinstance(file, Mapping) else {"name": file}
            name = str(facts.pop("name", "")) or f"{len(rows) + 1}"
            rows[name] = ({"role": role} if role else {}) | facts
    return _a_row_each("file", rows)


def _shown(names: Sequence[str]) -> list[str]:
    return [f"![{Path(n).stem}]({n})" if n.endswith(".png") else f"More: [{n}]({n})" for n in sorted(names)]


def template(kind: str) -> Template:
    """The card template ``model_cards/{kind}.md``: shipped inside the wheel, beside the package in a checkout."""
    inside = files("grlm_hf") / "model_cards" / f"{kind}.md"
    source = inside if inside.is_file() else Path(__file__).parents[2] / "model_cards" / f"{kind}.md"
    return Template(source.read_text(encoding="utf-8"))
