"""Checks of a checkpoint: its files, its tokenizer, and whether catalog, trie, prompts and model belong together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grlm_hf.doctor.cards import card, unsafe_files
from grlm_hf.doctor.findings import Finding, run_checks
from grlm_hf.doctor.generation import generation
from grlm_hf.doctor.parts import SAVE_AGAIN, Parts, read_catalog, read_configs, read_prior, read_tokenizer, read_trie
from grlm_hf.doctor.template import chat_template
from grlm_hf.doctor.weights import weights
from grlm_hf.identifiers import SCHEMES
from grlm_hf.layout import CONFIG_FILE, CUSTOM_GENERATE, HISTORIES, OBJECTIVES, TRIE_FILE
from grlm_hf.tasks.encoding import history_tokens, request_tokens
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import identifier_tokens, tokenizer_hash

ALL_ENCODED = 20_000
"""Up to this many identifiers all are tokenised again; of more, a sample of this size."""
_HISTORIES = 50  # random ones, to estimate the length of prompts


def examine_checkpoint(folder: Path, published: bool = False, names: list[str] | None = None) -> tuple[Parts, list[Finding]]:
    """The parts of a checkpoint with their facts, and all findings. `names`: of all files, if `folder` has only some of them."""
    everything = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    parts = Parts(folder, published, everything)
    found = run_checks([read_configs, read_tokenizer, read_catalog, read_trie, read_prior], parts, where=str(folder))
    checks: list[Callable[[Parts], Iterator[Finding]]] = [
        _stated, _prompts, _tokenizer, _symbols, _codebook, _trie_and_catalog, _trie_and_tokenizer, _lengths,
        _weights, _generation, _chat_template, _files,
    ]  # fmt: skip
    if parts.grlm is not None and not parts.grlm.language_model:
        checks = [_stated, _prompts, _tokenizer, _symbols, _codebook, _trie_and_catalog, _trie_and_tokenizer, _files]
    return parts, [*found, *run_checks(checks, parts, where=str(folder))]


def _stated(parts: Parts) -> Iterator[Finding]:
    if parts.grlm is None:
        return
    where = str(parts.folder / CONFIG_FILE)
    parts.facts |= {"objective": parts.grlm.objective, "history": f"{parts.grlm.history}, {parts.grlm.max_history} items"}
    for name, allowed in (("objective", OBJECTIVES), ("history", HISTORIES), ("scheme", SCHEMES)):
        if (value := getattr(parts.grlm, name)) not in allowed:
            yield Finding("error", "config", f"{name} is {value!r}; expected one of {tuple(allowed)}.", "The checkpoint does not load.",
                          "Restore the file that the training wrote.", where)  # fmt: skip


def _prompts(parts: Parts) -> Iterator[Finding]:
    if parts.grlm is None or parts.grlm.history not in HISTORIES or parts.grlm.scheme not in SCHEMES:
        return
    if parts.grlm.prompt_hash != (written := prompt_hash(parts.grlm.history, SCHEMES[parts.grlm.scheme], parts.grlm.evidence)):
        yield Finding(
            "error", "prompt-drift", f"It was trained with prompts of hash {parts.grlm.prompt_hash!r}; this grlm-hf writes {written}.",
            "With other prompts than in training a model answers worse, without any error.",
            "Install the grlm-hf version that trained it, or train again: grlm dataset, then grlm train.", str(parts.folder / CONFIG_FILE),
        )  # fmt: skip


def _tokenizer(parts: Parts) -> Iterator[Finding]:
    if (t := parts.tokenizer) is None:
        return
    if parts.grlm is not None and parts.grlm.tokenizer_hash != (found := tokenizer_hash(t)):
        yield Finding("error", "tokenizer-changed",
                      f"The tokenizer has hash {found}; the model was trained with {parts.grlm.tokenizer_hash!r}.",
                      "Texts become other tokens than in training.", "Restore the tokenizer files of the training.")  # fmt: skip
    for name in ("eos", "pad"):
        if getattr(t, f"{name}_token_id") is None:
            yield Finding("error", f"{name}-missing", f"The tokenizer has no {name.upper()} token.",
                          "An identifier ends in EOS." if name == "eos" else "It pads the prompts of a batch.",
                          f"tokenizer.{name}_token = ...; tokenizer.save_pretrained(FOLDER). It must be the same as in "
                          "training.")  # fmt: skip
    if t.eos_token_id is not None and t.eos_token_id == t.pad_token_id:
        yield Finding("warning", "pad-is-eos", f"EOS and pad are one token, {t.eos_token!r}.",
                      "Trainers that leave out padding by its id never teach the model to stop, and generate() cannot separate padding "
                      "from an end.",
                      "Choose another pad token of the vocabulary before training: tokenizer.pad_token = '<|endoftext|>'.")  # fmt: skip
    if t.padding_side != "left":
        yield Finding("warning", "padding-side", f"The tokenizer pads on the {t.padding_side}.",
                      "With several prompts generate() continues after the padding of the shorter ones, and writes nonsense.",
                      "tokenizer.padding_side = 'left'; tokenizer.save_pretrained(FOLDER).")  # fmt: skip


def _symbols(parts: Parts) -> Iterator[Finding]:
    """Each symbol of the identifiers is one ordinary token."""
    if (t := parts.tokenizer) is None or parts.catalog is None:
        return
    symbols, vocabulary = parts.catalog.added_tokens(), t.get_vocab()
    written = t(symbols, add_special_tokens=False)["input_ids"] if symbols else []
    split = [symbol for symbol, ids in zip(symbols, written, strict=True) if ids != [vocabulary.get(symbol)]]
    special = {token.content for token in t.added_tokens_decoder.values() if token.special}
    hidden = [symbol for symbol in symbols if symbol in special]
    noun, again = parts.catalog.scheme.noun, "Train again, from a model without these tokens: the training adds them."
    if split:
        yield Finding("error", "symbols", f"{len(split)} of {len(symbols)} symbols of the {noun}s are not one token, such as {split[0]}.",
                      "The model was trained without them, or the tokenizer is another one: it cannot write them.", again)  # fmt: skip
    if hidden:
        yield Finding("error", "symbols", f"{len(hidden)} symbols of the {noun}s are special tokens, such as {hidden[0]}.",
                      "Special tokens are deleted from texts and left out of decoded ones, so no answer can be read.", again)  # fmt: skip


def _codebook(parts: Parts) -> Iterator[Finding]:
    if parts.catalog is None or parts.grlm is None or parts.grlm.scheme not in SCHEMES:
        return
    if parts.grlm.scheme != parts.catalog.scheme.name:
        yield Finding("error", "codebook", f"It was trained with identifiers of the kind {parts.grlm.scheme!r}; its catalog has "
                      f"{parts.catalog.scheme.name!r}.", "The model writes other identifiers than the items have.",
                      "Restore the catalog of the training.", str(parts.folder / CONFIG_FILE))  # fmt: skip
    elif parts.grlm.codebook != parts.catalog.codebook_hash:
        yield Finding("error", "codebook", f"It was trained with codes of the codebook {parts.grlm.codebook or 'none'!r}; the catalog "
                      f"beside it has {parts.catalog.codebook_hash or 'none'!r}.",
                      "Equal codes then mean other items, without any error.", "Restore the catalog and codebook of the training.",
                      str(parts.folder / CONFIG_FILE))  # fmt: skip


def _trie_and_catalog(parts: Parts) -> Iterator[Finding]:
    if parts.trie is not None and parts.catalog is not None and parts.trie.of != parts.catalog.identifiers_hash:
        yield Finding("warning", "trie-catalog", f"{TRIE_FILE} is of other identifiers ({len(parts.trie):,}) than the catalog "
                      f"({len(parts.catalog.identifiers):,}).",
                      "recommend builds it again at each load; a tool that reads the file alone recommends removed items.", SAVE_AGAIN,
                      str(parts.folder / TRIE_FILE))  # fmt: skip


def _trie_and_tokenizer(parts: Parts) -> Iterator[Finding]:
    if parts.tokenizer is None or parts.catalog is None:
        return
    identifiers, trie = parts.catalog.identifiers, parts.trie
    chosen = sorted(random.Random(0).sample(range(len(identifiers)), min(len(identifiers), ALL_ENCODED)))
    try:
        paths = identifier_tokens(parts.tokenizer, parts.catalog.scheme, [identifiers[i] for i in chosen])
    except ValueError as error:
        yield Finding("error", "tokenizer-merges", str(error), "An item's tokens would depend on the text around it.",
                      "Train with another model's tokenizer.")  # fmt: skip
        return
    if trie is None or trie.of != parts.catalog.identifiers_hash:  # then it is not used
        return
    saved, current = trie.paths(), tokenizer_hash(parts.tokenizer)
    differ = [n for n, i in enumerate(chosen) if i >= len(saved) or saved[i].tolist() != list(paths[n])]
    if differ or trie.tokenizer_hash != current:
        more = f"; {len(differ):,} of {len(chosen):,} identifiers have other tokens" if differ else ""
        yield Finding("error", "trie-tokenizer",
                      f"{TRIE_FILE} was made with the tokenizer {trie.tokenizer_hash!r}, the checkpoint has {current}{more}.",
                      "The search would follow tokens of no identifier.",
                      f"Remove {TRIE_FILE} (it is built again), or write it again with save_pretrained.",
                      str(parts.folder / TRIE_FILE))  # fmt: skip


def _lengths(parts: Parts) -> Iterator[Finding]:
    if parts.tokenizer is None or parts.catalog is None or parts.grlm is None:
        return
    if parts.grlm.history not in HISTORIES:
        return
    try:
        request_tokens(parts.tokenizer, ["a"])
    except Exception:  # the chat template has its own check
        return
    c, rng, history = parts.catalog, random.Random(0), parts.grlm.history
    lines = parts.grlm.evidence
    drawn = rng.sample(range(len(c)), min(len(c), 1000))
    paths = dict(zip(drawn, identifier_tokens(parts.tokenizer, c.scheme, [c.item_identifiers[q] for q in drawn]), strict=True))
    depth = max(max(map(len, paths.values())), parts.trie.depth if parts.trie else 0)

    def longest(histories: list[list[int]]) -> list[int]:
        above = [[c.scheme.line(c.item_identifiers[q]) for q in drawn[:lines]] for _ in histories]
        return sorted(map(len, history_tokens(parts.tokenizer, paths, histories, c, history=history, evidence=above)))

    one = longest([[q] for q in drawn])[-1]
    typical = longest([[rng.choice(drawn) for _ in range(parts.grlm.max_history)] for _ in range(_HISTORIES)])[_HISTORIES // 2]
    parts.facts["tokens"] = f"identifiers up to {depth}, a prompt of {parts.grlm.max_history} items about {typical}"
    parts.needed = typical + depth + 1
    context = (parts.config or {}).get("max_position_embeddings")
    lengthen = "Create the dataset with a larger mixture.max_tokens, and train again."
    limits: list[tuple[str, Any, str]] = [
        ("max_position_embeddings of config.json", context, "Use a model of longer context."),
        ("model_max_length of the tokenizer", parts.tokenizer.model_max_length, "Set tokenizer.model_max_length to the model's own limit."),
        ("max_tokens of the training", parts.grlm.max_tokens or None, lengthen),
    ]
    for name, limit, fix in limits:
        if not isinstance(limit, int):
            continue
        if limit < one + depth + 1:
            yield Finding("error", "length", f"{name} is {limit}; one item, its answer and EOS take up to {one + depth + 1} tokens.",
                          "Prompts or identifiers are cut off.", fix)  # fmt: skip
        elif limit < typical + depth + 1:
            yield Finding("warning", "length", f"{name} is {limit}; {parts.grlm.max_history} items (max_history) and an answer take about "
                          f"{typical + depth + 1} tokens.",
                          "The oldest items of longer histories are left out; other tools may cut identifiers instead.",
                          f"Lower mixture.max_history. {fix}")  # fmt: skip
    for name in ("max_new_tokens", "max_length"):
        limit = (parts.generation or {}).get(name)
        least = depth + 1 if name == "max_new_tokens" else one + depth + 1
        if isinstance(limit, int) and limit < least:
            yield Finding("warning", "length", f"{name} of generation_config.json is {limit}; the longest identifier needs {least}.",
                          "generate() and vLLM use it as their default and truncate identifiers.",
                          f"Remove {name}, or set it to {least} or more.", str(parts.folder / "generation_config.json"))  # fmt: skip


def _weights(parts: Parts) -> Iterator[Finding]:
    needed = None if parts.tokenizer is None else max(parts.tokenizer.get_vocab().values(), default=-1) + 1
    config = parts.config or {}
    yield from weights(parts.folder, config, needed, parts.facts)
    names = config.get("architectures")
    if parts.config is not None and not (isinstance(names, list) and any(str(n).endswith(("CausalLM", "LMHeadModel")) for n in names)):
        yield Finding("warning", "architecture", f"architectures of config.json is {names!r}; expected a causal language model.",
                      "vLLM and pipeline() choose the class by this name.", "Save it with AutoModelForCausalLM.",
                      str(parts.folder / "config.json"))  # fmt: skip
    parts.facts["model"] = f"{config.get('model_type', '?')} ({', '.join(map(str, names)) if isinstance(names, list) else '?'})"


def _generation(parts: Parts) -> Iterator[Finding]:
    return generation(parts.generation, parts.tokenizer, str(parts.folder / "generation_config.json"))


def _chat_template(parts: Parts) -> Iterator[Finding]:
    return chat_template(parts.tokenizer) if parts.tokenizer is not None else iter(())


def _files(parts: Parts) -> Iterator[Finding]:
    yield from unsafe_files(parts.names, CUSTOM_GENERATE, None if parts.published else parts.folder)
    yield from card(parts.folder, parts.published)
