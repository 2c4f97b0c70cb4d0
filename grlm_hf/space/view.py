"""The page's parts as HTML, from values alone. All text of a catalog or a visitor is escaped: it is shown as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.modeling.explain import Explanation
from grlm_hf.modeling.results import Recommendation
from grlm_hf.space.session import FACTOR, Answer, Session
from grlm_hf.space.trie_view import Branch

_STEERED = {"more": ("▲", "more of"), "less": ("▼", "less of"), "ban": ("✕", "none with")}


def percent(probability: float) -> str:
    """``12 %``, ``3.4 %``, ``<0.01 %``."""
    value = 100 * probability
    if value >= 10 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2f} %" if value >= 0.01 else "<0.01 %"


def times(log_factor: float) -> str:
    """A factor in words: ``3.2 ×``; below 1, ``÷ 3.2``."""
    size = math.exp(min(abs(log_factor), 100))
    number = f"{size:.2g}" if size < 100 else f"{size:,.0f}" if size < 1e6 else "over a million"
    return f"{number} ×" if log_factor >= 0 else f"÷ {number}"


def button(do: str, what: str, text: str, label: str = "", kind: str = "", enabled: bool = True, expanded: bool | None = None) -> str:
    """A real button that `grlm_hf.space.app` hears of. `label` is what a screen reader says where `text` is a sign only."""
    said = f' aria-label="{escape(label)}" title="{escape(label)}"' if label else ""
    more = "" if expanded is None else f' aria-expanded="{str(expanded).lower()}"'
    off = "" if enabled else " disabled"
    stands_for = f'data-do="{do}" data-what="{escape(what)}"'
    return f'<button type="button" class="g-button {kind}" {stands_for}{said}{more}{off}>{escape(text)}</button>'


def chips(term_id: Identifier, steer: Mapping[str, str]) -> str:
    """The terms of an identifier, each of which opens into "more", "less" and "ban"."""
    return f'<div class="g-chips" role="group" aria-label="Term ID">{"".join(_chip(t, steer.get(t, "")) for t in term_id)}</div>'


def _chip(term: str, how: str) -> str:
    mark = f'<span aria-hidden="true">{_STEERED[how][0]}</span> ' if how else ""
    state = f" ({_STEERED[how][1]} it asked for)" if how else ""
    choices = [button("more", term, "▲ more", f"more of {term}"), button("less", term, "▼ less", f"less of {term}")]
    choices.append(button("ban", term, "✕ ban", f"ban {term}"))
    if how:
        choices.append(button("calm", term, "undo", f"no longer steer {term}"))
    summary = f'<summary title="Steer by this term" aria-label="{escape(term + state)}: steer">{mark}{escape(term)}</summary>'
    return f'<details class="g-chip {how}" name="chip">{summary}<span class="g-steer">{"".join(choices)}</span></details>'


def facts(item: Item) -> str:
    """Category and price in one line."""
    price = "" if item.price is None else f"{item.price:,.2f}"
    return escape(" · ".join(filter(None, (item.domain, item.categories[-1] if item.categories else "", price))))


# --- the history -------------------------------------------------------------------------------------------------------------------------


def search_results(found: Sequence[Item], total: int, session: Session) -> str:
    if not session.query.strip():
        return ""
    if not found:
        return f'<p class="g-note" role="status">No title has “{escape(session.query)}”. Try fewer or shorter words.</p>'
    rows = []
    for item in found:
        has = item.item_id in session.history
        add = button("add", item.item_id, "✓" if has else "+ Add", f"add {item.title}", "primary", enabled=not has)
        rows.append(f'<li><span class="g-title">{escape(item.title)}<small>{facts(item)}</small></span>{add}</li>')
    more = f"{total} titles match" + (f"; here are {len(found)}. Add a word to narrow it." if total > len(found) else ".")
    return f'<ul class="g-list">{"".join(rows)}</ul><p class="g-note" role="status">{more}</p>'


def history(items: Sequence[Item], examples: Mapping[str, Sequence[str]]) -> str:
    rows = []
    for at, item in enumerate(items):
        moves = (
            button("earlier", item.item_id, "↑", f"earlier: {item.title}", "icon", enabled=at > 0),
            button("later", item.item_id, "↓", f"later: {item.title}", "icon", enabled=at < len(items) - 1),
            button("remove", item.item_id, "✕", f"remove {item.title}", "icon"),
        )
        title = f'<span class="g-title">{escape(item.title)}<small>{facts(item)}</small></span>'
        rows.append(f'<li>{title}<span class="g-moves">{"".join(moves)}</span></li>')
    start = "Oldest first. Start anew from:" if items else "No items yet. Search above, or start from an example:"
    offered = "".join(button("example", label, label, f"example history: {label}") for label in examples)
    clear = button("clear", "", "Clear", "clear the history") if items else ""
    listed = f'<ol class="g-list">{"".join(rows)}</ol>' if items else ""
    return f'{listed}<p class="g-note">{start}</p><div class="g-row">{offered}{clear}</div>'


def steering(session: Session) -> str:
    if not session.steer:
        return '<p class="g-note">Open a term below a recommendation to ask for more or less of it, or to ban it.</p>'
    rows = []
    for term, how in session.steer.items():
        sign, words = _STEERED[how]
        undo = button("calm", term, "✕", f"no longer steer {term}", "icon")
        rows.append(f'<span class="g-active {how}"><span>{sign} {words} <b>{escape(term)}</b></span>{undo}</span>')
    how_much = f"More multiplies an item’s score by {FACTOR:g}, less divides it."
    return f'<div class="g-row">{"".join(rows)}{button("calm-all", "", "Undo all")}</div><p class="g-note">{how_much}</p>'


def own_items(session: Session, answers: Sequence[Answer], catalog: Catalog, said: Mapping[str, Explanation]) -> str:
    """The visitor's own items, their Term IDs, and how likely each is now.

    Args:
        catalog: with those items in it.
        said: item_id → explanation after the history, where there is one.
    """
    if not session.own:
        return ""
    found = answers[0].found if answers else None
    rows = []
    for item in session.own:
        place = next((n for n, r in enumerate(found or (), 1) if r.item_id == item.item_id), 0)
        state = [f"<b>No. {place}</b> of your recommendations" if place else "not among the first ten"] if found is not None else []
        if item.item_id in said:
            state.append(f"{percent(math.exp(said[item.item_id].log_prob))} likely after your history")
        acts = button("add", item.item_id, "+ History", f"add {item.title} to the history", enabled=item.item_id not in session.history)
        acts += button("forget", item.item_id, "Forget", f"forget {item.title}")
        note = f'<small role="status">{"; ".join(state) or "in your catalog"}</small>'
        body = f'<span class="g-title">{escape(item.title)}{note}</span>{chips(catalog.term_id(item.item_id), session.steer)}'
        rows.append(f'<li class="g-own">{body}<div class="g-row">{acts}</div></li>')
    only = button("only-own", "", "All items again" if session.filters.own else "Recommend only my items")
    return f'<ul class="g-list">{"".join(rows)}</ul><div class="g-row">{only}</div>'


# --- recommendations ---------------------------------------------------------------------------------------------------------------------


def recommendations(session: Session, answers: Sequence[Answer], why: Mapping[str, Explanation]) -> str:
    """One column a checkpoint.

    Args:
        why: name of a checkpoint → explanation of `session.why` after the history.
    """
    if not answers:
        return '<p class="g-empty">Your recommendations appear here as soon as the history has an item.</p>'
    columns = []
    for answer in answers:
        others = {r.item_id: n for a in answers if a is not answer and a.found for n, r in enumerate(a.found, 1)}
        columns.append(_column(session, answer, why.get(answer.name), others, len(answers) > 1))
    common = ""
    if len(answers) == 2 and all(a.found for a in answers):
        ids = [{r.item_id for r in a.found or ()} for a in answers]
        common = f'<p class="g-note">{len(ids[0] & ids[1])} of {max(map(len, ids))} recommendations are in both lists.</p>'
    return f'{common}<div class="g-columns">{"".join(columns)}</div>'


def _column(session: Session, answer: Answer, why: Explanation | None, others: Mapping[str, int], several: bool) -> str:
    name = f'<h3 class="g-name">{escape(answer.name)}</h3>' if several else ""
    if answer.error:
        return f'<section>{name}<p class="g-error">{escape(answer.error)}</p></section>'
    if not answer.found:
        return f'<section>{name}<p class="g-empty">Nothing is left to recommend: loosen a filter, or undo a ban.</p></section>'
    top = max(r.score for r in answer.found)
    cards = []
    for n, r in enumerate(answer.found, 1):
        opened = why is not None and r.item_id == why.item_id
        explained = explanation(why, answer.grlm.catalog) if why is not None and opened else ""
        both = f'<span class="g-both">no. {others[r.item_id]} in the other</span>' if r.item_id in others else ""
        cards.append(_card(n, r, answer.grlm.catalog[r.item_id], session, math.exp(r.score - top), both, opened, explained))
    return f'<section aria-label="{escape(answer.name)}">{name}<ol class="g-cards">{"".join(cards)}</ol></section>'


def _card(
    n: int, r: Recommendation, item: Item, session: Session, share: float, both: str, opened: bool, explained: str
) -> str:  # fmt: skip
    steered = ""
    if abs(r.score - r.log_prob) > 0.01:
        steered = f' <span title="What steering, and the checkpoint’s own prior, make of it">{times(r.score - r.log_prob)}</span>'
    acts = button("why", r.item_id, "Why?", f"why {r.title}", expanded=opened)
    acts += button("add", r.item_id, "+ History", f"add {r.title} to the history", enabled=r.item_id not in session.history)
    mine = '<span class="g-both">yours</span>' if any(o.item_id == r.item_id for o in session.own) else ""
    return (
        f'<li class="g-card"><div class="g-head"><span class="g-n" aria-hidden="true">{n}</span>'
        f'<span class="g-title">{escape(r.title)}<small>{facts(item)} {mine}{both}</small></span></div>'
        f"{chips(r.term_id, session.steer)}"
        f'<div class="g-score"><span class="g-bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'
        f'<span class="g-p" title="Probability of this Term ID after the history">{percent(math.exp(r.log_prob))}{steered}</span>'
        f'<span class="g-row">{acts}</span></div>{explained}</li>'
    )


def explanation(said: Explanation, catalog: Catalog) -> str:
    """What each term adds, and what each item of the history does."""
    terms = "".join(
        f'<tr><th scope="row">{escape(t.term)}</th><td><span class="g-bar"><i style="width:{100 * math.exp(min(t.log_prob, 0)):.1f}%"></i>'
        f'</span></td><td>{percent(math.exp(t.log_prob))}</td><td class="g-dim">log p {t.log_prob:.2f}</td></tr>'
        for t in said.terms
    )
    most = max((abs(h.drop) for h in said.history if h.drop is not None), default=0) or 1.0
    rows = []
    for h in sorted(said.history, key=lambda h: -(h.drop or 0)):
        drop = h.drop
        width, words = (0.0, "the only one") if drop is None else (100 * abs(drop) / most, times(drop))
        against = " against" if drop is not None and drop < 0 else ""
        rows.append(
            f'<tr><th scope="row">{escape(catalog[h.item_id].title)}</th>'
            f'<td><span class="g-bar{against}"><i style="width:{width:.1f}%"></i></span></td><td>{words}</td></tr>'
        )
    first = f"Its terms, each after those before it: {percent(math.exp(said.log_prob))} in all"
    second = "How much likelier each item of your history makes it"
    return (
        f'<div class="g-why"><table><caption>{first}</caption>{terms}</table>'
        f'<table class="g-wide"><caption>{second}</caption>{"".join(rows)}</table></div>'
    )


# --- the trie ----------------------------------------------------------------------------------------------------------------------------


def trie(root: Branch, titles: Sequence[str], name: str = "") -> str:
    """The tree of terms: left to right where there is room, indented on a phone.

    Args:
        titles: of the recommended Term IDs, best first.
    """
    heading = f'<h3 class="g-name">{escape(name)}</h3>' if name else ""
    legend = "".join(
        f'<span class="g-fate {fate.replace(" ", "-")}">{text}</span>'
        for fate, text in (
            ("kept", "kept: leads to a recommendation"),
            ("found", "reached, but others rank higher"),
            ("given up", "given up: better beams took its place"),
            ("ruled out", "ruled out by filters or bans"),
        )
    )
    body = "".join(_branch(child, titles, 1) for child in root.children) + _others(root)
    return f'{heading}<div class="g-legend">{legend}</div><ul class="g-trie">{body}</ul>'


def _branch(branch: Branch, titles: Sequence[str], depth: int) -> str:
    fate = branch.fate.replace(" ", "-")
    share = 100 * min(1.0, branch.probability)
    end = f'<span class="g-leaf"><b>{branch.place}</b> {escape(titles[branch.place - 1])}</span>' if branch.place else ""
    words = " <span aria-hidden='true'>›</span> ".join(map(escape, branch.label))
    node = (
        f'<div class="g-node {fate}" style="--p:{share:.2f}%;--d:{depth}"><span>{words}</span> <em>{percent(branch.probability)}</em>'
        f'<span class="g-hidden">, {branch.fate}</span>{end}</div>'
    )
    below = "".join(_branch(child, titles, depth + 1) for child in branch.children) + _others(branch)
    return f"<li>{node}{f'<ul>{below}</ul>' if below else ''}</li>"


def _others(branch: Branch) -> str:
    if not branch.others:
        return ""
    return f'<li><div class="g-node rest"><span>+ {branch.others} more</span> <em>{percent(branch.others_probability)}</em></div></li>'
