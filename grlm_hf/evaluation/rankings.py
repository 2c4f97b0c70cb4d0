"""What a method answers, and its answers to all cases: chunk by chunk, resumable, in one process or several."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.evaluation.processes import everywhere, world
from grlm_hf.files import read_json, write_json


@dataclass(frozen=True)
class Rankings:
    """What a method answers: for each history up to `DEPTH` item ids, best first. ``None`` stands for an output that names no item.

    `direct_hits`, of methods that write identifiers: the share of the first ten outputs that named an item exactly, without grounding.
    `by_term_id`: items are ranked by the score of their Term ID alone, so that the order of those that share one says nothing.
    """

    items: Sequence[Sequence[str | None]]
    direct_hits: Sequence[float] | None = None
    by_term_id: bool = False


Method = Callable[..., Rankings]
"""A recommender as the evaluator knows it: histories (item ids, oldest first) → rankings. Where candidates are those of a domain it is
called with ``domain=NAME``, and ranks items of that domain only."""


def ranked(
    name: str, method: Method, cases: Sequence[Case], work: Path | None = None, chunk: int = 1024, key: str = "", domain: str | None = None
) -> Rankings:
    """The method's answers to all cases, asked `chunk` histories at a time.

    Of several processes each takes whole chunks, every n-th, and all get all answers: the same as those of one process, since the same
    histories are asked together.

    Args:
        work: a folder that keeps finished chunks. Each process writes its own.
        key: identifies the method: a chunk kept under another key, or of other histories, is no answer.

    Raises:
        ValueError: a method that answers with other than one ranking a history, or with an item twice.
    """
    starts = range(0, len(cases), chunk)
    rank, size = world()

    def mine() -> dict[int, Rankings]:
        from tqdm.auto import tqdm

        answers = {}
        todo = starts[rank::size]
        total = sum(len(cases[s : s + chunk]) for s in todo)
        with tqdm(total=total, desc=name, unit="user", disable=rank > 0 or len(cases) < 200) as bar:
            for start in todo:
                histories = [c.history for c in cases[start : start + chunk]]
                answers[start] = _answer(name, method, histories, work, key, domain, start)
                bar.update(len(histories))
        return answers

    parts: dict[int, Rankings] = {}
    for found in everywhere(mine):
        parts |= found
    whole = [parts[start] for start in starts]
    direct = [hits for part in whole for hits in part.direct_hits or ()]
    return Rankings(
        [ranking for part in whole for ranking in part.items],
        direct if whole and len(direct) == len(cases) else None,
        bool(whole) and all(part.by_term_id for part in whole),
    )


def ranked_by_domain(
    name: str,
    method: Method,
    cases: Sequence[Case],
    domains: Mapping[str, Catalog],
    asked: Mapping[str, Sequence[int]],
    work: Path | None = None,
    chunk: int = 1024,
    key: str = "",
) -> Rankings:
    """Every case among the items of its target's domain: `asked` has the cases of each. Raises as `ranked`, and for an item of another."""
    items: list[Sequence[str | None]] = [()] * len(cases)
    direct: dict[int, float] = {}
    by_term_id = True
    for domain, at in asked.items():
        found = ranked(name, partial(method, domain=domain), [cases[i] for i in at], work, chunk, key, domain)
        for i, ranking in zip(at, found.items, strict=True):
            if stray := [item for item in ranking if item is not None and item not in domains[domain]]:
                raise ValueError(f"Method {name!r} ranks {stray[0]!r}, which is not in the domain {domain!r} that was asked for.")
            items[i] = ranking
        if found.direct_hits is not None:
            direct |= zip(at, found.direct_hits, strict=True)
        by_term_id &= found.by_term_id or not at
    return Rankings(items, [direct[i] for i in range(len(cases))] if len(direct) == len(cases) else None, by_term_id)


def _answer(
    name: str, method: Method, histories: Sequence[Sequence[str]], work: Path | None, key: str, domain: str | None, start: int
) -> Rankings:
    if work is None:
        return _checked(name, method(histories), histories)
    digest = hashlib.sha256(json.dumps([name, key, histories, domain]).encode()).hexdigest()[:16]
    part = work / f"{re.sub('[^A-Za-z0-9_.+-]', '_', name)}-{start:09d}-{digest}.json"
    if part.is_file():
        return Rankings(**read_json(part))
    answer = _checked(name, method(histories), histories)
    write_json(part, asdict(answer))
    return answer


def _checked(name: str, answer: Rankings, histories: Sequence[Sequence[str]]) -> Rankings:
    if len(answer.items) != len(histories):
        raise ValueError(f"Method {name!r} answered {len(histories)} histories with {len(answer.items)} rankings.")
    for ranking in answer.items:
        named = [i for i in ranking if i is not None]
        if len(set(named)) != len(named):
            raise ValueError(f"Method {name!r} ranks an item twice: {ranking}.")
    return answer
