"""General chat: every answer once with all that stands before it, and what is no conversation refused or counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grlm_hf.files import write_parquet
from grlm_hf.tasks.chat import chat
from grlm_hf.tasks.examples import Example

words = st.text("abc [],\n", min_size=1, max_size=8).filter(str.strip)
talks = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def read(path: Path, rows: list[dict[str, Any]], dropped: Counter[str] | None = None) -> list[Example]:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return [s.make(s.items, 0) for s in chat(path, dropped)]  # type: ignore[misc]


@given(st.lists(st.tuples(st.booleans(), talks), min_size=1, max_size=5))
def test_every_answer_is_asked_once_after_all_that_stands_before_it(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[tuple[bool, list[tuple[str, str]]]]
) -> None:
    rows = [
        [("system", "Be brief.")] * system + [turn for a, b in talk for turn in (("user", a), ("assistant", b))]
        for system, talk in conversations
    ]
    got = read(tmp_path_factory.getbasetemp() / "talks.jsonl", [{"messages": [message(r, c) for r, c in turns]} for turns in rows])
    answers = [(turns, at) for turns in rows for at, (role, _) in enumerate(turns) if role == "assistant"]
    want = {(tuple(turns[: at - 1]), turns[at - 1][1], turns[at][1].strip()) for turns, at in answers}
    assert {(e.before, e.prompt, e.completion) for e in got} == want
    assert len({e.key for e in got}) == len(got)


def test_forms_of_a_file(tmp_path: Path) -> None:
    from datasets import Dataset

    (want,) = read(tmp_path / "a.jsonl", [{"messages": [message("user", "q"), message("assistant", "a")]}])
    assert (want.task, want.prompt, want.completion, want.before) == ("chat", "q", "a", ())
    assert read(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}]) == [want]
    row = {"prompt": [message("user", "q")], "completion": [message("assistant", "a")], "source": "x"}
    assert read(tmp_path / "c.jsonl", [row]) == [want]
    write_parquet(Dataset.from_list([row]), tmp_path / "d.parquet")
    assert [s.make((), 0) for s in chat(tmp_path / "d.parquet")] == [want]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    good = [message("user", "q"), message("assistant", "a")]
    dropped: Counter[str] = Counter()
    rows: list[list[dict[str, Any]]] = [
        good, good,
        [*good, message("tool", "42")],
        [message("user", "q"), message("system", "late"), message("assistant", "a")],
        [message("user", [{"type": "image"}]), message("assistant", "a")],
        [message("user", "q"), {"role": "assistant", "tool_calls": []}],
        [message("user", "q"), message("assistant", " ")],
        [message("user", "q")],
        [message("assistant", "hello")],
        [],
    ]  # fmt: skip
    (only,) = read(tmp_path / "chat.jsonl", [{"messages": m} for m in rows], dropped)
    assert only.completion == "a"
    assert dropped == {
        "a conversation that stands there already": 1,
        "roles other than user, assistant and a first system": 2,
        "turns that are not text": 2,
        "empty turns": 1,
        "no answer to a user": 3,
    }


def test_what_is_refused(tmp_path: Path) -> None:
    for row, message_ in (
        ({"text": "hello"}, r"chat\.jsonl:1 needs `messages`"),
        ({"messages": "hello"}, r"chat\.jsonl:1 needs `messages`"),
        ({"messages": ["hello"]}, r"chat\.jsonl:1 needs `messages`"),
        ({"messages": [{"content": "hello"}]}, r"chat\.jsonl:1 needs `messages`"),
        ({"prompt": "hello", "completion": None}, r"has no conversation to learn from; of its 1 rows.*'no answer to a user': 1"),
        ({"messages": None}, r"chat\.jsonl:1 needs `messages`"),
    ):
        with pytest.raises(ValueError, match=message_):
            read(tmp_path / "chat.jsonl", [row])
    with pytest.raises(ValueError, match=r"of its 0 rows: none"):
        read(tmp_path / "chat.jsonl", [])
    with pytest.raises(ValueError, match="No file at"):
        list(chat(tmp_path / "gone.jsonl"))
