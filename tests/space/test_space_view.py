"""The page's parts: nothing of a catalog or a visitor is ever markup, and numbers are what they stand for."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from space_toys import HOSTILE, space_shop

from grlm_hf.modeling.explain import Explanation, HistoryScore, TermScore
from grlm_hf.space import view
from grlm_hf.space.session import Session, changed, with_own
from grlm_hf.space.trie_view import tree, walk

SHOP = space_shop(compare=True)
ALLOWED = set(re.findall(r"\w+", "ul ol li p b i em small span div section h3 details summary button table caption tr th td"))


class Seen(HTMLParser):
    """The tags, the attributes and the text of a piece of HTML; all tags closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.buttons: list[dict[str, str | None]] = []
        self.text, self.open = "", []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)
        if tag == "button":
            self.buttons.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(session: Session) -> list[str]:
    """All parts as the app puts them together."""
    answers = SHOP.answers(session)
    why = {a.name: a.grlm.explain(session.history, session.why) for a in answers if session.why}
    said = {i.item_id: answers[0].grlm.explain(session.history, i.item_id) for i in session.own}
    items = [SHOP.item(session, i) for i in session.history]
    parts = [
        view.render("search_results", *SHOP.search(session), session),
        view.render("history", items, SHOP.examples()),
        view.render("steering", session),
        view.render("own_items", session, answers, SHOP.grlms(session)[0].catalog, said),
        view.render("recommendations", session, answers, why),
    ]
    for a in answers:
        ranked = list(dict.fromkeys(r.term_id for r in a.found or ()))
        root = tree(walk(a.grlm, session.history, 6, a.rules), ranked)
        parts.append(view.render("trie", root, [HOSTILE] * len(ranked), a.name))
    return parts


def hostile_session() -> Session:
    session = with_own(SHOP, Session(query=HOSTILE), HOSTILE, HOSTILE)
    for do, what in (("add", "i20"), ("add", "i9"), ("ban", "red"), ("more", "steel"), ("less", "café")):
        session = changed(SHOP, session, do, what)
    shown = SHOP.answers(session)[0].found
    assert shown
    return changed(SHOP, session, "why", shown[0].item_id)


def test_no_text_is_ever_markup() -> None:
    for part in page(hostile_session()):
        seen = Seen(part)
        assert seen.tags <= ALLOWED
        assert not {name for name in seen.attributes if name.startswith("on") or name in ("src", "href")}
        if "Tent" in part:
            assert HOSTILE in seen.text  # shown as it is


@given(st.text(max_size=40))
def test_any_text_survives(text: str) -> None:
    clean = text.replace("\r\n", "\n").replace("\r", "\n")
    (button,) = Seen(view.render("button", "add", text, text, text)).buttons
    assert (button["data-what"], button.get("aria-label", "")) == (text, text)
    assert Seen(view.render("button", "add", text, text)).text.replace("\r", "\n") == clean.replace("\r", "\n") or "\0" in text


def test_every_sign_has_words() -> None:
    for part in page(hostile_session()):
        for button in Seen(part).buttons:
            assert button["type"] == "button"
            assert button["data-do"]
    for do in ("earlier", "later", "remove"):
        assert f'data-do="{do}"' in view.render("history", [SHOP.catalog["i20"], SHOP.catalog["i9"]], {})
    buttons = Seen(view.render("history", [SHOP.catalog["i9"]], {})).buttons
    assert all(button["aria-label"] for button in buttons)
    assert [("disabled" in b) for b in buttons] == [True, True, False, False]


def test_both_checkpoints_stand_side_by_side() -> None:
    session = changed(SHOP, Session(), "add", "i20")
    html = view.render("recommendations", session, SHOP.answers(session), {})
    assert html.count("<section") == 2
    assert all(words in html for words in ("one</h3>", "two</h3>", "in both lists", "in the other"))


def test_the_numbers_of_a_recommendation_are_explained_beside_them() -> None:
    session = changed(SHOP, Session(), "add", "i20")
    plain = Seen(view.render("recommendations", session, SHOP.answers(session), {})).text
    assert "Best first: the percentage is the probability that the model writes this Term ID next." in plain
    assert "÷" not in plain
    steered = changed(SHOP, session, "more", SHOP.answers(session)[0].found[0].term_id[0])  # type: ignore[index]
    text = Seen(view.render("recommendations", steered, SHOP.answers(steered), {})).text
    assert "Best first, by both numbers together: the percentage is" in text
    assert "; × and ÷ say how many times more or less your steering" in text
    assert "Best first" not in view.render("recommendations", Session(), [], {})


def test_an_explanation_says_its_numbers() -> None:
    terms = (TermScore("a<b", math.log(0.5)), TermScore("c", math.log(0.25)))
    drops = (HistoryScore("i20", math.log(3)), HistoryScore("i9", -math.log(2)))
    text = Seen(view.render("explanation", Explanation("i13", ("a<b", "c"), math.log(0.2), terms, drops), SHOP.catalog)).text
    assert all(word in text for word in ("a<b", "50 %", "25 %", "20 % in all", "3 ×", "÷ 2", HOSTILE))
    only = view.render("explanation", Explanation("i13", ("c",), -1.0, terms[1:], (HistoryScore("i9", None),)), SHOP.catalog)
    assert "the only one" in only


@pytest.mark.parametrize(
    ("value", "said"), [(0.123, "12 %"), (1, "100 %"), (0.0312, "3.1 %"), (0.0042, "0.42 %"), (1e-6, "<0.01 %"), (0, "0 %")]
)
def test_percent(value: float, said: str) -> None:
    assert view.percent(value) == said


@pytest.mark.parametrize(("factor", "said"), [(8, "8 ×"), (1 / 8, "÷ 8"), (1500, "1,500 ×"), (1e300, "over a million ×"), (1, "1 ×")])
def test_times(factor: float, said: str) -> None:
    assert view.times(math.log(factor)) == said
