"""The synthetic shop: the same everywhere, of the promised shape, and with something to learn in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from grlm_hf.data import sample as module
from grlm_hf.data.sample import SYNTHETIC_NOTICE, Sample, make_sample

# Reports and the README quote numbers measured on this sample: when you change it on purpose, change this and measure them again.
DIGEST = "442154b0a0d0b030"


def digest(sample: Sample) -> str:
    return hashlib.sha256(repr(sample).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def shop() -> Sample:
    return make_sample()


@pytest.fixture(scope="module")
def histories(shop: Sample) -> dict[str, list[str]]:
    """User -> item ids, in the order of the rows."""
    found: dict[str, list[str]] = {}
    for row in shop.interactions:
        found.setdefault(row.user_id, []).append(row.item_id)
    return found


def test_same_seed_same_sample(shop: Sample):
    assert make_sample(seed=3, users=200) == make_sample(seed=3, users=200)
    assert digest(shop) == DIGEST


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_same_sample_in_another_process(hash_seed: str):
    code = (
        "import hashlib; from grlm_hf.data.sample import *; print(hashlib.sha256(repr(make_sample(users=300)).encode()).hexdigest()[:16])"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(make_sample(users=300))


def test_another_seed_another_sample(shop: Sample):
    other = make_sample(seed=1, users=20)
    assert {item.title for item in other.items} != {item.title for item in shop.items}
    assert [row.item_id for row in other.interactions[:100]] != [row.item_id for row in shop.interactions[:100]]


def test_fewer_users_are_the_first_users(shop: Sample):
    few = make_sample(users=7)
    assert few.items == shop.items
    assert few.interactions == shop.interactions[: len(few.interactions)]
    assert len({row.user_id for row in few.interactions}) == 7


def test_no_users_is_refused():
    with pytest.raises(ValueError, match="users is 0"):
        make_sample(users=0)


def test_counts(shop: Sample, histories: dict[str, list[str]]):
    assert len(shop.items) == 600
    assert len(histories) == 3000
    assert 25_000 <= len(shop.interactions) <= 30_000
    lengths = [len(history) for history in histories.values()]
    assert min(lengths) == 5
    assert max(lengths) == 20
    assert set(Counter(item.domain for item in shop.items).values()) <= set(range(144, 169))  # 8 kinds of 18 to 20, and a few more


def test_items_are_whole(shop: Sample):
    assert len({item.item_id for item in shop.items}) == len(shop.items)
    assert [item.item_id for item in shop.items] == sorted(item.item_id for item in shop.items)
    domains = json.loads(Path(module.__file__).with_name("sample_shop.json").read_text(encoding="utf-8"))["domains"]
    for item in shop.items:
        assert item.brand
        assert item.categories[0] == item.domain
        assert len(item.categories) == 3
        assert 4 <= item.price <= 640
        assert 1 <= item.description.count(".") <= 3
        assert item.description.endswith(".")
        for text in (item.title, item.description):
            assert text == " ".join(text.split())
            assert not set(text) & set("{}/"), f"{text!r} holds a bit of a template"
            assert text[0].isupper()
        # what a next-item model can go by is written down: the brand, and the range or the style
        spoken = f"{item.title} {item.description}".lower()
        assert item.brand in item.title
        ranges = domains[item.domain]["brands"][item.brand]
        assert any(line[name].lower() in spoken for line in ranges for name in ("range", "style"))


def test_words_differ_within_a_kind(shop: Sample):
    """Five words can tell most items of a kind apart: few share all their words with another."""
    kinds = defaultdict(list)
    for item in shop.items:
        kinds[item.categories].append(frozenset(f"{item.title} {item.description}".lower().replace(",", " ").split()))
    assert len(kinds) == 32
    texts = [words for kind in kinds.values() for words in kind]
    assert 560 <= len(set(texts)) < 600
    for kind in kinds.values():
        assert len(frozenset.union(*kind)) >= 80


def test_domains(shop: Sample, histories: dict[str, list[str]]):
    domain = {item.item_id: item.domain for item in shop.items}
    assert set(domain.values()) == {"Kitchen", "Outdoor", "Beauty", "Electronics"}
    visits = {user: [domain[item_id] for item_id in history] for user, history in histories.items()}
    several = [visit for visit in visits.values() if len(set(visit)) > 1]
    assert 0.03 <= len(several) / len(histories) <= 0.07
    switches = [sum(a != b for a, b in pairwise(visit)) for visit in several]
    assert max(switches) > 2  # interleaved, not one domain after the other
    assert set(Counter(visit[0] for visit in visits.values())) == set(domain.values())


def test_near_duplicates(shop: Sample):
    """Some items share every word with another, and more have the same description from the same brand."""
    exact = Counter((item.title, item.description) for item in shop.items)
    near = Counter((item.brand, item.categories, item.description) for item in shop.items)
    assert sum(count > 1 for count in exact.values()) >= 3
    assert sum(count > 1 for count in near.values()) >= 12
    assert max(near.values()) >= 3
    assert sum(near.values()) - len(near) <= 60  # the exception
    by_text = defaultdict(set)
    for item in shop.items:
        by_text[item.title, item.description].add(item.price)
    assert all(len(by_text[text]) == count for text, count in exact.items()), "items that read the same differ in price"


def test_histories(shop: Sample, histories: dict[str, list[str]]):
    known = {item.item_id for item in shop.items}
    for history in histories.values():
        assert set(history) <= known
        assert len(set(history)) == len(history), "an item bought twice"
    assert len({row.item_id for row in shop.interactions}) == len(known), "an item nobody bought"


def test_rows_are_in_order(shop: Sample):
    assert [row.user_id for row in shop.interactions] == sorted(row.user_id for row in shop.interactions)
    for before, after in pairwise(shop.interactions):
        assert before.user_id != after.user_id or before.timestamp < after.timestamp
    years = {datetime.fromtimestamp(row.timestamp, UTC).year for row in shop.interactions}
    assert years == {2024}
    assert all(type(row.timestamp) is int for row in shop.interactions)


def recall_at_10(histories: dict[str, list[str]], rank) -> float:
    """Share of users whose last item is in the first ten unseen ones of `rank(the items before)`."""
    hits = 0
    for *before, last in histories.values():
        hits += last in [item_id for item_id in rank(before) if item_id not in before][:10]
    return hits / len(histories)


def test_order_beats_popularity(histories: dict[str, list[str]]):
    """Leave-one-out: the last purchase tells much about the next one, popularity little, and the arrow of time matters."""
    popularity: Counter[str] = Counter()
    forward: dict[str, Counter[str]] = defaultdict(Counter)
    backward: dict[str, Counter[str]] = defaultdict(Counter)
    for *before, _last in histories.values():
        popularity.update(before)
        for a, b in pairwise(before):
            forward[a][b] += 1
            backward[b][a] += 1
    popular = [item_id for item_id, _ in popularity.most_common(40)]
    by_popularity = recall_at_10(histories, lambda before: popular)
    by_last = recall_at_10(histories, lambda before: [item_id for item_id, _ in forward[before[-1]].most_common(40)])
    by_next = recall_at_10(histories, lambda before: [item_id for item_id, _ in backward[before[-1]].most_common(40)])
    assert 0.025 <= by_popularity <= 0.065
    assert 0.25 <= by_last <= 0.6
    assert by_last >= 4 * by_popularity
    assert by_next <= by_last / 3


def test_taste_outlasts_the_last_item(shop: Sample, histories: dict[str, list[str]]):
    """The last brand is oftener that of two purchases ago than a third one: reading the whole history must pay."""
    items = {item.item_id: item for item in shop.items}
    two_ago = third = 0
    for history in histories.values():
        two_back, one_back, last = (items[item_id] for item_id in history[-3:])
        if two_back.domain == one_back.domain == last.domain and two_back.brand != one_back.brand != last.brand:
            two_ago += two_back.brand == last.brand
            third += two_back.brand != last.brand
    assert two_ago > 1.4 * third / 3  # a domain has five brands, so there are three others; without a lasting taste, the factor is 1


def test_it_says_that_it_is_synthetic():
    assert "synthetic" in SYNTHETIC_NOTICE.lower()
    assert "synthetic" in module.__doc__.lower()
    assert "synthetic" in make_sample.__doc__.lower()
