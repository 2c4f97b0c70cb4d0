"""`priors.form` and `priors.fit=macro`: what was fitted is what is measured, saved, served and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_likelihood_stage import recipe, walks

from grlm_hf import GRLMForRecommendation
from grlm_hf.evaluation.schema import Report
from grlm_hf.files import read_json
from grlm_hf.recipe import PriorsConfig, Recipe
from grlm_hf.stages import make_report, run
from grlm_hf.stages.found import found

pytestmark = pytest.mark.usefixtures("blank_pictures")
NAME = "item_knn+text_knn"


@pytest.mark.parametrize(
    ("form", "words"), [("mixture", "as a mixture of their probabilities"), ("gate", "a gate of the weights by how often an item sold")]
)
def test_the_form_is_measured_saved_served_and_said(form: str, words: str, tmp_path: Path) -> None:
    plain = recipe(tmp_path, walks(400))
    report = run(replace(plain, priors=replace(plain.priors, form=form, fit="macro")), lambda _: None)
    assert isinstance(report, Report)
    out = tmp_path / "out"
    made, tuned = read_json(out / "hybrids.json"), read_json(out / "priors" / "tuning.json")["combinations"][NAME]
    for block in (made["hybrids"][NAME], tuned):
        assert (block["form"], block["fit"]) == (form, "macro")
        assert 0 < block["macro ndcg@10"] != block["ndcg@10"]
    facts = read_json(out / "checkpoint" / "prior" / "prior.json")
    assert (facts["schema"], facts["form"], facts["fit"]) == (3, form, "macro")
    for said in ((out / "checkpoint" / "README.md").read_text(), found("hybrid", out)):
        assert f"{words}" in said
        assert "chosen by the macro average over slices of target popularity" in said
    assert found("hybrid", out).startswith("macro NDCG@10 on")
    grlm, counting = (GRLMForRecommendation.from_pretrained(out / name) for name in ("checkpoint", "counting"))
    assert grlm.prior is not None
    assert grlm.prior.how.form == form
    assert counting.prior is not None
    assert counting.prior.how.form == (form if made["counting"]["method"] == NAME else "product")
    assert made["counting"]["method"] in {NAME, "item_knn", "text_knn"}
    own = make_report(out / "checkpoint", out / "datasets", tmp_path / "own.json").methods[f"grlm+{NAME}"]
    for metric in ("recall@10", "ndcg@10"):
        assert own[metric] == report.methods[f"grlm+{NAME}"][metric]


def test_the_default_says_no_form(tmp_path: Path) -> None:
    run(replace(recipe(tmp_path, walks(60)), priors=PriorsConfig(hybrid_users=40)), lambda _: None)
    out = tmp_path / "out"
    assert read_json(out / "hybrids.json")["hybrids"][NAME].keys() == {"weights", "ndcg@10"}
    assert read_json(out / "checkpoint" / "prior" / "prior.json").keys() == {"schema", "components"}
    assert "fusion" not in found("hybrid", out)


def test_a_form_that_does_not_exist_is_refused() -> None:
    for field in ("form", "fit"):
        with pytest.raises(ValueError, match=rf"priors\.{field}"):
            Recipe(priors=PriorsConfig(**{field: "sum"}))
