"""What each task asks, as examples: of items and of histories. Neighbours, search phrases, wishes and chat have modules of
their own.

A task is a generator of `Source`, one for each thing that it makes examples of. `mixture` draws from the sources and calls `Source.make`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.tasks.prompts import (
    description_request,
    history_item,
    internalise_request,
    next_item_turns,
    title_of_request,
    title_request,
    written_title,
)

HISTORY_TASKS = ("sequence", "sliding")
"""Tasks that ask what comes next in a history, whose items stand in prompt and answer."""

SpanKind = Literal["text", "identifiers"]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a completion.

    Attributes:
        text: of the kind "identifiers": whole lines, each the line of an identifier (`Scheme.line`), behind a newline or at the beginning.
        kind: "text" is free text, learnt over the whole vocabulary. The tokens of "identifiers" are paths of the trie, learnt over
            what `train.objective` says.
        learnt: its tokens are labels; otherwise they are only read.
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
        before: earlier turns of a conversation, as (role, content).
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


# --- the spans of an example that states none: all of version 0.1.0 -----------------------------------------------------------------

FREE_TEXT = ("term_id_to_title", "chat")
"""Tasks whose whole completion is free text by `default_spans`."""
LAST_ONLY = ("sliding",)
"""Tasks whose last identifier alone is learnt by `default_spans`; those before it are history."""


def default_spans(task: str, completion: str, scheme: Scheme) -> tuple[Span, ...]:
    """The spans of a row of an ``sft`` table that states none: one free text, or `identifier_spans`, by the task's name."""
    return (Span(completion),) if task in FREE_TEXT else identifier_spans(completion, scheme, last_only=task in LAST_ONLY)


def identifier_spans(completion: str, scheme: Scheme, last_only: bool = False) -> tuple[Span, ...]:
    """A completion of identifiers and, between them, titles of a history: the titles are not learnt.

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
        make: (items, variant) → the example, or why there is none. Variants count from 0; a task that knows one form ignores the number.
        items: of a history, oldest first.
        least: as many of the items must remain where the oldest are dropped to keep to a budget of tokens.
    """

    key: str
    make: Callable[[tuple[str, ...], int], Example | str]
    items: tuple[str, ...] = ()
    least: int = 0


# --- item text and Term ID ---------------------------------------------------------------------------------------------------------


def internalisation(catalog: Catalog) -> Iterator[Source]:
    """Term internalisation (GRLM's GTI): title, brand, category and description → Term ID."""
    return _of_items(catalog, "internalise", lambda item, identifier: (internalise_request(item), _written(catalog, identifier)))


def title_to_term_id(catalog: Catalog) -> Iterator[Source]:
    """The title alone → Term ID."""
    return _of_items(catalog, "title_to_term_id", lambda item, identifier: (title_request(item), _written(catalog, identifier)))


def description_to_term_id(catalog: Catalog) -> Iterator[Source]:
    """The start of the description alone → Term ID; for items that have one."""

    def ask(item: Item, identifier: Identifier) -> tuple[str, Span] | str:
        return (description_request(item), _written(catalog, identifier)) if item.description.strip() else "no description"

    return _of_items(catalog, "description_to_term_id", ask)


def term_id_to_title(catalog: Catalog) -> Iterator[Source]:
    """Term ID → title. Items that share a Term ID give one question with several true answers."""
    write = catalog.scheme.write
    return _of_items(catalog, "term_id_to_title", lambda item, identifier: (title_of_request(write(identifier)), Span(written_title(item))))


def _written(catalog: Catalog, identifier: Identifier) -> Span:
    return Span(catalog.scheme.line(identifier), "identifiers")


def _of_items(catalog: Catalog, task: str, ask: Callable[[Item, Identifier], tuple[str, Span] | str]) -> Iterator[Source]:
    for item, identifier in zip(catalog.items, catalog.item_identifiers, strict=True):
        asked = ask(item, identifier)
        found = asked if isinstance(asked, str) else Example(task, item.item_id, asked[0], (asked[1],))
        yield Source(item.item_id, lambda _items, _variant, found=found: found)  # type: ignore[misc]


# --- histories ---------------------------------------------------------------------------------------------------------------------


def next_item(catalog: Catalog, task: str, key: str, items: Sequence[str], history: str, last_only: bool = False) -> Example:
    """The last of the items after those before it, exactly as a recommender is asked (`next_item_turns`).

    Args:
        last_only: the identifiers between the first item and the last are history, not answers.
    """
    *shown, answer = items
    user, begun = next_item_turns([shown_item(catalog, i, history) for i in shown], history)
    written = begun + catalog.scheme.line(catalog.identifier(answer))
    return Example(task, key, user, identifier_spans(written, catalog.scheme, last_only))


def sequences(catalog: Catalog, histories: Iterable[History], max_history: int, history: str = "term_ids") -> Iterator[Source]:
    """Behaviour sequence prediction (GRLM's BSP): one example a user, every item after the first supervised.

    The last ``max_history + 1`` items are used: as many as a prompt shows, and the answer. Users with one item give no example. Histories
    of titles have no Term IDs to supervise but the last item's.
    """

    for h in histories:

        def make(items: tuple[str, ...], _variant: int, user: str = h.user_id) -> Example | str:
            return next_item(catalog, "sequence", user, items, history) if len(items) > 1 else "one item only"

        yield Source(h.user_id, make, h.items[-(max_history + 1) :], 2)


def sliding(
    catalog: Catalog, histories: Iterable[History], window: int, stride: int, per_user: int, history: str = "term_ids"
) -> Iterator[Source]:
    """History → next item: the last item of a history, the one `stride` before it, and so on, each after at most `window` items.

    Args:
        per_user: windows of a user at most; the newest are kept.
    """
    for h in histories:

        def make(items: tuple[str, ...], _variant: int, user: str = h.user_id) -> Example:
            return next_item(catalog, "sliding", user, items, history, last_only=True)

        answers = range(len(h.items) - 1, 0, -stride)[:per_user]
        for at in reversed(answers):
            yield Source(h.user_id, make, h.items[max(0, at - window) : at + 1], 2)


def shown_item(catalog: Catalog, item_id: str, history: str) -> str:
    """`history_item` of an item of the catalog. Raises ``ValueError`` for an unknown id."""
    position = catalog.position(item_id)
    return history_item(catalog.scheme.line(catalog.item_identifiers[position]), catalog.items[position], history)
