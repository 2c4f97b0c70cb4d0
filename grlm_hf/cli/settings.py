"""The settings of each verb, as its ``--help`` shows them."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any

from grlm_hf.cli.app import app
from grlm_hf.cli.data import dataset


def _settings_help(*sections: tuple[str, Any]) -> str:
    """A list of settings with their defaults and what the dataclasses say of them."""
    lines = ["Settings (`--set KEY=VALUE`, or the same keys in a recipe):", ""]
    for prefix, value in sections:
        said = _field_docs(type(value))
        for f in fields(value):
            default = getattr(value, f.name)
            if is_dataclass(default):
                lines += _settings_help((f"{prefix}{f.name}.", default)).splitlines()[2:]
            else:
                lines.append(f"- `{prefix}{f.name}={json.dumps(default)}` {said.get(f.name, '')}")
    return "\n".join(lines)


def _field_docs(owner: type) -> dict[str, str]:
    said: dict[str, str] = {}
    name = ""
    for line in ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body:  # type: ignore[attr-defined]
        if isinstance(line, ast.AnnAssign):
            name = ast.unparse(line.target)
        elif isinstance(line, ast.Expr) and name:  # the string below a field
            said[name] = " ".join(str(ast.literal_eval(line.value)).split())
    return said


def add_settings_help() -> None:
    from grlm_hf.recipe import Recipe

    r = Recipe()
    read, mix = ("read.", r.read), ("mixture.", r.mixture)
    of: dict[str, list[tuple[str, Any]]] = {
        "neighbors": [("neighbors.", r.neighbors), read],
        "terms": [("terms.", r.terms), read],
        "quality": [("quality.", r.quality)],
        "dataset": [mix, ("sequence_model.", r.sequence_model), read],
        "train": [("train.", r.train)],
        "grpo": [("grpo.", r.grpo)],
        "dpo": [("dpo.", r.dpo)],
        "evaluate": [("evaluate.", r.evaluate)],
        "run": [("", r)],
    }
    for verb, sections in of.items():
        app[verb].help_epilogue = _settings_help(*sections)
    dataset["push"].help_epilogue = ""  # else that of `dataset`
