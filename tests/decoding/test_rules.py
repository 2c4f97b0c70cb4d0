"""Rules and priors of `recommend` against ranking every item by the stated formula."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import close, fast_brute_force, random_grlm, random_history, toy_grlm

from grlm_hf import GRLMForRecommendation
from grlm_hf.decoding.rules import Shared
from grlm_hf.layout import OBJECTIVES
from grlm_hf.modeling.results import Recommendations

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # NumPy's, where infinities meet

randoms = st.randoms(use_true_random=False)
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def few(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None)


@dataclass(frozen=True)
class Asked:
    """What a call asks for, in plain sets and dicts: the oracle's side. `options` are the same as given to `recommend`."""

    allow: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    exclude_seen: bool = False
    banned: frozenset[str] = frozenset()
    prior: list[dict[str, float]] | None = None  # one a history
    prior_weight: float = 1.0
    shared: str = "full"
    length_penalty: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def allows(self, grlm: GRLMForRecommendation, user: int, history: list[str], item_id: str) -> bool:
        return (
            (self.allow is None or item_id in self.allow)
            and item_id not in self.exclude
            and not (self.exclude_seen and item_id in history)
            and self.banned.isdisjoint(grlm.catalog.term_id(item_id))
            and (self.prior is None or self.prior[user][item_id] > 0)
        )

    def score(self, grlm: GRLMForRecommendation, user: int, item_id: str, log_prob: float, length: int) -> float:
        score = log_prob / length**self.length_penalty
        if self.prior is not None and self.prior_weight:
            score += self.prior_weight * math.log(self.prior[user][item_id])
        group = [i.item_id for i in grlm.catalog.items_of(grlm.catalog.term_id(item_id))]
        if self.shared == "equal":
            score -= math.log(len(group))
        if self.shared == "prior":
            score += math.log(self.prior[user][item_id] / sum(self.prior[user][i] for i in group))
        return score


# --- each rule at random -----------------------------------------------------------------------------------------------------------


def some(rng: random.Random, ids: list[str]) -> list[str]:
    part = rng.choice([0.1, 0.5, 0.9])
    return [i for i in ids if rng.random() < part]


def ask_allow(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    allow = some(rng, ids)
    mask = [i in allow for i in ids]
    value = rng.choice([allow, tuple(allow), set(allow), np.array(mask), mask, dict.fromkeys(allow)])
    return replace(asked, allow=frozenset(allow), options={**asked.options, "allow": value})


def ask_exclude(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    exclude = some(rng, ids)
    return replace(asked, exclude=frozenset(exclude), options={**asked.options, "exclude": rng.choice([exclude, set(exclude)])})


def ask_exclude_seen(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    return replace(asked, exclude_seen=True, options={**asked.options, "exclude_seen": True})


def ask_banned_terms(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    banned = [rng.choice(terms) for _ in range(rng.randint(0, 2))]
    written = [rng.choice([t, t.upper(), f" {t}, "]) for t in banned] + rng.choice([[], ["no-item-has-this"]])
    return replace(asked, banned=frozenset(banned), options={**asked.options, "banned_terms": written})


def ask_prior(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    form, weight = rng.choice(["vector", "matrix", "mapping"]), rng.choice([0, 0.5, 1, 2])
    zero = rng.choice([0.0, 0.2])
    rows = [[0.0 if rng.random() < zero else rng.choice([1.0, 1.0, 0.25, 3.0, 700.0]) for _ in ids] for _ in range(users)]
    if form != "matrix":
        rows = rows[:1] * users
    named: Any = np.array(rows) if form == "matrix" else np.array(rows[0])
    if form == "mapping":
        named = {i: w for i, w in zip(ids, rows[0], strict=True) if w != 1 or rng.random() < 0.5}
    options = {**asked.options, "prior": named, "prior_weight": weight}
    if weight == 1 and rng.random() < 0.5:
        del options["prior_weight"]
    return replace(asked, prior=[dict(zip(ids, row, strict=True)) for row in rows], prior_weight=weight, options=options)


def ask_shared(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    shared = rng.choice(get_args(Shared))
    if shared == "prior" and asked.prior is None:
        asked = ask_prior(rng, asked, ids, terms, users)
    return replace(asked, shared=shared, options={**asked.options, "shared": shared})


def ask_length_penalty(rng: random.Random, asked: Asked, ids: list[str], terms: list[str], users: int) -> Asked:
    penalty = rng.choice([0.5, 1.0, 2.0])
    return replace(asked, length_penalty=penalty, options={**asked.options, "length_penalty": penalty})


RULES = {
    "allow": ask_allow,
    "exclude": ask_exclude,
    "exclude_seen": ask_exclude_seen,
    "banned_terms": ask_banned_terms,
    "prior": ask_prior,
    "shared": ask_shared,
    "length_penalty": ask_length_penalty,
}


class Case:
    """A random catalog and model, one to three histories, and what is asked of them."""

    def __init__(self, rng: random.Random, objective: str, *rules: str, most: int = 18):
        self.grlm = random_grlm(rng, objective, most)
        catalog = self.grlm.catalog
        self.ids, self.n = [i.item_id for i in catalog], len(catalog.identifiers)
        self.histories = [random_history(rng, catalog) for _ in range(rng.randint(1, 3))]
        terms = sorted({t for tid in catalog.term_ids for t in tid})
        self.asked = Asked()
        for rule in rules:
            self.asked = RULES[rule](rng, self.asked, self.ids, terms, len(self.histories))
        lengths = [len(p) for p in self.grlm.trie.paths()]
        leaf = {tid: i for i, tid in enumerate(catalog.identifiers)}
        # of each user the log-probability and the score of every item that is allowed, best first
        self.log_prob: list[dict[str, float]] = []
        self.ranking: list[dict[str, float]] = []
        for user, history in enumerate(self.histories):
            by_leaf = fast_brute_force(self.grlm, history)
            leaves = {i: leaf[catalog.term_id(i)] for i in self.ids}
            self.log_prob.append({i: by_leaf[leaves[i]] for i in self.ids})
            scores = {
                i: self.asked.score(self.grlm, user, i, by_leaf[leaves[i]], lengths[leaves[i]])
                for i in self.ids
                if self.asked.allows(self.grlm, user, history, i)
            }
            self.ranking.append(dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))))

    def recommend(self, k: int, **options: Any) -> list[Recommendations]:
        return self.grlm.recommend(self.histories, k, **self.asked.options, **options)

    def check_true(self, user: int, got: Recommendations) -> None:
        """Distinct, allowed, each with its own numbers, best first."""
        catalog, ranking = self.grlm.catalog, self.ranking[user]
        assert len({r.item_id for r in got}) == len(got)
        for r in got:
            assert r.item_id in ranking
            assert close(r.score, ranking[r.item_id])
            assert close(r.log_prob, self.log_prob[user][r.item_id])
            assert (r.term_id, r.title) == (catalog.term_id(r.item_id), catalog[r.item_id].title)
        for one, other in itertools.pairwise(got):
            assert one.score >= other.score
            if one.term_id == other.term_id and one.score == other.score:
                assert one.item_id < other.item_id

    def check_best(self, user: int, got: Recommendations, k: int) -> None:
        """The first `k` of the ranking, one for one. Other Term IDs whose scores tie within rounding may stand in either order."""
        self.check_true(user, got)
        want = list(self.ranking[user].items())[: k + 1]
        assert len(got) == min(k, len(self.ranking[user]))
        assert all(close(r.score, score) for r, (_, score) in zip(got, want, strict=False))
        term_id = self.grlm.catalog.term_id
        ties = any(close(a, b, 2e-4) and term_id(i) != term_id(j) for (i, a), (j, b) in itertools.pairwise(want))
        if not ties:
            assert [r.item_id for r in got] == [i for i, _ in want[:k]]


def check_all_searches(case: Case, k: int) -> None:
    for user, got in enumerate(case.recommend(k, exact=True)):
        case.check_best(user, got, k)
        assert (got.certified, got.gap) == (True, 0)
    for options in ({}, {"num_beams": case.n}, {"num_beams": case.n, "edge_wise": True}):  # by default 20, more than there are Term IDs
        for user, got in enumerate(case.recommend(k, **options)):
            case.check_best(user, got, k)
            assert (got.certified, math.isnan(got.gap)) == (False, True)


@each_objective
@pytest.mark.parametrize("rule", RULES)
@few(12)
@given(randoms)
def test_a_rule_alone_equals_ranking_all_items(objective: str, rule: str, rng: random.Random) -> None:
    case = Case(rng, objective, rule)
    check_all_searches(case, rng.randint(1, len(case.ids)))


@each_objective
@few(40)
@given(randoms)
def test_rules_together_equal_ranking_all_items(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective, *[rule for rule in RULES if rng.random() < 0.5])
    check_all_searches(case, rng.randint(1, len(case.ids)))


@few(25)
@given(randoms, st.sampled_from(OBJECTIVES))
def test_an_exact_answer_does_not_depend_on_width_or_batches(rng: random.Random, objective: str) -> None:
    case = Case(rng, objective, *[rule for rule in RULES if rng.random() < 0.4])
    k = rng.randint(1, len(case.ids))
    for options in ({"num_beams": min(k, case.n)}, {"batch_size": 1}, {"batch_size": 2}):
        for user, got in enumerate(case.recommend(k, exact=True, **options)):
            case.check_best(user, got, k)


@each_objective
def test_probabilities_stay_those_of_the_whole_catalog(objective: str) -> None:
    grlm, ids = toy_grlm(objective), [i.item_id for i in toy_grlm().catalog]
    for history in (["i20"], ["i13", "i9", "i18"]):
        everything = {r.item_id: r.log_prob for r in grlm.recommend(history, len(ids))}
        for allow in (ids[:1], ids[3:7], ids[::4]):
            for options in ({}, {"exact": True}, {"num_beams": len(allow), "edge_wise": True}):
                got = grlm.recommend(history, len(allow), allow=allow, **options)
                assert {r.item_id for r in got} == set(allow)
                assert all(close(r.log_prob, everything[r.item_id]) and r.score == r.log_prob for r in got)


def test_a_uniform_prior_and_no_rules_change_no_ranking() -> None:
    grlm = toy_grlm("trie")
    n = len(grlm.catalog)
    plain = grlm.recommend(["i20", "i11"], n)
    weightless = {"prior": np.linspace(1, 9, n), "prior_weight": 0}
    for options in (
        {"prior": np.full(n, 0.5)},
        {"prior": {}},
        weightless,
        {"allow": np.ones(n, bool)},
        {"exclude": [], "banned_terms": []},
    ):
        got = grlm.recommend(["i20", "i11"], n, **options)
        assert [r.item_id for r in got] == [r.item_id for r in plain]
        assert all(close(a.log_prob, b.log_prob) for a, b in zip(got, plain, strict=True))


def test_ids_and_terms_may_come_from_a_generator() -> None:
    grlm, histories = toy_grlm(), [["i20"], ["i11", "i9"]]
    for prior in (None, np.ones((2, 12))):  # with priors of their own the histories are asked for one by one
        for name, values in (("allow", ["i9", "i18", "i13"]), ("exclude", ["i20", "i9"]), ("banned_terms", ["tent", "steel"])):
            got = grlm.recommend(histories, 12, prior=prior, **{name: (v for v in values)})
            assert got == grlm.recommend(histories, 12, prior=prior, **{name: values})
            assert 0 < len(got[1]) < 12


def test_shares_of_a_term_id_sum_to_it() -> None:
    grlm = toy_grlm("trie")  # i13 and i14 share a Term ID
    for options in ({"shared": "equal"}, {"shared": "prior", "prior": {"i13": 3.0, "i14": 0.5}, "prior_weight": 0}):
        got = grlm.recommend(["i20"], 12, exact=True, **options)
        assert sum(math.exp(r.score) for r in got) == pytest.approx(1, abs=1e-4)
        two = {r.item_id: math.exp(r.score - r.log_prob) for r in got if r.item_id in ("i13", "i14")}
        assert two == pytest.approx({"i13": 0.5, "i14": 0.5} if options["shared"] == "equal" else {"i13": 6 / 7, "i14": 1 / 7})


@pytest.mark.parametrize("prior_weight", [0, 0.5, 2])
@pytest.mark.parametrize("form", ["mapping", "vector", "matrix"])
def test_a_prior_of_0_leaves_an_item_out_however_priors_weigh(prior_weight: float, form: str) -> None:
    grlm = toy_grlm()
    weights = np.array([0.0 if i.item_id in ("i9", "i14") else 2.0 for i in grlm.catalog])
    prior = {"mapping": {"i9": 0, "i14": 0.0}, "vector": weights, "matrix": weights[None]}[form]
    for options in ({}, {"exact": True}):
        got = grlm.recommend(["i20"], 12, prior=prior, prior_weight=prior_weight, **options)
        assert {r.item_id for r in got} == {i.item_id for i in grlm.catalog} - {"i9", "i14"}


# --- few or none allowed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"edge_wise": True}, {"num_beams": 3}])
@pytest.mark.parametrize(
    "rule",
    [
        {"allow": []},
        {"allow": np.zeros(12, bool)},
        {"exclude": [f"i{n}" for n in range(9, 21)]},
        {"prior": np.zeros(12)},
        {"prior": {f"i{n}": 0 for n in range(9, 21)}},
        {"prior": np.zeros((1, 12)), "shared": "prior"},
        {"allow": ["i9", "i20"], "exclude": ["i9"], "exclude_seen": True},
        {"allow": ["i20"], "banned_terms": ["tent"]},
    ],
)
def test_nothing_allowed_is_an_empty_answer(options: dict[str, Any], rule: dict[str, Any]) -> None:
    grlm = toy_grlm()
    got = grlm.recommend(["i20"], 3, **options, **rule)
    assert isinstance(got, Recommendations)
    assert got == []
    if "exact" in options:
        assert (got.certified, got.gap) == (True, 0)  # it is certain that there is nothing
    if not (isinstance(rule.get("prior"), np.ndarray) and rule["prior"].ndim == 2):
        assert grlm.recommend([["i20"], ["i20", "i11"]], 3, **options, **rule) == [[], []]


@each_objective
@few(40)
@given(randoms)
def test_fewer_allowed_than_asked_for_are_all_found_with_few_beams(objective: str, rng: random.Random) -> None:
    case = Case(rng, objective, "allow", *[rule for rule in ("exclude_seen", "banned_terms", "prior") if rng.random() < 0.3])
    k = min(case.n, rng.randint(1, 1 + max(map(len, case.ranking))))
    for options in ({}, {"edge_wise": True}, {"exact": True}):
        for user, got in enumerate(case.recommend(k, num_beams=k, **options)):
            case.check_true(user, got)
            assert len(got) == min(k, len(case.ranking[user]))
            if len(case.ranking[user]) <= k:
                assert {r.item_id for r in got} == case.ranking[user].keys()


def test_two_hundred_answers_under_random_rules_violate_none() -> None:
    rng, answers, recommended = random.Random(0), 0, 0
    while answers < 200:
        case = Case(rng, rng.choice(OBJECTIVES), *[rule for rule in RULES if rng.random() < 0.4], most=40)
        k = rng.randint(1, min(5, case.n))
        search: dict[str, Any] = rng.choice([{}, {"edge_wise": True}, {"exact": True}, {"exact": True, "max_forwards": 3}])
        for user, got in enumerate(case.recommend(k, num_beams=min(case.n, k + rng.randint(0, 2)), **search)):
            case.check_true(user, got)
            if "max_forwards" in search:
                assert got.forwards <= 3
                assert got.certified == (got.gap == 0)
                left = [score for i, score in case.ranking[user].items() if i not in {r.item_id for r in got}]
                if len(got) < min(k, len(case.ranking[user])):
                    assert got.gap == math.inf
                elif left and got:
                    assert left[0] - got[-1].score <= got.gap + 1e-4
            else:
                assert len(got) == min(k, len(case.ranking[user]))
            answers, recommended = answers + 1, recommended + len(got)
    assert recommended > 200


@each_objective
def test_a_deadline_gives_the_best_so_far_and_says_that_more_may_come(objective: str) -> None:
    grlm = toy_grlm(objective)
    histories = [["i20"], ["i11", "i9"]]
    for got in grlm.recommend(histories, 5, exact=True, deadline_ms=0):
        assert (got.forwards, got.certified) == (1, False)
        assert got.gap > 0
    for got, want in zip(
        grlm.recommend(histories, 5, exact=True, deadline_ms=60_000), grlm.recommend(histories, 5, exact=True), strict=True
    ):
        assert got == want
        assert (got.certified, got.gap) == (True, 0)


# --- refused -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": np.ones(11, bool)}, r"allow is an array of bool \[11\]; expected bool \[12\], one an item"),
        ({"allow": [True] * 13}, r"allow is an array of bool \[13\]; expected bool \[12\]"),
        ({"allow": np.ones((1, 12), bool)}, r"allow is an array of bool \[1, 12\]; expected bool \[12\]"),
        ({"allow": np.ones(12, np.int64)}, r"allow is an array of int64 \[12\]; expected bool \[12\]"),
        ({"allow": np.ones(12)}, r"allow is an array of float64 \[12\]; expected bool \[12\]"),
        ({"allow": "i20"}, r"allow is the string 'i20'; expected a"),
        ({"allow": ["i20", "nope"]}, r"Item 'nope' is not in the catalog of 12 items"),
        ({"allow": [3]}, r"Item 3 is not in the catalog of 12 items"),
        ({"exclude": ["i20", "nope"]}, r"Item 'nope' is not in the catalog of 12 items"),
        ({"prior": {"i20": 2.0, "nope": 1.0}}, r"Item 'nope' is not in the catalog of 12 items"),
        ({"prior": {"i20": -1.0}}, r"prior is -1\.0 for item 'i20'; expected finite weights of at least 0"),
        ({"prior": {"i19": math.nan}}, r"prior is nan for item 'i19'; expected finite weights of at least 0"),
        ({"prior": np.array([1.0] * 11 + [math.inf])}, r"prior is inf for item 'i9'; expected finite weights of at least 0"),
        ({"prior": np.array([[1.0] * 11 + [-0.5]])}, r"prior is -0\.5 for item 'i9'; expected finite weights of at least 0"),
        ({"prior": np.ones(11)}, r"prior has shape \[11\]; expected \[12\], one weight an item"),
        ({"prior": np.ones((1, 11))}, r"prior has shape \[11\]; expected \[12\], one weight an item"),
        ({"prior": np.ones((1, 1, 12))}, r"prior has shape \[1, 1, 12\]; expected \[12\], one weight an item"),
        ({"prior": np.array(1.0)}, r"prior has shape \[\]; expected \[12\], one weight an item"),
        ({"prior": np.ones((2, 12))}, r"prior has 2 rows for 1 histories; expected one a history"),
        ({"prior": np.ones((0, 12))}, r"prior has 0 rows for 1 histories; expected one a history"),
        ({"prior": np.ones(12), "prior_weight": -0.5}, r"prior_weight is -0\.5; expected a finite number of at least 0"),
        ({"prior": np.ones(12), "prior_weight": math.nan}, r"prior_weight is nan; expected a finite number of at least 0"),
        ({"prior": np.ones(12), "prior_weight": math.inf}, r"prior_weight is inf; expected a finite number of at least 0"),
        ({"shared": "half"}, r"shared is 'half'; expected one of \('full', 'equal', 'prior'\)"),
        ({"shared": "prior"}, r"shared='prior' splits an identifier's probability by the items' priors; give prior="),
        ({"banned_terms": ["tent", " -,"]}, r"banned_terms holds ' -,', which is no term: it has no letter or digit"),
        ({"banned_terms": "tent"}, r"banned_terms is the string 'tent'; expected a list, such as \['tent'\]"),
        ({"exclude": "i20"}, r"exclude is the string 'i20'; expected a list, such as \['i20'\]"),
        ({"length_penalty": -0.1}, r"length_penalty=-0\.1; expected a finite number of at least 0"),
        ({"length_penalty": math.nan}, r"length_penalty=nan; expected a finite number of at least 0"),
        ({"length_penalty": math.inf}, r"length_penalty=inf; expected a finite number of at least 0"),
        ({"k": 0}, r"k=0; expected 1 to 12, the size of the catalog"),
        ({"k": 13}, r"k=13; expected 1 to 12, the size of the catalog"),
        ({"num_beams": 0}, r"num_beams=0; expected 3 \(for k=3 items\) to 11, the number of Term IDs"),
        ({"num_beams": 2}, r"num_beams=2; expected 3 \(for k=3 items\) to 11, the number of Term IDs"),
        ({"num_beams": 12}, r"num_beams=12; expected 3 \(for k=3 items\) to 11, the number of Term IDs"),
        ({"k": 12, "num_beams": 10}, r"num_beams=10; expected 11 \(for k=12 items\) to 11, the number of Term IDs"),
        ({"deadline_ms": 50}, r"deadline_ms and max_forwards limit an exact search; add exact=True"),
        ({"exact": True, "max_forwards": 0}, r"max_forwards=0; expected at least 1"),
        ({"max_forwards": 3, "edge_wise": True}, r"deadline_ms and max_forwards limit an exact search; add exact=True"),
    ],
)
def test_refused_with_what_was_found_and_what_is_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_grlm().recommend(["i20"], **{"k": 3, **options})
