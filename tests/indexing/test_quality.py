"""The quality report against brute force on sets and loops: legality, prefixes, collisions, agreement, alignment, branching, the files."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlm_hf.data.items import Item, load_items
from grlm_hf.files import read_json
from grlm_hf.identifiers.terms import validate
from grlm_hf.indexing.neighbors import Neighbors
from grlm_hf.indexing.quality.measure import compare, measure, strangers
from grlm_hf.indexing.quality.report import markdown_table, save_quality, text_table
from grlm_hf.tables.rows import read_rows

BEAUTY = Path(os.environ.get("GRLM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-beauty"
WORDS = ("tent", "camping", "red", "two-person", "Tent", "", "e.l.f.", "水")  # two are not in normal form
ID_SETS = st.lists(st.lists(st.sampled_from(WORDS), max_size=4), min_size=1, max_size=12)
PATHS = st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=12)


def items_of(n: int, title: str = "Title") -> list[Item]:
    return [Item(f"i{17 * at % 100}", f"{title} {at}") for at in range(n)]  # ids are not in the order of the items


def neighbors_of(items: Sequence[Item], k: int, seed: int) -> Neighbors:
    """Random neighbours, some missing, of a few similarities only, so that there are ties."""
    rng = random.Random(seed)
    indices, scores = np.full((len(items), k), -1, np.int32), np.full((len(items), k), -np.inf, np.float32)
    for row in range(len(items)):
        near = rng.sample([at for at in range(len(items)) if at != row], rng.randint(0, min(k, len(items) - 1)))
        indices[row, : len(near)] = near
        scores[row, : len(near)] = sorted((rng.choice([-0.3, 0.15, 0.42, 0.9, 1.0]) for _ in near), reverse=True)
    return Neighbors(tuple(item.item_id for item in items), indices, scores)


# --- measures against brute force --------------------------------------------------------------------------------------------------


def is_legal(term_id: Sequence[str], n_terms: int) -> bool:
    try:
        validate(term_id, n_terms)
    except ValueError:
        return False
    return len(set(term_id)) == len(term_id)


@given(ID_SETS, st.one_of(st.none(), st.integers(1, 4)))
def test_legality(term_ids: list[list[str]], n_terms: int | None) -> None:
    report = measure(items_of(len(term_ids)), term_ids, n_terms=n_terms)
    lengths = Counter(map(len, term_ids))
    wanted = n_terms or max(1, min(lengths, key=lambda n: (-lengths[n], n)))
    legal = [is_legal(term_id, wanted) for term_id in term_ids]
    found = report["legality"]
    assert report["n_terms"] == wanted
    assert found["legal"] == pytest.approx(sum(legal) / len(legal))
    assert found["illegal"] == legal.count(False)
    assert found["count"] == sum(len(t) != wanted for t in term_ids)
    assert found["form"] == sum(any(w in ("Tent", "") for w in t) for t in term_ids)
    assert found["repeated"] == sum(len(set(t)) < len(t) for t in term_ids)
    assert len(found["examples"]) == min(5, legal.count(False))
    assert all(example["reasons"] for example in found["examples"])


@given(ID_SETS)
def test_terms_prefixes_and_positions(term_ids: list[list[str]]) -> None:
    report = measure(items_of(len(term_ids)), term_ids)
    uses = Counter(term for term_id in term_ids for term in term_id)
    longest = max(map(len, term_ids))
    assert report["terms"]["distinct"] == len(uses)
    assert report["terms"]["used_once"] == sum(n == 1 for n in uses.values())
    assert report["terms"]["per_item"] == pytest.approx(uses.total() / len(term_ids))
    assert report["prefixes"] == [len({tuple(t[:length]) for t in term_ids}) for length in range(1, longest + 1)]
    assert len(report["terms"]["positions"]) == longest
    for at, position in enumerate(report["terms"]["positions"]):
        counts = Counter(t[at] for t in term_ids if len(t) > at)
        assert (position["items"], position["distinct"]) == (counts.total(), len(counts))
        bits = -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())
        assert position["entropy"] == pytest.approx(bits)


@given(ID_SETS)
def test_collisions(term_ids: list[list[str]]) -> None:
    items = items_of(len(term_ids))
    found = measure(items, term_ids)["collisions"]
    groups = {t: n for t, n in Counter(map(tuple, term_ids)).items() if n > 1}
    assert found["distinct"] == len({tuple(t) for t in term_ids})
    assert (found["groups"], found["items"]) == (len(groups), sum(groups.values()))
    assert found["share"] == pytest.approx(sum(groups.values()) / len(items))
    assert found["largest"] == max(groups.values(), default=1)
    assert {tuple(pair) for pair in found["sizes"]} == set(Counter(groups.values()).items())
    assert [(tuple(g["terms"]), g["items"]) for g in found["groups_shown"]] == sorted(groups.items(), key=lambda g: (-g[1], g[0]))[:10]
    for group in found["groups_shown"]:
        members = sorted((i.item_id, i.title) for i, t in zip(items, term_ids, strict=True) if t == group["terms"])
        assert group["titles"] == [title for _, title in members][:5]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]

    x, y = ([r - (len(a) + 1) / 2 for r in ranks(v)] for v in (a, b))
    scale = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(v * w for v, w in zip(x, y, strict=True)) / scale if scale else None


@given(ID_SETS, st.integers(1, 4), st.integers(0, 99))
def test_agreement(term_ids: list[list[str]], k: int, seed: int) -> None:
    items = items_of(len(term_ids))
    neighbors = neighbors_of(items, k, seed)
    pairs = [  # rank, cosine, shared
        (rank, float(neighbors.scores[row, rank]), len({*term_ids[row]} & {*term_ids[at]}))
        for row in range(len(items))
        for rank, at in enumerate(neighbors.of(row))
    ]
    found = measure(items, term_ids, neighbors)["agreement"]
    if not pairs:
        assert found is None
        return
    assert (found["k"], found["pairs"]) == (k, len(pairs))
    assert found["shared"] == pytest.approx(np.mean([shared for _, _, shared in pairs]))
    assert found["over_random"] == pytest.approx(found["shared"] - found["random"])
    expected = rank_correlation([cosine for _, cosine, _ in pairs], [shared for _, _, shared in pairs])
    assert found["spearman"] == (None if expected is None else pytest.approx(expected))
    for of_rank in found["by_rank"]:
        shared = [s for rank, _, s in pairs if rank + 1 == of_rank["rank"]]
        assert (of_rank["pairs"], of_rank["shared"]) == (len(shared), pytest.approx(np.mean(shared)))
    assert sum(r["pairs"] for r in found["by_rank"]) == sum(b["pairs"] for b in found["by_similarity"]) == len(pairs)
    for some in found["by_similarity"]:
        inside = [(c, s) for _, c, s in pairs if some["low"] - 1e-6 <= c < some["high"] - 1e-6 or c == some["high"] == 1]
        assert some["high"] - some["low"] == pytest.approx(0.05)
        assert some["pairs"] == len(inside)
        assert [some["similarity"], some["shared"]] == pytest.approx(np.mean(inside, axis=0))


def test_random_agreement_is_the_mean_over_all_other_items() -> None:
    rng = random.Random(0)
    term_ids = [rng.sample([f"w{n}" for n in range(8)], 3) for _ in range(60)]
    found = measure(items_of(60), term_ids, neighbors_of(items_of(60), 40, 0))["agreement"]
    everyone = np.mean([len({*a} & {*b}) for x, a in enumerate(term_ids) for y, b in enumerate(term_ids) if x != y])
    assert found["random"] == pytest.approx(everyone, abs=0.06)  # 2,400 pairs drawn; the standard error is about .012


@given(st.integers(2, 30), st.integers(0, 99))
def test_no_item_is_its_own_stranger(n: int, seed: int) -> None:
    drawn = strangers(n, np.random.default_rng(seed))
    assert drawn is not None
    assert sorted(drawn.tolist()) == list(range(n))
    assert not (drawn == np.arange(n)).any()


class Node(dict[int, Any]):
    ends = False


@given(PATHS)
def test_branching(paths: list[list[int]]) -> None:
    """Against a trie of dictionaries."""
    items = items_of(len(paths))
    term_ids = [["abcd"[token] for token in path] for path in paths]
    report = measure(items, term_ids, paths=paths, tokenizer="toy")
    found = report["trie"]["tokens"]
    assert report["trie"]["terms"] == found  # the same shape by term as by token

    root = Node()
    for path in sorted(paths):
        node = root
        for token in path:
            node = node.setdefault(token, Node())
        node.ends = True
    nodes, frontier = [], [(0, root)]
    while frontier:
        depth, node = frontier.pop()
        if node:
            nodes.append((depth, node))
        frontier += [(depth + 1, child) for child in node.values()]
    children = [len(node) + node.ends for _, node in nodes]
    assert found["identifiers"] == len({tuple(p) for p in paths})
    assert found["inner_nodes"] == len(nodes)
    assert found["root_children"] == (len(root) + root.ends if root else 0)
    assert found["mean_children"] == (pytest.approx(np.mean(children)) if nodes else None)
    assert found["single_child"] == (pytest.approx(children.count(1) / len(nodes)) if nodes else None)
    for level in found["by_depth"]:
        here = [len(node) + node.ends for depth, node in nodes if depth == level["depth"]]
        assert (level["inner_nodes"], level["mean_children"]) == (len(here), pytest.approx(np.mean(here)))
        assert level["single_child"] == pytest.approx(here.count(1) / len(here))

    choices, unique = [], []
    for path in paths:
        node, passed = root, 0
        for token in path:
            passed += len(node) + node.ends > 1
            node = node[token]
        choices.append(passed + (len(node) + node.ends > 1 if node else 0))  # to end where others go on is a choice too
        others = {tuple(p) for p in paths} - {tuple(path)}
        alone = [n for n in range(len(path) + 1) if not any(list(other[:n]) == path[:n] for other in others)]
        unique.append(alone[0] if alone else len(path))
    assert found["choices"] == pytest.approx(np.mean(choices))
    assert found["unique_after"] == pytest.approx(np.mean(unique))
    assert found["length"] == pytest.approx(np.mean([len(p) for p in paths]))


@given(PATHS)
def test_token_lengths(paths: list[list[int]]) -> None:
    found = measure(items_of(len(paths)), [["tent"]] * len(paths), paths=paths, tokenizer="toy")["tokens"]
    lengths = sorted(map(len, paths))
    assert found["tokenizer"] == "toy"
    assert (found["max"], found["mean"]) == (lengths[-1], pytest.approx(np.mean(lengths)))
    assert found["median"] == (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2
    for share, name in ((0.9, "p90"), (0.99, "p99")):  # the shortest that so many do not exceed
        assert found[name] == min(n for n in lengths if sum(m <= n for m in lengths) >= share * len(lengths) - 1e-9)
    assert {tuple(pair) for pair in found["lengths"]} == set(Counter(lengths).items())


@given(st.lists(st.tuples(*[st.lists(st.sampled_from("abcdef"), max_size=4)] * 4), min_size=1, max_size=8))
def test_alignment(rows: list[tuple[list[str], ...]]) -> None:
    """Title, description, and two lists of words that make the Term ID: some terms are phrases."""
    word = {c: c * 3 for c in "abcdef"}
    items = [
        Item(f"i{at}", " ".join(word[c] for c in title), description=" ".join(word[c] for c in d))
        for at, (title, d, _, _) in enumerate(rows)
    ]
    term_ids = [
        [*dict.fromkeys([*(word[c] for c in a), *("-".join(word[c] for c in b[at : at + 2]) for at in range(len(b) - 1))])]
        for _, _, a, b in rows
    ]
    report = measure(items, term_ids)["alignment"]
    for field, texts in (("text", [{*t, *d} for t, d, _, _ in rows]), ("title", [{*t} for t, _, _, _ in rows])):
        some, shares = [], []
        for text, term_id in zip(texts, term_ids, strict=True):
            parts = [{p[0] for p in term.split("-")} for term in term_id]
            some.append(any(p & text for p in parts))
            shares.append(sum(p <= text for p in parts) / max(1, len(parts)))
        assert report["own"][field] == {"items": pytest.approx(np.mean(some)), "terms": pytest.approx(np.mean(shares))}
    assert (report["shuffled"] is None) == (len(rows) == 1)


def test_shuffled_ids_are_never_an_items_own() -> None:
    names = ["quark", "lepton", "boson", "gluon"]
    report = measure([Item(name, f"Big {name}") for name in names], [[name] for name in names])["alignment"]
    assert report["own"]["title"] == {"items": 1, "terms": 1}
    assert report["shuffled"]["title"] == {"items": 0, "terms": 0}


@pytest.mark.parametrize(
    ("title", "term", "there"),
    [
        ("Brushes & Combs", "brush", True),
        ("Brush", "brushes", True),
        ("Long-Lasting Gloss", "long-lasting", True),
        ("Lasts long, lasting", "long-lasting", True),
        ("Lasting", "long-lasting", False),
        ("L'Oréal Crème", "crème", True),
        ("Glass", "glas", False),
        ("Шампунь для волос", "шампунь", True),
        ("天然水杯套装", "水杯", True),  # no spaces: any part of the text
        ("天然水杯套装", "茶杯", False),
        ("شامبو للشعر", "شامبو", True),
        ("", "brush", False),
        ("🙂🙂", "brush", False),
    ],
)
def test_words_are_found_as_people_find_them(title: str, term: str, there: bool) -> None:
    own = measure([Item("a", title)], [[term]])["alignment"]["own"]
    assert own["title"]["terms"] == own["text"]["terms"] == there


# --- what holds of every report ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(ID_SETS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_the_items_plays_no_part(term_ids: list[list[str]], seed: int, rng: random.Random) -> None:
    items = items_of(len(term_ids), "Red camping tent")
    paths = [[WORDS.index(term) for term in term_id] for term_id in term_ids]
    neighbors = neighbors_of(items, 2, seed)
    order = rng.sample(range(len(items)), len(items))
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    moved = np.array([[place[int(at)] for at in neighbors.indices[old]] for old in order], np.int32)
    shuffled = Neighbors(tuple(items[at].item_id for at in order), moved, neighbors.scores[order])
    one = measure(items, term_ids, neighbors, paths=paths, seed=seed)
    other = measure([items[at] for at in order], [term_ids[at] for at in order], shuffled, paths=[paths[at] for at in order], seed=seed)
    assert one == other
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def toy() -> tuple[list[Item], list[list[str]], Neighbors]:
    items = [
        Item(f"i{at}", f"{a} Tent for {b}", categories=("Outdoor", "Tents"))
        for at, (a, b) in enumerate(zip("RGBRGB", "223344", strict=True))
    ]
    return items, [["tent", "camping", i.title[0].lower(), "x"] for i in items], neighbors_of(items, 3, 1)


def test_all_items_share_one_id() -> None:
    items, _, neighbors = toy()
    report = measure(items, [["tent", "red"]] * 6, neighbors, paths=[[1, 2, 3]] * 6)
    assert report["prefixes"] == [1, 1]
    assert report["collisions"] | {"groups_shown": 0} == {
        "distinct": 1,
        "groups": 1,
        "items": 6,
        "share": 1.0,
        "largest": 6,
        "sizes": [[6, 1]],
        "groups_shown": 0,
    }
    assert report["agreement"]["spearman"] is None  # shared terms never vary
    assert report["agreement"]["over_random"] == 0
    assert (report["trie"]["tokens"]["choices"], report["trie"]["tokens"]["unique_after"]) == (0, 0)
    assert report["terms"]["positions"][0]["entropy"] == 0


def test_what_is_no_identifier_set() -> None:
    items, term_ids, neighbors = toy()
    with pytest.raises(ValueError, match="no items"):
        measure([], [])
    with pytest.raises(ValueError, match="6 items and 5 Term IDs"):
        measure(items, term_ids[:5])
    with pytest.raises(ValueError, match="6 items and 1 token paths"):
        measure(items, term_ids, paths=[[1]])
    with pytest.raises(ValueError, match="code -1"):
        measure(items, term_ids, paths=[[1, -1]] * 6)
    with pytest.raises(ValueError, match="repeated, such as 'i0'"):
        measure([items[0], *items[:5]], term_ids)
    for wrong in ("tent, camping", None, ["tent", 3]):
        with pytest.raises(ValueError, match=r"item 'i1' is .* expected a list"):
            measure(items, [term_ids[0], wrong, *term_ids[2:]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="n_terms must be at least 1"):
        measure(items, term_ids, n_terms=0)
    with pytest.raises(ValueError, match="not the 6 given ones"):
        measure(items[::-1], term_ids, neighbors)
    unscored = Neighbors(neighbors.item_ids, neighbors.indices, np.full_like(neighbors.scores, np.nan))
    with pytest.raises(ValueError, match="no finite score"):
        measure(items, term_ids, unscored)


def test_only_what_is_measured_alike_is_compared() -> None:
    items, term_ids, neighbors = toy()
    one = measure(items, term_ids, neighbors, paths=[[1]] * 6, tokenizer="A")
    plain = measure(items, term_ids[::-1])
    assert compare({"a": one, "b": plain}) == {"schema": "grlm.quality/1", "items": 6, "sets": {"a": one, "b": plain}}
    with pytest.raises(ValueError, match="at least one"):
        compare({})
    with pytest.raises(ValueError, match="'b' is measured on 5 items, which are not the 6 of 'a'"):
        compare({"a": one, "b": measure(items[:5], term_ids[:5])})
    renamed = [Item(f"x{at}", "T") for at in range(6)]
    with pytest.raises(ValueError, match="are not the 6 of 'a'"):
        compare({"a": one, "b": measure(renamed, term_ids)})
    with pytest.raises(ValueError, match="different neighbors_hash"):
        compare({"a": plain, "b": one, "c": measure(items, term_ids, neighbors_of(items, 3, 2))})
    with pytest.raises(ValueError, match=r"different tokenizer: \{'a': 'A', 'b': 'B'\}"):
        compare({"a": one, "b": measure(items, term_ids, paths=[[1]] * 6, tokenizer="B")})


# --- tables and files --------------------------------------------------------------------------------------------------------------


def png_width(path: Path) -> int:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big")


@pytest.mark.filterwarnings("error")
def test_saved_and_shown(tmp_path: Path) -> None:
    items, term_ids, neighbors = toy()
    nasty = [["<b>", "a|b", "$x$", "`"], *term_ids[1:5], []]
    ours = measure(items, term_ids, neighbors, paths=[[1, 2], [1]] * 3, tokenizer="toy_$1")
    comparison = compare({"ours": ours, "<i>theirs</i>|$a$": measure(items, nasty)})
    save_quality(comparison, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == ["quality.json", "quality.md", "quality.png"]
    assert read_json(folder / "quality.json") == comparison
    assert png_width(folder / "quality.png") == 1600
    page = (folder / "quality.md").read_text(encoding="utf-8")
    assert markdown_table(comparison) in page
    assert not {"<b>", "<i>"} & set(page.split())
    assert "<i>" not in page
    assert "illegal" in page

    table = [line.strip("| ").replace("\\|", "").split(" | ") for line in markdown_table(comparison).splitlines()]
    assert {len(line) for line in table} == {3}
    shown = {line[0]: line[1:] for line in table}
    assert shown["legal Term IDs"] == ["100.0 %", "66.7 %"]
    assert shown["distinct Term IDs"] == ["3", "5"]
    assert shown["items that share one"] == ["6 (100.0 %)", "2 (33.3 %)"]
    assert shown["tokens a Term ID: mean / p99 / max"] == ["1.5 / 2 / 2", "–"]
    assert shown["terms shared with a neighbour (a random item)"][0].startswith(f"{ours['agreement']['shared']:.2f} (")
    text = text_table(comparison)
    assert all(cell in text for line in table[2:] for cell in line)
    assert text.endswith("tokenizer: toy_$1.")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("term_ids", [[[]], [["tent", "red"], []], [["tent"]] * 3, [[f"w{n}"] for n in range(11)]])
def test_any_set_has_tables_and_a_picture(term_ids: list[list[str]], tmp_path: Path) -> None:
    items = [Item(f"i{at}", "") for at in range(len(term_ids))]
    comparison = compare({"one": measure(items, term_ids, paths=[[0] * len(t) for t in term_ids])})
    save_quality(comparison, tmp_path)
    assert png_width(tmp_path / "quality.png") == 1600
    assert "legal Term IDs" in text_table(comparison)


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, grlm_hf.indexing.quality.report, grlm_hf.indexing.quality"
    code += "; print({'torch', 'matplotlib', 'datasets', 'faiss'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"no real data at {BEAUTY}; set GRLM_DATA")
def test_the_official_term_ids_of_beauty() -> None:
    items = load_items(BEAUTY / "items.jsonl.gz", missing_title="fill")
    rows = {row["item_id"]: row["terms"] for _, row in read_rows(BEAUTY / "term_ids_official.jsonl.gz")}
    report = measure(items, [rows[item.item_id] for item in items])
    assert (report["items"], report["n_terms"]) == (12101, 5)
    shared = report["collisions"]
    assert (shared["distinct"], shared["items"], shared["largest"]) == (11857, 441, 13)
    assert (report["terms"]["distinct"], report["terms"]["used_once"]) == (7424, 3849)
    assert report["prefixes"] == [1114, 6010, 10220, 11414, 11857]
    assert report["trie"]["terms"]["root_children"] == 1114
    assert report["alignment"]["own"]["text"]["items"] == pytest.approx(0.989, abs=0.001)
    assert report["alignment"]["shuffled"]["text"]["items"] == pytest.approx(0.16, abs=0.01)
    legality = report["legality"]  # terms with an underscore or a fraction sign; the same term twice
    assert (legality["count"], legality["form"] > 0, legality["repeated"]) == (0, True, 10)
