"""Functions of the user: what runs, when, and what is said where they fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grlm_hf.plugins import beside, check_plugin, downloaded, load_plugin, load_plugins, plugin_files, stated
from grlm_hf.recipe import load_recipe

METRIC = "evaluate.metrics"
Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes mine.py into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        (tmp_path / "mine.py").write_text(text)
        return tmp_path / "mine.py"

    return write


def test_a_function_of_a_file_and_one_of_a_module(written: Written) -> None:
    path = written(
        "from dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: int\n\ndef double(ranks):\n    return A(2 * ranks).x\n"
    )
    plugin = load_plugin(METRIC, "mine.py:double")
    assert plugin(4) == 8
    assert plugin.called == "double"
    assert load_plugin(METRIC, f"{path}:double")(1) == 2
    assert load_plugin(METRIC, "operator:neg")(3) == -3
    assert not (path.parent / "__pycache__").exists()


def test_a_changed_file_is_run_again_at_once(written: Written) -> None:
    written("def f(ranks):\n    return 1\n")
    assert load_plugin(METRIC, "mine.py:f")(0) == 1
    before = os.stat("mine.py")
    path = written("def f(ranks):\n    return 2\n")  # as long, and as old
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_plugin(METRIC, "mine.py:f")(0) == 2


def test_a_file_may_import_its_neighbours_but_hides_no_package(written: Written, tmp_path: Path) -> None:
    (tmp_path / "my_helper.py").write_text("VALUE = 5\n")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('hidden')\n")
    before = list(sys.path)
    written("import numpy\nfrom my_helper import VALUE\ndef f(ranks):\n    return VALUE\n")
    assert load_plugin(METRIC, "mine.py:f")(0) == 5
    assert sys.path == before


def test_only_what_has_this_parameter_gets_the_seed(written: Written) -> None:
    written("def a(histories, catalog):\n    return 1\ndef b(histories, catalog, seed):\n    return seed\n")
    a, b = (load_plugin("evaluate.methods", f"mine.py:{name}") for name in "ab")
    assert (a([], None, seed=7), b([], None, seed=7)) == (1, 7)


@pytest.mark.parametrize("name", ["mine", "mine.py", "mine.py:", ":f", "mine.py:a b", "mine.py:f()", "../x:f", "a b:f", ".py:", ""])
def test_names_of_another_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"evaluate\.metrics is .*; expected FILE\.py:FUNCTION or package\.module:FUNCTION"):
        check_plugin(METRIC, name)
    with pytest.raises(ValueError, match="expected FILE"):
        load_recipe(settings=[f"evaluate.metrics=['{name}']"])


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def precision(ranks): ...", "mine.py:precison", r"mine\.py has no function 'precison'\. Did you mean 'precision'\?"),
        ("x = 1", "mine.py:x", r"mine\.py has no function 'x'\. Its functions are none"),
        ("", "none.py:f", r"No file at none\.py: it is missing"),
        ("", "no_such_module:f", r"no module 'no_such_module' is installed\. Name a file with its ending: no_such_module\.py:FUNCTION"),
        ("\ndef f(:\n", "mine.py:f", r"mine\.py:f, line 2: SyntaxError"),
        ("import no_such_module\n", "mine.py:f", r"mine\.py:f, line 1: ModuleNotFoundError: .*no_such_module"),
        ("import sys\nsys.exit(3)\n", "mine.py:f", r"mine\.py:f, line 2: SystemExit: 3"),
        ("def f(): ...", "mine.py:f", r"found f\(\); expected f\(ranks\)"),
        ("def f(ranks, k): ...", "mine.py:f", r"found f\(ranks, k\); expected f\(ranks\)"),
    ],
)
def test_what_cannot_be_loaded(written: Written, text: str, name: str, message: str) -> None:
    written(text)
    with pytest.raises(ValueError, match=rf"^evaluate\.metrics: {message}"):
        load_plugin(METRIC, name)


@pytest.mark.parametrize("signature", ["ranks", "ranks, k=10", "*args", "ranks, *, k=10", "ranks, /", "ranks, **more"])
def test_forms_of_parameters_that_fit(written: Written, signature: str) -> None:
    written(f"def f({signature}):\n    return 1\n")
    assert load_plugin(METRIC, "mine.py:f")(0) == 1


def test_an_error_inside_names_the_function_and_its_own_line(written: Written) -> None:
    written("import json\n\ndef f(ranks):\n    a = 1\n    return json.loads('{')\n\ndef g(ranks):\n    return lambda x: 1 / x\n")
    with pytest.raises(ValueError, match=r"^evaluate\.metrics: mine\.py:f, line 5: JSONDecodeError: Expecting property") as caught:
        load_plugin(METRIC, "mine.py:f")(0)
    assert caught.value.__cause__ is not None
    plugin = load_plugin(METRIC, "mine.py:g")
    with pytest.raises(ValueError, match=r"mine\.py:g, line 8: ZeroDivisionError: division by zero"):
        plugin.guarded(plugin(0))(0)


def test_two_functions_of_one_name(written: Written, tmp_path: Path) -> None:
    written("def f(ranks): ...")
    (tmp_path / "other.py").write_text("def f(ranks): ...")
    with pytest.raises(ValueError, match=r"names mine\.py:f and other\.py:f, which a report would both call 'f'"):
        load_plugins(METRIC, ["mine.py:f", "other.py:f"])


def test_files_and_names_for_the_key_of_a_stage(written: Written, tmp_path: Path) -> None:
    path = written("def f(ranks): ...")
    files = plugin_files([f"{path}:f", f"{path}:g", "json.decoder:JSONDecoder", "no_such.module:f", "none.py:f", "sys:exit", ""])
    assert files[0] == path
    assert [f.name for f in files] == ["mine.py", "decoder.py"]
    assert [stated(n) for n in (f"{path}:f", "json.decoder:f", "")] == ["mine.py:f", "json.decoder:f", ""]


def test_the_file_of_a_module_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "grlm_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugin_files(["grlm_test_package.inner:f", "grlm_test_package.inner.none:f"]) == [package / "inner.py"]
    with pytest.raises(ValueError, match="RuntimeError: imported"):
        load_plugin(METRIC, "grlm_test_package.inner:f")


# --- recipes ---------------------------------------------------------------------------------------------------------------------------


RECIPE = "terms:\n  function: mine.py:ids\nevaluate:\n  metrics: [mine.py:f, elsewhere.py:f, json:loads]\n  methods: [mine.py:m]\n"


def test_reading_a_recipe_runs_nothing_and_finds_files_beside_it(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("open('ran', 'w')\ndef f(ranks): ...")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    r = load_recipe("../recipe.yaml", ["evaluate.methods=[mine.py:n]"])
    assert r.evaluate.metrics == ["../mine.py:f", "elsewhere.py:f", "json:loads"]  # what is not beside it is in the current folder
    assert r.terms.function == "../mine.py:ids"
    assert r.evaluate.methods == ["mine.py:n"]  # a setting of the command line: in the current folder
    assert not list(tmp_path.rglob("ran"))
    assert beside("../recipe.yaml", f"{tmp_path}/mine.py:f") == f"{tmp_path}/mine.py:f"


def test_a_recipe_of_the_hub_runs_nothing(written: Written, tmp_path: Path, hub: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi()
    api.create_repo("me/evil", exist_ok=True)
    text = "open('ran', 'w')\ndef f(ranks): ...\ndef m(histories, catalog): ...\ndef ids(items): ...\n"
    for name, content in (("recipe.yaml", RECIPE), ("mine.py", text), ("plain.yaml", "seed: 3\n")):
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id="me/evil")
    hidden = "name: mine.py:f\nevaluate:\n  metrics: ['${name}']\n"
    api.upload_file(path_or_fileobj=hidden.encode(), path_in_repo="hidden.yaml", repo_id="me/evil")
    for folder in (snapshot_download("me/evil"), snapshot_download("me/evil", local_dir=tmp_path / "copy")):
        assert downloaded(Path(folder) / "mine.py")
        for name in ("recipe.yaml", "hidden.yaml"):
            with pytest.raises(ValueError, match=r"yaml was downloaded from the Hub, and names code to run .*mine\.py:f"):
                load_recipe(Path(folder) / name)
        assert load_recipe(Path(folder) / "plain.yaml").seed == 3
        (tmp_path / "own.yaml").write_text(f"evaluate:\n  metrics: ['{folder}/mine.py:f']\n")
        own = load_recipe(tmp_path / "own.yaml")
        with pytest.raises(ValueError, match=r"evaluate\.metrics: .*mine\.py was downloaded from the Hub\. Read it, and copy it"):
            load_plugin(METRIC, own.evaluate.metrics[0])
    assert not list(tmp_path.rglob("ran"))
    assert not downloaded(tmp_path / "own.yaml")
