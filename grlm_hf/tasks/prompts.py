"""All prompt text, and how it becomes tokens. Training, evaluation and serving call these functions and no others.

An item is written on a line of its own, ``[shampoo, color, care, treated, preserve]`` and a newline. A history opens in the user
turn with its oldest item and goes on in the assistant turn, one line an item; what the model writes next is the next item. So one
training example supervises every position, and a prompt at inference is a training example cut short.

A history can also show titles (`HISTORIES`): a line with the title behind each Term ID; or titles alone, which then all stand in the
user turn, since the assistant writes Term IDs only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from grlm_hf.catalog import Item
from grlm_hf.identifiers.terms import TermID, render

PROMPT_VERSION = "1"

HISTORIES = ("term_ids", "both", "titles")
"""What a history shows of each item: its Term ID; its Term ID and its title; its title."""

_NEXT_ITEM = "Next items after:\n{items}"
_INTERNALISE = "Term ID of:\n{text}"
_TITLE_OF = "Title of:\n{item}"
_COLLABORATIVE = "Chosen by the same people as:\n{item}"
_QUERY = "Search: {phrase}"
_STEERED = "Next item after:\n{items}Wish: {wish}"
_MAX_TEXT = 1000  # characters of a title in a request
_MAX_LINE = 200  # characters of a title that stands on a line of a history, or is to be written
_MAX_DESCRIPTION = 150  # characters beside a title, as in the paper
_MAX_ALONE = 300  # characters of a description that stands alone

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_MARKS = str.maketrans("[]<>", "()  ")


def one_line(text: str, limit: int = _MAX_TEXT) -> str:
    """Free text as one line of at most `limit` characters, cut at a word; without control characters and halves of characters."""
    text = " ".join(_CONTROL.sub(" ", text).split())
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0] or text[:limit]


# --- one item ----------------------------------------------------------------------------------------------------------------------


def item_line(term_id: TermID) -> str:
    """The item as it stands in an assistant turn: its written Term ID and a newline."""
    return render(term_id) + "\n"


@lru_cache(maxsize=1 << 16)  # an item stands in many histories
def written_title(item: Item) -> str:
    """The title as it may stand among Term IDs and in answers: one line, without the brackets of Term IDs and of special tokens."""
    return one_line(item.title.translate(_MARKS), _MAX_LINE) or "untitled"


def title_line(item: Item) -> str:
    """`written_title` and a newline."""
    return written_title(item) + "\n"


def history_item(term_id: TermID, item: Item, history: str) -> str:
    """An item of a history, in every prompt of every task: one or two lines, as `history` says (one of `HISTORIES`)."""
    check_history(history)
    return ("" if history == "titles" else item_line(term_id)) + ("" if history == "term_ids" else title_line(item))


def check_history(history: str) -> None:
    """Raises ``ValueError`` for what is none of `HISTORIES`."""
    if history not in HISTORIES:
        raise ValueError(f"history is {history!r}; expected one of {HISTORIES}.")


# --- user turns --------------------------------------------------------------------------------------------------------------------


def next_item_turns(shown: Sequence[str], history: str = "term_ids") -> tuple[str, str]:
    """The user turn of next-item prediction, and how the assistant turn begins; what comes behind it is the next item.

    Args:
        shown: `history_item` of each item, oldest first.

    Raises:
        ValueError: an empty history.
    """
    if not shown:
        raise ValueError("The history is empty; expected at least one item. For a user without history recommend popular items.")
    above = len(shown) if history == "titles" else 1
    return _NEXT_ITEM.format(items="".join(shown[:above]).removesuffix("\n")), "".join(shown[above:])


def internalise_request(item: Item) -> str:
    """The user turn of term internalisation: title, brand, last category and the start of the description."""
    lines = [f"Title: {one_line(item.title)}"]
    if item.brand:
        lines.append(f"Brand: {one_line(item.brand)}")
    if item.categories:
        lines.append(f"Category: {one_line(item.categories[-1])}")
    if item.description:
        lines.append(f"Description: {_CONTROL.sub(' ', item.description[:_MAX_DESCRIPTION])}")
    return _INTERNALISE.format(text="\n".join(lines))


def title_request(item: Item) -> str:
    """Asks for a Term ID by the title alone."""
    return _INTERNALISE.format(text=f"Title: {one_line(item.title)}")


def description_request(item: Item) -> str:
    """Asks for a Term ID by the start of the description alone."""
    return _INTERNALISE.format(text=f"Description: {one_line(item.description, _MAX_ALONE)}")


def title_of_request(term_id: TermID) -> str:
    """Asks for the title of an item by its Term ID."""
    return _TITLE_OF.format(item=render(term_id))


def collaborative_request(shown: str) -> str:
    """Asks for the items that the same people choose; `shown` is `history_item` of the item asked about."""
    return _COLLABORATIVE.format(item=shown.removesuffix("\n"))


def query_request(phrase: str) -> str:
    """Asks for an item by a search phrase."""
    return _QUERY.format(phrase=one_line(phrase))


def steered_request(shown: Sequence[str], more: Sequence[str] = (), no: Sequence[str] = ()) -> str:
    """Asks for the next item with a wish: terms that it is to have, terms that it must not have.

    Args:
        shown: `history_item` of each item, oldest first.

    Raises:
        ValueError: an empty history, or no wish.
    """
    wish = ", ".join([*(f"more {one_line(term)}" for term in more), *(f"no {one_line(term)}" for term in no)])
    if not shown or not wish:
        raise ValueError(f"Found {len(shown)} items and the wish {wish!r}; expected at least one item and one term.")
    return _STEERED.format(items="".join(shown), wish=wish)


def prompt_hash(history: str = "term_ids") -> str:
    """Identifies the prompt text that recommending depends on; a checkpoint records that of the histories that it was trained with."""
    probe = Item("id", "T", "B", ("C",), "D")
    text = [PROMPT_VERSION, _NEXT_ITEM.format(items="[a, b]"), internalise_request(probe), item_line(("a", "b"))]
    if history != "term_ids":
        text += [history, *next_item_turns([history_item(("a",), probe, history)] * 2, history), str(_MAX_LINE)]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


def templates_hash() -> str:
    """Identifies the prompt text of all tasks and all forms of a history; a dataset records the one that it was made with."""
    templates = [_TITLE_OF, _COLLABORATIVE, _QUERY, steered_request(["a\n"], ["b"], ["c"]), _MAX_TEXT, _MAX_ALONE]
    return hashlib.sha256(json.dumps([*map(prompt_hash, HISTORIES), *templates]).encode()).hexdigest()[:16]


# --- tokens ------------------------------------------------------------------------------------------------------------------------


def without_specials(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Texts in which no special token of the tokenizer is left: a title must not be able to end the turn."""
    texts = list(texts)
    for special in tokenizer.all_special_tokens:
        texts = [text.replace(special, " ") for text in texts]
    return texts


def request_tokens(tokenizer: Any, requests: Sequence[str]) -> list[list[int]]:
    """Token ids of each user turn under the tokenizer's chat template, up to where the assistant begins to write (thinking off).

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    head, tail = _turn_frame(tokenizer, _chat_template(tokenizer))
    requests = without_specials(tokenizer, requests)
    return tokenizer([head + request + tail for request in requests], add_special_tokens=False)["input_ids"] if requests else []


def prompt_tokens(tokenizer: Any, prompts: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
    """`request_tokens` of prompts as chat messages; of several turns where a prompt has them.

    Raises:
        ValueError: the tokenizer has no chat template, or its template refuses a conversation.
    """
    from jinja2 import TemplateError

    prompts = list(prompts)  # a dataset's column reads a row at each index
    tokens: list[list[int]] = [[]] * len(prompts)
    single = [i for i, messages in enumerate(prompts) if len(messages) == 1]
    for i, ids in zip(single, request_tokens(tokenizer, [prompts[i][0]["content"] for i in single]), strict=True):
        tokens[i] = ids
    for i, messages in enumerate(prompts):
        if len(messages) == 1:
            continue
        _chat_template(tokenizer)
        contents = without_specials(tokenizer, [m["content"] for m in messages])
        turns = [{"role": m["role"], "content": content} for m, content in zip(messages, contents, strict=True)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        except TemplateError as error:
            roles = [m["role"] for m in messages]
            raise ValueError(f"{_name(tokenizer)} has a chat template that refuses turns of {roles}: {error}") from error
        tokens[i] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def _chat_template(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{_name(tokenizer)} has no chat template; expected an instruction-tuned model's tokenizer.")
    return tokenizer.chat_template


@lru_cache(maxsize=8)
def _turn_frame(tokenizer: Any, _template: str) -> tuple[str, str]:
    # Rendering Jinja once instead of once a user; the mark stands for the content.
    mark = "\u241f"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    head, _, tail = text.partition(mark)
    return head, tail


def identifier_tokens(tokenizer: Any, term_ids: Sequence[TermID]) -> list[list[int]]:
    """Token ids of each `item_line`, as they stand in an assistant turn after a newline and before another line.

    The whole line is encoded in its context: ``[hair`` is not ``[`` + ``hair`` in a byte-level BPE. These ids are the training
    labels and the paths of the trie.

    Raises:
        ValueError: the tokenizer merges across the border between two items, so that an item has no token path of its own.
    """
    return line_tokens(tokenizer, [item_line(tid) for tid in term_ids])


def line_tokens(tokenizer: Any, lines: Sequence[str]) -> list[list[int]]:
    """Token ids of lines of text that end in a newline, as they stand behind one. Raises ``ValueError`` as `identifier_tokens` does."""
    if not lines:
        return []
    before = tokenizer("\n", add_special_tokens=False)["input_ids"]
    encoded = tokenizer(["\n" + line for line in lines], add_special_tokens=False)["input_ids"]
    doubled = tokenizer([line + line for line in lines], add_special_tokens=False)["input_ids"]
    paths = []
    for line, ids, twice in zip(lines, encoded, doubled, strict=True):
        path = ids[len(before) :]
        if ids[: len(before)] != before or twice != path + path:
            raise ValueError(
                f"{_name(tokenizer)} merges tokens across the border of {line.removesuffix(chr(10))!r}, so its label tokens depend on what "
                "stands beside it. Use a tokenizer that splits text at newlines (every byte-level BPE of the Qwen, Llama 3 or GPT family "
                "does)."
            )
        paths.append(path)
    return paths


def tokenizer_hash(tokenizer: Any) -> str:
    """Identifies how a tokenizer encodes: its vocabulary, merges, pre-tokenizer and special tokens, not its name or truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        state = json.loads(backend.to_str())
        state = {key: state.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        # As a set: added tokens come back from disk in another order.
        state["added_tokens"] = sorted((t["id"], t["content"]) for t in state["added_tokens"])
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def history_tokens(
    tokenizer: Any,
    paths: Mapping[int, Any] | Sequence[Any],
    positions: Sequence[Sequence[int]],
    term_ids: Sequence[TermID],
    *,
    items: Sequence[Item] = (),
    history: str = "term_ids",
    max_tokens: int | None = None,
) -> list[np.ndarray]:
    """Prompts of next-item prediction: the tokens of `next_item_turns`, put together from the items' paths.

    Args:
        paths: token path of each catalog position that occurs (`identifier_tokens`).
        positions: catalog positions of each history, oldest first.
        term_ids: Term ID of each catalog position.
        items: item of each catalog position; not needed for histories of Term IDs.
        history: what a history shows, one of `HISTORIES`.
        max_tokens: of a prompt; its oldest items are left out, whole, until it has no more, or one item is left.

    Returns:
        One int64 array of token ids a history.

    Raises:
        ValueError: an empty history.
    """
    check_history(history)
    shown = [list(p) for p in positions]
    distinct = list(dict.fromkeys(chain.from_iterable(shown)))
    blocks = {q: paths[q] for q in distinct} if history != "titles" else {}
    if history == "both":
        titles = line_tokens(tokenizer, without_specials(tokenizer, [title_line(items[q]) for q in distinct]))
        blocks = {q: [*blocks[q], *title] for q, title in zip(distinct, titles, strict=True)}
    written = functools.cache(lambda q: item_line(term_ids[q]) if history == "term_ids" else history_item(term_ids[q], items[q], history))
    prompts = [np.zeros(0, np.int64)] * len(shown)
    todo = list(range(len(shown)))
    while todo:
        above = [len(shown[i]) if history == "titles" else 1 for i in todo]  # items in the user turn
        requests = [next_item_turns([written(q) for q in shown[i][:n]], history)[0] for i, n in zip(todo, above, strict=True)]
        tokens = dict(zip(dict.fromkeys(requests), request_tokens(tokenizer, list(dict.fromkeys(requests))), strict=True))
        for i, n, request in zip(todo, above, requests, strict=True):
            rest = shown[i][n:]
            prompts[i] = np.fromiter(chain(tokens[request], *(blocks[q] for q in rest)), dtype=np.int64)
        todo = [i for i in todo if max_tokens is not None and len(prompts[i]) > max_tokens and len(shown[i]) > 1]
        for i in todo:
            shown[i].pop(0)
    return prompts


def _name(tokenizer: Any) -> str:
    return f"Tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"
