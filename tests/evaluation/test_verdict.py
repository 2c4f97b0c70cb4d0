"""The verdict: which method won, whether that is real, and what to ship, on validation users where they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_toys import HOSTILE, full_report

from grlm_hf.evaluation.metrics import Estimate
from grlm_hf.evaluation.report import all_tables, load_report, save_report, short_text
from grlm_hf.evaluation.report.tables import short_table
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.evaluation.verdict import Choice, choose, explained, stated, uses_language_model, verdict
from grlm_hf.files import read_json
from grlm_hf.recipe import PriorsConfig, Recipe, override

SHOP = {"grlm": 0.09, "grlm+item_knn": 0.11, "item_knn": 0.10, "text_knn": 0.12, "item_knn+text_knn": 0.15, "random": 0.01}


def report(values: Mapping[str, float], p: float | None = None, p_holm: float | None = None) -> Report:
    """A report of these recalls; `p` of the best method against each other one."""
    methods = {name: {"recall@10": Estimate(v, v, v), "ndcg@10": Estimate(v, v, v)} for name, v in values.items()}
    best = max(values, key=values.__getitem__)
    compared = [
        Comparison(best, name, "recall@10", values[best] - v, 0.0, 1.0, p, p_holm, "t")
        for name, v in values.items()
        if name != best and p is not None
    ]
    return replace(full_report(), methods=methods, comparisons=tuple(compared), verdict=None)


def test_a_shop_is_told_to_ship_no_language_model() -> None:
    found = verdict(report(SHOP, 0.001, 0.003), Choice("item_knn+text_knn", 500, {}, -0.02, 0.0004))
    assert found.text == (
        "item_knn+text_knn is best, with recall@10 0.1500, +0.0400 against grlm+item_knn, the best with the language model (p = 0.0030 "
        "after Holm's correction: a real difference); ship item_knn+text_knn, without the language model: the language model adds nothing "
        "that is shown on validation users (-0.0200 NDCG@10, p = 0.0004)."
    )
    assert (found.best, found.ship, found.chosen_on) == ("item_knn+text_knn", "item_knn+text_knn", "validation")


def test_what_validation_users_chose_is_shipped_whatever_won_the_test() -> None:
    found = verdict(report(SHOP | {"grlm+item_knn": 0.2}, 0.2, 0.6), Choice("grlm+item_knn", 500, {}, 0.02, 0.001))
    assert found.ship == "grlm+item_knn"
    assert "(p = 0.6000 after Holm's correction: it could be chance); ship grlm+item_knn: the language model adds something" in found.text
    assert verdict(report(SHOP, 0.01), Choice("grlm", 5, {})).ship == "grlm"
    assert verdict(report(SHOP, 0.01), Choice("sasrec", 5, {})).ship == "item_knn+text_knn"  # a method that the report lacks


@pytest.mark.parametrize(
    ("p", "p_holm", "ship", "said"),
    [
        (0.001, 0.01, "grlm+item_knn", "p = 0.0100 after Holm's correction: a real difference"),
        (0.03, 0.2, "text_knn", "p = 0.2000 after Holm's correction: it could be chance"),
        (0.01, None, "grlm+item_knn", "(p = 0.0100: a real difference)"),
        (None, None, "grlm+item_knn", "(not tested)"),
    ],
)
def test_without_validation_the_reported_users_choose_and_that_is_said(p: float, p_holm: float, ship: str, said: str) -> None:
    found = verdict(report({"grlm": 0.1, "grlm+item_knn": 0.3, "text_knn": 0.2}, p, p_holm))
    assert found.ship == ship
    assert said in found.text
    assert "chosen on these users, as none of validation were measured" in found.text
    assert found.chosen_on == "the reported users"
    there = report({"grlm": 0.1, "text_knn": 0.2})
    assert verdict(replace(there, protocol=replace(there.protocol, split="leave-one-out, validation"))).chosen_on == "validation"


@pytest.mark.parametrize(
    ("values", "said", "ship"),
    [
        ({"grlm": 0.0, "item_knn": 0.0, "random": 0.0}, "No method finds more than chance does (recall@10 0.0000)", ""),
        ({"grlm": 0.1, "random": 0.2}, "No method finds more than chance", ""),
        ({"grlm": 0.1}, "grlm is best, with recall@10 0.1000; ship grlm:", "grlm"),
        ({"grlm": 0.1, "grlm+item_knn": 0.2}, "+0.1000 against grlm, the next (not tested); ship grlm+item_knn:", "grlm+item_knn"),
        (  # equally good: the one that costs less
            {"item_knn": 0.2, "grlm": 0.2},
            "item_knn and grlm, the best with the language model, are equally good, with recall@10 0.2000; ship item_knn",
            "item_knn",
        ),
        ({"grlm_free": 0.9, "grlm": 0.2}, "grlm is best", "grlm"),  # measured on other users
    ],
)
def test_whatever_was_measured_there_is_a_sentence(values: dict[str, float], said: str, ship: str) -> None:
    found = verdict(report(values))
    assert said in found.text
    assert found.ship == ship
    assert found.text.endswith(".")
    assert "\n" not in found.text


def test_components_without_weight_are_named() -> None:
    fused = {"item_knn": 0.5, "text_knn": 0.0}
    one = replace(report({"grlm": 0.1, "grlm+item_knn+text_knn": 0.2}), weights={"grlm+item_knn+text_knn": fused})
    assert verdict(one).text.endswith(" In it, item_knn has weight 0.5, text_knn got 0.")
    (row,) = [row for row in short_table(one, with_words=True).rows if "+" in row[0].text]
    assert row[1].text == "the language model together with item_knn and text_knn (item_knn has weight 0.5, text_knn got 0)"
    for text in (short_text(one), all_tables(one), all_tables(one, markdown=True)):
        assert "text\\_knn got 0" in text or "In grlm+item_knn+text_knn, item_knn has weight 0.5, text_knn got 0." in text
    nothing = replace(one, weights={"grlm+item_knn+text_knn": dict.fromkeys(fused, 0.0)})
    assert verdict(nothing).text.endswith(" In it, item_knn got weight 0, text_knn got 0.")
    whole = replace(one, weights={"grlm+item_knn+text_knn": dict.fromkeys(fused, 1.0)})
    assert "weight" not in short_text(whole)


def test_the_language_model_is_chosen_only_if_it_is_really_better() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400) * (rng.random(400) < 0.3)
    users = [f"u{n}" for n in range(400)]

    def chosen(**more: Any) -> Choice:
        return choose({"grlm": base / 2, "item_knn": base, "popularity": base / 4, **more}, users)

    assert chosen().ship == "item_knn"
    better = chosen(**{"grlm+item_knn": base + 0.05 * (rng.random(400) < 0.5)})
    assert better.ship == "grlm+item_knn"
    assert better.p is not None
    assert better.p < 0.001
    assert better.difference == pytest.approx(better.ndcg["grlm+item_knn"] - better.ndcg["item_knn"])
    a_little = chosen(**{"grlm+item_knn": base + 0.1 * rng.normal(size=400) + 0.001})
    assert a_little.ship == "item_knn"
    assert choose({"grlm": base}, users) == Choice("grlm", 400, {"grlm": float(base.mean())})
    # cases of one user are not independent: 400 cases of two users show nothing
    assert choose({"grlm": base + 0.05, "item_knn": base}, ["a", "b"] * 200).ship == "item_knn"


def test_it_is_part_of_a_report_and_old_reports_get_one(tmp_path: Any) -> None:
    old = report(SHOP, 0.01)
    assert "verdict" not in old.to_json()
    assert stated(old) == verdict(old)
    new = replace(old, verdict=verdict(old, Choice("text_knn", 5, {})))
    save_report(new, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == new
    assert read_json(tmp_path / "report.json")["schema"] == "grlm.report/1"  # older versions read it, without the verdict
    for text in (short_text(new), all_tables(new)):
        assert stated(new).text in text
    assert short_text(new).endswith(stated(new).text)
    strange = replace(new, verdict=replace(stated(new), text=HOSTILE))
    assert "\u202e" not in all_tables(strange)


def test_the_short_table_has_few_rows_and_columns() -> None:
    many = report({f"m{n}": n / 100 for n in range(1, 30)} | {"grlm": 0.001})
    table = short_table(many, with_words=True)
    assert [row[0].text for row in table.rows] == [*(f"m{n}" for n in range(29, 24, -1)), "grlm"]
    assert table.head == ("method", "what it is", "recall@10", "ndcg@10")


def test_methods_in_words() -> None:
    assert explained("grlm+item_knn+text_knn") == "the language model together with item_knn and text_knn"
    assert explained("item_knn+text_knn") == "item_knn and text_knn together; no language model"
    assert explained("markov") == explained("a+b") == "a method of your own"
    assert [m for m in ("grlm", "grlm+x", "grlm_free", "grlmx", "item_knn") if uses_language_model(m)] == ["grlm", "grlm+x", "grlm_free"]


@pytest.mark.parametrize(
    ("settings", "combined", "hybrids"),
    [
        ([], ["item_knn+text_knn"], ["item_knn+text_knn"]),
        (["priors.methods=[text_knn,item_knn]"], ["item_knn+text_knn"], ["item_knn+text_knn"]),
        (["priors.methods=[item_knn]"], [], ["item_knn"]),
        (["priors.methods=[]"], [], []),
        (["priors.methods=[sasrec,item_knn]"], ["sasrec+item_knn"], ["sasrec+item_knn"]),
        (["priors.methods=[item_knn,sasrec,text_knn]"], *[["item_knn+text_knn", "item_knn+sasrec+text_knn"]] * 2),
        (["priors.combine=[]"], [], ["item_knn+text_knn"]),
        (["priors.hybrids=[item_knn]"], ["item_knn+text_knn"], ["item_knn"]),
        (["priors.hybrids=[]", "priors.combine=null"], ["item_knn+text_knn"], []),
    ],
)
def test_what_is_compared_follows_from_the_methods(settings: list[str], combined: list[str], hybrids: list[str]) -> None:
    priors: PriorsConfig = override(Recipe(), settings).priors
    assert (priors.combinations(), priors.hybrid_names()) == (combined, hybrids)
