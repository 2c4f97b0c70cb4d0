"""A recipe with functions of the user, and with several seeds."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from toys import toy_catalog, toy_histories

from grlm_hf import Catalog
from grlm_hf.cli.app import app
from grlm_hf.evaluation.saved import load_rankings, rankings_path
from grlm_hf.evaluation.schema import load_report
from grlm_hf.evaluation.seeds import SEEDS_SCHEMA, load_summary, seed_tables, seed_text, summarised
from grlm_hf.files import read_json
from grlm_hf.recipe import EvaluateConfig, PriorsConfig, Recipe, TermsConfig
from grlm_hf.stages import run, run_seeds
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
MINE = """
import random


def half(ranks):
    return (ranks > 0) / 2


def fixed(histories, catalog):
    order = sorted(item.item_id for item in catalog)
    return lambda some: [order for _ in some]


def drawn(histories, catalog, seed):
    order = random.Random(seed).sample([item.item_id for item in catalog], len(catalog))
    return lambda some: [order for _ in some]
"""
IDS = """
def make_ids(items):
    return {item.item_id: ["Toy Thing", *item.title.split()[:1], item.item_id] for item in items}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    data = tmp_path / "shop"
    data.mkdir()
    (data / "items.jsonl").write_text("".join(json.dumps({"item_id": i.item_id, "title": i.title}) + "\n" for i in toy_catalog()))
    rows = (json.dumps({"user_id": h.user_id, "items": h.items}) + "\n" for h in toy_histories(20))
    (data / "sequences.jsonl").write_text("".join(rows))
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "ids.py").write_text(IDS)
    shape = ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)
    own = EvaluateConfig(
        metrics=[f"{tmp_path}/mine.py:half"],
        methods=[f"{tmp_path}/mine.py:fixed", f"{tmp_path}/mine.py:drawn"],
        recall_at=[3],
        resamples=10,
        pairs=["fixed > drawn"],
    )
    return Recipe(
        name="toy",
        data=str(data),
        output=str(tmp_path / "out"),
        terms=TermsConfig(function=f"{tmp_path}/ids.py:make_ids", resolver="rank"),
        priors=PriorsConfig(methods=["item_knn"], hybrids=[]),
        train=TrainConfig(objective="trie", scratch=shape, max_steps=1, batch_size=8, validation_examples=0),
        evaluate=own,
    )


def ran(recipe: Recipe) -> list[str]:
    said: list[str] = []
    run(recipe, said.append)
    return [line.split(":")[0] for line in said if "→" in line]


def test_own_identifiers_metrics_and_methods_and_what_runs_again(recipe: Recipe, tmp_path: Path) -> None:
    assert ran(recipe)[-1] == "evaluate"
    out = tmp_path / "out"
    catalog = Catalog.from_pretrained(out / "catalog")
    assert catalog.identifier("i20") == ("toy-thing", *toy_catalog()["i20"].title.lower().split()[:1], "i20")
    assert read_json(out / "catalog" / "terms.json") | {"generator": "function", "function": "ids.py:make_ids"} == read_json(
        out / "catalog" / "terms.json"
    )
    report = load_report(out / "report.json")
    assert {"fixed", "drawn", "grlm", "item_knn"} <= report.methods.keys()
    assert "recall@3" in report.methods["fixed"]
    assert "recall@5" not in report.methods["fixed"]
    assert "half" in report.methods["grlm"]
    assert not rankings_path(out / "report.json").exists()
    assert ran(recipe) == []
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "mine.py").rename(moved / "mine.py")
    elsewhere = replace(recipe.evaluate, metrics=[f"{moved}/mine.py:half"], methods=[f"{moved}/mine.py:fixed", f"{moved}/mine.py:drawn"])
    assert ran(replace(recipe, evaluate=elsewhere)) == []  # the content counts, not the folder
    (moved / "mine.py").write_text(MINE.replace("/ 2", "/ 4"))
    assert ran(replace(recipe, evaluate=elsewhere)) == ["evaluate"]
    assert load_report(out / "report.json").methods["fixed"]["half"].value == report.methods["fixed"]["half"].value / 2
    kept = replace(elsewhere, save_rankings=True)
    assert ran(replace(recipe, evaluate=kept)) == ["evaluate"]
    rankings_path(out / "report.json").unlink()
    assert ran(replace(recipe, evaluate=kept)) == ["evaluate"]
    assert set(load_rankings(rankings_path(out / "report.json")).ranks) == set(report.methods)
    assert ran(replace(recipe, evaluate=elsewhere)) == ["evaluate"]
    assert not rankings_path(out / "report.json").exists()  # it would be of another report
    (tmp_path / "ids.py").write_text(IDS.replace("Toy", "Other"))
    assert "terms" in ran(replace(recipe, evaluate=elsewhere, until="quality"))
    with pytest.raises(ValueError, match=r"^evaluate\.methods: .*has no function 'gone'"):  # before any stage
        ran(replace(recipe, evaluate=replace(elsewhere, methods=[f"{moved}/mine.py:gone"]), output=str(tmp_path / "new")))
    assert not (tmp_path / "new" / "neighbors.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("return []", r"ids\.py:make_ids returned list; expected a dict of item_id → list of terms"),
        ("return {}", r"returned None for the item '\w+'; expected a list of terms for each item"),
        ("return {i.item_id: 'a, b' for i in items}", r"returned 'a, b' for the item '\w+'; expected a list of terms"),
        ("return {i.item_id: ['a', '!'] for i in items}", r"returned \['a', '!'\] for the item '\w+'; expected terms with a letter"),
        ("return items[0].nothing", r"ids\.py:make_ids, line 2: AttributeError"),
    ],
)
def test_identifiers_that_are_none(recipe: Recipe, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ids.py").write_text(f"def make_ids(items):\n    {text}\n")
    with pytest.raises(ValueError, match=rf"^terms\.function: .*{message}"):
        ran(replace(recipe, until="terms"))
    with pytest.raises(ValueError, match=r"terms\.function is 'a\.py:f' and terms\.generator 'file'; expected one of the two"):
        TermsConfig(function="a.py:f", generator="file")


def test_seeds_share_identifiers_and_are_summarised(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    summary = run_seeds(replace(recipe, seed=4), 2, said.append)
    out = tmp_path / "out"
    assert summary.seeds == (4, 5)
    second = said[said.index(f"seed 5 → {out / 'seed-5'}") :]
    assert [line for line in second if "unchanged" in line] == [f"{s}: unchanged, kept" for s in ("neighbors", "terms", "quality")]
    reports = [load_report(out / f"seed-{seed}" / "report.json") for seed in (4, 5)]
    assert [r.protocol.seed for r in reports] == [4, 5]
    for method in ("fixed", "drawn", "grlm"):
        values = [r.methods[method]["recall@10"].value for r in reports]
        found = summary.methods[method]["recall@10"]
        assert found.values == tuple(values)
        assert (found.mean, found.sd) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert summary.methods["fixed"]["recall@3"].sd == 0
    assert len({r.methods["drawn"]["mrr"].value for r in reports}) == 2  # it got the seed
    ours = next(d for d in summary.differences if (d.a, d.b, d.metric) == ("fixed", "drawn", "recall@10"))
    each = [r.methods["fixed"]["recall@10"].value - r.methods["drawn"]["recall@10"].value for r in reports]
    assert ours.spread.values == pytest.approx(each)
    assert ours.wins == sum(d > 0 for d in each)
    tested = next(e for e in summary.comparisons if (e.a, e.b, e.metric) == ("fixed", "drawn", "recall@10"))
    assert tested.difference == pytest.approx(statistics.mean(each))
    assert {d.metric for d in summary.differences} == {e.metric for e in summary.comparisons} == {"recall@10", "ndcg@10", "half"}
    assert load_summary(out / "seeds.json") == summary
    assert "half" in (out / "seeds.md").read_text(encoding="utf-8")
    assert read_json(out / "seeds.json")["schema"] == SEEDS_SCHEMA
    # again: nothing runs; one more seed: only that one
    said.clear()
    assert run_seeds(replace(recipe, seed=4), 2, said.append) == summary
    assert [line for line in said if "→" in line] == [f"seed {n} → {out / f'seed-{n}'}" for n in (4, 5)]
    app(["report", str(out / "seeds.json"), "--format", "csv"], result_action="return_value")
    head, *_ = capsys.readouterr().out.splitlines()
    assert head.split(",")[:3] == ["method", "recall@3", "recall@3 sd"]
    app(["report", str(out / "seeds.json")], result_action="return_value")
    assert capsys.readouterr().out == seed_text(summary) + "\n"


def test_what_seeds_refuse(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--seeds is 1; expected at least 2"):
        run_seeds(recipe, 1)
    with pytest.raises(ValueError, match="ends with 'train'; expected until=evaluate"):
        run_seeds(replace(recipe, until="train"), 2)
    for content, message in (
        ({"schema": "grlm.seeds/2"}, "no summary of seeds with schema 'grlm.seeds/1'"),
        ({"schema": SEEDS_SCHEMA, "dataset": "x"}, "not a whole summary: the summary does not state 'protocol'"),
    ):
        (tmp_path / "seeds.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            app(["report", str(tmp_path / "seeds.json")], result_action="return_value")
    with pytest.raises(ValueError, match="no reports to summarise"):
        summarised({})


def test_a_summary_of_seeds_with_other_cases_has_no_test_by_user(tmp_path: Path) -> None:
    from report_toys import full_report

    one = full_report()
    other = replace(one, protocol=replace(one.protocol, cases_hash="0"))
    summary = summarised({0: one, 1: other}, None, [("random", "grlm")])
    assert summary.comparisons == ()
    assert list(seed_tables(summary)) == ["methods", "differences"]
    assert ("random", "grlm", "recall@10") in {(d.a, d.b, d.metric) for d in summary.differences}
    assert summary.methods["grlm"]["recall@10"].sd == 0
    with pytest.raises(ValueError, match="Cannot compare 'x'; expected two of the methods"):
        summarised({0: one, 1: other}, None, [("x", "grlm")])
