"""The quality report of identifier sets: JSON, a table, a picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import write_json, write_text
from grlm_hf.indexing.quality.measure import noun_of, with_article
from grlm_hf.indexing.quality.pictures import plot
from grlm_hf.layout import QUALITY_FILE
from grlm_hf.markdown import escaped, one_line, table

if TYPE_CHECKING:
    pass


def save_quality(comparison: dict[str, Any], folder: str | Path) -> None:
    """Writes ``quality.json``, ``quality.md`` and ``quality.png`` into a folder, each atomically; other files there stay. The first one
    marks the folder as ours: a later call goes on where this one is killed."""
    folder = Path(folder)
    write_json(folder / QUALITY_FILE, comparison)
    write_text(folder / "quality.md", _markdown(comparison))
    plot(comparison, folder / "quality.png", note_of(comparison))


def _rows(comparison: dict[str, Any]) -> list[list[str]]:
    """One row per measure: its name, then its value in each set. Measures without a value are left out."""
    reports = comparison["sets"].values()
    columns = [_symbols(r) if "scheme" in r else _column(r) for r in reports]
    if any("scheme" in r for r in reports):
        columns = [{_of_any_kind(name): cell for name, cell in column.items()} for column in columns]
    rows = [[name, *(column.get(name) or "–" for column in columns)] for name in dict.fromkeys(itertools.chain(*columns))]
    return [row for row in rows if set(row[1:]) != {"–"}]


def _of_any_kind(name: str) -> str:
    """The name of a measure for identifiers of whatever kind."""
    return name.replace("Term ID", "identifier").replace("… terms", "… parts").replace("trie of terms", "trie of parts")


def _symbols(report: dict[str, Any]) -> dict[str, str | None]:
    """As `_column`, for a report of `measure_symbols`."""
    shared, levels, tokens = report["collisions"], report["levels"], report["tokens"]
    column: dict[str, str | None] = {
        "kind of identifier": report["noun"],
        "distinct Term IDs": f"{shared['distinct']:,}",
        "collision rate: (items − distinct) / items": f"{100 * shared['rate']:.2f} %",
        "items that share one": f"{shared['items']:,} ({_percent(shared['share'])})",
        "groups that share one / largest": _list((shared["groups"], shared["largest"])),
        "codes used by level, of how many": " / ".join(f"{level['used']:,} of {level['of']:,}" for level in levels),
        "dead codes by level": _list(level["dead"] for level in levels),
        "perplexity by level": _list(level["perplexity"] for level in levels),
        "Gini of use by level": " / ".join(_number(level["gini"]) for level in levels),
        "distinct prefixes of 1 / 2 / … terms": _list(report["prefixes"]),
    }
    for part, what in (("agreement", "text"), ("behaviour", "behaviour")):
        if near := report[part]:
            both = (f"{_percent(one)} ({_percent(other)})" for one, other in zip(near["same"], near["random"], strict=True))
            column[f"first 1 / 2 / … codes as a neighbour by {what} (a random item)"] = " / ".join(both)
    if report["reconstruction"]:
        column["variance not explained by 1 / 2 / … codes"] = " / ".join(map(_percent, report["reconstruction"]))
    return {**column, **_tokens_and_tries(tokens, report["trie"])}


def _column(report: dict[str, Any]) -> dict[str, str | None]:
    legality, terms, shared, near, tokens = (report[part] for part in ("legality", "terms", "collisions", "agreement", "tokens"))
    column = {
        "legal Term IDs": _percent(legality["legal"]),
        "illegal: number of terms / form / repeated term": legality["illegal"]
        and _list(legality[k] for k in ("count", "form", "repeated")),
        "items with terms that say nothing": f"{report['fillers']:,}" if report.get("fillers") else None,
        "terms an item": f"{terms['per_item']:.2f}",
        "distinct Term IDs": f"{shared['distinct']:,}",
        "items that share one": f"{shared['items']:,} ({_percent(shared['share'])})",
        "groups that share one / largest": _list((shared["groups"], shared["largest"])),
        "distinct terms / used once": _list((terms["distinct"], terms["used_once"])),
        "distinct prefixes of 1 / 2 / … terms": _list(report["prefixes"]),
        "distinct terms by position": _list(p["distinct"] for p in terms["positions"]),
        "entropy by position, bits": _list(p["entropy"] for p in terms["positions"]),
        "terms shared with a neighbour (a random item)": near and f"{near['shared']:.2f} ({near['random']:.2f})",
        "rank correlation of similarity and shared terms": near and _number(near["spearman"]),
    }
    own, shuffled = report["alignment"]["own"], report["alignment"]["shuffled"]
    for field in ("text", "title"):
        for what, name in (("items", "items with a word of theirs"), ("terms", "terms")):
            chance = f" ({_percent(shuffled[field][what])})" if shuffled else ""
            column[f"{name} in the {field} (shuffled)"] = _percent(own[field][what]) + chance
    return {**column, **_tokens_and_tries(tokens, report["trie"])}


def _tokens_and_tries(tokens: dict[str, Any] | None, tries: dict[str, Any]) -> dict[str, str | None]:
    lengths = _list(tokens[k] for k in ("mean", "p99", "max")) if tokens else None
    column: dict[str, str | None] = {"tokens a Term ID: mean / p99 / max": lengths}
    for kind, trie in tries.items():
        column |= {
            f"trie of {kind}: children of the root": trie and f"{trie['root_children']:,}",
            f"trie of {kind}: children of an inner node": trie and _number(trie["mean_children"]),
            f"trie of {kind}: inner nodes with a single child": trie and _percent(trie["single_child"]),
            f"trie of {kind}: real choices an item": trie and _number(trie["choices"]),
            f"trie of {kind}: unique after": trie and _number(trie["unique_after"]),
        }
    return column


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    for digits in (1, 2, 3):  # 99.97 is not 100
        text = f"{100 * share:.{digits}f}"
        if share in (0, 1) or float(text) not in (0, 100):
            break
    return f"{text} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _list(values: Iterable[float]) -> str:
    return " / ".join(f"{v:,}" if isinstance(v, int) else f"{v:.1f}" for v in values)


def text_table(comparison: dict[str, Any]) -> str:
    """Measures by identifier sets, aligned for a terminal."""
    lines = [["", *map(one_line, comparison["sets"])], *_rows(comparison)]
    width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)).rstrip() for line in lines]
    return "\n".join([*aligned, note_of(comparison)])


def markdown_table(comparison: dict[str, Any]) -> str:
    """Measures by identifier sets, as Markdown."""
    return table(["measure", *map(escaped, comparison["sets"])], _rows(comparison))


def note_of(comparison: dict[str, Any]) -> str:
    reports = list(comparison["sets"].values())
    parts = [f"{comparison['items']:,} items"]
    parts += [f"{a['pairs']:,} pairs of neighbours, mean cosine {a['similarity']:.2f}" for a in _first(reports, "agreement")]
    parts += [f"{a['pairs']:,} pairs of neighbours by behaviour" for a in _first(reports, "behaviour")]
    parts += [f"tokenizer: {t['tokenizer'] or 'not named'}" for t in _first(reports, "tokens")]
    for pair in comparison.get("stability", ()):
        (one, two), values = map(one_line, pair["sets"]), " / ".join(map(_number, pair["same"]))
        parts.append(f"{one} and {two} group by the first 1 / 2 / … codes alike to {values} (adjusted Rand index)")
    return "; ".join(parts) + "."


def _first(reports: Sequence[dict[str, Any]], part: str) -> list[Any]:
    """This part of the first set that has it, as a list of at most one."""
    return [report[part] for report in reports if report.get(part)][:1]


def _markdown(comparison: dict[str, Any]) -> str:
    noun = noun_of(list(comparison["sets"].values()))
    parts = [f"# Quality of the {noun}s", escaped(note_of(comparison)), markdown_table(comparison), "![the same as pictures](quality.png)"]
    lines = ["\n\n".join(parts), ""]
    for name, report in comparison["sets"].items():
        if groups := report["collisions"]["groups_shown"]:
            lines += [f"## {escaped(name)}: largest groups of items that share {with_article(noun_of([report]))}", ""]
            for group in groups:
                titles = "; ".join(map(escaped, group["titles"])) + ("; …" if group["items"] > len(group["titles"]) else "")
                lines.append(f"- {escaped(', '.join(group['terms']))} — {group['items']} items: {titles}")
            lines.append("")
        if "legality" in report and (examples := report["legality"]["examples"]):
            lines += [f"## {escaped(name)}: illegal Term IDs, such as", ""]
            lines += [f"- {escaped(e['item_id'])}: {escaped(', '.join(e['terms']))} ({', '.join(e['reasons'])})" for e in examples]
            lines.append("")
    return "\n".join(lines)
