"""What a visitor does, and that it touches nobody else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_toys import HOSTILE, space_grlm, space_shop

from grlm_hf.data.interactions import History
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.popularity import Popularity
from grlm_hf.space.session import CATALOGS_KEPT, FACTOR, LIMITS, Filters, Session, Shop, changed, rules, with_own

SHOP = space_shop(compare=True)
IDS = [item.item_id for item in SHOP.catalog]


def after(shop: Shop, *actions: tuple[str, str]) -> Session:
    session = Session()
    for do, what in actions:
        session = changed(shop, session, do, what)
    return session


def ids(shop: Shop, session: Session) -> list[str]:
    (answer, *_) = shop.answers(session)
    assert not answer.error
    return [r.item_id for r in answer.found or ()]


def test_history_is_built_and_ordered() -> None:
    session = after(SHOP, ("add", "i20"), ("add", "i9"), ("add", "i15"), ("earlier", "i15"), ("later", "i20"), ("remove", "i9"))
    assert session.history == ("i15", "i20")
    assert changed(SHOP, session, "earlier", "i15").history == ("i15", "i20")  # already the first
    assert changed(SHOP, session, "later", "i20").history == ("i15", "i20")
    assert changed(SHOP, session, "clear").history == ()
    for label, history in SHOP.examples().items():
        assert changed(SHOP, session, "example", label).history == history
        assert ids(SHOP, changed(SHOP, session, "example", label))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(("add", "remove", "earlier", "later")), st.sampled_from(IDS)), max_size=30))
def test_a_history_never_repeats(actions: list[tuple[str, str]]) -> None:
    session, expected = Session(), set()
    for do, what in actions:
        try:
            session = changed(SHOP, session, do, what)
        except ValueError:
            assert (do == "add") == (what in expected)
        else:
            expected = expected | {what} if do == "add" else expected - {what} if do == "remove" else expected
        assert set(session.history) == expected
        assert len(session.history) == len(expected)


@pytest.mark.parametrize(
    ("do", "what"),
    [
        ("add", "nothing"),
        ("add", "../../etc"),
        ("remove", "i20"),
        ("why", ""),
        ("ban", "!!"),
        ("example", "none"),
        ("format", ""),
        ("", ""),
    ],
)
def test_what_a_browser_may_send_is_refused_in_words(do: str, what: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        changed(SHOP, Session(), do, what)


def test_limits_hold() -> None:
    session = Session(steer={f"t{n}": "more" for n in range(LIMITS["steer"])})
    with pytest.raises(ValueError, match="let go"):
        changed(SHOP, session, "more", "another")
    assert changed(SHOP, session, "ban", "t0").steer["t0"] == "ban"
    with pytest.raises(ValueError, match="remove one"):
        changed(SHOP, Session(history=tuple(f"x{n}" for n in range(LIMITS["history"]))), "add", "i20")


def test_search_finds_titles_by_all_their_words() -> None:
    def found(query: str) -> list[str]:
        return [item.item_id for item in SHOP.search(Session(query=query))[0]]

    assert found("") == found("   ") == []
    assert found("TITLE tent 2") == ["i18"]
    assert found("<script>") == ["i20"]
    assert found("i13") == ["i13"]  # an id
    assert found("no such thing") == []
    for item in SHOP.catalog:
        assert item.item_id in found(item.title)
    shown, total = SHOP.search(Session(query="t"), most=3)
    assert (len(shown), total) == (3, len(SHOP.catalog))


def test_bans_filters_and_steering_do_what_they_say() -> None:
    base = after(SHOP, ("add", "i20"), ("add", "i15"))
    catalog = SHOP.catalog
    whole = ids(SHOP, base)
    assert not set(whole) & set(base.history)
    term = catalog.term_id(whole[0])[0]
    assert not any(term in catalog.term_id(i) for i in ids(SHOP, changed(SHOP, base, "ban", term)))
    kept = ids(SHOP, replace(base, filters=Filters(least=50, most=90)))
    assert kept
    assert all(50 <= catalog[i].price <= 90 for i in kept)  # type: ignore[operator]
    assert all(catalog[i].domain == "Home" for i in ids(SHOP, replace(base, filters=Filters(domain="Home"))))
    assert all("kitchen" in catalog[i].categories for i in ids(SHOP, replace(base, filters=Filters(category="kitchen"))))
    assert ids(SHOP, replace(base, filters=Filters(least=1e6))) == []
    assert set(base.history) & set(ids(SHOP, replace(base, filters=Filters(seen=True))))
    grlm = SHOP.grlms(base)[0]
    for how, factor in (("more", FACTOR), ("less", 1 / FACTOR)):
        prior = rules(changed(SHOP, base, how, "steel"), grlm, base.history).prior
        assert prior.tolist() == [factor if "steel" in tid else 1 for tid in catalog.term_ids]
    more = {r.item_id: r.score - r.log_prob for r in SHOP.answers(changed(SHOP, base, "more", "steel"))[0].found or ()}
    assert more == {i: pytest.approx(math.log(FACTOR) if "steel" in catalog.term_id(i) else 0) for i in more}
    assert ids(SHOP, changed(SHOP, changed(SHOP, base, "more", "steel"), "calm", "steel")) == whole
    assert ids(SHOP, changed(SHOP, changed(SHOP, base, "ban", "steel"), "calm-all")) == whole


def test_seen_items_and_the_prior_are_as_the_checkpoint_was_evaluated() -> None:
    base = after(SHOP, ("add", "i20"), ("add", "i15"))
    kept = Shop({"one": space_grlm()})
    assert (SHOP.excludes_seen, kept.excludes_seen) == (True, False)
    assert set(base.history) & set(ids(kept, base))
    assert not set(base.history) & set(ids(kept, replace(base, filters=Filters(seen=False))))
    grlm = space_grlm()
    grlm.prior = Fused({"popularity": (Popularity.fit(IDS, [History("u", ("i9", "i9"))]), 1.0)})
    assert rules(base, grlm, base.history).prior is None
    grlm.config = replace(grlm.config, own_prior=True)
    assert rules(base, grlm, base.history).prior is not None


def test_own_items_are_of_one_visitor_only() -> None:
    shop = space_shop(compare=True)
    before = [grlm.catalog for grlm in shop.checkpoints.values()]
    base = after(shop, ("add", "i20"), ("add", "i15"))
    whole = ids(shop, base)
    one = with_own(shop, base, "A small gas lantern", "gas lamp for the tent, light")
    two = with_own(shop, base, "A steel spoon", "kitchen steel")
    assert [i.item_id for i in one.own] == [i.item_id for i in two.own] == ["yours-1"]
    for session, title in ((one, "A small gas lantern"), (two, "A steel spoon")):
        for grlm in shop.grlms(session):
            assert grlm.catalog["yours-1"].title == title
            assert len(grlm.catalog) == 13
        only = replace(session, filters=Filters(own=True))
        assert ids(shop, only) == ["yours-1"]
        assert shop.answers(only)[0].found[0].title == title  # type: ignore[index]
        assert "yours-1" in changed(shop, session, "add", "yours-1").history
    assert [grlm.catalog for grlm in shop.checkpoints.values()] == before
    assert ids(shop, base) == whole
    gone = changed(shop, changed(shop, one, "add", "yours-1"), "forget", "yours-1")
    assert (gone.own, gone.history) == ((), base.history)


def test_own_items_come_back_when_memory_dropped_them() -> None:
    shop = space_shop()
    mine = with_own(shop, with_own(shop, Session(history=("i20",)), "Gas lantern", ""), "Steel mug", "green")
    first = [shop.grlms(mine)[0].catalog.term_id(i.item_id) for i in mine.own]
    for n in range(CATALOGS_KEPT + 2):
        shop.grlms(with_own(shop, Session(), f"Other thing {n}", "red"))
    assert shop._extended.cache_info().currsize == CATALOGS_KEPT  # bounded
    assert [shop.grlms(mine)[0].catalog.term_id(i.item_id) for i in mine.own] == first


@pytest.mark.parametrize("title", ["", "  ", "!!!", "x" * 1000])
def test_an_own_item_needs_a_fit_title(title: str) -> None:
    with pytest.raises(ValueError, match=r"title"):
        with_own(SHOP, Session(), title, "")


def test_own_items_are_few_and_their_ids_free() -> None:
    session = Session()
    for n in range(LIMITS["own"]):
        session = with_own(SHOP, session, f"Thing {n}", "")
    assert len({item.item_id for item in session.own}) == LIMITS["own"]
    with pytest.raises(ValueError, match="forget one"):
        with_own(SHOP, session, "One more", "")


def test_another_catalog_beside_it() -> None:
    other = space_grlm(3)
    other.remove_items(["i20", "i15"])
    shop = Shop({"one": space_grlm(), "two": other})
    one, two = shop.answers(Session(history=("i20", "i9")))
    assert all((one.found, two.found))  # what the second lacks it does not read
    one, two = shop.answers(Session(history=("i20",)))
    assert one.found
    assert "catalog" in two.error
    assert all(i in other.catalog for history in shop.examples().values() for i in history)


def test_the_hostile_title_is_what_it_seems() -> None:
    assert SHOP.catalog["i20"].title == HOSTILE
