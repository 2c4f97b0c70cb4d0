from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from toys import TERM_IDS, Tree, legal_tokens, toy_catalog, toy_tokenizer, tree_of

from grlm_hf import Trie
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tokens import identifier_tokens
from grlm_hf.trie.arrays import FORMAT
from grlm_hf.trie.ranges import RangeMax
from grlm_hf.trie.splice import add, remove
from grlm_hf.trie.walker import TrieWalker, segment_log_softmax

ARRAYS = ("tokens", "start", "shared", "leaf", "border")

# --- the oracle: nested dictionaries -------------------------------------------------------------------------------------------------

Paths = list[list[int]]


def nodes_of(tree: Tree, before: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Tree]]:
    yield before, tree
    for token, below in tree.items():
        yield from nodes_of(below, (*before, token))


def intervals_of(paths: Paths) -> dict[tuple[int, ...], tuple[int, int]]:
    """Of each prefix, where in the sorted paths those with it stand."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for rank, path in enumerate(sorted(paths)):
        for d in range(len(path) + 1):
            prefix = tuple(path[:d])
            found[prefix] = (found.get(prefix, (rank,))[0], rank + 1)
    return found


def prefix_free(paths: set[tuple[int, ...]]) -> Paths:
    return [list(p) for p in sorted(paths) if not any(p != q and q[: len(p)] == p for q in paths)]


# --- random tries --------------------------------------------------------------------------------------------------------------------

LARGE = [0, 1, 70_000, 150_000, 151_935]  # 18 bits: three tokens to a 64-bit sort key, so that longer paths take several passes


@st.composite
def path_sets(draw: st.DrawFn) -> Paths:
    """Prefix-free paths in any order, many of which share a long stem."""
    token = draw(st.sampled_from([st.integers(0, 6), st.sampled_from(LARGE)]))
    stem = tuple(draw(st.lists(token, max_size=8)))
    tails = st.tuples(st.integers(0, len(stem)), st.lists(token, min_size=1, max_size=5))
    paths = {stem[:cut] + tuple(tail) for cut, tail in draw(st.lists(tails, min_size=1, max_size=30))}
    return draw(st.permutations(prefix_free(paths)))


def random_paths(n: int, seed: int = 0) -> Paths:
    """Prefix-free paths of up to 25 tokens; half of them branch off from one before."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 150_000, 400)
    paths: list[tuple[int, ...]] = []
    for _ in range(n):
        stem = paths[rng.integers(len(paths))] if paths and rng.random() < 0.5 else ()
        stem = stem[: rng.integers(len(stem) + 1)]
        paths.append(stem + tuple(rng.choice(pool, int(rng.integers(1, 26 - len(stem)))).tolist() if len(stem) < 25 else ()))
    inner = {p[:d] for p in paths for d in range(len(p))}
    return [list(p) for p in dict.fromkeys(paths) if p not in inner]


def assert_same(got: Trie, want: Trie, but: tuple[str, ...] = ()) -> None:
    for name in ARRAYS:
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b), name
    for name in {"vocab", "depth", "widest", "eos_token_id", "pad_token_id", "tokenizer_hash"} - {*but}:
        assert getattr(got, name) == getattr(want, name), name


def as_lists(trie: Trie) -> Paths:
    return [p.tolist() for p in trie.paths()]


# --- nodes ---------------------------------------------------------------------------------------------------------------------------


def vector(device: str | None, values: list[int]) -> Any:
    return np.array(values, np.int64) if device is None else torch.tensor(values, dtype=torch.int64, device=device)


def walk(walker: TrieWalker, prefixes: list[tuple[int, ...]]) -> tuple[Any, Any, Any]:
    """The nodes of these prefixes, each walked to alone."""
    found = []
    for prefix in prefixes:
        node = walker.root(1)
        for token in prefix:
            node = walker.step(*node, vector(walker.device, [token]))
        found.append([int(x[0]) for x in node])
    lo, hi, depth = (vector(walker.device, [node[i] for node in found]) for i in range(3))
    return lo, hi, depth


@pytest.mark.parametrize("device", [None, "cpu"])
@settings(max_examples=60, deadline=None)
@given(paths=path_sets())
@example(paths=[[3]])
@example(paths=[[3, 4, 5]])
def test_nodes_are_those_of_a_dictionary_trie(device: str | None, paths: Paths) -> None:
    """Interval, children, end and length of every node, and that prefixes off the trie are empty nodes without children."""
    walker, interval, ranked = TrieWalker(Trie(paths), device), intervals_of(paths), sorted(paths)
    tree = dict(nodes_of(tree_of(paths)))
    alive = sorted(tree)
    dead = [(*p, t) for p in alive for t in (2, 151_934) if t not in tree[p]]
    prefixes = [p for pair in zip(alive, dead, strict=False) for p in pair] + alive[len(dead) :] + dead[len(alive) :]  # side by side
    lo, hi, depth = walk(walker, prefixes)
    assert depth.tolist() == [len(p) for p in prefixes]
    for prefix, a, b in zip(prefixes, lo.tolist(), hi.tolist(), strict=True):
        assert (a, b) == interval[prefix] if prefix in tree else a == b
    assert walker.ends(lo, hi, depth).tolist() == [not tree.get(p) for p in prefixes]
    every = walker.root(len(ranked))[0] + vector(device, list(range(len(ranked))))
    assert walker.length(every).tolist() == [len(p) for p in ranked]

    want = [(row, t, *interval[(*p, t)]) for row, p in enumerate(prefixes) for t in sorted(tree.get(p, ()))]
    assert list(zip(*(x.tolist() for x in walker.children(lo, hi, depth)), strict=True)) == want
    for d in {len(p) for p in prefixes}:  # all of one depth, given as one number
        rows = [row for row, p in enumerate(prefixes) if len(p) == d]
        place = {row: i for i, row in enumerate(rows)}
        at = vector(device, rows)
        found = zip(*(x.tolist() for x in walker.children(lo[at], hi[at], d)), strict=True)
        assert list(found) == [(place[row], *rest) for row, *rest in want if row in place]


@settings(max_examples=60, deadline=None)
@given(path_sets())
@example([[3]])
def test_padded_children_are_the_children(paths: Paths) -> None:
    trie = Trie(paths)
    walker, interval, tree = TrieWalker(trie, "cpu"), intervals_of(paths), dict(nodes_of(tree_of(paths)))
    assert trie.widest == max(map(len, tree.values()))
    prefixes = sorted(tree)
    prefixes += [(*p, 2, 2) for p in prefixes if 2 not in tree[p]]
    lo, hi, depth = walk(walker, prefixes)
    token, child_lo, child_hi, valid = walker.children_padded(lo, hi, depth)
    assert token.shape == child_lo.shape == child_hi.shape == valid.shape == (len(prefixes), trie.widest)
    for row, prefix in enumerate(prefixes):
        keep = valid[row]
        found = zip(token[row][keep].tolist(), child_lo[row][keep].tolist(), child_hi[row][keep].tolist(), strict=True)
        assert list(found) == [(t, *interval[(*prefix, t)]) for t in sorted(tree.get(prefix, ()))]
        assert not valid[row, 1:][~keep[:-1]].any()  # padding only behind the children
    root = walker.root(2)
    for one, other in zip(walker.children_padded(root[0], root[1], torch.tensor(0)), walker.children_padded(*root), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", [None, "cpu"])
@settings(max_examples=60, deadline=None)
@given(paths=path_sets())
@example(paths=[[3]])
@example(paths=[[3, 4, 5]])
def test_steps_by_any_token_from_any_node(device: str | None, paths: Paths) -> None:
    """Tokens of the trie, of none of its nodes, below zero and beyond its vocabulary. Once off the trie, off for good."""
    trie = Trie(paths)
    walker, interval = TrieWalker(trie, device), intervals_of(paths)
    tokens = sorted({t for p in paths for t in p})
    tokens += [-1, -trie.vocab, 2, trie.vocab, trie.vocab + tokens[0], 2**31]
    pairs = [(p, t) for p in interval for t in tokens]
    lo, hi, depth = walk(walker, [*interval])
    at = vector(device, [i for i in range(len(interval)) for _ in tokens])
    token = vector(device, [t for _, t in pairs])
    lo, hi, depth = walker.step(lo[at], hi[at], depth[at], token)
    assert depth.tolist() == [len(p) + 1 for p, _ in pairs]
    for (prefix, t), a, b in zip(pairs, lo.tolist(), hi.tolist(), strict=True):
        assert (a, b) == interval[(*prefix, t)] if (*prefix, t) in interval else a == b
    off = vector(device, [i for i, (prefix, t) in enumerate(pairs) if (*prefix, t) not in interval])
    for t in tokens:
        a, b, _ = walker.step(lo[off], hi[off], depth[off], token[off] * 0 + t)
        assert bool((a == b).all())


@settings(max_examples=60, deadline=None)
@given(path_sets())
def test_legal_tokens_are_those_of_the_dictionary(paths: Paths) -> None:
    trie = Trie(paths)
    for prefix, below in nodes_of(tree_of(paths)):
        assert list(legal_tokens(trie, prefix)) == sorted(below)
        assert list(legal_tokens(trie, (*prefix, 151_937))) == []


# --- construction --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(path_sets())
def test_paths_come_back_as_given(paths: Paths) -> None:
    trie = Trie(paths)
    assert len(trie) == len(paths)
    assert as_lists(trie) == paths
    assert [paths[leaf] for leaf in trie.leaf] == sorted(paths)
    assert trie.leaf[trie.rank].tolist() == list(range(len(paths)))
    assert trie.depth == max(map(len, paths))
    assert len(trie.tokens) == len([*nodes_of(tree_of(paths))]) - 1  # one token an edge


@settings(max_examples=60, deadline=None)
@given(path_sets())
def test_from_arrays_is_the_same(paths: Paths) -> None:
    flat, lengths = np.array([t for p in paths for t in p]), np.array([len(p) for p in paths])
    want = Trie(paths, 151_936, "hash", 151_937)
    assert_same(Trie.from_flat(flat, lengths, 151_936, "hash", 151_937), want)
    assert_same(Trie.from_flat(flat.astype(np.uint32), lengths.astype(np.uint8), 151_936, "hash", 151_937), want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64, np.uint64])
def test_from_arrays_of_any_integer_type_up_to_its_greatest_number(dtype: type[np.integer]) -> None:
    top = min(int(np.iinfo(dtype).max), 2**31 - 2)
    assert as_lists(Trie.from_flat(np.array([top, 1, 2, top], dtype), np.array([2, 2]))) == [[top, 1], [2, top]]


def test_does_not_hold_the_arrays_given() -> None:
    flat, lengths = np.array([5, 1, 5, 2], np.int32), np.array([2, 2])
    trie = Trie.from_flat(flat, lengths)
    flat[:], lengths[:] = 7, 1
    assert as_lists(trie) == [[5, 1], [5, 2]]


def test_three_thousand_random_paths() -> None:
    """At size: the sort, the front coding, the nodes level by level, and splicing, against the dictionary trie."""
    paths = random_paths(3000)
    trie = Trie(paths)
    assert trie.depth == 25
    assert len(trie.tokens) < 0.9 * sum(map(len, paths))  # they do share
    assert as_lists(trie) == paths
    assert [paths[leaf] for leaf in trie.leaf] == sorted(paths)
    flat, lengths = np.array([t for p in paths for t in p]), np.array([len(p) for p in paths])
    assert_same(Trie.from_flat(flat, lengths), trie)
    for device in (None, "cpu"):
        walker, trees = TrieWalker(trie, device), [tree_of(paths)]
        lo, hi, depth = walker.root(1)
        while trees:
            row, token, child_lo, child_hi = walker.children(lo, hi, depth)
            want = [(i, t) for i, tree in enumerate(trees) for t in sorted(tree)]
            assert list(zip(row.tolist(), token.tolist(), strict=True)) == want
            stepped = walker.step(lo[row], hi[row], depth[row], token)
            assert [x.tolist() for x in stepped[:2]] == [child_lo.tolist(), child_hi.tolist()]
            assert walker.ends(*stepped).tolist() == [not trees[i][t] for i, t in want]
            trees = [trees[i][t] for i, t in want]
            lo, hi, depth = stepped
    half = len(paths) // 2
    assert_same(add(Trie(paths[:half]), paths[half:]), trie)
    gone = np.random.default_rng(1).permutation(len(paths))[:half]
    assert_same(remove(trie, gone), Trie([paths[i] for i in sorted(set(range(len(paths))) - {*gone.tolist()})]), but=("vocab",))


def test_the_longest_path() -> None:
    paths = [[1] * 65_534 + [2], [1] * 65_535]
    assert as_lists(Trie(paths)) == paths


@pytest.mark.parametrize("length", [254, 255, 256, 257, 400])
def test_long_paths_are_spliced_alike(length: int) -> None:
    paths = [[1] * (length - 1) + [2], [1] * (length - 1) + [3], [1] * (length // 2) + [4, 1], [5]]
    trie = Trie(paths)
    assert as_lists(trie) == paths
    assert_same(add(Trie(paths[:2]), paths[2:]), trie)
    assert_same(add(Trie(paths[2:]), paths[:2]), Trie(paths[2:] + paths[:2]))
    for gone in range(4):
        assert_same(remove(trie, [gone]), Trie(paths[:gone] + paths[gone + 1 :]), but=("vocab",))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one identifier"),
        ([[1], []], "Identifier 1 has no tokens"),
        ([[], []], "Identifier 0 has no tokens"),
        ([[1, 2], [3], [1, 2]], "0 and 2 are equal"),
        ([[3], [150_000] * 9, [1], [150_000] * 9], "1 and 3 are equal"),
        ([[1, 2, 3], [3], [1, 2]], "0 and 2 begin one another"),
        ([[1], [3], [1, 2]], "0 and 2 begin one another"),
        ([[0], [3], [0, 0]], "0 and 2 begin one another"),
        ([[1, -2]], "negative"),
        ([[1, 2**31 - 1]], "above"),
        ([[1] * 2**16], "expected fewer than 65536"),
    ],
)
def test_refuses(paths: Paths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie(paths)


def test_refuses_special_tokens_inside_identifiers() -> None:
    paths = [[1, 2], [3]]
    for token in (1, 2, 3):
        with pytest.raises(ValueError, match=f"EOS token {token} occurs inside"):
            Trie(paths, eos_token_id=token)
        with pytest.raises(ValueError, match=f"Pad token {token} occurs inside"):
            Trie(paths, eos_token_id=0, pad_token_id=token)
    trie = Trie(paths, eos_token_id=8, pad_token_id=9)
    with pytest.raises(ValueError, match="EOS token 8 occurs inside"):
        add(trie, [[4, 8]])
    with pytest.raises(ValueError, match="Pad token 9 occurs inside"):
        add(trie, [[9]])


@pytest.mark.parametrize("lengths", [[2, 3], [2, 1], [4, -1], [3, 0], []])
def test_refuses_lengths_that_do_not_fit_the_tokens(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"lengths that sum to|has no tokens|at least one"):
        Trie.from_flat(np.array([1, 2, 3, 4]), np.array(lengths, np.int64))


def test_is_immutable(tmp_path: Path) -> None:
    trie = Trie([[1, 2], [1, 3], [4]])
    trie.save(tmp_path / "trie")
    for one in (trie, add(trie, [[5]]), remove(trie, [1]), Trie.load(tmp_path / "trie")):
        for name in (*ARRAYS, "border_key", "rank"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(one, name)[...] = 0


# --- a living catalog ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(path_sets(), st.data())
def test_add_equals_building_anew(paths: Paths, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(paths)))
    before = Trie(paths[:k], 151_936, "hash", 151_937)
    assert_same(add(before, paths[k:]), Trie(paths, 151_936, "hash", 151_937))
    assert as_lists(before) == paths[:k]


@settings(max_examples=150, deadline=None)
@given(path_sets(), st.data())
def test_remove_equals_building_anew(paths: Paths, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(paths) - 1), max_size=len(paths) - 1))
    kept = [i for i in range(len(paths)) if i not in gone]
    trie = Trie(paths, 151_936, "hash", 151_937)
    left = [paths[i] for i in kept]
    assert_same(remove(trie, [*gone]), Trie(left, 151_936, "hash", 151_937), but=("vocab",))
    # ... or with numbers of one's own for those that stay
    number = data.draw(st.permutations(range(len(kept))))
    renumbered = np.full(len(paths), -1)
    renumbered[kept] = number
    ordered = [p for _, p in sorted(zip(number, left, strict=True))]
    assert_same(remove(trie, np.array([*gone], np.int64), renumbered), Trie(ordered, 151_936, "hash", 151_937), but=("vocab",))
    assert as_lists(trie) == paths
    # ... and what was removed can come back
    assert sorted(as_lists(add(remove(trie, [*gone]), [paths[i] for i in gone]))) == sorted(paths)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([[8], [1, 2]], r"Identifiers 0 and 4 are equal in tokens \[1, 2\]"),
        ([[4]], r"Identifiers 2 and 3 are equal in tokens \[4\]"),
        ([[1]], r"Identifiers 0 and 3 begin one another in tokens \[1\]"),
        ([[0], [4, 5]], r"Identifiers 2 and 4 begin one another in tokens \[4, 5\]"),
        ([[1, 3, 0, 0]], r"Identifiers 1 and 3 begin one another in tokens \[1, 3, 0, 0\]"),
        ([[1, 4], []], "Identifier 4 has no tokens"),
        ([[7], [8], [7]], "Identifiers 3 and 5 are equal"),
        ([[7], [8], [8, 1]], "Identifiers 4 and 5 begin one another"),
        ([[-1]], "negative"),
    ],
)
def test_add_refuses_with_the_leaves_of_the_new_trie(new: Paths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add(Trie([[1, 2], [1, 3], [4]]), new)


@settings(max_examples=60, deadline=None)
@given(path_sets(), st.data())
def test_add_refuses_every_path_that_is_there_or_begins_another(paths: Paths, data: st.DataObject) -> None:
    trie, path = Trie(paths), data.draw(st.sampled_from(paths))
    other = data.draw(st.sampled_from([path, path[:-1], [*path, 0], [*path, 151_936, 5]]).filter(len))
    with pytest.raises(ValueError, match="are equal" if other == path else "begin one another"):
        add(trie, [other])


def test_remove_refuses() -> None:
    trie = Trie([[1, 2], [1, 3], [4]])
    for leaves in ([3], [-1], [0, 7]):
        with pytest.raises(ValueError, match="Leaves are numbered 0 to 2"):
            remove(trie, leaves)
    with pytest.raises(ValueError, match="none would be left"):
        remove(trie, [2, 0, 1])


# --- on disk -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eos", "pad"), [(None, None), (7, 0), (0, 9), (151_936, None)])
@pytest.mark.parametrize("paths", [[[5]], [[1, 2], [1, 3], [4]], [[1] * 300, [1] * 299 + [2]]])
def test_loads_what_was_saved(tmp_path: Path, paths: Paths, eos: int | None, pad: int | None) -> None:
    trie = Trie(paths, eos, "a hash \n", pad)
    trie.save(tmp_path / "deep" / "trie", of="sha")
    loaded = Trie.load(tmp_path / "deep" / "trie")
    assert_same(loaded, trie)
    assert loaded.of == "sha"
    assert as_lists(loaded) == paths
    assert_same(add(loaded, [[6]]), add(trie, [[6]]))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["trie"]


def test_three_thousand_paths_come_back_from_disk(tmp_path: Path) -> None:
    trie = Trie(random_paths(3000), 150_001, "hash")
    trie.save(tmp_path / "trie")
    assert_same(Trie.load(str(tmp_path / "trie")), trie)


def test_a_loaded_trie_is_the_mapped_file(tmp_path: Path) -> None:
    file = tmp_path / "trie"
    Trie([[1, 2], [1, 3], [4]]).save(file)
    loaded = Trie.load(file)
    for name in ARRAYS:
        array = getattr(loaded, name)
        assert not array.flags.owndata
        assert not array.flags.writeable
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(file) in maps.read_text()
    # what is saved in its place does not reach those who have mapped it
    other = Trie([[8, 9], [7]])
    other.save(file)
    assert as_lists(loaded) == [[1, 2], [1, 3], [4]]
    assert_same(Trie.load(file), other)


@pytest.fixture
def saved(tmp_path: Path) -> bytes:
    Trie([[1, 2], [1, 3], [4]], 9, "abc", 0).save(tmp_path / "trie", of="sha")
    return (tmp_path / "trie").read_bytes()


def test_a_truncated_file_is_refused(tmp_path: Path, saved: bytes) -> None:
    for size in range(len(saved)):
        (tmp_path / "cut").write_bytes(saved[:size])
        with pytest.raises(ValueError, match=r"truncated|not written by"):
            Trie.load(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(saved + b"\0")
    with pytest.raises(ValueError, match="not a readable trie file"):
        Trie.load(tmp_path / "cut")


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, saved: bytes) -> None:
    """In the arrays, and as well in the header: vocabulary, special tokens and the tokenizer's hash are read from there."""
    other = {}
    for place in range(len(saved)):
        for bit in (0, 1, 5):
            spoiled = bytearray(saved)
            spoiled[place] ^= 1 << bit
            (tmp_path / "spoiled").write_bytes(spoiled)
            try:
                Trie.load(tmp_path / "spoiled")
                other[bytes(spoiled[max(0, place - 12) : place + 12])] = "loaded"
            except ValueError:
                pass
            except Exception as error:
                other[bytes(spoiled[max(0, place - 12) : place + 12])] = repr(error)
    assert not other


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="No trie at"):
            Trie.load(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file, trie = tmp_path / "other", Trie([[1, 2], [1, 3], [4]])
    arrays = {name: getattr(trie, name) for name in ARRAYS}
    weights = {"lm_head.weight": torch.zeros(2, 3)}
    for data in (
        b"",
        b"\x89PNG" * 20,
        safetensors_torch.save(weights, {"format": "pt"}),
        safetensors_torch.save(weights),
        safetensors_torch.save({"lm_head.weight": torch.zeros(2, 3, dtype=torch.bfloat16)}, {"format": "1"}),
        safetensors_numpy.save(arrays),
        safetensors_numpy.save(arrays, {"format": str(FORMAT)}),
        safetensors_numpy.save({"tokens": trie.tokens}, {"grlm_trie": json.dumps({"format": str(FORMAT)})}),
        safetensors_numpy.save({"tokens": trie.tokens}, {"grlm_trie": "[]"}),
        safetensors_numpy.save({"tokens": trie.tokens}, {"grlm_trie": "{"}),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"not a readable trie file|not written by Trie.save|corrupted"):
            Trie.load(file)


@pytest.mark.parametrize("names", [ARRAYS, ARRAYS[:3], (*ARRAYS, "prior")])
def test_a_newer_format_is_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Whatever arrays it may have."""
    trie = Trie([[1, 2], [1, 3], [4]])
    arrays = {name: getattr(trie, name, np.zeros(3)) for name in names}
    safetensors_numpy.save_file(arrays, tmp_path / "newer", {"grlm_trie": json.dumps({"format": str(FORMAT + 1), "news": 1})})
    with pytest.raises(ValueError, match=f"trie format {FORMAT + 1}; this grlm-hf reads up to {FORMAT}"):
        Trie.load(tmp_path / "newer")


# --- label tokens --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [300, 380, 600])
def test_the_trie_holds_exactly_the_catalogs_label_tokens(vocab_size: int) -> None:
    tokenizer, catalog = toy_tokenizer(vocab_size), toy_catalog()
    trie = catalog.trie(tokenizer)
    assert len(trie) == len(set(TERM_IDS)) == len(catalog) - 1
    # the whole assistant turn, encoded at once, is the concatenation of its items' paths
    text = "".join(TERMS.line(tid) for tid in catalog.identifiers)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    walker, found = TrieWalker(trie), []
    node = walker.root(1)
    for token in ids:
        node = walker.step(*node, np.array([token]))
        assert node[0] < node[1]
        if walker.ends(*node).all():
            found.append(catalog.identifiers[trie.leaf[node[0][0]]])
            node = walker.root(1)
    assert node[2] == 0
    assert tuple(found) == catalog.identifiers


def test_the_toys_have_identifiers_of_many_lengths() -> None:
    assert len(set(map(len, identifier_tokens(toy_tokenizer(), TERMS, toy_catalog().identifiers)))) > 4


def test_refuses_a_tokenizer_that_merges_across_items() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    lines = "".join(TERMS.line(t) for t in TERM_IDS)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # no split at all: merges what it likes
    bpe.train_from_iterator([lines] * 9, trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    with pytest.raises(ValueError, match="merges tokens across the border"):
        toy_catalog().trie(PreTrainedTokenizerFast(tokenizer_object=bpe))


# --- what walkers share --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 225])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_range_max_of_every_interval(n: int, dtype: type[np.floating]) -> None:
    values = np.random.default_rng(n).standard_normal(n).astype(dtype)
    values[:: max(2, n // 5)] = -np.inf
    lo, hi = np.triu_indices(n + 1)  # all with lo <= hi, the empty ones too
    want = [values[a:b].max(initial=-np.inf) for a, b in zip(lo, hi, strict=True)]
    found = RangeMax(values)(lo, hi)
    assert found.dtype == dtype
    assert found.tolist() == want


@pytest.mark.parametrize("n", [1023, 1024, 1025, 2048, 4097])
def test_range_max_over_many_blocks(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n).astype(np.float32)
    lo, hi = np.sort(rng.integers(0, n + 1, (2, 3000)), axis=0)
    lo[:3], hi[:3] = [0, n, 0], [n, n, 0]
    assert RangeMax(values)(lo, hi).tolist() == [values[a:b].max(initial=-np.inf) for a, b in zip(lo, hi, strict=True)]


def test_segment_log_softmax() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, -700.0, 700.0])
    got = segment_log_softmax(values, torch.tensor([0, 0, 2, 3, 3]), 5)
    want = torch.cat([values[:2].log_softmax(0), torch.zeros(1), values[3:].log_softmax(0)])
    assert torch.allclose(got, want)
