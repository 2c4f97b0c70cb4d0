"""Cells as values of one type, whatever type they arrive in."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

from grlm_hf.files import clean
from grlm_hf.tables.cleaning import clean_price, clean_text, whole_characters
from grlm_hf.tables.tally import Tally

_LIST = 100_000  # characters of a list that is written as text
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def missing(value: Any) -> bool:
    """``None``, NaN and NaT, and text without a character."""
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())


def text(where: str, name: str, value: Any) -> str:
    """A cell as plain text: entities decoded, markup removed, white space collapsed, a list joined; "" for a missing one.

    Raises:
        ValueError: true, false, bytes or an object, which are no text.
    """
    if missing(value):
        return ""
    if isinstance(value, bool | bytes | dict):
        raise ValueError(f"{where}: {name} is {str(value)[:80]!r}, a {type(value).__name__}; expected text.")
    if isinstance(value, str) and (found := parsed_list(value)) is not None:
        value = found
    if isinstance(value, list | tuple):
        return " ".join(filter(None, (text(where, name, part) for part in value)))
    return clean_text(value) if isinstance(value, str) else clean(value)


def identifier(where: str, name: str, value: Any) -> str:
    """An id as text: a whole number loses its ``.0``; "" for a missing one.

    Raises:
        ValueError: a fraction, a float beyond 2 ** 53 (its last digits are lost), a text with control characters, another type.
    """
    if missing(value):
        return ""
    if isinstance(value, bool | bytes | dict | list | tuple):
        raise ValueError(f"{where}: {name} is {str(value)[:80]!r}, a {type(value).__name__}; expected text or a whole number.")
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > 2**53:
            cause = "beyond 2 ** 53, where floats lose digits" if abs(value) > 2**53 else "no whole number"
            raise ValueError(f"{where}: {name} is {value!r}, {cause}; write ids as text or as integers.")
        return str(int(value))
    found = whole_characters(clean(value))
    if any(c < " " or c == "\x7f" for c in found):
        raise ValueError(f"{where}: {name} {found[:80]!r} has a control character; an id is text.")
    return found


def without_zeros(value: str) -> str:
    """``101.0`` as ``101``; other ids as they are."""
    m = _WHOLE.fullmatch(value)
    return m[1] if m else value


def texts(where: str, name: str, value: Any, separator: str = ">") -> tuple[str, ...]:
    """A cell as a list of texts: a list, a list written as text (``"['A', 'B']"``), or a path ``A > B``.

    Raises:
        ValueError: a list of other things.
    """
    if missing(value):
        return ()
    if isinstance(value, str):
        found = parsed_list(value)
        value = value.split(separator) if found is None else found
    if not isinstance(value, list | tuple) or any(isinstance(part, list | dict | tuple | bytes) for part in value):
        raise ValueError(f"{where}: {name} must be a list of strings or a path 'A > B > C'; found {repr(value)[:200]}.")
    return tuple(filter(None, (text(where, name, part) for part in value)))


def price(where: str, value: Any, tally: Tally) -> float | None:
    """A price as a number; that of a text such as ``$12.99`` is counted by `tally`. ``None`` for a missing one and, counted, for what is no
    price, such as ``on request`` or -1: no recommendation depends on it. Raises ``ValueError`` for a list, an object, true or false."""
    if missing(value):
        return None
    if isinstance(value, bool | bytes | dict | list | tuple):
        raise ValueError(f"{where}: price {str(value)[:80]} is not a number; write it like 12.99, or leave it empty.")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        found = clean_price(value) if isinstance(value, str) else None
        if found is None:
            tally.count("items", "have a price that is no number; it was left empty", f"{str(value)[:40]!r} ({where})")
        else:
            tally.count("items", "have a price that is text; its number was read", f"{found:g} for {value!r}", loss=False)
        return found
    if math.isnan(number):  # "nan" as text
        return None
    if not 0 <= number < math.inf:
        tally.count("items", "have a price that is negative or infinite; it was left empty", f"{number!r} ({where})")
        return None
    return number


def parsed_list(value: str) -> list[Any] | None:
    """The list that a text spells in Python's or JSON's way; ``None`` if it spells none."""
    value = value.strip()
    if not (value.startswith("[") and value.endswith("]") and len(value) <= _LIST) or value.startswith("[[[["):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None
