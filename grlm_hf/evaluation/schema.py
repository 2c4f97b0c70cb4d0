"""What ``report.json`` holds, as frozen values; its one reader and its one writer.

An optional block that a report does not have is empty here and absent in the file. Names that a newer version added are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from grlm_hf.evaluation.metrics import Estimate
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.files import read_json

REPORT_SCHEMA = "grlm.report/1"
Metrics = Mapping[str, Estimate]
Methods = Mapping[str, Metrics]
"""Name of a method → name of a metric → its value."""
_COMPARABLE = ("split", "users", "cases", "cases_hash", "candidates", "candidates_of", "seen_items", "ties", "depth", "rates_at")
"""What the protocols of two reports must agree in, so that their figures can be compared."""
_FORMS: dict[Any, tuple[Any, str]] = {
    Mapping: (Mapping, "an object"), tuple: (list, "a list"), str: (str, "a text"), int: (int, "a whole number"),
    float: (int | float, "a number"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a report was measured. Reports of older versions lack some of it."""

    split: str  # how the cases were held out, and their part: "leave-one-out, test"
    users: int
    cases: int | None = None
    candidates: int  # number of items that are ranked
    seen_items: str  # "left out" of the rankings, or "kept"
    seed: int | None = None
    ties: str | None = None  # order of items with equal scores
    depth: int | None = None  # length of a ranking
    rates_at: int | None = None  # length of the lists that rates and diversity are of
    resamples: int | None = None  # of the bootstrap
    cases_hash: str | None = None  # identifies histories and targets
    intra_list_diversity: str | None = None  # the distance that it is a mean of
    candidates_of: str | None = None  # "the whole catalog", or "the target's domain"
    grlm_free: str | None = None  # on what the method of this name was measured
    zero_shot: str | None = None  # the model of the method zero-shot, and on what it was measured
    unanswerable: int | None = None  # cases whose target is in the history while seen items are left out: nothing can find it


@dataclass(frozen=True, kw_only=True)
class Part:
    """The figures of some of the cases: of a slice; or of a domain, which states `users` and `candidates`, too."""

    users: int | None = None
    cases: int
    candidates: int | None = None
    methods: Methods


@dataclass(frozen=True)
class Unseen:
    """The figures of the cases whose target was new to the model (`grlm_hf.evaluation.unseen`)."""

    items: int  # number of new items
    users: int
    cases: int
    candidates: int  # known and new items
    term_ids: str  # where those of the new items came from
    methods: Methods
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method takes for one user, alone in a batch. What does not apply, or is not known, is absent."""

    parameters: int | None = None  # numbers that were learnt or counted: of the language model, and of recommenders beside it
    prompt_tokens: float | None = None  # mean
    forwards: float | None = None  # of the language model, mean
    flops: float | None = None  # of the language model, mean: 2 · its parameters · tokens of the prompt and the search
    ms_p50: float  # milliseconds, median
    ms_p95: float


@dataclass(frozen=True)
class Costs:
    """What the methods take (`grlm_hf.evaluation.costs`)."""

    users: int  # that were timed
    device: str
    methods: Mapping[str, Cost]


@dataclass(frozen=True)
class Shown:
    """An item as people know it."""

    item_id: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One of the reported users, to be read (`grlm_hf.evaluation.examples`)."""

    user: str
    history: tuple[Shown, ...]  # its last items, oldest first
    earlier: int  # number of the items before them
    recommended: Mapping[str, tuple[Shown, ...]]  # method → its first items, best first
    ranks: Mapping[str, int]  # method → place of the target in its ranking, from 1; 0: it is not in it
    target: Shown
    note: str | None = None  # why nothing can find the target


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from a report (`grlm_hf.evaluation.verdict`)."""

    text: str  # one sentence: which method won, by how much, whether that is real, what to ship
    best: str  # the method with the highest recall@10; "" for none
    ship: str  # the method to ship; "" for none
    chosen_on: str | None = None  # the users that chose it: "validation", or "the reported users"


@dataclass(frozen=True)
class Report:
    """A report, block by block."""

    dataset: str
    protocol: Protocol
    methods: Methods  # the figures of all cases
    domains: Mapping[str, Part] = field(default_factory=dict)  # domain of the target → figures; coverage and gini are of its own items
    slices: Mapping[str, Mapping[str, Part]] = field(default_factory=dict)  # grouping → slice → figures (`slices`)
    comparisons: tuple[Comparison, ...] = ()  # differences between methods (`significance`)
    collisions: Mapping[str, Methods] = field(default_factory=dict)  # rule → figures, where items share a Term ID (`collisions`)
    unmasked: Methods = field(default_factory=dict)  # the figures with seen items kept in the rankings
    training: tuple[Mapping[str, Any], ...] = ()  # entries of the trainer's log, of the checkpoint that was evaluated
    unseen: Unseen | None = None
    verdict: Verdict | None = None
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # fused method → component → weight, 0 for unused ones
    examples: tuple[Example, ...] = ()  # a few users; a published card has none
    costs: Costs | None = None  # times differ from run to run, so nothing is hashed or compared by them

    def to_json(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        return {"schema": REPORT_SCHEMA, **plain(self)}


def load_report(path: str | Path) -> Report:
    """Reads ``report.json``. Raises ``ValueError`` if the file is no report, of another schema, or lacks something."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; expected a report, such as {Path(path) / 'report.json'}.")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != REPORT_SCHEMA:
        raise ValueError(f"{path} is no report with schema {REPORT_SCHEMA!r}.")
    try:
        report = parsed(Report, found, "the report")
        if not report.methods:
            raise ValueError("it has no methods")
    except ValueError as error:
        raise ValueError(f"{path} is not a whole report: {error}. Make it again with grlm evaluate.") from error
    return report


def check_comparable(a: Report, b: Report) -> None:
    """Raises ``ValueError`` where two reports were not made under one protocol: it lists what differs, with both values.

    The seed, the number of resamples and the methods may differ, since figures do not depend on them, or only by chance; and so may the
    name of the data. Reports of an older version, which state no `cases_hash`, must agree in that name instead.
    """
    one, two = a.protocol, b.protocol
    hashed = one.cases_hash is not None and two.cases_hash is not None
    pairs = {} if hashed else {"dataset": (a.dataset, b.dataset)}
    pairs |= {k: (getattr(one, k), getattr(two, k)) for k in _COMPARABLE if hashed or k != "cases_hash"}
    if differing := [f"{k}: {x!r} and {y!r}" for k, (x, y) in pairs.items() if x != y]:
        raise ValueError(f"The reports have different protocols, so their figures cannot be compared. {'; '.join(differing)}.")


def plain(value: Any) -> Any:
    """A value of this module as JSON values, without optional fields that are empty."""
    if is_dataclass(value):
        stated = {f: getattr(value, f.name) for f in fields(value)}
        return {f.name: plain(v) for f, v in stated.items() if _required(f) or v not in (None, (), {})}
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _required(of: Any) -> bool:
    return of.default is MISSING and of.default_factory is MISSING


def parsed(kind: Any, found: Any, where: str) -> Any:
    """JSON values as a value of the type `kind`. Raises ``ValueError`` that says, with its place, what is wrong."""
    of, inner = get_origin(kind), get_args(kind)
    if of is UnionType:  # X | None
        return None if found is None else parsed(inner[0], found, where)
    if is_dataclass(kind):
        names = [f.name for f in fields(kind) if _required(f)]
        if not isinstance(found, Mapping):
            raise ValueError(f"{where} is {found!r}, where {', '.join(names)} are expected")
        if absent := [name for name in names if name not in found]:
            raise ValueError(f"{where} does not state {absent[0]!r}")
        hints = {name: hint for name, hint in get_type_hints(kind).items() if name in found}
        return kind(**{name: parsed(hint, found[name], f"{name} of {where}") for name, hint in hints.items()})  # type: ignore[operator]
    if kind is Any:
        return found
    form, said = _FORMS[of or kind]
    if not isinstance(found, form) or isinstance(found, bool):
        raise ValueError(f"{where} is {found!r}, where {said} is expected")
    if isinstance(found, Mapping):
        return {name: parsed(inner[1], value, f"{name!r} of {where}") for name, value in found.items()}
    return tuple(parsed(inner[0], value, f"entry {n} of {where}") for n, value in enumerate(found)) if of is tuple else found
