"""The programs of examples/ run, and stay short. (constrained_vllm.py: tests/vllm.)"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.items import load_items
from grlm_hf.data.sample import write_sample

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = FOLDER.parent / "dataset_scripts"
TINY = ["train.scratch.hidden_size=32", "train.scratch.intermediate_size=64", "train.scratch.vocab_size=1024", "train.max_steps=2"]


def program(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my-shop/ in CSV and my-run/, by own_catalog.py."""
    folder = tmp_path_factory.mktemp("examples")
    write_sample(folder / "sample", users=60)
    program(SCRIPTS / "to_csv.py").main([str(folder / "sample"), str(folder / "my-shop")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.draw", lambda *_: None)  # no pictures
        program(FOLDER / "own_catalog.py").main(str(folder / "my-shop"), str(folder / "my-run"), *TINY, "evaluate.resamples=20")
    return folder


def test_what_goes_to_csv_comes_back(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_items(made / "my-shop" / "items.csv") == load_items(made / "sample" / "items.jsonl")
    events = (made / "my-shop" / "interactions.csv").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in (made / "sample" / "interactions.jsonl").read_text().splitlines()]
    assert sorted(events[1:]) == sorted(f"{r['user_id']},{r['item_id']},{r['timestamp']}" for r in rows)
    with pytest.raises(SystemExit, match="my-shop exists already and will not be changed"):
        program(SCRIPTS / "to_csv.py").main([str(made / "sample"), str(made / "my-shop")])


def test_own_catalog(made: Path) -> None:
    methods = json.loads((made / "my-run" / "report.json").read_text())["methods"]
    assert {"grlm", "grlm+item_knn+text_knn", "item_knn"} <= methods.keys()


@pytest.mark.parametrize("name", ["recommend_with_rules", "plain_generate", "new_items"])
def test_on_a_checkpoint(name: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(FOLDER / f"{name}.py").main(str(made / "my-run" / "checkpoint"))
    said = capsys.readouterr().out
    assert {
        "recommend_with_rules": "certified: True",
        "plain_generate": "is what recommend() says",
        "new_items": "removed: version 3, 600 items",
    }[name] in said


def test_hub_dataset(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(FOLDER / "hub_dataset.py").main(str(made / "my-run" / "datasets"))
    assert "training examples, the first of task" in capsys.readouterr().out


def test_rl(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made / "my-run"
    program(FOLDER / "rl.py").main(str(run / "checkpoint"), str(run / "datasets"), str(made / "grpo"), "1")
    assert "end  ndcg@10" in capsys.readouterr().out
    assert len(GRLMForRecommendation.from_pretrained(made / "grpo").catalog) == 600


def test_examples_are_short_and_all_run() -> None:
    programs = {p.stem: p.read_text(encoding="utf-8").count("\n") for p in FOLDER.glob("*.py")}
    tested = {"own_catalog", "recommend_with_rules", "plain_generate", "new_items", "hub_dataset", "rl", "constrained_vllm"}
    assert programs.keys() == tested
    assert max(programs.values()) < 60
