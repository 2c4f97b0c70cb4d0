"""`grlm doctor BASE_MODEL`, before a training: what its tokenizer, template and weights allow."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from toys import toy_model, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from grlm_hf.doctor import Examination, examine, text_report


def examined(folder: Path, tokenizer: Any) -> Examination:
    toy_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (found,) = examine(folder)
    assert found.kind == "base model"
    return found


def checks(found: Examination, level: str) -> list[str]:
    return [f.check for f in found.findings if f.level == level]


def test_a_good_base_model_has_nothing_amiss(tmp_path: Path) -> None:
    found = examined(tmp_path / "base", toy_tokenizer())
    assert not checks(found, "error")
    assert "grlm_config" not in text_report(found)
    assert "tokens" in found.facts["identifiers"]
    assert "white space" not in text_report(found)


def test_what_a_training_makes_good_is_told_and_no_error(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(toy_tokenizer())
    tokenizer.chat_template = None
    tokenizer.pad_token = None
    found = examined(tmp_path / "base", tokenizer)
    assert not checks(found, "error")
    assert {"chat-template", "pad-missing"} <= set(checks(found, "info"))
    assert "train.chat_template=plain" in text_report(found)


@pytest.mark.parametrize(
    ("content", "level", "where"),
    [("m['content'] | trim", "info", "at the ends"), ("m['content'].split() | join(' ')", "warning", "within")],
)
def test_a_template_that_changes_white_space_is_told(tmp_path: Path, content: str, level: str, where: str) -> None:
    tokenizer = copy.deepcopy(toy_tokenizer())
    assert "m['content']" in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", content)
    found = examined(tmp_path / "base", tokenizer)
    assert [f.level for f in found.findings if "changes white space" in f.found and where in f.found] == [level]
    assert not checks(found, "error")
    assert "train.chat_template=plain" in text_report(found)


def dummy_prefix(tokenizer: Any) -> Any:
    """As of Llama 2: a space before the first word of every text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        ["green tea kettle [tea, steel]\n"] * 20, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], vocab_size=150)
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>", chat_template=tokenizer.chat_template)


def without_end(tokenizer: Any) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    return tokenizer


def too_large(tokenizer: Any) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([f"<new{n}>" for n in range(3000)])
    return tokenizer


@pytest.mark.parametrize(("change", "check"), [(dummy_prefix, "tokenizer-merges"), (without_end, "eos-missing"), (too_large, "vocabulary")])
def test_what_ends_a_training_is_an_error_before_it(tmp_path: Path, change: Callable[[Any], Any], check: str) -> None:
    found = examined(tmp_path / "base", change(toy_tokenizer()))
    assert any(check in name for name in checks(found, "error")), text_report(found)


def test_an_encoder_decoder_and_a_folder_without_weights(tmp_path: Path) -> None:
    examined(tmp_path / "base", toy_tokenizer())
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    (tmp_path / "base" / "model.safetensors").unlink()
    (found,) = examine(tmp_path / "base")
    assert {"encoder-decoder", "missing-file"} <= set(checks(found, "error"))
