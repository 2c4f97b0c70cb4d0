"""Raw cells as clean values: texts without markup, prices as numbers, times as unix seconds, ids as text."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

LATEST = 7_258_118_400  # 2200-01-01 UTC: a later number is in milliseconds

_LONGEST_RAW_TEXT = 200_000  # characters of a cell that are read; no real text has more
_INLINE = "a|abbr|b|big|em|font|i|small|span|strong|sub|sup|tt|u"  # do not separate words: <b>B</b>ig is Big
_BLOCK = (
    "blockquote|body|br|center|dd|div|dl|dt|embed|form|h[1-6]|head|hr|html|iframe|img|input|li|link|meta|object|ol|option|p|param|pre|"
    "select|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
# Only HTML's own tags are markup: "AC<DC> adapter, <3 m" is a title.
_UNSEEN = re.compile(r"<(script|style)\b[^<>]{0,2000}>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_CONTROL = dict.fromkeys(c for c in range(0xA0) if unicodedata.category(chr(c)) == "Cc" and not chr(c).isspace())
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|\w{2,31});")  # with its semicolon: "rock&regal" has none
_PRICE = re.compile(
    r"(?:from\s+)?(?:[^\W\d_]{1,4}\.?)?\s?[^\w\s.,'{}<>()-]{0,2}\s?"  # from, USD, $
    r"(\d{1,3}(?:[ '\u2019]\d{3})+(?:[.,]\d+)?|\d[\d.,]*)"
    r"\s?(?:[^\w\s]{1,2}|[^\W\d_]{1,4})?\s*(?:[-\u2013\u2014(].*)?",  # €, each, - $20.00, ($1.08 / Ounce)
    re.IGNORECASE,
)


def clean_text(value: Any) -> str:
    """A cell as plain text: entities decoded, markup, scripts and control characters removed, white space collapsed. Emoji and
    right-to-left text are kept; a list of texts is joined by spaces; ``""`` for a missing value."""
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(clean_text, value)))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = whole_characters(str(value)[:_LONGEST_RAW_TEXT])
    for _ in range(3):  # &amp;amp; occurs
        if "&" not in text or (text := _ENTITY.sub(lambda found: html.unescape(found[0]), before := text)) == before:
            break
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", _UNSEEN.sub(" ", text)))
    return " ".join(whole_characters(text).translate(_CONTROL).split())


def clean_title(value: Any) -> str:
    """`clean_text`, and ``""`` for the page scripts that some records of 2018 have instead of a title."""
    text = clean_text(value)
    return "" if "getTime()" in text and "var " in text else text


def clean_list(value: Any, separator: str = "") -> list[str]:
    """Categories as a list of clean texts without repetitions: from a list, or from one text split at `separator`."""
    if isinstance(value, str):
        value = value.split(separator) if separator else [value]
    texts = map(clean_text, value if isinstance(value, Iterable) else ())
    return list(dict.fromkeys(t for t in texts if t and len(t) <= 200))  # longer "categories" are misplaced page text


def whole_characters(text: str) -> str:
    """Text that UTF-8 can encode: surrogate pairs (in old dumps an emoji is two halves) joined, lone surrogates replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text


def shorten(text: str, limit: int) -> str:
    """The text, cut after the last whole word within `limit` characters; within the word if there is none."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1].rsplit(" ", 1)[0] if " " in text[: limit + 1] else text[:limit]
    return head.rstrip(" ,;:-\u200d")


def clean_price(value: Any) -> float | None:
    """A price as a number; a range ("$12.99 - $20.00") counts as its lower end; "Free to play" is 0. ``None`` without a readable price.

    Of two kinds of separator the last one is decimal; a single comma is decimal unless three digits follow.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if 0 <= value < math.inf else None
    text = clean_text(value)
    if re.match(r"free\b", text, re.IGNORECASE) and len(text) < 30:
        return 0.0
    if len(text) > 60 or (found := _PRICE.fullmatch(text)) is None:
        return None
    number = re.sub(r"[^\d.,]", "", found[1]).strip(".,")
    last = max(number.rfind("."), number.rfind(","))
    if last >= 0:
        marks = {c for c in number if c in ".,"}
        thousands = len(marks) == 1 and (number.count(number[last]) > 1 or (number[last] == "," and len(number) - last == 4))
        whole, cents = (number, "") if thousands else (number[:last], number[last + 1 :])
        number = re.sub(r"\D", "", whole) + "." + cents
    price = float(number)
    return price if price < 1e12 else None


def clean_id(value: Any) -> str:
    """An id as text, white space collapsed; a whole number loses its ``.0``. ``""`` for anything else."""
    if isinstance(value, str):
        return " ".join(value.split()) if not _SURROGATE.search(value) else ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def clean_time(value: Any, per_second: int = 1) -> int | None:
    """A time as unix seconds: from a number (`per_second` = 1,000 for milliseconds), a date, or ISO 8601 text, UTC unless it has a zone.

    ``None`` for anything but a time between 1970 and 2200.
    """
    if isinstance(value, bool):
        return None
    try:
        if isinstance(value, datetime):
            seconds = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
        elif isinstance(value, int):
            seconds = value // per_second
        else:
            try:
                seconds = float(value) / per_second
            except (TypeError, ValueError):  # a date, or text
                return clean_time(datetime.fromisoformat(re.sub(r"\s*(UTC|GMT)$", "+00:00", str(value).strip())))
        return int(seconds) if 0 <= seconds < LATEST else None
    except (TypeError, ValueError, OverflowError):
        return None
