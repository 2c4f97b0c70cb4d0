"""What a method returns, and its rankings of all cases: chunk by chunk, resumable, in one process or several."""

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
from grlm_hf.progress import progress


@dataclass(frozen=True)
class Rankings:
    """For each history item ids, best first, as many as are evaluated (`Measures.length`); ``None`` is an output that names no item.

    `direct_hits`, of methods that write identifiers freely: the share of the first ten outputs that named an item exactly, without
    grounding. `by_term_id`: items are ranked by the score of their Term ID alone, so the order of items that share one has no meaning.
    """

    items: Sequence[Sequence[str | None]]
    direct_hits: Sequence[float] | None = None
    by_term_id: bool = False


Method = Callable[..., Rankings]
"""A recommender as the evaluator knows it: histories (item ids, oldest first) → rankings. Where candidates are those of a domain it is
called with ``domain=NAME``, and ranks items of that domain only."""


@dataclass(frozen=True)
class Chunks:
    """How many histories a method ranks at a time, and where finished rankings are kept."""

    folder: Path | None = None  # receives a file a chunk; None: nothing is kept
    key: str = ""  # identifies the checkpoint and settings of the methods: a chunk with another key is not read
    size: int = 1024


def ranked(name: str, method: Method, cases: Sequence[Case], chunks: Chunks, domain: str | None = None) -> Rankings:
    """The method's rankings of all cases.

    Of n processes each takes every n-th chunk, and all get all rankings: the same as those of one process, since a method is called with
    the same histories.

    Raises:
        ValueError: a method that returns another number of rankings than histories, or an item twice.
    """
    starts = range(0, len(cases), chunks.size)
    rank, size = world()

    def own_chunks() -> dict[int, Rankings]:

        found = {}
        own = starts[rank::size]
        total = sum(len(cases[s : s + chunks.size]) for s in own)
        with progress(total=total, desc=name, unit="user", disable=rank > 0 or len(cases) < 200) as bar:
            for start in own:
                histories = [c.history for c in cases[start : start + chunks.size]]
                found[start] = _chunk(name, method, histories, chunks, domain, start)
                bar.update(len(histories))
        return found

    parts = {start: part for some in everywhere(own_chunks) for start, part in some.items()}
    return _joined([(range(start, start + len(part.items)), part) for start, part in parts.items()], len(cases))


def ranked_by_domain(
    name: str,
    method: Method,
    cases: Sequence[Case],
    domains: Mapping[str, Catalog],
    of_domain: Mapping[str, Sequence[int]],
    chunks: Chunks,
) -> Rankings:
    """Every case among the items of its target's domain.

    Args:
        of_domain: domain → positions of the cases whose target is of it.

    Raises:
        ValueError: as `ranked`; an item of another domain.
    """
    parts = []
    for domain, at in of_domain.items():
        found = ranked(name, partial(method, domain=domain), [cases[i] for i in at], chunks, domain)
        if stray := [item for ranking in found.items for item in ranking if item is not None and item not in domains[domain]]:
            raise ValueError(f"Method {name!r} ranks {stray[0]!r}, which is not in the domain {domain!r} of the target.")
        parts.append((at, found))
    return _joined(parts, len(cases))


def _joined(parts: Sequence[tuple[Sequence[int], Rankings]], number: int) -> Rankings:
    """Rankings of parts of `number` cases, each with the positions of its cases, as one."""
    items: list[Sequence[str | None]] = [()] * number
    direct: dict[int, float] = {}
    for at, part in parts:
        for i, ranking in zip(at, part.items, strict=True):
            items[i] = ranking
        direct |= zip(at, part.direct_hits or (), strict=part.direct_hits is not None)
    whole = len(direct) == number > 0
    by_term_id = number > 0 and all(part.by_term_id for at, part in parts if at)
    return Rankings(items, [direct[i] for i in range(number)] if whole else None, by_term_id)


def _chunk(name: str, method: Method, histories: Sequence[Sequence[str]], chunks: Chunks, domain: str | None, start: int) -> Rankings:
    if chunks.folder is None:
        return _checked(name, method(histories), histories)
    digest = hashlib.sha256(json.dumps([name, chunks.key, histories, domain]).encode()).hexdigest()[:16]
    part = chunks.folder / f"{re.sub('[^A-Za-z0-9_.+-]', '_', name)}-{start:09d}-{digest}.json"
    if part.is_file():
        return Rankings(**read_json(part))
    found = _checked(name, method(histories), histories)
    write_json(part, asdict(found))
    return found


def _checked(name: str, found: Rankings, histories: Sequence[Sequence[str]]) -> Rankings:
    if len(found.items) != len(histories):
        raise ValueError(f"Method {name!r} answered {len(histories)} histories with {len(found.items)} rankings.")
    for ranking in found.items:
        named = [i for i in ranking if i is not None]
        if len(set(named)) != len(named):
            raise ValueError(f"Method {name!r} ranks an item twice: {ranking}.")
    return found
