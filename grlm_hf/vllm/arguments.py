"""The arguments of a request to the constraint: the keys of its ``extra_args`` that begin with ``grlm_``. Needs no vLLM.

Over HTTP they are ``vllm_xargs``, which holds strings, numbers and lists of them; so the keys are flat, and a truth value may be 0 or 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlm_hf.decoding.rules import Rules
from grlm_hf.files import did_you_mean
from grlm_hf.identifiers.terms import normalise

PREFIX = "grlm_"
CATALOGS = "GRLM_CATALOGS"
"""The environment variable that names further catalogs: ``name=/folder,other=/folder``."""
DEFAULT = "default"
"""The name of the served checkpoint's own catalog."""
MAX_IDS = 100_000
"""Maximum number of entries in a list."""
MAX_TEXT = 1_000
"""Maximum number of characters in a string."""

KEYS = {
    "constrain": "whether the text must be an identifier of the catalog",
    "catalog": "the catalog's name; 'default' is that of the checkpoint",
    "allow": "item ids; others are not recommended",
    "exclude": "item ids that are not recommended",
    "seen": "item ids of the history that are not recommended either",
    "ban_terms": "terms; items with one of them are not recommended",
    "domain": "items of this domain only",
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one request. `constrain` is ``None`` if the request has none."""

    constrain: bool | None = None
    catalog: str = DEFAULT
    rules: Rules = field(default_factory=Rules)

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Arguments:
        """Reads ``SamplingParams.extra_args``. Keys with another prefix are ignored; a catalog or a rule implies ``grlm_constrain``.

        Raises:
            ValueError: an unknown key, a value of another type or size, a term without a letter or digit, or rules together with
                ``grlm_constrain`` false.
        """
        given = {key[len(PREFIX) :]: value for key, value in (extra_args or {}).items() if isinstance(key, str) and key.startswith(PREFIX)}
        for key in given:
            if key not in KEYS:
                hint = did_you_mean(key, KEYS, f"Expected one of {', '.join(PREFIX + k for k in KEYS)}.", PREFIX)
                raise ValueError(f"{PREFIX}{key[:50]} is no argument of grlm-hf. {hint}")
        given = {key: value for key, value in given.items() if value is not None}
        constrain = _truth(given.pop("constrain")) if "constrain" in given else None
        if not given:
            return cls(constrain)
        if constrain is False:
            raise ValueError(f"grlm_constrain is false, but {PREFIX}{min(given)} implies a constraint; leave out one of the two.")
        banned = _texts(given, "ban_terms") or ()
        if (text := next((text for text in banned if not normalise(text)), None)) is not None:
            raise ValueError(f"grlm_ban_terms holds {text[:50]!r}, which is no term: it has no letter or digit.")
        rules = Rules(
            allow=_texts(given, "allow"),
            exclude=(_texts(given, "exclude") or ()) + (_texts(given, "seen") or ()),
            banned_terms=tuple(map(normalise, banned)),
            domain=_text(given, "domain"),
        )
        return cls(True, _text(given, "catalog") or DEFAULT, rules)


def named_catalogs(value: str | None = None) -> dict[str, Path]:
    """The further catalogs, name → folder, of `value`; by default of the environment variable `CATALOGS`.

    Raises:
        ValueError: it has another form, repeats a name, or uses the name ``default``.
    """
    found: dict[str, Path] = {}
    for entry in filter(None, map(str.strip, (os.environ.get(CATALOGS, "") if value is None else value).split(","))):
        name, _, folder = map(str.strip, entry.partition("="))
        if not (name and folder):
            raise ValueError(f"{CATALOGS} holds {entry!r}; expected name=/folder,other=/folder.")
        if name == DEFAULT or name in found:
            taken = "is the catalog of the checkpoint" if name == DEFAULT else "is there twice"
            raise ValueError(f"{CATALOGS} names a catalog {name!r}, which {taken}; choose another name.")
        found[name] = Path(folder)
    return found


def check(extra_args: Mapping[str, Any] | None) -> None:
    """Checks a request before an engine receives it. Raises ``ValueError`` as `Arguments.of` does, and for an unknown catalog."""
    arguments = Arguments.of(extra_args)
    if arguments.catalog != DEFAULT and arguments.catalog not in (known := named_catalogs()):
        names = sorted([DEFAULT, *known])
        hint = did_you_mean(arguments.catalog, names, f"Expected one of {names} ({CATALOGS} names further ones).")
        raise ValueError(f"Unknown grlm_catalog {arguments.catalog[:50]!r}. {hint}")


def always(additional_config: Any) -> bool:
    """Whether the engine constrains requests without arguments: ``additional_config={"grlm": {"constrain": "always"}}``.

    Raises:
        ValueError: another value or key.
    """
    ours = additional_config.get("grlm", {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(ours, Mapping) or not ours.keys() <= {"constrain"} or ours.get("constrain", "asked") not in ("asked", "always"):
        raise ValueError(f'additional_config["grlm"] is {ours!r}; expected {{"constrain": "always"}} or {{"constrain": "asked"}}.')
    return ours.get("constrain") == "always"


def _truth(value: Any) -> bool:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):  # as JSON writers of other languages put it
        return value.lower() == "true"
    raise ValueError(f"grlm_constrain is {str(value)[:50]!r}; expected true or false.")


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT):
        raise ValueError(f"{PREFIX}{key} is {str(value)[:50]!r}; expected a text of 1 to {MAX_TEXT} characters: {KEYS[key]}.")
    return value


def _texts(given: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f"{PREFIX}{key} is {str(value)[:50]!r}; expected a list of texts: {KEYS[key]}.")
    if len(value) > MAX_IDS:
        raise ValueError(f"{PREFIX}{key} has {len(value)} entries; expected at most {MAX_IDS}.")
    for entry in value:
        if not isinstance(entry, str) or len(entry) > MAX_TEXT:
            raise ValueError(f"{PREFIX}{key} holds {str(entry)[:50]!r}; expected texts of at most {MAX_TEXT} characters: {KEYS[key]}.")
    return tuple(value)
