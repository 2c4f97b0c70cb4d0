"""The settings of each verb, as its ``--help`` shows them."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

from docstring_parser import parse_from_object

from grlm_hf.cli.app import app
from grlm_hf.cli.data import dataset


def _settings_help(*sections: tuple[str, Any]) -> str:
    """A list of settings with their defaults and the docstrings of their fields."""
    lines = ["Settings (`--set KEY=VALUE`, or the same keys in a recipe):", ""]
    for prefix, value in sections:
        docs = field_docs(type(value))
        for f in fields(value):
            default = getattr(value, f.name)
            if isinstance(default, dict):
                lines += [f"- `{prefix}{f.name}.{key}={json.dumps(value)}` {docs.get(f.name, '')}" for key, value in default.items()]
            elif is_dataclass(default):
                lines += _settings_help((f"{prefix}{f.name}.", default)).splitlines()[2:]
            else:
                lines.append(f"- `{prefix}{f.name}={json.dumps(default)}` {docs.get(f.name, '')}")
    return "\n".join(lines)


def field_docs(owner: type) -> dict[str, str]:
    """The strings below a dataclass's fields, the inherited ones too, each as one line."""
    classes = [cls for cls in reversed(owner.__mro__) if is_dataclass(cls)]
    return {p.arg_name: " ".join((p.description or "").split()) for cls in classes for p in parse_from_object(cls).params}


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
