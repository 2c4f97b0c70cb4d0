from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset
from toys import TERM_IDS, toy_catalog, toy_histories
from writer_toys import save_toy_llm

from grlm_hf import Catalog, GRLMForRecommendation
from grlm_hf.cli import app
from grlm_hf.evaluation.metrics import Estimate
from grlm_hf.evaluation.report import load_report
from grlm_hf.files import Incomplete
from grlm_hf.indexing.generate import LLMConfig, generation_hash
from grlm_hf.indexing.neighbors import NeighborsConfig
from grlm_hf.recipe import STAGES, QualityConfig, Recipe, TermsConfig, load_recipe
from grlm_hf.stages import make_checkpoint, make_dataset, make_neighbors, make_terms, run
from grlm_hf.stages.quickstart import quickstart_recipe
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig

SHAPE = ScratchConfig(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)


def toy_recipe(folder: Path) -> Recipe:
    data = folder / "shop"
    data.mkdir(parents=True)
    items = [f"{i.item_id},{i.title},{i.description.replace(',', ' ')}" for i in toy_catalog()]
    (data / "items.csv").write_text("\n".join(["item_id,title,description", *items]) + "\n", encoding="utf-8")
    events = [f"{h.user_id},{item},{1000 + n}" for h in toy_histories() for n, item in enumerate(h.items)]
    (data / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    rows = [json.dumps({"item_id": i.item_id, "terms": t}) for i, t in zip(toy_catalog(), TERM_IDS, strict=True)]
    (data / "term_ids.jsonl").write_text("\n".join(rows) + "\n")
    train = TrainConfig(objective="trie", scratch=SHAPE, epochs=2, batch_size=8, learning_rate=5e-3, validation_examples=8)
    terms = TermsConfig(generator="file", resolver="rank")
    return Recipe(name="toy", data=str(data), output=str(folder / "out"), notice="Toys only.", terms=terms, train=train)


@pytest.fixture
def recipe(tmp_path: Path, blank_pictures: None) -> Recipe:
    return toy_recipe(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Run to its end, with pictures; not to be changed."""
    recipe = toy_recipe(tmp_path_factory.mktemp("finished"))
    assert ran(recipe) == [stage for stage in STAGES if stage != "teacher"]  # there is none
    return recipe


@pytest.fixture
def again(finished: Recipe, tmp_path: Path, blank_pictures: None) -> Recipe:
    """A copy of the finished run."""
    shutil.copytree(Path(finished.output).parent, tmp_path, dirs_exist_ok=True)
    return replace(finished, data=str(tmp_path / "shop"), output=str(tmp_path / "out"))


def ran(recipe: Recipe) -> list[str]:
    """The stages that were not skipped."""
    said: list[str] = []
    run(recipe, said.append)
    return [line.split(":")[0] for line in said if ": →" in line]


def test_the_chain_and_what_it_leaves(finished: Recipe) -> None:
    report = run(finished)  # as it stands
    out = Path(finished.output)
    assert {p.name for p in out.iterdir()} == {
        ".grlm", "neighbors.parquet", "catalog", "quality", "datasets", "priors", "checkpoint", "hybrids.json", "counting", "report.json",
        "report.png", "report.html",
    }  # fmt: skip
    assert report == load_report(out / "report.json")
    assert report.methods.keys() == {
        "grlm", "grlm+item_knn+text_knn", "item_knn", "text_knn", "item_knn+text_knn", "popularity", "random",
    }  # fmt: skip
    assert report.methods["grlm"]["valid_rate"] == Estimate(1.0, 1.0, 1.0)
    assert Catalog.from_pretrained(out / "catalog") == Catalog.from_pretrained(out / "checkpoint")
    assert Catalog.from_pretrained(out / "catalog").term_ids == tuple(TERM_IDS)
    grlm = GRLMForRecommendation.from_pretrained(out / "checkpoint")
    assert len({r.item_id for r in grlm.recommend(["i20"], 5)}) == 5
    card = (out / "checkpoint" / "README.md").read_text()
    assert "Toys only." in card
    assert f"{report.methods['grlm']['recall@10'].value:.4f}" in card
    assert load_dataset(str(out / "datasets"), "sft", split="train").column_names == ["task", "key", "prompt", "completion"]


def test_only_what_changed_runs_again(again: Recipe) -> None:
    recipe = again
    assert ran(recipe) == []
    assert ran(replace(recipe, evaluate=replace(recipe.evaluate, resamples=20))) == ["evaluate"]
    assert ran(replace(recipe, train=replace(recipe.train, epochs=1))) == ["train", "hybrid", "evaluate"]
    shutil.rmtree(Path(recipe.output) / "catalog")
    assert "terms" in ran(recipe)
    with open(Path(recipe.data) / "interactions.csv", "a") as file:
        file.write("new,i20,1\nnew,i19,2\nnew,i18,3\n")
    assert ran(recipe) == ["dataset", "priors", "train", "hybrid", "evaluate"]


def test_terms_from_text(recipe: Recipe) -> None:
    out = Path(recipe.output)
    assert ran(replace(recipe, neighbors=NeighborsConfig(k=3), terms=TermsConfig())) == [
        stage for stage in STAGES if stage != "teacher"
    ]  # there is none
    catalog = Catalog.from_pretrained(out / "catalog")
    assert all(len(set(t)) == 5 for t in catalog.term_ids)
    assert load_dataset(str(out / "datasets"), "neighbors", split="train").num_rows == len(catalog)


def test_an_interrupted_stage_leaves_the_last_good_output(again: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = again, Path(again.output)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and ".grlm" not in p.parts}

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("grlm_hf.data.catalog.write_rows", interrupted)  # within the writing of the catalog
        with pytest.raises(KeyboardInterrupt):
            run(replace(recipe, terms=TermsConfig()), lambda _: None)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and ".grlm" not in p.parts} == before
    assert "terms" in ran(replace(recipe, terms=TermsConfig()))


def test_the_quickstart_takes_the_same_path(tmp_path: Path) -> None:
    recipe = quickstart_recipe(tmp_path / "q")
    assert load_recipe(None, []).read == recipe.read
    assert {p.name for p in Path(recipe.data).iterdir()} == {"items.jsonl", "interactions.jsonl", "README.md"}
    again = quickstart_recipe(tmp_path / "q")
    assert again == recipe


def test_wrong_settings_are_found_before_any_work() -> None:
    for setting, message in (
        ("train.objective=words", "expected one of 'vocabulary', 'trie'"),
        ("train.epochs=0", "more than 0"),
        ("read.split=random", "expected one of 'leave-one-out', 'leave-one-out-per-domain'"),
        ("terms.generator=llm", "expected one of"),
        ("mixture.max_history=0", "mixture.max_history is 0; expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe(None, [setting])
    assert load_recipe(None, ["neighbors.embedder=", " neighbors.k = 3 "]).neighbors == NeighborsConfig(k=3)
    with pytest.raises(ValueError, match="never learns to write freely"):
        load_recipe(None, ["train.objective=trie", "evaluate.free_users=5"])


def test_other_outputs_of_ours_are_not_replaced(finished: Recipe) -> None:
    recipe, out = finished, Path(finished.output)
    for make, wrong in (
        (lambda o: make_terms(recipe.data, o, recipe.terms), "checkpoint"),
        (lambda o: make_terms(recipe.data, o, recipe.terms), "datasets"),
        (lambda o: make_dataset(recipe.data, out / "catalog", o), "catalog"),
        (lambda o: make_checkpoint(out / "datasets", o, recipe.train), "datasets"),
    ):
        before = {p: p.read_bytes() for p in (out / wrong).rglob("*") if p.is_file()}
        with pytest.raises(ValueError, match="Choose another folder"):
            make(out / wrong)
        assert {p: p.read_bytes() for p in (out / wrong).rglob("*") if p.is_file()} == before


def test_a_dataset_with_other_prompts_is_not_trained_on(recipe: Recipe) -> None:
    out = Path(recipe.output)
    make_terms(recipe.data, out / "catalog", recipe.terms)
    make_dataset(recipe.data, out / "catalog", out / "datasets")
    facts = json.loads((out / "datasets" / "grlm_dataset.json").read_text())
    (out / "datasets" / "grlm_dataset.json").write_text(json.dumps(facts | {"prompt_hash": "0"}))
    with pytest.raises(ValueError, match="made with other prompts"):
        make_checkpoint(out / "datasets", out / "checkpoint", recipe.train)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda p: p.name)
def test_the_recipes_load(path: Path) -> None:
    assert load_recipe(path).name


def test_a_recipe_without_data_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data folder: --data DIR"):
        run(Recipe(output=str(tmp_path / "out")), lambda _: None)


def test_a_chain_that_ends_early_ends_with_its_report(recipe: Recipe, tmp_path: Path) -> None:
    other = QualityConfig(compare=f"{recipe.data}/term_ids.jsonl", compare_name="given by hand")
    found = run(replace(recipe, until="quality", terms=TermsConfig(), quality=other), lambda _: None)
    assert list(found["sets"]) == ["extracted", "given by hand"]
    assert found["sets"]["extracted"]["legality"]["legal"] == 1.0
    assert found["sets"]["given by hand"]["collisions"]["items"] == 2
    assert {p.name for p in Path(recipe.output).iterdir()} == {".grlm", "neighbors.parquet", "catalog", "quality"}
    assert {p.name for p in (Path(recipe.output) / "quality").iterdir()} == {"quality.json", "quality.md", "quality.png"}


def test_a_tiny_model_writes_the_terms_and_a_finished_part_is_not_asked_again(recipe: Recipe, tmp_path: Path) -> None:
    llm = LLMConfig(model=save_toy_llm(tmp_path / "llm"), shard_size=5)
    wanted = replace(recipe, until="quality", terms=TermsConfig(generator="transformers", n_terms=4, llm=llm))
    with pytest.raises(Incomplete, match="first pass"):
        run(replace(wanted, terms=replace(wanted.terms, llm=replace(llm, part="1/2"))), lambda _: None)
    answers = Path(recipe.output) / ".grlm" / "answers" / "first"
    (done,) = answers.iterdir()
    before = done.stat().st_mtime_ns
    found = run(wanted, lambda _: None)
    assert done.stat().st_mtime_ns == before
    (report,) = found["sets"].values()
    assert report["legality"]["legal"] == 1.0
    assert report["n_terms"] == 4
    facts = json.loads((Path(recipe.output) / "catalog" / "terms.json").read_text())
    assert facts["generator"] == "transformers"
    assert facts["prompt_hash"] == generation_hash(4)
    assert ran(replace(wanted, terms=replace(wanted.terms, resolver="rank"))) == ["terms", "quality"]
    assert {p.stat().st_mtime_ns for p in answers.iterdir()} >= {before}


def test_only_the_first_items_on_demand(recipe: Recipe) -> None:
    small = replace(recipe, until="dataset", read=replace(recipe.read, limit=6))  # short users are the limit's doing
    run(small, lambda _: None)
    catalog = Catalog.from_pretrained(Path(recipe.output) / "catalog")
    assert [i.item_id for i in catalog] == [i.item_id for i in toy_catalog()][:6]
    assert set(load_dataset(str(Path(recipe.output) / "datasets"), "interactions", split="train")["item_id"]) <= {
        i.item_id for i in catalog
    }


def test_neighbours_of_other_items_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    make_neighbors(recipe.data, tmp_path / "n.parquet", read=replace(recipe.read, limit=4))
    with pytest.raises(ValueError, match="neighbours of 4 items"):
        make_terms(recipe.data, tmp_path / "catalog", TermsConfig(), neighbors=tmp_path / "n.parquet")


def test_collaborative_neighbours_are_trained_where_no_file_is_named(recipe: Recipe) -> None:
    wanted = replace(
        recipe, until="dataset", mixture=replace(recipe.mixture, collaborative=1.0),
        sequence_model=replace(recipe.sequence_model, epochs=2, width=16, layers=1, heads=1),
    )  # fmt: skip
    run(wanted, lambda _: None)
    tasks = set(load_dataset(str(Path(recipe.output) / "datasets"), "sft", split="train")["task"])
    assert tasks == {"sequence", "internalise", "collaborative"}
    assert load_dataset(str(Path(recipe.output) / "datasets"), "collaborative", split="train").column_names[:2] == ["item_id", "neighbors"]


def test_a_run_writes_into_no_folder_of_tables(recipe: Recipe) -> None:
    before = sorted(Path(recipe.data).iterdir())
    with pytest.raises(ValueError, match="holds tables of its own"):
        run(replace(recipe, output=recipe.data))
    assert sorted(Path(recipe.data).iterdir()) == before


def commands_of(path: Path) -> list[list[str]]:
    """The `grlm` commands in the comments of a recipe."""
    comments = re.sub(r"\\\n#\s*", " ", "".join(line + "\n" for line in path.read_text().splitlines() if line.startswith("#")))
    found = re.findall(r"grlm (?:run|join|train|evaluate|grpo|dpo|quickstart|terms|dataset|push) [^\n;`]*", comments)
    return [shlex.split(command.replace("$", ""), comments=True) for command in found]


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda p: p.name)
def test_the_commands_in_a_recipe_have_flags_and_settings_that_exist(path: Path) -> None:
    for command in commands_of(path):
        app.parse_args(command[1:], exit_on_error=False, print_error=False)
        settings = [value for flag, value in itertools.pairwise(command) if flag == "--set"]
        load_recipe(path, settings)
