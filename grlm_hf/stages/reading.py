"""A data folder's tables: items, histories, and their split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grlm_hf.data.domains import leave_one_out_per_domain
from grlm_hf.data.interactions import History, Split, hold_out_items, leave_one_out, load_histories, split_as_given, split_by_time
from grlm_hf.data.items import Item, load_items
from grlm_hf.data.users import with_train_users
from grlm_hf.layout import SPLITS
from grlm_hf.recipe import DataConfig
from grlm_hf.tables.rows import find_table
from grlm_hf.tables.tally import Tally

log = logging.getLogger("grlm_hf")


def find_data(data: str | Path, *stems: str) -> Path:
    """The table of a data folder with one of these names. Raises ``ValueError`` that names the expected tables."""
    folder = Path(data)
    if not str(data) or not folder.is_dir():
        raise ValueError(f"No data folder at {str(data)!r}; expected one with items.* and interactions.* (csv, jsonl or parquet).")
    for stem in stems:
        if (path := find_table(folder, stem)) is not None:
            return path
    hint = " Let them be made from the items' texts: terms.generator=extract." if "term_ids" in stems else ""
    raise ValueError(f"{folder} holds no {' or '.join(f'{s}.*' for s in stems)} (csv, jsonl or parquet, also .gz).{hint}")


def read_items(data: str | Path, read: DataConfig | None = None, tally: Tally | None = None) -> list[Item]:
    """A data folder's items, as many as `DataConfig.limit` allows. `tally` counts what was read otherwise than it was written."""
    read = read or DataConfig()
    items = load_items(find_data(data, "items"), read.missing_title, tally)
    return items[: read.limit] if read.limit else items


def make_split(histories: Sequence[History], how: str, seed: int, domains: dict[str, str] | None = None) -> Split:
    """Splits histories as `DataConfig.split` says.

    Args:
        domains: item_id → its domain, for a split by domain.

    Raises:
        ValueError: an unknown split; or no validation or no test case is left.
    """
    if how == "leave-one-out":
        split = leave_one_out(histories)
    elif how == "leave-one-out-per-domain":
        split = leave_one_out_per_domain(histories, domains or {})
    elif how == "time":
        split = split_by_time(histories)
    elif how == "unseen-items":
        split = hold_out_items(histories, seed=seed)
    elif how == "given":
        split = split_as_given(histories)
    else:
        raise ValueError(f"read.split is {how!r}; expected one of {SPLITS}.")
    if not (split.validation and split.test):
        raise ValueError(
            f"read.split={how} leaves {len(split.validation)} validation and {len(split.test)} test cases of {len(histories)} users; "
            "expected some of each. Give more data, or choose another split."
        )
    return split


def read_split(
    data: str | Path, items: Sequence[Item], read: DataConfig, seed: int, tally: Tally | None = None
) -> tuple[list[History], Split]:
    """The histories of a data folder and their split, as `DataConfig` says; the same in every stage. `items`: of the catalog. `tally`
    counts what was read otherwise than it was written. Raises ``ValueError`` as `make_split` does."""
    if read.limit:  # histories lose events of items beyond the limit, some of them all
        read = replace(read, unknown_items="drop", short_users="drop" if read.short_users == "error" else read.short_users)
    tally = tally or Tally()
    events = find_data(data, "interactions", "sequences")
    histories = load_histories(events, {i.item_id for i in items}, read.short_users, read.unknown_items, tally)
    split = make_split(histories, read.split, seed, {i.item_id: i.domain for i in items})
    if read.train_users < 1:
        whole, split = split, with_train_users(split, read.train_users, seed)
        left_out = len(whole.train) - len(split.train)
        tally.count("users", f"are left out of training (read.train_users={read.train_users:g})", n=left_out, loss=False)
    return histories, split


def tell(tally: Tally) -> None:
    """Logs what was read otherwise than it was written."""
    for line in tally.lines():
        log.warning(line)
