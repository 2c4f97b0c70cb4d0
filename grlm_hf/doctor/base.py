"""Checks of a base model, before it is trained: whether its tokenizer and template can write identifiers, and its weights can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grlm_hf.data.items import Item
from grlm_hf.doctor.cards import unsafe_files
from grlm_hf.doctor.findings import Finding, run_checks
from grlm_hf.doctor.parts import Parts, read_configs, read_tokenizer
from grlm_hf.doctor.template import chat_template
from grlm_hf.doctor.weights import weights
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import CONFIG_FILE
from grlm_hf.tasks.encoding import request_tokens
from grlm_hf.tasks.prompts import internalise_request
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.preflight import set_template

_TRIED = (("tea", "green-kettle", "steel"), ("洗发水", "für", "e.l.f"))
_SPACED = "\n[mark, of]\n[the, doctor]\n"
_TEMPLATE = "Name another template: train.chat_template=plain, or a file."
_OTHER = "Take the tokenizer of another model, and train with it: train.model."


def examine_base(folder: Path, published: bool = False, names: list[str] | None = None) -> tuple[Parts, list[Finding]]:
    """The parts of a base model with their facts, and all findings. Its pickled weights are named, since they are never read."""
    everything = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    parts = Parts(folder, published, everything)
    found = run_checks([read_configs, read_tokenizer], parts, where=str(folder))
    found = [f for f in found if not (f.check == "missing-file" and CONFIG_FILE in f.found)]
    return parts, [*found, *run_checks([_tokenizer, _template, _identifiers, _model], parts, where=str(folder))]


def _tokenizer(parts: Parts) -> Iterator[Finding]:
    if (t := parts.tokenizer) is None:
        return
    parts.facts["tokenizer"] = f"{type(t).__name__}, {len(t):,} tokens"
    if t.eos_token_id is None:
        yield Finding("error", "eos-missing", "The tokenizer has no EOS token.", "An identifier ends in EOS.",
                      "tokenizer.eos_token = ...; tokenizer.save_pretrained(FOLDER).")  # fmt: skip
    if t.pad_token_id is None:
        yield Finding("info", "pad-missing", "The tokenizer has no pad token.", "It pads the prompts of a batch.",
                      "Nothing: a training takes the EOS token. Better is a token of its own.")  # fmt: skip


def _template(parts: Parts) -> Iterator[Finding]:
    if (t := parts.tokenizer) is None:
        return
    if not getattr(t, "chat_template", None):
        yield Finding("info", "chat-template", "The tokenizer has no chat template.", "It marks the user and assistant turns of a prompt.",
                      "Nothing: it is trained with train.chat_template=plain. Or name a file: train.chat_template=FILE.")  # fmt: skip
        return
    for finding in chat_template(t):
        yield replace(finding, fix=_TEMPLATE)
    turns = [{"role": "user", "content": _SPACED}, {"role": "assistant", "content": _SPACED}]
    try:
        written = t.apply_chat_template(turns, tokenize=False, enable_thinking=False)
    except Exception:  # found above
        return
    if written.count(_SPACED) < 2:
        lost = "at the ends of turns" if written.count(_SPACED.strip()) == 2 else "within turns"
        yield Finding("warning" if lost == "within turns" else "info", "chat-template", f"The chat template changes white space {lost}.",
                      "Each identifier is a line. grlm-hf puts prompts together itself and keeps the lines; other programs that write the "
                      "conversation with this template lose them.", f"Nothing for grlm-hf. For other programs: {_TEMPLATE}")  # fmt: skip


def _identifiers(parts: Parts) -> Iterator[Finding]:
    if (t := parts.tokenizer) is None:
        return
    try:
        set_template(t, "")
        paths = identifier_tokens(t, TERMS, _TRIED)
        request_tokens(t, [internalise_request(Item("a", "Green tea kettle"))])
    except ValueError as error:
        yield Finding(
            "error", "tokenizer-merges", str(error), "Identifiers would have other tokens in training than in the search.", _OTHER
        )
        return
    parts.facts["identifiers"] = f"[{', '.join(_TRIED[0])}] has {len(paths[0])} tokens"


def _model(parts: Parts) -> Iterator[Finding]:
    yield from unsafe_files(parts.names, {})
    if parts.config is None:
        return
    parts.facts["model"] = str(parts.config.get("model_type", "?"))
    if parts.config.get("is_encoder_decoder"):
        yield Finding("error", "encoder-decoder", "It is an encoder-decoder model.", "The searches run on causal language models.",
                      "Choose a decoder-only model: train.model.")  # fmt: skip
    largest = max(parts.tokenizer.get_vocab().values()) + 1 if parts.tokenizer is not None else None
    yield from weights(parts.folder, parts.config, largest, parts.facts)
