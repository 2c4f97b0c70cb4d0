"""Prompts as token ids, under the chat template of a tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.tasks.prompts import check_history, history_item, internalise_request, next_item_turns, title_line
from grlm_hf.tokens import line_tokens, tokenizer_name, without_specials


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
            raise ValueError(f"{tokenizer_name(tokenizer)} has a chat template that refuses turns of {roles}: {error}") from error
        tokens[i] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def _chat_template(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{tokenizer_name(tokenizer)} has no chat template; expected an instruction-tuned model's tokenizer.")
    return tokenizer.chat_template


@lru_cache(maxsize=8)
def _turn_frame(tokenizer: Any, _template: str) -> tuple[str, str]:
    # Jinja is rendered once instead of once a user, with a mark in place of the content.
    mark = "\u241f"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    if text.count(mark) != 1:
        raise ValueError(
            f"{tokenizer_name(tokenizer)} has a chat template that writes the user's turn {text.count(mark)} times; expected once. Choose "
            "another template: train.chat_template."
        )
    head, _, tail = text.partition(mark)
    return head, tail


def item_tokens(tokenizer: Any, items: Sequence[Item], max_tokens: int | None = None) -> list[list[int]]:
    """Prompts from items' texts, up to where the identifier begins (`internalise_request`); the end of a text that is longer than
    `max_tokens` is left out."""
    tokens = request_tokens(tokenizer, [internalise_request(item) for item in items])
    if max_tokens is None or max(map(len, tokens), default=0) <= max_tokens:
        return tokens
    _, tail = _turn_frame(tokenizer, _chat_template(tokenizer))
    end = len(tokenizer(tail, add_special_tokens=False)["input_ids"])
    return [ids if len(ids) <= max_tokens else [*ids[: max_tokens - end], *ids[-end:]] for ids in tokens]


def history_tokens(
    tokenizer: Any,
    paths: Mapping[int, Any] | Sequence[Any],
    positions: Sequence[Sequence[int]],
    catalog: Catalog,
    *,
    history: str = "term_ids",
    max_tokens: int | None = None,
    evidence: Sequence[Sequence[str]] = (),
) -> list[np.ndarray]:
    """Prompts of next-item prediction: the tokens of `next_item_turns`, put together from the items' paths.

    Args:
        paths: token path of each catalog position that occurs (`identifier_tokens`).
        positions: catalog positions of each history, oldest first.
        catalog: the items and their identifiers.
        history: what a history shows, one of `HISTORIES`.
        max_tokens: of a prompt; its oldest items are left out, whole, until it has no more, or one item is left; then the last lines of its
            evidence.
        evidence: lines above each history, the strongest first; by default none.

    Returns:
        One int64 array of token ids a history.

    Raises:
        ValueError: an empty history.
    """
    check_history(history)
    shown = [list(p) for p in positions]
    lines = [list(e) for e in evidence] or [[] for _ in shown]
    distinct = list(dict.fromkeys(chain.from_iterable(shown)))
    blocks = {q: paths[q] for q in distinct} if history != "titles" else {}
    if history == "both":
        titles = line_tokens(tokenizer, without_specials(tokenizer, [title_line(catalog.items[q]) for q in distinct]))
        blocks = {q: [*blocks[q], *title] for q, title in zip(distinct, titles, strict=True)}
    written = functools.cache(lambda q: history_item(catalog.scheme.line(catalog.item_identifiers[q]), catalog.items[q], history))
    prompts = [np.zeros(0, np.int64)] * len(shown)
    todo = list(range(len(shown)))
    while todo:
        above = [len(shown[i]) if history == "titles" else 1 for i in todo]  # items in the user turn
        requests = [next_item_turns([*map(written, shown[i][:n])], history, lines[i])[0] for i, n in zip(todo, above, strict=True)]
        tokens = dict(zip(dict.fromkeys(requests), request_tokens(tokenizer, list(dict.fromkeys(requests))), strict=True))
        for i, n, request in zip(todo, above, requests, strict=True):
            rest = shown[i][n:]
            prompts[i] = np.fromiter(chain(tokens[request], *(blocks[q] for q in rest)), dtype=np.int64)
        todo = [i for i in todo if max_tokens is not None and len(prompts[i]) > max_tokens and (len(shown[i]) > 1 or lines[i])]
        for i in todo:
            shown[i].pop(0) if len(shown[i]) > 1 else lines[i].pop()
    return prompts
