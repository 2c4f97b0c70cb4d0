"""Checks of a checkpoint's weights, tensor by tensor, without building the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grlm_hf.doctor.findings import Finding
from grlm_hf.files import read_json

_INDEX = "model.safetensors.index.json"
_PART = 2**24  # numbers checked at once
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")


def weights(folder: Path, config: dict[str, Any], needed_rows: int | None, facts: dict[str, Any]) -> Iterator[Finding]:
    """Findings about the weights; their number and type go into `facts`. `needed_rows`: the tokenizer's largest token id plus one."""
    from safetensors import SafetensorError, safe_open

    files, missing = _files(folder)
    if missing:
        yield Finding("error", "missing-file", f"{len(missing)} files of weights are missing, such as {missing[0]}.",
                      "The model cannot be loaded.",
                      "Download or copy the checkpoint again; resume an unfinished training: grlm train.")  # fmt: skip
    if not files:
        return
    kinds: Counter[str] = Counter()
    broken: list[str] = []
    rows: dict[str, int] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 (no mapping)
                    shape = shard.get_slice(name).get_shape()
                    if name.endswith(_EMBEDDINGS) and len(shape) == 2:
                        rows[name] = shape[0]
                    tensor = shard.get_tensor(name)
                    kinds[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
                    if tensor.is_floating_point() and not _finite(tensor):
                        broken.append(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            yield Finding("error", "broken-file", f"{path.name} is not a complete safetensors file: {error}", "The model cannot be loaded.",
                          "Download or copy it again; a full disk leaves such files.", str(path))  # fmt: skip
    facts["weights"] = ", ".join(f"{n:,} × {kind}" for kind, n in kinds.most_common())
    if broken:
        yield Finding("error", "not-finite", f"{len(broken)} tensors have NaN or infinity, such as {broken[0]}.",
                      "Every score becomes NaN, or the search finds nothing.",
                      "Use an earlier checkpoint; train with a lower train.learning_rate, or in bf16 instead of fp16.")  # fmt: skip
    yield from _types(kinds, config)
    yield from _rows(rows, config, needed_rows)


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The safetensors files of the model, and the names of missing ones."""
    if not (folder / _INDEX).is_file():
        whole = folder / "model.safetensors"
        return ([whole], []) if whole.is_file() else ([], ["model.safetensors"])
    try:
        index = read_json(folder / _INDEX)
        names = sorted({str(n) for n in index["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return sorted(folder.glob("model-*.safetensors")), [f"{_INDEX} (not readable)"]
    names = [n for n in names if Path(n).name == n]  # nothing outside the folder
    return [folder / n for n in names if (folder / n).is_file()], [n for n in names if not (folder / n).is_file()]


def _finite(tensor: Any) -> bool:
    import torch

    parts = tensor.reshape(-1).split(_PART)
    return all(bool(torch.isfinite(p.float() if p.element_size() == 1 else p).all()) for p in parts)  # float8 has no isfinite


def _types(kinds: Counter[str], config: dict[str, Any]) -> Iterator[Finding]:
    stated = config.get("dtype") or config.get("torch_dtype")
    if not kinds:
        return
    most, _ = kinds.most_common(1)[0]
    if stated and str(stated) != most:
        yield Finding("warning", "dtype", f"config.json states {stated}, the weights are {most}.",
                      "dtype='auto' loads them as config.json states: scores differ from the evaluation, or memory doubles.",
                      f"Save the model again as it was trained, or set \"dtype\": \"{most}\" in config.json.")  # fmt: skip
    if "float16" in kinds:
        yield Finding("info", "dtype", "There are float16 weights.", "float16 overflows above 65,504; log-probabilities lose digits.",
                      "Prefer bfloat16 or float32 for training and serving, if the hardware has it.")  # fmt: skip


def _rows(rows: dict[str, int], config: dict[str, Any], needed: int | None) -> Iterator[Finding]:
    stated = config.get("vocab_size") if isinstance(config.get("vocab_size"), int) else None
    for name, found in rows.items():
        if stated is not None and stated != found:
            yield Finding("error", "vocabulary", f"config.json states vocab_size {stated}, {name} has {found} rows.",
                          "The model cannot be loaded.", "Save the model again: model.save_pretrained writes both.")  # fmt: skip
            return
    have = min(rows.values(), default=stated)
    if have is not None and needed is not None and needed > have:
        yield Finding("error", "vocabulary", f"The tokenizer makes ids up to {needed - 1}, the model has {have} embeddings.",
                      "A prompt with such a token raises an index error, or crashes the process on a GPU.",
                      "Restore the tokenizer that the model was trained with; or model.resize_token_embeddings(len(tokenizer)), and "
                      "train.")  # fmt: skip
