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


@dataclass(frozen=True)
class Rankings:
    """For each history up to `DEPTH` item ids, best first; ``None`` is an output that names no item.

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
    """How many histories a method ranks at a time, and where finished rankings are kept.

    Attributes:
        folder: receives a file a chunk, by the process that ranked it; ``None``: nothing is kept.
        key: identifies the checkpoint and settings of the methods: a chunk with another key is not read.
    """

    folder: Path | None = None
    key: str = ""
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
        from tqdm.auto import tqdm

        found = {}
        own = starts[rank::size]
        total = sum(len(cases[s : s + chunks.size]) for s in own)
        with tqdm(total=total, desc=name, unit="user", disable=rank > 0 or len(cases) < 200) as bar:
            for start in own:
                histories = [c.history for c in cases[start : start + chunks.size]]
                found[start] = _chunk(name, method, histories, chunks, domain, start)
                bar.update(len(histories))
        return found

    parts: dict[int, Rankings] = {}
    for found in everywhere(own_chunks):
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
    of_domain: Mapping[str, Sequence[int]],
    chunks: Chunks,
) -> Rankings:
    """Every case among the items of its target's domain.

    Args:
        of_domain: domain → positions of the cases whose target is of it.

    Raises:
        ValueError: as `ranked`; an item of another domain.
    """
    items: list[Sequence[str | None]] = [()] * len(cases)
    direct: dict[int, float] = {}
    by_term_id = True
    for domain, at in of_domain.items():
        found = ranked(name, partial(method, domain=domain), [cases[i] for i in at], chunks, domain)
        for i, ranking in zip(at, found.items, strict=True):
            if stray := [item for item in ranking if item is not None and item not in domains[domain]]:
                raise ValueError(f"Method {name!r} ranks {stray[0]!r}, which is not in the domain {domain!r} of the target.")
            items[i] = ranking
        if found.direct_hits is not None:
            direct |= zip(at, found.direct_hits, strict=True)
        by_term_id &= found.by_term_id or not at
    return Rankings(items, [direct[i] for i in range(len(cases))] if len(direct) == len(cases) else None, by_term_id)


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
