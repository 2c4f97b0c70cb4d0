"""The cards of published datasets: YAML for the Hub, Markdown for people, from the templates in ``model_cards``. Every figure comes from
the facts of the card's folder. A user's text is escaped: it can neither break the YAML nor add headings, HTML or tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined, Template

from grlm_hf.files import read_json
from grlm_hf.identifiers import scheme_named
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import TAGS
from grlm_hf.markdown import bullets, escaped, flat, number, one_line, paragraphs, side_by_side, table, words
from grlm_hf.priors.how import How
from grlm_hf.publishing.audit import audit_table, share
from grlm_hf.publishing.licenses import license_fields

_FILTERS: dict[str, Callable[..., str]] = {"escaped": escaped, "number": number, "one_line": one_line, "paragraphs": paragraphs}


def _shipped(name: str) -> str:
    """The text of ``model_cards/{name}``: inside the package in a wheel, beside it in a checkout."""
    inside = files("grlm_hf") / "model_cards" / name
    source = inside if inside.is_file() else Path(__file__).parents[2] / "model_cards" / name
    return source.read_text(encoding="utf-8")


def template(kind: str) -> Template:
    """The jinja2 template of a card, ``model_cards/{kind}.md``."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= _FILTERS
    return environment.from_string(_shipped(f"{kind}.md"))


def finished(text: str) -> str:
    """A rendered card without surplus blank lines, ending in one newline."""
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


_WORDS: dict[str, dict[str, str]] = yaml.safe_load(_shipped("dataset.yaml"))
TABLES, COLUMNS, SPLITS = _WORDS["tables"], _WORDS["columns"], _WORDS["splits"]
"""The meaning of each table, of each column in every table, and of each split."""


def dataset_card(
    facts: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, str]], attached: Sequence[str] = ()
) -> str:
    """The card of a dataset folder.

    Args:
        facts: the content of ``grlm_dataset.json`` with its `statistics`. Optional: `license` (with `license_name`, `license_link`),
            `language`, `audit`, `terms`, `quality`, `neighbors`, `collaborative`, `domains`, `mixture`, `skipped_events`, `provenance`.
        configs: as in the YAML: `config_name`, `data_files`, `default`.
        columns: config → column → its type.
        attached: names of the other files beside the card; the card shows plots and links the others.

    Raises `ValueError` for a licence or language that the Hub would not read.
    """
    from huggingface_hub import DatasetCardData

    statistics = facts["statistics"]
    license: dict[str, Any] = {}
    if facts.get("license"):
        license = license_fields(facts["license"], facts.get("license_name", ""), facts.get("license_link", ""))
    names, rows = [c["config_name"] for c in configs], statistics["rows"]
    header = DatasetCardData(
        pretty_name=one_line(facts["title"]) or "Term-ID dataset",
        language=_languages(facts.get("language")),
        license=license.pop("license", None),
        task_categories=["text-generation", "other"],
        tags=TAGS,
        size_categories=[_size(sum(sum(splits.values()) for splits in rows.values()))],
        **license,
        configs=[dict(c) for c in configs],
    )
    counts = (
        [f"`{c}`{' (default)' if c == names[0] else ''}", ", ".join(f"{s}: {n:,}" for s, n in rows[c].items()), TABLES.get(c, "")]
        for c in names
    )
    described = (
        [f"`{c}`" if n == 0 else "", f"`{column}`", type_, COLUMNS.get(column, "")]
        for c in names
        for n, (column, type_) in enumerate(columns[c].items())
    )
    quality_files = [name for name in attached if name.startswith("quality")]
    others = [name for name in attached if name not in ("dataset.png", *quality_files)]
    provenance = dict(facts.get("provenance") or {})
    sources = provenance.pop("files", None) or []
    provenance.pop("outputs", None)  # files of the data folder, which the dataset does not have
    if isinstance(dropped := provenance.get("dropped"), Mapping):  # the numbers only, not the ids
        provenance["dropped"] = {reason: found.get("count") if isinstance(found, Mapping) else found for reason, found in dropped.items()}
    terms = facts.get("terms") or {}
    reading = dict.fromkeys([*(terms.get("reading") or ()), *(provenance.pop("reading", None) or ()), *(facts.get("reading") or ())])
    noun = scheme_named(facts.get("scheme", TERMS.name), "The dataset").noun
    sections = {
        "What reading left out or changed": "\n".join(f"- {escaped(line)}" for line in reading),
        f"{noun[0].upper()}{noun[1:]}s": joined(
            bullets({key: value for key, value in terms.items() if key != "reading"}), _term_table(statistics["term_ids"], noun)
        ),
        f"Quality of the {noun}s": joined(quality_section(facts.get("quality") or {}), *_shown(quality_files)),
        "Collisions and leakage": audit_table(facts["audit"]) if facts.get("audit") else "",
        "Neighbours": bullets(facts.get("neighbors") or {}),
        "Collaborative neighbours": bullets(facts.get("collaborative") or {}),
        "Domains": bullets(facts.get("domains") or {}),
        "Training examples": _mixture(facts),
    }
    text = template("dataset").render(
        header=header.to_yaml(),
        facts=facts,
        noun=noun,
        statistics=statistics,
        audit=facts.get("audit") or {},
        share=share,
        first_splits=[(c["config_name"], c["data_files"][0]["split"]) for c in configs],
        counts=table(["config", "rows", "what"], counts),
        columns=table(["config", "column", "type", "what"], described),
        statistics_table=_statistics_table(statistics),
        attached=attached,
        splits=SPLITS,
        sections=sections.items(),
        provenance=joined(bullets(provenance), _files_table(sources), *_shown(others)),
    )
    return finished(text)


def joined(*parts: str) -> str:
    """The non-empty parts as paragraphs."""
    return "\n\n".join(filter(None, parts))


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
    return joined(table(["", "all splits"], rows), quantiles)


def _term_table(terms: Mapping[str, Any], noun: str) -> str:
    part = "term" if noun == TERMS.noun else "part"
    rows = [[f"distinct {noun}s", number(terms["distinct"])], ["items that share one", number(terms["items_that_share_one"])]]
    if terms["items_that_share_one"]:
        rows.append(["items of the largest shared group", number(terms["largest_shared_group"])])
    low, high = terms["terms_in_one"]["min"], terms["terms_in_one"]["max"]
    rows += [
        [f"{part}s in one", str(low) if low == high else f"{low} to {high}"],
        [f"distinct {part}s", number(terms["distinct_terms"])],
        [f"{part}s used once", number(terms["terms_used_once"])],
        [f"distinct prefixes of 1 to {high} {part}s", " / ".join(map(number, terms["distinct_prefixes"]))],
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
    return joined(
        table(["task", "split", "examples", "prompt, characters (mean / longest)", "completion"], lengths),
        _row_each("task", {task: {k: v for k, v in values.items() if k != "examples"} for task, values in tasks.items()}),
        bullets(mixture),
        f"Prompts have the hash `{one_line(facts['prompt_hash'])}`." if lengths and facts.get("prompt_hash") else "",
    )


def _row_each(first: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with one row per name and one column per fact; nested facts share a cell."""
    cells: dict[str, dict[str, str]] = {name: {} for name in rows}
    for name, facts in rows.items():
        for key, value in facts.items():
            if isinstance(value, Mapping):
                cells[name][key] = ", ".join(f"{words(k)}: {number(v)}" for k, v in flat(value).items()) or "–"
            elif not (isinstance(value, list) and any(isinstance(v, list | dict) for v in value)):
                cells[name][key] = number(value)
    columns = list(dict.fromkeys(key for row in cells.values() for key in row))
    return table([first, *map(words, columns)], ([escaped(name), *(row.get(c, "–") for c in columns)] for name, row in cells.items()))


def _files_table(sources: Any) -> str:
    """Source files: name → sha256 or facts, or a list of facts with a `name`, or several such lists by the role of the files."""
    rows: dict[str, dict[str, Any]] = {}
    by_role = sources if isinstance(sources, Mapping) and all(isinstance(v, list) for v in sources.values()) else {"": sources}
    for role, some in by_role.items():
        if isinstance(some, Mapping):
            some = [{"name": name, **(value if isinstance(value, Mapping) else {"sha256": value})} for name, value in some.items()]
        for file in some:
            facts = {k: v for k, v in file.items() if not isinstance(v, Mapping)} if isinstance(file, Mapping) else {"name": file}
            name = str(facts.pop("name", "")) or f"{len(rows) + 1}"
            rows[name] = ({"role": role} if role else {}) | facts
    return _row_each("file", rows)


def _shown(names: Sequence[str]) -> list[str]:
    return [f"![{Path(n).stem}]({n})" if n.endswith(".png") else f"More: [{n}]({n})" for n in sorted(names)]


def weights_and_form(weights: Mapping[str, float], prior: Path) -> str:
    """Components with their weights, and how the prior in the file `prior` puts them together where it is no plain product; "" for no
    components."""
    how = How.of(read_json(prior)).words if weights else []
    return ", ".join([f"{escaped(name)} (weight {number(weight)})" for name, weight in weights.items()] + how)
