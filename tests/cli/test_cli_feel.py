"""The command line as it feels: suggestions, JSON everywhere, plain text where nobody looks at colours, no noise of libraries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forks import GRLM, grlm
from toys import toy_grlm

import grlm_hf
from grlm_hf.cli.app import app, check_domain, check_items, coloured
from grlm_hf.data.catalog import Catalog


def new_process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a new interpreter: with all that its imports print. `forks.grlm` starts faster."""
    path = str(Path(grlm_hf.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", GRLM, *args], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **env}, timeout=600
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("feel") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("recomend", "x"), 'Did you mean "recommend"?'),
        (("recommend", "x", "--histroy", "a"), "Did you mean --history instead of --histroy? See: grlm recommend --help"),
        (("quickstart", "--epoch", "3"), "Unknown option: --epoch. For the setting, write --set train.epochs=VALUE. See: grlm quickstart"),
        (("run", "x.yaml", "--exclude-sen"), "write --set evaluate.exclude_seen=VALUE. See: grlm run --help"),
        (("doctor", "x", "--epoch", "3"), "Unknown option: --epoch. See: grlm doctor --help"),
        (("run", "."), "is a folder; expected a recipe, which is a YAML file, such as recipe.yaml"),
        (("recommend", "x"), "requires an argument. See: grlm recommend --help"),
        (("recommend", "x", "--history", "a", "--k", "many"), 'unable to convert "many" into int. See: grlm recommend --help'),
        (("run", "no-such.yaml", "--set", "x=1"), "No recipe at no-such.yaml"),
        (("train", "d", "--output", "o", "--set", "train.epoch=3"), "Did you mean 'train.epochs'?"),
        (("doctor", "--engine", "serve.yaml"), "--engine needs a checkpoint: grlm doctor CHECKPOINT --engine FILE."),
    ],
)
def test_a_mistake_is_one_line_with_a_next_step(args: tuple[str, ...], message: str) -> None:
    run = grlm(*args)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("grlm: ")
    assert run.stderr.count("\n") == 1
    assert message in run.stderr


def test_the_folder_of_a_run_is_told_from_its_parts(checkpoint: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint")
    toy_grlm().catalog.save_pretrained(tmp_path / "run" / "catalog")
    (tmp_path / "run" / ".grlm").mkdir()
    (tmp_path / "run" / ".grlm" / "quality.json").write_text("{}")
    run = str(tmp_path / "run")
    for args, message in (
        (["recommend", run, "--history", "a"], f"Did you mean {Path(run, 'checkpoint')}?"),
        (["quality", run], f"Did you mean {Path(run, 'catalog')}?"),
        (["quality", str(Path(run, "catalog")), "--output", str(Path(run, "quality"))], "belongs to the run in"),
        (["report", run], f"is a folder; expected a report, such as {Path(run, 'report.json')}"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            app(args, result_action="return_value", exit_on_error=False)


def test_the_nearest_item_and_domain() -> None:
    from grlm_hf import Item

    items = [Item("B0001", "a", domain="Outdoor"), Item("B0002", "b", domain="Kitchen"), Item("C9", "c")]
    catalog = Catalog(items, [("a",), ("b",), ("c",)])
    check_items(catalog, ["B0001", "C9"])
    check_domain(catalog, "Kitchen")
    for given, near in (("b0001", "B0001"), ("c9", "C9"), ("B0O02", "B0002")):
        with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
            check_items(catalog, ["C9", given])
    with pytest.raises(ValueError, match=r"ids look like 'B0001', 'B0002', 'C9'\)\.$"):
        check_items(catalog, ["zzzzzzz"])
    with pytest.raises(ValueError, match="Did you mean 'Outdoor'"):
        check_domain(catalog, "outdor")


PRINTS = ("quickstart", "run", "scale", "quality", "evaluate", "recommend", "explain", "report", "push", "grpo", "dpo", "doctor", "version")


@pytest.mark.parametrize("verb", PRINTS)
def test_every_verb_that_prints_can_print_json(verb: str) -> None:
    arguments = app[verb].assemble_argument_collection()
    assert any("--json" in argument.names for argument in arguments)


def lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.strip()]


def test_no_noise_on_the_way_to_a_recommendation(checkpoint: str) -> None:
    """Nothing but the answer, and no colours, as nobody looks: in a process that shows every warning."""
    plain = new_process("recommend", checkpoint, "--history", "i20,i16", "--k", "3", PYTHONWARNINGS="default::UserWarning")
    assert (plain.returncode, lines(plain.stderr)) == (0, [])
    assert "\x1b" not in plain.stdout
    assert len(re.findall(r"^ +\d\. ", plain.stdout, re.MULTILINE)) == 3
    said = grlm("recommend", checkpoint, "--history", "i20,i16", "--k", "3", "--json")
    assert [r["item_id"] for r in json.loads(said.stdout)] == re.findall(r"\((i\d+)\)$", plain.stdout, re.MULTILINE)


def test_no_noise_around_an_explanation(checkpoint: str) -> None:
    run = new_process("explain", checkpoint, "--history", "i20,i16", "--json", PYTHONWARNINGS="default::UserWarning")
    assert (run.returncode, lines(run.stderr)) == (0, [])
    assert set(json.loads(run.stdout)) >= {"item_id", "terms", "history"}


def test_the_doctor_as_a_command(checkpoint: str) -> None:
    sound = new_process("doctor", checkpoint)
    assert (sound.returncode, lines(sound.stderr)) == (0, []), sound.stderr
    assert "\x1b" not in sound.stdout
    config = Path(checkpoint) / "generation_config.json"
    whole = config.read_text()
    try:
        config.write_text(json.dumps(json.loads(whole) | {"eos_token_id": 7}))
        run = grlm("doctor", checkpoint, "--json")
    finally:
        config.write_text(whole)
    assert run.returncode == 1
    (said,) = json.loads(run.stdout)
    assert [f["check"] for f in said["findings"] if f["level"] == "error"] == ["eos-differs"]


def test_version() -> None:
    said = json.loads(grlm("version", "--json").stdout)
    assert said["grlm-hf"] == grlm_hf.__version__ == grlm("--version").stdout.strip()
    assert said["torch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_written_for_a_shell(tmp_path: Path, shell: str) -> None:
    script = tmp_path / "completion"
    run = grlm("--install-completion", "--shell", shell, "--output", str(script), HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert "recommend" in script.read_text()
    assert "exclude-seen" in script.read_text()


def test_colours_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert not coloured()
    terminal: Any = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured()
