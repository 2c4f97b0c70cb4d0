"""The page: complete, closed, and nothing in it but what we wrote and the figures of the report."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from report_toys import HOSTILE, full_report

from grlm_hf.evaluation.report.page import comparison_page, page
from grlm_hf.evaluation.report.tables import short_table, tables
from grlm_hf.evaluation.schema import Example, Part, Report, Shown
from grlm_hf.evaluation.verdict import stated
from grlm_hf.markdown import one_line

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds; raises where an element is not closed in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def whole() -> str:
    return page(full_report())


def test_the_figures_are_those_of_the_report(whole: str) -> None:
    report = full_report()
    found = sorted(float(str(a["data-value"])) for a in Page(whole).all("td") if "data-value" in a)
    shown = [short_table(report, with_words=True), *(t for some in tables(report).values() for t in some)]
    assert found == sorted(c.value for t in shown for row in t.rows for c in row if c.value is not None)
    in_json = {float(x) for x in _numbers(json.loads(json.dumps(report.to_json())))}
    assert set(found) <= in_json


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [x for v in (value.values() if isinstance(value, dict) else value) for x in _numbers(v)]
    return [value] if isinstance(value, int | float) else []


def test_the_verdict_comes_first_and_the_protocol_last_and_whole(whole: str) -> None:
    protocol, found = full_report().to_json()["protocol"], Page(whole)
    parts = ["<h1>", '<p class="verdict">', "<table>", "<article>", "<img", "<dl>"]
    assert parts == sorted(parts, key=whole.index)
    assert found.texts["h2"][0] == "Five users"
    assert found.texts["h2"][-1] == "Protocol"
    assert one_line(stated(full_report()).text) in found.texts["p"]
    assert found.texts["dt"] == [key.replace("_", " ") for key in protocol]
    assert found.texts["dd"] == [one_line(v) for v in protocol.values()]
    assert found.texts["title"] == ["toy"]


def test_it_needs_nothing_else_and_shows_pictures_that_are_whole(whole: str) -> None:
    found = Page(whole)
    assert not {"link", "iframe", "object", "a", "form", "base"} & {tag for tag, _ in found.elements}
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert "@import" not in whole
    assert "url(" not in whole
    assert [name for _, attrs in found.elements for name in attrs if name.startswith("on") or name in ("href", "srcset")] == []
    pictures = found.all("img")
    assert len(pictures) == 4
    for picture in pictures:
        kind, _, data = str(picture["src"]).partition("base64,")
        assert kind == "data:image/svg+xml;"
        root = ElementTree.fromstring(base64.b64decode(data))
        assert root.tag.endswith("svg")
        assert picture["alt"]
        links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(v.startswith("#") for v in links)
        assert not [e for e in root.iter() if e.tag.endswith(("script", "foreignObject"))]
    policy = next(str(a["content"]) for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_it_is_made_for_phones_and_for_the_night(whole: str) -> None:
    metas = {a.get("name"): a.get("content") for a in Page(whole).all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert "@media (prefers-color-scheme: dark)" in whole
    # whatever is wider than the screen scrolls by itself
    parts = whole.split('<div class="scroll" tabindex="0">')
    assert len(parts) - 1 == whole.count("<table>") + whole.count("<img ")
    assert all(part.startswith(("<table>", "<img ")) for part in parts[1:])


def hostile_example() -> Example:
    item = Shown(HOSTILE, HOSTILE)
    return Example(user=HOSTILE, history=(item,), earlier=0, recommended={HOSTILE: (item,)}, ranks={HOSTILE: 1}, target=item)


def test_users_are_shown_with_what_came_next() -> None:
    report = full_report()
    found = Page(page(report))
    assert found.texts["h3"] == [f"User {e.user}" for e in report.examples]
    hits = [e.target.title for e in report.examples for items in e.recommended.values() if e.target in items]
    assert hits
    assert [t.removesuffix(" ✓") for t in found.texts["li"] if t.endswith(" ✓")] == hits
    assert found.texts["b"] == [e.target.title for e in report.examples]
    listed = [i.title for e in report.examples for some in (e.history, *e.recommended.values()) for i in some]
    assert [t.removesuffix(" ✓") for t in found.texts["li"]] == listed


def test_cases_that_nothing_can_answer_are_told() -> None:
    report = full_report()

    def shown(number: int | None) -> str:
        return page(replace(report, protocol=replace(report.protocol, unanswerable=number, cases=30)))

    for none in (0, None):
        assert "warning" not in [a.get("class") for a in Page(shown(none)).all("p")]
    text = shown(3)
    assert '<p class="warning">3 of 30 cases (10%) ask for an item that the history has already.' in text


def test_text_is_escaped_wherever_it_stands() -> None:
    report = full_report()
    methods = {HOSTILE: report.methods["grlm"]}
    texts = {name: HOSTILE for name, value in report.to_json()["protocol"].items() if isinstance(value, str)}
    report = Report(
        HOSTILE,
        replace(report.protocol, **texts, grlm_free=HOSTILE),
        methods,
        domains={HOSTILE: replace(report.domains["camp"], methods=methods)},
        slices={HOSTILE: {HOSTILE: Part(cases=3, methods=methods)}},
        collisions={HOSTILE: methods},
        comparisons=(replace(report.comparisons[0], a=HOSTILE, b=HOSTILE, metric=HOSTILE, test=HOSTILE),),
        unmasked=methods,
        unseen=replace(report.unseen, term_ids=HOSTILE),
        examples=(hostile_example(),),
    )
    found = Page(page(report))
    assert len(found.all("script")) == 1
    assert {str(a["src"])[:19] for a in found.all("img")} == {"data:image/svg+xml;"}
    assert found.texts["h1"] == [one_line(HOSTILE)]
    assert found.texts["title"] == [one_line(HOSTILE)]
    assert one_line(HOSTILE) in found.texts["th"]


def test_blocks_that_are_absent_have_no_section() -> None:
    report = full_report()
    assert Page(page(Report(report.dataset, report.protocol, report.methods))).texts["h2"] == ["Methods", "What is recommended", "Protocol"]
    all_of_it = ["Methods", "Which differences are real", "Items new to the model", "Where methods are good", "By domain"]
    all_of_it += ["Shared Term IDs", "With seen items kept", "What is recommended", "Training"]
    assert Page(page(report)).texts["h2"] == ["Five users", *all_of_it, "Protocol"]


def test_runs_side_by_side_on_a_page() -> None:
    report = full_report()
    text = comparison_page({"a": report, "b <i>": report})
    found = Page(text)
    assert found.texts["h2"] == ["Runs side by side", "Protocol"]
    assert "b <i>" in found.texts["button"]
    assert len(found.all("img")) == 1
    assert {a.get("data-value") for a in found.all("td")} >= {repr(report.methods["grlm"]["recall@10"].value), "0.0"}
    assert text == comparison_page({"a": report, "b <i>": report})
