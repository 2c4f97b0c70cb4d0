"""What is learnt of each task and each form of a history, and that a model can be trained on all of them together."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from toys import toy_catalog, toy_histories, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import leave_one_out
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import HISTORIES
from grlm_hf.tasks.config import TASKS, MixtureConfig
from grlm_hf.tasks.examples import Example, default_spans
from grlm_hf.tasks.mixture import examples_to_dataset, make_mixture, validation_sequences
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, tokenize_mixture, tokenizer_texts, train

PLAIN = toy_catalog()
# titles that would break the form if they could
CATALOG = Catalog([Item(i.item_id, f"{i.title} [x]\n<|im_end|>.", "", ("Camping",), i.description) for i in PLAIN], PLAIN.term_ids)
SPLIT = leave_one_out(toy_histories())
NEIGHBORS = {i.item_id: [j.item_id for j in CATALOG] for i in CATALOG}
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    talk = [("user", "Hello?"), ("assistant", "[no, item]\nHi!"), ("user", "Bye."), ("assistant", "[tent, camping, light, two, green]\n")]
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in talk]}) + "\n")
    return str(path)


def full_mixture(chat_file: str, history: str) -> Any:
    config = MixtureConfig(**{**dict.fromkeys(TASKS, 1.0), "chat_file": chat_file, "history": history, "max_history": 4, "window": 3})
    mixture = make_mixture(CATALOG, SPLIT.train, config, neighbors=NEIGHBORS).dataset
    assert set(mixture["task"]) == set(TASKS)
    return mixture


@pytest.mark.parametrize("history", HISTORIES)
def test_labels_are_trie_paths_or_the_whole_text(chat_file: str, history: str) -> None:
    tokenizer, mixture = toy_tokenizer(), full_mixture(chat_file, history)
    paths = dict(zip(map(TERMS.line, CATALOG.identifiers), identifier_tokens(tokenizer, TERMS, CATALOG.identifiers), strict=True))
    titles = 0
    for row, tokenized in zip(mixture, tokenize_mixture(mixture, tokenizer, CATALOG), strict=True):
        ids, mask = tokenized["input_ids"], tokenized["completion_mask"]
        learnt = [t for t, m in zip(ids, mask, strict=True) if m]
        text = row["completion"][0]["content"]
        assert learnt.pop() == ids[-1] == tokenizer.eos_token_id
        if row["task"] in ("chat", "term_id_to_title"):
            assert learnt == tokenizer(text, add_special_tokens=False)["input_ids"]
            continue
        lines = [line for line in text.splitlines(keepends=True) if line in paths]
        titles += len(text.splitlines()) - len(lines)
        if row["task"] == "sliding":
            lines = lines[-1:]
        assert learnt == [t for line in lines for t in paths[line]]
        # nothing of the conversation is lost: the tokens spell it
        whole = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) + text
        assert tokenizer.decode(ids[:-1]) == whole.replace("[x] <|im_end|>", "[x]  ")
    assert (titles > 0) == (history == "both")


@pytest.mark.parametrize("history", HISTORIES)
def test_validation_asks_for_the_last_item_in_every_form(history: str) -> None:
    tokenizer = toy_tokenizer()
    paths = dict(zip(CATALOG.identifiers, identifier_tokens(tokenizer, TERMS, CATALOG.identifiers), strict=True))
    rows = examples_to_dataset(validation_sequences(CATALOG, SPLIT.validation, 3, history))
    for case, row in zip(SPLIT.validation, tokenize_mixture(rows, tokenizer, CATALOG, last_only=True), strict=True):
        labels = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
        assert labels == [*paths[CATALOG.term_id(case.target)], tokenizer.eos_token_id]


@pytest.mark.parametrize("history", ["both", "titles"])
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_a_model_learns_from_the_full_mixture(chat_file: str, history: str, objective: str, tmp_path: Path) -> None:
    config = TrainConfig(
        objective=objective, scratch=TINY, max_steps=60, learning_rate=1e-2, batch_size=16, dropout=0, validation_examples=8, save_steps=999
    )
    validation = examples_to_dataset(validation_sequences(CATALOG, SPLIT.validation, 4, history))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing is left out
        grlm = train(
            CATALOG, full_mixture(chat_file, history), tmp_path / "work", config,
            validation=validation, max_history=4, history=history, max_tokens=400,
        )  # fmt: skip
    losses = [e["loss"] for e in json.loads((tmp_path / "work" / "log.json").read_text()) if "loss" in e]
    assert losses[-1] < losses[0] * 0.9
    grlm.save_pretrained(tmp_path / "checkpoint")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert (loaded.config.history, loaded.config.max_tokens, loaded.config.max_history) == (history, 400, 4)
    case = SPLIT.test[0]
    # the model reads at inference what it read in training: the validation example up to its answer
    (row,) = tokenize_mixture(
        examples_to_dataset(validation_sequences(CATALOG, [case], 4, history)), grlm.tokenizer, CATALOG, last_only=True
    )
    assert loaded.prompt_tokens(case.history)[0].tolist() == row["input_ids"][: row["completion_mask"].index(1)]
    assert [r.item_id for r in loaded.recommend(case.history, 12)] == [r.item_id for r in grlm.recommend(case.history, 12)]


def example(task: str, completion: str) -> Example:
    return Example(task, "k", "a", default_spans(task, completion, TERMS))


def test_refused_labels(chat_file: str) -> None:
    tokenizer, line = toy_tokenizer(), TERMS.line(CATALOG.term_ids[0])
    title = "Title 0 tent (x) |im_end| .\n"
    for task, completion, message in (
        ("sequence", line + "Another title\n" + line, r"'Another title\\n', which is no identifier"),
        ("sequence", line + title, "which is no identifier"),  # ends in a title
        ("sliding", line + "[no, item]\n", "no identifier of the catalog"),
        ("query", line.removesuffix("\n"), "no identifier of the catalog"),
        ("unheard-of", "Hello", "no identifier of the catalog"),
        ("sequence", "", "no identifier of the catalog"),
        ("sequence", line + line[: len(line) // 2], "no identifier of the catalog"),  # begins as one does
        ("sequence", line[:-4], "no identifier of the catalog"),  # begins an identifier
    ):
        with pytest.raises(ValueError, match=message):
            tokenize_mixture(examples_to_dataset([example(task, completion)]), tokenizer, CATALOG)
    ok = examples_to_dataset([example("sequence", line + title + line), example("chat", "Hello")])
    for objective in ("vocabulary", "trie"):
        assert len(tokenize_mixture(ok, tokenizer, CATALOG, objective=objective)) == 2
    with pytest.raises(ValueError, match=r"an answer of 51 tokens.*the model takes 9 in all\. Lower max_history"):
        tokenize_mixture(ok, tokenizer, CATALOG, max_length=9)


def test_a_tokenizer_of_ones_own_sees_all_text(chat_file: str) -> None:
    default = make_mixture(CATALOG, SPLIT.train).dataset
    requests = [f"user\n{row[0]['content']}\nassistant\n" for row in default["prompt"]]
    assert tokenizer_texts(CATALOG, default) == [*map(TERMS.line, CATALOG.identifiers * 10), *requests]
    texts = "".join(tokenizer_texts(CATALOG, full_mixture(chat_file, "both")))
    assert "assistant\n[no, item]\nHi!\nuser\nBye.\nassistant\n" in texts
    assert "Title 9 mug (x) |im_end| .\n" in texts
