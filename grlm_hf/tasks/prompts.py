"""All prompt text. Training, evaluation and serving call these functions and no others.

An item is one line: ``[shampoo, color, care, treated, preserve]`` and a newline. The user turn holds the oldest item of a history, and
the assistant turn the others, one line an item; the model writes the next line. So one training example supervises every position, and a
prompt at inference is the beginning of a training example.

A history can also show titles (`HISTORIES`): each Term ID is followed by a line with the title; or there are only titles, all of them in
the user turn, since the assistant writes only Term IDs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from grlm_hf.data.items import Item
from grlm_hf.identifiers.scheme import Scheme
from grlm_hf.identifiers.symbols import without_symbols
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.identifiers.titles import CONTROL, LONGEST, MAX_TEXT, one_line
from grlm_hf.identifiers.titles import written_title as _written
from grlm_hf.layout import HISTORIES

PROMPT_VERSION = "1"


_NEXT_ITEM = "Next items after:\n{items}"
_EVIDENCE = "Chosen by people with like histories:\n"
_INTERNALISE = "Term ID of:\n{text}"
_TITLE_OF = "Title of:\n{item}"
_COLLABORATIVE = "Chosen by the same people as:\n{item}"
_QUERY = "Search: {phrase}"
_ZERO_SHOT = "A customer bought these products, the oldest first:\n{items}\nWrite the title of the product that this customer buys next."
_STEERED = "Next item after:\n{items}Wish: {wish}"
_MAX_DESCRIPTION = 150  # characters beside a title, as in the paper
_MAX_ALONE = 300  # characters of a description without a title


# --- one item ----------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)  # an item is in many histories
def written_title(item: Item) -> str:
    """The title as one line, without the brackets of Term IDs and of special tokens, for histories and answers."""
    return _written(item.title)


def title_line(item: Item) -> str:
    """`written_title` and a newline."""
    return written_title(item) + "\n"


def history_item(line: str, item: Item, history: str) -> str:
    """An item of a history, in every prompt of every task: one or two lines, by `history` (one of `HISTORIES`).

    Args:
        line: the line of its identifier (`grlm_hf.identifiers.scheme.Scheme.line`).
    """
    check_history(history)
    return ("" if history == "titles" else line) + ("" if history == "term_ids" else title_line(item))


def check_history(history: str) -> None:
    """Raises ``ValueError`` for what is none of `HISTORIES`."""
    if history not in HISTORIES:
        raise ValueError(f"history is {history!r}; expected one of {HISTORIES}.")


# --- user turns --------------------------------------------------------------------------------------------------------------------


def next_item_turns(shown: Sequence[str], history: str = "term_ids", evidence: Sequence[str] = ()) -> tuple[str, str]:
    """The user turn of next-item prediction, and the beginning of the assistant turn. The next item follows it.

    Args:
        shown: `history_item` of each item, oldest first.
        evidence: lines of identifiers above the history (`grlm_hf.tasks.evidence`).

    Raises:
        ValueError: an empty history.
    """
    if not shown:
        raise ValueError("The history is empty; expected at least one item. For a user without history recommend popular items.")
    above = len(shown) if history == "titles" else 1
    before = "".join([_EVIDENCE, *evidence]) if evidence else ""
    return before + _NEXT_ITEM.format(items="".join(shown[:above]).removesuffix("\n")), "".join(shown[above:])


def without_evidence(user_turn: str) -> str:
    """A user turn of `next_item_turns` as it is without evidence."""
    heading = _NEXT_ITEM.partition("{")[0]
    _, found, items = user_turn.partition("\n" + heading)
    return heading + items if found and user_turn.startswith(_EVIDENCE) else user_turn


def internalise_request(item: Item) -> str:
    """The user turn of term internalisation: title, brand, last category and the start of the description."""
    lines = [f"Title: {one_line(item.title)}"]
    if item.brand:
        lines.append(f"Brand: {one_line(item.brand)}")
    if item.categories:
        lines.append(f"Category: {one_line(item.categories[-1])}")
    if item.description:
        lines.append(f"Description: {without_symbols(CONTROL.sub(' ', item.description[:_MAX_DESCRIPTION]))}")
    return _INTERNALISE.format(text="\n".join(lines))


def title_request(item: Item) -> str:
    """Asks for a Term ID by the title alone."""
    return _INTERNALISE.format(text=f"Title: {one_line(item.title)}")


def description_request(item: Item) -> str:
    """Asks for a Term ID by the start of the description alone."""
    return _INTERNALISE.format(text=f"Description: {one_line(item.description, _MAX_ALONE)}")


def title_of_request(written: str) -> str:
    """Requests the title of an item by its written identifier."""
    return _TITLE_OF.format(item=written)


def collaborative_request(shown: str) -> str:
    """Asks for the items that the same people choose; `shown` is `history_item` of the given item."""
    return _COLLABORATIVE.format(item=shown.removesuffix("\n"))


def query_request(phrase: str) -> str:
    """Asks for an item by a search phrase."""
    return _QUERY.format(phrase=one_line(phrase))


def steered_request(shown: Sequence[str], more: Sequence[str] = (), no: Sequence[str] = ()) -> str:
    """Asks for the next item with a wish: terms that it shall have, terms that it must not have.

    Args:
        shown: `history_item` of each item, oldest first.

    Raises:
        ValueError: an empty history, or no wish.
    """
    wish = ", ".join([*(f"more {one_line(term)}" for term in more), *(f"no {one_line(term)}" for term in no)])
    if not shown or not wish:
        raise ValueError(f"Found {len(shown)} items and the wish {wish!r}; expected at least one item and one term.")
    return _STEERED.format(items="".join(shown), wish=wish)


def zero_shot_turns(shown: Sequence[str], answer: str = "") -> list[dict[str, str]]:
    """Next-item prediction for a model that never learnt it, as chat messages.

    Args:
        shown: the title line of each item of the history, oldest first.
        answer: the title line of the next item, which makes it a worked example.

    Raises:
        ValueError: an empty history.
    """
    if not shown:
        raise ValueError("The history is empty; expected at least one item. For a user without history recommend popular items.")
    turns = [{"role": "user", "content": _ZERO_SHOT.format(items="".join(shown))}]
    return [*turns, {"role": "assistant", "content": answer}] if answer else turns


def prompt_hash(history: str = "term_ids", scheme: Scheme = TERMS, evidence: int = 0) -> str:
    """Hash of the prompt text that recommendations depend on. A checkpoint records the hash of its own form of history, scheme and
    evidence."""
    probe = Item("id", "T", "B", ("C",), "D")
    line = TERMS.line(("a", "b"))
    text = [PROMPT_VERSION, _NEXT_ITEM.format(items="[a, b]"), internalise_request(probe), line]
    if history != "term_ids":
        text += [history, *next_item_turns([history_item(TERMS.line(("a",)), probe, history)] * 2, history), str(LONGEST)]
    if scheme is not TERMS:
        text.append(scheme.name)
    if evidence:
        text += [_EVIDENCE, str(evidence)]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


def templates_hash() -> str:
    """Hash of the prompt text of all tasks and all forms of a history. A dataset records it."""
    templates = [_TITLE_OF, _COLLABORATIVE, _QUERY, steered_request(["a\n"], ["b"], ["c"]), MAX_TEXT, _MAX_ALONE]
    return hashlib.sha256(json.dumps([*map(prompt_hash, HISTORIES), *templates]).encode()).hexdigest()[:16]
