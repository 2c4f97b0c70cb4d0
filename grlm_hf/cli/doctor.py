"""Verbs about this installation and its output: doctor and version."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from grlm_hf.cli.app import Json, app, coloured, quiet


@app.command
def doctor(
    target: str = "",
    *,
    engine: Path | None = None,
    as_json: Json = False,
) -> None:
    """Examine this machine, or a checkpoint, dataset, catalog or run folder: what is wrong, why it matters, how to fix it.

    Exit status 1 if any finding is an error.

    Example: `grlm doctor` · `grlm doctor grlm-quickstart/checkpoint` · `grlm doctor my-org/my-recommender --engine serve.yaml --json`

    Parameters
    ----------
    target
        Folder or Hub id; by default this machine.
    engine
        YAML file with the arguments of a vLLM engine for the checkpoint, as for `vllm serve --config`.
    """
    from grlm_hf.doctor import examine, examine_environment, text_report

    if engine is not None and not target:
        raise ValueError("--engine needs a checkpoint: grlm doctor CHECKPOINT --engine FILE.")
    quiet()
    found = examine(target, engine) if target else [examine_environment()]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False, default=str))
    else:
        print("\n\n".join(text_report(one, coloured()) for one in found))
    if any(one.of("error") for one in found):
        sys.exit(1)


@app.command
def version(*, as_json: Json = False) -> None:
    """Print the versions of grlm-hf and of the libraries that results depend on."""
    import platform
    from importlib import metadata

    from grlm_hf.version import __version__

    found: dict[str, str | None] = {"grlm-hf": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "datasets", "huggingface-hub", "trl", "vllm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    width = max(map(len, found))
    print(json.dumps(found, indent=2) if as_json else "\n".join(f"{n.ljust(width)}  {v or '–'}" for n, v in found.items()))
