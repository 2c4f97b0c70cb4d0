"""Histories of users, and the splits that hold out events for validation and test."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import rows_to_dataset
from grlm_hf.layout import ShortUsers, UnknownItems
from grlm_hf.settings import check_value
from grlm_hf.tables.names import EVENTS
from grlm_hf.tables.rows import read_rows
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.times import Times
from grlm_hf.tables.values import identifier, missing, parsed_list, without_zeros

if TYPE_CHECKING:
    from datasets import Dataset, Features

MIN_ITEMS = 3
"""Leave-one-out needs one item each for training, validation and test."""


@dataclass(frozen=True, slots=True)
class History:
    """A user's items in time order. `timestamps` (unix seconds) has the same length, or is empty if times are unknown. If the file states a
    split, the last `n_test` items are test targets and the `n_valid` before them validation targets."""

    user_id: str
    items: tuple[str, ...]
    timestamps: tuple[int, ...] = ()
    n_valid: int = 0
    n_test: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One evaluation case: `target` is the true next item after `history` (oldest first, never empty), and `timestamp` its time in unix
    seconds, if known."""

    user_id: str
    history: tuple[str, ...]
    target: str
    timestamp: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Split:
    """`train` for training, `validation` for choices, `test` for the report only. `name` is the kind of split. `skipped` counts held-out
    events that are no case because their user has no earlier event."""

    name: str
    train: tuple[History, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    skipped: int = 0


def interaction_features() -> Features:
    """The columns of the ``interactions`` table, one row per event. `position` is the number of the user's earlier events, in training or
    in the case's history; `timestamp` is in unix seconds, null if unknown."""
    from datasets import Features, Value

    return Features({"user_id": Value("string"), "item_id": Value("string"), "position": Value("int32"), "timestamp": Value("int64")})


def load_histories(
    path: str | Path,
    item_ids: Collection[str],
    short_users: ShortUsers = "error",
    unknown_items: UnknownItems = "error",
    tally: Tally | None = None,
    rows: Iterable[tuple[str, Mapping[str, Any]]] | None = None,
) -> list[History]:
    """Histories from a file with one row per event (`user_id`, `item_id`, optional `timestamp`) or per user (`user_id`, `items`).

    Columns may have other known names (`grlm_hf.tables.names.EVENTS`). Events are sorted by time, and by file order at equal times; without
    timestamps file order is time order. Timestamps are unix times in one unit, or ISO 8601 and other dates (UTC unless they state a zone;
    `grlm_hf.tables.times`). A row per user may state a split in the columns `n_valid` and `n_test`.

    Args:
        short_users: ``"error"``, ``"drop"`` or ``"keep"`` for users with fewer than three items.
        unknown_items: ``"error"`` or ``"drop"`` for events on items missing from the catalog.
        tally: counts all that is dropped, tied or read otherwise than it was written.
        rows: (place, row under our names) of each row, where they were read already; `path` then only names their file.

    Raises `ValueError` with the line for a missing column or id, an unreadable time, an inconsistent split, and what the policies refuse.
    """
    check_value("short_users", short_users, ShortUsers)
    check_value("unknown_items", unknown_items, UnknownItems)
    tally = tally or Tally()
    ids = _Ids(item_ids)
    times = Times()
    events: dict[str, list[_Event]] = {}
    first_seen: dict[str, str] = {}
    for where, row in read_rows(path, EVENTS, tally=tally) if rows is None else rows:
        user_id = identifier(where, "user_id", row.get("user_id"))
        if not user_id or not ("item_id" in row or "items" in row):
            raise ValueError(f"{where} needs `user_id` and either `item_id` or `items`; found {str(row)[:300]}.")
        new = _sequence(where, row, times) if "items" in row else [_event(where, row, times)]
        if "items" in row and user_id in events:
            raise ValueError(f"{where}: duplicate user {user_id!r}, first at {first_seen[user_id]}; expected one row per user.")
        first_seen.setdefault(user_id, where)
        known = events.setdefault(user_id, [])
        for given, part, at in new:
            tally.read["events"] = tally.read.get("events", 0) + 1
            if (item_id := ids.find(given, tally)) is not None:
                known.append((item_id, part, at))
            elif unknown_items == "error":
                raise ValueError(
                    f"{where}: user {user_id!r} has item {given!r}, which is not among the {len(item_ids)} items of the catalog"
                    f"{ids.like(given)}. Add it to the items file, or drop such events: read.unknown_items=drop."
                )
    if tally.read.get("events") and not any(events.values()):
        raise ValueError(f"{path}: no event names an item of the catalog. {ids.apart()} Correct the ids of one of the two files.")
    seconds, form = times.read()
    if form:
        tally.note(f"{Path(path).name} has {form}.")
    histories = [h for user, rows in events.items() if (h := _history(path, user, first_seen[user], rows, seconds, short_users, tally))]
    tally.read["users"] = len(events)
    if not histories:
        raise ValueError(f"{path} holds no user with {MIN_ITEMS} or more items. {' '.join(tally.lines())}".rstrip())
    return histories


_Event = tuple[str, int, int]  # item; 0, 1 or 2: train, validation or test; position of its time


def _event(where: str, row: Mapping[str, Any], times: Times) -> _Event:
    return identifier(where, "item_id", row["item_id"]), 0, times.add(where, row.get("timestamp"))


def _sequence(where: str, row: Mapping[str, Any], times: Times) -> list[_Event]:
    items = parsed_list(row["items"]) if isinstance(row["items"], str) else row["items"]
    if not isinstance(items, list):
        raise ValueError(f"{where}: `items` must be a list of item ids; found {str(row['items'])[:200]!r}.")
    stated = row.get("timestamps", row.get("timestamp"))
    stated = (parsed_list(stated) if isinstance(stated, str) else None) or stated
    stated = stated or [None] * len(items)
    if not isinstance(stated, list) or len(stated) != len(items):
        raise ValueError(f"{where}: `timestamps` must be a list of {len(items)} times, one per item; found {str(stated)[:200]}.")
    parts = _stated_split(where, row, len(items))
    ids = [identifier(where, "items", item) for item in items]
    return [(item, part, times.add(where, time)) for item, part, time in zip(ids, parts, stated, strict=True)]


class _Ids:
    """The ids of a catalog, and how those of events differ from them."""

    def __init__(self, known: Collection[str]):
        self.known = known
        self._whole: dict[str, str] = {}  # 101 → 101.0, where the catalog has such ids
        self._bare: dict[str, str] = {}  # 37 → 0037
        for item_id in known:
            self._whole.setdefault(without_zeros(item_id), item_id)
            self._bare.setdefault(_bare(item_id), item_id)
        self._example = ""

    def find(self, given: str, tally: Tally) -> str | None:
        """The catalog's id; ``None`` for an unknown one, which is counted. ``101.0`` is the whole number 101."""
        if given in self.known:
            return given
        if (found := self._whole.get(without_zeros(given))) is not None:
            tally.count(
                "events", "write a whole number with a fraction; it was read as the catalog's id", f"{given!r} for {found!r}", loss=False
            )
            return found
        self._example = self._example or given
        tally.count("events", "name items that the catalog lacks, and are left out", f"{given!r}{self.like(given)}")
        return None

    def like(self, given: str) -> str:
        """What the catalog has in place of an unknown id, in brackets."""
        found = self._bare.get(_bare(given))
        return f" (the catalog has {found!r})" if found is not None else ""

    def apart(self) -> str:
        """An unknown id of the events beside the catalog's."""
        some = next(iter(self.known), "")
        return f"The events have ids like {self._example!r}{self.like(self._example)}, the catalog's are like {some!r}."


def _bare(item_id: str) -> str:
    """An id without leading zeros, case and blanks: to compare, never to read."""
    return without_zeros(item_id).casefold().lstrip("0 ").rstrip() or "0"


def _history(
    path: str | Path, user_id: str, where: str, rows: list[_Event], seconds: Sequence[float | None], short_users: str, tally: Tally
) -> History | None:
    """A user's history in time order; ``None`` for a user who is dropped."""
    times = [seconds[at] for _, _, at in rows]
    timed = sum(time is not None for time in times)
    if timed not in (0, len(rows)):
        raise ValueError(f"{path}: user {user_id!r} has {timed} timestamps for {len(rows)} events; give all or none.")
    if timed:
        order = sorted(range(len(rows)), key=times.__getitem__)  # type: ignore[arg-type]  # stable: file order within one time
        tied = sum(times[a] == times[b] for a, b in pairwise(order))
        repeats = len(rows) - len({(item, times[i]) for i, (item, _, _) in enumerate(rows)})
        for n, what in (
            (tied, "have the time of the one before; their order is that of the file"),
            (repeats, "are exact repeats; all count"),
        ):
            if n:
                tally.count("events", what, f"one of user {user_id!r}", n)
        if order != sorted(order):
            tally.count("users", "have events that are not in time order in the file; they were sorted", repr(user_id), loss=False)
        rows, times = [rows[i] for i in order], [times[i] for i in order]
    parts = [part for _, part, _ in rows]
    if parts != sorted(parts):
        raise ValueError(
            f"{where}: in time order the targets of user {user_id!r} (n_valid, n_test) are not the last; the file's split contradicts its "
            "timestamps. Correct one of the two."
        )
    if len(rows) < MIN_ITEMS and short_users == "error":
        raise ValueError(
            f"{where}: user {user_id!r} has {len(rows)} items; leave-one-out needs {MIN_ITEMS}. Drop such users: read.short_users=drop."
        )
    if len(rows) < MIN_ITEMS:
        dropped = not rows or short_users != "keep"
        tally.count("users", f"have fewer than {MIN_ITEMS} items and are {'left out' if dropped else 'for training only'}", repr(user_id))
        if dropped:
            return None
    whole = tuple(math.floor(t) for t in times) if timed else ()  # type: ignore[arg-type]
    return History(user_id, tuple(item for item, _, _ in rows), whole, parts.count(1), parts.count(2))


def leave_one_out(histories: Iterable[History]) -> Split:
    """Each user's last item is the test target, the one before it the validation target, and the rest is for training. Users with fewer
    than three items are for training only."""
    train, validation, test = [], [], []
    for history in histories:
        items = history.items
        if len(items) < MIN_ITEMS:
            train.append(History(history.user_id, items, history.timestamps))
            continue
        train.append(History(history.user_id, items[:-2], history.timestamps[:-2]))
        times = history.timestamps or (None, None)
        validation.append(Case(history.user_id, items[:-2], items[-2], times[-2]))
        test.append(Case(history.user_id, items[:-1], items[-1], times[-1]))
    return Split("leave-one-out", tuple(train), tuple(validation), tuple(test))


def split_as_given(histories: Sequence[History]) -> Split:
    """The split stated by the file: ``History.n_valid`` and ``History.n_test`` trailing targets. Every target is one case with all earlier
    items of its user as history, earlier targets too. A target that is its user's first event is no case; ``Split.skipped`` counts these.
    Raises `ValueError` if no history states a target."""
    if not any(h.n_valid or h.n_test for h in histories):
        raise ValueError("The interactions state no split: expected one row per user with the columns `n_valid` and `n_test`.")
    return _split_at("given", histories, [(len(h.items) - h.n_test - h.n_valid, len(h.items) - h.n_test) for h in histories])


def split_by_time(histories: Sequence[History], validation: float = 0.1, test: float = 0.1) -> Split:
    """Cuts all events at two points in time: the last `test` share of events is for test, the `validation` share before it for validation.
    Every event after a cut is one case with all earlier items of its user as history; the first event of a user is no case. Raises
    `ValueError` for histories without timestamps, or shares that leave nothing to train on."""
    if not histories or any(not h.timestamps for h in histories):
        raise ValueError("split_by_time needs a timestamp for every event; use leave_one_out if times are unknown.")
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ValueError(f"validation={validation} and test={test} must be positive and sum to less than 1.")
    times = sorted(t for h in histories for t in h.timestamps)
    first_validation, first_test = (times[min(int(len(times) * (1 - s)), len(times) - 1)] for s in (validation + test, test))
    if times[0] == first_validation:
        raise ValueError(f"No event is earlier than the first to be tested or validated ({first_validation}): nothing is left to train on.")
    return _split_at("time", histories, [tuple(bisect_left(h.timestamps, t) for t in (first_validation, first_test)) for h in histories])


def _split_at(name: str, histories: Sequence[History], cuts: Sequence[tuple[int, ...]]) -> Split:
    """Splits each history at its first validation target and its first test target, given as positions."""
    train: list[History] = []
    validation: list[Case] = []
    test: list[Case] = []
    for h, (kept, first_test) in zip(histories, cuts, strict=True):
        if kept:
            train.append(History(h.user_id, h.items[:kept], h.timestamps[:kept]))
        for i in range(max(kept, 1), len(h.items)):
            case = Case(h.user_id, h.items[:i], h.items[i], h.timestamps[i] if h.timestamps else None)
            (test if i >= first_test else validation).append(case)
    return Split(name, tuple(train), tuple(validation), tuple(test), skipped=sum(kept == 0 for kept, _ in cuts))


def hold_out_items(histories: Sequence[History], share: float = 0.1, seed: int = 0) -> Split:
    """Holds out items from training: half of them are validation targets, half test targets. With timestamps the held-out items are those
    first seen last; without, a random sample. Each user's first event with a held-out item is a case with the earlier training items as
    history. Raises `ValueError` for `share` outside (0, 1), or fewer than two held-out items."""
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie between 0 and 1.")
    first: dict[str, int] = {}
    for h in histories:
        for i, item in enumerate(h.items):
            time = h.timestamps[i] if h.timestamps else 0
            first[item] = min(first.get(item, time), time)
    order = sorted(first)
    random.Random(seed).shuffle(order)
    order.sort(key=first.__getitem__)  # stable: the shuffle decides between equal or unknown times
    held = order[len(order) - int(len(order) * share) :]
    if len(held) < 2:
        raise ValueError(f"share={share} of {len(order)} items holds out {len(held)}; at least two are needed.")
    part = {item: "validation" if i < len(held) // 2 else "test" for i, item in enumerate(held)}
    train, cases = [], {"validation": [], "test": []}  # type: ignore[var-annotated]
    for h in histories:
        known = [i for i, item in enumerate(h.items) if item not in part]
        done: set[str] = set()
        for i, item in enumerate(h.items):
            past = tuple(h.items[j] for j in known if j < i)
            if item in part and item not in done and past:
                done.add(item)
                cases[part[item]].append(Case(h.user_id, past, item, h.timestamps[i] if h.timestamps else None))
        if known:
            times = tuple(h.timestamps[j] for j in known) if h.timestamps else ()
            train.append(History(h.user_id, tuple(h.items[j] for j in known), times))
    return Split("unseen-items", tuple(train), tuple(cases["validation"]), tuple(cases["test"]))


def interactions_to_datasets(split: Split) -> dict[str, Dataset]:
    """The ``interactions`` table as ``{"train", "validation", "test"}``: training events, and each case's target, with positions."""
    events = [(h.user_id, item, i, h.timestamps[i] if h.timestamps else None) for h in split.train for i, item in enumerate(h.items)]
    rows: dict[str, list[tuple[Any, ...]]] = {"train": events}
    for name, cases in (("validation", split.validation), ("test", split.test)):
        rows[name] = [(c.user_id, c.target, len(c.history), c.timestamp) for c in cases]
    features = interaction_features()
    return {name: rows_to_dataset([dict(zip(features, row, strict=True)) for row in part], features) for name, part in rows.items()}


def cases_to_dataset(cases: Sequence[Case]) -> Dataset:
    """The ``cases`` table: `user_id`, `history` (item ids, oldest first) and `target`."""
    from datasets import Features, List, Value

    text = Value("string")
    rows = [{"user_id": c.user_id, "history": list(c.history), "target": c.target} for c in cases]
    return rows_to_dataset(rows, Features({"user_id": text, "history": List(text), "target": text}))


def _stated_split(where: str, row: Mapping[str, Any], n: int) -> list[int]:
    """0, 1 or 2 for each of the `n` items of a row: train, validation or test."""
    counts = []
    for column in ("n_valid", "n_test"):
        value = row.get(column)
        value = None if missing(value) else int(value) if isinstance(value, float) and value.is_integer() else value
        value = int(value) if isinstance(value, str) and value.strip().isdigit() else value
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{where}: {column} is {value!r}; expected the number of trailing targets, 0 or more.")
        counts.append(value or 0)
    if sum(counts) > n:
        raise ValueError(f"{where}: n_valid={counts[0]} and n_test={counts[1]} are more than the {n} items.")
    return [0] * (n - sum(counts)) + [1] * counts[0] + [2] * counts[1]
