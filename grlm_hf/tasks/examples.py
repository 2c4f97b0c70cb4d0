"""What an example is made of: a user turn, and an answer of spans.

A task is a generator of `Source`s, one for each thing that it makes examples of. `grlm_hf.tasks.mixture` draws from the sources and calls
`Source.make`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from grlm_hf.data.catalog import Catalog
from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.tasks.prompts import history_item, next_item_turns

SpanKind = Literal["text", "identifiers"]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a completion.

    Attributes:
        text: of the kind "identifiers" whole lines (`Scheme.line`), which begin the completion or follow a newline.
        kind: "text" is free text; its loss is over the whole vocabulary. The tokens of "identifiers" are trie paths; their loss is over
            what `train.objective` says.
        learnt: its tokens are labels. Other spans are only read.
    """

    text: str
    kind: SpanKind = "text"
    learnt: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: a user turn, and the assistant turn that answers it.

    Attributes:
        task: its name in `MixtureConfig`.
        key: the user, item or conversation that it was made from.
        spans: the answer, such as a thought and then an identifier. The end-of-sequence token behind it belongs to the last span.
        before: earlier turns of the conversation, as (role, content).
    """

    task: str
    key: str
    prompt: str
    spans: tuple[Span, ...]
    before: tuple[tuple[str, str], ...] = ()

    @property
    def completion(self) -> str:
        """The whole answer."""
        return "".join(span.text for span in self.spans)


# --- the spans of a row that states none, as in every table of version 0.1.0 ---------------------------------------------------------

FREE_TEXT = ("term_id_to_title", "chat")
"""`default_spans`: tasks with free text as the whole completion."""
LAST_ONLY = ("sliding",)
"""`default_spans`: tasks that learn only the last identifier; those before it are history."""


def default_spans(task: str, completion: str, scheme: Scheme) -> tuple[Span, ...]:
    """The spans of a row of an ``sft`` table that states none: one free text, or `identifier_spans`, by the task's name."""
    return (Span(completion),) if task in FREE_TEXT else identifier_spans(completion, scheme, last_only=task in LAST_ONLY)


def identifier_spans(completion: str, scheme: Scheme, last_only: bool = False) -> tuple[Span, ...]:
    """Spans of a completion of identifiers and, between them, titles of a history. The titles are not learnt.

    Args:
        last_only: of the identifiers only the last line is learnt.
    """
    spans: list[Span] = []
    lines = completion.splitlines(keepends=True)
    for n, line in enumerate(lines, 1):
        found = is_identifier(line, scheme)  # type: ignore[arg-type]  # a protocol does not say that it can be hashed
        span = Span(line, "identifiers", n == len(lines) or not last_only) if found else Span(line, learnt=False)
        if spans and (spans[-1].kind, spans[-1].learnt) == (span.kind, span.learnt):
            span = Span(spans.pop().text + line, span.kind, span.learnt)
        spans.append(span)
    return tuple(spans)


@lru_cache(maxsize=1 << 16)  # an identifier is in many histories
def is_identifier(line: str, scheme: Scheme) -> bool:
    """Whether a line of text, its newline with it, is the line of some identifier."""
    found = scheme.parse(line)
    return found is not None and scheme.line(found) == line


@dataclass(frozen=True, slots=True)
class Source:
    """What an example is made of.

    Attributes:
        key: as in `Example`.
        make: (items, variant) → the example, or the reason why there is none. Variants count from 0; a task with one form ignores them.
        items: of a history, oldest first.
        least: items that must remain when the oldest are dropped to keep to a budget of tokens.
    """

    key: str
    make: Callable[[tuple[str, ...], int], Example | str]
    items: tuple[str, ...] = ()
    least: int = 0


# --- what several tasks show of items -----------------------------------------------------------------------------------------------


def next_item(
    catalog: Catalog, task: str, key: str, items: Sequence[str], history: str, last_only: bool = False, evidence: Sequence[str] = ()
) -> Example:
    """The last item as the answer after the items before it, in the prompt of a recommender (`next_item_turns`).

    Args:
        last_only: learn the last item only; the identifiers before it are history.
        evidence: lines above the history. They are of the whole history, so that `last_only` is expected with them.
    """
    *shown, answer = items
    user, begun = next_item_turns([shown_item(catalog, i, history) for i in shown], history, evidence)
    written = begun + catalog.scheme.line(catalog.identifier(answer))
    return Example(task, key, user, identifier_spans(written, catalog.scheme, last_only))


def shown_item(catalog: Catalog, item_id: str, history: str) -> str:
    """`history_item` of an item of the catalog. Raises ``ValueError`` for an unknown id."""
    position = catalog.position(item_id)
    return history_item(catalog.scheme.line(catalog.item_identifiers[position]), catalog.items[position], history)
