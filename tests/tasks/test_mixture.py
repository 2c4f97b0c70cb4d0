"""The training mixture: the same for the same seed, in any order of what it is given, whole items only, and counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_catalog, toy_histories, toy_tokenizer

from grlm_hf import Catalog, Item
from grlm_hf.data.interactions import Case, History
from grlm_hf.identifiers.terms import TERMS, parse, render
from grlm_hf.layout import HISTORIES
from grlm_hf.tasks.config import TASKS, MixtureConfig
from grlm_hf.tasks.examples import Example, Span, default_spans
from grlm_hf.tasks.histories import sequences
from grlm_hf.tasks.items import internalisation
from grlm_hf.tasks.mixture import (
    draw,
    example_tokens,
    examples_to_dataset,
    make_mixture,
    mixture_features,
    validation_sequences,
)
from grlm_hf.tasks.prompts import history_item, internalise_request, next_item_turns

TOYS = toy_catalog()
CATALOG = Catalog(  # with all that a task may ask about
    [replace(i, brand=f"Brand {n % 3}", categories=("Toys", f"Kind {n % 4}"), price=n + 0.5) for n, i in enumerate(TOYS)], TOYS.term_ids
)
IDS = [i.item_id for i in CATALOG]
NEIGHBORS = {i: [j for j in IDS if j != i][n % 5 :] for n, i in enumerate(IDS)}
some_histories = st.lists(st.lists(st.sampled_from(IDS), min_size=1, max_size=9), max_size=6).map(
    lambda rows: [History(f"u{n}", tuple(items)) for n, items in enumerate(rows)]
)


def only(**weights: Any) -> MixtureConfig:
    """A config with these settings, and weight 0 elsewhere."""
    return MixtureConfig(**{"sequence": 0.0, "internalise": 0.0, **weights})


@pytest.fixture
def chat_file(tmp_path: Path) -> str:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(9)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(tmp_path / "chat.jsonl")


def everything(chat_file: str, **more: Any) -> MixtureConfig:
    return MixtureConfig(**{**dict.fromkeys(TASKS, 1.0), "chat_file": chat_file, "neighbors_per_item": 2, **more})


def written(example: Example) -> list[str]:
    """The items of a sequence example, in order, as they are written: one in the prompt, the others in the completion."""
    assert example.completion.endswith("\n")
    *above, first = example.prompt.split("\n")
    assert all(parse(line) not in CATALOG.identifiers for line in above)
    return [first, *example.completion.removesuffix("\n").split("\n")]


def sequence_examples(histories: Sequence[History], max_history: int) -> list[Example]:
    made = [s.make(s.items, 0) for s in sequences(CATALOG, histories, max_history)]
    return [e for e in made if isinstance(e, Example)]


# --- sequences and internalisation -------------------------------------------------------------------------------------------------


@given(some_histories, st.integers(1, 9))
def test_sequences_show_the_first_item_and_ask_all_others(histories: list[History], max_history: int) -> None:
    examples = sequence_examples(histories, max_history)
    long = [h for h in histories if len(h.items) > 1]  # one item: nothing to ask
    assert [(e.task, e.key) for e in examples] == [("sequence", h.user_id) for h in long]
    for example, history in zip(examples, long, strict=True):
        items = history.items[-(max_history + 1) :]  # older ones are dropped whole
        assert written(example) == [render(CATALOG.term_id(i)) for i in items]
        assert example.prompt == next_item_turns([TERMS.line(CATALOG.term_id(items[0]))])[0]


def test_a_prompt_shows_max_history_items() -> None:
    history = [History("u", tuple(IDS[:9]))]
    for max_history in range(1, 9):
        (example,) = sequence_examples(history, max_history)
        lines = written(example)
        assert len(lines) == max_history + 1
        assert lines[-1] == render(CATALOG.term_id(IDS[8]))  # the newest is the last answer, after max_history items
    (example,) = sequence_examples(history, 99)
    assert len(written(example)) == 9


@given(st.floats(0, 3), st.integers(0, 5))
def test_a_weight_takes_its_share_of_the_sources(weight: float, seed: int) -> None:
    sources = list(internalisation(CATALOG))
    drawn = draw(sources, weight, str(seed))
    counts = Counter(source.key for source, _ in drawn)
    assert len(drawn) == int(weight) * len(CATALOG) + round((weight - int(weight)) * len(CATALOG))
    assert all(n in (int(weight), int(weight) + 1) for n in counts.values())
    assert all([v for s, v in drawn if s.key == key] == list(range(n)) for key, n in counts.items())  # each time another variant
    shuffled = random.Random(seed).sample(sources, len(sources))
    assert Counter((s.key, v) for s, v in draw(shuffled, weight, str(seed))) == Counter((s.key, v) for s, v in drawn)
    more = draw(sources, weight + 0.3, str(seed))
    assert {(s.key, v) for s, v in drawn} <= {(s.key, v) for s, v in more}


def test_the_seed_picks_the_sources() -> None:
    picked = {tuple(sorted(make_mixture(CATALOG, [], only(internalise=0.5), seed).dataset["key"])) for seed in range(9)}
    assert len(picked) > 1
    assert {len(p) for p in picked} == {6}


def test_by_default_what_it_always_was() -> None:
    """One sequence a user, one internalisation an item, in the order that the seed gives."""
    histories = toy_histories()
    rows = [("sequence", h.user_id, *_turns(h)) for h in histories]
    rows += [("internalise", i.item_id, internalise_request(i), TERMS.line(t)) for i, t in zip(CATALOG, CATALOG.term_ids, strict=True)]
    random.Random(5).shuffle(rows)
    for config in (None, MixtureConfig()):
        got = make_mixture(CATALOG, histories, config, seed=5).dataset
        assert [(r["task"], r["key"], r["prompt"][0]["content"], r["completion"][0]["content"]) for r in got] == rows


def _turns(history: History) -> tuple[str, str]:
    lines = [render(CATALOG.term_id(i)) for i in history.items]
    return f"Next items after:\n{lines[0]}", "".join(f"{line}\n" for line in lines[1:])


def test_the_same_seed_gives_the_same_rows() -> None:
    config = MixtureConfig(internalise=0.5)
    first, again, other = (list(make_mixture(CATALOG, toy_histories(), config, seed).dataset) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_another_seed_only_changes_the_order() -> None:
    def counted(seed: int) -> Counter[str]:
        return Counter(map(str, make_mixture(CATALOG, toy_histories(), seed=seed).dataset))

    assert counted(0) == counted(1)
    tasks = make_mixture(CATALOG, toy_histories()).dataset["task"]
    assert Counter(tasks) == {"sequence": 40, "internalise": 12}
    assert list(tasks) != sorted(tasks)  # mixed, not one task after the other
    assert list(tasks) != sorted(tasks, reverse=True)


def test_rows_are_chat_messages() -> None:
    mixture = make_mixture(CATALOG, toy_histories(2), MixtureConfig(max_history=2, internalise=0)).dataset
    assert mixture.features == mixture_features()
    assert sorted(mixture["key"]) == ["u0", "u1"]
    for row in mixture:
        ((user,), (assistant,)) = row["prompt"], row["completion"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert written(Example(row["task"], row["key"], user["content"], default_spans(row["task"], assistant["content"], TERMS)))
    assert examples_to_dataset([]).features == mixture_features()


# --- all tasks together ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", HISTORIES)
def test_the_rows_do_not_depend_on_the_order_of_what_is_given(chat_file: str, history: str, tmp_path: Path) -> None:
    caps = {"sliding": 17, "query": 5}
    config = everything(chat_file, history=history, steered=0.5, query=1.5, term_id_to_title=0.3, chat=0.4, caps=caps)
    rng = random.Random(1)
    lines = Path(chat_file).read_text().splitlines(keepends=True)
    (tmp_path / "shuffled.jsonl").write_text("".join(rng.sample(lines, len(lines))))
    order = rng.sample(range(len(CATALOG)), len(CATALOG))
    catalog = Catalog([CATALOG.items[i] for i in order], [CATALOG.term_ids[i] for i in order])
    histories = toy_histories()

    first = make_mixture(CATALOG, histories, config, 2, neighbors=NEIGHBORS)
    other = make_mixture(
        catalog, rng.sample(histories, len(histories)), replace(config, chat_file=str(tmp_path / "shuffled.jsonl")), 2, neighbors=NEIGHBORS
    )
    assert Counter(map(str, first.dataset)) == Counter(map(str, other.dataset))
    assert first.statistics == other.statistics
    assert list(first.dataset) == list(make_mixture(CATALOG, histories, config, 2, neighbors=NEIGHBORS).dataset)


def test_statistics_count_what_is_there(chat_file: str) -> None:
    config = everything(chat_file, query=9.0, collaborative=7.0, caps={"sliding": 30, "chat": 4})
    tokenizer = toy_tokenizer()
    histories = [*toy_histories(), History("one", ("i20",))]
    mixture = make_mixture(CATALOG, histories, config, neighbors=NEIGHBORS, tokenizer=tokenizer)
    about = mixture.statistics
    assert json.loads(json.dumps(about, allow_nan=False)) == about
    assert about["examples"] == len(mixture.dataset)
    assert set(about["tasks"]) == set(TASKS)
    rows: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    for row in mixture.dataset:
        rows[row["task"]].append(row)
    for task, found in about["tasks"].items():
        assert found["examples"] == len(rows[task]) > 0
        assert found["keys"] == len({r["key"] for r in rows[task]})
        assert found["share"] == pytest.approx(len(rows[task]) / len(mixture.dataset), abs=1e-6)
        characters = sorted(sum(len(m["content"]) for m in r["prompt"] + r["completion"]) for r in rows[task])
        assert found["characters"]["max"] == characters[-1]
        assert found["characters"]["mean"] == pytest.approx(sum(characters) / len(characters), abs=0.01)
        below = sum(c <= found["characters"]["p95"] for c in characters) / len(characters)
        assert below >= 0.95 > sum(c < found["characters"]["p95"] for c in characters) / len(characters)
        text = tokenizer.apply_chat_template(rows[task][0]["prompt"] + rows[task][0]["completion"], tokenize=False).removesuffix("\n")
        assert found["tokens"]["max"] >= len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= 1
    assert about["tasks"]["sequence"]["dropped"] == {"one item only": 1}
    assert about["tasks"]["sliding"]["examples"] == 30
    assert about["tasks"]["chat"]["dropped"] == {"above the cap": 5}
    sources = {"query": len(CATALOG) * 9, "collaborative": len(CATALOG) * 7}
    for task, n in sources.items():  # no more variants than there are
        assert n - about["tasks"][task]["examples"] == sum(about["tasks"][task]["dropped"].values()) > 0


def test_tokens_are_those_of_the_whole_conversation() -> None:
    tokenizer = toy_tokenizer()
    examples = [Example("chat", "k", "a?", (Span("b."),), (("user", "x"), ("assistant", "y"))), *sequence_examples(toy_histories(5), 3)]
    rows = examples_to_dataset(examples)
    whole = [tokenizer.apply_chat_template(p + c, tokenize=False) for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
    want = [len(tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]) for text in whole]
    assert example_tokens(tokenizer, examples) == want


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("budget", [40, 70, 110])
def test_a_budget_drops_the_oldest_items_and_cuts_none(history: str, budget: int, chat_file: str) -> None:
    tokenizer = toy_tokenizer()
    config = everything(chat_file, history=history, max_tokens=budget, window=4)
    mixture = make_mixture(CATALOG, toy_histories(), config, neighbors=NEIGHBORS, tokenizer=tokenizer)
    free = make_mixture(CATALOG, toy_histories(), replace(config, max_tokens=0), neighbors=NEIGHBORS, tokenizer=tokenizer)
    assert max(t["tokens"]["max"] for t in free.statistics["tasks"].values()) > budget
    for task, found in mixture.statistics["tasks"].items():
        assert found.get("tokens", {"max": 0})["max"] <= budget
        before = free.statistics["tasks"][task]["examples"]
        assert before - found["examples"] == found["dropped"].get("more than max_tokens", 0)
    lines = [history_item(TERMS.line(t), i, history) for t, i in zip(CATALOG.term_ids, CATALOG.items, strict=True)]
    by_user = {h.user_id: [lines[CATALOG.position(i)] for i in h.items] for h in toy_histories()}
    shortened = 0
    for row in mixture.dataset:
        if row["task"] == "sequence":  # a suffix of the user's items, each whole, and the longest that fits
            user, begun, answer = row["prompt"][0]["content"], row["completion"][0]["content"], TERMS.line
            whole = by_user[row["key"]]
            target = answer(CATALOG.term_id(next(h for h in toy_histories() if h.user_id == row["key"]).items[-1]))
            made = {n: next_item_turns(whole[n:-1], history) for n in range(len(whole) - 1)}
            fits = {n: Example("sequence", "", u, default_spans("sequence", b + target, TERMS)) for n, (u, b) in made.items()}
            sizes = dict(zip(fits, example_tokens(tokenizer, list(fits.values())), strict=True))
            n = min(n for n, size in sizes.items() if size <= budget)
            assert (user, begun) == (fits[n].prompt, fits[n].completion)
            shortened += n > 0
    assert shortened == mixture.statistics["tasks"]["sequence"]["shortened"]
    if budget == 70 and history != "titles":
        assert shortened


@settings(max_examples=30, deadline=None)
@given(some_histories)
def test_validation_cases_have_the_same_form(histories: list[History]) -> None:
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in histories if len(h.items) > 1]
    assert list(validation_sequences(CATALOG, cases, 4)) == sequence_examples(histories, 4)
    for form in HISTORIES:
        config = only(sequence=1.0, history=form, max_history=4, max_tokens=60)
        if cases and (found := list(validation_sequences(CATALOG, cases, 4, form, max_tokens=60, tokenizer=toy_tokenizer()))):
            rows = make_mixture(CATALOG, histories, config, tokenizer=toy_tokenizer()).dataset
            assert Counter(map(str, rows)) == Counter(map(str, examples_to_dataset(found)))


# --- what is refused ---------------------------------------------------------------------------------------------------------------


def test_every_task_has_a_weight_and_a_cap() -> None:
    assert set(MixtureConfig().caps) == set(TASKS) <= {f.name for f in fields(MixtureConfig)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_history": 0}, r"^mixture\.max_history is 0; expected at least 1"),
        ({"stride": 0}, r"^mixture\.stride is 0; expected at least 1"),
        ({"neighbors_per_item": -1}, r"^mixture\.neighbors_per_item is -1; expected at least 1"),
        ({"internalise": -0.1}, r"^mixture\.internalise is -0\.1; expected a weight"),
        ({"query": float("nan")}, r"^mixture\.query is nan; expected a weight"),
        ({"chat": float("inf")}, r"^mixture\.chat is inf; expected a weight"),
        ({"max_tokens": -1}, r"^mixture\.max_tokens is -1; expected at least 0"),
        ({"history": "words"}, r"^mixture\.history is 'words'; expected one of"),
        ({"caps": {"query": -3}}, r"^mixture\.caps\.query is -3; expected at least 0"),
        ({"caps": {"qeury": 3}}, r"^mixture\.caps has the unknown task 'qeury'\. Did you mean 'query'\?"),
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**values)


def test_mixtures_that_are_refused(tmp_path: Path) -> None:
    one = [History("u", ("i20",))]
    with pytest.raises(ValueError, match=r"No training example.*one item only"):
        make_mixture(CATALOG, one, MixtureConfig(internalise=0))
    with pytest.raises(ValueError, match="No task has a weight above 0; give one"):
        make_mixture(CATALOG, one, only())
    with pytest.raises(ValueError, match="Item 'nope' is not in the catalog"):
        make_mixture(CATALOG, [History("u", ("i20", "nope"))])
    with pytest.raises(ValueError, match="max_tokens=100 needs a tokenizer"):
        make_mixture(CATALOG, one, MixtureConfig(max_tokens=100))
    with pytest.raises(ValueError, match="neither a folder with a tokenizer"):
        make_mixture(CATALOG, one, MixtureConfig(max_tokens=100, tokenizer=str(tmp_path)))
    with pytest.raises(ValueError, match=r"No training example.*more than max_tokens"):
        make_mixture(CATALOG, one, MixtureConfig(max_tokens=3), tokenizer=toy_tokenizer())
    for task in ("collaborative", "chat"):
        with pytest.raises(ValueError, match="name their file"):
            make_mixture(CATALOG, one, only(**{task: 1.0}))


def test_a_tokenizer_is_named_by_its_folder(tmp_path: Path) -> None:
    toy_tokenizer().save_pretrained(tmp_path)
    config = MixtureConfig(tokenizer=str(tmp_path), max_tokens=60)
    named = make_mixture(CATALOG, toy_histories(), config)
    given_ = make_mixture(CATALOG, toy_histories(), replace(config, tokenizer=""), tokenizer=toy_tokenizer())
    assert named.statistics == given_.statistics
    assert list(named.dataset) == list(given_.dataset)


def test_an_item_without_a_fitting_line_is_counted_and_the_others_stay() -> None:
    catalog = Catalog([Item("a", "short"), Item("b", "long " * 39)], [("x",), ("y",)])
    histories = [History("u", ("a", "b", "a")), History("v", ("b", "b", "a"))]
    config = only(sequence=1.0, history="both", max_tokens=60)
    with pytest.raises(ValueError, match="'more than max_tokens': 2"):
        make_mixture(catalog, histories, config, tokenizer=toy_tokenizer())
    histories.append(History("w", ("a", "a")))
    found = make_mixture(catalog, histories, config, tokenizer=toy_tokenizer()).statistics["tasks"]["sequence"]
    assert (found["examples"], found["dropped"]) == (1, {"more than max_tokens": 2})
