"""Times of a whole column: one unit and one form, found from all of its values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, timezone
from typing import Any

_UNITS = ((1e11, 1, "seconds"), (1e14, 10**3, "milliseconds"), (1e17, 10**6, "microseconds"), (math.inf, 10**9, "nanoseconds"))
_LEAST = 1e8  # smaller numbers state no unit: counters, or seconds of 1970 to 1973
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?)?")
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?)?")


class Times:
    """Reads the times of one column.

    `add` takes the values one by one; `read` then gives them all, since only the whole column shows its unit, and whether 01/02/2020 is in
    January.
    """

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._where: list[str] = []

    def add(self, where: str, value: Any) -> int:
        """Returns the position of the value among those of `read`."""
        self._values.append(value)
        self._where.append(where)
        return len(self._values) - 1

    def read(self) -> tuple[list[float | None], str]:
        """Unix seconds with fractions, ``None`` for missing ones; and what was found about the column, "" for unix seconds.

        Raises:
            ValueError: with the line, for a value that is no time; several units or forms in one column; days and months that cannot be
                told apart.
        """
        plain = [_plain(where, value) for where, value in zip(self._where, self._values, strict=True)]
        numbers = [v for v in plain if isinstance(v, int | float)]
        texts = [v for v in plain if isinstance(v, str)]
        as_dates = bool(numbers) and all(_is_date(v) for v in numbers)
        if texts and numbers and not as_dates:
            self._from_texts([v if isinstance(v, str) else None for v in plain], "")  # a text that is no time is the first thing to say
            i = next(i for i, v in enumerate(plain) if isinstance(v, int | float))
            raise ValueError(
                f"{self._where[i]}: the time {self._values[i]!r} is a number, and {texts[0]!r} is text. Write all in one form."
            )
        if as_dates:
            plain = [str(int(v)) if isinstance(v, int | float) else v for v in plain]
            return self._from_texts(plain, "dates such as 20240131")
        if texts:
            return self._from_texts(plain, "")
        return self._from_numbers(plain)

    def _from_numbers(self, plain: Sequence[Any]) -> tuple[list[float | None], str]:
        units: dict[str, tuple[int, int]] = {}
        for i, value in enumerate(plain):
            if isinstance(value, int | float) and abs(value) >= _LEAST:
                per_second, name = next((p, n) for limit, p, n in _UNITS if abs(value) < limit)
                units.setdefault(name, (per_second, i))
        if len(units) > 1:
            (one, (_, i)), (other, (_, j)) = list(units.items())[:2]
            raise ValueError(
                f"{self._where[j]}: time {self._values[j]!r} looks like {other}, and {self._values[i]!r} ({self._where[i]}) like {one}. "
                "Write all in one unit."
            )
        name, (per_second, _) = next(iter(units.items()), ("seconds", (1, 0)))
        return [
            None if v is None else v / per_second if per_second > 1 else v for v in plain
        ], "" if name == "seconds" else f"times in {name}"

    def _from_texts(self, plain: Sequence[Any], found: str) -> tuple[list[float | None], str]:
        slashed = [m for v in plain if isinstance(v, str) and (m := _SLASHED.fullmatch(v))]
        day_first = any(int(m[1]) > 12 for m in slashed)
        if slashed and day_first == any(int(m[2]) > 12 for m in slashed):
            raise ValueError(
                f"{self._where[0]}: times such as {slashed[0][0]!r} do not say which number is the month. Write them as 2024-01-31."
            )
        if slashed:
            found = f"times such as {slashed[0][0]}, {'day' if day_first else 'month'} first"
        return [self._from_text(i, v, day_first) for i, v in enumerate(plain)], found

    def _from_text(self, i: int, value: Any, day_first: bool) -> float | None:
        if value is None:
            return None
        try:
            if m := _SLASHED.fullmatch(value):
                return _date(m, day_first)
            if m := _DOTTED.fullmatch(value):
                return _date(m, True)
            when = datetime.fromisoformat(re.sub(r"\s*(UTC|GMT)$", "+00:00", value))
        except ValueError:
            raise ValueError(
                f"{self._where[i]}: timestamp {self._values[i]!r} is neither unix seconds nor ISO 8601 (2024-01-31 18:00:00)."
            ) from None
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def are_times(values: Sequence[Any]) -> str:
    """What the values of a column are by themselves: "dates" (texts, dates, numbers such as 20240131), "numbers" that may be a time in
    seconds or smaller units between 1990 and 2100, or "" for anything else. Missing values say nothing; half of them must be there."""
    there = [v for v in values if not (v is None or v == "" or v != v)]
    times = Times()
    for value in there:
        times.add("", value)
    try:
        found, said = times.read()
        numbers = [v for v in (_plain("", value) for value in there) if isinstance(v, int | float)]
    except ValueError:
        return ""
    read = [v for v in found if v is not None]
    if len(read) * 2 < len(values) or not read or not 631152000 <= min(read) <= max(read) < 4102444800:
        return ""
    written = [v for v in there if isinstance(v, date | str) and not isinstance(_plain("", v), int | float)]
    return "numbers" if numbers and not written and "dates" not in said else "dates"


def _plain(where: str, value: Any) -> Any:
    """A number, a text that is none, or ``None``."""
    if value is None or value == "" or value != value:  # NaN and NaT are not equal to themselves
        return None
    if isinstance(value, bool):
        raise ValueError(f"{where}: timestamp {value!r} is neither unix seconds nor ISO 8601.")
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()
    if isinstance(value, int):
        number: float = value
    else:
        text = str(value).strip()
        if text.lower() in ("", "nan", "nat", "none", "null"):
            return None
        try:
            number = int(text) if re.fullmatch(r"[+-]?\d{1,30}", text) else float(text)
        except ValueError:
            return text
    if not abs(number) < 2**63:  # the range of int64
        raise ValueError(f"{where}: timestamp {value!r} is neither unix seconds nor ISO 8601.")
    return number


def _is_date(value: float) -> bool:
    """20240131"""
    if value != int(value) or not 19000101 <= value <= 22001231:
        return False
    try:
        date(int(value) // 10000, int(value) // 100 % 100, int(value) % 100)
    except ValueError:
        return False
    return True


def _date(m: re.Match[str], day_first: bool) -> float:
    day, month = (int(m[1]), int(m[2])) if day_first else (int(m[2]), int(m[1]))
    seconds = float(m[6] or 0)
    return datetime(int(m[3]), month, day, int(m[4] or 0), int(m[5] or 0), tzinfo=timezone.utc).timestamp() + seconds
