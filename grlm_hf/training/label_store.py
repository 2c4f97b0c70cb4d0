"""A label store: what a teacher answers to every question of a training, asked once and kept in a file. All epochs, seeds and students then
read the same answers (Khani et al. 2024, arXiv 2408.14678). A question is a history; an answer is the most probable next items and the
probability of all others together."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from grlm_hf.files import fingerprint
from grlm_hf.priors.scores import Scorer
from grlm_hf.progress import progress
from grlm_hf.tensors import read_tensors, write_tensors

Ask = Callable[[Sequence[Sequence[str]]], tuple[np.ndarray, np.ndarray]]
"""Histories → places of the most probable next items in the store's `item_ids`, int32 [n, top], and their probabilities, float [n, top].
Fewer than `top` items are filled up with the place 0 and the probability 0."""

_PART = 4096  # questions between two saved parts
_ROWS = 128  # questions that a teacher gets at once


@dataclass(frozen=True, eq=False)
class LabelStore:
    """Made by `make_labels`.

    Attributes:
        item_ids: the teacher's items.
        questions: uint64 [n], ascending, hashes of histories (`hash_of`).
        items: int32 [n, top], places in `item_ids`.
        p: float16 [n, top], their probabilities. The rest of 1 belongs to all other items in equal shares.
    """

    kind: ClassVar[str] = "labels"
    item_ids: tuple[str, ...]
    questions: np.ndarray
    items: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """int64 [n], the row of each history. Raises ``ValueError`` for a history that is no question of this store."""
        wanted = np.array([hash_of(h) for h in histories], np.uint64)
        row = np.searchsorted(self.questions, wanted)
        missing = np.flatnonzero(self.questions[np.minimum(row, len(self) - 1)] != wanted) if len(self) else np.arange(len(wanted))
        if len(missing):
            raise ValueError(
                f"The label store has no answer after {list(histories[missing[0]])}: it was made for another dataset. Remove it, and the "
                "teacher is asked again."
            )
        return row

    @cached_property
    def rest(self) -> np.ndarray:
        """float32 [n], the probability of each item outside of the top."""
        outside = max(len(self.item_ids) - self.items.shape[1], 1)
        return (np.maximum(1 - self.p.astype(np.float32).sum(1), 0) / outside).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        arrays = {"questions": self.questions.view(np.int64), "items": self.items, "p": self.p}
        write_tensors(path, self.kind, {"labels": arrays}, {"item_ids": list(self.item_ids)})

    @classmethod
    def load(cls, path: str | Path) -> LabelStore:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            arrays = {name: tensor.numpy() for name, tensor in groups["labels"].items()}
            return cls(tuple(facts["item_ids"]), arrays["questions"].view(np.uint64), arrays["items"], arrays["p"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a label store that this grlm-hf reads ({error!r}). Remove it, and it is made again."
            ) from error


def hash_of(history: Sequence[str]) -> int:
    """64 bits of a history of item ids."""
    return int.from_bytes(hashlib.blake2b("\0".join(history).encode(), digest_size=8).digest(), "little")


def asked(scorer: Scorer, top: int, temperature: float = 1.0) -> Ask:
    """Asks a recommender that scores all items. Its log-probabilities are divided by `temperature`: above 1 they are more even."""

    def ask(histories: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        scores = scorer.scores(histories) / np.float32(temperature)
        scores -= scores.max(1, keepdims=True)
        p = np.exp(scores, out=scores)
        p /= p.sum(1, keepdims=True)
        m = min(top, p.shape[1])
        items = np.argpartition(-p, m - 1, axis=1)[:, :m]
        return items.astype(np.int32), np.take_along_axis(p, items, 1)

    return ask


def make_labels(ask: Ask, item_ids: Sequence[str], questions: Sequence[Sequence[str]], work: str | Path) -> LabelStore:
    """Asks a teacher each distinct question once.

    Args:
        item_ids: the items that the answers name by place.
        questions: histories of item ids, oldest first.
        work: keeps finished parts, so that an interrupted call goes on; removed at the end. Parts of other questions are not read; give
            another folder to another teacher.
    """
    distinct = {hash_of(q): q for q in questions}
    hashes = np.array(sorted(distinct), np.uint64)
    work = Path(work)
    key = fingerprint("labels", [], [hashlib.blake2b(hashes.tobytes(), digest_size=16).hexdigest(), len(item_ids)])
    parts: list[tuple[Any, Any]] = []
    with progress(total=len(hashes), desc="teacher", unit="question") as bar:
        for start in range(0, len(hashes), _PART):
            some = hashes[start : start + _PART]
            path = work / f"{key}-{start:09d}.safetensors"
            if path.is_file():
                found = read_tensors(path, LabelStore.kind)[0]["part"]
                items, p = found["items"].numpy(), found["p"].numpy()
            else:
                rows = [some[n : n + _ROWS].tolist() for n in range(0, len(some), _ROWS)]
                answers = [ask([distinct[h] for h in row]) for row in rows]
                items, p = (np.concatenate(a) for a in zip(*answers, strict=True))
                p = p.astype(np.float16)
                write_tensors(path, LabelStore.kind, {"part": {"items": items, "p": p}}, {})
            parts.append((items, p))
            bar.update(len(some))
    items, p = (
        (np.concatenate(a) for a in zip(*parts, strict=True)) if parts else (np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float16))
    )
    shutil.rmtree(work, ignore_errors=True)
    return LabelStore(tuple(item_ids), hashes, items, p)
