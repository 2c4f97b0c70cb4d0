from __future__ import annotations

import random

import numpy as np
import pytest
from toys import TERM_IDS, WORDS, toy_catalog

from grlm_hf.identifiers.terms import TERMS, TermID, render
from grlm_hf.training.rewards import (
    Group,
    Reward,
    collaborative,
    combined,
    exact_hit,
    for_trl,
    prefix,
    rank_aware,
    validity,
)

CATALOG = toy_catalog()
IDS = tuple(i.item_id for i in CATALOG)
TARGET = TERM_IDS[1]


class Fixed:
    """A scorer that rates items by their place in the catalog, whatever the history."""

    item_ids = IDS

    def scores(self, histories: list[list[str]]) -> np.ndarray:
        return np.tile(-np.arange(len(IDS), dtype=np.float32), (len(histories), 1))


def group(*found: TermID | None, target: TermID = TARGET) -> Group:
    return Group(("i20", "i12"), target, found)


def random_group(rng: random.Random) -> Group:
    tids: list[TermID | None] = [tuple(rng.choice(WORDS) for _ in range(3)) for _ in range(40)]
    found = list(dict.fromkeys([*tids[: rng.randint(2, 12)], None]))
    rng.shuffle(found)
    return group(*found, target=rng.choice([t for t in found if t] + [("far", "off")]))


def test_exact_hit_and_prefix() -> None:
    g = group(TERM_IDS[0], TARGET, TERM_IDS[2], TERM_IDS[4], None, TARGET[:2])
    assert exact_hit(g) == [0, 1, 0, 0, 0, 0]
    assert prefix(g) == [0.8, 1, 0.6, 0, 0, 0.4]


@pytest.mark.parametrize("seed", range(20))
def test_the_prefix_never_falls_as_more_terms_agree_and_only_the_target_has_1(seed: int) -> None:
    g = random_group(random.Random(seed))
    for tid, value, hit in zip(g.found, prefix(g), exact_hit(g), strict=True):
        agree = [a == b for a, b in zip(tid or (), g.target, strict=False)]
        assert value == next((i for i, same in enumerate(agree) if not same), len(agree)) / len(g.target)
        assert (value == 1) == (hit == 1 or (tid or ())[: len(g.target)] == g.target)


@pytest.mark.parametrize("seed", range(20))
def test_rank_aware_is_a_hit_minus_what_the_others_share(seed: int) -> None:
    g = random_group(random.Random(seed))
    values = rank_aware(g)
    others = [v for v, hit in zip(values, exact_hit(g), strict=True) if not hit]
    if g.target in g.found:
        assert sum(others) == pytest.approx(-1)
        assert sum(values) == pytest.approx(0)
        assert others == sorted(others)  # the further in front, the worse
        assert all(v < 0 for v in others)
    else:
        assert set(values) == {0}
    assert rank_aware(group(TARGET)) == [0]


def test_validity_is_membership_in_the_catalog() -> None:
    assert validity(CATALOG)(group(TERM_IDS[3], None, ("tent",), TERM_IDS[3][:4], TARGET)) == [1, 0, 0, 0, 1]


def test_collaborative_follows_the_scorer_and_takes_the_best_of_items_that_share_a_term_id() -> None:
    reward = collaborative(CATALOG, Fixed(), floor=-10)
    shared = TERM_IDS[6]
    assert shared == TERM_IDS[7]
    values = reward(group(TERM_IDS[0], TERM_IDS[5], shared, TERM_IDS[11], None, ("no", "item")))
    assert values == pytest.approx([1, 0.5, 0.4, 0, 0, 0])


def test_weights_combine() -> None:
    g = group(TERM_IDS[0], TARGET, TERM_IDS[4])
    weights: dict[Reward, float] = {exact_hit: 2.0, prefix: -1.0, rank_aware: 0.5}
    expected = [2 * a - b + 0.5 * c for a, b, c in zip(exact_hit(g), prefix(g), rank_aware(g), strict=True)]
    assert combined(weights)(g) == pytest.approx(expected)


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_form_of_trl_gives_the_values_of_the_groups(seed: int, messages: bool) -> None:
    """Also where two prompts in a row are equal: `place` tells them apart."""
    rng = random.Random(seed)
    first = random_group(rng)
    groups = [first, first, random_group(rng), random_group(rng)]
    texts = [render(tid) + "\n" if tid else "[, ]" for g in groups for tid in g.found]
    completions = [[{"role": "assistant", "content": t}] if messages else t for t in texts]
    columns = {
        "target": [list(g.target) for g in groups for _ in g.found],
        "place": [n for g in groups for n in range(len(g.found))],
    }
    prompts = [list(g.history) for g in groups for _ in g.found]
    f = for_trl(rank_aware, "rank")
    assert f.__name__ == "rank"
    expected = [v for g in groups for v in rank_aware(g)]
    assert f(prompts=prompts, completions=completions, completion_ids=None, trainer_state=None, **columns) == expected
    # where histories are a column of their own, prompts may be anything
    asked = {"prompts": ["…"] * len(texts), "history": prompts, "completions": completions}
    assert f(**asked, **columns) == expected
    # without places equal neighbours are one group
    del columns["place"]
    assert len(f(prompts=prompts, completions=completions, **columns)) == len(texts)


def test_the_answer_stands_behind_the_thought() -> None:
    first, answer, other = (TERMS.line(tid) for tid in TERM_IDS[:3])
    texts = [f"Not {first}but\n{answer}", f"{answer}{other}", f"{answer}...", f"So [{answer.strip('[]').upper()}", "A thought only."]
    f = for_trl(lambda group: [float(tid == TERM_IDS[1]) for tid in group.found], "answer")
    assert f(["…"] * 5, texts, history=[["i20"]] * 5, target=[list(TARGET)] * 5) == [1, 1, 1, 1, 0]
