"""Joins several catalogs into one: items tagged with their domain, joined histories, one space of Term IDs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import MIN_ITEMS, Case, History, Split, load_histories
from grlm_hf.data.items import Item, items_to_dataset, load_items, load_term_ids
from grlm_hf.files import check_replaceable, clean, replacing, rows_to_dataset, write_json, write_parquet
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.layout import DOMAINS_FILE, DOMAINS_SCHEMA, JoinOrder, KeepUsers, MissingTitle, UnknownItems
from grlm_hf.settings import check_value
from grlm_hf.tables.rows import find_table, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

JOINED = ("by time", "concatenated", "one domain")
"""How a user's history was combined from the domains' histories."""
_NAME = re.compile(r"[a-z0-9-]+")


def parse_sources(given: Iterable[str]) -> dict[str, Path]:
    """``["beauty=data/beauty", ...]`` as a mapping for `join_domains`. Raises ``ValueError`` for any other form or a repeated name."""
    sources: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not sign or not folder:
            raise ValueError(f"{text!r} is not a domain; expected NAME=FOLDER, such as beauty=data/beauty.")
        if name in sources:
            raise ValueError(f"The domain {name!r} is given twice: {sources[name]} and {folder}. Give each folder a name of its own.")
        sources[name] = Path(folder)
    return sources


def join_domains(
    sources: Mapping[str, str | Path],
    output: str | Path,
    *,
    users: str | Path | None = None,
    shared_users: bool = False,
    keep_users: KeepUsers = "all",
    order: JoinOrder = "auto",
    missing_title: MissingTitle = "error",
    unknown_items: UnknownItems = "error",
) -> dict[str, Any]:
    """Joins data folders into one that every stage reads: items, sequences and, if all folders have them, Term IDs.

    Item ids always become ``NAME:ID``, also without clashes, so an item's id does not depend on the other domains.

    By default users of different folders are different people, ``NAME:ID``. With `shared_users`, equal ids are one person. A `users` table
    has one row per person: `user_id`, and the person's id in each domain, in columns named like the domains or in one object `domains`
    (values are ids, or objects with a key that ends with `user_id`). Users without a row stay ``NAME:ID``.

    The history of a user of several domains is sorted by time if all its events have timestamps; ties are in the order of `sources`, then
    of the file. Otherwise the domains' events are concatenated in the order of `sources`, without timestamps. ``sequences.parquet`` states
    which for each user (`joined`), ``domains.json`` how often. Splits stated by source files (`n_valid`, `n_test`) are ignored.

    Args:
        sources: name → data folder, in the order for ties and concatenation. A name consists of a-z, 0-9 and hyphens.
        output: the folder to write; an existing one is replaced only if this function wrote it.
        keep_users: ``"all"``, or ``"shared"``: users with events in at least two domains.
        order: ``"auto"`` as above; ``"time"`` refuses users with unknown times; ``"concatenate"`` ignores times.
        missing_title: as in `load_items`.
        unknown_items: as in `load_histories`; ``"drop"`` also drops unknown users of the `users` table.

    Returns the content of ``domains.json``: how histories were joined, and counts. Raises `ValueError` for fewer than two domains, an
    illegal name, a missing folder or table, unreadable rows, a `users` table with an unknown or repeated user, no users left.
    """
    _check_options(sources, order, keep_users, users, shared_users)
    check_replaceable(output, DOMAINS_FILE)
    tables = {name: _tables(name, Path(folder)) for name, folder in sources.items()}
    domains = [_read_domain(name, *files, missing_title, unknown_items) for name, files in tables.items()]
    items = [item for domain in domains for item in domain.items]
    without = {domain.name: len(domain.items) - len(domain.term_ids) for domain in domains}
    parts = _by_person(domains, users, shared_users, unknown_items)
    rows = [{"user_id": who, **_joined(who, of, order)} for who, of in parts.items() if len(of) > 1 or keep_users == "all"]
    if not rows:
        raise ValueError("No user has events in two domains. State which users are the same person: users=FILE or shared_users=True.")
    term_ids = {item_id: tid for domain in domains for item_id, tid in domain.term_ids.items()}
    catalog = None if any(without.values()) else Catalog(items, [term_ids[i.item_id] for i in items])
    matched_by = "equal ids" if shared_users else "a users table" if users else "nothing: each domain has users of its own"
    facts = _facts(domains, rows, catalog, {"matched_by": matched_by, "kept": keep_users}, order)
    with replacing(output) as new:
        new.mkdir()
        write_parquet(items_to_dataset(items), new / "items.parquet")
        write_parquet(_sequences(rows), new / "sequences.parquet")
        if catalog is not None:
            write_parquet(_term_ids(catalog), new / "term_ids.parquet")
        write_json(new / DOMAINS_FILE, facts)
    if 0 < sum(without.values()) < len(items):
        logger.warning("No term_ids.parquet: items without a Term ID: %s.", ", ".join(f"{n} of {d}" for d, n in without.items() if n))
    return facts


def leave_one_out_per_domain(histories: Iterable[History], domains: Mapping[str, str]) -> Split:
    """Each user's last item in each domain is a test target, the one before it in that domain a validation target; the rest is training.

    The history of a test case has all earlier items of all domains (GRLM's cross-domain protocol, arXiv 2601.06798); that of a validation
    case the same without other domains' test targets. Without timestamps the order of different domains' targets is unknown, so no history
    has another domain's targets. With histories concatenated domain by domain (`join_domains`), cases of the first domain therefore have
    items of that domain only.

    A domain with fewer than three items of a user is for training only. As in any leave-one-out, training has events later than some
    targets.

    `domains` maps an item_id to its domain. Raises `ValueError` for an item without one.
    """
    train: list[History] = []
    validation: list[Case] = []
    test: list[Case] = []
    for h in histories:
        places: dict[str, list[int]] = {}
        for i, item in enumerate(h.items):
            if not (domain := domains.get(item, "")):
                raise ValueError(
                    f"Item {item!r} of user {h.user_id!r} has no domain. Fill the items' `domain` column, or use leave-one-out."
                )
            places.setdefault(domain, []).append(i)
        tested = [at for at in places.values() if len(at) >= MIN_ITEMS]
        held = {i for at in tested for i in at[-2:]}
        for at in tested:
            others = [o for o in tested if o is not at]
            for target, cases in ((at[-2], validation), (at[-1], test)):
                if h.timestamps:
                    hidden = {o[-1] for o in others} if cases is validation else set()
                else:
                    hidden = {i for o in others for i in o[-2:]}
                past = tuple(h.items[i] for i in range(target) if i not in hidden)
                cases.append(Case(h.user_id, past, h.items[target], h.timestamps[target] if h.timestamps else None))
        kept = [i for i in range(len(h.items)) if i not in held]
        if kept:
            train.append(History(h.user_id, tuple(h.items[i] for i in kept), tuple(h.timestamps[i] for i in kept) if h.timestamps else ()))
    return Split("leave-one-out-per-domain", tuple(train), tuple(validation), tuple(test))


def cross_domain_collisions(catalog: Catalog) -> dict[Identifier, tuple[str, ...]]:
    """Term IDs shared by items of several domains, with these domains, in the catalog's order. They are no error: an identifier may name
    any number of items, and `grlm_hf.indexing.collisions.resolve` separates them like others."""
    found = {tid: {item.domain for item in group} for tid, group in catalog.collisions.items()}
    return {tid: tuple(d for d in catalog.domains if d in of) for tid, of in found.items() if len(of - {""}) > 1}


def _check_options(sources: Mapping[str, Any], order: str, keep_users: str, users: Any, shared_users: bool) -> None:
    check_value("order", order, JoinOrder)
    check_value("keep_users", keep_users, KeepUsers)
    if users and shared_users:
        raise ValueError("users and shared_users both state which users are the same person; give one of the two.")
    for name in sources:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"A domain is named {name!r}; expected a name of the characters a-z, 0-9 and hyphen, such as 'beauty'.")
    if len(sources) < 2:
        raise ValueError(f"Joining needs at least two domains; found {list(sources)}.")


def _tables(name: str, folder: Path) -> tuple[Path, Path, Path | None]:
    """The files of a data folder: items, events, and Term IDs if there are any."""
    if not folder.is_dir():
        raise ValueError(f"Domain {name!r}: no data folder at {str(folder)!r}; expected one with items.* and interactions.*.")
    items = find_table(folder, "items")
    events = find_table(folder, "interactions") or find_table(folder, "sequences")
    if items is None or events is None:
        lacks = "items.*" if items is None else "interactions.* or sequences.*"
        raise ValueError(f"Domain {name!r}: {folder} has no {lacks} (csv, jsonl or parquet, also .gz).")
    return items, events, find_table(folder, "term_ids") or find_table(folder, "term_ids_official")


@dataclass(frozen=True)
class _Domain:
    """The tables of a domain's folder: items and Term IDs with the ids of the joined catalog, ``NAME:ID``, histories with its own ids."""

    name: str
    items: list[Item]
    term_ids: dict[str, Identifier]
    histories: list[History]


def _read_domain(
    name: str, items: Path, events: Path, terms: Path | None, missing_title: MissingTitle, unknown_items: UnknownItems
) -> _Domain:
    own = load_items(items, missing_title)
    given = load_term_ids(terms) if terms else {}
    return _Domain(
        name,
        [replace(i, item_id=f"{name}:{i.item_id}", domain=name) for i in own],
        {f"{name}:{i.item_id}": given[i.item_id] for i in own if i.item_id in given},
        load_histories(events, {i.item_id for i in own}, "keep", unknown_items),
    )


def _by_person(
    domains: Sequence[_Domain], users: str | Path | None, shared_users: bool, unknown: UnknownItems
) -> dict[str, list[tuple[str, History]]]:
    """Person → (domain, history) in the order of the domains. Raises ``ValueError`` if the users table takes the name of another user."""
    known = {domain.name: {h.user_id for h in domain.histories} for domain in domains}
    person = _people(users, known, unknown) if users else {}
    alone = set() if shared_users else {f"{n}:{user}" for n, found in known.items() for user in found if (n, user) not in person}
    if clash := alone.intersection(person.values()):
        raise ValueError(f"{users} names a person {min(clash)!r}, which is also a user without a row. Choose another name for the person.")
    parts: dict[str, list[tuple[str, History]]] = {}
    for domain in domains:
        for h in domain.histories:
            who = h.user_id if shared_users else person.get((domain.name, h.user_id), f"{domain.name}:{h.user_id}")
            parts.setdefault(who, []).append((domain.name, h))
    return parts


def _facts(
    domains: Sequence[_Domain], rows: list[dict[str, Any]], catalog: Catalog | None, users: dict[str, str], order: str
) -> dict[str, Any]:
    """What ``domains.json`` holds. `rows`: of the sequences table. `users`: how users were matched and which are kept."""
    joined = Counter(row["joined"] for row in rows)
    events = Counter(item.partition(":")[0] for row in rows for item in row["items"])
    own_ids = Counter(item.item_id.partition(":")[2] for domain in domains for item in domain.items)
    return {
        "schema": DOMAINS_SCHEMA,
        "item_ids": "DOMAIN:ID, where ID is the item's id in the domain's own folder",
        "clashing_item_ids": sum(count > 1 for count in own_ids.values()),
        "domains": {
            domain.name: {
                "items": len(domain.items),
                "users": sum(domain.name in row["domains"] for row in rows),
                "interactions": events[domain.name],
                "without_term_id": len(domain.items) - len(domain.term_ids),
            }
            for domain in domains
        },
        "users": {**users, "all": len(rows), "in_several_domains": sum(len(row["domains"]) > 1 for row in rows)},
        "interactions": events.total(),
        "histories": {
            "order": order,
            **{how: joined[how] for how in JOINED},
            "ties": "the order of the domains, then that of the file",
            "concatenated_as": [domain.name for domain in domains],
        },
        "term_ids": catalog is not None,
        "cross_domain_collisions": None if catalog is None else len(cross_domain_collisions(catalog)),
    }


def _people(path: str | Path, known: Mapping[str, Collection[str]], unknown: str) -> dict[tuple[str, str], str]:
    """(domain, user id there) → the person's id, from a users table."""
    person: dict[tuple[str, str], str] = {}
    seen: dict[str, str] = {}
    for where, row in read_rows(path):
        who = clean(row.get("user_id"))
        of = row.get("domains", row)
        if not who or not isinstance(of, dict):
            raise ValueError(f"{where} needs `user_id`, and the person's id in each domain ({', '.join(known)}); found {row}.")
        if who in seen:
            raise ValueError(f"{where}: duplicate person {who!r}, first at {seen[who]}; expected one row per person.")
        seen[who] = where
        for name in known:
            value = of.get(name)
            if isinstance(value, dict):
                value = next((v for key, v in value.items() if key.endswith("user_id")), None)
            user = clean(value)
            if not user:
                continue
            if user not in known[name]:
                if unknown == "drop":
                    continue
                raise ValueError(
                    f"{where}: user {user!r} is not in the domain {name!r} ({len(known[name])} users). Correct the table, or drop "
                    "such users: unknown_items=drop."
                )
            if (name, user) in person:
                raise ValueError(f"{where}: user {user!r} of {name!r} is person {who!r}, but also {person[name, user]!r}; expected one.")
            person[name, user] = who
    if missing := sorted(set(known) - {name for name, _ in person}):
        raise ValueError(f"{path} names no user of the domain {missing[0]!r}; expected ids of users of {', '.join(known)}.")
    return person


def _joined(who: str, parts: list[tuple[str, History]], order: str) -> dict[str, Any]:
    """One person's row of the sequences table; `parts` are in the order of the domains."""
    untimed = [name for name, h in parts if not h.timestamps]
    if order == "time" and untimed:
        raise ValueError(
            f"User {who!r} has no timestamps in {untimed[0]!r}; order='time' needs them of all events. Choose 'auto' or 'concatenate'."
        )
    ids = [f"{name}:{item}" for name, h in parts for item in h.items]
    times = [t for _, h in parts for t in h.timestamps]
    if len(parts) == 1:
        how = "one domain"
    elif untimed or order == "concatenate":
        how, times = "concatenated", []
    else:
        how = "by time"
        by_time = sorted(range(len(ids)), key=times.__getitem__)  # stable: ties by domain, then file order
        ids, times = [ids[i] for i in by_time], [times[i] for i in by_time]
    return {"items": ids, "timestamps": times, "joined": how, "domains": [name for name, _ in parts]}


def _sequences(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Features, List, Value

    text = Value("string")
    features = Features({"user_id": text, "items": List(text), "timestamps": List(Value("int64")), "joined": text, "domains": List(text)})
    return rows_to_dataset(rows, features)


def _term_ids(catalog: Catalog) -> Dataset:
    from datasets import Features, List, Value

    rows = [{"item_id": i.item_id, "terms": list(tid)} for i, tid in zip(catalog.items, catalog.item_identifiers, strict=True)]
    return rows_to_dataset(rows, Features({"item_id": Value("string"), "terms": List(Value("string"))}))
