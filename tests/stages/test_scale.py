"""Models of several sizes: their shapes, the law of their losses, and a run on the sample shop."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from toys import toy_tokenizer

from grlm_hf import GRLMForRecommendation
from grlm_hf.cli.app import app
from grlm_hf.data.repository import load_cases
from grlm_hf.data.sample import write_sample
from grlm_hf.evaluation.report.plots import scaling_figure
from grlm_hf.evaluation.scaling import Scaling, fit, scaling
from grlm_hf.files import read_json, write_json
from grlm_hf.layout import CONFIG_FILE
from grlm_hf.recipe import Recipe, load_recipe
from grlm_hf.stages import run_sizes
from grlm_hf.stages import scale as scale_module
from grlm_hf.training.scratch import ScratchConfig, count_parameters, make_model, shape_of

SIZES = ["30K", "0.06M", "120000", "0.24m"]
SETTINGS = {
    "name": "sample",
    "priors": {"methods": ["item_knn"]},
    "mixture": {"max_history": 4},
    "train": {
        "objective": "trie", "max_steps": 2, "batch_size": 8, "validation_examples": 0,
        "scratch": {"vocab_size": 600, "max_positions": 512},
        "distill": {"teacher": "item_knn", "weight": 0.5},
    },
}  # fmt: skip


def sizes_of(parameters: list[float]) -> list[dict[str, Any]]:
    return [{"name": f"{n:.0f}", "parameters": int(n), "without_embeddings": 0, "hidden_size": 16, "layers": 1} for n in parameters]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    write_sample(folder / "shop", users=30)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SETTINGS | {"data": str(folder / "shop"), "output": str(folder / "out")}))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


# --- shapes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [(2, 1, 16), (4, 2, 32), (6, 3, 8)])
def test_parameters_are_those_of_the_model(heads: tuple[int, int, int]) -> None:
    n, kv, dim = heads
    tokenizer = toy_tokenizer()
    shape = ScratchConfig(len(tokenizer), 48, 72, 3, n, kv, dim)
    assert count_parameters(shape) == sum(p.numel() for p in make_model(shape, tokenizer, 0).parameters())


def test_shapes_follow_one_rule_and_the_default_is_one_of_them() -> None:
    default = ScratchConfig()
    assert shape_of(count_parameters(default), default) == default
    asked = [200_000 * 2**n for n in range(14)]
    shapes = [shape_of(n, default) for n in asked]
    for wanted, shape in zip(asked, shapes, strict=True):
        assert 2 / 3 < count_parameters(shape) / wanted < 1.5
        assert shape.heads % shape.kv_heads == 0
        assert (shape.vocab_size, shape.head_dim, shape.max_positions) == (4096, 32, 1024)
    for one, other in pairwise(shapes):
        assert one.hidden_size < other.hidden_size
        assert one.layers <= other.layers
        assert one.heads <= other.heads
    assert 0.97 < count_parameters(shapes[-1]) / asked[-1] < 1.03
    one_kv = shape_of(2_000_000, replace(default, kv_heads=1))
    assert (one_kv.heads > 4, one_kv.kv_heads) == (True, one_kv.heads // 4)
    with pytest.raises(ValueError, match=r"No model has about 1,000 parameters: .* has \d\d,\d\d\d, with a vocabulary of 4,096"):
        shape_of(1000, default)


# --- the law -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "alpha", "b"), [(40.0, 0.2, 3.0), (900.0, 0.5, 0.0), (5e5, 1.3, 5.1)])
def test_a_law_is_found_again(a: float, alpha: float, b: float) -> None:
    parameters = np.array([1e5, 3e5, 1e6, 4e6, 2e7])
    found = fit(parameters, (a * parameters**-alpha + b)[None])
    assert found[1][0] == pytest.approx(alpha, rel=0.005)
    assert found[2][0] == pytest.approx(b, abs=0.05)
    assert found[0][0] * parameters**-alpha + found[2][0] == pytest.approx(a * parameters**-alpha + b, rel=0.05)


def test_the_fit_is_the_best_that_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    parameters = np.array([1e5, 2e5, 5e5, 1e6])
    losses = 30 * parameters**-0.25 + 3 + 0.02 * rng.standard_normal((5, 4))
    a, alpha, b = fit(parameters, losses)
    error = ((a[:, None] * parameters ** -alpha[:, None] + b[:, None] - losses) ** 2).sum(1)
    for curve, found in zip(losses, error, strict=True):
        for power in np.geomspace(0.01, 3, 60):
            for rest in np.linspace(0, curve.min(), 60):
                x = parameters**-power
                factor = max(0.0, x @ (curve - rest) / (x @ x))
                assert found <= ((factor * x + rest - curve) ** 2).sum() + 1e-9


def test_the_largest_size_is_held_out_and_the_intervals_are_over_users() -> None:
    rng = np.random.default_rng(1)
    parameters = np.array([1e5, 3e5, 1e6, 3e6, 1e7])
    law = 60 * parameters**-0.3 + 3
    user = rng.standard_normal(400)  # some users are harder than others, at every size
    losses = law[:, None] + user + 0.05 * rng.standard_normal((5, 400))
    losses -= losses.mean(1, keepdims=True) - law[:, None]
    users = [f"u{n // 2}" for n in range(400)]
    found = scaling("toy", sizes_of(parameters.tolist()), losses, users)
    assert found.users == 200
    assert found.predicted.value == pytest.approx(law[-1], abs=0.01)
    assert found.law.alpha.value == pytest.approx(0.3, rel=0.01)
    for value in (found.law.a, found.law.alpha, found.law.b, found.predicted, *(s.loss for s in found.sizes)):
        assert value.low < value.value < value.high
    moved = losses + (np.arange(5) == 4)[:, None]
    other = scaling("toy", sizes_of(parameters.tolist()), moved, users)
    assert (other.law, other.predicted) == (found.law, found.predicted)
    assert other.sizes[-1].loss.value == pytest.approx(law[-1] + 1)
    assert "means nothing" not in found.note
    assert f"predicted {found.predicted.value:.4f}" in found.table().text()
    assert scaling_figure(found).axes[0].get_xscale() == "log"


def test_losses_that_do_not_fall_are_told() -> None:
    parameters = [1e5, 3e5, 1e6, 3e6]
    rising = np.linspace(3, 4, 4)[:, None] + np.zeros((4, 20))
    found = scaling("toy", sizes_of(parameters), rising, [str(n) for n in range(20)])
    assert found.law.a.value == 0
    assert found.note.startswith("The loss does not fall with the size as a power law here")


# --- the run -----------------------------------------------------------------------------------------------------------------------


def test_sizes_of_the_sample_share_all_but_the_training(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    found = run_sizes(recipe, SIZES, said.append)
    out = Path(recipe.output)
    folders = [out / f"size-{name}" for name in ("30K", "0.06M", "120000", "0.24M")]
    for stage in ("neighbors", "terms", "quality", "dataset", "priors", "teacher"):
        assert sum(line.startswith(f"{stage}: →") for line in said) == 1
    assert sum(line.startswith("train: →") for line in said) == 4
    for name in ("catalog/catalog.parquet", "datasets/cases/test-00000-of-00001.parquet", "labels.teacher"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    # the losses: of validation users, within the trie
    cases = load_cases(folders[0] / "datasets", "validation")
    assert found.users == len({c.user_id for c in cases}) == 30
    for size, folder in zip(found.sizes, folders, strict=True):
        grlm = GRLMForRecommendation.from_pretrained(folder / "checkpoint")
        model = grlm.language_model("a test")
        assert size.parameters == sum(p.numel() for p in model.parameters())
        assert size.without_embeddings == size.parameters - model.get_input_embeddings().weight.numel()
        assert (size.hidden_size, size.layers) == (model.config.hidden_size, model.config.num_hidden_layers)
        kept = read_json(folder / ".grlm" / "loss.json")["losses"]
        assert size.loss.value == pytest.approx(np.mean(kept))
        assert [-grlm.score(list(c.history), [c.target])[0] for c in cases[:4]] == pytest.approx(kept[:4], abs=1e-5)
    assert [s.parameters for s in found.sizes] == sorted(s.parameters for s in found.sizes)
    assert read_json(out / "scaling.json") == json.loads(json.dumps(found.to_json()))
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")

    # the same call again trains and measures nothing
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("grlm_hf.training.sft.train", never)
        patch.setattr(GRLMForRecommendation, "score", never)
        again: list[str] = []
        assert run_sizes(recipe, SIZES, again.append) == found
        assert not [line for line in again if "→" in line and not line.startswith("size")]
    # a model of the other objective is measured within the trie, too; another checkpoint is measured anew
    config = folders[0] / "checkpoint" / CONFIG_FILE
    before = read_json(config)
    write_json(config, before | {"objective": "vocabulary"})
    _, losses = scale_module._measured(folders[0], cases, 64)
    assert losses.mean() == pytest.approx(found.sizes[0].loss.value, abs=1e-5)
    write_json(config, before)


def test_the_command_prints_the_law(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def measured(recipe: Recipe, sizes: list[str], _: object) -> Scaling:
        seen[recipe.output] = (recipe, sizes)
        parameters = [1e5, 3e5, 1e6, 3e6]
        losses = np.array(parameters)[:, None] ** -0.2 + np.linspace(3, 4, 30)
        return scaling("toy", sizes_of(parameters), losses, [str(n) for n in range(30)])

    monkeypatch.setattr("grlm_hf.stages.run_sizes", measured)
    args = ["scale", str(recipe_file), "--sizes", "1M,2M,4M,8M", "--set", "seed=7"]
    app(args, result_action="return_value")
    text = capsys.readouterr()
    assert "held out of the fit" in text.out
    assert "runs/recipe-scale/scaling.json" in text.err
    app([*args, "--output", str(tmp_path / "there"), "--data", str(tmp_path), "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["schema"] == "grlm.scaling/1"
    (first, sizes), (second, _) = seen.values()
    assert (sizes, first.seed, second.output, second.data) == (["1M", "2M", "4M", "8M"], 7, str(tmp_path / "there"), str(tmp_path))
    assert second.name == tmp_path.name


@pytest.mark.parametrize(
    ("sizes", "settings", "message"),
    [
        ("1M,2M,4M", [], r"--sizes has 3 sizes; expected at least 4"),
        ("1M,2M,4M,big", [], r"--sizes has 'big'; expected numbers of parameters, such as 0\.5M,1M,2M,4M"),
        ("1M,2M,4M,-8M", [], r"--sizes has '-8M'"),
        ("0,1M,2M,4M", [], r"--sizes has '0'"),
        ("1M,2M,4M,../8M", [], r"--sizes has '\.\./8M'"),
        ("1M,1.0M,2M,4M,8M", [], r"--sizes has 1M and 1\.0M, whose nearest shape is the same"),
        ("1M,2M,4M,999999B", [], r"999999B has 999,999,000,000,000 parameters, whose training takes .* GiB before any activation"),
        ("10,1M,2M,4M", [], r"No model has about 10 parameters"),
        ("1M,2M,4M,8M", ["train.model=org/model"], r"train\.model is 'org/model', whose size is given"),
        ("1M,2M,4M,8M", ["train.hub.repo=org/model"], r"train\.hub\.repo or terms\.llm\.part, which are of a single run"),
        ("1M,2M,4M,8M", ["read.split=unseen-items"], r"read\.split is unseen-items"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    recipe_file: Path, tmp_path: Path, sizes: str, settings: list[str], message: str
) -> None:
    changed = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(ValueError, match=message):
        app(["scale", str(recipe_file), "--sizes", sizes, "--output", str(tmp_path / "out"), *changed], result_action="return_value")
    assert not list(tmp_path.iterdir())
