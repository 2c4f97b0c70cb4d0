"""All prompt text, and how it becomes tokens. Training, evaluation and serving call these functions and no others.

An item is written on a line of its own, ``[shampoo, color, care, treated, preserve]`` and a newline. A history opens in the user
turn with its oldest item and goes on in the assistant turn, one line an item; what the model writes next is the next item. So one
training example supervises every position, and a prompt at inference is a training example cut short.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from grlm_hf.catalog import Item
from grlm_hf.identifiers.terms import TermID, render

PROMPT_VERSION = "1"

_NEXT_ITEM = "Next items after:\n{first}"
_INTERNALISE = "Term ID of:\n{text}"
_MAX_DESCRIPTION = 150  # characters, as in the paper


def item_line(term_id: TermID) -> str:
    """The item as it stands in an assistant turn: its written Term ID and a newline."""
    return render(term_id) + "\n"


def next_item_request(history: Sequence[TermID]) -> str:
    """The user turn of sequence prediction, which shows the oldest item of the history. Raises ``ValueError`` for an empty one."""
    if not history:
        raise ValueError("The history is empty; expected at least one item. For a user without history recommend popular items.")
    return _NEXT_ITEM.format(first=render(history[0]))


def internalise_request(item: Item) -> str:
    """The user turn of term internalisation: title, brand, last category and the start of the description."""
    lines = [f"Title: {item.title}"]
    if item.brand:
        lines.append(f"Brand: {item.brand}")
    if item.categories:
        lines.append(f"Category: {item.categories[-1]}")
    if item.description:
        lines.append(f"Description: {item.description[:_MAX_DESCRIPTION]}")
    return _INTERNALISE.format(text="\n".join(lines))


def prompt_hash() -> str:
    """Identifies the prompt text of this version; a checkpoint records the one that it was trained with."""
    probe = Item("id", "T", "B", ("C",), "D")
    text = [PROMPT_VERSION, next_item_request([("a", "b")]), internalise_request(probe), item_line(("a", "b"))]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


# --- tokens ------------------------------------------------------------------------------------------------------------------------


def request_tokens(tokenizer: Any, requests: Sequence[str]) -> list[list[int]]:
    """Token ids of each user turn under the tokenizer's chat template, up to where the assistant begins to write (thinking off).

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{_name(tokenizer)} has no chat template; expected an instruction-tuned model's tokenizer.")
    head, tail = _turn_frame(tokenizer, tokenizer.chat_template)
    for special in tokenizer.all_special_tokens:  # a title must not be able to end the turn
        requests = [request.replace(special, " ") for request in requests]
    return tokenizer([head + request + tail for request in requests], add_special_tokens=False)["input_ids"] if requests else []


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
    """Token ids of each `item_line`, as they stand in an assistant turn after a newline and before another item.

    The whole line is encoded in its context: ``[hair`` is not ``[`` + ``hair`` in a byte-level BPE. These ids are the training
    labels and the paths of the trie.

    Raises:
        ValueError: the tokenizer merges across the border between two items, so that an item has no token path of its own.
    """
    if not term_ids:
        return []
    lines = [item_line(tid) for tid in term_ids]
    before = tokenizer("\n", add_special_tokens=False)["input_ids"]
    encoded = tokenizer(["\n" + line for line in lines], add_special_tokens=False)["input_ids"]
    doubled = tokenizer([line + line for line in lines], add_special_tokens=False)["input_ids"]
    paths = []
    for tid, ids, twice in zip(term_ids, encoded, doubled, strict=True):
        path = ids[len(before) :]
        if ids[: len(before)] != before or twice != path + path:
            raise ValueError(
                f"{_name(tokenizer)} merges tokens across the border of {render(tid)!r}, so its label tokens depend on what stands beside "
                "it. Use a tokenizer that splits text at newlines (every byte-level BPE of the Qwen, Llama 3 or GPT family does)."
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
) -> list[np.ndarray]:
    """Prompts of sequence prediction: for each history the request on its first item, then the paths of the others.

    Args:
        paths: token path of each catalog position that occurs (`identifier_tokens`).
        positions: catalog positions of each history, oldest first.
        term_ids: Term ID of each catalog position.

    Returns:
        One int64 array of token ids a history.
    """
    distinct = sorted({p[0] if p else -1 for p in map(list, positions)})
    if distinct and distinct[0] == -1:
        next_item_request([])
    requests = dict(zip(distinct, request_tokens(tokenizer, [next_item_request([term_ids[p]]) for p in distinct]), strict=True))
    return [np.fromiter(_chain(requests[p[0]], (paths[q] for q in p[1:])), dtype=np.int64) for p in map(list, positions)]


def _chain(first: Iterable[int], rest: Iterable[Iterable[int]]) -> Iterable[int]:
    yield from first
    for part in rest:
        yield from part


def _name(tokenizer: Any) -> str:
    return f"Tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"
