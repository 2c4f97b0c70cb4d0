"""The bodies of requests and answers, and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from grlm_hf.data.items import Item
from grlm_hf.decoding.rules import Rules, SearchOptions, Shared, Unknown, request_of
from grlm_hf.tables.cleaning import clean_text
from grlm_hf.tables.tally import Tally
from grlm_hf.tables.values import price as read_price

MAX_K = 500
MAX_BEAMS = 500
MAX_HISTORIES = 256
MAX_HISTORY = 1_000
MAX_IDS = 10_000
MAX_ITEMS = 1_000
MAX_PAGE = 1_000
MAX_ID = 256
MAX_TEXT = 10_000
MAX_TERM = 64
MAX_TERMS = 16

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
# fail_fast: each error takes a kilobyte, and a body can have a hundred thousand
History = Annotated[list[ItemId], Field(max_length=MAX_HISTORY, fail_fast=True)]
Term = Annotated[str, Field(min_length=1, max_length=MAX_TERM)]
_Terms = Annotated[list[Term], Field(min_length=1, max_length=MAX_TERMS, fail_fast=True)]


def _number(price: Any) -> Any:
    """The number of a price that is text, as `grlm import` reads it."""
    if not isinstance(price, str):
        return price
    tally = Tally()
    found = read_price("", price[: MAX_TERM + 1], tally)
    if found is None and tally.lines():  # a table leaves such a price empty and counts it; a request is refused
        problem = f"price {price[:40]!r} is not a number; write it like 12.99, or leave it out"
        raise PydanticCustomError("price", "{problem}", {"problem": problem})
    return found


Price = Annotated[
    Annotated[float, Field(ge=0, le=1e12)] | None,
    BeforeValidator(_number, Annotated[float, Field(ge=0, le=1e12)] | Annotated[str, Field(max_length=MAX_TERM)] | None),
]


class _Request(BaseModel):
    """Types are strict; unknown fields and NaN are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, data: Any) -> Any:
        """A few unknown fields are named in the answer; thousands are not."""
        if isinstance(data, dict) and len(data) > (most := len(cls.model_fields)) + 10:
            found = f"found {len(data):,} fields; expected at most {most}: {', '.join(cls.model_fields)}"
            raise PydanticCustomError(
                "fields", found
            )  # pydantic keeps a ValueError, its frames, and so the data, until the collector comes by
        return data


class RecommendRequest(_Request):
    history: History | None = Field(None, description="Item ids, oldest first; none for a new user.", examples=[["B0001", "B0042"]])
    histories: Annotated[list[History], Field(min_length=1, max_length=MAX_HISTORIES, fail_fast=True)] | None = Field(
        None, description="Histories of several users, instead of `history`.", examples=[None]
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Items wanted; by default 10, or all of a smaller catalog.")
    exclude_seen: bool | None = Field(None, description="Leave out the items of the history; by default as the service does.")
    allow: Annotated[list[ItemId], Field(max_length=MAX_IDS, fail_fast=True)] | None = Field(None, description="Only these.")
    exclude: Annotated[list[ItemId], Field(max_length=MAX_IDS, fail_fast=True)] = Field([], description="Never these.")
    banned_terms: Annotated[list[Term], Field(max_length=MAX_ITEMS, fail_fast=True)] = Field(
        [], description="No item whose Term ID has one of these."
    )
    domain: ItemId | None = Field(None, description="Only items of this domain.")
    prior: Literal["own", "none"] | None = Field(
        None, description="`own`: use the checkpoint's own prior; `none`: the language model alone. By default as the service does."
    )
    prior_weight: float = Field(1.0, ge=0, le=100)
    shared: Shared = Field("full", description="How items with the same Term ID share its probability.")
    unknown_items: Unknown = Field("error", description="`skip`: leave out ids that the catalog lacks, and list them in `skipped`.")
    length_penalty: float = Field(0.0, ge=0, le=10)
    num_beams: int | None = Field(None, ge=1, le=MAX_BEAMS, description="Beam width; by default the larger of 20 and k.")
    edge_wise: bool = Field(False, description="Fewer forward passes, slightly other beams.")
    decode: bool = Field(True, description="`false`: no search; one forward rates all items by their vectors.")
    exact: bool = Field(False, description="Find the true best k items and certify them.")
    deadline_ms: float | None = Field(
        None, gt=0, le=600_000,
        description="Time for waiting and searching together. After it, an exact search answers with the best items found so far. A search "
        "that is not exact or had not begun answers without items.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_of_both(self) -> RecommendRequest:
        if (self.history is None) == (self.histories is None):
            raise ValueError("give either history (one user) or histories (several)")
        return self

    def options(self) -> tuple[Rules, SearchOptions]:
        """The request as values, without `deadline_ms`, which limits every search here. Raises ``ValueError`` as they do."""
        return request_of(self.model_dump(exclude={"history", "histories", "k", "deadline_ms"}), None, None, "POST /recommend")


class Recommended(BaseModel):
    item_id: str
    title: str
    term_id: list[str]
    score: float = Field(
        description="What items are ranked by, in natural logs: `log_prob` and what the request adds to it (the prior, the share of an "
        "item in a Term ID that several have, the length penalty). Without any of them it is `log_prob`. It orders the items of one "
        "result; it is no probability, and not comparable between requests with other histories or options."
    )
    log_prob: float = Field(
        description="Natural log of the probability of the item's Term ID after the history, at most 0. By the objective of the "
        "checkpoint's training it is normalised over all legal Term IDs of the catalog (`trie`), or over all texts of the model "
        "(`vocabulary`; then the catalog's probabilities sum to less than 1). Rules of the request do not change it: excluded items keep "
        "their share. Items with one Term ID have the same value. Where `answered_by` is `popularity` it is the log of the item's share of "
        "the training events; where it is `counting`, of the calibrated probability of the item. Comparable between requests to the same "
        "checkpoint and catalog."
    )


class Result(BaseModel):
    items: list[Recommended] = Field(description="Best first.")
    certified: bool = Field(description="No other item ranks above any of them (only exact searches, and time enough).")
    answered_by: str = Field(
        description="`model`; `popularity` where nothing is known of the history; `counting` without a language model; `catalog` where "
        "such a recommender knows nothing of the history and has counted no events: the first items of the catalog, all alike."
    )
    skipped: list[str] = Field(description="Unknown ids of the request that were left out (`unknown_items`).")
    gap: float | None = Field(description="Upper bound on (score of the best missing item − score of the last item); null where unknown.")


class RecommendResponse(BaseModel):
    version: int = Field(description="Version of the catalog that all results were computed on.")
    late: bool = Field(description="The deadline came before the search was complete.")
    results: list[Result] = Field(description="One a history.")


class ItemFields(_Request):
    item_id: ItemId
    title: Annotated[str, Field(min_length=1, max_length=1_000)]
    brand: Annotated[str, Field(max_length=1_000)] = ""
    categories: Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=64, fail_fast=True)] = []
    description: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    price: Price = Field(None, description="A number, or text such as `$12.99`.")
    domain: Annotated[str, Field(max_length=MAX_ID)] = ""

    def item(self) -> Item:
        """The item, without markup, with white space collapsed."""
        texts = {name: clean_text(getattr(self, name)) for name in ("title", "brand", "description", "domain")}
        return Item(self.item_id, categories=tuple(filter(None, map(clean_text, self.categories))), price=self.price, **texts)


class AddRequest(_Request):
    items: Annotated[list[ItemFields], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    term_ids: Annotated[list[_Terms], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = Field(
        None, description="One an item; by default they are extracted from the items' texts."
    )

    @model_validator(mode="after")
    def _one_an_item(self) -> AddRequest:
        if self.term_ids is not None and len(self.term_ids) != len(self.items):
            raise ValueError(f"found {len(self.items)} items and {len(self.term_ids)} term_ids; expected one an item")
        return self


class RemoveRequest(_Request):
    item_ids: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]


class CatalogItem(BaseModel):
    item_id: str
    title: str
    brand: str
    categories: list[str]
    description: str
    price: float | None
    domain: str
    term_id: list[str]


class ItemsResponse(BaseModel):
    version: int
    total: int
    items: list[CatalogItem]


class ItemResponse(BaseModel):
    version: int
    item: CatalogItem


class CatalogResponse(BaseModel):
    version: int = Field(description="Rises with every change; a number never names two catalogs.")
    sha256: str = Field(description="Of the catalog's parquet file.")
    items: int
    term_ids: int = Field(description="Number of distinct Term IDs.")
    shared: int = Field(description="Number of Term IDs that several items have.")
    domains: list[str]
    rollback_to: list[int] = Field(description="Earlier versions that are kept, oldest first; a rollback takes the last.")


class AddResponse(CatalogResponse):
    added: dict[str, list[str]] = Field(description="The Term ID of each new item.")


class Health(BaseModel):
    live: bool
    ready: bool
    version: int


class Problem(BaseModel):
    detail: str
