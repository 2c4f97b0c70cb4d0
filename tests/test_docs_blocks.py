"""Every block of code in README, docs/ and CONTRIBUTING.md runs as it stands, or says in a comment before it why it does not.

Python blocks of a page share a namespace, bash blocks a folder in which a quickstart of 60 users was run; trainings are made shorter.
Recipes are read. What does not run is still checked: calls of `grlm` are parsed, Python is compiled.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docs_shell import Shell

from grlm_hf.cli.app import app
from grlm_hf.data.sample import write_sample
from grlm_hf.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"))
TINY = ["train.scratch.hidden_size=32", "train.scratch.intermediate_size=64", "train.scratch.vocab_size=1024", "train.max_steps=2"]
SHORTER = {
    **{verb: [*TINY, "evaluate.resamples=20"] for verb in ("run", "train", "quickstart")},
    "grpo": ["grpo.steps=2", "grpo.prompts=4", "grpo.rollouts=4"],
    "dpo": ["dpo.prompts=64"],
}
"""Settings added to the calls of a verb, so that the tests take a minute."""
BLOCK = re.compile(r"^(?:<!-- (?P<why>.*?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "yaml", "text", ""}


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    why: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(m["language"], textwrap.dedent(m["code"]), m["why"] or "", text[: m.start("code")].count("\n") + 1)
        for m in BLOCK.finditer(text)
    ]


def calls(bash: str) -> list[list[str]]:
    """The arguments of each call of grlm in a block."""
    import shlex

    lines = [line for line in bash.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    found = []
    for line in lines:
        if match := re.search(r"(?:\bgrlm|-m grlm_hf)((?: |$).*)", line):
            words = shlex.split(re.sub(r" (&|;).*", "", match[1]), comments=True)
            if "grlm_hf" in line or re.match(r"(?:\w+=\S+ )*grlm\b", line.strip()):
                found.append(words)
    return found


def shortened(bash: str) -> str:
    """The block with the settings of `SHORTER` in its calls."""

    def more(match: re.Match[str]) -> str:
        return match[0] + "".join(f" --set {s}" for s in SHORTER.get(match[2], ()))

    bash = bash.replace("write_sample('sample')", "write_sample('sample', users=60)")
    return re.sub(r"^(grlm) (\w+)(?: [^\s#][^\n#\\]*)?", lambda m: more(m).rstrip() + " ", bash, flags=re.MULTILINE)


# --- what stands there -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_what_they_say(page: str) -> None:
    found = blocks(page)
    assert (ROOT / page).read_text(encoding="utf-8").count("```") == 2 * len(found)
    for block in found:
        where = f"{page}:{block.line}"
        assert block.language in LANGUAGES, where
        assert not block.why or re.fullmatch(r"not run: \S.*", block.why), f"{where}: a comment before a block says why it is not run"
        if block.language == "python":
            compile(block.code, where, "exec")
        elif block.language == "bash":
            for words in calls(block.code):
                if words and words[0] not in ("--install-completion", "--version", "--help"):
                    app.parse_args(words, exit_on_error=False, print_error=False)


def test_calls_are_found() -> None:
    text = "grlm a  # b\n# grlm no\nX=1 grlm run 'two words' \\\n  --set a=b &\naccelerate launch -m grlm_hf train x\necho grlm\n"
    assert calls(text) == [["a"], ["run", "two words", "--set", "a=b"], ["train", "x"]]


# --- what runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("programs"))
    yield shell
    shell.stop()


@pytest.fixture(scope="module")
def started(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as after the quickstart and the first steps of the guide."""
    folder = tmp_path_factory.mktemp("docs")
    for data in ("grlm-quickstart/data", "sample"):
        (folder / data).parent.mkdir(exist_ok=True)
        write_sample(folder / data, users=60)
    shell.run(shortened("grlm quickstart"), folder)
    for name in ("dataset_scripts", "recipes", "benchmarks", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("catalog", "checkpoint", "datasets", "quality", "report.json"):
        (folder / name).symlink_to(Path("grlm-quickstart", name))
    shell.run("grlm import --items sample/items.jsonl --events sample/interactions.jsonl --output my-shop", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, started: Path, shell: Shell, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [b for b in blocks(page) if not b.why and b.language in ("python", "bash", "yaml")]
    if not todo:
        return
    folder = tmp_path / "here"
    shutil.copytree(started, folder, symlinks=True)
    if "--output my-shop\n" in (ROOT / page).read_text(encoding="utf-8"):
        shutil.rmtree(folder / "my-shop")
    monkeypatch.chdir(folder)
    monkeypatch.setitem(shell.environment, "HF_TOKEN", hub.token)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in todo:
            if block.language == "python":
                exec(compile("\n" * block.line + block.code, str(ROOT / page), "exec"), namespace)
            elif block.language == "bash":
                shell.run(shortened(block.code), folder)
            else:
                (tmp_path / "recipe.yaml").write_text(block.code, encoding="utf-8")
                load_recipe(tmp_path / "recipe.yaml")
    finally:
        shell.stop()
