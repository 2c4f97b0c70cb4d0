"""Mixtures and gates: as scorers, beside a language model, and their fits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from toys import brute_force, close, some_histories, toy_catalog, toy_grlm, toy_histories

from grlm_hf import Item
from grlm_hf.data.interactions import Case, History
from grlm_hf.evaluation.slices import macro_weights
from grlm_hf.modeling.hybrid import tune_hybrid
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.fusing import SHARES, fuse, temperatures_of
from grlm_hf.priors.how import BORDERS, LENGTHS, MODEL, How, buckets, length_buckets
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.likelihood import fit_weights
from grlm_hf.priors.text import TextKNN
from grlm_hf.priors.tuning import TEMPERATURES, Targets

CATALOG = toy_catalog()
IDS = [i.item_id for i in CATALOG]
TRAIN = [History(h.user_id, h.items[:-1]) for h in toy_histories() if IDS[0] not in h.items[:-1]]  # the first item never sold
KNN, TEXT = ItemKNN.fit(IDS, TRAIN), TextKNN.fit(CATALOG.items)
WEIGHTS = {"item_knn": 0.5, "text_knn": 2.0}
ROWS, COLUMNS = len(BORDERS) + 1, len(LENGTHS) + 1
ONES = [[1.0] * COLUMNS] * ROWS
MIXTURE = How("mixture", "macro", temperatures={"item_knn": 2.0, "text_knn": 0.7})
TABLE = [[round(0.2 + 0.3 * row + 0.1 * column, 1) for column in range(COLUMNS)] for row in range(ROWS)]
GATE = How("gate", bias=(1.0, 0.5, 0.0, 0.0), gate={"text_knn": TABLE})
HISTORIES = [["i20"], ["i20", "i19", "i18"], [IDS[n] for n in (1, 2, 3, 4, 5, 6)]]


def fused(how: How, **weights: float) -> Fused:
    return Fused({"item_knn": (KNN, 1.0), "text_knn": (TEXT, 1.0)}, IDS).weighted(weights or WEIGHTS, how)


def parts(prior: Fused, history: list[str]) -> dict[str, list[float]]:
    return {name: [float(s) for s in row[0]] for name, row in prior.parts([history]).items()}


def normal(p: np.ndarray) -> np.ndarray:
    return p / p.sum()


# --- as scorers ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", HISTORIES)
def test_a_mixture_adds_probabilities_each_at_its_temperature(history: list[str]) -> None:
    prior = fused(MIXTURE)
    want = np.zeros(len(IDS))
    for name, row in parts(prior, history).items():
        want += WEIGHTS[name] * normal(np.exp(np.array(row) / MIXTURE.temperatures[name]))
    assert np.allclose(prior.probabilities([history])[0], want / sum(WEIGHTS.values()), rtol=1e-4)
    assert np.allclose(prior.beside([history])["prior"][0], want, rtol=1e-4)


@pytest.mark.parametrize("history", HISTORIES)
def test_a_gate_weighs_by_the_item_s_events_and_the_history_s_length(history: list[str]) -> None:
    prior = fused(GATE)
    counts, found = Counter(i for h in TRAIN for i in h.items), parts(prior, history)
    column = 0 if len(history) < 3 else 1 if len(history) < 6 else 2
    want = []
    for n, item in enumerate(IDS):
        row = sum(counts[item] >= border for border in (3, 6, 14))
        want.append(np.exp(0.5 * found["item_knn"][n] + 2.0 * TABLE[row][column] * found["text_knn"][n] + GATE.bias[row]))
    assert len({sum(counts[item] >= border for border in BORDERS) for item in IDS}) > 1
    assert np.allclose(prior.probabilities([history])[0], normal(np.array(want)), rtol=1e-3)


def test_a_gate_of_one_value_is_a_product() -> None:
    same = fused(How("gate", gate={"item_knn": ONES, "text_knn": ONES}))
    assert np.allclose(same.scores(HISTORIES), fused(How()).scores(HISTORIES), atol=1e-5)


def test_a_mixture_keeps_what_one_component_excludes() -> None:
    class Never:
        """A scorer that gives the first item hardly any probability."""

        item_ids, known = tuple(IDS), np.ones(len(IDS), bool)

        def scores(self, histories: list[list[str]]) -> np.ndarray:
            row = np.full(len(IDS), -np.log(len(IDS) - 1), np.float32)
            row[0] = -90
            return np.tile(row, (len(histories), 1))

    both = {"never": (Never(), 1.0), "text_knn": (TEXT, 1.0)}
    product, mixture = (Fused(both, IDS, how=how).probabilities([["i20"]])[0] for how in (How(), How("mixture")))
    assert product[0] < 1e-30
    assert mixture[0] == pytest.approx(np.exp(TEXT.scores([["i20"]])[0][0]) / 2, rel=1e-3)


@pytest.mark.parametrize("how", [MIXTURE, GATE])
def test_it_is_saved_with_its_form_and_refused_by_earlier_versions(how: How, tmp_path: Path) -> None:
    prior = fused(how)
    prior.save(tmp_path / "prior")
    facts = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert (facts["schema"], facts["form"], facts.get("fit", "ndcg")) == (3, how.form, how.fit)
    again = Fused.load(tmp_path / "prior")
    assert again.how == how
    assert ("and how long the history is" in str(again.how.words)) == (how is GATE)
    assert np.array_equal(again.scores(HISTORIES), prior.scores(HISTORIES))


def test_a_macro_product_is_read_by_earlier_versions(tmp_path: Path) -> None:
    fused(How(fit="macro")).save(tmp_path / "prior")
    facts = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert facts["schema"] == 1
    assert facts["fit"] == "macro"


@pytest.mark.parametrize("how", [MIXTURE, GATE])
def test_a_new_item_is_one_that_never_sold(how: How) -> None:
    new = Item("i99", "Title 99 stove", description="stove kitchen gas steel")
    changed = CATALOG.add([new], [("stove", "new")])
    prior = fused(how).following(changed)
    assert prior.how == how
    assert prior.counts is not None
    assert (prior.counts[-1], prior.item_ids[-1]) == (0, "i99")
    assert prior.probabilities(HISTORIES).shape == (3, len(IDS) + 1)
    row, found = prior.probabilities([["i20"]])[0], parts(prior, ["i20"])
    if how is GATE:
        item_knn, text_knn = (found[name] for name in WEIGHTS)
        lift = (0.5 * item_knn[-1] + 2 * TABLE[0][0] * text_knn[-1] + GATE.bias[0]) - (
            0.5 * item_knn[0] + 2 * TABLE[0][0] * text_knn[0] + GATE.bias[0]
        )
        assert np.log(row[-1] / row[0]) == pytest.approx(lift, abs=1e-3)  # both never sold


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"form": "sum"}, "form of a fused prior is 'sum'; expected one of product, mixture, gate"),
        ({"fit": "guess"}, "fit of a fused prior is 'guess'"),
        ({"form": "mixture", "bias": (1.0, 0.0, 0.0, 0.0)}, "for a mixture none"),
        ({"form": "mixture", "temperatures": {"item_knn": 0.0}}, "expected numbers above 0"),
        ({"temperatures": {"item_knn": 1.0}}, "only of a mixture"),
        ({"form": "gate"}, "factors for 0 components"),
        ({"gate": {"text_knn": ONES}}, "none for others"),
        ({"form": "gate", "gate": {"text_knn": ONES[1:]}}, "expected 4 rows of 3 finite numbers"),
        ({"form": "gate", "gate": {"text_knn": [[1.0, 1.0, -1.0]] * 4}}, "expected 4 rows of 3 finite numbers"),
    ],
)
def test_values_that_a_form_does_not_have_are_refused(values: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        How(**values)  # type: ignore[arg-type]
    fused(How()).save(tmp_path / "prior")
    path = tmp_path / "prior" / "prior.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3} | values))
    with pytest.raises(ValueError, match=said):
        Fused.load(tmp_path / "prior")


def test_a_form_belongs_to_components_that_are_there() -> None:
    with pytest.raises(ValueError, match="is of 'other'"):
        Fused({"text_knn": (TEXT, 1.0)}, how=How("mixture", temperatures={"other": 1.0}))
    with pytest.raises(ValueError, match="needs a component that counts events"):
        Fused({"text_knn": (TEXT, 1.0)}, how=How("gate", gate={"text_knn": ONES}))
    alone = fused(GATE, text_knn=1.0)  # item_knn only counts
    assert alone.weights == {"item_knn": 0.0, "text_knn": 1.0}
    assert fused(MIXTURE, text_knn=1.0).how.temperatures == {"text_knn": 0.7}


# --- beside a language model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["trie", "vocabulary"])
@pytest.mark.parametrize("rules", [{}, {"exclude_seen": True}, {"exclude": IDS[:4]}, {"prior_weight": 0.1}, {"prior_weight": 0.0}])
def test_the_exact_search_finds_the_best_of_a_mixture(objective: str, rules: dict[str, object]) -> None:
    grlm, prior = toy_grlm(objective), fused(MIXTURE)
    grlm.prior = prior
    weight = float(rules.get("prior_weight", 1.0))  # type: ignore[arg-type]
    for history in some_histories(3):
        of_identifier = brute_force(grlm, history)
        log_p = {item: of_identifier[CATALOG.term_id(item)] for item in IDS}
        of_prior = dict(zip(IDS, prior.beside([history])["prior"][0], strict=True))
        gone = set(history if "exclude_seen" in rules else ()) | set(rules.get("exclude", ()))  # type: ignore[call-overload]
        want = {i: float(np.log(np.exp(log_p[i]) + weight * of_prior[i])) for i in IDS if i not in gone}
        got = grlm.recommend(history, 5, prior="own", exact=True, num_beams=5, **rules)
        assert got.certified
        assert all(close(r.score, want[r.item_id], 1e-3) and close(r.log_prob, log_p[r.item_id], 1e-3) for r in got)
        assert [r.score for r in got] == pytest.approx(sorted(want.values(), reverse=True)[:5], abs=1e-3)


def test_a_mixture_does_not_need_the_language_model_s_consent() -> None:
    grlm = toy_grlm()
    last = grlm.recommend(["i20"], len(IDS), exact=True)[-1].item_id
    prior = np.where(np.array(IDS) == last, 1.0, 0.0)
    assert grlm.recommend(["i20"], 1, prior=prior, prior_form="mixture", exact=True)[0].item_id == last
    assert len(grlm.recommend(["i20"], len(IDS), prior=prior, prior_form="mixture")) == len(IDS)  # probability 0 adds nothing
    assert len(grlm.recommend(["i20"], len(IDS), prior=prior)) == 1


def test_a_mixture_without_decoding_is_the_same_sum() -> None:
    grlm, prior = toy_grlm(), fused(MIXTURE)
    grlm.prior = prior
    dense = dict(zip(IDS, grlm.dense_on().scores([["i20"]])[0], strict=True))
    of_prior = dict(zip(IDS, prior.beside([["i20"]])["prior"][0], strict=True))
    for r in grlm.recommend(["i20"], 12, prior="own", decode=False):
        assert close(r.score, float(np.log(np.exp(float(dense[r.item_id])) + of_prior[r.item_id])), 1e-3)


def test_a_mixture_without_a_language_model_ranks_by_its_own_probabilities() -> None:
    prior = fused(MIXTURE)
    counting = toy_grlm().without_language_model(prior)
    found = counting.recommend(["i20"], 12)
    p = dict(zip(IDS, prior.probabilities([["i20"]])[0], strict=True))
    assert [r.item_id for r in found] == sorted(p, key=lambda i: -p[i])
    assert all(close(r.score, float(np.log(p[r.item_id])), 1e-4) for r in found)


def test_what_a_mixture_cannot_do_is_refused() -> None:
    grlm = toy_grlm()
    with pytest.raises(ValueError, match="shared='equal' splits a log-probability"):
        grlm.recommend(["i20"], prior=np.ones(12), prior_form="mixture", shared="equal")
    with pytest.raises(ValueError, match="prior_form is 'sum'"):
        grlm.recommend(["i20"], prior=np.ones(12), prior_form="sum")


# --- fits ---------------------------------------------------------------------------------------------------------------------------

N, CASES = 40, 3000
MANY = [f"i{n}" for n in range(N)]
COUNTS = np.repeat([1, 4, 9, 30], N // 4)
RNG = np.random.default_rng(0)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def drawn(p: np.ndarray, lengths: np.ndarray | None = None) -> list[Case]:
    """Cases with targets of these probabilities."""
    lengths = np.ones(CASES, int) if lengths is None else lengths
    targets = [RNG.choice(N, p=row.astype(float) / row.sum(dtype=float)) for row in p]
    return [Case(f"u{n}", ("none",) * int(length), MANY[t]) for n, (t, length) in enumerate(zip(targets, lengths, strict=True))]


SCORES = {name: log_softmax(3 * RNG.normal(size=(CASES, N))) for name in ("a", "b", "c")}
MIXED = drawn(0.5 * np.exp(SCORES["a"]) + 0.5 * np.exp(log_softmax(SCORES["b"] / 2)))


def test_the_temperatures_and_the_shares_that_made_the_targets_are_found() -> None:
    found = fuse(SCORES, MIXED, MANY, COUNTS, form="mixture", fit="likelihood")
    alone = temperatures_of({"b": log_softmax(SCORES["b"])}, drawn(np.exp(log_softmax(SCORES["b"] / 2))), MANY)
    assert alone == {"b": 2.0}
    assert found.how.form == "mixture"
    assert found.how.temperatures == temperatures_of(SCORES, MIXED, MANY)
    assert set(found.how.temperatures.values()) <= set(TEMPERATURES)
    calibrated = fuse(SCORES, MIXED, MANY, COUNTS, form="mixture", fit="likelihood", temperatures={"a": 1.0, "b": 2.0, "c": 1.0})
    assert calibrated.weights["b"] == pytest.approx(1.0, abs=0.15)
    assert calibrated.weights["c"] == pytest.approx(0.0, abs=0.05)


def test_the_weights_of_a_mixture_have_the_best_ndcg_of_the_grid() -> None:
    two = {name: SCORES[name] for name in ("a", "b")}
    found = fuse(two, MIXED, MANY, COUNTS, form="mixture", temperatures={"a": 1.0, "b": 2.0})
    targets, p = Targets(MANY, MIXED), {"a": np.exp(SCORES["a"]), "b": np.exp(log_softmax(SCORES["b"] / 2))}
    tried = {share: targets.ndcg(p["a"] + np.float32(share) * p["b"]).mean() for share in SHARES}
    assert tried[found.weights["b"]] == max(tried.values())
    assert found.by_case.mean() == pytest.approx(max(tried.values()), abs=1e-5)
    product = fuse(two, MIXED, MANY, COUNTS)
    assert found.by_case.mean() > product.by_case.mean()


def test_a_gate_finds_where_which_part_counts() -> None:
    lengths, bucket = RNG.choice([1, 4, 9], CASES), buckets(COUNTS)
    told = np.where((bucket == 0) & (lengths > 5)[:, None], 2.0, 0.3)
    cases = drawn(np.exp(log_softmax(SCORES["a"] + told * SCORES["b"])), lengths)
    two = {name: SCORES[name] for name in ("a", "b")}
    found = fuse(two, cases, MANY, COUNTS, form="gate")
    weight = {name: found.weights[name] * np.array(found.how.gate[name]) for name in two}
    assert weight["b"].shape == (ROWS, COLUMNS)
    ratio = weight["b"] / weight["a"]
    assert ratio[0, 2] > 2 * np.delete(ratio.ravel(), 2).max()
    assert found.by_case.mean() > fit_weights(two, cases, MANY, COUNTS).by_case.mean()
    total = found.total(two, bucket, length_buckets([c.history for c in cases]))
    n, item = int(np.flatnonzero(lengths == 9)[0]), 0
    by_hand = sum(weight[name][0, 2] * SCORES[name][n, item] for name in two) + found.how.bias[0]
    assert total[n, item] == pytest.approx(by_hand, abs=1e-3)


def test_a_gate_leaves_a_language_model_s_weight_alone() -> None:
    told = np.where(buckets(COUNTS) == 0, 2.0, 0.3)
    cases = drawn(np.exp(log_softmax(SCORES["a"] + told * SCORES["b"])))
    found = fuse({MODEL: SCORES["a"], "b": SCORES["b"]}, cases, MANY, COUNTS, form="gate")
    assert list(found.how.gate) == ["b"]
    assert found.how.words[0] == "a gate of the weights by how often an item sold"
    weight = found.weights["b"] * np.array(found.how.gate["b"])
    assert np.ptp(weight, 1).max() == 0  # the history's length tells nothing, so it is not asked
    assert weight[0, 0] > 2 * weight[1:].max()


def test_what_only_one_part_ranks_high_counts_in_its_weight() -> None:
    noise, knowing = np.zeros((CASES, 2, 400), np.float32), RNG.integers(0, 400, CASES)
    noise += RNG.normal(size=noise.shape)
    noise[np.arange(CASES), 0, knowing], noise[np.arange(CASES), 1, knowing] = 6, -30
    parts = {name: log_softmax(noise[:, n]) for n, name in enumerate("ab")}
    cases = [Case(f"u{n}", ("none",), f"m{t}") for n, t in enumerate(knowing)]
    found = fit_weights(parts, cases, [f"m{n}" for n in range(400)], np.full(400, 20))
    assert found.weights["b"] < 0.3 * found.weights["a"]
    assert found.by_case.mean() > 0.9


def test_a_gate_where_nothing_depends_on_anything_stays_near_a_product() -> None:
    two = {name: SCORES[name] for name in ("a", "b")}
    cases = drawn(np.exp(log_softmax(SCORES["a"] + 0.5 * SCORES["b"])), RNG.choice([1, 4, 9], CASES))
    found = fuse(two, cases, MANY, COUNTS, form="gate", fit="likelihood")
    assert np.abs(found.weights["b"] * np.array(found.how.gate["b"]) - 0.5).max() < 0.25
    assert found.how.fit == "likelihood"


def test_the_best_form_is_the_better_one_of_product_and_gate() -> None:
    lengths, bucket = RNG.choice([1, 4, 9], CASES), buckets(COUNTS)
    two = {name: SCORES[name] for name in ("a", "b")}
    where = (bucket == 0) & (lengths > 5)[:, None]
    depends = np.where(where, 2.0, 0.3)
    turned = np.where(
        (np.arange(CASES) % 2 == 0)[:, None], depends, np.where(where, 0.0, 1.0)
    )  # no factor of one half is right in the other
    forms = []
    for told in (depends, turned):
        cases = drawn(np.exp(log_softmax(SCORES["a"] + told * SCORES["b"])), lengths)
        found = fuse(two, cases, MANY, COUNTS, form="best")
        each = {form: fuse(two, cases, MANY, COUNTS, form=form) for form in ("product", "gate")}
        assert found.by_case.mean() == max(one.by_case.mean() for one in each.values())
        assert found.weights == each[found.how.form].weights
        forms.append(found.how.form)
    assert forms == ["gate", "product"]


def test_a_gate_that_cannot_be_fitted_is_a_product_and_that_is_said() -> None:
    few = {name: part[:4] for name, part in SCORES.items()}
    for given, count, said in ((few, COUNTS, "too few"), (few, None, "counts events"), ({"a": few["a"]}, COUNTS, "two parts")):
        with pytest.warns(UserWarning, match=said):
            found = fuse(given, MIXED[:4], MANY, count, form="gate")
        assert found.how == How()


def test_the_macro_average_weighs_slices_alike() -> None:
    counts = {"a": 5, "b": 5, "c": 1}
    catalog = toy_catalog()
    ids = [i.item_id for i in catalog]
    counts = dict.fromkeys(ids[:6], 9) | dict.fromkeys(ids[6:], 1)
    cases = [Case(f"u{n}", ("x",), ids[0] if n < 8 else ids[7]) for n in range(10)]  # eight of much sold items, two of the others
    weights = macro_weights(cases, catalog, counts)
    assert weights.mean() == pytest.approx(1)
    by_case = np.array([1.0] * 8 + [0.0] * 2)
    assert (by_case * weights).mean() == pytest.approx(0.5)


def test_weights_for_the_macro_average_favour_what_finds_rare_items() -> None:
    rare = np.arange(N) < 4
    p = np.where(rare, np.exp(SCORES["b"]), 8 * np.exp(SCORES["a"]))
    cases = drawn(p)
    of_rare = np.array([MANY.index(c.target) < 4 for c in cases])
    case_weights = np.where(of_rare, 0.5 / of_rare.mean(), 0.5 / (~of_rare).mean())
    two = {"a": np.where(rare, SCORES["a"] - 3, SCORES["a"]), "b": SCORES["b"]}
    plain, macro = (fuse(two, cases, MANY, COUNTS, fit=fit, case_weights=case_weights) for fit in ("ndcg", "macro"))
    assert macro.how.fit == "macro"
    assert macro.weights["b"] > plain.weights["b"]
    assert (macro.by_case * case_weights).mean() > (plain.by_case * case_weights).mean()
    assert macro.by_case[of_rare].mean() > plain.by_case[of_rare].mean()
    with pytest.raises(ValueError, match="needs case_weights"):
        fuse(two, cases, MANY, COUNTS, fit="macro")


@pytest.mark.parametrize("form", ["product", "mixture"])
def test_a_hybrid_says_what_the_search_finds(form: str) -> None:
    grlm = toy_grlm("trie")
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in toy_histories()][:20]
    tuned = tune_hybrid(grlm, fused(How(), item_knn=1.0, text_knn=1.0), cases, form=form)  # type: ignore[arg-type]
    assert tuned.prior.how.form == form
    targets, found = Targets(IDS, cases), np.full((len(cases), len(IDS)), -1e9, np.float32)
    for row, case in enumerate(cases):
        for r in grlm.recommend(case.history, 12, exact=True, exclude_seen=True, **tuned.prior.beside([case.history])):
            found[row, IDS.index(r.item_id)] = r.score
    assert targets.ndcg(found) == pytest.approx(tuned.by_case, abs=1e-6)
