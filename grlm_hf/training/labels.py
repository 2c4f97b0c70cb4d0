"""From the mixture to tokens and labels, each label checked against its identifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.tasks.config import HISTORY_TASKS
from grlm_hf.tasks.encoding import prompt_tokens
from grlm_hf.tasks.examples import Span, SpanKind, default_spans
from grlm_hf.tasks.prompts import title_line, without_evidence
from grlm_hf.tokens import identifier_tokens, tokenizer_name, without_specials

if TYPE_CHECKING:
    from datasets import Dataset

Paths = Mapping[str, Sequence[int]]
"""The tokens of each identifier's line."""


def tokenize_mixture(
    mixture: Dataset,
    tokenizer: Any,
    catalog: Catalog,
    max_length: int | None = None,
    last_only: bool = False,
    objective: str = "vocabulary",
    identifiers: bool = False,
    answers: bool = False,
) -> Dataset:
    """The mixture as `key`, `input_ids` and `completion_mask`: 1 on the tokens of learnt spans, and on the end-of-sequence token behind a
    learnt last span.

    A row's spans are those of its column `spans`, else `grlm_hf.tasks.examples.default_spans`. The tokens of every line of identifiers
    are exactly the trie path of its identifier.

    Args:
        max_length: tokens that the model takes.
        last_only: learn nothing before the last identifier of a completion. For validation, whose earlier items are training targets.
        objective: "trie" adds the column `free_text` if there is any: 1 on the labels that are learnt over the whole vocabulary.
        identifiers: add the column `identifiers` for a teacher: the items of a history and of its answers, as places in
            ``catalog.identifiers``; empty for tasks without a history.
        answers: add the column `answers` for a contrastive loss: of each learnt answer to a history its place in ``catalog.identifiers``
            and that of its first token in `input_ids`; empty for tasks without a history.

    Raises:
        ValueError: see `row_spans`; identifiers whose tokens merge with the text beside them; an example or an answer longer than
            `max_length`.
    """
    from datasets import Dataset

    keys, turns = (mixture[name][:] for name in ("key", "prompt"))  # as lists: a column reads a row at each step
    prompts = prompt_tokens(tokenizer, turns)
    lines = [catalog.scheme.line(identifier) for identifier in catalog.identifiers]
    paths: Paths = dict(zip(lines, identifier_tokens(tokenizer, catalog.scheme, catalog.identifiers), strict=True))
    items = taught_items(mixture, catalog) if identifiers else []
    number = {line: n for n, line in enumerate(lines)}
    tasks = mixture["task"][:] if answers else []
    spans = [[replace(s, text=without_specials(tokenizer, [s.text])[0]) for s in row] for row in row_spans(mixture, catalog)]
    encoded = tokenizer(["".join(s.text for s in row) for row in spans], add_special_tokens=False)
    rows: dict[str, list[Any]] = {name: [] for name in ("key", "input_ids", "completion_mask", "identifiers", "free_text", "answers")}
    for i, (key, prompt, row) in enumerate(zip(keys, prompts, spans, strict=True)):
        completion = encoded["input_ids"][i]
        counts = _token_counts(key, row, completion, paths, encoded.encodings and encoded.encodings[i], tokenizer)
        learnt = np.repeat([s.learnt for s in row], counts)
        if last_only and (last := max((n for n, s in enumerate(row) if s.kind == "identifiers"), default=None)) is not None:
            end = counts[: last + 1].sum()
            begin = end - len(paths[_lines(row[last])[-1]])
            learnt[:begin], learnt[begin:end] = False, True
        answer = [*completion, tokenizer.eos_token_id]
        _check_length(key, len(prompt), len(answer), max_length)
        rows["key"].append(key)
        rows["input_ids"].append([*prompt, *answer])
        rows["completion_mask"].append([*[0] * len(prompt), *learnt.astype(int).tolist(), int(row[-1].learnt)])
        if objective == "trie":
            text = (learnt & np.repeat([s.kind == "text" for s in row], counts)).astype(int).tolist()
            rows["free_text"].append([*[0] * len(prompt), *text, int(row[-1].learnt and row[-1].kind == "text")])
        if identifiers:
            rows["identifiers"].append(items[i])
        if answers:
            rows["answers"].append(_answers(row, counts, paths, number, len(prompt)) if tasks[i] in HISTORY_TASKS else [])
    if not any(map(any, rows["free_text"])):
        del rows["free_text"]
    for name in [name for name, wanted in (("identifiers", identifiers), ("answers", answers)) if not wanted]:
        del rows[name]
    return Dataset.from_dict(rows)


def taught_items(mixture: Dataset, catalog: Catalog) -> list[list[int]]:
    """The items of each example that a teacher can answer: those of its history and of its answers, oldest first, as places in
    ``catalog.identifiers``; [] for tasks without a history."""
    number = {catalog.scheme.line(identifier): n for n, identifier in enumerate(catalog.identifiers)}
    found: list[list[int]] = []
    for task, turns, row in zip(mixture["task"][:], mixture["prompt"][:], row_spans(mixture, catalog), strict=True):
        above = [f"{line}\n" for line in without_evidence(turns[-1]["content"]).splitlines()] if task in HISTORY_TASKS else []
        shown = [number[line] for line in above if line in number]
        found.append([*shown, *(number[line] for s in row for line in _lines(s))] if shown else [])
    return found


def row_spans(mixture: Dataset, catalog: Catalog) -> list[tuple[Span, ...]]:
    """The spans of each row of an ``sft`` table, checked.

    Raises:
        ValueError: a line of identifiers that the catalog lacks; spans that do not make up the completion, or of an unknown kind; in a row
            that states no spans, a line between identifiers that is no title of the catalog.
    """
    scheme = catalog.scheme
    known = set(map(scheme.line, catalog.identifiers))
    titles: set[str] = set()
    found = []
    stated = mixture["spans"][:] if "spans" in mixture.column_names else [[]] * len(mixture)
    rows = (mixture[name][:] for name in ("key", "task", "completion"))
    for key, task, completion, own in zip(*rows, stated, strict=True):
        text = completion[-1]["content"]
        spans = tuple(Span(**span) for span in own or ()) or default_spans(task, text, scheme)
        if own and ("".join(s.text for s in spans) != text or any(s.kind not in get_args(SpanKind) for s in spans)):
            raise ValueError(
                f"Example {key!r} has spans that do not fit its completion: {own}; expected texts that make up {text!r}, each of a kind of "
                f"{get_args(SpanKind)}."
            )
        for span in spans:
            strange = [line for line in _lines(span) if line not in known]
            if not own and span.kind == "text" and not span.learnt:
                titles = titles or set(map(title_line, catalog))
                strange = [line for line in span.text.splitlines(keepends=True) if line not in titles]
            if strange:
                raise ValueError(f"Example {key!r} has a completion with {strange[0]!r}, which is no identifier of the catalog.")
        if not spans or not (own or spans[-1].learnt):
            last = text.splitlines(keepends=True)[-1] if text else ""
            raise ValueError(f"Example {key!r} has a completion that ends in {last!r}, which is no identifier of the catalog.")
        found.append(spans)
    return found


def _lines(span: Span) -> list[str]:
    """The lines of identifiers; none of free text."""
    return span.text.splitlines(keepends=True) if span.kind == "identifiers" else []


def _answers(spans: Sequence[Span], counts: np.ndarray, paths: Paths, number: Mapping[str, int], begin: int) -> list[list[int]]:
    """Of each learnt line of identifiers its number, and the place of its first token if the completion begins at `begin`."""
    found = []
    for span, first in zip(spans, begin + counts.cumsum() - counts, strict=True):
        at = int(first)
        for line in _lines(span) if span.learnt else []:
            found.append([number[line], at])
            at += len(paths[line])
    return found


def _token_counts(key: str, spans: Sequence[Span], ids: Sequence[int], paths: Paths, encoding: Any, tokenizer: Any) -> np.ndarray:
    """How many tokens of a completion belong to each span, int64 [spans]. A token belongs to the span of its last character.

    Args:
        ids: tokens of the whole completion.
        encoding: the same with the tokens' places in the text; needed where free text and identifiers meet.

    Raises:
        ValueError: the tokens of a line of identifiers are not its trie path.
    """
    own = [[token for line in _lines(s) for token in paths[line]] for s in spans]
    if len(spans) == 1 and spans[0].kind == "text":
        return np.array([len(ids)])
    if all(s.kind == "identifiers" for s in spans):
        counts = np.array(list(map(len, own)))
    elif encoding is None:
        raise ValueError(f"{tokenizer_name(tokenizer)} cannot say where its tokens are in a text; use its fast version.")
    else:
        last = [max(end - 1, 0) for _, end in encoding.offsets]
        span_of = np.searchsorted(np.cumsum([len(s.text) for s in spans]), last, side="right")
        counts = np.bincount(span_of, minlength=len(spans))
    borders = counts.cumsum()
    if borders[-1] != len(ids) or any(
        s.kind == "identifiers" and list(ids[end - n : end]) != path for s, n, end, path in zip(spans, counts, borders, own, strict=True)
    ):
        raise ValueError(
            f"Example {key!r}: the tokens of its completion are not its items' trie paths: {''.join(s.text for s in spans)!r}."
        )
    return counts


def _check_length(key: str, prompt: int, answer: int, max_length: int | None) -> None:
    if max_length is not None and answer >= max_length:
        raise ValueError(
            f"Example {key!r} has an answer of {answer} tokens, its prompt left out; the model takes {max_length} in all. "
            "Lower max_history, or use a model that takes longer texts."
        )
    if max_length is not None and prompt + answer > max_length:
        raise ValueError(
            f"Example {key!r} has {prompt + answer} tokens, the model takes {max_length}; lower max_history, or set max_tokens."
        )
