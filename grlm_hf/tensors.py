"""Named tensors with JSON facts in one file of the safetensors format: scorers, labels, codebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grlm_hf.files import replacing

_VERSION = 1


def write_tensors(path: str | Path, kind: str, groups: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    """Writes groups of named tensors (or numpy arrays) and JSON facts as one file, atomically. `read_tensors` checks the `kind` of file,
    such as "sequence"."""
    import torch
    from safetensors.torch import save

    tensors = {
        f"{group}.{name}": (t if isinstance(t, torch.Tensor) else torch.tensor(t)).contiguous()  # a copy: the array may be read-only
        for group, named in groups.items()
        for name, t in named.items()
    }
    data = save(tensors, metadata={f"grlm.{kind}/{_VERSION}": json.dumps(facts)})
    with replacing(path) as new:
        new.write_bytes(data)


def kind_of(path: str | Path) -> str:
    """The kind that `write_tensors` was given; empty for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.metadata() or {} if name.startswith("grlm.")]
    except (SafetensorError, OSError):
        return ""
    return names[0].removeprefix("grlm.").rpartition("/")[0] if names else ""


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Reads what `write_tensors` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"No {kind} model at {path}.")
    header = f"grlm.{kind}/{_VERSION}"
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[header])
            groups: dict[str, dict[str, Any]] = {}
            for key in file.keys():  # noqa: SIM118 (no mapping)
                group, name = key.split(".", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
            return groups, facts
    except KeyError:
        raise ValueError(f"{path} has no {header} header: it is no {kind} model, or one of another version of grlm-hf.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable {kind} model; it may be truncated ({error}). Remove it and create it again.") from error


def write_state(
    path: str | Path, kind: str, facts: dict[str, Any], net: Any, optimizer: Any, more: dict[str, dict[str, Any]] | None = None
) -> None:
    """Writes the state of an Adam training of a scorer or a codebook, and `more` groups of tensors, as one file. `facts`: JSON values, in
    them ``about``: all that the result depends on."""
    adam = {f"{n}.{name}": t for n, slot in optimizer.state_dict()["state"].items() for name, t in slot.items()}
    write_tensors(path, kind, {"net": net.state_dict(), "adam": adam, **(more or {})}, facts)


def read_state(
    path: Path | None, kind: str, about: dict[str, Any], net: Any, optimizer: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]] | None:
    """Loads what `write_state` wrote into net and optimizer. Returns all groups and the facts; None where there is no file. Raises
    ``ValueError`` for the state of a training about something else, and as `read_tensors`."""
    if path is None or not path.is_file():
        return None
    groups, facts = read_tensors(path, kind)
    found = facts.get("about") or {}
    if found != about:
        changed = ", ".join(f"{name} {found.get(name)!r} → {value!r}" for name, value in about.items() if found.get(name) != value)
        raise ValueError(f"{path} is the state of another training ({changed}). Choose another folder, or remove it to start again.")
    net.load_state_dict(groups["net"])
    slots: dict[int, dict[str, Any]] = {}
    for name, tensor in groups["adam"].items():
        slot, key = name.split(".")
        slots.setdefault(int(slot), {})[key] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return groups, facts
