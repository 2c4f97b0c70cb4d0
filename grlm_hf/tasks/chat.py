"""Conversations from a file, mixed in so that the language model keeps its abilities."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grlm_hf.tables.rows import read_rows
from grlm_hf.tasks.examples import Example, Source, Span
from grlm_hf.tasks.task import Task, TaskSettings


def chat(path: str | Path, dropped: Counter[str] | None = None) -> Iterator[Source]:
    """Every assistant turn of a chat file as the answer to all turns before it.

    A row has `messages`, a list of ``{"role": …, "content": …}``; or `prompt` and `completion`, each a text or such a list. Roles are user,
    assistant and, in the first turn only, system. An example's key is a hash of the conversation and the number of the turn, so it does
    not depend on the order of the rows.

    Args:
        dropped: counts the conversations that are left out, by reason: duplicates, turns that are not text (pictures, tool calls), empty
            turns, other roles, no answer to a user.

    Raises:
        ValueError: a row of another form, with its line; a file without a usable conversation.
    """
    dropped = Counter() if dropped is None else dropped
    seen: set[str] = set()
    rows = 0
    for where, row in read_rows(path):
        rows += 1
        turns = _turns(where, row)
        if (reason := _unusable(turns)) is not None:
            dropped[reason] += 1
            continue
        key = hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]
        if key in seen:
            dropped["a conversation that stands there already"] += 1  # as recorded by version 0.1.0
            continue
        seen.add(key)
        for at in range(1, len(turns)):
            (role, content), (previous, question) = turns[at], turns[at - 1]
            if role == "assistant" and previous == "user":
                example = Example("chat", f"{key}/{at}", question, (Span(content.strip()),), tuple(turns[: at - 1]))
                yield Source(example.key, lambda _items, _variant, example=example: example)  # type: ignore[misc]
    if not seen:
        raise ValueError(f"{path} has no conversation to learn from; of its {rows} rows: {dict(dropped) or 'none'}.")


def _turns(where: str, row: dict[str, Any]) -> list[tuple[Any, Any]]:
    messages = row.get("messages")
    if messages is None and {"prompt", "completion"} <= row.keys():
        sides = [(row["prompt"], "user"), (row["completion"], "assistant")]
        messages = [m for side, role in sides for m in ([{"role": role, "content": side}] if isinstance(side, str) else side or [])]
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise ValueError(
            f"{where} needs `messages`, a list of {{'role': ..., 'content': ...}}, or `prompt` and `completion`; found {str(row)[:200]}."
        )
    return [(m["role"], m.get("content")) for m in messages]


def _unusable(turns: list[tuple[Any, Any]]) -> str | None:
    """The reason why a conversation cannot be used; ``None`` for a usable one."""
    roles = [role for role, _ in turns]
    if any(role not in ("user", "assistant") for role in roles[roles[:1] == ["system"] :]):
        return "roles other than user, assistant and a first system"
    if not all(isinstance(content, str) for _, content in turns):
        return "turns that are not text"
    if not all(content.strip() for _, content in turns):
        return "empty turns"
    return None if ("user", "assistant") in itertools.pairwise(roles) else "no answer to a user"


def _check(settings: TaskSettings) -> None:
    if not settings.chat_file:
        raise ValueError("mixture.chat needs conversations; name their file: mixture.chat_file=FILE.")
    if not Path(settings.chat_file).is_file():
        raise ValueError(f"mixture.chat needs conversations; no file at {settings.chat_file!r}: mixture.chat_file=FILE.")


CHAT = Task("chat", "the answers in `chat_file`. Free text.", lambda given: chat(given.settings.chat_file, given.dropped), check=_check)
