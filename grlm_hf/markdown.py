"""Markdown for cards: values as tables and lists. Users' text is escaped: it adds no headings, HTML, disguised links or tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grlm_hf.files import clean

_URL = re.compile(r"(https?://[^\s<>\"'`|\\]*[^\s<>\"'`|\\.,;:!?)\]])")
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # they reorder the text that follows, ours included


def one_line(text: object) -> str:
    """Any value as one line of plain text, without control characters and lone surrogates."""
    shown = "".join(" " if unicodedata.category(c) == "Cc" else c for c in str(text) if unicodedata.category(c) != "Cs")
    return clean(_BIDI_CONTROLS.sub("", shown))


def escaped(text: object) -> str:
    """Any value as one line of Markdown that renders literally. URLs become links."""
    parts = _URL.split(one_line(text))
    for i in range(0, len(parts), 2):
        part = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", parts[i])
        parts[i] = part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    parts[1::2] = [f"<{url}>" for url in parts[1::2]]
    line = "".join(parts)
    return re.sub(r"^([-+=]|\d+(?=[.)]))", lambda m: f"{m[1]}\\" if m[1].isdigit() else f"\\{m[1]}", line)  # starts no list or underline


def paragraphs(text: str) -> str:
    """A user's text as escaped paragraphs; blank lines separate them."""
    return "\n\n".join(filter(None, (escaped(part) for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n")))))


def number(value: object) -> str:
    """A value of the facts, formatted for a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value[:12])) + (f", … ({len(value)} in all)" if len(value) > 12 else "")
    return escaped(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of escaped cells. Columns after the first that hold only figures are right-aligned."""
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    figures = [i > 0 and all(re.fullmatch(r"[-\d.,e+%–]*( %)?", row[i]) for row in rows) for i in range(len(head))]
    lines = [list(head), ["--:" if right else "---" for right in figures], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts as one level, keys joined by middle dots. Empty values and lists of lists or dicts are left out."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key} · ")
        elif value not in ("", [], ()) and not (isinstance(value, list | tuple) and any(isinstance(v, list | tuple | dict) for v in value)):
            found[f"{prefix}{key}"] = value
    return found


def side_by_side(sets: Mapping[str, Any], first: str) -> str:
    """Several sets of facts as one table: one row per fact, one column per set."""
    columns = {name: flat(facts) for name, facts in sets.items() if isinstance(facts, Mapping)}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = ([words(key), *(number(column.get(key)) for column in columns.values())] for key in keys)
    return table([first, *map(escaped, columns)], rows)


def bullets(facts: Mapping[str, Any]) -> str:
    """Facts as a Markdown list, without ``None`` values."""
    return "\n".join(f"- {words(key)}: {number(value)}" for key, value in flat(facts).items() if value is not None)


def words(key: str) -> str:
    """A key of the facts with spaces for underscores, unless it has other characters, as file names have."""
    return escaped(key.replace("_", " ") if re.fullmatch(r"[a-z0-9_ ·%]*", key) else key)
