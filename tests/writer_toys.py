"""What every back end that writes terms must do, and a tiny chat model to ask. Shared by the tests here and by those of vLLM."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from grlm_hf import Item
from grlm_hf.identifiers.terms import parse, validate
from grlm_hf.indexing.generate import answer_pattern, longest_answer, request
from grlm_hf.llms.writers import Writer
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer

NAMES = ("green tent", "red tent", "steel mug", "gas stove", "head lamp", "desk lamp", "rain coat", "wool sock", "tea pot", "rope")
ITEMS = [
    Item(f"i{20 - n}", f"{name.title()} {n}", "Alp", ("Outdoor", name.split()[-1]), f"A {name} for people who walk, number {n}.")
    for n, name in enumerate(NAMES)
]


def save_toy_llm(folder: Path, seed: int = 0) -> str:
    """A random Qwen3 with a chat template and room for long messages."""
    tokenizer = train_tokenizer([request(item, ITEMS[:3]) for item in ITEMS], 700)
    shape = ScratchConfig(hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, head_dim=32, max_positions=2048)
    make_model(shape, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def python_pattern(n_terms: int) -> re.Pattern[str]:
    """The form of an answer, written a second time, in Python's syntax."""
    term = r"[^\W_](?:[\w .'\-]{0,30}\w)?"
    return re.compile(rf"\[{term}(?:, {term}){{{n_terms - 1}}}\]")


def check_writer(writer: Writer) -> None:
    """Answers are in form for every number of terms, in the order of the messages, and the same again."""
    messages = [request(item, ITEMS[:2]) for item in ITEMS[:4]]
    for n_terms in (3, 5, 8):
        found = writer.write(messages, answer_pattern(n_terms), longest_answer(n_terms))
        for answer in found:
            assert python_pattern(n_terms).fullmatch(answer), answer
            assert len(validate(parse(answer) or ())) == n_terms
    assert writer.write(messages, answer_pattern(8), longest_answer(8)) == found
    assert writer.write([messages[2]], answer_pattern(8), longest_answer(8)) == found[2:3]
    assert writer.write([], answer_pattern(8), longest_answer(8)) == []
    with pytest.raises(ValueError, match=r"has \d+ tokens; the model\'s limit leaves"):
        writer.write(["word " * 3000], answer_pattern(5), longest_answer(5))


class Scripted:
    """A writer that answers what it is told to; it counts what it was asked."""

    def __init__(self, answers: Sequence[str], identity: str = "scripted"):
        self.answers, self.identity, self.asked = list(answers), identity, []  # type: ignore[var-annotated]

    def write(self, messages: Sequence[str], pattern: str, max_new_tokens: int) -> list[str]:
        self.asked += messages
        given, self.answers = self.answers[: len(messages)], self.answers[len(messages) :]
        return given
