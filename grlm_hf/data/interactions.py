"""Histories of users, and the splits that hold out events for validation and test."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.files import clean, read_rows, rows_to_dataset
from grlm_hf.layout import ShortUsers, UnknownItems
from grlm_hf.settings import check_value

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
    path: str | Path, item_ids: Collection[str], short_users: ShortUsers = "error", unknown_items: UnknownItems = "error"
) -> list[History]:
    """Histories from a file with one row per event (`user_id`, `item_id`, optional `timestamp`) or per user (`user_id`, `items`).

    Events are sorted by time, and by file order at equal times; without timestamps file order is time order. A timestamp is unix seconds
    or ISO 8601 (UTC unless it states a zone). A row per user may state a split in the columns `n_valid` and `n_test`.

    Args:
        short_users: ``"error"``, ``"drop"`` or ``"keep"`` for users with fewer than three items.
        unknown_items: ``"error"`` or ``"drop"`` for events on items missing from the catalog.

    Raises `ValueError` with the line for a missing column or id, an unreadable time, an inconsistent split, and what the policies refuse.
    """
    check_value("short_users", short_users, ShortUsers)
    check_value("unknown_items", unknown_items, UnknownItems)
    events: dict[str, list[tuple[int | None, str, int]]] = {}  # time, item, and 0, 1 or 2: train, validation or test
    first_seen: dict[str, str] = {}
    for where, row in read_rows(path):
        user_id = clean(row.get("user_id"))
        if not user_id or not ("item_id" in row or "items" in row):
            raise ValueError(f"{where} needs `user_id` and either `item_id` or `items`; found {row}.")
        if "items" in row:
            if not isinstance(row["items"], list):
                raise ValueError(f"{where}: `items` must be a list of item ids; found {row['items']!r}.")
            if user_id in events:
                raise ValueError(f"{where}: duplicate user {user_id!r}, first at {first_seen[user_id]}; expected one row per user.")
            times = row.get("timestamps") or [None] * len(row["items"])
            if not isinstance(times, list) or len(times) != len(row["items"]):
                raise ValueError(f"{where}: `timestamps` must be a list of {len(row['items'])} times, one per item; found {times!r}.")
            parts = _stated_split(where, row, len(times))
            new = [(_seconds(where, t), clean(i), p) for t, i, p in zip(times, row["items"], parts, strict=True)]
        else:
            new = [(_seconds(where, row.get("timestamp")), clean(row["item_id"]), 0)]
        first_seen.setdefault(user_id, where)
        known = []
        for time, item_id, part in new:
            if item_id in item_ids:
                known.append((time, item_id, part))
            elif unknown_items == "error":
                raise ValueError(
                    f"{where}: user {user_id!r} has item {item_id!r}, which is not among the {len(item_ids)} items of the catalog. "
                    "Add it to the items file, or drop such events: read.unknown_items=drop."
                )
        events.setdefault(user_id, []).extend(known)
    histories = []
    for user_id, rows in events.items():
        timed = sum(time is not None for time, _, _ in rows)
        if timed not in (0, len(rows)):
            raise ValueError(f"{path}: user {user_id!r} has {timed} timestamps for {len(rows)} events; give all or none.")
        if timed:
            rows = sorted(rows, key=lambda row: row[0])  # type: ignore[arg-type,return-value]  # stable: file order within one time
        parts = [part for _, _, part in rows]
        if parts != sorted(parts):
            raise ValueError(
                f"{first_seen[user_id]}: in time order the targets of user {user_id!r} (n_valid, n_test) are not the last; the file's "
                "split contradicts its timestamps. Correct one of the two."
            )
        if len(rows) < MIN_ITEMS and short_users == "error":
            raise ValueError(
                f"{first_seen[user_id]}: user {user_id!r} has {len(rows)} items; leave-one-out needs {MIN_ITEMS}. "
                "Drop such users: read.short_users=drop."
            )
        if len(rows) >= MIN_ITEMS or (rows and short_users == "keep"):
            times = tuple(t for t, _, _ in rows) if timed else ()
            histories.append(History(user_id, tuple(i for _, i, _ in rows), times, parts.count(1), parts.count(2)))  # type: ignore[arg-type]
    if not histories:
        raise ValueError(f"{path} holds no user with {MIN_ITEMS} or more items.")
    return histories


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
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{where}: {column} is {value!r}; expected the number of trailing targets, 0 or more.")
        counts.append(value or 0)
    if sum(counts) > n:
        raise ValueError(f"{where}: n_valid={counts[0]} and n_test={counts[1]} are more than the {n} items.")
    return [0] * (n - sum(counts)) + [1] * counts[0] + [2] * counts[1]


def _seconds(where: str, value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        when = value
    else:
        try:
            seconds = int(float(value))
            if abs(seconds) < 2**63:  # the range of int64
                return seconds
        except (TypeError, ValueError, OverflowError):
            pass
        try:
            when = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise ValueError(f"{where}: timestamp {value!r} is neither unix seconds nor ISO 8601.") from None
    return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
