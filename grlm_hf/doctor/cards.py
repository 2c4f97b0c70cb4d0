"""Checks of a folder's card, and of files that could do harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from grlm_hf.doctor.findings import Finding
from grlm_hf.layout import CARD
from grlm_hf.publishing.licenses import licensed

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")


def card(folder: Path, published: bool) -> Iterator[Finding]:
    """A missing or broken card, or one without a licence; only an info for a folder that is not published."""
    level = "warning" if published else "info"
    if not (folder / CARD).is_file():
        yield Finding(level, "card", f"There is no {CARD}.", "Without it, nobody knows what this is and may be used for.",
                      "grlm evaluate writes a checkpoint's card, grlm dataset a dataset's; grlm push adds the licence.")  # fmt: skip
        return
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield Finding("error", "card", f"{CARD} is not readable: {error}", "The Hub shows it first.", "Write it again in UTF-8.")
        return
    try:
        licensed(text)
    except ValueError as error:
        if "is broken" in str(error):
            yield Finding("error", "card", str(error), "The Hub refuses it, and load_dataset cannot read it.", "Correct the YAML.")
            return
        yield Finding(level, "licence", "The card has no licence that the Hub can read.", "Without one nobody may use what you publish.",
                      "State it when publishing: grlm push FOLDER ORG/NAME --license cc-by-4.0 (or what your data's source "
                      "allows).")  # fmt: skip


def unsafe_files(names: Iterable[str], ours: Mapping[str, str], read: Path | None = None) -> Iterator[Finding]:
    """Files that run code when they are loaded, by their relative names. `ours`: name → text of the Python files that grlm-hf writes; a
    file in the folder `read` must also have that text."""
    names = sorted(names)
    if pickled := [n for n in names if n.endswith(_PICKLED)]:
        yield Finding("warning", "unsafe-files",
                      f"{len(pickled)} files of a format that can run code when it is read: {', '.join(pickled[:3])}.",
                      "Loading a pickled file runs its writer's code; grlm-hf reads safetensors and parquet only.",
                      f"Remove files that nothing needs, such as training_args.bin: rm {' '.join(pickled[:3])}. Convert weights with "
                      "model.save_pretrained, which writes safetensors.")  # fmt: skip
    if strange := [n for n in names if n.endswith(".py") and not _is_ours(n, ours, read)]:
        yield Finding("warning", "foreign-code", f"Python files that grlm-hf did not write: {', '.join(strange[:3])}.",
                      "trust_remote_code=True runs them on the reader's machine.",
                      "Read them before you load or publish this, or remove them.")  # fmt: skip


def _is_ours(name: str, ours: Mapping[str, str], read: Path | None) -> bool:
    return name in ours and (read is None or (read / name).read_text(encoding="utf-8", errors="replace") == ours[name])
