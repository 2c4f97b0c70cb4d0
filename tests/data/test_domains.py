"""Domains joined into one data folder, split and measured by domain; recommending within one of them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, brute_force, random_catalog, random_history, shared_model, toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.domains import cross_domain_collisions, join_domains, leave_one_out_per_domain, parse_sources
from grlm_hf.data.interactions import Case, History, leave_one_out, load_histories
from grlm_hf.data.items import load_items, load_term_ids
from grlm_hf.decoding.rules import Rules
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained, free
from grlm_hf.evaluation.rankings import Chunks, Rankings
from grlm_hf.evaluation.report import load_report, markdown_table, save_report, text_table
from grlm_hf.evaluation.scored import scored
from grlm_hf.priors.chance import Chance
from grlm_hf.priors.popularity import Popularity
from grlm_hf.tables.rows import read_rows

NAMES = ("books", "a-1", "zoo")
DATA = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def folder(path: Path, events: dict[str, list[tuple[str, int | None]]], terms: dict[str, list[str]] | None = None) -> Path:
    """A domain of the items 1 to 4; events are (item, time) by user."""
    write(path / "items.jsonl", [{"item_id": i, "title": f"{path.name} {i}"} for i in "1234"])
    rows = [{"user_id": u, "item_id": i} | ({} if t is None else {"timestamp": t}) for u, own in events.items() for i, t in own]
    write(path / "interactions.jsonl", rows)
    if terms:
        write(path / "term_ids.jsonl", [{"item_id": i, "terms": t} for i, t in terms.items()])
    return path


def joined(path: Path) -> dict[str, History]:
    ids = {i.item_id for i in load_items(path / "items.parquet")}
    return {h.user_id: h for h in load_histories(path / "sequences.parquet", ids, "keep")}


# --- joining -----------------------------------------------------------------------------------------------------------------------

event_lists = st.dictionaries(
    st.sampled_from("uvwx"),
    st.tuples(st.booleans(), st.lists(st.tuples(st.sampled_from("1234"), st.integers(-3, 3)), min_size=1, max_size=6)),
    min_size=1,
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(event_lists, min_size=2, max_size=3),
    st.booleans(),
    st.sampled_from(["auto", "concatenate"]),
    st.sampled_from(["all", "shared"]),
)
def test_no_event_is_lost_or_doubled_and_the_order_is_that_of_a_stable_sort(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], shared: bool, order: str, keep: str
) -> None:
    base = tmp_path_factory.getbasetemp() / "join"
    want: dict[str, list[tuple[int, int, int, str]]] = {}
    timed: dict[str, set[bool]] = {}
    domains: dict[str, set[int]] = {}
    sources = {}
    for d, (name, users) in enumerate(zip(NAMES, drawn, strict=False)):
        events = {u: [(i, t if has else None) for i, t in own] for u, (has, own) in users.items()}
        sources[name] = folder(base / name, events)
        for u, own in events.items():
            who = u if shared else f"{name}:{u}"
            timed.setdefault(who, set()).add(own[0][1] is not None)
            domains.setdefault(who, set()).add(d)
            in_order = sorted(enumerate(own), key=lambda e: (e[1][1] or 0, e[0]))
            want.setdefault(who, []).extend((t or 0, d, n, f"{name}:{i}") for n, (i, t) in in_order)
    kept = [who for who in want if keep == "all" or len(domains[who]) > 1]
    if not kept:
        with pytest.raises(ValueError, match="No user has events in two domains"):
            join_domains(sources, base / "out", shared_users=shared, order=order, keep_users=keep)
        return
    facts = join_domains(sources, base / "out", shared_users=shared, order=order, keep_users=keep)
    found = joined(base / "out")
    assert list(found) == kept
    how = Counter()
    for who in kept:
        rows = want[who]
        if len(domains[who]) == 1:
            how["one domain"] += 1
            times = [t for t, *_ in rows] if timed[who] == {True} else []
        elif order == "auto" and timed[who] == {True}:
            how["by time"] += 1
            rows = sorted(rows)  # time, domain, place in the file
            times = [t for t, *_ in rows]
        else:
            how["concatenated"] += 1
            times = []
        assert found[who] == History(who, tuple(i for *_, i in rows), tuple(times))
    assert {k: v for k, v in facts["histories"].items() if k in how} == how
    assert facts["interactions"] == sum(len(want[who]) for who in kept) == sum(d["interactions"] for d in facts["domains"].values())
    assert facts["users"]["in_several_domains"] == sum(len(domains[who]) > 1 for who in kept)
    assert [facts["domains"][n]["users"] for n in sources] == [sum(d in domains[w] for w in kept) for d in range(len(sources))]
    items = load_items(base / "out" / "items.parquet")
    assert [i.item_id for i in items] == [f"{n}:{i}" for n in sources for i in "1234"]
    assert all(i.domain == i.item_id.split(":")[0] and i.title == i.item_id.replace(":", " ") for i in items)
    assert facts["clashing_item_ids"] == 4
    assert not (base / "out" / "term_ids.parquet").exists()
    assert json.loads((base / "out" / "domains.json").read_text()) == facts


def test_histories_say_how_they_were_joined(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"u": [("1", 5), ("2", 9)], "v": [("3", 1)], "w": [("4", 1)]})
    b = folder(tmp_path / "b", {"u": [("3", 9), ("1", 7)], "v": [("2", None)]})
    facts = join_domains({"a": a, "b": b}, tmp_path / "out", shared_users=True)
    rows = {row["user_id"]: row for _, row in read_rows(tmp_path / "out" / "sequences.parquet")}
    assert rows["u"] == {
        "user_id": "u",
        "items": ["a:1", "b:1", "a:2", "b:3"],
        "timestamps": [5, 7, 9, 9],
        "joined": "by time",
        "domains": ["a", "b"],
    }
    assert (rows["v"]["joined"], rows["v"]["items"], rows["v"]["timestamps"]) == ("concatenated", ["a:3", "b:2"], [])
    assert (rows["w"]["joined"], rows["w"]["timestamps"]) == ("one domain", [1])
    assert facts["histories"] == {
        "order": "auto",
        "by time": 1,
        "concatenated": 1,
        "one domain": 1,
        "ties": "the order of the domains, then that of the file",
        "concatenated_as": ["a", "b"],
    }
    with pytest.raises(ValueError, match=r"User 'v' has no timestamps in 'b'; order='time'"):
        join_domains({"a": a, "b": b}, tmp_path / "out", shared_users=True, order="time")
    assert json.loads((tmp_path / "out" / "domains.json").read_text()) == facts  # what stood there still stands


@pytest.mark.parametrize("form", ["nested", "bare", "flat", "csv"])
def test_a_users_table_says_who_is_the_same_person(tmp_path: Path, form: str) -> None:
    a = folder(tmp_path / "a", {"7": [("1", None)], "8": [("2", None)]})
    b = folder(tmp_path / "b", {"7": [("3", None)], "9": [("4", None)]})
    table = tmp_path / "users.jsonl"
    if form == "csv":
        table = tmp_path / "users.csv"
        table.write_text("user_id,a,b\nx1,8,7\nx2,,9\n")
    else:
        ids: list[dict[str, Any]] = [{"a": "8", "b": 7}, {"b": "9"}]
        if form == "nested":
            ids = [{n: {"some_user_id": u, "items": []} for n, u in of.items()} for of in ids]
        write(table, [{"user_id": f"x{n}", **(of if form == "flat" else {"domains": of})} for n, of in enumerate(ids, 1)])
    facts = join_domains({"a": a, "b": b}, tmp_path / "out", users=table)
    assert {u: h.items for u, h in joined(tmp_path / "out").items()} == {"a:7": ("a:1",), "x1": ("a:2", "b:3"), "x2": ("b:4",)}
    assert facts["users"] == {"matched_by": "a users table", "kept": "all", "all": 3, "in_several_domains": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"user_id": "x", "a": "8", "b": "1"}], r"users.jsonl:1: user '1' is not in the domain 'b' \(1 users\)"),
        ([{"user_id": "x", "a": "8", "b": "9"}] * 2, "users.jsonl:2: duplicate person 'x', first at"),
        ([{"user_id": "x", "a": "8", "b": "9"}, {"user_id": "y", "a": "8"}], "user '8' of 'a' is person 'y', but also 'x'"),
        ([{"user_id": "x", "a": "8", "c": "9"}], "names no user of the domain 'b'"),
        ([{"a": "8"}], "users.jsonl:1 needs `user_id`"),
        ([{"user_id": "x", "domains": ["8"]}], "users.jsonl:1 needs `user_id`"),
        ([{"user_id": "a:7", "a": "8", "b": "9"}], "names a person 'a:7'"),
        ([{"user_id": "a:7", "b": "9"}, {"user_id": "x", "a": "8"}], "names a person 'a:7'"),
    ],
)
def test_a_users_table_that_makes_no_sense_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    a = folder(tmp_path / "a", {"7": [("1", None)], "8": [("2", None)]})
    b = folder(tmp_path / "b", {"9": [("4", None)]})
    write(tmp_path / "users.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        join_domains({"a": a, "b": b}, tmp_path / "out", users=tmp_path / "users.jsonl")
    assert not (tmp_path / "out").exists()


def test_people_whose_user_is_missing_can_be_left_out(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"7": [("1", None)], "8": [("2", None)]})
    b = folder(tmp_path / "b", {"9": [("4", None)]})
    write(tmp_path / "users.jsonl", [{"user_id": "x", "a": "8", "b": "1"}, {"user_id": "y", "a": "7", "b": "9"}])
    join_domains({"a": a, "b": b}, tmp_path / "out", users=tmp_path / "users.jsonl", unknown_items="drop")
    assert {u: h.items for u, h in joined(tmp_path / "out").items()} == {"y": ("a:1", "b:4"), "x": ("a:2",)}


def test_term_ids_are_one_space(tmp_path: Path) -> None:
    shared = ["mug", "small"]
    a = folder(tmp_path / "a", {"u": [("1", None)]}, {"1": shared, "2": ["pen"], "3": ["pen"], "4": ["ink"]})
    b = folder(tmp_path / "b", {"u": [("1", None)]}, {"1": ["cup"], "2": ["Mug", "small"], "3": ["pot"], "4": ["ink"]})
    facts = join_domains({"a": a, "b": b}, tmp_path / "out")
    items, tids = load_items(tmp_path / "out" / "items.parquet"), load_term_ids(tmp_path / "out" / "term_ids.parquet")
    catalog = Catalog(items, [tids[i.item_id] for i in items])
    assert catalog.domains == ("a", "b")
    assert cross_domain_collisions(catalog) == {("mug", "small"): ("a", "b"), ("ink",): ("a", "b")}  # not the two pens
    assert facts["cross_domain_collisions"] == 2
    assert facts["term_ids"] is True
    for lacks in ({"1": ["cup"]}, None):  # some, and all, of one domain
        if lacks is None:
            (b / "term_ids.jsonl").unlink()
        else:
            folder(b, {"u": [("1", None)]}, lacks)
        facts = join_domains({"a": a, "b": b}, tmp_path / "out")
        assert not (tmp_path / "out" / "term_ids.parquet").exists()
        assert (facts["term_ids"], facts["cross_domain_collisions"]) == (False, None)
        assert [d["without_term_id"] for d in facts["domains"].values()] == [0, 3 if lacks else 4]


def test_a_joined_folder_goes_through_the_stages(tmp_path: Path) -> None:
    from grlm_hf.data.repository import load_table
    from grlm_hf.recipe import DataConfig, TermsConfig
    from grlm_hf.stages import make_dataset, make_terms

    histories = {u: [(i, 10 * n + d) for n, i in enumerate("1234")] for d, u in enumerate("uvw")}
    terms = {i: ["thing", i] for i in "1234"}
    sources = {name: folder(tmp_path / name, histories, {i: [*t, name] for i, t in terms.items()}) for name in ("a", "b")}
    join_domains(sources, tmp_path / "joined", shared_users=True)
    catalog = make_terms(tmp_path / "joined", tmp_path / "catalog", TermsConfig(generator="file"))
    assert catalog.domains == ("a", "b")
    make_dataset(tmp_path / "joined", tmp_path / "catalog", tmp_path / "datasets", read=DataConfig())
    assert set(load_table(tmp_path / "datasets", "items", "train")["domain"]) == {"a", "b"}
    case = load_table(tmp_path / "datasets", "cases", "test")[0]
    assert (case["history"], case["target"]) == (["a:1", "b:1", "a:2", "b:2", "a:3", "b:3", "a:4"], "b:4")


@pytest.mark.parametrize("name", ["", "Beauty", "a b", "a/b", "..", "a:b", "a_b", "ä", "a\n", None])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="A domain is named"):
        join_domains({"a": tmp_path, name: tmp_path}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"u": [("1", None)]})
    b = folder(tmp_path / "b", {"u": [("1", None)]})
    out = tmp_path / "out"
    for options, message in (
        ({"order": "random"}, r"order is 'random'; expected one of 'auto', 'time', 'concatenate'\."),
        ({"keep_users": "some"}, "keep_users is 'some'"),
        ({"users": "u.csv", "shared_users": True}, "give one of the two"),
        ({"users": tmp_path / "u.csv"}, "No file at"),
        ({"unknown_items": "keep"}, "unknown_items is 'keep'"),
        ({"missing_title": "keep"}, "missing_title is 'keep'"),
    ):
        with pytest.raises(ValueError, match=message):
            join_domains({"a": a, "b": b}, out, **options)
    with pytest.raises(ValueError, match="at least two domains; found \\['a'\\]"):
        join_domains({"a": a}, out)
    with pytest.raises(ValueError, match="Domain 'b': no data folder at"):
        join_domains({"a": a, "b": tmp_path / "gone"}, out)
    (b / "interactions.jsonl").unlink()
    with pytest.raises(ValueError, match=r"Domain 'b': .* has no interactions.\* or sequences.\*"):
        join_domains({"a": a, "b": b}, out)
    (b / "items.jsonl").unlink()
    with pytest.raises(ValueError, match=r"Domain 'b': .* has no items.\*"):
        join_domains({"a": a, "b": b}, out)
    assert not out.exists()
    with pytest.raises(ValueError, match="grlm did not write it"):
        join_domains({"a": a, "b": folder(b, {"u": [("1", None)]})}, a)


def test_sources_as_typed() -> None:
    assert parse_sources(["b=x", "a=y=z"]) == {"b": Path("x"), "a": Path("y=z")}
    assert list(parse_sources(["b=x", "a=y"])) == ["b", "a"]
    for text in ("beauty", "beauty="):
        with pytest.raises(ValueError, match="expected NAME=FOLDER"):
            parse_sources([text])
    with pytest.raises(ValueError, match="'a' is given twice: x and y"):
        parse_sources(["a=x", "a=y"])


# --- splitting ---------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from("abcpqrxyz"), min_size=1, max_size=12), st.booleans()), max_size=4))
def test_leave_one_out_per_domain(drawn: list[tuple[list[str], bool]]) -> None:
    domain = dict.fromkeys("abc", "first") | dict.fromkeys("pqr", "second") | dict.fromkeys("xyz", "third")
    histories = [History(f"u{n}", tuple(items), tuple(range(len(items))) if timed else ()) for n, (items, timed) in enumerate(drawn)]
    split = leave_one_out_per_domain(histories, domain)
    assert split.name == "leave-one-out-per-domain"
    train, parts = {h.user_id: h for h in split.train}, {"validation": [], "test": []}
    for h in histories:
        of = {d: [i for i, item in enumerate(h.items) if domain[item] == d] for d in dict.fromkeys(map(domain.get, h.items))}
        held = {d: {"validation": at[-2], "test": at[-1]} for d, at in of.items() if len(at) >= 3}
        all_held = {i for two in held.values() for i in two.values()}
        learnt = tuple(item for i, item in enumerate(h.items) if i not in all_held)
        assert (train[h.user_id].items if learnt else ()) == learnt
        if learnt and h.timestamps:
            assert train[h.user_id].timestamps == tuple(t for t in h.timestamps if t not in all_held)
        for d, two in held.items():
            for part, target in two.items():
                shown = []
                for i in range(target):  # nothing later is ever shown
                    other = [p for e, places in held.items() if e != d for p, j in places.items() if j == i]
                    if not other or (h.timestamps and part == "test") or (h.timestamps and other == ["validation"]):
                        shown.append(h.items[i])
                case = Case(h.user_id, tuple(shown), h.items[target])
                assert shown
                parts[part].append((case, h.timestamps[target] if h.timestamps else None))
    assert [(c, c.timestamp) for c in split.validation] == parts["validation"]
    assert [(c, c.timestamp) for c in split.test] == parts["test"]


def test_of_one_domain_it_is_leave_one_out() -> None:
    histories = [History(f"u{n}", tuple("abcdef"[: n + 1]), tuple(range(n + 1)) if n % 2 else ()) for n in range(6)]
    ours, plain = leave_one_out_per_domain(histories, dict.fromkeys("abcdef", "d")), leave_one_out(histories)
    assert (ours.train, ours.validation, ours.test) == (plain.train, plain.validation, plain.test)


def test_an_item_without_a_domain_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="Item 'b' of user 'u' has no domain"):
        leave_one_out_per_domain([History("u", ("a", "b"))], {"a": "d", "b": ""})


# --- catalogs and recommending -----------------------------------------------------------------------------------------------------


def in_domains(catalog: Catalog, domains: Sequence[str]) -> Catalog:
    return Catalog([dataclasses.replace(item, domain=d) for item, d in zip(catalog.items, domains, strict=True)], catalog.term_ids)


TOY = in_domains(toy_catalog(), ["camp"] * 5 + ["home", "camp", "home", "home", "home", "", "home"])


def toy_of_domains(objective: str) -> GRLMForRecommendation:
    grlm = toy_grlm(objective)
    return GRLMForRecommendation(grlm.model, grlm.tokenizer, TOY, grlm.config)


def test_catalog_of_a_domain() -> None:
    assert TOY.domains == ("camp", "home")
    home = TOY.domain("home")
    assert [i.item_id for i in home] == [i.item_id for i in TOY if i.domain == "home"]
    assert home == Catalog(home.items, [TOY.term_id(i.item_id) for i in home])
    assert all(home.position(i.item_id) == n for n, i in enumerate(home))
    assert "i20" not in home
    paths = {tuple(p.tolist()) for p in home.trie(toy_tokenizer()).paths()}
    assert len(paths) == len(set(home.term_ids)) == 5
    assert paths < {tuple(p.tolist()) for p in TOY.trie(toy_tokenizer()).paths()}
    assert TOY.remove(i.item_id for i in TOY.domain("camp")).domains == ("home",)
    assert TOY.add([Item("new", "New", domain="sea")], [("new",)]).domains == ("camp", "home", "sea")
    assert cross_domain_collisions(TOY) == {TERM_IDS[6]: ("camp", "home")}
    with pytest.raises(ValueError, match="no domain 'sea'; its domains are 'camp', 'home'"):
        TOY.domain("sea")
    with pytest.raises(ValueError, match="no domain ''"):
        TOY.domain("")
    with pytest.raises(ValueError, match="no item states its domain"):
        toy_catalog().domain("camp")


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_recommending_in_a_domain_is_ranking_its_items(objective: str) -> None:
    grlm = toy_of_domains(objective)
    for history in (["i20"], ["i11", "i19", "i13"]):
        scores = brute_force(grlm, history)
        for domain in TOY.domains:
            own = [i.item_id for i in TOY if i.domain == domain]
            want = sorted(own, key=lambda i: (-scores[TOY.term_id(i)], i))
            found = grlm.recommend(history, len(TOY), domain=domain)
            assert [r.item_id for r in found] == want
            np.testing.assert_allclose([r.score for r in found], [scores[TOY.term_id(i)] for i in want], atol=1e-4)
            assert found == grlm.recommend(history, len(TOY), allow=own)
            unseen = grlm.recommend([history], len(TOY), domain=domain, exclude_seen=True, exclude=want[:1])[0]
            assert [r.item_id for r in unseen] == [i for i in want[1:] if i not in history]
            both = grlm.recommend(history, len(TOY), domain=domain, allow=["i20", "i15", *want[-1:]])
            assert {r.item_id for r in both} == {"i20", "i15", *want[-1:]} & set(own)
    with pytest.raises(ValueError, match="no domain 'sea'; its domains are 'camp', 'home'"):
        grlm.recommend(["i20"], domain="sea")
    with pytest.raises(ValueError, match="no domain \\['camp'\\]"):
        grlm.recommend(["i20"], domain=["camp"])  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["vocabulary", "trie"]))
def test_a_domain_is_as_allowing_its_items(seed: int, objective: str) -> None:
    rng = random.Random(seed)
    plain = random_catalog(rng)
    catalog = in_domains(plain, [rng.choice(("a", "b", "")) for _ in plain])
    grlm = GRLMForRecommendation(shared_model(seed % 4), toy_tokenizer(), catalog, dataclasses.replace(toy_grlm(objective).config))
    histories = [random_history(rng, catalog) for _ in range(3)]
    k = rng.randint(1, len(catalog))
    options = {
        "exclude_seen": rng.random() < 0.5,
        "exact": rng.random() < 0.5,
        "shared": rng.choice(["full", "equal"]),
        "banned_terms": rng.choice([[], ["led"]]),
        "prior": rng.choice([None, np.linspace(0, 2, len(catalog))]),
    }
    for domain in catalog.domains:
        want = grlm.recommend(histories, k, allow=[i.item_id for i in catalog if i.domain == domain], **options)
        assert grlm.recommend(histories, k, domain=domain, **options) == want


def test_a_domain_is_looked_up_once_a_version() -> None:
    grlm = toy_of_domains("trie")
    index = grlm.shelf.index
    first = index.domain("home")
    grlm.recommend(["i20"], 3, domain="home", exclude_seen=True, exclude=["i12"])
    assert index.domain("home") is first is index.adjustment(Rules(domain="home"))
    assert (first.by_item == 0).tolist() == [i.domain == "home" for i in TOY]  # no request changed it
    grlm.add_items([Item("sea", "Sea", domain="sea"), Item("new", "New", domain="home")], [("tent", "sea"), ("lamp", "sea")])
    assert [r.item_id for r in grlm.recommend(["i20"], 3, domain="sea")] == ["sea"]
    assert "new" in {r.item_id for r in grlm.recommend(["i20"], 14, domain="home")}


# --- measuring ---------------------------------------------------------------------------------------------------------------------

SETUP = Setup("toy", "leave-one-out", "left out", resamples=40, seed=3)
IN_DOMAIN = dataclasses.replace(SETUP, candidates="domain")
IDS = [i.item_id for i in TOY]
CASES = leave_one_out([History(f"u{u}", tuple(IDS[(u + s * (1 + u % 2)) % 12] for s in range(3 + u % 5))) for u in range(40)]).test
CASES = tuple(c for c in CASES if TOY[c.target].domain)


def test_figures_of_a_domain_are_those_of_its_cases() -> None:
    methods = {"grlm": constrained(toy_of_domains("trie"), True), "random": scored(Chance(tuple(IDS)), TOY, True)}
    report = evaluate(methods, CASES, TOY, SETUP)
    assert report.protocol.candidates_of == "the whole catalog"
    assert list(report.domains) == ["camp", "home"]
    for domain, part in report.domains.items():
        own = [c for c in CASES if TOY[c.target].domain == domain]
        assert (part.cases, part.users, part.candidates) == (len(own), len({c.user_id for c in own}), len(TOY))
        alone = evaluate(methods, own, TOY, SETUP).methods
        answers = constrained(toy_of_domains("trie"), True)([c.history for c in own])
        there = {i for ranking in answers.items for i in ranking[:10] if TOY[i].domain == domain}
        assert part.methods["grlm"]["coverage"].value == len(there) / len(TOY.domain(domain))
        for name, metrics in part.methods.items():
            of_users = metrics.keys() - {"coverage", "gini@10"}  # those two are of the domain's own items
            assert {m: metrics[m] for m in of_users} == {m: alone[name][m] for m in of_users}
    total = sum(p.cases * p.methods["grlm"]["mrr"].value for p in report.domains.values())
    assert report.methods["grlm"]["mrr"].value == pytest.approx(total / len(CASES))
    plain = evaluate(methods, CASES, Catalog([dataclasses.replace(i, domain="") for i in TOY], TOY.term_ids), SETUP)
    assert plain.methods == report.methods
    assert "domains" not in plain.to_json()
    assert "candidates_of" not in plain.to_json()["protocol"]


def test_candidates_of_the_targets_domain(tmp_path: Path) -> None:
    train = [History("u", tuple(IDS))]
    methods = {
        "grlm": constrained(toy_of_domains("trie"), True),
        "popularity": scored(Popularity.fit(IDS, train), TOY, True),
        "random": scored(Chance(tuple(IDS)), TOY, True),
    }
    report = evaluate(methods, CASES, TOY, IN_DOMAIN, chunks=Chunks(tmp_path / "work"))
    assert report.protocol.candidates_of == "the target's domain"
    assert {d: p.candidates for d, p in report.domains.items()} == {"camp": 6, "home": 5}
    for domain, part in report.domains.items():
        own = [c for c in CASES if TOY[c.target].domain == domain]
        items = {i.item_id for i in TOY.domain(domain)}
        for name, method in methods.items():
            answers = method([c.history for c in own], domain=domain).items
            for case, ranking in zip(own, answers, strict=True):
                assert set(ranking) == items - set(case.history)
                assert len(ranking) == len(set(ranking))
            found = [1 / (r.index(c.target) + 1) if c.target in r else 0 for c, r in zip(own, answers, strict=True)]
            assert part.methods[name]["mrr"].value == pytest.approx(sum(found) / len(found))
            assert part.methods[name]["valid_rate"].value == 1.0
    # a second run reads what the first kept
    assert evaluate(dict.fromkeys(methods, print), CASES, TOY, IN_DOMAIN, chunks=Chunks(tmp_path / "work")) == report
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report
    assert "all items of the target's domain ranked (of 12)" in text_table(report)
    assert f"camp: {report.domains['camp'].cases} cases" in text_table(report)
    assert markdown_table(report).count("\n") == 1 + 3 * 3
    assert "| popularity (home) |" in markdown_table(report)


def test_one_domain_among_items_without_one_is_told_too() -> None:
    catalog = Catalog([dataclasses.replace(i, domain="a | b" if i.domain == "home" else "") for i in TOY], TOY.term_ids)
    cases = [c for c in CASES if catalog[c.target].domain]
    report = evaluate({"random": scored(Chance(tuple(IDS)), catalog, True)}, cases, catalog, IN_DOMAIN)
    assert report.protocol.candidates_of == "the target's domain"
    assert {d: p.candidates for d, p in report.domains.items()} == {"a | b": 5}
    assert r"| random (a \| b) |" in markdown_table(report)


def test_free_writing_is_grounded_in_the_domain() -> None:
    method = free(toy_of_domains("vocabulary"), False, num_beams=4)
    own = {i.item_id for i in TOY.domain("home")}
    for ranking in method([["i20"], ["i12", "i15"]], domain="home").items:
        assert {i for i in ranking if i is not None} <= own


def test_candidates_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"candidates is 'some'; expected one of \('all', 'domain'\)"):
        evaluate({}, CASES, TOY, dataclasses.replace(SETUP, candidates="some"))
    with pytest.raises(ValueError, match="target 'i10' has no domain"):
        evaluate({}, [Case("u", ("i20",), "i10")], TOY, IN_DOMAIN)
    missed = Case("u", ("i20",), "gone")  # of no domain
    gone = evaluate({"random": scored(Chance(tuple(IDS)), TOY, True)}, [*CASES, missed], TOY, SETUP)
    assert sum(part.cases for part in gone.domains.values()) == len(CASES)
    stray = {"m": lambda h, domain: Rankings([["i20"]] * len(h))}
    with pytest.raises(ValueError, match="ranks 'i20', which is not in the domain 'home'"):
        evaluate(stray, CASES, TOY, IN_DOMAIN)


# --- real data ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cross-beauty-sports").is_dir(), reason=f"no real data at {DATA}; set GRLM_DATA")
def test_beauty_and_sports(tmp_path: Path) -> None:
    sources = {"beauty": DATA / "amazon-beauty", "sports": DATA / "amazon-sports"}
    users = DATA / "cross-beauty-sports" / "users.jsonl.gz"
    facts = join_domains(sources, tmp_path / "joined", users=users, missing_title="fill")
    assert {n: (d["items"], d["users"], d["interactions"]) for n, d in facts["domains"].items()} == {
        "beauty": (12_101, 22_363, 194_687),
        "sports": (18_357, 35_598, 296_337),
    }
    assert facts["users"]["all"] == 22_363 + 35_598 - 1_625
    assert facts["users"]["in_several_domains"] == facts["histories"]["concatenated"] == 1_625  # no times: none by time
    assert facts["clashing_item_ids"] == 12_101
    items, tids = load_items(tmp_path / "joined" / "items.parquet"), load_term_ids(tmp_path / "joined" / "term_ids.parquet")
    catalog = Catalog(items, [tids[i.item_id] for i in items])
    assert (len(catalog), catalog.domains) == (30_458, ("beauty", "sports"))
    assert len(cross_domain_collisions(catalog)) == facts["cross_domain_collisions"] == 0
    assert len(catalog.domain("beauty").identifiers) == 11_857
    domain_of = {i.item_id: i.domain for i in catalog}
    histories = load_histories(tmp_path / "joined" / "sequences.parquet", domain_of)
    split = leave_one_out_per_domain(histories, domain_of)
    assert Counter(domain_of[c.target] for c in split.test) == {"beauty": 22_363, "sports": 35_598}
    assert len(split.validation) == len(split.test)
    assert sum(len(h.items) for h in split.train) == 194_687 + 296_337 - 2 * len(split.test)
    # the last of each domain's own file, and nothing held out in one domain is shown to another's question
    for name, source in sources.items():
        wanted = Counter(f"{name}:{row['items'][-1]}" for _, row in read_rows(source / "sequences.jsonl.gz"))
        assert Counter(c.target for c in split.test if domain_of[c.target] == name) == wanted
    seen = Counter(len({domain_of[i] for i in c.history}) for c in split.test if domain_of[c.target] == "sports")
    assert seen == {1: 35_598 - 1_625, 2: 1_625}
    assert all({domain_of[i] for i in c.history} == {"beauty"} for c in split.test if domain_of[c.target] == "beauty")
