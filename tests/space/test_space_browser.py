"""The page in a real headless Chromium: what people do there, with the mouse, the keyboard and on a phone.

The browser lives in an environment of its own, whose Python GRLM_BROWSER names (`make test-browser`); where that is set it must work.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from space_toys import HOSTILE, saved

import grlm_hf

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not os.environ.get("GRLM_BROWSER"), reason="GRLM_BROWSER names no browser's Python: run make test-browser"),
]
CARDS = "document.querySelectorAll('.g-card').length"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`grlm space` with two checkpoints, as a user starts it."""
    work = tmp_path_factory.mktemp("space")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "grlm_hf", "space", str(saved(work / "one")), "--port", str(port)]
    command += ["--compare", str(saved(work / "two", 3))]
    env = {**os.environ, "PYTHONPATH": str(Path(grlm_hf.__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as server:
        assert server.stdout
        said = ""
        for line in server.stdout:
            said += line
            if "The Space is open at" in line:
                break
        else:
            raise AssertionError(f"The Space did not start: {said}")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser(Path(os.environ["GRLM_BROWSER"])) as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, address: str) -> Browser:
    """The page anew, as another visitor sees it."""
    return opened(chromium, address)


def opened(browser: Browser, address: str, size: str = "desktop") -> Browser:
    width, height = SIZES[size]
    browser.ask("size", width=width, height=height)
    browser.open(address)
    browser.wait("document.querySelectorAll('#history [data-do=example]').length > 0")
    time.sleep(0.5)  # the page listens from here on
    return browser


def add(page: Browser, query: str, item: str) -> None:
    page.type("#query textarea, #query input", query)
    page.click(f"#results [data-do=add][data-what={item}]")
    page.wait(f"!!document.querySelector('#history [data-do=remove][data-what={item}]')")


def texts(page: Browser, selector: str) -> list[str]:
    return page.js(f"[...document.querySelectorAll('{selector}')].map((e) => e.innerText)")


def test_search_add_recommend_and_why(page: Browser) -> None:
    assert page.js(CARDS) == 0
    add(page, "tent 2", "i18")
    add(page, "stove", "i16")
    page.wait(f"{CARDS} > 4")
    assert page.js("document.querySelectorAll('section .g-cards').length") == 2  # both checkpoints
    assert page.js("document.querySelectorAll('.g-trie').length") == 2
    assert {"kept", "rest"} & set(page.js("[...document.querySelectorAll('.g-node')].flatMap((n) => [...n.classList])"))
    (first, *_) = texts(page, ".g-card .g-title")
    assert first.splitlines()[0] in "".join(texts(page, "#trie .g-leaf"))  # the tree leads to what is recommended
    page.click(".g-card [data-do=why]")
    page.wait("!!document.querySelector('.g-why')")
    why = texts(page, ".g-why")[0]
    assert all(said in why for said in ("Title 2 tent", "Title 4 stove", "%"))
    page.click("#history [data-do=later][data-what=i18]")
    page.wait("document.querySelector('#history li [data-do=remove]').dataset.what == 'i16'")
    page.click("#history [data-do=clear]")
    page.wait(f"{CARDS} == 0")


def test_a_banned_term_is_gone_until_undone(page: Browser) -> None:
    add(page, "tent 2", "i18")
    page.wait(f"{CARDS} > 4")
    term = page.js("document.querySelector('.g-card .g-chip [data-do=ban]').dataset.what")
    page.click(".g-card .g-chip [data-do=ban]")
    page.wait("!!document.querySelector('#steering .g-active.ban')")
    assert page.js(f"[...document.querySelectorAll('.g-card [data-do=ban]')].every((b) => b.dataset.what != '{term}')")
    assert page.js("document.querySelectorAll('#trie .g-node.ruled-out').length") > 0
    page.click("#steering [data-do=calm]")
    page.wait(f"[...document.querySelectorAll('.g-card [data-do=ban]')].some((b) => b.dataset.what == '{term}')")
    page.click(".g-card .g-chip [data-do=more]")
    page.wait("!!document.querySelector('.g-card .g-chip.more')")


def test_filters_hold_and_mistakes_in_them_are_told(page: Browser) -> None:
    add(page, "tent 2", "i18")
    page.js("[...document.querySelectorAll('button')].find((b) => b.innerText.includes('Filters')).click()")
    page.type("#most textarea, #most input", "35")
    page.wait("[...document.querySelectorAll('.g-card small')].every((e) => parseFloat(e.innerText.match(/[\\d.]+/)) <= 35)")
    page.wait(f"{CARDS} > 0")
    page.type("#least textarea, #least input", "90")
    page.wait("document.querySelector('#told').innerText.includes('above the highest')")
    page.type("#least textarea, #least input", "cheap")
    page.wait("document.querySelector('#told').innerText.includes('no price')")


def test_a_new_item_can_be_recommended_at_once_and_only_here(page: Browser, address: str) -> None:
    add(page, "tent 2", "i18")
    page.js("[...document.querySelectorAll('button')].find((b) => b.innerText.includes('item of your own')).click()")
    page.click("#own-add")
    page.wait("document.querySelector('#told').innerText.includes('needs a title')")  # an error, in words
    page.type("#own-title textarea, #own-title input", "Small steel kettle")
    page.click("#own-add")
    page.wait("!!document.querySelector('#own .g-chips')")
    page.click("#own [data-do=only-own]")
    page.wait("document.querySelectorAll('section:first-child .g-card').length == 1")
    assert "Small steel kettle" in texts(page, ".g-card .g-title")[0]
    assert "No. 1" in texts(page, "#own")[0]
    opened(page, address)  # somebody else
    page.type("#query textarea, #query input", "kettle")
    page.wait("document.querySelector('#results').innerText.includes('No title has')")


def test_a_hostile_title_stays_text(page: Browser) -> None:
    add(page, "script", "i20")
    page.wait(f"{CARDS} > 4")
    assert HOSTILE in page.js("document.querySelector('#history .g-title').textContent")
    assert page.js("document.querySelectorAll('#history img, #history script, #results img, #results script').length") == 0
    assert page.js("document.title") == "Term-ID recommender"


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.js("document.querySelector('#query textarea, #query input').focus()")
    reached = []
    for _ in range(12):
        page.ask("key", key="Tab")
        reached.append(page.js("[document.activeElement.dataset.do || '', document.activeElement.innerText || '']"))
    assert "example" in [do for do, _ in reached]
    assert any("Filters" in text for _, text in reached)
    assert any("item of your own" in text for _, text in reached)
    page.js("document.querySelector('#query textarea, #query input').focus()")
    page.ask("key", key="Tab")
    assert page.js("document.activeElement.dataset.do") == "example"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") != "none"  # one sees where one is
    page.ask("key", key="Return")
    page.wait(f"{CARDS} > 4")
    assert page.js("document.activeElement.dataset.do") == "example"  # focus stays
    page.js("document.querySelector('.g-card .g-chip summary').focus()")
    page.ask("key", key="Return")
    page.wait("document.querySelector('.g-card .g-chip').open")
    page.ask("key", key="Tab")
    assert page.js("document.activeElement.dataset.do") == "more"


@pytest.mark.parametrize("size", list(SIZES))
def test_it_fits_without_sideways_scrolling(page: Browser, address: str, size: str) -> None:
    opened(page, address, size)
    add(page, "script", "i20")
    page.wait(f"{CARDS} > 4")
    page.js("[...document.querySelectorAll('details')].forEach((d) => d.open = true)")
    page.js("[...document.querySelectorAll('.label-wrap')].forEach((b) => b.click())")
    page.click(".g-card [data-do=why]")
    page.wait("!!document.querySelector('.g-why')")
    width, inner = page.js("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner == SIZES[size][0]


def test_dark_and_light_follow_the_browser(page: Browser, address: str) -> None:
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)"
    assert page.js(brightness) > 600
    with Browser(Path(os.environ["GRLM_BROWSER"]), dark=True) as dark:
        opened(dark, address)
        assert dark.js(brightness) < 150
        add(dark, "tent 2", "i18")
        dark.wait(f"{CARDS} > 4")
        text = brightness.replace("document.body", "document.querySelector('.g-card .g-title')").replace("backgroundColor", "color")
        assert dark.js(text) > 500
