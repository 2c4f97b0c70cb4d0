"""The one tokenisation of identifiers: training labels, trie paths and prompts all come from these functions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from grlm_hf.identifiers.scheme import Identifier, Scheme


def control_tokens(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer turns into control tokens, longest first: named special tokens, all added tokens that are special, and
    those that its chat template writes."""
    template = getattr(tokenizer, "chat_template", None) or ""
    template = " ".join(template.values()) if isinstance(template, dict) else template
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {t.content for t in added if t.special or (len(t.content.strip()) > 1 and t.content in template)}
    return sorted((t for t in {*tokenizer.all_special_tokens, *marks} if t.strip()), key=lambda t: (-len(t), t))


def without_specials(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """The texts without control tokens of the tokenizer: a title must not be able to end the turn."""
    texts = list(texts)
    marks = control_tokens(tokenizer)
    if not (texts and marks):
        return texts
    found = re.compile("|".join(map(re.escape, marks)))
    texts = [found.sub(" ", text) for text in texts]
    if not _normalises_marks(tokenizer):
        return texts
    known = set(tokenizer.convert_tokens_to_ids(marks)) - {None, tokenizer.unk_token_id}
    return [_without_ids(tokenizer, text, known) for text in texts]


def _normalises_marks(tokenizer: Any) -> bool:
    """Whether another text than a control token's own can become it, such as one of wide letters under NFKC."""
    normaliser = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normaliser is not None and any(t.normalized for t in tokenizer.added_tokens_decoder.values())


def _without_ids(tokenizer: Any, text: str, known: set[int]) -> str:
    for _ in range(8):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [span for i, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if i in known]
        if not spans:
            return text
        for begin, end in reversed(spans):
            text = f"{text[:begin]} {text[max(end, begin + 1) :]}"
    return ""  # a text that is nothing but control tokens


def identifier_tokens(tokenizer: Any, scheme: Scheme, identifiers: Sequence[Identifier]) -> list[list[int]]:
    """Token ids of the line of each identifier (`Scheme.line`), as in an assistant turn: after a newline and before another line.

    The whole line is encoded in its context: ``[hair`` is not ``[`` + ``hair`` in a byte-level BPE. These ids are the training
    labels and the paths of the trie.

    Raises:
        ValueError: the tokenizer merges across the border between two items, so that an item has no token path of its own.
    """
    return line_tokens(tokenizer, [scheme.line(identifier) for identifier in identifiers])


def line_tokens(tokenizer: Any, lines: Sequence[str]) -> list[list[int]]:
    """Token ids of lines of text that end in a newline, as encoded behind one. Raises ``ValueError`` as `identifier_tokens` does."""
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
                f"{tokenizer_name(tokenizer)} {border_fault(tokenizer) or f'merges tokens across the border of {line.strip()!r}'}, so the "
                "label tokens of an item depend on its neighbours. Use a tokenizer that splits text at newlines and adds nothing (every "
                "byte-level BPE of the Qwen, Llama 3 or GPT family does)."
            )
        paths.append(path)
    return paths


def border_fault(tokenizer: Any) -> str:
    """Why the tokens of a line depend on what is before it, as a predicate; "" if nothing is known against the tokenizer."""
    with_newline, with_space = tokenizer(["a\nb", "a b"], add_special_tokens=False)["input_ids"]
    if with_newline == with_space:
        return "loses newlines"
    first = tokenizer.convert_ids_to_tokens(tokenizer("b", add_special_tokens=False)["input_ids"])
    if first and str(first[0]).startswith("\u2581"):
        return "puts a space before the first word (a dummy prefix, as in Llama 2 and Mistral v0.1)"
    return ""


def part_of_tokens(tokenizer: Any, scheme: Scheme, identifier: Identifier) -> np.ndarray:
    """Which part of an identifier each token of its path belongs to, int64 [tokens].

    A token belongs to the last part that it spells a character of. A token of marks alone belongs to the part before it; the opening mark
    belongs to the first part.
    """
    line = scheme.line(identifier)
    part_at = np.full(len(line), -1)
    for number, (begin, end) in enumerate(scheme.spans(identifier)):
        part_at[begin:end] = number
    # Encoded in its context, as `identifier_tokens` does; the newline before it is not in the path.
    encoded = tokenizer("\n" + line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    before = len(tokenizer("\n", add_special_tokens=False)["input_ids"])
    last = np.maximum.accumulate(part_at).clip(0)
    return np.array([last[max(end - 2, 0)] for _, end in encoded[before:]], np.int64)


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


def tokenizer_name(tokenizer: Any) -> str:
    return f"Tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"
