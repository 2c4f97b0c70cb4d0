"""Answers of a language model to many messages, kept shard by shard on disk: a run that was killed loses one shard at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grlm_hf.files import Incomplete, rows_to_dataset, write_parquet
from grlm_hf.progress import progress
from grlm_hf.tables.rows import read_rows

if TYPE_CHECKING:
    from grlm_hf.llms.writers import Writer

_SHARD_KEY = b"grlm_answers_of"


@dataclass(frozen=True)
class AnswerForm:
    """The form to which a writer constrains its answers."""

    pattern: str  # regular expression in llguidance's syntax, as `Writer.write` takes it
    max_new_tokens: int  # tokens of the longest match
    matches: Callable[[str], bool]  # a check in Python that an answer has the form; other answers are refused
    text: str  # names the form in an error, such as "5 terms in brackets"


def sharded_answers(
    writer: Writer,
    folder: Path,
    item_ids: Sequence[str],
    message: Callable[[int], str],
    form: AnswerForm,
    *,
    shard_size: int = 1024,
    part: str = "",
    title: str = "answers",
) -> list[str]:
    """One answer for each item, in order, written to `folder` in files of `shard_size`. The file of an earlier run is reused if writer,
    form, items and messages are the same.

    Args:
        message: position in `item_ids` → the user message, made shard by shard.
        part: "2/8" requests every eighth shard only, beginning with the third; "" all.

    Raises:
        ValueError: the writer broke the form, or as `Writer.write`.
        Incomplete: with `part`, when shards of other parts are not written yet.
    """

    shards = [range(i, min(i + shard_size, len(item_ids))) for i in range(0, len(item_ids), shard_size)]
    mine, parts = parse_part(part)
    found: list[str] = []
    missing = 0
    with progress(total=len(item_ids), desc=title, unit=" items", disable=len(item_ids) < shard_size) as bar:
        for n, shard in enumerate(shards):
            path = folder / f"answers-{n:05d}-of-{len(shards):05d}.parquet"
            ids, messages = [item_ids[at] for at in shard], [message(at) for at in shard]
            key = hashlib.sha256(json.dumps([writer.identity, form.pattern, messages]).encode()).hexdigest().encode()
            answers = _read(path, key, ids)
            if answers is None and n % parts != mine:
                missing += 1
                continue
            if answers is None:
                answers = writer.write(messages, form.pattern, form.max_new_tokens)
                for item_id, answer in zip(ids, answers, strict=True):
                    if not form.matches(answer):
                        raise ValueError(
                            f"Item {item_id!r} was answered {answer!r}; expected {form.text}. "
                            f"The back end ({writer.identity}) does not constrain the model to the form; choose the other one."
                        )
                _write(path, key, ids, answers)
            found += answers
            bar.update(len(shard))
    if missing:
        raise Incomplete(f"{missing} of {len(shards)} shards of the {folder.name} pass are not written yet.")
    return found


def parse_part(part: str, setting: str = "part") -> tuple[int, int]:
    """``"2/8"`` as (2, 8); ``""`` as (0, 1), which is everything. Raises ``ValueError`` naming the setting for any other form."""
    if not part:
        return 0, 1
    which, _, of = part.partition("/")
    if not (which.isdecimal() and of.isdecimal() and int(which) < int(of)):
        raise ValueError(f"{setting} is {part!r}; expected like 0/8 … 7/8.")
    return int(which), int(of)


def _read(path: Path, key: bytes, item_ids: Sequence[str]) -> list[str] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
        rows = [row for _, row in read_rows(path)] if metadata.get(_SHARD_KEY) == key else []
    except (pa.ArrowException, OSError, ValueError):  # a broken file is written again
        return None
    return [row["answer"] for row in rows] if [row["item_id"] for row in rows] == list(item_ids) else None


def _write(path: Path, key: bytes, item_ids: Sequence[str], answers: Sequence[str]) -> None:
    from datasets import Features, Value

    features = Features({"item_id": Value("string"), "answer": Value("string")})
    rows = [{"item_id": item_id, "answer": answer} for item_id, answer in zip(item_ids, answers, strict=True)]
    write_parquet(rows_to_dataset(rows, features), path, {_SHARD_KEY: key})
