"""The page: its layout and events. `grlm_hf.space.session` says what an action does, `grlm_hf.space.view` how things look."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.space import view
from grlm_hf.space.session import BEAMS, LIMITS, Answer, Session, Shop, changed, with_own
from grlm_hf.space.trie_view import tree, walk

if TYPE_CHECKING:
    from gradio import Blocks

MAX_VISITORS, MAX_WAITING = 1000, 64
"""Visitors whose choices are remembered, and requests that may wait at once."""

# Buttons in our HTML report what they stand for; after an answer the keyboard's focus goes back to the button, or its neighbour.
_LISTEN = """
let last = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button || button.disabled) return;
  last = {do: button.dataset.do, what: button.dataset.what};
  trigger('click', last);
});
watch('value', () => {
  if (!last) return;
  const all = [...element.querySelectorAll('button[data-do]')];
  const same = all.find((b) => b.dataset.do === last.do && b.dataset.what === last.what && b.offsetParent);
  const target = [same, ...all.filter((b) => b.dataset.what === last.what), ...all].find((b) => b && !b.disabled && b.offsetParent);
  last = null;
  if (target) target.focus({preventScroll: true});
});
"""


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The Space needs gradio: pip install "grlm-hf[space]"') from error
    return gradio


def load(checkpoint: str, compare: str = "") -> Shop:
    """The checkpoints of a Space, from folders or the Hub. Raises ``ValueError`` where one is none, or both are the same."""
    from grlm_hf.modeling.recommender import GRLMForRecommendation

    if compare and compare == checkpoint:
        raise ValueError(f"{checkpoint} would be compared with itself; name another checkpoint with --compare.")
    names = ["/".join(Path(c).resolve().parts[-2:]) if Path(c).is_dir() else c for c in (checkpoint, compare) if c]
    if len(set(names)) < len(names):
        names = [checkpoint, compare]
    loaded = {name: GRLMForRecommendation.from_pretrained(c) for name, c in zip(names, filter(None, (checkpoint, compare)), strict=True)}
    return Shop(loaded)


def launch(checkpoint: str, compare: str = "", *, host: str | None = None, port: int | None = None, wait: bool = True) -> str:
    """Opens the page and serves it until interrupted; returns its address if not told to `wait`.

    Args:
        checkpoint: folder or Hub id.
        compare: another one, shown beside it.
        host: address to listen on, by default that of gradio (this machine only, unless GRADIO_SERVER_NAME says otherwise).
        port: by default the first free one from 7860.

    Raises:
        ImportError: gradio is not installed.
        ValueError: a checkpoint that is none; the port is taken.
    """
    _gradio()
    shop = load(checkpoint, compare)
    blocks = build(shop)
    threading.Thread(target=shop.warm, daemon=True).start()
    try:
        _, url, _ = blocks.launch(
            server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, ssr_mode=False, head=_head(), theme=_theme(),
            footer_links=[], state_session_capacity=MAX_VISITORS, max_file_size="1kb",
        )  # fmt: skip
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise ValueError(f"Port {port or '7860 and those after it'} is taken on this machine; choose another (--port).") from error
    if wait:
        print(f"The Space is open at {url} (Ctrl-C closes it).", flush=True)
        blocks.block_thread()
    return url


def _head() -> str:
    style = (files("grlm_hf") / "space" / "space.css").read_text(encoding="utf-8")
    return f"<style>{style}</style>"  # given as `css`, gradio would rewrite it and lose the media queries


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


def build(shop: Shop) -> Blocks:
    """The page for these checkpoints."""
    gr = _gradio()
    catalog, examples = shop.catalog, shop.examples()
    names = " and ".join(map(escape, shop.checkpoints))

    def show(session: Session) -> tuple[Any, ...]:
        """All parts of the page for a session, in the order of `parts`."""
        answers = shop.answers(session)
        whole = shop.grlms(session)[0].catalog
        why = {a.name: a.grlm.explain(_known(a, session), session.why) for a in answers if _has(a, session.why)}
        said = {}
        if answers and not answers[0].error:
            said = {i.item_id: answers[0].grlm.explain(_known(answers[0], session), i.item_id) for i in session.own}
        items = [shop.item(session, i) for i in session.history]
        first = next((a.found[0].title for a in answers if a.found), "")
        told = f'<p class="g-error" role="alert">{escape(session.message)}</p>' if session.message else ""
        told += f'<p class="g-hidden" role="status">{f"First recommendation: {escape(first)}" if first else ""}</p>'
        return (
            session,
            told,
            view.search_results(*shop.search(session), session),
            view.history(items, examples),
            view.steering(session),
            view.own_items(session, answers, whole, said),
            view.recommendations(session, answers, why),
            "".join(_trie(a, session, len(answers) > 1) for a in answers)
            or '<p class="g-empty">The paths of the search appear here as soon as there are recommendations.</p>',
        )

    def acted(session: Session, act: Callable[[Session], Session]) -> tuple[Any, ...]:
        """After an action; what fails is said on the page, and changes nothing else."""
        try:
            return show(act(session))
        except (ValueError, ImportError) as error:
            return show(replace(session, message=str(error)))
        except Exception:
            logging.getLogger(__name__).exception("an action failed")
            return show(replace(session, message="Something went wrong here, and nothing was changed. Try again, or reload the page."))

    def pressed(session: Session, event: Any) -> tuple[Any, ...]:
        sent = event._data if isinstance(event._data, dict) else {}
        return acted(session, lambda s: changed(shop, s, str(sent.get("do", "")), str(sent.get("what", ""))))

    pressed.__annotations__["event"] = gr.EventData  # by which gradio knows what to pass

    def searched(session: Session, query: str) -> tuple[Session, str]:
        session = replace(session, query=str(query or "")[: LIMITS["query"]])
        return session, view.search_results(*shop.search(session), session)

    def filtered(session: Session, category: str, domain: str, least: Any, most: Any, seen: bool, beams: int) -> tuple[Any, ...]:
        def act(s: Session) -> Session:
            limits = [_price(least), _price(most)]
            if None not in limits and limits[0] > limits[1]:  # type: ignore[operator]
                raise ValueError(f"The lowest price, {limits[0]:g}, is above the highest, {limits[1]:g}.")
            chosen = replace(s.filters, category=category or "", domain=domain or "", least=limits[0], most=limits[1], seen=bool(seen))
            return replace(s, filters=chosen, beams=int(min(max(beams, BEAMS[0]), BEAMS[1])), message="", why="")

        return acted(session, act)

    def added(session: Session, title: str, description: str) -> tuple[Any, ...]:
        def act(s: Session) -> Session:
            s = with_own(shop, s, str(title or ""), str(description or ""))
            shop.grlms(s)  # what fails, fails before the item is kept
            return s

        parts = acted(session, act)
        failed = bool(parts[0].message)
        return *parts, title if failed else "", description if failed else ""

    with gr.Blocks(title="Term-ID recommender", analytics_enabled=False) as blocks:
        html = partial(gr.HTML, apply_default_css=False)
        state = gr.State(Session(), time_to_live=3600)
        html(
            '<header class="g-header"><h1>Recommendations in words</h1><p>A language model writes the <b>Term ID</b> of the next item, '
            "word by word, held to the catalog by a tree of terms. Build a history, see what it writes and why, and steer it by its own "
            f'words.</p><p class="g-note">{names} · {len(catalog):,} items</p></header>'
        )
        told = html("", elem_id="told")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320, elem_classes="g-panel"):
                html("<h2>1 · Your history</h2>")
                query = gr.Textbox(
                    label="Search items by title", placeholder=_hint(catalog), max_length=LIMITS["query"], elem_id="query", autofocus=True
                )
                results = html("", js_on_load=_LISTEN, elem_id="results")
                past = html(view.history([], examples), js_on_load=_LISTEN, elem_id="history")
                html("<h2>2 · Steer</h2>")
                steer = html(view.steering(Session()), js_on_load=_LISTEN, elem_id="steering")
                with gr.Accordion("Filters", open=False):
                    category = gr.Dropdown(
                        [("All", ""), *((c, c) for c in shop.categories())], value="", label="Category", visible=bool(shop.categories())
                    )
                    domain = gr.Dropdown(
                        [("All", ""), *((d, d) for d in catalog.domains)], value="", label="Domain", visible=len(catalog.domains) > 1
                    )
                    with gr.Row(visible=shop.priced):
                        least = gr.Textbox(label="Price from", placeholder="any", max_length=20, min_width=120, elem_id="least")
                        most = gr.Textbox(label="Price to", placeholder="any", max_length=20, min_width=120, elem_id="most")
                    seen = gr.Checkbox(False, label="Also items of the history")
                with gr.Accordion("Add an item of your own", open=False):
                    html('<p class="g-note">It gets a Term ID from its text and can be recommended at once. Only you see it.</p>')
                    title = gr.Textbox(label="Title", max_length=LIMITS["title"], elem_id="own-title")
                    text = gr.Textbox(label="Description (optional)", lines=2, max_length=LIMITS["description"], elem_id="own-text")
                    add = gr.Button("Add to my catalog", variant="primary", elem_id="own-add")
                    own = html("", js_on_load=_LISTEN, elem_id="own")
            with gr.Column(scale=5 if len(shop.checkpoints) > 1 else 4, min_width=320):
                html("<h2>3 · What comes next</h2>")
                cards = html(view.recommendations(Session(), [], {}), js_on_load=_LISTEN, elem_id="recommendations")
        html(
            '<h2>4 · How the beams chose</h2><p class="g-note">The search walks the catalog’s tree of terms. At each branch it keeps the '
            "likeliest beginnings; percentages are the probability of everything that begins so.</p>"
        )
        beams = gr.Slider(*BEAMS, value=20, step=1, label="Beams: beginnings kept at a time", elem_id="beams")
        paths = html("", elem_id="trie")

        parts = [state, told, results, past, steer, own, cards, paths]
        together: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        for part in (results, past, steer, own, cards):
            part.click(pressed, state, parts, trigger_mode="multiple", show_progress="hidden", **together)
        query.input(searched, [state, query], [state, results], trigger_mode="always_last", show_progress="hidden", **together)
        rules = [category, domain, least, most, seen, beams]
        gr.on(
            [category.input, domain.input, least.input, most.input, seen.input, beams.release, beams.input],
            filtered, [state, *rules], parts, trigger_mode="always_last", show_progress="hidden", **together,
        )  # fmt: skip
        gr.on([add.click, title.submit], added, [state, title, text], [*parts, title, text], show_progress_on=[add], **together)
        blocks.load(show, state, parts, show_progress="hidden", **together)
    return blocks.queue(max_size=MAX_WAITING)


def _hint(catalog: Any) -> str:
    return " ".join(catalog.items[0].title.split()[:2])


def _price(value: Any) -> float | None:
    text = str(value or "").strip().replace(",", ".")
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ValueError(f"{text!r} is no price; write a number such as 12.50, or leave it empty.")
    return price


def _known(answer: Answer, session: Session) -> Sequence[str]:
    return [i for i in session.history if i in answer.grlm.catalog]


def _has(answer: Answer, item_id: str) -> bool:
    return bool(item_id) and not answer.error and any(r.item_id == item_id for r in answer.found or ())


def _trie(answer: Answer, session: Session, several: bool) -> str:
    if not answer.found:
        return ""
    width = min(session.beams, len(answer.grlm.catalog.identifiers))
    reached = walk(answer.grlm, _known(answer, session), width, answer.rules)
    titles = {r.term_id: r.title for r in reversed(answer.found)}
    ranked = list(dict.fromkeys(r.term_id for r in answer.found))
    return view.trie(tree(reached, ranked), [titles[t] for t in ranked], answer.name if several else "")
