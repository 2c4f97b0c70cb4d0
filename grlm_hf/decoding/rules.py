"""A request as values: which items may be recommended and how scores are adjusted (`Rules`), and how to search (`SearchOptions`). The
Python API, the command line, HTTP and vLLM all make these two values, and every check of a request that needs no catalog is here.
`grlm_hf.decoding.index.SearchIndex.adjustments` compiles the rules for a catalog."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from grlm_hf.files import did_you_mean

MIN_BEAMS = 20
"""Default beam width, as in the paper; larger where more items are requested."""

Unknown = Literal["error", "skip"]
Shared = Literal["full", "equal", "prior"]
"""How items that share an identifier score: each its whole probability; an equal part of it, ``1 / items``; or a part in proportion to the
items' priors."""
PriorForm = Literal["product", "mixture"]


@dataclass(frozen=True)
class Rules:
    """Which items may be recommended, and what is added to their log-probabilities.

    Attributes:
        allow: recommend only these: item ids, or a bool mask over the catalog. ``None``: all.
        domain: recommend only items of this domain (``catalog.domains``); as `allow` with all of them, and cheaper.
        exclude: item ids that are not recommended.
        banned_terms: items with one of these terms in their identifier are not recommended. Only for schemes that people can read.
        exclude_seen: do not recommend the items of the history. ``None``: as the checkpoint was evaluated (`GRLMConfig.exclude_seen`), and
            outside of a recommender no.
        prior: a non-negative weight for each item, float [n_items], or [n_histories, n_items]; or a mapping from id to weight, where
            missing ids have weight 1. Weight 0 excludes an item. Or ``"own"``: the prior that the checkpoint carries; or ``"none"``.
            ``None``: as the checkpoint was evaluated (`GRLMConfig.own_prior`), and outside of a recommender none.
        prior_weight: λ in ``log p(identifier | history) + λ · log prior``; in a mixture in ``log (p(identifier | history) + λ · prior)``.
        prior_form: "product", or "mixture", in which weight 0 adds nothing and excludes no item. ``prior="own"`` has a form of its own.
        shared: one of `Shared`.
        unknown_items: "error", or "skip" ids of histories, `allow` and `exclude` that the catalog lacks (`Recommendations.skipped`).

    Raises `ValueError` for a string where a list is expected, a negative or non-finite weight, an unknown value of `shared` or
    `prior_form`, or ``shared="prior"`` without a prior.
    """

    allow: Any = None
    domain: str | None = None
    exclude: Collection[str] = ()
    banned_terms: Collection[str] = ()
    exclude_seen: bool | None = None
    prior: Any = None
    prior_weight: float = 1.0
    prior_form: PriorForm = "product"
    shared: Shared = "full"
    unknown_items: Unknown = "error"

    def __post_init__(self) -> None:
        allow = self.allow
        if allow is not None and not hasattr(allow, "__array__"):
            allow = _several(allow, "allow")
            if allow and isinstance(allow[0], bool | np.bool_):
                allow = np.asarray(allow)
        object.__setattr__(self, "allow", allow)
        object.__setattr__(self, "exclude", _several(self.exclude, "exclude"))
        object.__setattr__(self, "banned_terms", _several(self.banned_terms, "banned_terms"))
        if isinstance(self.prior, str) and self.prior not in ("own", "none"):
            raise ValueError(f"prior is {self.prior!r}; expected 'own', 'none', weights of items, or None.")
        if not np.isfinite(self.prior_weight) or self.prior_weight < 0:
            raise ValueError(f"prior_weight is {self.prior_weight}; expected a finite number of at least 0.")
        if self.prior_form not in get_args(PriorForm):
            raise ValueError(f"prior_form is {self.prior_form!r}; expected one of {get_args(PriorForm)}.")
        if self.shared not in get_args(Shared):
            raise ValueError(f"shared is {self.shared!r}; expected one of {get_args(Shared)}.")
        if self.unknown_items not in get_args(Unknown):
            raise ValueError(f"unknown_items is {self.unknown_items!r}; expected one of {get_args(Unknown)}.")
        if self.shared == "prior" and (self.prior is None or (isinstance(self.prior, str) and self.prior == "none")):
            raise ValueError("shared='prior' splits an identifier's probability by the items' priors; give prior=…, or choose 'equal'.")


def skip_unknown(rules: Rules, histories: Sequence[Sequence[str]], known: Container[str]) -> tuple[Rules, list[list[str]], tuple[str, ...]]:
    """Rules and histories without the ids that are not `known`, if the rules say so; and those ids, each once."""
    if rules.unknown_items == "error":
        return rules, [list(history) for history in histories], ()
    ids = [i for given in (*histories, rules.exclude, rules.allow if isinstance(rules.allow, tuple) else ()) for i in given]
    skipped = tuple(dict.fromkeys(i for i in ids if i not in known))
    gone = set(skipped)
    allow = tuple(i for i in rules.allow if i not in gone) if isinstance(rules.allow, tuple) else rules.allow
    rules = replace(rules, allow=allow, exclude=tuple(i for i in rules.exclude if i not in gone))
    return rules, [[i for i in history if i not in gone] for history in histories], skipped


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        num_beams: beam width; by default the larger of `MIN_BEAMS` and the number of items. A wider search is nearer to exact, and slower.
        edge_wise: search from choice to choice instead of from token to token: fewer forward passes, but not quite the beams that
            transformers' ``generate()`` keeps.
        exact: find the true best items and certify them (``Recommendations.certified``, ``gap``).
        deadline_ms: milliseconds after which an exact search stops and returns the best items found so far.
        max_forwards: the same as a number of forward passes, for each batch.
        decode: search. ``False``: no identifier is decoded; one forward of the prompt rates all items by their vectors
            (`grlm_hf.modeling.dense`).
        length_penalty: rank by ``log p / tokens ** length_penalty``. Log-probabilities alone favour identifiers of few tokens.

    Raises `ValueError` for a value out of its range; `deadline_ms` or `max_forwards` without `exact`; or a search's option without
    `decode`.
    """

    num_beams: int | None = None
    edge_wise: bool = False
    exact: bool = False
    deadline_ms: float | None = None
    max_forwards: int | None = None
    length_penalty: float = 0.0
    decode: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.length_penalty < float("inf"):
            raise ValueError(f"length_penalty={self.length_penalty}; expected a finite number of at least 0.")
        if self.deadline_ms is not None and not self.deadline_ms >= 0:
            raise ValueError(f"deadline_ms={self.deadline_ms}; expected at least 0 milliseconds.")
        if self.max_forwards is not None and self.max_forwards < 1:
            raise ValueError(f"max_forwards={self.max_forwards}; expected at least 1, which computes the prompt.")
        if not self.exact and (self.deadline_ms is not None or self.max_forwards is not None):
            raise ValueError("deadline_ms and max_forwards limit an exact search; add exact=True.")
        if not self.decode and (given := [f.name for f in fields(self)[:-1] if getattr(self, f.name) != f.default]):
            raise ValueError(f"decode=False makes no search, so {given[0]} has no effect; leave {', '.join(given)} out.")

    def width(self, k: int, n: int, noun: str, results: str) -> int:
        """The beam width for `k` results among `n` identifiers. Raises `ValueError` if `num_beams` is less than `k` or more than `n`.
        `noun` and `results` are how the message calls identifiers and what is wanted of them."""
        least = min(k, n)
        if self.num_beams is not None and not least <= self.num_beams <= n:
            raise ValueError(f"num_beams={self.num_beams}; expected {least} (for {results}) to {n}, the number of {noun}s.")
        return min(self.num_beams or max(MIN_BEAMS, k), n)

    def deadline(self, started: float) -> float | None:
        """`deadline_ms` as a ``time.perf_counter`` value, for a request that arrived at `started`."""
        return None if self.deadline_ms is None else started + self.deadline_ms / 1000


class Flags(TypedDict, total=False):
    """The fields of `Rules` and `SearchOptions` as keyword arguments."""

    allow: Collection[str] | np.ndarray | None
    domain: str | None
    exclude: Collection[str]
    banned_terms: Collection[str]
    exclude_seen: bool | None
    prior: str | Mapping[str, float] | np.ndarray | None
    prior_weight: float
    prior_form: PriorForm
    shared: Shared
    unknown_items: Unknown
    num_beams: int | None
    edge_wise: bool
    exact: bool
    deadline_ms: float | None
    max_forwards: int | None
    length_penalty: float
    decode: bool


RULES = tuple(f.name for f in fields(Rules))
ALLOWED = ("allow", "domain", "exclude", "banned_terms", "exclude_seen", "unknown_items")  # the rules that only forbid
SEARCH = tuple(f.name for f in fields(SearchOptions))


def request_of(
    flags: Mapping[str, Any], rules: Rules | None, search: SearchOptions | None, function: str, accepted: Sequence[str] = (*RULES, *SEARCH)
) -> tuple[Rules, SearchOptions]:
    """The request that keyword arguments state, or the values given in their place.

    Raises:
        TypeError: an argument that `function` does not have.
        ValueError: both a value and a flag that belongs to it; or as `Rules` and `SearchOptions`.
    """
    for name in flags:
        if name not in accepted:
            hint = did_you_mean(name, accepted, f"Expected one of {', '.join(accepted)}.")
            raise TypeError(f"{function} got an unexpected keyword argument {name!r}. {hint}")
    parts: list[Any] = []
    for names, kind, value, title in ((RULES, Rules, rules, "rules"), (SEARCH, SearchOptions, search, "search")):
        given = {name: flags[name] for name in names if name in flags}
        if given and value is not None:
            raise ValueError(f"Both {title} and {', '.join(given)} are given; put {next(iter(given))} into {title}.")
        parts.append(value if value is not None else kind(**given))
    return parts[0], parts[1]


def _several(values: Iterable[Any], name: str) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise ValueError(f"{name} is the string {values!r}; expected a list, such as [{values!r}].")
    return tuple(values)
