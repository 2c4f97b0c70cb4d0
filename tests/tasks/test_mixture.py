"""The training mixture: the same for the same seed, whole items only, and nothing but the catalog's written Term IDs as answers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_catalog, toy_histories

from grlm_hf.identifiers.terms import parse, render
from grlm_hf.interactions import Case, History
from grlm_hf.tasks.mixture import (
    Example,
    MixtureConfig,
    build_mixture,
    examples_to_dataset,
    internalisation,
    mixture_features,
    sequences,
    validation_sequences,
)
from grlm_hf.tasks.prompts import internalise_request, next_item_request

CATALOG = toy_catalog()
IDS = [i.item_id for i in CATALOG]
some_histories = st.lists(st.lists(st.sampled_from(IDS), min_size=1, max_size=9), max_size=6).map(
    lambda rows: [History(f"u{n}", tuple(items)) for n, items in enumerate(rows)]
)


def written(example: Example) -> list[str]:
    """The items of a sequence example, in order, as they are written: one in the prompt, the others in the completion."""
    assert example.completion.endswith("\n")
    *above, first = example.prompt.split("\n")
    assert all(parse(line) not in CATALOG.identifiers for line in above)
    return [first, *example.completion.removesuffix("\n").split("\n")]


@given(some_histories, st.integers(1, 9))
def test_sequences_show_the_first_item_and_ask_all_others(histories: list[History], max_history: int) -> None:
    examples = list(sequences(CATALOG, histories, max_history))
    long = [h for h in histories if len(h.items) > 1]  # one item: nothing to ask
    assert [(e.task, e.key) for e in examples] == [("sequence", h.user_id) for h in long]
    for example, history in zip(examples, long, strict=True):
        items = history.items[-(max_history + 1) :]  # older ones are dropped whole
        assert written(example) == [render(CATALOG.term_id(i)) for i in items]
        assert example.prompt == next_item_request([CATALOG.term_id(items[0])])


def test_a_prompt_shows_max_history_items() -> None:
    history = [History("u", tuple(IDS[:9]))]
    for max_history in range(1, 9):
        (example,) = sequences(CATALOG, history, max_history)
        lines = written(example)
        assert len(lines) == max_history + 1
        assert lines[-1] == render(CATALOG.term_id(IDS[8]))  # the newest is the last answer, after max_history items
    (example,) = sequences(CATALOG, history, 99)
    assert len(written(example)) == 9


@given(st.floats(0, 1), st.integers(0, 5))
def test_internalisation_takes_its_share(share: float, seed: int) -> None:
    examples = list(internalisation(CATALOG, share, seed))
    assert len(examples) == len({e.key for e in examples}) == round(share * len(CATALOG))
    assert examples == list(internalisation(CATALOG, share, seed))
    for e in examples:
        assert e.task == "internalise"
        assert e.prompt == internalise_request(CATALOG[e.key])
        assert e.completion == render(CATALOG.term_id(e.key)) + "\n"


def test_the_seed_picks_the_internalised_items() -> None:
    assert len({tuple(e.key for e in internalisation(CATALOG, 0.5, seed)) for seed in range(9)}) > 1


def test_the_same_seed_gives_the_same_rows() -> None:
    config = MixtureConfig(internalise=0.5)
    first, again, other = (list(build_mixture(CATALOG, toy_histories(), config, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_another_seed_only_changes_the_order() -> None:
    def counted(seed: int) -> Counter[str]:
        return Counter(map(str, build_mixture(CATALOG, toy_histories(), seed=seed)))

    assert counted(0) == counted(1)
    tasks = build_mixture(CATALOG, toy_histories())["task"]
    assert Counter(tasks) == {"sequence": 40, "internalise": 12}
    assert list(tasks) != sorted(tasks)  # mixed, not one task after the other
    assert list(tasks) != sorted(tasks, reverse=True)


def test_rows_are_chat_messages() -> None:
    mixture = build_mixture(CATALOG, toy_histories(2), MixtureConfig(max_history=2, internalise=0))
    assert mixture.features == mixture_features()
    assert sorted(mixture["key"]) == ["u0", "u1"]
    for row in mixture:
        ((user,), (assistant,)) = row["prompt"], row["completion"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert written(Example(row["task"], row["key"], user["content"], assistant["content"]))
    assert examples_to_dataset([]).features == mixture_features()


@given(some_histories)
def test_validation_cases_have_the_same_form(histories: list[History]) -> None:
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in histories if len(h.items) > 1]
    assert list(validation_sequences(CATALOG, cases, 4)) == list(sequences(CATALOG, histories, 4))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="max_history=0; expected at least 1"):
        MixtureConfig(max_history=0)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a share between 0 and 1"):
            MixtureConfig(internalise=share)
    with pytest.raises(ValueError, match="No training example"):
        build_mixture(CATALOG, [History("u", ("i20",))], MixtureConfig(internalise=0))
    with pytest.raises(ValueError, match="Item 'nope' is not in the catalog"):
        build_mixture(CATALOG, [History("u", ("i20", "nope"))])
