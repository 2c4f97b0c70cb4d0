"""Files of Semantic IDs, as LC-Rec, LETTER and MiniOneRec publish them, and as a table.

NAME.index.json   {"0": ["<a_12>", "<b_3>", "<c_7>"], …}: an item's number → its codes, one a level
NAME.item2id      item_id, TAB, number; no header
NAME.tsv          the columns item_id and codes: <a_12> <b_3> <c_7>
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.files import check_regular, clean, write_text
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.identifiers.symbols import CODES, LEVELS
from grlm_hf.tables.names import ITEMS
from grlm_hf.tables.rows import read_rows

MOST = 2**27
"""Bytes of text that an index file or a mapping may have: about three million items."""
_INDEX, _NUMBERS = (".index.json", ".index.json.gz"), ".item2id"
_CODE = re.compile(r"<((?:[a-z0-9-]+\.)?([a-z])_[0-9]+)>")
_COLUMNS = {"item_id": ITEMS["item_id"], "codes": ()}


def is_index(path: str | Path) -> bool:
    """Whether a file is an index by its name, or a table by its column ``codes``."""
    if str(path).endswith(_INDEX):
        return True
    name = str(path).removesuffix(".gz")
    return name.endswith((".tsv", ".csv", ".jsonl")) and any("codes" in row for _, row in islice(read_rows(path), 1))


def read_index(path: str | Path, items: Sequence[Item] = (), numbers: str | Path = "") -> dict[str, Identifier]:
    """item_id → Semantic ID, of `items` in their order; of all items of the file where none are given.

    Args:
        numbers: file of item ids and numbers, where the file's keys are not item ids; by default ``NAME.item2id`` beside it, if there is
            one and an item is no key.

    Raises:
        ValueError: no readable file; a key twice; codes in one text, not of their level, or of unequal number (except for one more at the
            end, which separates items with equal codes); an item without codes.
    """
    found: dict[str, Identifier] = {}
    for key, codes in _pairs(Path(path)):
        if key in found:
            raise ValueError(f"{path} has the item {key!r} twice; expected one list of codes an item. Remove all but one.")
        found[key] = _checked(path, key, codes)
    if not found:
        raise ValueError(f"{path} holds no item; expected item numbers, each with a list of codes.")
    _check_lengths(path, found)
    if not items:
        return found
    if not numbers and not all(item.item_id in found for item in items):
        numbers = numbers_beside(path) or ""
    known = _read_numbers(Path(numbers)) if numbers else {}
    key_of = {item.item_id: known.get(item.item_id, "") if numbers else item.item_id for item in items}
    if missing := [i for i, key in key_of.items() if key not in found]:
        how = f"by {Path(numbers).name}" if numbers else f"whose keys look like {', '.join(map(repr, islice(found, 3)))}"
        raise ValueError(
            f"{path} has codes of {len(found)} items, {how}; {len(missing)} of the {len(items)} items here are not among them, such as "
            f"{missing[:3]}. Name the index of these items; if its keys are numbers, also the file that maps item ids to them: "
            "identifier.codes.numbers."
        )
    return {item_id: found[key] for item_id, key in key_of.items()}


def numbers_beside(path: str | Path) -> Path | None:
    """The file ``NAME.item2id`` beside ``NAME.index.json``, if there is one."""
    beside = Path(re.sub(r"\.(index\.)?json(\.gz)?$|\.tsv(\.gz)?$", "", str(path)) + _NUMBERS)
    return beside if beside.is_file() else None


def write_index(catalog: Catalog, path: str | Path) -> None:
    """Writes the codes of a catalog of Semantic IDs: ``NAME.index.json`` whose keys are the items' positions, with ``NAME.item2id`` beside
    it; or ``NAME.tsv``. Raises ``ValueError`` for another catalog, or another name."""
    if catalog.scheme is not CODES:
        raise ValueError(f"The catalog has {catalog.scheme.noun}s; an index file holds codes of Semantic IDs.")
    rows = [[f"<{part}>" for part in identifier] for identifier in catalog.item_identifiers]
    ids = [item.item_id for item in catalog]
    if str(path).endswith(_INDEX[0]):
        write_text(str(path).removesuffix(_INDEX[0]) + _NUMBERS, "".join(f"{item_id}\t{n}\n" for n, item_id in enumerate(ids)))
        write_text(path, json.dumps({str(n): codes for n, codes in enumerate(rows)}) + "\n")
    elif str(path).endswith(".tsv"):
        lines = (f"{item_id}\t{' '.join(codes)}\n" for item_id, codes in zip(ids, rows, strict=True))
        write_text(path, "item_id\tcodes\n" + "".join(lines))
    else:
        raise ValueError(f"{path} is no name of an index; expected one that ends with {_INDEX[0]} or .tsv.")


def _pairs(path: Path) -> Iterable[tuple[str, Any]]:
    """Keys and codes as they are written."""
    if not path.name.endswith((".json", ".json.gz")):
        rows = read_rows(path, _COLUMNS, needed=("item_id", "codes"))
        return ((clean(row["item_id"]), c.split() if isinstance(c := row["codes"], str) else c) for _, row in rows)
    try:
        found = json.loads(_text(path), object_pairs_hook=lambda pairs: pairs)  # a dict would hide a key that is there twice
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable JSON ({error}). Download or write it again.") from error
    if not isinstance(found, list) or not all(isinstance(pair, tuple) for pair in found):
        example = '{"0": ["<a_12>", "<b_3>"], …}'
        raise ValueError(f"{path} holds a JSON {type(found).__name__}; expected an object of item numbers and lists of codes: {example}")
    return found


def _checked(path: str | Path, key: str, codes: Any) -> Identifier:
    if isinstance(codes, str) or (isinstance(codes, list) and any(str(code).count("<") > 1 for code in codes)):
        raise ValueError(
            f'{path}: the item {key!r} has its codes in one text, {str(codes)[:80]!r}; expected one by one: "<a_12>", "<b_3>".'
        )
    if not isinstance(codes, list) or not codes or len(codes) > len(LEVELS):
        raise ValueError(f"{path}: the item {key!r} has {str(codes)[:80]!r}; expected a list of 1 to {len(LEVELS)} codes.")
    for level, code in enumerate(codes):
        match = _CODE.fullmatch(code) if isinstance(code, str) else None
        if match is None or match[2] != LEVELS[level]:
            raise ValueError(
                f"{path}: the item {key!r} has {str(code)[:40]!r} as code {level + 1}; expected one of level {LEVELS[level]}, such as "
                f"<{LEVELS[level]}_12>. Write the letter of its level into each code."
            )
    try:
        return CODES.validate(code[1:-1] for code in codes)
    except ValueError as error:
        raise ValueError(f"{path}: the item {key!r}: {error}") from error


def _check_lengths(path: str | Path, found: dict[str, Identifier]) -> None:
    lengths = Counter(map(len, found.values()))
    if max(lengths) - min(lengths) > 1:
        few, many = (next(key for key, codes in found.items() if len(codes) == n) for n in (min(lengths), max(lengths)))
        raise ValueError(
            f"{path}: the item {few!r} has {min(lengths)} codes and {many!r} {max(lengths)}; expected as many for each, or one more at the "
            "end to separate items with equal codes. Was the file cut off?"
        )


def _read_numbers(path: Path) -> dict[str, str]:
    """item_id → number, as text. A first line without a number is a header."""
    found: dict[str, str] = {}
    for at, line in enumerate(_lines(_text(path)), 1):
        cells = line.split(next((separator for separator in "\t," if separator in line), None))
        if len(cells) != 2 or not (cells[1].strip().isdecimal() or at == 1):
            raise ValueError(f"{path}:{at} holds {line[:80]!r}; expected an item id and a number, with a tab between.")
        item_id, number = clean(cells[0]), cells[1].strip()
        if number.isdecimal():
            if item_id in found:
                raise ValueError(f"{path}:{at} has the item {item_id!r} again; expected one number an item.")
            found[item_id] = number
    if twice := [number for number, n in Counter(found.values()).items() if n > 1]:
        raise ValueError(f"{path} has the number {twice[0]} for several items; expected a number of its own for each.")
    return found


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.split("\n") if line.strip())


def _text(path: Path) -> str:
    check_regular(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MOST + 1)
        if len(content) > MOST:
            raise ValueError(f"{path} has more than {MOST:,} bytes; it is no index of items, and is not read.")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
