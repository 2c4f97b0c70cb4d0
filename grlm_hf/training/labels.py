"""From the mixture to tokens and labels, each label checked against its identifier."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.tasks.encoding import prompt_tokens
from grlm_hf.tasks.examples import FREE_TEXT, HISTORY_TASKS, LAST_ONLY
from grlm_hf.tasks.prompts import title_line
from grlm_hf.tokens import identifier_tokens, line_tokens, without_specials

if TYPE_CHECKING:
    from datasets import Dataset


def tokenize_mixture(
    mixture: Dataset,
    tokenizer: Any,
    catalog: Catalog,
    max_length: int | None = None,
    last_only: bool = False,
    objective: str = "vocabulary",
    identifiers: bool = False,
) -> Dataset:
    """The mixture as `key`, `input_ids` and `completion_mask`: 1 on what is learnt, the Term IDs of a completion and the EOS behind it.

    Titles of a history are read and not learnt; so are the Term IDs before the last one in the tasks of
    `grlm_hf.tasks.examples.LAST_ONLY`, and in all with `last_only`: for validation, whose earlier items are training targets. Of the
    tasks in `FREE_TEXT` every token of the answer is learnt; under the objective "trie" they are left out, with a warning that counts
    them, since free text has no trie. With `identifiers`, a further column of that name numbers the items of a history and its answers
    (places in ``catalog.identifiers``), for a teacher; it is empty for other tasks.

    Every label is checked: the tokens of a completion are exactly the trie paths of its items and its title lines, then EOS.

    Raises:
        ValueError: a completion that is not made of the catalog's identifiers and titles, an example or an answer longer than
            `max_length`, or nothing left.
    """
    from datasets import Dataset

    if objective == "trie":
        mixture = _without_free_text(mixture)
    prompts = prompt_tokens(tokenizer, mixture["prompt"])
    texts = [row[-1]["content"] for row in mixture["completion"]]
    free = [task in FREE_TEXT for task in mixture["task"]]
    scheme, identifiers_ = catalog.scheme, catalog.identifiers
    learnt = dict(zip(map(scheme.line, identifiers_), identifier_tokens(tokenizer, scheme, identifiers_), strict=True))
    lines = [[text] if is_free else text.splitlines(keepends=True) for text, is_free in zip(texts, free, strict=True)]
    read = _title_paths(tokenizer, catalog, {line for some, is_free in zip(lines, free, strict=True) if not is_free for line in some})
    completions = tokenizer(without_specials(tokenizer, texts), add_special_tokens=False)["input_ids"]
    rows: dict[str, list[Any]] = {"key": mixture["key"][:], "input_ids": [], "completion_mask": []}
    if identifiers:
        rows["identifiers"] = []
    number = {line: n for n, line in enumerate(learnt)} if identifiers else {}
    for i, (key, task, prompt, completion) in enumerate(zip(mixture["key"], mixture["task"], prompts, completions, strict=True)):
        mask = [1] * len(completion)
        if not free[i]:
            for n, line in enumerate(lines[i] or [""]):
                if line not in learnt and (line not in read or n == len(lines[i]) - 1):
                    raise ValueError(f"Example {key!r} has a completion with {line!r}, which is no identifier of the catalog.")
            if [token for line in lines[i] for token in learnt.get(line) or read[line]] != completion:
                raise ValueError(f"Example {key!r}: the tokens of its completion are not its items' trie paths: {texts[i]!r}.")
            mask = [int(line in learnt) for line in lines[i] for _ in learnt.get(line) or read[line]]
            if last_only or task in LAST_ONLY:
                asked = len(learnt[lines[i][-1]])
                mask = [0] * (len(mask) - asked) + [1] * asked
        ids = [*prompt, *completion, tokenizer.eos_token_id]
        if max_length is not None and len(completion) + 1 >= max_length:
            raise ValueError(
                f"Example {key!r} has an answer of {len(completion) + 1} tokens, its prompt left out; the model takes {max_length} in all. "
                "Lower max_history, or use a model that takes longer texts."
            )
        if max_length is not None and len(ids) > max_length:
            raise ValueError(f"Example {key!r} has {len(ids)} tokens, the model takes {max_length}; lower max_history, or set max_tokens.")
        rows["input_ids"].append(ids)
        rows["completion_mask"].append([0] * len(prompt) + mask + [1])
        if identifiers:
            asked_after = mixture[i]["prompt"][-1]["content"].splitlines()
            shown = [number[f"{line}\n"] for line in asked_after if f"{line}\n" in number] if task in HISTORY_TASKS else []
            rows["identifiers"].append([*shown, *(number[line] for line in lines[i] if line in number)] if shown else [])
    return Dataset.from_dict(rows)


def _without_free_text(mixture: Dataset) -> Dataset:
    count = Counter(task for task in mixture["task"] if task in FREE_TEXT)
    if not count:
        return mixture
    if count.total() == len(mixture):
        raise ValueError(f"All examples are of {sorted(count)}, whose answers are free text: train.objective=trie learns Term IDs only.")
    warnings.warn(
        f"Left out {dict(sorted(count.items()))}: answers in free text, of which train.objective=trie learns nothing.", stacklevel=3
    )
    return mixture.select([i for i, task in enumerate(mixture["task"]) if task not in FREE_TEXT])


def _title_paths(tokenizer: Any, catalog: Catalog, lines: set[str]) -> dict[str, list[int]]:
    """Token ids of those of the lines that are titles of the catalog."""
    lines = {line for line in lines if not line.startswith("[")}
    titles = sorted(lines & set(map(title_line, catalog))) if lines else []
    return dict(zip(titles, line_tokens(tokenizer, without_specials(tokenizer, titles)), strict=True))
