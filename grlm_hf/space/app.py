"""The page: its layout and events. `grlm_hf.space.session` has the actions, `grlm_hf.space.view` the HTML."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.space import view
from grlm_hf.space.session import BEAMS, LIMITS, Answer, Session, Shop, changed, with_own
from grlm_hf.space.trie_view import tree, walk

if TYPE_CHECKING:
    from gradio import Blocks

MAX_VISITORS, MAX_WAITING = 1000, 64
"""Maximum numbers of visitors with stored choices, and of waiting requests."""


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The Space needs gradio: pip install "grlm-hf[space]"') from error
    return gradio


def _asset(name: str) -> str:
    return (files("grlm_hf") / "space" / name).read_text(encoding="utf-8")


def load(checkpoint: str, compare: str = "") -> Shop:
    """The checkpoints of a Space, from folders or the Hub. Raises ``ValueError`` if one is no checkpoint, or both are the same."""
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    if compare == checkpoint:
        raise ValueError(f"{checkpoint} would be compared with itself; name another checkpoint with --compare.")
    sources = [source for source in (checkpoint, compare) if source]
    names = ["/".join(Path(source).resolve().parts[-2:]) if Path(source).is_dir() else source for source in sources]
    if len(set(names)) < len(names):
        names = sources
    found = {name: GRLMForRecommendation.from_pretrained(source) for name, source in zip(names, sources, strict=True)}
    for grlm in found.values():
        grlm.language_model("The Space, which shows the search,")
    return Shop(found)


def launch(checkpoint: str, compare: str = "", *, host: str | None = None, port: int | None = None, wait: bool = True) -> str:
    """Opens the page and returns its address; with `wait`, serves it until interrupted.

    Args:
        checkpoint: folder or Hub id.
        compare: another one, shown beside it.
        host: address to listen on, by default that of gradio (this machine only, unless GRADIO_SERVER_NAME says otherwise).
        port: by default the first free one from 7860.

    Raises:
        ImportError: gradio is not installed.
        ValueError: one is no checkpoint; the port is taken.
    """
    _gradio()
    shop = load(checkpoint, compare)
    blocks = build(shop)
    threading.Thread(target=shop.warm, daemon=True).start()
    try:
        # given as `css`, gradio would rewrite the style and lose its media queries
        _, url, _ = blocks.launch(
            server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            head=f"<style>{_asset('space.css')}</style>", theme=_theme(), footer_links=[], state_session_capacity=MAX_VISITORS,
            max_file_size="1kb",
        )  # fmt: skip
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise ValueError(f"Port {port or '7860 and those after it'} is taken on this machine; choose another (--port).") from error
    if wait:
        print(f"The Space is open at {url} (Ctrl-C closes it).", flush=True)
        blocks.block_thread()
    return url


def _theme() -> Any:
    gr = _gradio()
    plain = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no fonts from elsewhere
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=plain, font_mono=["ui-monospace", "monospace"])
    return theme.set(  # enough contrast for small text, WCAG AA
        color_accent="*primary_600", body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_text_color="white", button_primary_text_color_dark="white",
        body_background_fill="*neutral_50", background_fill_primary="white", background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800", input_border_color="*neutral_300", input_border_color_dark="*neutral_600",
        slider_color="*primary_600", input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
    )  # fmt: skip


class _Page:
    """The events of the page. Each takes a session and returns the parts of the page, in the order of `build`'s `parts`."""

    def __init__(self, shop: Shop):
        self.shop, self.examples = shop, shop.examples()

    def show(self, session: Session) -> tuple[Any, ...]:
        answers = self.shop.answers(session)
        whole = self.shop.grlms(session)[0].catalog
        explained = [a for a in answers if any(r.item_id == session.why for r in a.found or ())]
        why = {a.name: a.grlm.explain(a.history, session.why) for a in explained}
        own = {}
        if answers and not answers[0].error:
            own = {i.item_id: answers[0].grlm.explain(answers[0].history, i.item_id) for i in session.own}
        first = next((a.found[0].title for a in answers if a.found), "")
        return (
            session,
            view.render("message", session, first),
            view.render("search_results", *self.shop.search(session), session),
            view.render("history", [self.shop.item(session, i) for i in session.history], self.examples),
            view.render("steering", session),
            view.render("own_items", session, answers, whole, own),
            view.render("recommendations", session, answers, why),
            "".join(_trie(a, session, len(answers) > 1) for a in answers) or view.render("no_paths"),
        )

    def act(self, session: Session, action: Callable[[Session], Session]) -> tuple[Any, ...]:
        """The page after an action. An error is shown on the page and changes nothing else."""
        try:
            return self.show(action(session))
        except (ValueError, ImportError) as error:
            return self.show(replace(session, message=str(error)))
        except Exception:
            logging.getLogger(__name__).exception("an action failed")
            failed = "Something went wrong here, and nothing was changed. Try again, or reload the page."
            return self.show(replace(session, message=failed))

    def press(self, session: Session, sent: Any) -> tuple[Any, ...]:
        sent = sent if isinstance(sent, dict) else {}
        return self.act(session, lambda s: changed(self.shop, s, str(sent.get("do", "")), str(sent.get("what", ""))))

    def search(self, session: Session, query: str) -> tuple[Session, str]:
        session = replace(session, query=str(query or "")[: LIMITS["query"]])
        return session, view.render("search_results", *self.shop.search(session), session)

    def filter(self, session: Session, category: str, domain: str, least: Any, most: Any, seen: bool, beams: int) -> tuple[Any, ...]:
        def filtered(s: Session) -> Session:
            low, high = _price(least), _price(most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"The lowest price, {low:g}, is above the highest, {high:g}.")
            chosen = replace(s.filters, category=category or "", domain=domain or "", least=low, most=high, seen=bool(seen))
            return replace(s, filters=chosen, beams=int(min(max(beams, BEAMS[0]), BEAMS[1])), message="", why="")

        return self.act(session, filtered)

    def add(self, session: Session, title: str, description: str) -> tuple[Any, ...]:
        def extended(s: Session) -> Session:
            s = with_own(self.shop, s, str(title or ""), str(description or ""))
            self.shop.grlms(s)  # raises before the item is kept
            return s

        parts = self.act(session, extended)
        failed = bool(parts[0].message)
        return *parts, title if failed else "", description if failed else ""


def build(shop: Shop) -> Blocks:
    """The page for these checkpoints."""
    gr = _gradio()
    page, catalog, listen = _Page(shop), shop.catalog, _asset("space.js")
    html = partial(gr.HTML, apply_default_css=False)
    with gr.Blocks(title="Term-ID recommender", analytics_enabled=False) as blocks:
        state = gr.State(Session(), time_to_live=3600)
        html(view.render("header", shop))
        message = html("", elem_id="told")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320, elem_classes="g-panel"):
                html("<h2>1 · Your history</h2>")
                hint = " ".join(catalog.items[0].title.split()[:2])
                query = gr.Textbox(
                    label="Search items by title", placeholder=hint, max_length=LIMITS["query"], elem_id="query", autofocus=True
                )
                results = html("", js_on_load=listen, elem_id="results")
                past = html(view.render("history", [], page.examples), js_on_load=listen, elem_id="history")
                html("<h2>2 · Steer</h2>")
                steer = html(view.render("steering", Session()), js_on_load=listen, elem_id="steering")
                rules = _filters(gr, shop)
                with gr.Accordion("Add an item of your own", open=False):
                    html('<p class="g-note">It gets a Term ID from its text and can be recommended at once. Only you see it.</p>')
                    title = gr.Textbox(label="Title", max_length=LIMITS["title"], elem_id="own-title")
                    text = gr.Textbox(label="Description (optional)", lines=2, max_length=LIMITS["description"], elem_id="own-text")
                    add = gr.Button("Add to my catalog", variant="primary", elem_id="own-add")
                    own = html("", js_on_load=listen, elem_id="own")
            with gr.Column(scale=5 if len(shop.checkpoints) > 1 else 4, min_width=320):
                html("<h2>3 · What comes next</h2>")
                cards = html(view.render("recommendations", Session(), [], {}), js_on_load=listen, elem_id="recommendations")
        html(view.render("beams"))
        beams = gr.Slider(*BEAMS, value=20, step=1, label="Beams: beginnings kept at a time", elem_id="beams")
        paths = html("", elem_id="trie")

        def press(session: Session, event: Any) -> tuple[Any, ...]:
            return page.press(session, event._data)

        press.__annotations__["event"] = gr.EventData  # from which gradio knows what to pass
        parts = [state, message, results, past, steer, own, cards, paths]
        together: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        hidden = together | {"show_progress": "hidden"}
        for part in (results, past, steer, own, cards):
            part.click(press, state, parts, trigger_mode="multiple", **hidden)
        query.input(page.search, [state, query], [state, results], trigger_mode="always_last", **hidden)
        events = [*(rule.input for rule in rules), beams.release, beams.input]
        gr.on(events, page.filter, [state, *rules, beams], parts, trigger_mode="always_last", **hidden)
        gr.on([add.click, title.submit], page.add, [state, title, text], [*parts, title, text], show_progress_on=[add], **together)
        blocks.load(page.show, state, parts, **hidden)
    return blocks.queue(max_size=MAX_WAITING)


def _filters(gr: Any, shop: Shop) -> list[Any]:
    """The inputs of `_Page.filter`, in its order, without the beams."""
    categories, domains = shop.categories(), shop.catalog.domains
    with gr.Accordion("Filters", open=False):
        category = gr.Dropdown([("All", ""), *((c, c) for c in categories)], value="", label="Category", visible=bool(categories))
        domain = gr.Dropdown([("All", ""), *((d, d) for d in domains)], value="", label="Domain", visible=len(domains) > 1)
        with gr.Row(visible=shop.priced):
            least = gr.Textbox(label="Price from", placeholder="any", max_length=20, min_width=120, elem_id="least")
            most = gr.Textbox(label="Price to", placeholder="any", max_length=20, min_width=120, elem_id="most")
        seen = gr.Checkbox(not shop.excludes_seen, label="Also items of the history")
    return [category, domain, least, most, seen]


def _price(value: Any) -> float | None:
    text = str(value or "").strip().replace(",", ".")
    if not text:
        return None
    with suppress(ValueError):
        if 0 <= (price := float(text)) < math.inf:
            return price
    raise ValueError(f"{text!r} is no price; write a number such as 12.50, or leave it empty.")


def _trie(answer: Answer, session: Session, several: bool) -> str:
    if not answer.found:
        return ""
    width = min(session.beams, len(answer.grlm.catalog.identifiers))
    reached = walk(answer.grlm, answer.history, width, answer.rules)
    titles = {r.term_id: r.title for r in reversed(answer.found)}
    ranked = list(dict.fromkeys(r.term_id for r in answer.found))
    return view.render("trie", tree(reached, ranked), [titles[t] for t in ranked], answer.name if several else "")
