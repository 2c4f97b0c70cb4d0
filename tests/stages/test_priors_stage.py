"""Priors from a dataset repository, beside a checkpoint, in its report, and as its teacher."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import TERM_IDS, toy_catalog, toy_grlm, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.cli.app import app
from grlm_hf.data.interactions import History
from grlm_hf.data.repository import load_cases
from grlm_hf.evaluation import verdict as verdict_module
from grlm_hf.evaluation.schema import Report, Verdict, load_report
from grlm_hf.evaluation.verdict import Choice, verdict
from grlm_hf.files import read_json, write_json
from grlm_hf.priors import fusing
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.sequence import SequenceConfig
from grlm_hf.recipe import DataConfig, PriorsConfig, Recipe, TermsConfig
from grlm_hf.stages import make_dataset, make_hybrid, make_priors, make_report, run
from grlm_hf.stages.found import found
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.training.config import DistillConfig, TrainConfig
from grlm_hf.training.scratch import ScratchConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
SEQUENCE = SequenceConfig(layers=1, width=8, heads=1, epochs=2, bf16=False)
PRIORS = PriorsConfig(
    methods=["item_knn", "sasrec", "text_knn"], combine=["sasrec+item_knn"], hybrids=["item_knn", "sasrec+item_knn"], hybrid_users=20
)


def shop(folder: Path, histories: Sequence[History]) -> Path:
    folder.mkdir(parents=True)
    catalog = toy_catalog()
    rows = [json.dumps({"item_id": i.item_id, "title": i.title, "description": i.description}) for i in catalog]
    (folder / "items.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "sequences.jsonl").write_text("\n".join(json.dumps({"user_id": h.user_id, "items": h.items}) for h in histories) + "\n")
    (folder / "term_ids.jsonl").write_text(
        "\n".join(json.dumps({"item_id": i.item_id, "terms": t}) for i, t in zip(catalog, TERM_IDS, strict=True)) + "\n"
    )
    return folder


def repository(folder: Path, histories: Sequence[History]) -> Path:
    data = shop(folder / "data", histories)
    toy_catalog().save_pretrained(folder / "catalog")
    make_dataset(data, folder / "catalog", folder / "datasets", MixtureConfig(max_history=4), DataConfig())
    return folder / "datasets"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("repository"), toy_histories())


@pytest.fixture(scope="module")
def priors(datasets: Path) -> Path:
    make_priors(datasets, datasets.parent / "priors", PRIORS, SEQUENCE)
    return datasets.parent / "priors"


def test_priors_are_tuned_weighed_and_saved(priors: Path) -> None:
    found = Fused.load(priors)
    assert found.weights.keys() == {"item_knn", "sasrec", "text_knn"}
    tuning = read_json(priors / "tuning.json")
    weights = tuning["combinations"]["sasrec+item_knn"]["weights"]
    assert weights.keys() == {"sasrec", "item_knn"}
    assert weights["sasrec"] == 1.0
    assert {name: found.weights[name] for name in weights} == weights
    assert tuning["methods"]["item_knn"].keys() >= {"backwards", "age_power"}


def test_what_is_held_for_the_test_changes_no_prior(priors: Path, tmp_path: Path) -> None:
    ids = [i.item_id for i in toy_catalog()]
    others = [History(h.user_id, (*h.items[:-1], next(i for i in ids if i not in h.items))) for h in toy_histories()]
    assert [h.items for h in others] != [h.items for h in toy_histories()]
    make_priors(repository(tmp_path, others), tmp_path / "priors", PRIORS, SEQUENCE)
    for file in sorted(priors.iterdir()):
        assert (tmp_path / "priors" / file.name).read_bytes() == file.read_bytes()


def test_the_best_hybrid_ships_in_the_checkpoint_and_is_what_the_report_measured(priors: Path, datasets: Path, tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    found = make_hybrid(tmp_path / "checkpoint", datasets, priors, tmp_path / "hybrids.json", PRIORS)
    assert found.keys() == {"item_knn", "sasrec+item_knn"}
    best = max(found.values(), key=lambda f: f["ndcg@10"])
    grlm = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert grlm.prior is not None
    assert grlm.prior.weights == ({name: w for name, w in best["weights"].items() if w} or best["weights"])
    assert best["weights"].keys() == set(next(n for n, f in found.items() if f is best).split("+"))
    report = make_report(tmp_path / "checkpoint", datasets, tmp_path / "report.json", priors=priors, hybrids=tmp_path / "hybrids.json")
    names = {"grlm", "grlm+item_knn", "grlm+sasrec+item_knn", "item_knn", "sasrec", "text_knn", "sasrec+item_knn", "popularity", "random"}
    assert report.methods.keys() == names
    tuned = read_json(priors / "tuning.json")["combinations"]
    expected = {f"grlm+{n}": f["weights"] for n, f in found.items()} | {n: f["weights"] for n, f in tuned.items()}
    assert report.weights == load_report(tmp_path / "report.json").weights == expected
    chosen = read_json(tmp_path / "hybrids.json")["validation"]  # on the same users, by the same metric
    assert chosen["ndcg"].keys() == names - {"random"}
    assert {chosen["ndcg"][f"grlm+{name}"] for name in found} == {f["ndcg@10"] for f in found.values()}
    assert report.verdict == verdict(report, Choice(**chosen)) == load_report(tmp_path / "report.json").verdict
    alone = make_report(tmp_path / "checkpoint", datasets, tmp_path / "own.json")  # with nothing but what the checkpoint has in itself
    own = "grlm+" + "+".join(grlm.prior.components)
    name = "grlm+" + next(n for n, f in found.items() if f is best)
    for metric in report.methods[name].keys() - {"intra_list_diversity@10"}:  # that is of texts only where the priors have read them
        assert alone.methods[own][metric] == report.methods[name][metric]


def test_the_answer_without_decoding_is_a_part_of_hybrids(priors: Path, datasets: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    toy_grlm("trie").save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"priors\.methods has 'dense'"):
        PriorsConfig(methods=["dense"])
    config = replace(PRIORS, hybrids=["dense+item_knn"])
    found = make_hybrid(checkpoint, datasets, priors, tmp_path / "hybrids.json", config, counting=tmp_path / "counting")
    assert found["dense+item_knn"]["weights"].keys() == {"dense", "item_knn"}
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    assert grlm.prior is not None
    kept = {name: weight for name, weight in found["dense+item_knn"]["weights"].items() if weight}
    assert ("dense" in kept) == (checkpoint / "catalog.vectors").is_file()
    assert {name: grlm.prior.weights[name] for name in kept} == kept
    assert grlm.recommend(["i20"], 3, prior="own")
    report = make_report(checkpoint, datasets, tmp_path / "report.json", priors=priors, hybrids=tmp_path / "hybrids.json")
    assert {"grlm", "dense", "grlm+dense+item_knn", "item_knn"} <= report.methods.keys()
    hits = [c.target in {r.item_id for r in grlm.recommend(list(c.history), 10, decode=False, prior="none", exclude_seen=True)}
            for c in load_cases(datasets, "test")]  # fmt: skip
    assert report.methods["dense"]["recall@10"].value == pytest.approx(np.mean(hits))
    assert "dense" not in read_json(tmp_path / "hybrids.json")["counting"]["method"]  # it needs the language model


def test_the_choice_of_validation_users_reaches_the_report(
    priors: Path, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    make_hybrid(tmp_path / "checkpoint", datasets, priors, tmp_path / "hybrids.json", PRIORS)
    given: list[Choice | None] = []

    def noted(report: Report, choice: Choice | None) -> Verdict:
        given.append(choice)
        return verdict(report, choice)

    monkeypatch.setattr(verdict_module, "verdict", noted)
    make_report(tmp_path / "checkpoint", datasets, tmp_path / "report.json", priors=priors, hybrids=tmp_path / "hybrids.json")
    make_report(tmp_path / "checkpoint", datasets, tmp_path / "other.json")  # the checkpoint alone knows nothing of validation users
    assert given == [Choice(**read_json(tmp_path / "hybrids.json")["validation"]), None]
    make_hybrid(tmp_path / "checkpoint", datasets, priors, tmp_path / "none.json", replace(PRIORS, hybrids=[]))
    assert "validation" not in read_json(tmp_path / "none.json")  # the language model was not measured


def test_a_recipe_teaches_the_language_model_with_its_own_sequence_model(tmp_path: Path) -> None:
    data = shop(tmp_path / "shop", toy_histories())
    train = TrainConfig(
        objective="trie", epochs=1, batch_size=8, validation_examples=0, distill=DistillConfig(weight=0.5),
        scratch=ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512),
    )  # fmt: skip
    recipe = Recipe(
        data=str(data), output=str(tmp_path / "out"), terms=TermsConfig(generator="file", resolver="rank"), train=train,
        priors=replace(PRIORS, methods=["sasrec"], combine=[], hybrids=["sasrec"]), sequence_model=SEQUENCE, until="train",
    )  # fmt: skip
    run(recipe, lambda _: None)
    loss = [e["train_loss"] for e in read_json(tmp_path / "out" / "checkpoint" / "training_log.json") if "train_loss" in e]
    said: list[str] = []
    run(replace(recipe, sequence_model=replace(SEQUENCE, epochs=3)), said.append)  # another teacher, another model
    assert [line.split(":")[0] for line in said if ": →" in line] == ["priors", "teacher", "train"]
    assert [e["train_loss"] for e in read_json(tmp_path / "out" / "checkpoint" / "training_log.json") if "train_loss" in e] != loss


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_component_that_got_no_weight_is_said_to_have_none(
    priors: Path, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    def weights(parts: Mapping[str, object], *_: object, **__: object) -> tuple[dict[str, float], float]:
        return {name: {"grlm": 1.0, "item_knn": weight}.get(name, 0.0) for name in parts}, 0.5

    monkeypatch.setattr(fusing, "tune_weights", weights)
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    make_hybrid(tmp_path / "checkpoint", datasets, priors, tmp_path / "hybrids.json", replace(PRIORS, hybrids=["sasrec+item_knn"]))
    grlm = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert grlm.prior is not None
    assert grlm.prior.weights == ({"item_knn": 0.5} if weight else {"sasrec": 0.0, "item_knn": 0.0})
    if not weight:  # such a prior changes no ranking
        ids = [[r.item_id for r in grlm.recommend(["i20"], 5, prior=prior)] for prior in ("own", "none")]
        assert ids[0] == ids[1]
    report = make_report(tmp_path / "checkpoint", datasets, tmp_path / "report.json", priors=priors, hybrids=tmp_path / "hybrids.json")
    assert report.weights["grlm+sasrec+item_knn"] == {"sasrec": 0.0, "item_knn": weight}
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert f"of sasrec (weight 0), item\\_knn (weight {weight or 0:g})." in card
    line = found("hybrid", tmp_path)
    chosen = read_json(tmp_path / "hybrids.json")["validation"]
    assert f"chosen: {chosen['ship']} {chosen['ndcg'][chosen['ship']]:.4f}" in line
    assert ("in grlm+sasrec+item_knn, item_knn has weight 0.5, sasrec got 0" in line) == bool(weight)


RECIPE = """
name: Toys
data: shop
output: out
read: {short_users: keep}
terms: {generator: file, resolver: rank}
mixture: {max_history: 4}
priors: {hybrid_users: 20}
train:
  objective: trie
  max_steps: 1
  validation_examples: 0
  scratch: {vocab_size: 400, hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, kv_heads: 1, max_positions: 512}
evaluate: {resamples: 20}
"""


def test_a_run_ends_with_commands_that_give_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shop(tmp_path / "shop", toy_histories())
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def ended(ship: str, text: str = "") -> str:
        """What the run, whose stages are all kept, prints where its report ships a method."""
        report = load_report(tmp_path / "out" / "report.json")
        write_json(tmp_path / "out" / "report.json", replace(report, verdict=Verdict(text="One sentence.", best=ship, ship=ship)).to_json())
        capsys.readouterr()
        app(["run", "recipe.yaml"], result_action="return_value")
        return capsys.readouterr().out

    app(["run", "recipe.yaml"], result_action="return_value")
    counting = read_json(tmp_path / "out" / "hybrids.json")["counting"]["method"]
    expected = {
        counting: ("out/counting", f"Ship it: grlm serve {Path('out/counting')}"),
        "grlm": ("out/checkpoint --prior none", f"Ship it: grlm serve {Path('out/checkpoint')} --prior none"),
        "grlm+item_knn+text_knn": ("out/checkpoint", f"Ship it: grlm serve {Path('out/checkpoint')}"),
        "popularity": ("out/counting", f"No folder has popularity; the nearest that can be served is {counting}: grlm serve out/counting"),
        "": ("out/checkpoint", "Nothing to ship yet: see the report."),
    }
    for ship, (place, last) in expected.items():
        said = ended(ship)
        assert said.rstrip().endswith(last)
        (command,) = re.findall(r"^Next: grlm (.*)$", said, re.MULTILINE)
        assert command.startswith(f"recommend {place} --history ")
        app(shlex.split(command), result_action="return_value")
        answer = capsys.readouterr().out.rstrip()
        assert answer in said
        assert "log p is the natural log of" in answer
        (history,) = re.findall(r"--history (\S+)", command)
        assert all(f"({item})\n" in said for item in history.split(","))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="'sasrek'"):
        PriorsConfig(methods=["sasrek"])
    with pytest.raises(ValueError, match="'sasrec'; expected item_knn"):
        PriorsConfig(methods=["item_knn"], hybrids=["sasrec+item_knn"])
    with pytest.raises(ValueError, match=r"methods joined by \+"):
        PriorsConfig(combine=["item_knn"])
    with pytest.raises(ValueError, match=r"add sasrec to priors\.methods"):
        Recipe(train=TrainConfig(objective="trie", distill=DistillConfig(weight=0.5)))
