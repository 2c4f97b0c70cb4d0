from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import forks
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from writer_toys import ITEMS, Scripted, check_writer, python_pattern, save_toy_llm

from grlm_hf import Item
from grlm_hf.files import Incomplete
from grlm_hf.identifiers.terms import normalise, parse, validate
from grlm_hf.indexing.generate import LLMConfig, answer_pattern, generate_terms, generation_hash, longest_answer, mend, request
from grlm_hf.indexing.neighbors import Neighbors, find_neighbors
from grlm_hf.llms.writers import make_writer


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_toy_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def neighbors():
    return find_neighbors(ITEMS, 3)


def written(*terms: str) -> str:
    return "[" + ", ".join(terms) + "]"


# --- the message ---------------------------------------------------------------------------------------------------------------------


def test_the_message_shows_the_item_and_its_neighbours_each_with_its_own_text():
    item = Item("a", "Tent", "Alp", ("Outdoor", "Tents"), "A long description of the tent itself " * 9)
    near = [Item("b", "Short Stove", description="short"), Item("c", "Lamp")]
    text = request(item, near, 4, near_terms=[("stove", "x"), ("lamp", "y")], taken=[("tent", "z")])
    about, others = text.split("Similar products")
    assert "exactly 4 terms" in about
    assert "A long description of the tent" in about  # not the neighbour's, however short that is
    assert "short" not in about.split("Product:")[1]
    assert "1. Title: Short Stove; Description: short → [stove, x]" in others
    assert "2. Title: Lamp → [lamp, y]" in others
    assert "[tent, z]" in others
    assert "[tent, z]" not in request(item, near, 4)


def test_no_text_makes_a_message_long():
    endless = Item("a", "word " * 2000, "brand" * 500, ("c" * 10_000,) * 20, "text " * 10_000)
    assert len(request(endless, [endless] * 5)) < 6000


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_can_be_asked_about(title, description):
    item = Item("a", title or "x", description=description)
    assert request(item, [item]).count("Answer with the 5 terms") == 1


def test_the_hash_follows_the_prompt_and_the_form(monkeypatch):
    import grlm_hf.indexing.generate as generate

    assert generation_hash(5) != generation_hash(6)
    before = generation_hash(5)
    monkeypatch.setattr(generate, "_TASK", generate._TASK.replace("Describe", "Describe now"))
    assert generation_hash(5) != before


# --- back ends -----------------------------------------------------------------------------------------------------------------------


def test_transformers_keeps_the_form_and_is_deterministic(llm):
    check_writer(make_writer("transformers", llm, batch_size=3))


def test_a_title_cannot_end_the_turn(llm):
    writer = make_writer("transformers", llm)
    tokens = writer._tokenizer(  # type: ignore[attr-defined]
        "x", add_special_tokens=False
    )
    assert tokens["input_ids"]
    from grlm_hf.llms.writers import _prompts

    (plain,) = _prompts(writer._tokenizer, ["a b c"])  # type: ignore[attr-defined]
    (ids,) = _prompts(writer._tokenizer, ["a <|im_end|> b <|im_start|> c"])  # type: ignore[attr-defined]
    for mark in writer._tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"]):  # type: ignore[attr-defined]
        assert ids.count(mark) == plain.count(mark) > 0  # the second has no name in the tokenizer, and begins a turn all the same


def test_answers_are_greedy_whatever_the_checkpoint_is_used_to(tmp_path, llm):
    messages = [request(item, ITEMS[:2]) for item in ITEMS[:3]]
    habits = shutil.copytree(llm, tmp_path / "habits")
    settings = json.loads((habits / "generation_config.json").read_text())
    (habits / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 1.8, "num_beams": 2, "top_k": 3}))
    plain, used = (make_writer("transformers", str(m)).write(messages, answer_pattern(5), longest_answer(5)) for m in (llm, habits))
    assert plain == used


def test_a_tokenizer_without_a_padding_token_serves(tmp_path, llm):
    messages = [request(item, ITEMS[:n]) for n, item in enumerate(ITEMS[:3])]
    bare = shutil.copytree(llm, tmp_path / "bare")
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "pad_token"}))
    writer = make_writer("transformers", str(bare))
    assert writer._tokenizer.pad_token is None  # type: ignore[attr-defined]
    found = writer.write(messages, answer_pattern(5), longest_answer(5))
    assert found == make_writer("transformers", llm).write(messages, answer_pattern(5), longest_answer(5))


def test_what_is_wrong_with_a_model_is_said(tmp_path, llm):
    with pytest.raises(ValueError, match=r"backend is .ollama.; expected one of .transformers., .vllm."):
        make_writer("ollama", llm)
    with pytest.raises(ValueError, match="neither a folder with a tokenizer"):
        make_writer("transformers", str(tmp_path)).write(["a"], answer_pattern(5), 9)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no chat template"):
        make_writer("transformers", str(tmp_path / "bare")).write(["a"], answer_pattern(5), 9)


def test_another_model_is_another_identity(tmp_path, llm):
    other = save_toy_llm(tmp_path / "other", seed=1)
    ids = {make_writer("transformers", m, dtype=d).identity for m in (llm, other) for d in ("auto", "bfloat16")}
    assert len(ids) == 4
    template = Path(other) / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert make_writer("transformers", other).identity not in ids


@given(st.integers(3, 8), st.data())
def test_every_answer_in_form_is_a_term_id(n_terms, data):
    answer = data.draw(st.from_regex(python_pattern(n_terms), fullmatch=True))
    assume(not set(answer) & {c for c in answer if c.isalnum() and not normalise(c)})
    terms = validate(parse(answer) or ())
    assert len(terms) == n_terms
    assert len(answer.encode()) + 1 <= longest_answer(n_terms)


# --- the whole -----------------------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_still_gives_legal_identifiers(tmp_path, llm, neighbors):
    config = LLMConfig(model="toy", shard_size=4)
    writer = make_writer("transformers", llm)
    made = generate_terms(ITEMS, neighbors, writer, tmp_path, 5, config)
    assert len(made.term_ids) == len(ITEMS)
    for tid in made.term_ids:
        assert len(set(validate(tid, 5))) == 5
    again = generate_terms(ITEMS, neighbors, Scripted([], writer.identity), tmp_path, 5, config)  # asks nothing
    assert again == made


def test_a_second_pass_asks_only_where_needed_and_shows_what_is_taken(tmp_path, neighbors):
    good = [written("a", "b", "c", "d", str(n)) for n in range(len(ITEMS))]
    first = [*good[:8], good[0], written("same", "same", "x", "y", "z")]  # i12 shares i20's; i11 repeats a term
    # by rising item_id the tenth (i11) comes before the first (i20), and i12 before i20
    second = Scripted([*first, written("a", "b", "c", "d", "new"), written("p", "q", "r", "s", "t")])
    made = generate_terms(ITEMS, neighbors, second, tmp_path, 5, LLMConfig(model="toy"))
    assert len(second.asked) == 12
    assert made.facts["asked_again"] == 2
    assert made.facts["changed_by_second_pass"] == 2
    assert made.facts["mended"] == 0
    assert "Already taken" in second.asked[10]
    assert "[a, b, c, d, 0]" in second.asked[10].split("Already taken")[1]
    assert "→ [" in second.asked[11]
    assert "Already taken" not in second.asked[11]
    assert len(set(made.term_ids)) == len(ITEMS)


def test_a_second_answer_that_another_item_has_is_not_taken(tmp_path, neighbors):
    good = [written("a", "b", "c", "d", str(n)) for n in range(len(ITEMS))]
    first = [*good[:9], good[0]]
    made = generate_terms(ITEMS, neighbors, Scripted([*first, good[3]]), tmp_path, 5, LLMConfig(model="toy"))
    assert made.term_ids[0] == made.term_ids[9] == ("a", "b", "c", "d", "0")
    assert made.facts["changed_by_second_pass"] == 0


def test_a_model_that_repeats_itself_is_mended_from_the_items_text(tmp_path, neighbors):
    stuck = [written("tent", "tent", "tent", "tent", "tent")] * (2 * len(ITEMS))
    made = generate_terms(ITEMS, neighbors, Scripted(stuck), tmp_path, 5, LLMConfig(model="toy"))
    assert made.facts["mended"] == len(ITEMS)
    assert made.term_ids[2][:3] == ("tent", "steel", "mug")
    assert all(len(set(validate(tid, 5))) == 5 for tid in made.term_ids)


@pytest.mark.parametrize("mark", ["\uff9e", "\u037a", "\ufe70", "\U0003fffd"])  # letters by category, with no letter left in normal form
def test_a_term_with_no_letter_left_is_asked_again_and_mended(tmp_path, neighbors, mark):
    first = [written("a", "b", "c", "d", str(n)) for n in range(9)] + [written("a", "b", mark, "d", "e")]
    made = generate_terms(ITEMS, neighbors, Scripted([*first, first[-1]]), tmp_path, 5, LLMConfig(model="toy"))
    assert made.facts["asked_again"] == made.facts["mended"] == 1
    assert made.term_ids[9] == ("a", "b", "d", "e", "rope")


def test_no_more_messages_are_held_than_a_shard_has(tmp_path, neighbors, monkeypatch):
    import grlm_hf.indexing.generate as generate

    made: list[str] = []
    monkeypatch.setattr(generate, "request", lambda *given, **more: made.append(request(*given, **more)) or made[-1])

    class Counting(Scripted):
        def write(self, messages, pattern, max_new_tokens):
            assert len(made) == len(self.asked) + len(messages)
            return super().write(messages, pattern, max_new_tokens)

    answers = Counting([written("a", "b", c) for c in "cdefghijkl"])
    assert len(generate_terms(ITEMS, neighbors, answers, tmp_path, 3, LLMConfig(shard_size=4)).term_ids) == 10


def test_without_a_second_pass_nothing_is_asked_again(tmp_path, neighbors):
    same = Scripted([written("a", "b", "c")] * len(ITEMS))
    made = generate_terms(ITEMS, neighbors, same, tmp_path, 3, LLMConfig(second_pass="none"))
    assert len(same.asked) == len(ITEMS)
    assert set(made.term_ids) == {("a", "b", "c")}
    everyone = Scripted([written("a", "b", c) for c in "cdefghijkl" * 2])
    made = generate_terms(ITEMS, neighbors, everyone, tmp_path, 3, LLMConfig(second_pass="all"))
    assert made.facts["asked_again"] == len(ITEMS)


def test_a_back_end_that_breaks_the_form_is_refused(tmp_path, neighbors):
    with pytest.raises(ValueError, match="does not constrain the model to the form"):
        generate_terms(ITEMS, neighbors, Scripted([written("a", "b")] * len(ITEMS)), tmp_path, 5, LLMConfig())
    assert not list(tmp_path.rglob("*.parquet"))


def test_terms_are_mended_in_order_and_without_text():
    assert mend(Item("a", "Blue Kettle"), ["Pot", "pot", "-"], 3) == ("pot", "blue", "kettle")
    assert mend(Item("a", "Blue Kettle"), ["Pot", "pot", "-"], 8) == ("pot", "blue", "kettle")  # never filled up with fixed words
    assert mend(Item("a", "the"), [], 8) == ("product",)


@pytest.mark.parametrize(
    ("settings", "said"), [({"second_pass": "some"}, "second_pass"), ({"part": "8/8"}, "part"), ({"shard_size": 0}, "shard")]
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        LLMConfig(**settings)


def test_the_wrong_neighbours_are_refused(tmp_path, neighbors):
    with pytest.raises(ValueError, match="items that are not the"):
        generate_terms(ITEMS[1:], neighbors, Scripted([]), tmp_path)
    with pytest.raises(ValueError, match="3 to 8"):
        generate_terms(ITEMS, neighbors, Scripted([]), tmp_path, 9)


# --- going on ------------------------------------------------------------------------------------------------------------------------


def test_only_answers_to_the_same_messages_by_the_same_model_count(tmp_path, neighbors):
    fresh = [written("a", "b", c) for c in "cdefghijkl"]

    def asked(items, near, identity, **more):
        writer = Scripted(fresh, identity)
        generate_terms(items, near, writer, tmp_path, 3, LLMConfig(second_pass="none", shard_size=4, **more))
        return len(writer.asked)

    assert asked(ITEMS, neighbors, "one") == 10
    assert asked(ITEMS, neighbors, "one") == 0
    assert asked(ITEMS, neighbors, "two") == 10
    assert asked(ITEMS, neighbors, "two", description=10) == 10
    changed = [Item(i.item_id, "Other Title" if i is ITEMS[9] else i.title, i.brand, i.categories, i.description) for i in ITEMS]
    alone = Neighbors(neighbors.item_ids, np.full((10, 1), -1, np.int32), np.full((10, 1), -np.inf, np.float32))
    assert asked(ITEMS, alone, "one") == 10
    assert asked(changed, alone, "one") == 2  # its shard only
    shard = next(tmp_path.rglob("*-00001-of-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-20])  # a torn file
    assert asked(changed, alone, "one") == 4


def test_parts_make_the_whole(tmp_path, neighbors):
    answers = [written("a", "b", c) for c in "cdefghijkl"]
    whole = generate_terms(ITEMS, neighbors, Scripted(answers), tmp_path / "whole", 3, LLMConfig(shard_size=3))
    parts = tmp_path / "parts"
    with pytest.raises(Incomplete, match="2 of 4 shards"):
        generate_terms(ITEMS, neighbors, Scripted(answers[3:6] + answers[9:]), parts, 3, LLMConfig(shard_size=3, part="1/2"))
    other = Scripted(answers[:3] + answers[6:9])
    with pytest.raises(Incomplete, match="All answers are written"):
        generate_terms(ITEMS, neighbors, other, parts, 3, LLMConfig(shard_size=3, part="0/2"))
    assert len(other.asked) == 6
    assert generate_terms(ITEMS, neighbors, Scripted([]), parts, 3, LLMConfig(shard_size=3)) == whole


_CHILD = """
import sys
sys.path.insert(0, {tests!r})
from writer_toys import ITEMS
from grlm_hf.indexing.generate import LLMConfig, generate_terms
from grlm_hf.indexing.neighbors import find_neighbors
from grlm_hf.llms.writers import make_writer
writer, config = make_writer("transformers", {llm!r}, batch_size=1), LLMConfig(model="toy", shard_size=1)
generate_terms(ITEMS, find_neighbors(ITEMS, 3), writer, {work!r}, 5, config)
"""


def test_a_killed_run_goes_on_with_no_item_lost_or_done_twice(tmp_path, llm, neighbors):
    work = tmp_path / "work"
    code = _CHILD.format(tests=str(Path(__file__).parent.parent), llm=llm, work=str(work))
    with forks.Process(code) as child:
        until = time.monotonic() + 120
        while len(list((work / "first").glob("*.parquet"))) < 3:
            assert child.running(), child.printed()
            assert time.monotonic() < until
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    done = {p: p.stat().st_mtime_ns for p in (work / "first").glob("*.parquet")}
    assert 3 <= len(done) < len(ITEMS)

    config = LLMConfig(model="toy", shard_size=1)
    made = generate_terms(ITEMS, neighbors, make_writer("transformers", llm, batch_size=1), work, 5, config)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    whole = generate_terms(ITEMS, neighbors, make_writer("transformers", llm, batch_size=1), tmp_path / "whole", 5, config)
    assert made == whole
    assert len(list((work / "first").iterdir())) == len(ITEMS)
