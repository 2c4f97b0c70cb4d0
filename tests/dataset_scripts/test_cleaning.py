"""Raw cells: markup, entities, prices, times, long and strange texts."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grlm_hf.files import clean
from grlm_hf.tables.cleaning import clean_id, clean_list, clean_price, clean_text, clean_time, clean_title, shorten


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<b>B</b>ig &amp;amp; <i>soft</i><br>towel", "Big & soft towel"),
        ("&lt;b&gt;bold&lt;/b&gt; &#8217;s&nbsp;own", "bold ’s own"),
        ("<div class='x'>One</div><div>Two</div><li>Three", "One Two Three"),
        ('<a href="/x?y=1">link</a> <IMG src=x>', "link"),
        ("<script>var x = '<b>';</script>Lamp<style>.a{}</style><!-- no -->", "Lamp"),
        ("<script type='text/javascript'>var a;", ""),  # never closed
        ("AC<DC> adapter, <3 m, a < b > c, Size <m", "AC<DC> adapter, <3 m, a < b > c, Size <m"),  # none of it is HTML
        ("rock&regal, salt&lt", "rock&regal, salt&lt"),  # nor are these entities
        ("  tab\tand\nline\u00a0end ", "tab and line end"),
        ("bell\x07 nul\x00 del\x7f", "bell nul del"),
        ("שלום \u200f(עולם) 👩‍👩‍👧 مرحبا", "שלום \u200f(עולם) 👩‍👩‍👧 مرحبا"),
        ("\ud83d\ude00 and \ud83d", "😀 and \ufffd"),  # an emoji in two halves, and one half alone
        (["first", ["second"], None, ""], "first second"),
        (None, ""),
        (math.nan, ""),
        (1984, "1984"),
    ],
)
def test_text(raw: Any, text: str) -> None:
    assert clean_text(raw) == text


@given(st.one_of(st.text(), st.text(st.characters()), st.text("<>/abscript!-&;#x0 \ud83d\x00\n", max_size=60)))
def test_any_text_comes_out_clean(raw: str) -> None:
    text = clean_text(raw)
    text.encode("utf-8")  # what parquet demands
    assert text == clean(text)  # what the loaders make of it
    assert not any(ord(c) < 32 for c in text)


def test_page_script_is_no_title() -> None:
    assert clean_title("var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0") == ""
    assert clean_title("A novel about getTime()") != ""


def test_categories() -> None:
    assert clean_list(["Toys &amp; Games", " ", None, "Puzzles", "Toys & Games", "x" * 201]) == ["Toys & Games", "Puzzles"]
    assert clean_list("A > B > A", ">") == ["A", "B"]
    assert clean_list("Mexican, Bars", ",") == ["Mexican", "Bars"]
    assert clean_list(None) == clean_list(math.nan) == clean_list("", ">") == []


@given(st.lists(st.text("abc", min_size=1, max_size=12), min_size=1).map(" ".join), st.integers(1, 40))
def test_shortened_text_ends_at_a_word(text: str, limit: int) -> None:
    short = shorten(text, limit)
    words = text.split()
    assert len(short) <= limit
    assert text.startswith(short)
    assert short == " ".join(words[: len(short.split())]) or (len(words[0]) > limit and short == words[0][:limit])
    if short != text and len(words[0]) <= limit:  # not a word more would fit
        assert len(" ".join(words[: len(short.split()) + 1])) > limit


@pytest.mark.parametrize(
    ("raw", "price"),
    [
        *(("$12.99", 12.99), ("$12.99 - $20.00", 12.99), ("from 14.99", 14.99), ("12.99 ($1.08 / Ounce)", 12.99), ("$ 5 each", 5.0)),
        *(("1,234.56", 1234.56), ("1.234,56 €", 1234.56), ("1 234,56 €", 1234.56), ("€1.234.567,89", 1234567.89), ("12,5", 12.5)),
        *(("1,234", 1234.0), ("Rs. 1,299", 1299.0), ("US$ 12", 12.0), ("USD 12.99", 12.99), ("£3", 3.0), ("12.", 12.0)),
        *((9.5, 9.5), (3, 3.0), (0, 0.0), ("Free To Play", 0.0), ("free", 0.0)),
        *((None, None), ("", None), ("—", None), (True, None), (math.nan, None), (math.inf, None), (-1, None), ("-5", None)),
        *(("2 for 10", None), ("Click to see price", None), (".a-box-inner{color:#fff} 12", None), ("9" * 400, None), ("None", None)),
    ],
)
def test_price(raw: Any, price: float | None) -> None:
    assert clean_price(raw) == price


@given(st.integers(0, 10**9), st.sampled_from(["${}", "{} €", "USD {}", "{}", "from ${}", "${} - $999,999,999.00"]))
def test_written_prices_are_read(cents: int, form: str) -> None:
    assert clean_price(form.format(f"{cents / 100:,.2f}")) == cents / 100


@given(st.text(max_size=80))
def test_no_text_breaks_the_price(raw: str) -> None:
    price = clean_price(raw)
    assert price is None or (price >= 0 and math.isfinite(price))


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        *((0, 0), (1.5, 1), ("1500000000", 1_500_000_000), ("2017-06-04", 1_496_534_400), (date(2017, 6, 4), 1_496_534_400)),
        *(("2018-07-07 22:09:11", 1_531_001_351), ("2018-07-07T22:09:11+02:00", 1_530_994_151)),
        *((datetime(2017, 6, 4), 1_496_534_400), (datetime(2017, 6, 4, 2, tzinfo=timezone(timedelta(hours=2))), 1_496_534_400)),
        *((None, None), ("", None), ("soon", None), (-1, None), (math.nan, None), (math.inf, None), (10**400, None), ("1" * 5000, None)),
        (1_500_000_000_000, None),  # milliseconds, taken for seconds
        *((True, None), ([], None)),
    ],
)
def test_time(raw: Any, seconds: int | None) -> None:
    assert clean_time(raw) == seconds


def test_milliseconds() -> None:
    assert clean_time(1_588_687_728_923, 1000) == 1_588_687_728


def test_ids_stay_text() -> None:
    assert [clean_id(v) for v in ("007", " a \u00a0b ", 12, 12.0, 12.5, True, None, "", "\ud83d", [1])] == [
        "007",
        "a b",
        "12",
        "12",
        *[""] * 6,
    ]
