"""Names of columns: ours, and those that other people give to the same things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from grlm_hf.files import did_you_mean

Names = Mapping[str, tuple[str, ...]]
"""Our name of a column → other names of it, in the form of `key`."""

ITEMS: Names = {
    "item_id": (
        "itemid", "item", "id", "sku", "skuno", "skunumber", "asin", "parentasin", "productid", "productcode", "productno", "productnumber",
        "itemno", "itemnumber", "itemcode", "movieid", "articleid", "articleno", "articlenumber", "gtin", "ean", "handle", "variantsku",
    ),
    "title": (
        "name", "productname", "producttitle", "itemname", "itemtitle", "productdisplayname", "label", "productlabel", "article",
        "articlename", "prodname",
    ),
    "brand": ("maker", "manufacturer", "brandname", "vendor", "make", "supplier"),
    "categories": ("category", "categorypath", "genres", "categorycode", "producttype", "type", "department", "productgroupname", "aisle"),
    "description": ("text", "longdescription", "productdescription", "details", "longtext", "desc",
        "bodyhtml", "detaildesc", "shortdescription"),
    "price": ("listprice", "unitprice", "saleprice", "retail", "retailprice", "regularprice", "variantprice", "priceusd", "priceeur"),
    "domain": (),
}  # fmt: skip
EVENTS: Names = {
    "user_id": (
        "userid", "user", "customer", "customerid", "customerno", "customernumber", "customeremail", "buyer", "buyerid",
        "client", "clientid",
        "clientno", "member", "memberid", "visitor", "visitorid", "fullvisitorid", "userpseudoid", "reviewerid", "sessionid", "uid",
    ),
    "item_id": (
        "itemid", "item", "sku", "skuno", "skunumber", "asin", "parentasin", "product", "productid", "productcode", "productno",
        "productnumber", "productsku", "itemno", "itemnumber", "itemcode", "lineitemsku", "movieid", "article", "articleid", "articleno",
        "articlenumber",
    ),
    "items": ("history", "sequence", "itemids"),
    "timestamp": (
        "time", "date", "datetime", "ts", "epoch", "unixtime", "unixtimestamp", "unixreviewtime", "eventtime", "eventdate",
        "eventtimestamp",
        "orderedat", "orderdate", "ordertime", "createdat", "purchasedat", "purchasedate", "viewedat", "clickedat", "boughtat", "boughton",
        "orderedon", "purchasedon", "purchasetime", "visitstarttime", "tdat", "invoicedate", "transactiondate",
    ),
    "timestamps": ("times", "dates"),
    "n_valid": (),
    "n_test": (),
}  # fmt: skip
_TIME = re.compile(r"time|date|stamp|[_ -]at$", re.IGNORECASE)


def key(name: str) -> str:
    """A name without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def match(found: Iterable[str], wanted: Names, where: str, given: Mapping[str, str] | None = None, *, times: bool = True) -> dict[str, str]:
    """Our name → the table's name, for each wanted column that the table has: under our own name, else under it in another form
    (``Item ID``), else under another known name.

    Args:
        given: our name → the table's name, where a person said so; "" for a column that is not to be read.
        times: refuse a column that looks like the missing one of times.

    Raises:
        ValueError: a given column that the table lacks; two columns that may be the wanted one; or no known column of times, and one that
            looks like it: without times the order of the file would be the order of events.
    """
    names, given = [name for name in found if isinstance(name, str)], given or {}
    mapping = {ours: theirs for ours, theirs in given.items() if theirs}
    for ours, theirs in mapping.items():
        if theirs not in names:
            hint = did_you_mean(theirs, names, f"It has {names[:40]}.")
            raise ValueError(f"{where} has no column {theirs!r}, which was named for {ours!r}. {hint}")
    for ours, others in wanted.items():
        if ours in given:
            continue
        same = [name for name in names if name == ours] or [name for name in names if key(name) == key(ours)]
        candidates = same or [name for name in names if key(name) in others and name not in mapping.values()]
        if len(candidates) > 1:
            some = " and ".join(map(repr, candidates[:3]))
            raise ValueError(f"{where} has the columns {some}, which may all be {ours!r}. Give that name to the right one.")
        if candidates:
            mapping[ours] = candidates[0]
    strange = [name for name in names if _TIME.search(name) and name not in mapping.values()]
    if times and strange and "timestamp" in wanted and not (mapping.keys() | given.keys()) & {"timestamp", "timestamps"}:
        raise ValueError(
            f"{where} has no column 'timestamp', and {strange[0]!r} looks like one. Name it timestamp (grlm import: --column "
            f"timestamp={strange[0]!r}); or remove it (--column timestamp=), if the order of the rows is the order of the events."
        )
    return mapping


def looks_like_a_time(name: str) -> bool:
    """Whether people call times so."""
    return bool(_TIME.search(name))


def renamed(mapping: Mapping[str, str]) -> str:
    """The columns that were read under another name than ours, for people; "" if there are none."""
    return ", ".join(f"{theirs!r} as {ours}" for ours, theirs in mapping.items() if ours != theirs)
