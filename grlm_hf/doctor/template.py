"""Checks of a chat template, which writes the text around every prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grlm_hf.doctor.findings import Finding

_MARK = "mark of the doctor"


def chat_template(tokenizer: Any) -> Iterator[Finding]:
    """A template that is missing, broken, loses the text, writes today's date, or does not end the answer in EOS."""
    template = getattr(tokenizer, "chat_template", None)

    def bad(level: str, found: str, why: str) -> Finding:
        fix = "Use the tokenizer of an instruction-tuned model, or restore the chat_template.jinja of the training."
        return Finding(level, "chat-template", found, why, fix)

    if not template:
        yield bad("error", "The tokenizer has no chat template.", "It marks the user and assistant turns of a prompt.")
        return
    turns = [{"role": "user", "content": _MARK}]
    try:
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": "[a, b]\n"}], tokenize=False, add_generation_prompt=False, enable_thinking=False
        )
    except Exception as error:  # a template may raise anything
        yield bad("error", f"The chat template cannot be rendered: {' '.join(str(error).split())[:200]}", "No prompt can be written.")
        return
    if prompt.count(_MARK) != 1:
        yield bad("error", f"The chat template writes the user's text {prompt.count(_MARK)} times.", "A prompt contains its history once.")
        return
    if "strftime_now" in str(template):
        yield bad("warning", "The chat template writes today's date.", "Prompts differ more from those of the training every day.")
    if not (whole.startswith(prompt) or "[a, b]" in whole):
        yield bad("error", "The chat template drops the assistant's turn.", "Training examples would lack the answer.")
    elif tokenizer.eos_token and tokenizer.eos_token not in whole.partition("[a, b]")[2]:
        yield bad("warning", f"The chat template does not end the assistant's turn in the EOS token {tokenizer.eos_token!r}.",
                  "grlm-hf does not know this template: other tools that train or chat with it will not stop where the trie "
                  "does.")  # fmt: skip
