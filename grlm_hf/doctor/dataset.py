"""Checks of a dataset repository: its files, the agreement of its tables, and leakage of held-out items into training examples."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grlm_hf.data.catalog import Catalog, identifier_column
from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import cases_of, read_facts
from grlm_hf.doctor.cards import card, unsafe_files
from grlm_hf.doctor.catalog import examine_catalog
from grlm_hf.doctor.findings import Finding, run_checks
from grlm_hf.files import check_regular
from grlm_hf.identifiers import SCHEMES
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.identifiers.titles import TITLES
from grlm_hf.layout import DATASET_FACTS, HISTORIES
from grlm_hf.publishing.folder import check_folder
from grlm_hf.tables.tally import LOUD
from grlm_hf.tasks.config import HISTORY_TASKS
from grlm_hf.tasks.examples import FREE_TEXT
from grlm_hf.tasks.prompts import prompt_hash, templates_hash, without_evidence, written_title

_USER_TASKS = (*HISTORY_TASKS, "steered")
"""Tasks with examples from a user's history; their keys are user ids."""
_ALIKE = 5
"""From this many events on, two users with the same history are probably one."""
_REMAKE = "Create the dataset again: grlm dataset DATA --catalog CATALOG --output DATASETS."


@dataclass
class Tables:
    """The readable parts of a dataset."""

    folder: Path
    published: bool = False
    facts: dict[str, Any] | None = None
    catalog: Catalog | None = None
    cases: dict[str, list[Case]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def examine_dataset(folder: Path, published: bool = False) -> tuple[Tables, list[Finding]]:
    """The tables of a dataset folder with their facts, and all findings."""
    tables = Tables(folder, published)
    checks = [_whole, _catalog, _reading, _prompts, _cases, _interactions, _users, _examples, _files]
    return tables, run_checks(checks, tables, where=str(folder))


def _rows(tables: Tables, config: str, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of one split, batch by batch; none for a missing or broken table, which `_whole` reports."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted((tables.folder / config).glob(f"{split}-*.parquet")):
        try:
            check_regular(path)
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=columns):
                    if batch.num_columns == len(columns):
                        yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError):
            return


def _whole(tables: Tables) -> Iterator[Finding]:
    path = tables.folder / DATASET_FACTS
    try:
        tables.facts = read_facts(path)
        check_folder(tables.folder)
    except (ValueError, KeyError, TypeError) as error:
        found = "schema" if "this grlm-hf reads" in str(error) else "broken-file"
        yield Finding("error", found, str(error), "Training and evaluation refuse it, or lack the missing part.", _REMAKE)
    if tables.facts:
        tables.about |= {n: tables.facts[n] for n in ("title", "split", "history", "max_history") if n in tables.facts}


def _catalog(tables: Tables) -> Iterator[Finding]:
    tables.catalog, found = examine_catalog(tables.folder)
    yield from found
    if (c := tables.catalog) is None:
        return
    tables.about["catalog"] = f"{len(c):,} items, {len(c.identifiers):,} {c.scheme.noun}s"
    column = identifier_column(c.scheme)
    stated = {row["item_id"]: tuple(row[column] or ()) for row in _rows(tables, "term_ids", "train", ["item_id", column])}
    other = [i.item_id for i, tid in zip(c.items, c.item_identifiers, strict=True) if stated and stated.get(i.item_id) != tid]
    if other or (stated and len(stated) != len(c)):
        some = f", such as {other[0]!r}" if other else ""
        yield Finding("error", "tables-disagree",
                      f"The table term_ids and catalog.parquet differ in {max(len(other), abs(len(stated) - len(c)))} items{some}.",
                      "A reader of the table trains on other identifiers than those that are served.", _REMAKE,
                      str(tables.folder / "term_ids"))  # fmt: skip


def _reading(tables: Tables) -> Iterator[Finding]:
    facts = tables.facts or {}
    parts = (facts.get("provenance"), facts.get("terms"), facts)
    lines = [line for part in parts if isinstance(part, dict) and isinstance(part.get("reading"), list) for line in part["reading"]]
    lines = list(dict.fromkeys(map(str, lines)))
    if lines:
        tables.about["reading"] = " ".join(line.removeprefix("Warning: ") for line in lines)
    for line in lines:
        if line.startswith("Warning: "):
            yield Finding("warning", "reading", line.removeprefix("Warning: "), "That is a large part of the data.",
                          "Compare with the files behind it, and make it again.", str(tables.folder / DATASET_FACTS))  # fmt: skip


def _prompts(tables: Tables) -> Iterator[Finding]:
    if not (facts := tables.facts or {}):
        return
    history, where = facts.get("history", "term_ids"), str(tables.folder / DATASET_FACTS)
    scheme = facts.get("scheme", "terms")
    if history not in HISTORIES or scheme not in SCHEMES:
        expected = f"history is {history!r}, scheme {scheme!r}; expected one of {HISTORIES} and of {tuple(SCHEMES)}."
        yield Finding("error", "config", expected, "No prompt can be written.", _REMAKE, where)
        return
    mixture = facts.get("mixture")
    stated = mixture.get("templates_hash") if isinstance(mixture, dict) else None
    if facts.get("prompt_hash") != (written := prompt_hash(history, SCHEMES[scheme], facts.get("evidence", 0))):
        yield Finding("error", "prompt-drift", f"It has prompts of hash {facts.get('prompt_hash')!r}; this grlm-hf writes {written}.",
                      "A model trained on it would be prompted differently than in training.", _REMAKE, where)  # fmt: skip
    elif stated is not None and stated != templates_hash():
        yield Finding(
            "warning", "prompt-drift", f"Its tasks were written with templates of hash {stated!r}; this grlm-hf has {templates_hash()}.",
            "Prompts for recommendations are unchanged; those for search phrases, wishes or titles have changed.", _REMAKE, where,
        )  # fmt: skip


def _cases(tables: Tables) -> Iterator[Finding]:
    for part in ("validation", "test"):
        tables.cases[part] = cases_of(_rows(tables, "cases", part, ["user_id", "history", "target"]))
        repeated = sum(c.target in c.history for c in tables.cases[part])
        seen = f", {repeated:,} with a target that the history has" if repeated else ""
        tables.about[f"{part} cases"] = f"{len(tables.cases[part]):,}{seen}"
        if repeated > len(tables.cases[part]) * LOUD:
            yield Finding("warning", "seen-targets",
                          f"{repeated:,} of {len(tables.cases[part]):,} {part} cases ask for an item that the history has already.",
                          "With seen items left out, no method can find it: figures are that much lower, and settings are chosen on less.",
                          "Evaluate with --set evaluate.exclude_seen=false where people take things again; otherwise keep only the first "
                          "event of each user and item in the data.", str(tables.folder / "cases"))  # fmt: skip
    if not any(tables.cases.values()):
        yield Finding("warning", "cases", "There are no validation and no test cases.", "Nothing can be measured.", _REMAKE)
    if (known := tables.catalog) is None:
        return
    strange = {i for cases in tables.cases.values() for c in cases for i in (*c.history, c.target) if i not in known}
    strange |= {r["item_id"] for p in ("train", "validation", "test") for r in _rows(tables, "interactions", p, ["item_id"])
                if r["item_id"] not in known}  # fmt: skip
    if strange:
        yield Finding("error", "unknown-items", f"{len(strange)} items of interactions or cases are not in the catalog, such as "
                      f"{min(map(str, strange))!r}.", "They can neither be in a prompt nor be recommended.", _REMAKE)  # fmt: skip


def _interactions(tables: Tables) -> Iterator[Finding]:
    """A user's held-out items must not be among the training events, unless the user also had the item before."""
    held, events = _held_out(tables, ("validation", "test")), _rows(tables, "interactions", "train", ["user_id", "item_id"])
    trained = Counter((row["user_id"], row["item_id"]) for row in events if row["user_id"] in held)
    leaks = [(user, c.target) for user, cases in held.items() for c in cases if trained[user, c.target] > c.history.count(c.target)]
    if leaks:
        yield Finding("error", "target-leakage",
                      f"{len(leaks)} held-out targets are among their users' training interactions, such as item "
                      f"{leaks[0][1]!r} of user {leaks[0][0]!r}.",
                      "The model has seen the answers: every figure measured on it is too high.", f"Split before training. {_REMAKE}",
                      str(tables.folder / "interactions"))  # fmt: skip


def _held_out(tables: Tables, parts: tuple[str, ...]) -> dict[str, list[Case]]:
    held: dict[str, list[Case]] = defaultdict(list)
    for part in parts:
        for case in tables.cases.get(part, []):
            held[case.user_id].append(case)
    return held


def _users(tables: Tables) -> Iterator[Finding]:
    where = str(tables.folder / "cases")
    for part, cases in tables.cases.items():
        if (tables.facts or {}).get("split") == "leave-one-out":
            twice = [user for user, n in Counter(c.user_id for c in cases).items() if n > 1]
        else:
            repeated = Counter((c.user_id, c.history, c.target) for c in cases)
            twice = sorted({user for (user, _, _), n in repeated.items() if n > 1})
        if twice:
            yield Finding("error", "duplicate-users", f"{len(twice)} users have several {part} cases instead of one, such as {twice[0]!r}.",
                          "They count several times in every metric, and the intervals are too narrow.",
                          f"Keep one row per user (or join their events) in the interactions. {_REMAKE}", where)  # fmt: skip
    alike: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for c in tables.cases.get("test", []):
        if len(c.history) + 1 >= _ALIKE:
            alike[*c.history, c.target].add(c.user_id)
    if same := [sorted(users) for users in alike.values() if len(users) > 1]:
        yield Finding("warning", "duplicate-users",
                      f"{sum(map(len, same)) - len(same)} users have the same history as another ({_ALIKE} events or "
                      f"more), such as {same[0][:2]}.",
                      "One person under two ids: a test target of one may be a training event of the other.",
                      "Drop or join them in the interactions before grlm dataset.", where)  # fmt: skip


def _examples(tables: Tables) -> Iterator[Finding]:
    """Training examples with a held-out item, with their user's id, or with an identifier that is not in the catalog."""
    catalog, history = tables.catalog, str((tables.facts or {}).get("history", "term_ids"))
    if catalog is None:
        return
    known = set(map(catalog.scheme.write, catalog.identifiers))
    mark = {TERMS.name: "[", TITLES.name: "\n"}.get(catalog.scheme.name, "<")  # what an identifier's line begins with; any text is a title
    leaks, named, stale = list[str](), list[str](), list[str]()
    keyed = total = 0
    for split, parts in (("train", ("validation", "test")), ("validation", ("test",))):
        held = _held_out(tables, parts)
        for row in _rows(tables, "sft", split, ["task", "key", "prompt", "completion"]):
            total += 1
            prompt, answer = ("\n".join(str(m.get("content")) for m in row[side] or ()) for side in ("prompt", "completion"))
            lines = answer.splitlines()
            if row["task"] not in FREE_TEXT and lines and lines[-1].startswith(mark) and lines[-1] not in known:
                stale.append(lines[-1])
            if row["task"] not in _USER_TASKS:
                continue
            keyed += 1
            user = str(row["key"])
            if re.search(rf"(?<![\w-]){re.escape(user)}(?![\w-])", prompt):
                named.append(user)
            shown = Counter([*without_evidence(prompt).splitlines(), *lines])
            leaks += [user for c in held.get(user, ()) if _leaks(shown, c, catalog, history)]
    tables.about["training examples"] = f"{total:,}"
    where = str(tables.folder / "sft")
    if leaks:
        yield Finding("error", "target-leakage",
                      f"{len(leaks)} training examples contain a held-out target of their user, such as one of user {leaks[0]!r}.",
                      "The model memorises the answers: every figure measured on it is too high.", f"Split first. {_REMAKE}",
                      where)  # fmt: skip
    plain = [user for user in named if not user.isdigit() and len(user) > 2]  # a number in a title may equal an id by chance
    if plain or len(named) > keyed / 2:
        yield Finding("error", "user-ids", f"{len(named)} prompts contain the id of their user, such as {(plain or named)[0]!r}.",
                      "The model can memorise users, which does not help new ones; and every checkpoint would leak people's ids.",
                      f"Write prompts with grlm_hf.tasks.prompts, which uses no ids. {_REMAKE}", where)  # fmt: skip
    if stale:
        yield Finding("error", "stale-examples", f"{len(stale)} answers are no {catalog.scheme.noun} of the catalog: {stale[0][:80]}.",
                      "They were written with another catalog: the trie excludes what the model learns.", _REMAKE, where)  # fmt: skip


def _leaks(shown: Counter[str], case: Case, catalog: Catalog, history: str) -> bool:
    """Whether a target occurs in the lines of an example more often than in its history."""
    if case.target not in catalog:
        return False
    tid, title = catalog.identifier(case.target), written_title(catalog[case.target])
    before = [i for i in case.history if i in catalog]
    if shown[catalog.scheme.write(tid)] > sum(catalog.identifier(i) == tid for i in before):
        return True
    return history == "titles" and shown[title] > sum(written_title(catalog[i]) == title for i in before)


def _files(tables: Tables) -> Iterator[Finding]:
    names = (p.relative_to(tables.folder).as_posix() for p in tables.folder.rglob("*") if p.is_file())
    yield from unsafe_files(names, {})
    yield from card(tables.folder, tables.published)
