"""The tasks of single items: from an item's text to its identifier, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.tasks.examples import Example, Source, Span
from grlm_hf.tasks.prompts import description_request, internalise_request, title_of_request, title_request, written_title
from grlm_hf.tasks.task import Task


def internalisation(catalog: Catalog) -> Iterator[Source]:
    """Term internalisation (GRLM's GTI): title, brand, category and description → identifier."""
    return _item_sources(catalog, "internalise", lambda item, identifier: (internalise_request(item), _answer(catalog, identifier)))


def title_to_term_id(catalog: Catalog) -> Iterator[Source]:
    """The title alone → identifier."""
    return _item_sources(catalog, "title_to_term_id", lambda item, identifier: (title_request(item), _answer(catalog, identifier)))


def description_to_term_id(catalog: Catalog) -> Iterator[Source]:
    """The start of the description alone → identifier; for items that have one."""

    def turns(item: Item, identifier: Identifier) -> tuple[str, Span] | str:
        return (description_request(item), _answer(catalog, identifier)) if item.description.strip() else "no description"

    return _item_sources(catalog, "description_to_term_id", turns)


def term_id_to_title(catalog: Catalog) -> Iterator[Source]:
    """Identifier → title. Items that share an identifier give one question with several true answers."""
    write = catalog.scheme.write
    return _item_sources(
        catalog, "term_id_to_title", lambda item, identifier: (title_of_request(write(identifier)), Span(written_title(item)))
    )


def _answer(catalog: Catalog, identifier: Identifier) -> Span:
    return Span(catalog.scheme.line(identifier), "identifiers")


def _item_sources(catalog: Catalog, task: str, turns: Callable[[Item, Identifier], tuple[str, Span] | str]) -> Iterator[Source]:
    """`turns`: the user turn and the answer of an item, or the reason why there is none."""
    for item, identifier in zip(catalog.items, catalog.item_identifiers, strict=True):
        made = turns(item, identifier)
        found = made if isinstance(made, str) else Example(task, item.item_id, made[0], (made[1],))
        yield Source(item.item_id, lambda _items, _variant, found=found: found)  # type: ignore[misc]


INTERNALISE = Task(
    "internalise", "an item's title, brand, category and description → its Term ID.", lambda given: internalisation(given.catalog),
    weight=1.0,
)  # fmt: skip
TITLE_TO_TERM_ID = Task("title_to_term_id", "an item's title → its Term ID.", lambda given: title_to_term_id(given.catalog))
DESCRIPTION_TO_TERM_ID = Task(
    "description_to_term_id", "an item's description → its Term ID.", lambda given: description_to_term_id(given.catalog)
)
TERM_ID_TO_TITLE = Task("term_id_to_title", "an item's Term ID → its title. Free text.", lambda given: term_id_to_title(given.catalog))
