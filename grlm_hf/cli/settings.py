"""The settings of each verb, as its ``--help`` shows them."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from cyclopts import CycloptsError
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


def hint(error: CycloptsError) -> str:
    """For an unknown option that is nearly the name of a setting of the verb: how settings are given; else ""."""
    option = re.fullmatch(r"Unknown option: --(no-)?(\S+?)(=.*)?", " ".join(str(error).split()).rstrip("."))
    verb = next((name for name in error.command_chain or () if name != "grlm"), "")
    if not option or "--set" not in {n for a in app[verb].assemble_argument_collection() for n in a.names}:
        return ""
    keys = re.findall(r"^- `([\w.]+)=", _settings_of().get("run" if verb in ("quickstart", "scale") else verb, ""), re.MULTILINE)
    last = {key.rpartition(".")[2]: key for key in sorted(keys, key=lambda key: key.startswith("train."))}  # of one name, that of train
    near = get_close_matches(option[2].replace("-", "_").rpartition(".")[2], last, 1, 0.75)
    return f"For the setting, write --set {last[near[0]]}=VALUE." if near else ""


def add_settings_help() -> None:
    for verb, text in _settings_of().items():
        app[verb].help_epilogue = text
    dataset["push"].help_epilogue = ""  # else that of `dataset`


def _settings_of() -> dict[str, str]:
    """Verb → the list of its settings."""
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
    return {verb: _settings_help(*sections) for verb, sections in of.items()}
