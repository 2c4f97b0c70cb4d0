"""Evidence in prompts: what people with like histories chose, without the user's own choices in training."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_catalog, toy_grlm, toy_model, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import Case, History
from grlm_hf.files import read_json
from grlm_hf.layout import CONFIG_FILE, EVIDENCE_FILE, HISTORIES
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.tasks.encoding import prompt_tokens
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.mixture import examples_to_dataset, make_mixture, validation_sequences
from grlm_hf.tasks.prompts import prompt_hash, without_evidence
from grlm_hf.training.label_store import make_labels
from grlm_hf.training.labels import taught_items, tokenize_mixture

CATALOG = toy_catalog()
IDS = [item.item_id for item in CATALOG]
TWELVE = [History(f"u{n}", tuple(IDS[(n + s) % 12] for s in range(4))) for n in range(12)]
BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"
LINE = {item.item_id: CATALOG.scheme.line(CATALOG.identifier(item.item_id)) for item in CATALOG}
HEADING = "Chosen by people with like histories:\n"


def shown(user_turn: str) -> list[str]:
    """The lines of evidence of a user turn."""
    head = user_turn.removesuffix(without_evidence(user_turn))
    return head.removeprefix(HEADING).splitlines(keepends=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(IDS), min_size=1, max_size=7), min_size=2, max_size=7), st.integers(1, 6))
def test_counts_without_a_user_are_those_of_a_shop_that_never_had_the_user(bought: list[list[str]], end: int) -> None:
    histories = [History(f"u{n}", tuple(items)) for n, items in enumerate(bought)]
    own, *others = histories
    got = Evidence.fit(CATALOG, histories, 4, 3).scores(own.items[:end], own.user_id)
    np.testing.assert_allclose(got, Evidence.fit(CATALOG, others, 4, 3).scores(own.items[:end]), atol=1e-6)


def test_the_strongest_items_outside_of_the_history_are_shown() -> None:
    often = [History(f"a{n}", ("i20", "i18")) for n in range(3)] + [History("b", ("i20", "i16", "i17")), History("c", ("i9", "i10"))]
    evidence = Evidence.fit(CATALOG, often, 4, 2)
    assert evidence.lines(CATALOG, ["i20"]) == [LINE["i18"], LINE["i16"]]
    assert evidence.lines(CATALOG, ["i20", "i18"]) == [LINE["i16"], LINE["i17"]]
    assert evidence.lines(CATALOG.remove(["i18"]), ["i20"]) == [LINE["i16"], LINE["i17"]]
    assert evidence.lines(CATALOG, ["i12"]) == []  # nobody had it


@pytest.mark.parametrize("task", ["sequence", "sliding"])
def test_a_training_example_never_shows_what_its_user_alone_chose_next(task: str) -> None:
    alone = History("alone", ("i20", "i16", "i11"))
    config = MixtureConfig(evidence=5, internalise=0, **{"sequence": 0, task: 1})  # type: ignore[arg-type]
    rows = make_mixture(CATALOG, [*(History(f"u{n}", ("i20", "i18")) for n in range(3)), alone], config).dataset
    mine = [row for row in rows if row["key"] == "alone"]
    assert {line for row in mine for line in shown(row["prompt"][-1]["content"])} == {LINE["i18"]}
    others = {line for row in rows if row["key"] == "u0" for line in shown(row["prompt"][-1]["content"])}
    assert others == {LINE["i18"], LINE["i16"], LINE["i11"]}


def test_only_turns_of_histories_lose_evidence() -> None:
    assert without_evidence(HEADING + "[a]\nNext items after:\n[b]") == "Next items after:\n[b]"
    for turn in ("Next items after:\n[b]", HEADING + "[a]", "Title of:\n[a]\nNext items after:\n[b]"):
        assert without_evidence(turn) == turn


def with_evidence(histories: Sequence[History], history: str = "term_ids", number: int = 3, max_tokens: int = 0) -> GRLMForRecommendation:
    evidence = replace(Evidence.fit(CATALOG, histories, 4, number), own={})
    config = GRLMConfig(4, objective="trie", history=history, evidence=number, max_tokens=max_tokens)
    return GRLMForRecommendation(toy_model(), toy_tokenizer(), CATALOG, config, evidence=evidence)


@pytest.mark.parametrize("history", HISTORIES)
def test_a_recommendation_has_the_prompt_of_a_training_example(history: str) -> None:
    case, grlm = Case("new", ("i19", "i17", "i14"), "i12"), with_evidence(TWELVE, history)
    (example,) = validation_sequences(CATALOG, [case], 4, history, evidence=Evidence.fit(CATALOG, TWELVE, 4, 3))
    row = examples_to_dataset([example])[0]
    assert len(shown(example.prompt)) == 3
    (begin,) = prompt_tokens(grlm.tokenizer, [row["prompt"]])
    answer = grlm.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    whole, prompt = [*begin, *answer], grlm.prompt_tokens(case.history)[0].tolist()
    assert whole[: len(prompt)] == prompt
    assert len(whole) - len(prompt) == len(grlm.tokenizer(LINE["i12"], add_special_tokens=False)["input_ids"])


def test_a_training_user_is_asked_later_with_the_evidence_of_the_training() -> None:
    rows = make_mixture(CATALOG, TWELVE, MixtureConfig(max_history=4, evidence=3, internalise=0)).dataset
    for h in TWELVE:
        (row,) = [row for row in rows if row["key"] == h.user_id]
        others = Evidence.fit(CATALOG, [o for o in TWELVE if o is not h], 4, 3)
        assert shown(row["prompt"][-1]["content"]) == others.lines(CATALOG, h.items[:-1])


def test_only_the_last_item_is_learnt_under_evidence() -> None:
    mixture = make_mixture(CATALOG, TWELVE, MixtureConfig(evidence=3, internalise=0)).dataset
    rows = tokenize_mixture(mixture, toy_tokenizer(), CATALOG, objective="trie")
    for row, h in zip(mixture, rows, strict=True):
        learnt = [i for i, m in zip(h["input_ids"], h["completion_mask"], strict=True) if m]
        last = row["completion"][-1]["content"].splitlines(keepends=True)[-1]
        assert learnt == [*toy_tokenizer()(last, add_special_tokens=False)["input_ids"], toy_tokenizer().eos_token_id]


def test_evidence_is_no_part_of_a_teachers_question() -> None:
    with_, without = (make_mixture(CATALOG, TWELVE, MixtureConfig(evidence=n, internalise=0, sliding=1), 1).dataset for n in (3, 0))
    assert any(shown(row["prompt"][-1]["content"]) for row in with_)
    assert taught_items(with_, CATALOG) == taught_items(without, CATALOG)


def test_drawn_answers_get_the_evidence_of_their_history(tmp_path: Path) -> None:
    from grlm_hf.training.distill import questions_of, sampled_examples

    mixture = make_mixture(CATALOG, TWELVE, MixtureConfig(evidence=3, internalise=0)).dataset
    sequences, users = taught_items(mixture, CATALOG), mixture["key"][:]
    answer = np.full((1, 12), 1 / 12)
    labels = make_labels(
        lambda asked: (np.tile(np.arange(12, dtype=np.int32), (len(asked), 1)), np.repeat(answer, len(asked), 0)),
        IDS, questions_of(sequences, CATALOG), tmp_path / "work",
    )  # fmt: skip
    evidence = Evidence.fit(CATALOG, TWELVE, 4, 3)
    drawn = sampled_examples(labels, CATALOG, sequences, 2.0, 0, evidence=evidence, users=users)
    assert len(drawn) > 12
    found = 0
    whole = {h.user_id: [LINE[i] for i in h.items] for h in TWELVE}
    for example in drawn:
        lines = [f"{without_evidence(example.prompt).splitlines()[-1]}\n", *example.completion.splitlines(keepends=True)[:-1]]
        asked_by = [user for user in whole if whole[user][: len(lines)] == lines]  # the user, or one with the same beginning
        before = [next(i for i in IDS if LINE[i] == line) for line in lines]
        assert shown(example.prompt) in [evidence.lines(CATALOG, before, user) for user in asked_by]
        found += shown(example.prompt) != evidence.lines(CATALOG, before)
    assert found  # the user's own counts were left out


def test_a_checkpoint_keeps_its_evidence_and_states_it(tmp_path: Path) -> None:
    grlm = with_evidence(TWELVE)
    grlm.save_pretrained(tmp_path / "with")
    toy_grlm("trie").save_pretrained(tmp_path / "without")
    assert [read_json(tmp_path / name / CONFIG_FILE)["schema"] for name in ("with", "without")] == [4, 1]
    assert not (tmp_path / "without" / EVIDENCE_FILE).exists()
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "with")
    assert loaded.prompt_tokens(["i20", "i17"]).tolist() == grlm.prompt_tokens(["i20", "i17"]).tolist()
    assert HEADING in loaded.tokenizer.decode(loaded.prompt_tokens(["i20"])[0])
    assert [r.score for r in loaded.recommend(["i20"], 3)] == [r.score for r in grlm.recommend(["i20"], 3)]
    (tmp_path / "with" / EVIDENCE_FILE).unlink()
    with pytest.raises(ValueError, match=EVIDENCE_FILE):
        GRLMForRecommendation.from_pretrained(tmp_path / "with")


def test_prompts_with_evidence_have_a_hash_of_their_own() -> None:
    assert len({prompt_hash(), prompt_hash(evidence=3), prompt_hash(evidence=4), prompt_hash("both", evidence=3)}) == 4
    assert prompt_hash(evidence=0) == prompt_hash()
    with pytest.raises(ValueError, match="3 lines of evidence; found None"):
        GRLMForRecommendation(toy_model(), toy_tokenizer(), CATALOG, GRLMConfig(4, evidence=3))


def test_evidence_gives_way_to_the_history_and_to_the_answer() -> None:
    grlm = with_evidence(TWELVE)
    whole, depth = grlm.prompt_tokens(["i19", "i17"])[0], grlm.trie.depth + 1
    for budget in range(40, len(whole) + depth + 1):
        tight = with_evidence(TWELVE, max_tokens=budget)
        prompt = tight.prompt_tokens(["i19", "i17"])[0]
        text = tight.tokenizer.decode(prompt)
        assert LINE["i17"] in text or LINE["i17"].strip() in text
        assert len(prompt) + depth <= budget or HEADING not in text


def test_a_living_catalog_shows_new_items_no_evidence_and_removed_ones_never() -> None:
    grlm = with_evidence(TWELVE)
    first = grlm.prompter.evidence.lines(CATALOG, ["i20"])[0]  # type: ignore[union-attr]
    grlm.add_items([Item("new", "New")], [("mug", "new")])
    assert HEADING not in grlm.tokenizer.decode(grlm.prompt_tokens(["new"])[0])
    grlm.remove_items([i for i in IDS if LINE[i] == first])
    assert first not in grlm.tokenizer.decode(grlm.prompt_tokens(["i20"])[0])


def test_what_asks_about_training_histories_refuses_evidence_by_name(tmp_path: Path) -> None:
    from grlm_hf.stages.rl import make_grpo
    from grlm_hf.stages.teacher import _teacher
    from grlm_hf.training.config import DistillConfig
    from grlm_hf.training.dpo import train_dpo

    grlm = with_evidence(TWELVE)
    grlm.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"GRPO asks about training histories.*mixture\.evidence=3"):
        make_grpo(tmp_path / "checkpoint", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="DPO asks about training histories"):
        train_dpo(grlm, TWELVE, tmp_path / "work")
    with pytest.raises(ValueError, match="Distillation asks about training histories"):
        _teacher(DistillConfig(teacher=str(tmp_path / "checkpoint")), None)


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")
def test_beautys_training_answers_are_shown_as_often_as_validation_targets() -> None:
    """If an example showed what its user chose, training answers would be among the lines far more often (.69 against .08)."""
    with gzip.open(BEAUTY / "sequences.jsonl.gz", "rt", encoding="utf-8") as lines:
        bought = [json.loads(line) for line in lines]
    ids = sorted({item for row in bought for item in row["items"]})
    catalog = Catalog([Item(item, item) for item in ids], [(item,) for item in ids])
    evidence = Evidence.fit(catalog, [History(row["user_id"], tuple(row["items"][:-2])) for row in bought], 20, 5)
    asked = [row for row in random.Random(0).sample(bought, 3000) if len(row["items"]) > 3][:1500]
    train = [f"[{r['items'][-3]}]\n" in evidence.lines(catalog, r["items"][:-3], r["user_id"]) for r in asked]
    validation = [f"[{r['items'][-2]}]\n" in evidence.lines(catalog, r["items"][:-2]) for r in asked]
    leaking = [f"[{r['items'][-3]}]\n" in evidence.lines(catalog, r["items"][:-3]) for r in asked]
    assert abs(np.mean(train) - np.mean(validation)) < 0.03
    assert np.mean(leaking) > 0.5
