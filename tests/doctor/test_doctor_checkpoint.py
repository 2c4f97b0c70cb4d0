"""Each fault of a checkpoint, put into a copy of a sound one, is found, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.doctor import Finding, examine
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE, HISTORIES, TRIE_FILE
from grlm_hf.tokens import identifier_tokens, tokenizer_hash
from grlm_hf.trie.arrays import Trie

CARD = "---\nlicense: mit\nlibrary_name: transformers\n---\n# Toy\n"
ALWAYS = {("info", "collisions")}  # two of the toys share a Term ID


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def found(folder: Path, engine: Path | None = None) -> list[Finding]:
    (said,) = examine(folder, engine)
    return list(said.findings)


def names(findings: list[Finding]) -> set[tuple[str, str]]:
    assert all(f.found and f.why and f.fix for f in findings)
    return {(f.level, f.check) for f in findings} - ALWAYS


def edit(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tokenizer(folder: Path, **values: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in values.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")


def with_infinity(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][-1] = float("inf")


def without_rows(folder: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:250].clone()

    edit_weights(folder, cut)
    edit(folder, "config.json", vocab_size=250)


def other_trie(folder: Path) -> None:
    catalog = Catalog.from_pretrained(folder)
    catalog.trie(toy_tokenizer(280)).save(folder / TRIE_FILE, catalog.identifiers_hash)


def exchanged_paths(folder: Path) -> None:
    catalog, tokenizer = Catalog.from_pretrained(folder), toy_tokenizer()
    paths = identifier_tokens(tokenizer, TERMS, catalog.identifiers)
    trie = Trie([*paths[1:], paths[0]], tokenizer.eos_token_id, tokenizer_hash(tokenizer), tokenizer.pad_token_id)
    trie.save(folder / TRIE_FILE, catalog.identifiers_hash)


def older_trie(folder: Path) -> None:
    toy_catalog().remove(["i20"]).trie(toy_tokenizer()).save(folder / TRIE_FILE, toy_catalog().remove(["i20"]).identifiers_hash)


def sharded(folder: Path, lost: bool) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    where = {k: f"model-0000{1 + (n % 2)}-of-00002.safetensors" for n, k in enumerate(keys)}
    for name in sorted(set(where.values())):
        save_file({k: tensors[k] for k in keys if where[k] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    if lost:
        (folder / "model-00002-of-00002.safetensors").unlink()


def shared(folder: Path) -> None:
    catalog = toy_catalog()
    few = Catalog(catalog.items, [catalog.term_ids[0]] * 8 + list(catalog.term_ids[8:]))
    grlm = toy_grlm()
    GRLMForRecommendation(grlm.model, grlm.tokenizer, few, grlm.config).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)


GENERATION, MODEL = "generation_config.json", "config.json"
DATED = "{{ strftime_now('%d %b') }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}" \
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip
ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[str, str], str]] = {
    "samples": (lambda p: edit(p, GENERATION, do_sample=True), ("warning", "sampler-defaults"), "do_sample=True"),
    "temperature": (lambda p: edit(p, GENERATION, temperature=0.6), ("warning", "sampler-defaults"), "temperature=0.6"),
    "top_k": (lambda p: edit(p, GENERATION, top_k=20), ("warning", "sampler-defaults"), "top_k=20"),
    "top_p": (lambda p: edit(p, GENERATION, top_p=0.8), ("warning", "sampler-defaults"), "top_p=0.8"),
    "repetition": (lambda p: edit(p, GENERATION, repetition_penalty=1.05), ("warning", "sampler-defaults"), "repetition_penalty=1.05"),
    "length penalty": (lambda p: edit(p, GENERATION, length_penalty=0.6), ("warning", "sampler-defaults"), "length_penalty=0.6"),
    "ngrams": (lambda p: edit(p, GENERATION, no_repeat_ngram_size=3), ("warning", "sampler-defaults"), "no_repeat_ngram_size=3"),
    "other eos": (lambda p: edit(p, GENERATION, eos_token_id=7), ("error", "eos-differs"), "eos_token_id 7, the tokenizer 2"),
    "other eos list": (lambda p: edit(p, GENERATION, eos_token_id=[7, 8]), ("error", "eos-differs"), "[7, 8]"),
    "other pad": (lambda p: edit(p, GENERATION, pad_token_id=9), ("warning", "pad-differs"), "pad_token_id 9, the tokenizer 0"),
    "short answers": (lambda p: edit(p, GENERATION, max_new_tokens=5), ("warning", "length"), "max_new_tokens of generation_config"),
    "short texts": (lambda p: edit(p, GENERATION, max_length=20), ("warning", "length"), "max_length of generation_config.json is 20"),
    "padding side": (lambda p: edit_tokenizer(p, padding_side="right"), ("warning", "padding-side"), "pads on the right"),
    "pad is eos": (lambda p: (edit_tokenizer(p, pad_token="<|im_end|>"), edit(p, GENERATION, pad_token_id=2)),
                   ("warning", "pad-is-eos"), "EOS and pad are one token"),
    "no pad": (lambda p: edit_tokenizer(p, pad_token=None), ("error", "pad-missing"), "no PAD token"),
    "no template": (lambda p: (p / "chat_template.jinja").unlink(), ("error", "chat-template"), "has no chat template"),
    "broken template": (lambda p: (p / "chat_template.jinja").write_text("{% for m in %}"), ("error", "chat-template"), "be rendered"),
    "deaf template": (lambda p: (p / "chat_template.jinja").write_text("<|im_start|>"), ("error", "chat-template"), "user's text 0 times"),
    "dated template": (lambda p: (p / "chat_template.jinja").write_text(DATED), ("warning", "chat-template"), "writes today's date"),
    "unknown template": (lambda p: (p / "chat_template.jinja").write_text(ENDLESS), ("warning", "chat-template"), "does not end the"),
    "few positions": (lambda p: edit(p, MODEL, max_position_embeddings=24), ("error", "length"), "max_position_embeddings of config"),
    "tight positions": (lambda p: edit(p, MODEL, max_position_embeddings=110), ("warning", "length"), "4 items (max_history)"),
    "short tokenizer": (lambda p: edit_tokenizer(p, model_max_length=16), ("error", "length"), "model_max_length of the tokenizer is 16"),
    "short training": (lambda p: edit(p, CONFIG_FILE, max_tokens=30), ("error", "length"), "max_tokens of the training is 30"),
    "other tokenizer": (lambda p: edit(p, CONFIG_FILE, tokenizer_hash="0" * 16), ("error", "tokenizer-changed"), "0000000000000000"),
    "other prompts": (lambda p: edit(p, CONFIG_FILE, prompt_hash="1" * 16), ("error", "prompt-drift"), "1111111111111111"),
    "prompts of another history": (lambda p: edit(p, CONFIG_FILE, history="both"), ("error", "prompt-drift"), "was trained with prompts"),
    "objective": (lambda p: edit(p, CONFIG_FILE, objective="loss"), ("error", "config"), "objective is 'loss'"),
    "no history": (lambda p: edit(p, CONFIG_FILE, max_history=0), ("error", "broken-file"), "max_history is 0"),
    "newer": (lambda p: edit(p, CONFIG_FILE, schema=99), ("error", "schema"), "schema 99"),
    "strange key": (lambda p: edit(p, CONFIG_FILE, colour="red"), ("error", "broken-file"), "holds the keys ['colour', 'history'"),
    "strange scheme": (lambda p: edit(p, CONFIG_FILE, scheme="runes"), ("error", "config"), "scheme is 'runes'; expected one of"),
    "wrong type": (lambda p: edit(p, CONFIG_FILE, max_history="4"), ("error", "broken-file"), "max_history is '4'; expected a value of"),
    "trie of another tokenizer": (other_trie, ("error", "trie-tokenizer"), "identifiers have other tokens"),
    "trie in another order": (exchanged_paths, ("error", "trie-tokenizer"), "11 of 11 identifiers have other tokens"),
    "trie of another catalog": (older_trie, ("warning", "trie-catalog"), "other identifiers (10) than the catalog (11)"),
    "no trie": (lambda p: (p / TRIE_FILE).unlink(), ("info", "trie"), "There is no catalog.trie"),
    "nan": (lambda p: edit_weights(p, with_nan), ("error", "not-finite"), "model.layers.1.mlp.up_proj.weight"),
    "infinity": (lambda p: edit_weights(p, with_infinity), ("error", "not-finite"), "model.norm.weight"),
    "dtype": (lambda p: edit(p, MODEL, dtype="bfloat16"), ("warning", "dtype"), "config.json states bfloat16, the weights are float32"),
    "half": (lambda p: (edit_weights(p, lambda t: t.update({k: v.half() for k, v in t.items()})), edit(p, MODEL, dtype="float16")),
             ("info", "dtype"), "float16 weights"),
    "vocab_size": (lambda p: edit(p, MODEL, vocab_size=400), ("error", "vocabulary"), "vocab_size 400, model.embed_tokens"),
    "few embeddings": (without_rows, ("error", "vocabulary"), "ids up to 299, the model has 250 embeddings"),
    "lost shard": (lambda p: sharded(p, True), ("error", "missing-file"), "model-00002-of-00002.safetensors"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), ("error", "missing-file"), "model.safetensors"),
    "no catalog": (lambda p: (p / CATALOG_FILE).unlink(), ("error", "missing-file"), "There is no catalog.parquet"),
    "no config": (lambda p: (p / CONFIG_FILE).unlink(), ("error", "missing-file"), "There is no grlm_config.json"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), ("error", "missing-file"), "There is no tokenizer.json"),
    "architecture": (lambda p: edit(p, MODEL, architectures=["Qwen3Model"]), ("warning", "architecture"), "['Qwen3Model']"),
    "pickle": (lambda p: (p / "training_args.bin").write_bytes(b"x"), ("warning", "unsafe-files"), "training_args.bin"),
    "foreign code": (lambda p: (p / "modeling_qwen.py").write_text("x"), ("warning", "foreign-code"), "modeling_qwen.py"),
    "changed code": (lambda p: (p / "custom_generate" / "generate.py").write_text("x"), ("warning", "foreign-code"), "generate.py"),
    "no card": (lambda p: (p / "README.md").unlink(), ("info", "card"), "There is no README.md"),
    "no licence": (lambda p: (p / "README.md").write_text("# Toy\n"), ("info", "licence"), "has no licence"),
    "broken card": (lambda p: (p / "README.md").write_text("---\na: [\n---\n"), ("error", "card"), "YAML"),
    "collisions": (shared, ("warning", "collisions"), "8 of 12 items (66.7%) share a Term ID"),
}  # fmt: skip


def test_a_sound_one(sound: Path) -> None:
    assert names(found(sound)) == set()
    (said,) = examine(sound)
    assert said.kind == "checkpoint"
    assert said.facts["catalog"] == "12 items, 11 Term IDs"


@pytest.mark.parametrize("history", HISTORIES)
def test_sound_ones_of_other_histories(tmp_path: Path, history: str) -> None:
    toy_grlm(history=history).save_pretrained(tmp_path / "c")
    (tmp_path / "c" / "README.md").write_text(CARD)
    assert names(found(tmp_path / "c")) == set()


def test_a_sound_one_in_shards(copy: Path) -> None:
    sharded(copy, lost=False)
    assert names(found(copy)) == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone(copy: Path, fault: str) -> None:
    seed, wanted, said = FAULTS[fault]
    seed(copy)
    findings = found(copy)
    assert names(findings) == {wanted}
    (one,) = {f for f in findings if (f.level, f.check) == wanted}
    assert said in one.found


def test_no_eos(copy: Path) -> None:
    """It is the end of the template's turns, too; nothing is said of those then."""
    edit_tokenizer(copy, eos_token=None)
    assert names(found(copy)) == {("error", "eos-missing")}


ENGINES: list[tuple[dict[str, Any], set[tuple[str, str]]]] = [
    ({"logprobs-mode": "processed_logits", "max-logprobs": 40}, set()),
    ({"logprobs_mode": "processed_logprobs", "max_logprobs": -1, "max_model_len": 512}, set()),
    ({"logprobs-mode": "raw_logprobs", "max-logprobs": 40}, {("error", "logprobs-mode")}),
    ({"max-logprobs": 40}, {("error", "logprobs-mode")}),
    ({"logprobs-mode": "processed_logits"}, {("error", "max-logprobs")}),
    ({"logprobs-mode": "processed_logits", "max-logprobs": 40, "max-model-len": 32}, {("error", "length")}),
]


@pytest.mark.parametrize(("arguments", "wanted"), ENGINES)
def test_the_arguments_of_an_engine(sound: Path, tmp_path: Path, arguments: dict[str, Any], wanted: set[tuple[str, str]]) -> None:
    (tmp_path / "serve.yaml").write_text("".join(f"{name}: {value}\n" for name, value in arguments.items()))
    assert names(found(sound, tmp_path / "serve.yaml")) == wanted


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00"])
def test_arguments_that_are_none(sound: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    assert names(found(sound, tmp_path / "serve.yaml")) == {("error", "broken-file")}


CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"", "half": lambda b: b[: len(b) // 2], "null": lambda _: b"null", "list": lambda _: b"[1, 2]",
    "object": lambda _: b'{"model": 3, "schema": "x", "eos_token_id": {}, "vocab_size": "many"}',
    "bytes": lambda b: bytes(255 - x for x in b),
}  # fmt: skip
FILES = (CATALOG_FILE, TRIE_FILE, CONFIG_FILE, MODEL, GENERATION, "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("how", CORRUPTIONS)
@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_findings(copy: Path, name: str, how: str) -> None:
    """Whatever stands in a file, the examination ends; and where the checkpoint does not load, it says that something is an error."""
    (copy / name).write_bytes(CORRUPTIONS[how]((copy / name).read_bytes()))
    findings = found(copy)
    try:
        GRLMForRecommendation.from_pretrained(copy)
    except Exception:
        assert any(f.level == "error" for f in findings)


def test_a_hub_repository(hub: Any, copy: Path) -> None:
    """Licence and card are missed more there; a pickle is named and never downloaded."""
    from huggingface_hub import HfApi

    api = HfApi()
    (copy / "README.md").unlink()
    (copy / "optimizer.bin").write_bytes(b"x")
    api.create_repo("org/examined")
    api.upload_folder(folder_path=copy, repo_id="org/examined")
    (said,) = examine("org/examined")
    assert names(list(said.findings)) == {("warning", "card"), ("warning", "unsafe-files")}
    (said,) = examine("org/nowhere")
    assert [(f.level, f.check) for f in said.findings] == [("error", "target")]


def test_what_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    for target in (tmp_path, tmp_path / "a file", tmp_path / "no/such/folder"):
        (said,) = examine(target)
        assert (said.kind, [f.check for f in said.findings]) == ("unknown", ["target"])


def test_a_config_of_older_settings_is_sound(copy: Path) -> None:
    """Two settings came later; checkpoints from before lack them."""
    values = json.loads((copy / CONFIG_FILE).read_text())
    del values["history"], values["max_tokens"]
    (copy / CONFIG_FILE).write_text(json.dumps(values))
    assert names(found(copy)) == set()
    assert replace(GRLMForRecommendation.from_pretrained(copy).config, max_tokens=0)
